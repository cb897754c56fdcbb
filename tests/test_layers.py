"""Layers: imports run one way between the folders, without a circle, and every module says what it is for."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import smtphooks

PACKAGE = Path(smtphooks.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}
FOLDERS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))

# What each folder may import besides itself and the values at the root.
VALUES = "values"
MAY_IMPORT = {
    VALUES: set(),
    "syntax": set(),
    "sasl": set(),
    "hooks": {"syntax", "sasl"},
    "options": {"syntax", "sasl", "hooks"},
    "dialogue": {"syntax", "sasl", "options"},
    "admission": {"syntax", "sasl", "options"},
    "tls": {"syntax", "sasl", "options"},
    "connection": {"syntax", "sasl", "hooks", "options", "dialogue", "admission", "tls"},
    "server": {"syntax", "sasl", "hooks", "options", "dialogue", "admission", "tls", "connection"},
    "client": {"syntax", "options", "tls"},
    "stores": {"hooks", "options", "client"},
    "layers": {"hooks", "options", "syntax", "client"},
    "metrics": {"hooks", "options", "server"},
    "testing": {"hooks", "options", "tls", "server", "client"},
    "service": {
        *("syntax", "sasl", "hooks", "options", "dialogue", "admission", "tls", "connection", "server", "metrics"),
    },
    "reactor": set(),
    "command": {"service", "reactor", "client"},
}
# The modules at the root that belong to another layer than the values.
ROOT = {
    "hooks": "hooks",
    "hooktypes": "hooks",
    "options": "options",
    "optionkinds": "options",
    "optiontypes": "options",
    "layer": "options",
    "composition": "server",
    "protocol": "server",
    "factory": "server",
    "reactor": "reactor",
    "__main__": "command",
}

# Octets and text in, values out: these run without a reactor, and without Twisted.
WITHOUT_TWISTED = ("syntax", "dialogue")
CLIENT_CORE = ("content", "conversation", "errors", "mechanisms", "opening", "parameters", "reply", "route", "timeouts")
REACTOR_SIDE = {"twisted", "OpenSSL", "asyncio", "socket", "socketserver", "select"}


def layerOf(module: str) -> str:
    folder, dot, _ = module.partition(".")
    return folder if dot else ROOT.get(module, VALUES)


CORE = [module for module in MODULES if layerOf(module) in WITHOUT_TWISTED]
CORE += [f"client.{name}" for name in CLIENT_CORE]


def importsOf(path: Path) -> set[str]:
    """The dotted names of all that a module imports, wherever the import stands, also under C{TYPE_CHECKING}."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            source = str(node.module)
            # "from smtphooks.syntax import wire" imports smtphooks.syntax.wire.
            names |= {
                f"{source}.{alias.name}" if f"{source}.{alias.name}".removeprefix("smtphooks.") in MODULES else source
                for alias in node.names
            }
    return names


def importsOfOurs(path: Path) -> set[str]:
    return {name.removeprefix("smtphooks.") for name in importsOf(path) if name.startswith("smtphooks.")}


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way_between_layers(module: str) -> None:
    layer = layerOf(module)
    for imported in importsOfOurs(MODULES[module]):
        assert imported in MODULES, f"{module} imports {imported}, which is not a module"
        assert layerOf(imported) in MAY_IMPORT[layer] | {layer, VALUES}, f"{module} imports {imported}"


def test_imports_have_no_circle_even_for_types() -> None:
    order = TopologicalSorter({module: importsOfOurs(path) for module, path in MODULES.items()})
    assert set(order.static_order()) == set(MODULES)


def test_every_folder_has_a_rule() -> None:
    assert set(FOLDERS) | set(ROOT.values()) | {VALUES} == set(MAY_IMPORT)


@pytest.mark.parametrize("module", CORE)
def test_the_core_imports_no_twisted(module: str) -> None:
    assert not {name.split(".")[0] for name in importsOf(MODULES[module])} & REACTOR_SIDE


@pytest.mark.parametrize("module", CORE)
def test_the_core_imports_no_twisted_indirectly(module: str) -> None:
    seen, pending = {module}, [module]
    while pending:
        imported = pending.pop()
        assert not {name.split(".")[0] for name in importsOf(MODULES[imported])} & {"twisted", "OpenSSL", "asyncio"}
        pending += importsOfOurs(MODULES[imported]) - seen
        seen |= importsOfOurs(MODULES[imported])


@pytest.mark.parametrize(
    "source, imports",
    [
        ("import os.path", {"os.path"}),
        ("from smtphooks import replies, session", {"smtphooks.replies", "smtphooks.session"}),
        ("from smtphooks.dialogue import steps", {"smtphooks.dialogue.steps"}),
        ("from smtphooks.dialogue.steps import Ask", {"smtphooks.dialogue.steps"}),
        ("def f():\n    import twisted.mail", {"twisted.mail"}),
        ("if TYPE_CHECKING:\n    from smtphooks.factory import SMTPServerFactory", {"smtphooks.factory"}),
    ],
)
def test_imports_are_found_wherever_they_stand(tmp_path: Path, source: str, imports: set[str]) -> None:
    module = tmp_path / "module.py"
    module.write_text(source)
    assert importsOf(module) == imports


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_opens_with_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring is not None
    if path.name != "_version.py":
        assert len(docstring.splitlines()) >= 3


@pytest.mark.parametrize("module", MODULES)
def test_the_package_itself_is_not_imported_by_its_modules(module: str) -> None:
    assert "smtphooks" not in importsOf(MODULES[module])


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_has_at_most_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_the_folders_of_the_tests_mirror_those_of_the_modules() -> None:
    tests = Path(__file__).parent
    for folder in FOLDERS:
        for test in (tests / folder).rglob("test_*.py"):
            module = ".".join([*test.parent.relative_to(tests).parts, test.stem.removeprefix("test_")])
            assert module in MODULES, f"{test} tests no module of that name"


def test_public_names_are_pinned() -> None:
    assert set(smtphooks.__all__) == {
        "Address",
        "Auth",
        "AuthResponse",
        "ConsumerStopped",
        "Envelope",
        "Extension",
        "Hooks",
        "ISMTPHooks",
        "Layer",
        "MessageStream",
        "OptionError",
        "Options",
        "SMTPError",
        "SMTPServerFactory",
        "SMTPServerProtocol",
        "SMTPService",
        "Session",
        "Spool",
        "TLSInfo",
        "Unavailable",
        "__version__",
        "asyncioHook",
    }
    assert len(smtphooks.__all__) == len(set(smtphooks.__all__))
    for name in smtphooks.__all__:
        assert getattr(smtphooks, name) is not None
