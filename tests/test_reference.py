"""docs/reference.rst: what it says of hooks, options, objects, flags and the log is true, and its code runs."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import re
import runpy
import sqlite3
import subprocess
import sys
import textwrap
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from docutils import nodes
from docutils.core import publish_doctree
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.logger import capturedLogs

import smtphooks
from smtphooks import (
    Address,
    Envelope,
    Extension,
    ISMTPHooks,
    MessageStream,
    Session,
    SMTPError,
    SMTPServerFactory,
    Spool,
)
from smtphooks.__main__ import Options as CommandFlags
from smtphooks.hooks import FURTHER, HOOK_NAMES, HOOKS
from smtphooks.options import Options
from smtphooks.sasl.auth import Auth
from smtphooks.sasl.scram import ScramCredentials
from smtphooks.service.jsonlog import lineOfJSON
from smtphooks.service.tap import Options as Flags
from smtphooks.syntax.xclient import xClientKeywords, xForwardKeywords
from tests.certificates import Authority
from tests.support import ENVELOPE, Client, Transport
from tests.test_readme import BLOCK, ROOT, deliver, freePort, running, tomllib

REFERENCE = ROOT / "docs" / "reference.rst"
BLOCKS = [(kind, name, textwrap.dedent(text)) for kind, name, text in BLOCK.findall(REFERENCE.read_text())]
FILES = {name: text for _, name, text in BLOCKS if name}


def parse(path: Path) -> tuple[nodes.document, str]:
    """A document, and the complaints of docutils about it."""
    complaints = io.StringIO()
    settings = {"warning_stream": complaints, "report_level": 1, "syntax_highlight": "none"}
    return publish_doctree(path.read_text(), str(path), settings_overrides=settings), complaints.getvalue()


DOCUMENT, _ = parse(REFERENCE)
SECTIONS = {section[0].astext(): section for section in DOCUMENT.findall(nodes.section)}
LITERALS = [literal.astext() for literal in DOCUMENT.findall(nodes.literal)]


def rowsOf(node: nodes.Element, header: str) -> Iterator[list[nodes.entry]]:
    """The rows of all tables below the node whose first column has this header."""
    for table in node.findall(nodes.table):
        head, body = table.next_node(nodes.thead), table.next_node(nodes.tbody)
        if head is not None and head.next_node(nodes.entry).astext() == header:
            yield from ([*row] for row in body)


def literalsIn(node: nodes.Element) -> list[str]:
    return [literal.astext() for literal in node.findall(nodes.literal)]


@pytest.mark.parametrize("name", ["README.rst", "docs/reference.rst"])
def test_docutils_has_no_complaints(name: str) -> None:
    _, complaints = parse(ROOT / name)
    assert complaints == ""


# --- Options ---

DOCUMENTED = {entries[0].astext(): entries[1].astext() for entries in rowsOf(SECTIONS["Options"], "Option")}
FIELDS = attrs.fields_dict(Options)


def test_exactly_the_options_are_documented_in_order() -> None:
    assert list(DOCUMENTED) == list(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_default_is_the_documented_one(name: str) -> None:
    if name == "name":  # its default depends on the machine
        assert DOCUMENTED[name] == "this host's name"
        return
    default = getattr(Options(name="localhost"), name)
    shown = list(default) if isinstance(default, tuple) else default
    assert repr(ast.literal_eval(DOCUMENTED[name])) == repr(shown)


def optionsRead() -> set[str]:
    """Attributes that the package reads of anything named "…options", outside of the module that declares them."""
    read = set()
    for path in (ROOT / "smtphooks").rglob("*.py"):
        if path.name != "options.py":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and re.search(r"options$", ast.unparse(node.value), re.IGNORECASE):
                    read.add(node.attr)
    return read


@pytest.mark.parametrize("name", FIELDS)
def test_every_option_is_read(name: str) -> None:
    assert name in optionsRead()


# --- Hooks ---


def test_interface_has_all_hooks() -> None:
    assert sorted(ISMTPHooks.names()) == sorted([*HOOK_NAMES, *FURTHER])


def test_each_hook_has_a_section_with_its_arguments() -> None:
    titles = [section[0].astext() for section in SECTIONS["Hooks"] if isinstance(section, nodes.section)]
    assert titles == [name + ISMTPHooks[name].getSignatureString() for name in [*HOOK_NAMES, *FURTHER]]


@pytest.mark.parametrize("name", HOOK_NAMES)
def test_section_of_a_hook_has_its_fields_and_the_true_code(name: str) -> None:
    section = SECTIONS[name + ISMTPHooks[name].getSignatureString()]
    fields = {field[0].astext(): field[1] for field in section.findall(nodes.field)}
    assert list(fields) == ["Called", "Result", "Refusal"]
    situation = HOOKS[name].situation
    if situation is None:
        assert fields["Refusal"].astext().startswith("none")
    else:
        assert literalsIn(fields["Refusal"])[0] == str(situation.code)
    assert fields["Result"].astext().startswith("ignored") is not HOOKS[name].isResultUsed


# --- Objects and flags ---


@pytest.mark.parametrize("name", smtphooks.__all__)
def test_exported_name_is_mentioned(name: str) -> None:
    assert any(re.match(rf"{name}\b", literal) for literal in LITERALS)


@pytest.mark.parametrize("kind", [Session, Envelope, Address, MessageStream, Spool])
def test_documented_attributes_are_there(kind: type) -> None:
    documented = {entries[0].astext().removesuffix("()") for entries in rowsOf(SECTIONS[kind.__name__], "Attribute")}
    assert documented
    assert documented <= {*dir(kind), *(attrs.fields_dict(kind) if attrs.has(kind) else ())}


def test_attributes_of_the_session_are_all_documented() -> None:
    documented = {entries[0].astext() for entries in rowsOf(SECTIONS["Session"], "Attribute")}
    assert {name for name in attrs.fields_dict(Session) if not name.startswith("_")} <= documented


@pytest.mark.parametrize("keywords", [xClientKeywords, xForwardKeywords])
def test_section_on_proxies_names_the_attributes_in_their_order(keywords: str) -> None:
    literals = " ".join(literalsIn(SECTIONS["Behind a proxy"]))
    assert keywords in literals


def test_documented_attributes_of_the_factory_are_there() -> None:
    factory = SMTPServerFactory()
    for entries in rowsOf(SECTIONS["The factory"], "Attribute"):
        assert hasattr(factory, entries[0].astext())


@pytest.mark.parametrize("name", re.findall(r"factory\.(\w+)\(", REFERENCE.read_text()))
def test_documented_methods_of_the_factory_are_there(name: str) -> None:
    assert callable(getattr(SMTPServerFactory, name))


def test_all_arguments_of_an_extension_are_documented() -> None:
    documented = [entries[0].astext() for entries in rowsOf(SECTIONS["Extension"], "Argument")]
    assert documented == [field.name for field in attrs.fields(Extension)]


def test_all_flags_are_documented() -> None:
    rows = rowsOf(SECTIONS["The command"], "Flag")
    documented = {literal.split()[0].removeprefix("--") for entries in rows for literal in literalsIn(entries[0])}
    twistedOnes = {"version", "help-auth", "help-auth-type"}
    assert documented == {name for name in Flags().synonyms if len(name) > 1} - twistedOnes


def test_all_flags_of_the_process_are_documented_with_their_letters() -> None:
    documented = set()
    for entries in rowsOf(SECTIONS["The command"], "Flag of the process"):
        documented |= {name.lstrip("-") for name in re.findall(r"--?[\w-]+", entries[0].astext())}
    assert documented == {*CommandFlags().synonyms} - {*Flags().synonyms} | {"version"}


# --- The log ---


def test_all_fields_of_events_are_documented() -> None:
    options = {"authOptional": True, "maxRecipients": 1, "allowInsecureAuth": True, "debugPeers": True}
    client = clientOf(SMTPServerFactory(onAuth=lambda auth, session: auth.username, **options))
    with capturedLogs() as events:
        client.say(*ENVELOPE, "RCPT TO:<other@mx.test>", "DATA", ".", plain("ann", "correct horse"))
        client.lose()
    kinds = {"by": "refusal", "recipientCount": "message", "commands": "connection", "method": "AUTH"}
    kinds["side"] = "dialogue"
    seen = set()
    for event in events:
        [kind] = {kinds[name] for name in kinds if name in event}
        documented = [entries[0].astext() for entries in rowsOf(SECTIONS["What is logged"], f"Field of a {kind}")]
        documented += [entries[0].astext() for entries in rowsOf(SECTIONS["What is logged"], f"Field of an {kind}")]
        assert documented == [name for name in event if not name.startswith("log_")]
        seen.add(kind)
    assert seen == {*kinds.values()}


def test_all_fields_of_a_line_are_documented() -> None:
    documented = [entries[0].astext() for entries in rowsOf(SECTIONS["What is logged"], "Field of a line")]
    assert documented == list(json.loads(lineOfJSON({"log_format": "x", "log_time": 0.0})))


# --- Code ---


def test_every_block_is_known_to_this_file() -> None:
    assert [(kind, name) for kind, name, _ in BLOCKS if kind != "console"] == [
        ("python", "three_ways.py"),
        ("python", "blocking.py"),
        ("python", "asyncio_hooks.py"),
        ("python", "authentication.py"),
        ("python", "greylisting.py"),
        ("python", "four_ways.py"),
        ("python", "spooled.py"),
        ("python", "scram_credentials.py"),
        ("python", "extension.py"),
        ("python", "portal.py"),
        ("toml", "service.toml"),
        ("toml", "two_hooks.toml"),
        ("toml", "secure.toml"),
        ("python", "ourdomains.py"),
        ("toml", "layers.toml"),
        ("toml", "tee.toml"),
        ("python", "mail.tac"),
        ("python", "embedding.py"),
        ("python", "lean.py"),
    ]
    literal = {node.astext() for node in DOCUMENT.findall(nodes.literal_block)}
    assert literal == {text.strip() for _, _, text in BLOCKS}


@pytest.mark.parametrize("text", [text for kind, _, text in BLOCKS if kind == "python"])
def test_python_compiles(text: str) -> None:
    compile(text, str(REFERENCE), "exec")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def clientOf(factory: SMTPServerFactory, address: str = "192.0.2.7") -> Client:
    factory.clock = Clock()  # type: ignore[assignment]
    client = Client(factory, Transport(peerAddress=IPv4Address("TCP", address, 50000)))
    client.replies()
    return client


def run(name: str) -> Any:
    """The names that a block of code defines."""
    return SimpleNamespace(**runpy.run_path(name))


def test_three_ways(folder: Path) -> None:
    client = clientOf(run("three_ways.py").factory)
    said = client.say("EHLO client.test", "MAIL FROM:<ann@client.test>", "RCPT TO:<joe@elsewhere.test>")
    assert said[-2:] == [
        "250 2.1.0 Hello ann@client.test",
        "550 5.1.1 We take no mail for that domain",
    ]
    assert client.last("RCPT TO:<joe@example.org>", "DATA", "text", ".") == "250 2.0.0 Took 6 octets"


def test_greylisting(folder: Path) -> None:
    block = run("greylisting.py")
    client = clientOf(block.factory)
    assert client.last(*ENVELOPE) == "450 4.7.1 Greylisted, try again in a minute"
    (triplet,) = block.FIRST_SEEN
    block.FIRST_SEEN[triplet] -= 61
    assert client.last(ENVELOPE[-1]).startswith("250 ")


@ensureDeferred
async def test_blocking(folder: Path) -> None:
    with sqlite3.connect("users.db") as database:
        database.execute("CREATE TABLE users (address)")
        database.execute("INSERT INTO users VALUES ('user@mx.test')")
    onRcptTo = run("blocking.py").onRcptTo
    await onRcptTo(Address("user@mx.test"), None)
    with pytest.raises(SMTPError, match="No such user"):
        await onRcptTo(Address("other@mx.test"), None)


@pytest.mark.parametrize(
    ("hook", "reply"),
    [
        ("countLines", "250 2.0.0 2 lines"),
        ("measure", "250 2.0.0 9 octets"),
        ("store", "250 2.0.0 Stored 9 octets"),
        ("post", "250 2.0.0 Archived"),
    ],
)
def test_four_ways(folder: Path, monkeypatch: pytest.MonkeyPatch, hook: str, reply: str) -> None:
    posted: list[bytes] = []

    class Consumer:
        write = posted.append

    def post(url: str, data: MessageStream) -> Deferred[Any]:
        return data.startProducing(Consumer()).addCallback(lambda _: SimpleNamespace(code=201))

    monkeypatch.setattr("treq.post", post)
    client = clientOf(SMTPServerFactory(authOptional=True, onData=getattr(run("four_ways.py"), hook)))
    client.say(*ENVELOPE, "DATA")
    assert client.last("one", "..x", ".") == reply
    if hook == "store":
        assert (folder / f"{client.session.id}.1").read_bytes() == b"one\r\n.x\r\n"
    assert b"".join(posted) == (b"one\r\n.x\r\n" if hook == "post" else b"")


@ensureDeferred
async def test_spooled(folder: Path) -> None:
    block = run("spooled.py")
    factory = SMTPServerFactory(authOptional=True, onData=block.onData)
    block.BLOCKED.add(hashlib.sha256(b"known\r\n").hexdigest())
    client = clientOf(factory)
    client.say(*ENVELOPE, "DATA")
    assert client.last("known", ".") == "550 5.7.1 We know this message"
    client.say(*ENVELOPE[1:], "DATA")
    client.say("new", ".")
    while not (replies := client.replies()):
        await deferLater(reactor, 0)  # the Maildir writes in a thread
    assert replies[0].startswith("250 2.0.0 Stored as ")
    (file,) = (folder / "maildir" / "new").iterdir()
    assert file.read_bytes().endswith(b"\n\nnew\n")


def test_extension(folder: Path) -> None:
    factory = run("extension.py").factory
    client = clientOf(factory)
    capabilities = client.say("EHLO client.test")
    assert "250-MT-PRIORITY" in capabilities
    assert capabilities[-1] == "250 XQUEUE LENGTH"
    mail = "MAIL FROM:<ann@client.test> MT-PRIORITY={}"
    assert client.last(mail.format("10")) == "501 5.5.4 MT-PRIORITY is a number from -9 to 9"
    assert client.last(mail.format("-4"), ENVELOPE[-1], "DATA", ".").startswith("250 ")
    assert client.last("XQUEUE -4") == "250 2.0.0 1 messages wait"
    stranger = clientOf(factory, "198.51.100.1")
    assert stranger.say("EHLO client.test")[-1] == "250 MT-PRIORITY"
    assert stranger.last("XQUEUE -4") == "500 5.5.2 Command not recognized"


def plain(username: str, password: str) -> str:
    return f"AUTH PLAIN {b64encode(f'{chr(0)}{username}{chr(0)}{password}'.encode()).decode()}"


def secureClientOf(factory: SMTPServerFactory) -> Client:
    """A client whose session says that it is over TLS."""
    client = clientOf(factory)
    client.session.secure = True
    client.say("EHLO client.test")
    return client


def test_authentication(folder: Path) -> None:
    block = run("authentication.py")
    client = secureClientOf(block.factory)
    assert client.last(plain("ann", "correct horse")).startswith("235 ")
    assert client.session.user == "ann"
    for username, password in [("ann", "wrong"), ("joe", "correct horse")]:
        attempt = Auth(method="PLAIN", username=username, password=password)
        assert not Deferred.fromCoroutine(block.onAuth(attempt, None)).result.user


def test_scram_credentials(folder: Path) -> None:
    pytest.importorskip("scramp")
    block = run("scram_credentials.py")
    attempt = Auth(method="SCRAM-SHA-256", username="ann")
    response = block.onAuth(attempt, None)
    assert response.user == "ann"
    assert ScramCredentials(*response.data).iterations >= 4096
    assert block.onAuth(attrs.evolve(attempt, username="joe"), None) is None


def test_portal(folder: Path) -> None:
    (folder / "passwd").write_text("ann:correct horse\n")
    client = secureClientOf(run("portal.py").factory)
    assert client.last(plain("ann", "correct horse")).startswith("235 ")
    assert client.session.user == "ann"


@pytest.mark.parametrize("name", ["asyncio_hooks.py", "embedding.py", "lean.py"])
def test_programs(folder: Path, name: str) -> None:
    port = freePort()
    text = FILES[name].replace("tcp:2525", f"tcp:{port}:interface=127.0.0.1")
    # The program itself logs nothing, so a line that says that it listens is added.
    text = text.replace("reactor.run()", 'reactor.callWhenRunning(print, "listening on", flush=True)\nreactor.run()')
    (folder / name).write_text(text)
    with running([sys.executable, name], folder, port) as client:
        client.ehlo("client.test")
        code, said = client.mail("ann@client.test")
        assert code == 250
        if name == "asyncio_hooks.py":
            assert said == b"2.1.0 Hello ann@client.test"
            assert client.rcpt("joe@elsewhere.test")[0] == 550
        client.rset()
        assert deliver(client, "joe@example.org")[0] == 250
    if name != "asyncio_hooks.py":
        assert len([*(folder / "mail" / "new").iterdir()]) == 1


@pytest.mark.parametrize("name", ["service.toml", "two_hooks.toml", "secure.toml", "layers.toml", "tee.toml"])
def test_configurations(folder: Path, name: str) -> None:
    text = FILES[name].replace("/etc/smtphooks", str(folder))
    (folder / name).write_text(text)
    (folder / "passwd").write_text("ann:correct horse\n")
    for prefix in ("", "net-"):
        pair = Authority().server("mx.test")
        (folder / f"{prefix}key.pem").write_text(pair.key)
        (folder / f"{prefix}cert.pem").write_text(pair.cert)
    check = subprocess.run(
        [sys.executable, "-m", "smtphooks", "--config", name, "--check"],
        cwd=folder,
        text=True,
        capture_output=True,
    )
    assert check.returncode == 0, check.stderr
    endpoints = [listener["endpoint"] for listener in tomllib.loads(check.stdout)["listener"]]
    assert endpoints == [listener["endpoint"] for listener in tomllib.loads(text)["listener"]]
    if name == "layers.toml":
        comments = [line for line in check.stdout.splitlines() if line.startswith("#")]
        shown = next(block for _, _, block in BLOCKS if "--config layers.toml --check" in block)
        assert shown.strip().splitlines()[1:-1] == comments
