"""The layers: imports run one way, few modules know Twisted, every module opens with what it is for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import smtphooks

PACKAGE = Path(smtphooks.__file__).parent
MODULES = {path.stem: path for path in sorted(PACKAGE.glob("*.py"))}

# From the bottom up: a module imports from layers below its own, never from its own or from above.
LAYERS = [
    {"_version", "awaiting", "header", "replies", "sharing", "toml", "wire", "netaddress"},
    {"clients", "consumer", "coroutines", "counts", "grammar", "session", "steps", "scram", "xclient"},
    {"sasl"},
    {"extensions"},
    {"options"},
    {"transaction"},
    {"authentication"},
    {"proxied"},
    {"commands"},
    {"dialogue"},
    {"hooks", "stream", "cred", "credentials", "handshake"},
    {"tls", "proxy", "lookup", "direct", "calling", "wrapped"},
    {"delivery", "maildir", "runner", "writer", "arrival", "journal", "patience", "transcript"},
    {"receiver", "exchange"},
    {"flow"},
    {"protocol"},
    {"factory"},
    {"service", "settings"},
    {"checkers", "loading", "supervision"},
    {"config"},
    {"tap"},
    {"__init__"},
]

WITH_TWISTED = {"protocol", "delivery", "factory", "stream", "hooks", "maildir", "config", "tap"}
# Twisted's half of TLS and of its own credentials: below the protocol, beside the core.
WITH_TWISTED |= {"arrival", "exchange", "journal", "receiver", "runner", "writer", "lookup", "proxy", "calling"}
WITH_TWISTED |= {"awaiting", "consumer", "direct", "wrapped", "tls", "handshake", "credentials", "cred", "checkers"}
WITH_TWISTED |= {"supervision", "service", "transcript", "sharing", "coroutines"}


def layerOf(module: str) -> int:
    for number, layer in enumerate(LAYERS):
        if module in layer:
            return number
    raise AssertionError(f"{module} stands in no layer")


def importsOf(path: Path) -> set[str]:
    """
    The modules that a module needs to run, in dotted form; those under C{if TYPE_CHECKING} only name types.
    """
    tree = ast.parse(path.read_text())
    names = set()
    typing = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    ignored = {child for node in typing for statement in node.body for child in ast.walk(statement)}
    for node in ast.walk(tree):
        if node in ignored:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            # "from smtphooks import replies" imports smtphooks.replies; the package itself publishes nothing downwards.
            isPackage = node.module == "smtphooks"
            names |= {f"smtphooks.{alias.name}" for alias in node.names} if isPackage else {str(node.module)}
    return names


def importsOfOurs(path: Path) -> set[str]:
    return {name.split(".")[1] for name in importsOf(path) if name.startswith("smtphooks.")}


def test_everyModuleHasItsLayerAndOnlyOne() -> None:
    known = [module for layer in LAYERS for module in layer]
    assert len(known) == len(set(known))
    assert set(MODULES) <= set(known)


@pytest.mark.parametrize("module", MODULES)
def test_moduleImportsOnlyFromLayersBelow(module: str) -> None:
    for imported in importsOfOurs(MODULES[module]):
        assert layerOf(imported) < layerOf(module), f"{module} imports {imported}"


@pytest.mark.parametrize("module", sorted(set(MODULES) - WITH_TWISTED))
def test_moduleOfTheCoreKnowsNoTwisted(module: str) -> None:
    roots = {name.split(".")[0] for name in importsOf(MODULES[module])}
    assert not roots & {"twisted", "OpenSSL", "socketserver", "asyncio"}


@pytest.mark.parametrize(
    "source, imports",
    [
        ("import os.path", {"os.path"}),
        ("from smtphooks import replies, session", {"smtphooks.replies", "smtphooks.session"}),
        ("from smtphooks.steps import Ask", {"smtphooks.steps"}),
        ("def f():\n    import twisted.mail", {"twisted.mail"}),
        ("if TYPE_CHECKING:\n    from smtphooks.dialogue import Dialogue", set()),
    ],
)
def test_importsAreFoundWhereverTheyStand(tmp_path: Path, source: str, imports: set[str]) -> None:
    module = tmp_path / "module.py"
    module.write_text(source)
    assert importsOf(module) == imports


@pytest.mark.parametrize("module", MODULES)
def test_moduleOpensWithADocstringThatSaysWhatItIsFor(module: str) -> None:
    docstring = ast.get_docstring(ast.parse(MODULES[module].read_text()))
    assert docstring is not None
    if not module.startswith("_"):
        assert len(docstring.splitlines()) >= 3


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"__init__"}))
def test_packageIsNotImportedByItsModules(module: str) -> None:
    assert "smtphooks" not in importsOf(MODULES[module])


def test_publicNamesArePinned() -> None:
    assert set(smtphooks.__all__) == {
        "Address",
        "Auth",
        "AuthResponse",
        "ConsumerStopped",
        "Envelope",
        "Extension",
        "Hooks",
        "ISMTPHooks",
        "MessageStream",
        "OptionError",
        "Options",
        "SMTPError",
        "SMTPServerFactory",
        "SMTPServerProtocol",
        "SMTPService",
        "Session",
        "TLSInfo",
        "__version__",
        "asyncioHook",
    }
    assert len(smtphooks.__all__) == len(set(smtphooks.__all__))
    for name in smtphooks.__all__:
        assert getattr(smtphooks, name) is not None
