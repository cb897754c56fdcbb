"""The layer Greylist: whom it puts off, for how long, and what becomes of its file."""

from __future__ import annotations

import re
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import attrs
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs

from smtphooks import Address, Envelope, Layer, OptionError, Session, SMTPError
from smtphooks.layers import Greylist
from smtphooks.layers.database import DatabaseError
from smtphooks.layers.greylist import _mailOf, _networkOf
from smtphooks.syntax.grammar import parseForwardPath, parseReversePath
from tests.layers.pages import blocksOf
from tests.pages import tomllib

pytestmark = pytest.mark.usefixtures("logged")

SENDER = "bob@client.example"
RECIPIENT = "ann@example.org"


def makeSession(address: str = "192.0.2.7", sender: str = SENDER, **given: Any) -> Session:
    path = parseReversePath(f"<{sender}>", utf8=True, lenient=False)
    return Session(
        **{
            "remoteAddress": address,
            "clientHostname": f"[{address}]",
            "envelope": Envelope(Address(*path)),
            **given,
        }
    )


class Asked:
    """A greylist on a file, and the time."""

    def __init__(self, path: Path, **given: Any) -> None:
        self.path = path
        self.clock = Clock()
        self.clock.rightNow = 1e9
        self._given = {"only": ["no-reverse-name"], **given}
        self._open()

    def _open(self) -> None:
        self.layer = Greylist(path=str(self.path), **self._given)
        self.layer.clock = self.clock  # type: ignore[assignment]

    def restart(self) -> None:
        """The service ends, and another begins."""
        self.layer.onStop(None)
        self._open()

    async def ask(self, session: Session | None = None, recipient: str = RECIPIENT, after: float = 0) -> int:
        """The seconds that a recipient is put off for, 0 if it is passed on."""
        self.clock.advance(after)
        path = parseForwardPath(f"<{recipient}>", utf8=True, lenient=False)
        try:
            deciding = self.layer.onRcptTo(Address(*path), session or makeSession())
            if deciding is not None:
                assert await deciding is None
        except SMTPError as refusal:
            assert (refusal.responseCode, refusal.enhancedCode) == (450, "4.7.1")
            words = refusal.message.split()
            assert words[:6] == ["Greylisted,", "please", "try", "again", "in", words[5]]
            return int(words[5])
        return 0


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    made = Asked(tmp_path / "greylist.db")
    yield made
    made.layer.onStop(None)


# --- What is put off ---


@pytest_twisted.ensureDeferred
async def test_a_mail_is_put_off_and_passes_on_when_it_comes_again(asked: Asked) -> None:
    assert await asked.ask() == 300
    assert await asked.ask(after=299.5) == 1
    assert await asked.ask(after=0.5) == 0
    assert await asked.ask(makeSession(sender="other@client.example")) == 0


@pytest_twisted.ensureDeferred
async def test_another_server_of_the_same_network_may_bring_it_again(asked: Asked) -> None:
    assert await asked.ask(makeSession("192.0.2.7")) == 300
    assert await asked.ask(makeSession("192.0.3.7"), after=300) == 300
    assert await asked.ask(makeSession("192.0.2.200")) == 0
    assert await asked.ask(makeSession("2001:db8::1")) == 300
    assert await asked.ask(makeSession("2001:db8::ffff:1"), after=300) == 0


@pytest_twisted.ensureDeferred
async def test_the_spelling_of_the_addresses_does_not_count(asked: Asked) -> None:
    assert await asked.ask(makeSession(sender="Bob@Client.example"), "Ann@example.org") == 300
    assert await asked.ask(makeSession(sender="bob@client.EXAMPLE"), '"ann"@Example.org', after=300) == 0


@pytest_twisted.ensureDeferred
async def test_the_null_reverse_path_is_put_off_like_any_other(asked: Asked) -> None:
    assert await asked.ask(makeSession(sender="")) == 300
    assert await asked.ask(makeSession(sender="")) == 300
    assert await asked.ask(makeSession(sender=""), after=300) == 0


@pytest_twisted.ensureDeferred
async def test_all_recipients_of_a_mail_pass_on_when_the_first_one_does(asked: Asked) -> None:
    recipients = [f"user{number}@example.org" for number in range(5)]
    session = makeSession()
    assert [await asked.ask(session, recipient) for recipient in recipients] == [300] * 5
    assert await asked.ask(session, recipients[3], after=300) == 0
    assert [await asked.ask(session, recipient) for recipient in [*recipients, "new@example.org"]] == [0] * 6


@pytest_twisted.ensureDeferred
async def test_the_file_is_not_asked_again_for_a_connection_whose_network_is_known(asked: Asked) -> None:
    session = makeSession()
    await asked.ask(session)
    await asked.ask(session, after=300)
    assert session.of(Greylist).known == "192.0.2.0/24"
    assert asked.layer.onRcptTo(Address("x@example.org", "x", "example.org"), session) is None
    # A proxy can bring another client within the same connection.
    session.remoteAddress = "198.51.100.7"
    assert await asked.ask(session) == 300


