"""What hooks read: session, envelope, addresses, and the Received field that is made of them."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.session import Address, Envelope, EnvelopeDSN, RecipientDSN, Session, TLSInfo

# RFC 5321 section 4.4, as far as smtphooks makes use of it.
RECEIVED = re.compile(
    r"Received: from (?P<helo>[^ ()<>;\r\n]+)(?: \((?P<tcp>[^()<>;\r\n]+)\))?\r\n"
    r"(?:\t\((?P<tls>using [^()<>;\r\n]+)\)\r\n)?"
    r"\tby (?P<by>[^ ()<>;\r\n]+) with (?P<protocol>[A-Z0-9]+) id (?P<id>[0-9a-f]+\.\d+)"
    r"(?:\r\n\tfor <(?P<recipient>[^\r\n]+)>)?;\r\n"
    r"\t(?P<date>[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4})\r\n"
)


def makeSession(**attributes: Any) -> Session:
    session = Session("mx.example.org", remoteAddress="192.0.2.1", clientHostname="[192.0.2.1]")
    session.openingCommand, session.hostNameAppearsAs = "EHLO", "client.example"
    for name, value in attributes.items():
        setattr(session, name, value)
    return session


def received(session: Session, *arguments: Any) -> dict[str, str | None]:
    field = session.receivedHeader(*arguments)
    match = RECEIVED.fullmatch(field)
    assert match is not None, field
    return match.groupdict()


# --- Addresses and envelopes ---


def test_address_is_its_mailbox() -> None:
    address = Address("joe@b.example", "joe", "b.example", {"NOTIFY": "NEVER"})
    assert str(address) == "joe@b.example"
    assert address == Address("joe@b.example", "joe", "b.example")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        address.local = "jim"  # type: ignore[misc]


@pytest.mark.parametrize(
    "args, dsn",
    [
        ({}, RecipientDSN((), None)),
        ({"NOTIFY": "SUCCESS,DELAY", "ORCPT": "rfc822;a@b"}, RecipientDSN(("SUCCESS", "DELAY"), "rfc822;a@b")),
        ({"NOTIFY": True, "ORCPT": True}, RecipientDSN((), None)),
    ],
)
def test_dsn_of_a_recipient_is_read_from_its_parameters(args: dict[str, str | bool], dsn: RecipientDSN) -> None:
    assert Address("a@b", args=args).dsn == dsn


def test_empty_envelope_asks_for_nothing() -> None:
    envelope = Envelope()
    assert (envelope.mailFrom, envelope.rcptTo, envelope.bodyType) == (None, [], "7bit")
    assert (envelope.smtpUtf8, envelope.requireTLS, envelope.dsn) == (False, False, EnvelopeDSN(None, None))


def test_envelope_is_read_from_the_parameters_of_MAIL() -> None:
    args = {"BODY": "8BITMIME", "SMTPUTF8": True, "REQUIRETLS": True, "RET": "FULL", "ENVID": "x y"}
    envelope = Envelope(Address("", args=args))
    assert (envelope.bodyType, envelope.smtpUtf8, envelope.requireTLS) == ("8bitmime", True, True)
    assert envelope.dsn == EnvelopeDSN("FULL", "x y")


def test_new_envelopes_and_sessions_share_nothing() -> None:
    Envelope().rcptTo.append(Address("a@b"))
    assert Envelope().rcptTo == []
    one, other = Session(), Session()
    one.state["x"] = one.xClient["x"] = one.xForward["x"] = "x"
    assert (other.state, other.xClient, other.xForward) == ({}, {}, {})
    assert one.id != other.id
    assert one != other


def idsOf(sessions: int) -> list[str]:
    return [Session().id for _ in range(sessions)]


FORK = """
import os
from smtphooks.session import Session
first = Session().id
child = os.fork()
ids = [Session().id for _ in range(500)]
if child:
    os.waitpid(child, 0)
    ids.append(first)
