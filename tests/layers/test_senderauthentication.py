"""SenderAuthentication as a server drives it: hook by hook, and over TCP with a DNS server on loopback."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import authres
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, eventAsText
from twisted.names import client, error

from smtphooks.errors import OptionError
from smtphooks.layers import SenderAuthentication
from smtphooks.layers.authentication.bodyhash import BodyHash
from smtphooks.replies import SMTPError
from smtphooks.session import Address, Session
from smtphooks.stream import MessageStream
from tests.layers.authentication.signing import MESSAGE, RECORD, signed
from tests.layers.authentication.zones import Silent, Zone, now, text
from tests.layers.authentication.zoneserver import NameServer
from tests.support import Mailbox
from tests.test_tcp import served

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "layers" / "senderauthentication.rst"


def records(**changes: Any) -> dict[str, list[Any]]:
    return {
        "example.com": [text("v=spf1 ip4:192.0.2.1 -all")],
        "host.example": [text("v=spf1 ip4:192.0.2.1 -all")],
        "test._domainkey.example.com": [text(RECORD)],
        "_dmarc.example.com": [text("v=DMARC1; p=reject")],
        **changes,
    }


def layerOf(zone: Any = None, **options: Any) -> SenderAuthentication:
    layer = SenderAuthentication(resolver=zone or Zone(records()), **options)
    layer.clock = Clock()
    return layer


def sessionOf(address: str = "192.0.2.1", helo: str = "host.example") -> Session:
    return Session(localName="mx.example.net", remoteAddress=address, hostNameAppearsAs=helo)


def mailFrom(layer: SenderAuthentication, session: Session, local: str = "user", domain: str = "example.com") -> None:
    address = Address(f"{local}@{domain}", local, domain) if domain else Address("")
    now(Deferred.fromCoroutine(layer.onMailFrom(address, session)))


def streamOf(message: bytes, chunk: int = 1000) -> MessageStream:
    stream = MessageStream()
    for start in range(0, len(message), chunk):
        stream.append(message[start : start + chunk])
    stream.append(b"", isLast=True)
    return stream


def inspect(layer: SenderAuthentication, session: Session, message: bytes) -> None:
    now(Deferred.fromCoroutine(layer.inspectData(streamOf(message), session)))


def filtered(layer: SenderAuthentication, session: Session, message: bytes) -> bytes:
    async def run() -> bytes:
        return b"".join([chunk async for chunk in layer.filterData(streamOf(message), session)])

    result = now(Deferred.fromCoroutine(run()))
    assert isinstance(result, bytes)
    return result


def refusalOf(layer: SenderAuthentication, session: Session, **sender: Any) -> tuple[int | None, str | None, str]:
    with pytest.raises(SMTPError) as refused:
        mailFrom(layer, session, **sender)
    return refused.value.responseCode, refused.value.enhancedCode, refused.value.message


# --- What is found ---


def test_spf_is_found_out_at_mail_for_both_identities() -> None:
    layer, session = layerOf(), sessionOf()
    mailFrom(layer, session)
    found = session.of(layer)
    assert found is session.of(SenderAuthentication)
    assert (found.spf.result, found.spf.identity, found.spf.domain) == ("pass", "mailfrom", "example.com")
    assert (found.helo.result, found.helo.identity, found.helo.domain) == ("pass", "helo", "host.example")
    assert found.dkim is found.arc is found.dmarc is None


def test_helo_and_reverse_path_are_looked_up_at_once() -> None:
    silent = Silent()
    Deferred.fromCoroutine(layerOf(silent).onMailFrom(Address("a@b.example", "a", "b.example"), sessionOf()))
    assert set(silent.queries) == {"b.example", "host.example"}


def test_signatures_are_found_out_with_the_message() -> None:
    layer, session = layerOf(), sessionOf()
    mailFrom(layer, session)
    inspect(layer, session, signed(MESSAGE))
    found = session.of(layer)
    assert [result.result for result in found.dkim] == ["pass"]
    assert found.arc.result == "none"
    assert (found.dmarc.result, found.dmarc.domain, found.dmarc.policy) == ("pass", "example.com", "reject")


def test_the_log_has_a_line_for_each_message_that_names_the_results() -> None:
    layer, session = layerOf(), sessionOf()
    mailFrom(layer, session)
    with capturedLogs() as events:
        inspect(layer, session, signed(MESSAGE))
    (event,) = events
    assert eventAsText(event, includeTimestamp=False, includeSystem=False) == (
        f"sender authentication: spf=pass, helo=pass, dkim=pass, arc=none, dmarc=pass [{session.id}]"
    )


def test_what_was_found_is_forgotten_at_the_next_mail() -> None:
    layer, session = layerOf(), sessionOf()
    mailFrom(layer, session)
    inspect(layer, session, signed(MESSAGE))
    mailFrom(layer, session, domain="other.example")
    found = session.of(layer)
    assert (found.spf.result, found.dkim, found.arc, found.dmarc) == ("none", None, None, None)


def test_a_client_without_an_address_has_no_spf() -> None:
    zone = Zone(records())
    layer, session = layerOf(zone), sessionOf("/run/smtp.sock")
    mailFrom(layer, session)
    assert session.of(layer).spf is session.of(layer).helo is None
    assert zone.asked == []


def test_a_dns_that_does_not_answer_holds_nothing_up_beyond_the_timeout() -> None:
    layer, session = layerOf(Silent(), timeout=5), sessionOf()
    waiting = Deferred.fromCoroutine(layer.onMailFrom(Address("a@b.example", "a", "b.example"), session))
    layer.clock.advance(2.4)
    assert not waiting.called
    layer.clock.advance(0.1)
    now(waiting)
    assert session.of(layer).spf.result == "temperror"
    reading = Deferred.fromCoroutine(layer.inspectData(streamOf(signed(MESSAGE)), session))
    layer.clock.advance(5)
    now(reading)
    assert [result.result for result in session.of(layer).dkim] == ["temperror"]
    assert session.of(layer).dmarc.result == "temperror"


# --- The field ---


def test_what_was_found_is_on_top_of_the_message() -> None:
    layer, session = layerOf(), sessionOf()
    mailFrom(layer, session)
    message = signed(MESSAGE)
    inspect(layer, session, message)
    marked = filtered(layer, session, message)
    assert marked.endswith(message)
    field = marked.removesuffix(message).decode().replace("\r\n", "")
    results = authres.AuthenticationResultsHeader.parse(field)
    assert results.authserv_id == "mx.example.net"
    assert [str(result).partition(" header.b=")[0] for result in results.results] == [
        "spf=pass smtp.mailfrom=example.com",
        "spf=pass smtp.helo=host.example",
        "dkim=pass header.d=example.com header.s=test header.a=rsa-sha256",
        "arc=none",
        "dmarc=pass header.from=example.com policy.dmarc=reject",
    ]


def test_a_message_about_which_nothing_is_known_is_marked_so() -> None:
    assert filtered(layerOf(), sessionOf(), MESSAGE) == (
        b"Authentication-Results: mx.example.net;\r\n\tnone\r\n" + MESSAGE
    )


@pytest.mark.parametrize(
    "options, ours, others",
    [({}, "MX.example.net", "mx.example.com"), ({"name": "Example.COM"}, "example.com", "mx.example.net")],
)
def test_fields_that_name_us_are_removed(options: dict[str, Any], ours: str, others: str) -> None:
    layer, session = layerOf(**options), sessionOf()
    kept = f"Authentication-Results: {others}; spf=pass\r\n".encode()
    message = f"Authentication-Results: {ours}; spf=pass\r\n".encode() + kept + b"\r\nbody"
    marked = filtered(layer, session, message)
    assert marked.endswith(b";\r\n\tnone\r\n" + kept + b"\r\nbody")


# --- Policy ---


@pytest.mark.parametrize(
    "sender, refusal",
    [
        (
            {"domain": "example.com"},
            (550, "5.7.23", "SPF: example.com does not allow mail from 192.0.2.9"),
        ),
        (
            {"domain": "explained.example"},
            (
                550,
                "5.7.23",
                "SPF: explained.example does not allow mail from 192.0.2.9; it says: 192.0.2.9 is not ours",
            ),
        ),
        (
            {"domain": "broken.example"},
            (451, "4.7.24", "SPF of broken.example cannot be checked now, please try again"),
        ),
    ],
)
def test_what_spf_says_is_forged_is_refused_if_the_operator_wants(
    sender: dict[str, str], refusal: tuple[int, str, str]
) -> None:
    zone = Zone(
        {
            "example.com": [text("v=spf1 -all")],
            "explained.example": [text("v=spf1 -all exp=why.example")],
            "why.example": [text("%{i} is not ours")],
            "broken.example": [error.DNSServerError()],
        }
    )
    assert refusalOf(layerOf(zone, spf="reject"), sessionOf("192.0.2.9"), **sender) == refusal
    session = sessionOf("192.0.2.9")
    mailFrom(layerOf(zone), session, **sender)
    assert session.of(SenderAuthentication).spf.result in ("fail", "temperror")


def test_a_forged_name_in_helo_is_refused_too() -> None:
    zone = Zone({"host.example": [text("v=spf1 -all")]})
    code, enhanced, message = refusalOf(layerOf(zone, spf="reject"), sessionOf())
    assert (code, enhanced, message) == (550, "5.7.23", "SPF: host.example does not allow mail from 192.0.2.1")


@pytest.mark.parametrize("policy", ["v=spf1 ~all", "v=spf1 ?all", "v=spf1 +all", "v=spf1 nonsense", "no record at all"])
def test_only_a_clear_statement_refuses(policy: str) -> None:
    zone = Zone({"example.com": [text(policy)], "host.example": [error.DNSServerError()]})
    mailFrom(layerOf(zone, spf="reject"), sessionOf())


def dmarcRefusal(zone: Zone, message: bytes, **options: Any) -> tuple[int | None, str | None, str] | None:
    layer, session = layerOf(zone, **options), sessionOf("192.0.2.9")
    mailFrom(layer, session)
    try:
        inspect(layer, session, message)
    except SMTPError as refusal:
        return refusal.responseCode, refusal.enhancedCode, refusal.message
    return None


UNSIGNED = b"From: a@sub.example.com\r\n\r\nbody\r\n"


@pytest.mark.parametrize(
    "policy, message, refusal",
    [
        (
            "v=DMARC1; p=reject",
            UNSIGNED,
            (550, "5.7.1", "DMARC: example.com asks to refuse what is not authenticated as from sub.example.com"),
        ),
        ("v=DMARC1; p=quarantine", UNSIGNED, None),
        ("v=DMARC1; p=reject; sp=none", UNSIGNED, None),
        ("no record", UNSIGNED, None),
        ("v=DMARC1; p=reject", signed(MESSAGE), None),
        ("v=DMARC1; p=none", b"To: x\r\n\r\n", (550, "5.7.1", "DMARC: there is no author in From")),
        ("v=DMARC1", b"A: b\r\n" * 1001 + UNSIGNED, (550, "5.7.1", "DMARC: the header has more than 1000 fields")),
    ],
)
def test_what_the_domain_of_the_author_asks_for_is_done_if_the_operator_wants(
    policy: str, message: bytes, refusal: tuple[int, str, str] | None
) -> None:
    zone = Zone(records(**{"_dmarc.example.com": [text(policy)]}))
    assert dmarcRefusal(zone, message, dmarc="reject") == refusal
    assert dmarcRefusal(zone, message) is None


TRY_AGAIN = (451, "4.7.1", "DMARC of sub.example.com cannot be checked now, please try again")


@pytest.mark.parametrize(
    "changes, refusal",
    [
        ({"_dmarc.example.com": [error.DNSServerError()]}, TRY_AGAIN),
        ({"test._domainkey.example.com": [error.DNSServerError()]}, TRY_AGAIN),
        (
            {
                "test._domainkey.example.com": [error.DNSServerError()],
                "_dmarc.example.com": [text("v=DMARC1; p=quarantine")],
            },
            None,
        ),
    ],
)
def test_a_message_that_might_be_refused_is_put_off_while_the_dns_cannot_tell(
    changes: dict[str, Any], refusal: tuple[int, str, str] | None
) -> None:
    message = signed(UNSIGNED)
    assert dmarcRefusal(Zone(records(**changes)), message, dmarc="reject") == refusal
    assert dmarcRefusal(Zone(records(**changes)), message) is None


# --- Options ---


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"spf": "yes"}, 'option spf is \'yes\', it wants "record" or "reject"'),
        ({"dmarc": "quarantine"}, 'option dmarc is \'quarantine\', it wants "record" or "reject"'),
        ({"timeout": 0}, "option timeout is 0, it wants a number of seconds above 0"),
        ({"name": "a b"}, "option name is 'a b', it wants a host name"),
        ({"resolver": 3}, "option resolver is 3, it wants a Twisted IResolver"),
        ({"spff": "record"}, "unknown option spff, did you mean spf?"),
    ],
)
def test_a_wrong_option_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError) as wrong:
        SenderAuthentication(**options)
    assert str(wrong.value) == sentence


@pytest.mark.parametrize(
    "server, pair",
    [
        ("192.0.2.53", ("192.0.2.53", 53)),
        ("192.0.2.53:5353", ("192.0.2.53", 5353)),
        ("2001:db8::53", ("2001:db8::53", 53)),
        ("[2001:db8::53]:5353", ("2001:db8::53", 5353)),
    ],
)
def test_servers_are_addresses_with_or_without_a_port(server: str, pair: tuple[str, int]) -> None:
    assert SenderAuthentication(servers=[server]).servers == (pair,)


@pytest.mark.parametrize("server", ["", "ns.example", "192.0.2.53:", "192.0.2.53:0", "192.0.2.53:x", 53, ("x", 1)])
def test_what_is_no_address_of_a_server_is_refused(server: Any) -> None:
    with pytest.raises(OptionError, match=r"option servers is .*, it wants addresses of DNS servers"):
        SenderAuthentication(servers=[server])


def test_without_the_extra_the_layers_can_be_imported_and_the_error_names_it() -> None:
    script = (
        "import sys\n"
        "sys.modules.update({'spf': None, 'dkim': None, 'authres': None})\n"
        "from smtphooks.layers import SenderAuthentication\n"
        "try:\n"
        "    SenderAuthentication()\n"
        "except ValueError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("OptionError SenderAuthentication needs libraries that are not installed (")
    assert done.stdout.endswith("): install smtphooks[authentication]\n")


def test_the_documentation_has_every_option_with_its_default() -> None:
    rows = re.findall(r"^``(\w+)`` +``(.+?)``  ", DOCUMENTATION.read_text(), re.MULTILINE)
    documented = {name: ast.literal_eval(default) for name, default in rows}
    fields = [field for field in attrs.fields(SenderAuthentication) if field.init]
    defaults = {field.name: list(field.default) if field.default == () else field.default for field in fields}
    assert documented == defaults


# --- A DNS server, and a message of 25 MB ---


def test_the_servers_of_the_system_are_asked_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    # That of client.getResolver() would keep what a sender makes us ask for as long as the sender says.
    made: list[str] = []

    def make(resolv: str) -> Any:
        made.append(resolv)
        return zone

    zone = Zone(records())
    monkeypatch.setattr(client, "Resolver", make)
    layer, session = SenderAuthentication(), sessionOf()
    for _ in range(2):
        mailFrom(layer, session)
    assert made == ["/etc/resolv.conf"]
    assert len(zone.asked) == 4


def test_a_layer_that_has_stopped_leaves_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(client, "Resolver", partial(client.Resolver, reactor=clock))
    layer = SenderAuthentication()
    layer._resolver()
    assert clock.getDelayedCalls()  # /etc/resolv.conf is read again from time to time
    layer.onStop(None)
    clock.advance(1000)
    assert not clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_a_dns_server_is_asked_over_udp_and_tcp() -> None:
    server = NameServer(records())
    server.zone.records["host.example"] = [text("v=spf1 ip4:192.0.2.1 -all"), text("x" * 1000)]
    layer, session = SenderAuthentication(servers=[server.address]), sessionOf()
    try:
        await layer.onMailFrom(Address("a@example.com", "a", "example.com"), session)
        message = signed(MESSAGE)
        await layer.inspectData(streamOf(message), session)
        found = session.of(layer)
        assert (found.spf.result, found.helo.result) == ("pass", "pass")
        assert found.dmarc.result == "pass"
        asked = [name for name, _ in server.zone.asked]
        assert asked.count("host.example") == 2  # the answer was truncated
        assert [result.result for result in found.dkim] == ["pass"]
        await layer.onMailFrom(Address("a@none.example", "a", "none.example"), session)
        assert found.spf.result == "none"
    finally:
        layer.onStop(None)
        await server.stop()


def test_a_large_message_is_hashed_as_it_arrives_and_none_of_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, session = layerOf(), sessionOf()
    mailFrom(layer, session)
    body = b"0123456789 abcdef\t\r\n" * 52_429
    message = signed(MESSAGE[: MESSAGE.index(b"\r\n\r\n") + 4] + body * 25)
    assert len(message) > 25 << 20
    steps: list[int] = []
    feed = BodyHash.feed

    def counting(body: BodyHash, data: bytes) -> None:
        steps.append(len(data))
        feed(body, data)

    monkeypatch.setattr(BodyHash, "feed", counting)
    stream = MessageStream()
    reading = Deferred.fromCoroutine(layer.inspectData(stream, session))
    for start in range(0, len(message), 65536):
        before = len(steps)
        stream.append(message[start : start + 65536])
        assert (len(steps) - before, stream.buffered) == (1, 0)
    stream.append(b"", isLast=True)
    now(reading)
    assert [result.result for result in session.of(layer).dkim] == ["pass"]
    assert max(steps) <= 65536


# --- A whole server ---


def overTCP(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Run a test with a server over TCP, a client that has connected, a DNS server, and the mailbox."""

    def decorate(test: Callable[..., Any]) -> Any:
        @served
        async def run(serve: Any) -> None:
            names = NameServer(records(**{"example.com": [text("v=spf1 ip4:127.0.0.1 -all")], **CLIENT}))
            layer, mailbox = SenderAuthentication(servers=[names.address], **options), Mailbox()
            delivery = SimpleNamespace(onData=mailbox.onData)
            server = await serve(hooks=[layer, delivery], size=5000)
            try:
                client = await server.connect()
                await client.until(b"220 mx.test ESMTP\r\n")
                await test(client, names, mailbox)
                client.say("QUIT")
                await client.lost
            finally:
                layer.onStop(None)
                await names.stop()

        run.__name__ = test.__name__
        return run

    return decorate


