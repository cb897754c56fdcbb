"""docs/hooks.rst and docs/hooks: each hook has a page, which is true, and whose dialogues are what the server says."""

from __future__ import annotations

import smtplib
import socket
import sqlite3
import ssl
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from docutils import nodes
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from smtphooks import Address, ISMTPHooks, SMTPError, SMTPServerFactory
from smtphooks.hooks import FURTHER, HOOK_NAMES, HOOKS
from smtphooks.sasl.auth import Auth
from tests.docs.clients import clientOf, plain, secureClientOf
from tests.docs.transcripts import converse
from tests.pages import DOCS, blocksOf, define, literalsIn, parse, write
from tests.support import ENVELOPE
from tests.test_readme import freePort, running

NAMES = [*HOOK_NAMES, *FURTHER]
FAULT = "451 4.3.0 Temporary server error, please try again later"


def pageOf(name: str) -> str:
    return f"hooks/{name}.rst"


# --- What the pages say ---


def test_interface_has_all_hooks() -> None:
    assert sorted(ISMTPHooks.names()) == sorted(NAMES)


def test_each_hook_has_a_page_in_the_order_of_a_connection() -> None:
    assert sorted(path.stem for path in DOCS.glob("hooks/*.rst")) == sorted(NAMES)
    lines = (DOCS / "hooks.rst").read_text().splitlines()
    assert [line.strip() for line in lines if line.startswith("   hooks/")] == [f"hooks/{name}" for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_page_has_the_arguments_of_its_hook_and_all_fields(name: str) -> None:
    title = parse(DOCS / pageOf(name))[0].next_node(nodes.title)
    assert title is not None and title.astext() == name + ISMTPHooks[name].getSignatureString()
    assert list(fieldsOf(name)) == ["Called", "Arguments", "Result", "Refusal", "Faults"]
    arguments = HOOKS[name].arguments if name in HOOKS else FURTHER[name]
    assert set(arguments) <= set(literalsIn(fieldsOf(name)["Arguments"]))


@pytest.mark.parametrize("name", HOOK_NAMES)
def test_page_of_a_hook_says_the_true_code(name: str) -> None:
    fields = fieldsOf(name)
    situation = HOOKS[name].situation
    if situation is None:
        assert fields["Refusal"].astext().startswith("none")
    else:
        assert literalsIn(fields["Refusal"])[0] == str(situation.code)
    assert fields["Result"].astext().startswith("ignored") is not HOOKS[name].isResultUsed


@pytest.mark.parametrize("name", ["onConnect", "onSecure"])
def test_refused_connection_keeps_the_code_of_the_refusal(name: str) -> None:
    assert "unless the refusal has a code of its own" in fieldsOf(name)["Refusal"].astext().replace("\n", " ")
    situation = HOOKS[name].situation
    assert situation is not None and situation.closes
    assert SMTPError("Later", 421).asReply(situation).code == 421


def fieldsOf(name: str) -> dict[str, Any]:
    return {field[0].astext(): field[1] for field in parse(DOCS / pageOf(name))[0].findall(nodes.field)}


# --- The dialogues that they show ---

# Each dialogue, with the module that it is held against.
DIALOGUES = [
    (name, block.name or "")
    for name in NAMES
    for block in blocksOf(pageOf(name), "text")
    if block.name and block.name.endswith(".txt")
]


def moduleOf(dialogue: str) -> str:
    stem = dialogue.removesuffix(".txt").partition("-")[0]
    return "authentication.py" if stem == "onAuth" else f"{stem}.py"


@pytest.mark.parametrize(("hook", "dialogue"), DIALOGUES, ids=[dialogue for _, dialogue in DIALOGUES])
def test_dialogue_is_what_the_server_says(folder: Path, hook: str, dialogue: str) -> None:
    factory: SMTPServerFactory = define(pageOf(hook), moduleOf(dialogue), folder).factory
    shown = (folder / dialogue).read_text().splitlines()
    assert converse(factory, shown) == shown


@pytest.mark.parametrize("hook", [name for name in HOOK_NAMES if HOOKS[name].situation and name != "onSecure"])
def test_page_shows_acceptance_refusal_and_fault(hook: str) -> None:
    lines = [line for _, block in DIALOGUES if _ == hook for line in textOf(hook, block).splitlines()]
    replies = [line for line in lines if line.startswith("S: ")]
    assert f"S: {FAULT}" in replies
    assert any(line[3] in "45" and FAULT not in line for line in replies)
    assert any(line[3] == "2" for line in replies)


def textOf(hook: str, name: str) -> str:
    return next(block.text for block in blocksOf(pageOf(hook), "text") if block.name == name)


def talk(hook: str, folder: Path, number: int = 1) -> Any:
    """Hold the dialogue of a page with a factory of its own; what the module defines is there afterwards."""
    module = define(pageOf(hook), f"{hook}.py", folder)
    converse(module.factory, (folder / f"{hook}-{number}.txt").read_text().splitlines())
    return module


# --- What else they say of their examples ---


@pytest.mark.parametrize(
    ("name", "version", "reply"),
    [
        ("mx.example.org", ssl.TLSVersion.TLSv1_3, None),
        ("mx.example.org", ssl.TLSVersion.TLSv1_2, (554, b"5.7.5 TLS 1.3 is needed here")),
        ("other.example.org", ssl.TLSVersion.TLSv1_3, (451, FAULT.removeprefix("451 ").encode())),
    ],
)
def test_onSecure_decides_after_the_handshake(folder: Path, name: str, version: Any, reply: Any) -> None:
    port = freePort()
    write(pageOf("onSecure"), folder)
    program = folder / "onSecure.py"
    text = program.read_text().replace("tcp:2525", f"tcp:{port}:interface=127.0.0.1")
    starting = 'reactor.callWhenRunning(print, "listening on", flush=True)'
    program.write_text(text.replace("reactor.run()", f"{starting}\nreactor.run()"))
    isFault = reply is not None and reply[0] == 451
    said: list[Any] = []
    # A fault is in the log with its traceback, which running() does not allow elsewhere.
    logged = pytest.raises(AssertionError, match="Traceback") if isFault else nullcontext()
    with logged, running([sys.executable, "onSecure.py"], folder, port) as client:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        client._host = name  # type: ignore[attr-defined]
        client.starttls(context=context)
        if reply is None:
            said = [None, client.ehlo("client.example.net")[0]]
        else:
            said = [client.getreply(), endOf(client)]
    assert said == [reply, 250 if reply is None else "closed"]


def endOf(client: smtplib.SMTP) -> str:
    try:
        return str(client.noop())
    except smtplib.SMTPServerDisconnected:
        return "closed"


def test_onReset_counts_what_was_given_up_once(folder: Path) -> None:
    assert talk("onReset", folder).GIVEN_UP == {"example.net": 1}


def test_onClose_frees_what_was_opened_and_its_fault_is_logged(folder: Path) -> None:
    module = talk("onClose", folder)
    assert module.OPEN == {}
    with capturedLogs() as events:
        talked = converse(module.factory, ["C: HELO impatient.example.net", "C: QUIT"])
    assert talked[-1].startswith("S: 221 ")
    assert [event["log_failure"].type for event in events if "log_failure" in event] == [KeyError]


def test_onError_counts_faults_of_hooks_and_of_clients(folder: Path) -> None:
    assert talk("onError", folder, 1).FAULTS == {"KeyError": 1}
    with capturedLogs() as events:
        module = talk("onError", folder, 2)
    assert module.FAULTS == {"SMTPError": 1}
    assert [event["log_failure"].type for event in events if "log_failure" in event] == [KeyError]


def test_onReply_counts_all_replies(folder: Path) -> None:
    assert talk("onReply", folder).COUNTS == {("", 220): 1, ("HELO", 250): 1, ("NOOP", 250): 1, ("", 500): 1}


@pytest.mark.parametrize(("hook", "text"), [("inspectData", b"Hello"), ("filterData", b"(a number)")])
def test_only_what_a_layer_accepts_comes_to_onData(folder: Path, hook: str, text: bytes) -> None:
    (message,) = talk(hook, folder).MESSAGES
    assert message.endswith(b"\r\n\r\n" + text + b"\r\n")
    replies = [line for line in textOf(hook, f"{hook}-1.txt").splitlines() if line.startswith("S: ")]
    assert [sum(line.startswith(f"S: {code}") for line in replies) for code in (554, 451)] == [1, 1]


def connectTo(port: int) -> None:
    """Connect to a port of this process, which accepts without its reactor."""
    socket.create_connection(("127.0.0.1", port)).close()


@ensureDeferred
async def test_onStart_keeps_a_service_from_listening(folder: Path) -> None:
    module = define(pageOf("onStart"), "onStart.py", folder)
    port = freePort()
    service = module.serviceOf(2, f"tcp:{port}:interface=127.0.0.1")
    service.startService()
    assert module.POOL == [0, 1]
    connectTo(port)
    await service.stopService()
    assert module.POOL == []
    with pytest.raises(Exception, match="Database cannot start: OSError: the database takes 8 connections, not 9"):
        module.serviceOf(9, f"tcp:{port}:interface=127.0.0.1").startService()
    with pytest.raises(ConnectionRefusedError):
        connectTo(port)


@ensureDeferred
async def test_onStop_stops_the_service_though_it_fails(folder: Path) -> None:
    module = define(pageOf("onStop"), "onStop.py", folder)
    for isStolen in (False, True):
        service = module.serviceOf(2, f"tcp:{freePort()}:interface=127.0.0.1")
        service.startService()
        if isStolen:
            module.POOL.clear()
        with capturedLogs() as events:
            await service.stopService()
        assert module.POOL == []
        failures = [event["log_failure"].type for event in events if "log_failure" in event]
        assert failures == ([IndexError] if isStolen else [])


# --- The code of hooks.rst and the older examples ---


def test_three_ways(folder: Path) -> None:
    client = clientOf(define("hooks.rst", "three_ways.py", folder).factory)
    said = client.say("EHLO client.test", "MAIL FROM:<ann@client.test>", "RCPT TO:<joe@elsewhere.test>")
    assert said[-2:] == [
        "250 2.1.0 Hello ann@client.test",
        "550 5.1.1 We take no mail for that domain",
    ]
    assert client.last("RCPT TO:<joe@example.org>", "DATA", "text", ".") == "250 2.0.0 Took 6 octets"


@ensureDeferred
async def test_blocking(folder: Path) -> None:
    with sqlite3.connect("users.db") as database:
        database.execute("CREATE TABLE users (address)")
        database.execute("INSERT INTO users VALUES ('user@mx.test')")
    onRcptTo = define("hooks.rst", "blocking.py", folder).onRcptTo
    await onRcptTo(Address("user@mx.test"), None)
    with pytest.raises(SMTPError, match="No such user"):
        await onRcptTo(Address("other@mx.test"), None)


def test_greylisting(folder: Path) -> None:
    block = define(pageOf("onRcptTo"), "greylisting.py", folder)
    client = clientOf(block.factory)
    assert client.last(*ENVELOPE) == "450 4.7.1 Greylisted, try again in a minute"
    (triplet,) = block.FIRST_SEEN
    block.FIRST_SEEN[triplet] -= 61
    assert client.last(ENVELOPE[-1]).startswith("250 ")


def test_authentication(folder: Path) -> None:
    block = define(pageOf("onAuth"), "authentication.py", folder)
    client = secureClientOf(block.factory)
    assert client.last(plain("ann", "correct horse")).startswith("235 ")
    assert client.session.user == "ann"
    for username, password in [("ann", "wrong"), ("joe", "correct horse")]:
        attempt = Auth(method="PLAIN", username=username, password=password)
        assert not Deferred.fromCoroutine(block.onAuth(attempt, None)).result.user