os.write(1, ("".join(f"{each}\\n" for each in ids)).encode())
"""


def test_ids_are_unique_over_processes_and_threads_and_look_alike() -> None:
    """A process counts from a random number on, and a forked one from another."""
    children = subprocess.run([sys.executable, "-c", FORK], stdout=subprocess.PIPE, check=True, timeout=30)
    with ThreadPoolExecutor(4) as threads:
        ids = [*itertools.chain(*threads.map(idsOf, [500] * 4)), *children.stdout.decode().split()]
    assert len({*ids}) == len(ids) == 3001
    assert all(re.fullmatch(r"[0-9a-f]{20}", each) for each in ids)


@pytest.mark.parametrize("wrong", [None, 5, object()])
def test_recipients_are_a_list_whatever_iterable_a_hook_sets(wrong: Any) -> None:
    """Anything else fails where the hook sets it."""
    first, second = Address("a@b"), Address("c@d")
    envelope = Envelope(None, (first, second))
    assert envelope.rcptTo == [first, second]
    envelope.rcptTo = {first: 1}  # type: ignore[assignment]
    assert envelope == Envelope(rcptTo=[first])
    with pytest.raises(TypeError):
        envelope.rcptTo = wrong
    with pytest.raises(TypeError):
        Envelope(None, wrong)


# --- Transmission types ---


@pytest.mark.parametrize(
    "lmtp, opening, utf8, secure, user, name",
    [
        (False, None, False, False, None, "SMTP"),
        (False, "HELO", False, False, None, "SMTP"),
        (False, "HELO", True, True, "ann", "SMTP"),
        (False, "EHLO", False, False, None, "ESMTP"),
        (False, "EHLO", False, True, None, "ESMTPS"),
        (False, "EHLO", False, False, "ann", "ESMTPA"),
        (False, "EHLO", False, True, "ann", "ESMTPSA"),
        (False, "EHLO", True, False, None, "UTF8SMTP"),
        (False, "EHLO", True, True, None, "UTF8SMTPS"),
        (False, "EHLO", True, False, "ann", "UTF8SMTPA"),
        (False, "EHLO", True, True, "ann", "UTF8SMTPSA"),
        (True, None, False, False, None, "LMTP"),
        (True, "LHLO", False, False, None, "LMTP"),
        (True, "LHLO", False, True, None, "LMTPS"),
        (True, "LHLO", False, False, "ann", "LMTPA"),
        (True, "LHLO", False, False, {}, "LMTPA"),
        (False, "EHLO", False, False, "", "ESMTPA"),
        (True, "LHLO", False, True, "ann", "LMTPSA"),
        (True, "LHLO", True, False, None, "UTF8LMTP"),
        (True, "LHLO", True, True, None, "UTF8LMTPS"),
        (True, "LHLO", True, False, "ann", "UTF8LMTPA"),
        (True, "LHLO", True, True, "ann", "UTF8LMTPSA"),
    ],
)
def test_transmission_type_is_registered_with_IANA(
    lmtp: bool, opening: str | None, utf8: bool, secure: bool, user: object, name: str
) -> None:
    # RFC 3848 and RFC 6531 section 4.3.
    session = makeSession(lmtp=lmtp, openingCommand=opening, secure=secure, user=user)
    session.envelope = Envelope(Address("", args={"SMTPUTF8": True} if utf8 else {}))
    assert session.transmissionType == name


# --- Received ---


def test_received_field_says_from_by_with_and_when() -> None:
    session = makeSession(clientHostname="client.dns.example", transaction=3)
    session.envelope.rcptTo.append(Address("joe@b.example"))
    parts = received(session)
    assert parts == {
        "helo": "client.example",
        "tcp": "client.dns.example [192.0.2.1]",
        "tls": None,
        "by": "mx.example.org",
        "protocol": "ESMTP",
        "id": f"{session.id}.3",
        "recipient": "joe@b.example",
        "date": parts["date"],
    }
    assert parsedate_to_datetime(str(parts["date"])).tzinfo is not None


def test_received_field_names_the_only_recipient_or_the_one_given_but_never_several() -> None:
    session = makeSession()
    assert received(session)["recipient"] is None
    session.envelope.rcptTo += [Address("joe@b.example"), Address("jim@b.example")]
    assert received(session)["recipient"] is None
    assert received(session, session.envelope.rcptTo[1])["recipient"] == "jim@b.example"
    assert received(session, "jon@b.example")["recipient"] == "jon@b.example"


def test_received_field_says_how_it_was_encrypted() -> None:
    session = makeSession(tlsOptions=TLSInfo("ECDHE-RSA-AES128-GCM-SHA256", "x", "TLSv1.2"), secure=True)
    parts = received(session)
    assert parts["tls"] == "using TLSv1.2 with cipher ECDHE-RSA-AES128-GCM-SHA256"
    assert parts["protocol"] == "ESMTPS"


@pytest.mark.parametrize(
    "attributes, helo, tcp",
    [
        ({}, "client.example", "[192.0.2.1]"),
        ({"remoteAddress": "2001:db8::1", "clientHostname": "[2001:db8::1]"}, "client.example", "[IPv6:2001:db8::1]"),
        ({"hostNameAppearsAs": "[IPv6:2001:db8::1]"}, "[IPv6:2001:db8::1]", "[192.0.2.1]"),
        ({"hostNameAppearsAs": ""}, "[192.0.2.1]", "[192.0.2.1]"),
        ({"remoteAddress": "", "clientHostname": ""}, "client.example", None),
        ({"remoteAddress": "", "clientHostname": "", "hostNameAppearsAs": ""}, "unknown", None),
    ],
)
def test_received_field_names_the_client_as_far_as_it_is_known(
    attributes: dict[str, Any], helo: str, tcp: str | None
) -> None:
    parts = received(makeSession(**attributes))
    assert (parts["helo"], parts["tcp"]) == (helo, tcp)


@pytest.mark.parametrize(
    "name", ["a;b", "a(b", "a)b", "a\\", '"a', "<a@b>", "a\r\nX-Evil: 1", "a\nb", "a b", "a\0b", "a,b", "caf\u00e9"]
)
def test_name_of_the_client_cannot_forge_the_received_field(name: str) -> None:
    # HELO takes whatever is printable: a parenthesis would make a comment of all that follows, a semicolon a date.
    parts = received(makeSession(hostNameAppearsAs=name, clientHostname=name))
    assert parts["by"] == "mx.example.org"
    assert "?" in str(parts["helo"])


_anything = st.text(st.characters() | st.sampled_from('\r\n();<>\\"'))


@given(_anything, _anything, _anything, _anything, _anything)
def test_nothing_in_a_session_puts_a_line_end_into_the_received_field(
    helo: str, dns: str, address: str, recipient: str, cipher: str
) -> None:
    session = makeSession(hostNameAppearsAs=helo, clientHostname=dns, remoteAddress=address)
    session.tlsOptions = TLSInfo(cipher, cipher, "TLSv1.3")
    field = session.receivedHeader(recipient)
    assert field.endswith("\r\n")
    lines = field.removesuffix("\r\n").split("\r\n")
    assert len(lines) == 5
    assert all(line.startswith("\t") for line in lines[1:])
    for line in lines:
        assert line.replace("\t", "").isprintable()


# --- state of layers ---


class Counting:
    """A layer that is equal to every other one, and has no hash."""

    @attrs.define
    class State:
        seen: int = 0

    def __eq__(self, other: object) -> bool:
        return True


class CountingTwice(Counting):
    """A layer that inherits its state."""


def test_a_layer_has_one_state_for_each_session_whatever_it_is_equal_to() -> None:
    one, other, session = Counting(), Counting(), makeSession()
    session.of(one).seen += 1
    session.of(one).seen += 1
    assert (session.of(one).seen, session.of(other).seen) == (2, 0)
    assert makeSession().of(one).seen == 0


def test_a_layer_without_a_state_has_a_namespace() -> None:
    layer, session = object(), makeSession()
    session.of(layer).anything = 5
    assert session.of(layer).anything == 5
    assert vars(session.of(object())) == {}


def test_the_state_of_another_layer_is_found_by_its_class_or_one_that_it_inherits() -> None:
    session = makeSession()
    assert session.of(Counting) is None
    layer = CountingTwice()
    state = session.of(layer)
    assert session.of(Counting) is session.of(CountingTwice) is state
    assert session.of(Session) is None
    first = session.of(Counting())
    assert first is not state
    assert session.of(Counting) is state  # the first that has any


def test_a_state_that_cannot_be_made_is_not_kept() -> None:
    class Failing:
        error: Exception | None = ValueError("not yet")

        @classmethod
        def State(cls) -> list[int]:
            if cls.error is not None:
                raise cls.error
            return []

    layer, session = Failing(), makeSession()
    with pytest.raises(ValueError, match="not yet"):
        session.of(layer)
    Failing.error = None
    assert session.of(layer) is session.of(layer) == []