@pytest.mark.parametrize(
    "senders",
    [
        ("prvs=0123abcdef=bob@a.example", "prvs=4567fedcba=bob@a.example", "bob@a.example"),
        ("bob+1@a.example", "bob+other@a.example", "bob@a.example"),
        ("list-17-ann=example.org@a.example", "list-234-ann=example.org@a.example"),
        ("bob@mail1.a.example", "bob@mail22.a.example"),
    ],
)
def test_what_differs_in_each_reverse_path_of_a_mailing_list_does_not_count(senders: tuple[str, ...]) -> None:
    paths = [Address(*parseReversePath(f"<{sender}>", utf8=False, lenient=False)) for sender in senders]
    assert len({_mailOf(path, Address(RECIPIENT, "ann", "example.org")) for path in paths}) == 1


@given(st.text(), st.text())
def test_a_mail_has_a_digest_of_one_length_whatever_the_addresses(sender: str, recipient: str) -> None:
    mail = _mailOf(Address(sender, sender, sender), Address(recipient, recipient, recipient))
    assert len(mail) == 16
    assert mail != _mailOf(Address(sender, sender, sender), Address("z", "z" + recipient, recipient))


@pytest.mark.parametrize(
    "address, network",
    [
        ("192.0.2.255", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("/run/smtp.sock", None),
        ("", None),
    ],
)
def test_the_network_of_a_client_is_its_24_or_64(address: str, network: str | None) -> None:
    assert _networkOf(address) == network


@given(st.ip_addresses())
def test_every_address_is_in_its_network(address: Any) -> None:
    import ipaddress

    network = _networkOf(str(address))
    assert network is not None
    ip = getattr(address, "ipv4_mapped", None) or address
    assert ip in ipaddress.ip_network(network)


# --- Whom it is about ---


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("name, seconds", [("[192.0.2.7]", 300), ("192.0.2.7", 300), ("", 300), ("mx.a.example", 0)])
async def test_a_client_with_a_confirmed_name_is_not_put_off(asked: Asked, name: str, seconds: int) -> None:
    assert await asked.ask(makeSession(clientHostname=name)) == seconds


@pytest_twisted.ensureDeferred
async def test_a_client_without_an_ip_address_is_not_put_off(asked: Asked) -> None:
    assert await asked.ask(makeSession("/run/client.sock")) == 0


@pytest_twisted.ensureDeferred
async def test_a_function_of_the_session_can_be_a_condition(tmp_path: Path) -> None:
    asked = Asked(tmp_path / "greylist.db", only=[lambda session: session.hostNameAppearsAs == "friend"])
    assert await asked.ask() == 0
    assert await asked.ask(makeSession(hostNameAppearsAs="friend")) == 300
    asked.layer.onStop(None)


@pytest.fixture
def checker(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A layer that stands in for the one that checks SPF."""

    class SenderAuthentication:
        class State(SimpleNamespace):
            spf: Any = None

    module: Any = ModuleType("smtphooks.layers.senderauthentication")
    module.SenderAuthentication = SenderAuthentication
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return SenderAuthentication()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    "result, seconds",
    [("fail", 300), ("softfail", 0), ("pass", 0), ("none", 0), ("temperror", 0), ("permerror", 0), (None, 0)],
)
async def test_spf_fail_is_what_the_layer_before_has_found(
    tmp_path: Path, checker: Any, result: str | None, seconds: int
) -> None:
    asked = Asked(tmp_path / "greylist.db", only=["spf-fail"])
    session = makeSession()
    session.of(checker).spf = None if result is None else SimpleNamespace(result=result)
    assert await asked.ask(session) == seconds
    asked.layer.onStop(None)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("isLoaded", [False, True])
async def test_without_that_layer_before_the_log_says_once_that_spf_fail_never_holds(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, isLoaded: bool
) -> None:
    if isLoaded:
        request.getfixturevalue("checker")
    else:
        monkeypatch.delitem(sys.modules, "smtphooks.layers.senderauthentication", raising=False)
    asked = Asked(tmp_path / "greylist.db", only=["spf-fail"])
    with capturedLogs() as events:
        assert await asked.ask(makeSession(user="ann")) == 0
        assert [event for event in events if event["log_level"] is LogLevel.warn] == []
        assert await asked.ask() == 0
        assert await asked.ask() == 0
    (warning,) = [event for event in events if event["log_level"] is LogLevel.warn]
    assert "put that layer in front" in warning["log_format"]
    asked.layer.onStop(None)


# --- The file ---


@pytest_twisted.ensureDeferred
async def test_what_it_knows_outlives_a_restart(asked: Asked) -> None:
    await asked.ask()
    await asked.ask(makeSession("198.51.100.7"))
    asked.restart()
    assert await asked.ask(after=300) == 0
    asked.restart()
    assert await asked.ask(makeSession("192.0.2.9", "new@client.example")) == 0
    assert await asked.ask(makeSession("198.51.100.7")) == 0


@pytest_twisted.ensureDeferred
async def test_a_network_is_known_for_36_days_after_its_last_mail(asked: Asked) -> None:
    await asked.ask()
    await asked.ask(after=300)
    day = 86400
    assert await asked.ask(after=36 * day) == 0
    assert await asked.ask(after=36 * day + 1) == 300


@pytest_twisted.ensureDeferred
async def test_a_mail_must_come_again_within_a_day(asked: Asked) -> None:
    await asked.ask()
    assert await asked.ask(after=86401) == 300
    assert await asked.ask(after=86400) == 0


@pytest_twisted.ensureDeferred
async def test_the_file_holds_no_address_of_a_mail(asked: Asked) -> None:
    await asked.ask()
    asked.layer.onStop(None)
    octets = asked.path.read_bytes()
    assert b"192.0.2.0/24" in octets
    assert b"bob" not in octets
    assert b"example" not in octets


@pytest_twisted.ensureDeferred
async def test_the_start_makes_the_file_and_the_constructor_does_not(asked: Asked) -> None:
    assert not asked.path.exists()
    await asked.layer.onStart(None)
    assert asked.path.exists()


@pytest_twisted.ensureDeferred
async def test_a_damaged_file_is_one_sentence_at_start_and_a_fault_later(tmp_path: Path) -> None:
    path = tmp_path / "greylist.db"
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    asked = Asked(path)
    with pytest.raises(DatabaseError, match=f"^the greylist {path} cannot be used: DatabaseError: file is not a datab"):
        await asked.layer.onStart(None)
    with pytest.raises(DatabaseError):
        await asked.ask()
    asked.layer.onStop(None)


@pytest_twisted.ensureDeferred
async def test_a_file_that_cannot_be_used_is_a_fault_until_it_can(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    asked = Asked(folder / "greylist.db")
    folder.rmdir()
    with pytest.raises(DatabaseError, match="unable to open database file"):
        await asked.ask()
    folder.mkdir()
    assert await asked.ask() == 300
    asked.layer.onStop(None)


@pytest_twisted.ensureDeferred
async def test_the_database_of_another_program_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "users.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE users (name)")
    connection.close()
    asked = Asked(path)
    with pytest.raises(DatabaseError, match="cannot be used: it is the database of another program"):
        await asked.layer.onStart(None)
    asked.layer.onStop(None)


# --- Options ---


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"only": ["no-reverse-name"]}, "option path is missing, it wants the path of an SQLite file"),
        ({"path": "x.db"}, 'option only is missing, it wants a list of "no-reverse-name" and "spf-fail"'),
        ({"path": "x.db", "only": []}, "option only is (), it wants a list of"),
        ({"path": "x.db", "only": "spf-fail"}, "option only is 'spf-fail', it wants a list of"),
        ({"path": "x.db", "only": ["spf-failed"]}, "option only is ('spf-failed',), it wants a list of"),
        ({"path": "", "only": ["spf-fail"]}, "option path is '', it wants the path"),
        ({"path": "/nowhere/x.db", "only": ["spf-fail"]}, "option path is wrong: /nowhere is no folder"),
        ({"path": "x.db", "only": ["spf-fail"], "delay": 0}, "option delay is 0, it wants a number of seconds above 0"),
        ({"path": "x.db", "only": ["spf-fail"], "remember": "1d"}, "option remember is '1d', it wants a number of"),
        ({"path": "x.db", "only": ["spf-fail"], "maxRows": -1}, "option maxRows is -1, it wants a whole number of"),
        (
            {"path": "x.db", "only": ["spf-fail"], "delay": 600, "window": 600},
            "option window is 600, it wants more seconds than option delay, which is 600",
        ),
        ({"path": "x.db", "only": ["spf-fail"], "delays": 1}, "unknown option delays, did you mean delay?"),
    ],
)
def test_a_wrong_option_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError) as caught:
        Greylist(**options)
    assert str(caught.value).startswith(sentence)


def test_a_file_that_is_none_of_sqlite_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary")
    with pytest.raises(OptionError, match=r"^option path is wrong: .*notes.txt is no SQLite file, move it away$"):
        Greylist(path=path, only=["spf-fail"])


# --- The documentation ---

PAGE = (Path(__file__).parents[2] / "docs" / "layers" / "greylist.rst").read_text()


def test_the_documentation_has_every_option_with_its_default() -> None:
    for field in attrs.fields(Greylist):
        if field.init:
            (default,) = re.findall(rf"^``{field.name}``\s+(\S+)", PAGE, re.MULTILINE)
            known = {attrs.NOTHING: "must", None: "none"}
            assert default == (known[field.default] if field.default in known else f"``{int(field.default)}``")


def test_the_example_of_the_documentation_is_valid(tmp_path: Path) -> None:
    (text,) = blocksOf(PAGE, "toml")
    (layer,) = tomllib.loads(text)["layer"]
    assert layer.pop("use") == "smtphooks.layers:Greylist"
    Layer(Greylist(path=str(tmp_path / "x.db"), only=layer["only"]), unless=layer["unless"])