CLIENT = {"client.test": [text("v=spf1 ip4:127.0.0.1 -all")]}
HEADER = "EHLO client.test", "MAIL FROM:<a@example.com>", "RCPT TO:<b@mx.test>"


def lines(message: bytes) -> list[str]:
    return message.decode("latin-1").removesuffix("\r\n").split("\r\n")


@overTCP(spf="reject", dmarc="reject")
async def test_signed_mail_comes_through_with_our_field_and_without_forged_ones(
    client: Any, names: NameServer, mailbox: Mailbox
) -> None:
    forged = b"Authentication-Results: mx.test; dkim=pass header.d=bank.example\r\n"
    message = signed(MESSAGE)
    client.say(*HEADER, "DATA")
    await client.until(b"354 ")
    client.say(*lines(forged + message), ".")
    await client.until(b"250 2.0.0 Message accepted\r\n")
    (stored,) = mailbox
    assert stored.endswith(message)
    assert stored.startswith(
        b"Authentication-Results: mx.test;\r\n\tspf=pass smtp.mailfrom=example.com;\r\n"
        b"\tspf=pass smtp.helo=client.test;\r\n\tdkim=pass header.d=example.com header.s=test header.a=rsa-sha256 "
    )
    assert b"\tdmarc=pass header.from=example.com policy.dmarc=reject\r\n" in stored
    assert forged not in stored


