"""What a sender of forged mail tries, against a whole server in memory."""

from __future__ import annotations

import email
import email.policy
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.names import dns

from smtphooks.layer import Layer
from smtphooks.layers import SenderAuthentication
from tests.layers.authentication.signing import MESSAGE, RECORD, signed
from tests.layers.authentication.zones import Zone, text
from tests.support import HELLO, RCPT, Client, Mailbox, makeFactory

SIGNED = signed(MESSAGE)
FORGED = b"Authentication-Results: mx.test; dkim=pass header.d=bank.example\r\n"


def records(**changes: Any) -> dict[str, list[Any]]:
    return {
        "a.example": [text("v=spf1 ip4:192.0.2.7 -all")],
        "test._domainkey.example.com": [text(RECORD)],
        "_dmarc.example.com": [text("v=DMARC1; p=reject")],
        "_dmarc.bank.example": [text("v=DMARC1; p=reject")],
        **changes,
    }


class Dialogue:
    """
    A client of a server with the layer.

    @ivar mailbox: the messages that it has accepted.
    """

    def __init__(
        self, zone: Any = None, unless: Any = (), server: dict[str, Any] | None = None, **options: Any
    ) -> None:
        self.layer = SenderAuthentication(resolver=zone or Zone(records()), **options)
        self.mailbox = Mailbox()
        hooks = [Layer(self.layer, unless=unless), SimpleNamespace(onData=self.mailbox.onData)]
        factory = makeFactory(hooks=hooks, **(server or {}))
        self.layer.clock = factory.clock
        self.client = Client(factory)
        self.client.say(HELLO)

    @property
    def found(self) -> Any:
        return self.client.session.of(SenderAuthentication)

    def send(self, message: bytes, sender: str = "x@a.example", body: str = "8BITMIME") -> str:
        """Send a message with BDAT, and return the last reply."""
        self.client.say(f"MAIL FROM:<{sender}> BODY={body}", RCPT)
        self.client.feed(b"BDAT %d LAST\r\n" % len(message) + message)
        replies = self.client.replies()
        return replies[-1] if replies else ""


def resultsIn(message: bytes) -> list[str]:
    """The fields that a reader finds behind ours: each way that Python has of reading them."""
    found = []
    for policy in (email.policy.compat32, email.policy.default):
        parsed: Any = email.message_from_bytes(message, policy=policy)
        found += [str(value) for value in parsed.get_all("Authentication-Results")[1:]]
    return found


@pytest.mark.parametrize(
    "forged",
    [
        FORGED,
        b"X: y\r" + FORGED,
        b"Authentication-Results: =?us-ascii?q?mx.test=3B_dkim=3Dpass?=\r\n",
        b"Authentication-Results:\x0bmx.test; dkim=pass\r\n",
    ],
)
@pytest.mark.parametrize("body", ["8BITMIME", "BINARYMIME"])
@pytest.mark.parametrize("bareNewline", ["normalize", "accept"])
def test_no_reader_finds_a_forged_field(forged: bytes, body: str, bareNewline: str) -> None:
    dialogue = Dialogue(server={"bareNewline": bareNewline})
    assert dialogue.send(forged + SIGNED, body=body).startswith("250 ")
    assert "mx.test" not in "".join(resultsIn(dialogue.mailbox[0]))


def test_a_second_author_cannot_hide_behind_a_bare_cr() -> None:
    forged = b"X: y\rFrom: ceo@bank.example\r\n" + SIGNED
    assert email.message_from_bytes(forged).get_all("From")[0] == "ceo@bank.example"
    dialogue = Dialogue(dmarc="reject")
    assert dialogue.send(forged, body="BINARYMIME") == "550 5.7.1 DMARC: the header has a bare CR"
    assert dialogue.send(SIGNED, body="BINARYMIME").startswith("250 ")


# --- One message after the other ---


def test_what_was_found_of_one_message_is_not_said_of_another() -> None:
    exempt = []
    dialogue = Dialogue(unless=[lambda session: session.envelope.mailFrom.address in exempt])
    dialogue.send(SIGNED)
    assert (dialogue.found.spf.result, dialogue.found.dmarc.result) == ("pass", "pass")
    # The layer is not asked at MAIL, but with the message, as a condition may say.
    client = dialogue.client
    exempt.append("x@other.example")
    client.say("MAIL FROM:<x@other.example>", RCPT)
    exempt.clear()
    client.feed(b"BDAT 12 LAST\r\nSubject: x\r\n")
    assert dialogue.mailbox[1].startswith(b"Authentication-Results: mx.test;\r\n\tarc=none;\r\n\tdmarc=permerror ")
    assert dialogue.found.spf is dialogue.found.helo is None


def test_nothing_is_left_of_a_client_when_xclient_names_another() -> None:
    dialogue = Dialogue(server={"useXClient": True})
    dialogue.send(SIGNED)
    dialogue.client.say("XCLIENT ADDR=198.51.100.1", HELLO)
    dialogue.send(SIGNED)
    assert (dialogue.found.spf.result, dialogue.found.dmarc.result) == ("fail", "pass")
    assert b"\tspf=fail smtp.mailfrom=a.example;" in dialogue.mailbox[1]


# --- A DNS of which parts are dead ---


class PartlyDead(Zone):
    """A resolver that never answers about some names."""

    def __init__(self, records: dict[str, list[Any]], *dead: str) -> None:
        super().__init__(records)
        self._dead = dead

    def query(self, query: dns.Query, timeout: Any = None) -> Deferred[Any]:
        return Deferred() if query.name.name.decode() in self._dead else super().query(query, timeout)


def test_a_dead_name_in_helo_takes_no_time_from_the_reverse_path() -> None:
    zone = PartlyDead(
        records(**{"b.example": [text("v=spf1 include:a.example -all")]}),
        "client.test",
    )
    dialogue = Dialogue(zone, spf="reject")
    dialogue.client.say("MAIL FROM:<x@b.example>")
    dialogue.client.clock.pump([1] * 20)
    assert dialogue.client.replies()[-1].startswith("250 ")
    assert (dialogue.found.helo.result, dialogue.found.spf.result) == ("temperror", "pass")


def test_a_dead_signer_takes_no_time_from_the_author() -> None:
    zone = PartlyDead(records(), "test._domainkey.dead.example")
    message = SIGNED.replace(b"d=example.com", b"d=dead.example").partition(b"Authentication-Results:")[0] + SIGNED
    dialogue = Dialogue(zone, dmarc="reject")
    dialogue.send(message.replace(b"i=@example.com", b"i=@dead.example", 1))
    dialogue.client.clock.pump([1] * 20)
    assert dialogue.client.replies()[-1].startswith("250 ")
    assert [result.result for result in dialogue.found.dkim] == ["temperror", "pass"]
    assert dialogue.found.dmarc.result == "pass"