@overTCP(spf="reject", dmarc="reject")
async def test_forged_mail_is_refused_and_the_connection_goes_on(
    client: Any, names: NameServer, mailbox: Mailbox
) -> None:
    names.zone.records["forged.example"] = [text("v=spf1 -all")]
    client.say(HEADER[0], "MAIL FROM:<a@forged.example>")
    await client.until(b"550 5.7.23 SPF: forged.example does not allow mail from 127.0.0.1\r\n")
    names.zone.records["example.com"] = []
    client.say(*HEADER, "DATA")
    await client.until(b"354 ")
    client.say(*lines(signed(MESSAGE).replace(b"This is", b"This was")), "and more", ".")
    await client.until(b"550 5.7.1 DMARC: example.com asks to refuse what is not authenticated as from example.com\r\n")
    client.say("NOOP")
    await client.until(b"250 ")
    assert mailbox == []


@overTCP()
async def test_our_field_does_not_count_for_the_size_of_a_message(
    client: Any, names: NameServer, mailbox: Mailbox
) -> None:
    message = b"Subject: x\r\n\r\n" + b"x" * 4982 + b"\r\n"
    assert len(message) == 4998
    client.say(*HEADER, "DATA")
    await client.until(b"354 ")
    client.say(*lines(message), ".")
    await client.until(b"250 2.0.0 Message accepted\r\n")
    assert mailbox[0].endswith(message)
    assert len(mailbox[0]) > 5000
