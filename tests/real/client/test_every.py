"""The client against every server: what all of them must have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_twisted
from twisted.internet import defer

from smtphooks.client import NotOffered, SMTPClient, Timeouts, Unreachable
from tests.real.client.conftest import Talk, routeOf
from tests.real.mta.contained import DOMAIN, LATER, MAX_SIZE, NOBODY, Server, needsTLS
from tests.real.mta.exim import Exim
from tests.real.mta.opensmtpd import OpenSMTPD

SENDER, RECIPIENT = "sender@here.example", f"bob@{DOMAIN}"
HEADER = b"Subject: hello\r\nDate: Thu, 26 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@here.example>\r\n"
MESSAGE = HEADER + b"\r\nWhat is to be stored.\r\n"

EDGES = {
    "onlyDot": b".\r\n",
    "twoDots": b"..\r\n",
    "dotLines": b".\r\n.\r\n..\r\n...\r\n.x\r\n",
    "endInBody": b"a\r\n.\r\nQUIT\r\n",
    "endsWithDot": b"a\r\n.",
    "noLastLineEnd": b"a",
    "emptyLines": b"\r\n\r\n\r\n",
    "noBody": b"",
    "from": b"From me\r\n>From me\r\n",
    "longLine": b"x" * 998 + b"\r\n",
}


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest_twisted.ensureDeferred
async def test_what_looks_like_an_end_is_stored_as_it_was(server: Server, client: SMTPClient, size: int) -> None:
    """However the content is cut."""
    for i, (name, body) in enumerate(EDGES.items()):
        message = HEADER + f"X-Edge: {name}\r\n\r\n".encode() + body
        delivery = await client.send(routeOf(server), SENDER, [RECIPIENT], pieces(message, size))
        assert delivery.isWhole
        (found,) = [each.content for each in server.waitFor(i + 1) if f"X-Edge: {name}\r\n".encode() in each.content]
        if not message.endswith(b"\r\n"):
            message += b"\r\n"
        assert found.endswith(b"\r\n" + message)


async def pieces(message: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(message), size):
        yield message[start : start + size]


@pytest_twisted.ensureDeferred
async def test_five_mebibytes_are_stored_octet_for_octet(server: Server, client: SMTPClient) -> None:
    line = b".%078d\r\n"
    message = HEADER + b"\r\n" + b"".join(line % n for n in range(5 * 1024 * 1024 // 81))
    assert (await client.send(routeOf(server), SENDER, [RECIPIENT], pieces(message, 65_521))).isWhole
    (stored,) = server.waitFor()
    assert stored.content.endswith(b"\r\n" + message)


@pytest_twisted.ensureDeferred
async def test_who_is_refused_takes_nothing_from_the_others(server: Server, client: SMTPClient) -> None:
    carol = f"carol@{DOMAIN}"
    recipients = [NOBODY, RECIPIENT, NOBODY, carol]
    if not isinstance(server, OpenSMTPD):
        recipients.append(LATER)
    delivery = await client.send(routeOf(server), SENDER, recipients, MESSAGE)
    codes = {number: reply.code for number, reply in delivery.refused.items()}
    assert codes == {0: 550, 2: 550, **({} if isinstance(server, OpenSMTPD) else {4: 451 if is451(server) else 450})}
    assert not delivery.isWhole
    stored = server.waitFor(1 if isinstance(server, Exim) else 2)
    assert sorted(name for each in stored for name in each.recipients) == [RECIPIENT, carol]


def is451(server: Server) -> bool:
    return type(server).__name__ == "Dovecot"


@pytest_twisted.ensureDeferred
async def test_no_message_is_sent_where_all_are_refused(server: Server, client: SMTPClient) -> None:
    delivery = await client.send(routeOf(server), SENDER, [NOBODY], MESSAGE)
    assert (len(delivery.refused), delivery.replies) == (1, [])
    assert (await client.send(routeOf(server), SENDER, [RECIPIENT], MESSAGE)).isWhole
    # DATA may go out with RCPT: then an empty message, for nobody, ends what the server has begun.
    assert len(server.waitFor()) == 1


@pytest_twisted.ensureDeferred
async def test_one_connection_takes_many_transactions(server: Server, client: SMTPClient, talk: Talk) -> None:
    for number in range(10):
        transaction = await client.begin(routeOf(server), SENDER)
        assert (await transaction.rcpt(f"user{number}@{DOMAIN}")).code == 250
        if number % 2:
            transaction.abandon()
        else:
            assert [reply.code for reply in await transaction.data(MESSAGE)] == [250]
    # While RSET has no reply yet, the next transaction is on another one.
    assert talk.connections <= 2
    assert len(talk.said("RSET")) == 5
    assert {each.recipients for each in server.waitFor(5)} == {(f"user{n}@{DOMAIN}",) for n in range(0, 10, 2)}


@pytest_twisted.ensureDeferred
async def test_many_at_once_are_stored_once_each(server: Server, talk: Talk) -> None:
    # OpenSMTPD listens with a backlog of 5: more connections at once would wait for many seconds.
    client = SMTPClient(connections=5, transcript=lambda direction, line: talk.append((direction, line)))
    sent = [client.send(routeOf(server), SENDER, [f"user{n}@{DOMAIN}"], MESSAGE) for n in range(30)]
    deliveries = await defer.gatherResults([defer.ensureDeferred(each) for each in sent])
    assert all(delivery.isWhole for delivery in deliveries)
    assert sorted(each.recipients for each in server.waitFor(30)) == sorted((f"user{n}@{DOMAIN}",) for n in range(30))
    assert talk.connections <= 5
    await client.close()


class Fault(Exception):
    pass


@pytest_twisted.ensureDeferred
async def test_half_a_message_is_never_stored(server: Server, client: SMTPClient) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield MESSAGE
        raise Fault

    with pytest.raises(Fault):
        await client.send(routeOf(server), SENDER, [RECIPIENT], failing())
    other = f"carol@{DOMAIN}"
    assert (await client.send(routeOf(server), SENDER, [other], MESSAGE)).isWhole
    assert [each.recipients for each in server.waitFor()] == [(other,)]


@pytest_twisted.ensureDeferred
async def test_a_cancelled_message_is_never_stored(server: Server, client: SMTPClient) -> None:
    from twisted.internet import reactor

    never: defer.Deferred[None] = defer.Deferred()
    begun: defer.Deferred[None] = defer.Deferred()

    async def endless() -> AsyncIterator[bytes]:
        yield MESSAGE
        # Not from within: what runs cannot be cancelled.
        reactor.callLater(0, begun.callback, None)
        await never

    sending = defer.ensureDeferred(client.send(routeOf(server), SENDER, [RECIPIENT], endless()))
    await begun
    sending.cancel()
    with pytest.raises(defer.CancelledError):
        await sending
    other = f"carol@{DOMAIN}"
    assert (await client.send(routeOf(server), SENDER, [other], MESSAGE)).isWhole
    assert [each.recipients for each in server.waitFor()] == [(other,)]


class TestServersThatDie:
    @pytest_twisted.ensureDeferred
    async def test_a_connection_that_has_gone_stale_is_made_anew(
        self, server: Server, client: SMTPClient, talk: Talk
    ) -> None:
        await client.send(routeOf(server), SENDER, [RECIPIENT], MESSAGE)
        server.waitFor()
        server.restart()
        other = f"carol@{DOMAIN}"
        assert (await client.send(routeOf(server), SENDER, [other], MESSAGE)).isWhole
        assert (other,) in [each.recipients for each in server.waitFor(2)]
        assert talk.connections == 2

    @pytest_twisted.ensureDeferred
    async def test_one_that_is_dead_is_unreachable_until_it_is_back(self, server: Server, client: SMTPClient) -> None:
        transaction = await client.begin(routeOf(server), SENDER)
        await transaction.rcpt(RECIPIENT)
        server.kill()
        with pytest.raises(Unreachable, match="the connection is lost"):
            await transaction.data(MESSAGE)
        with pytest.raises(Unreachable, match="cannot be reached"):
            await client.send(routeOf(server), SENDER, [RECIPIENT], MESSAGE)
        server.start()
        assert (await client.send(routeOf(server), SENDER, [RECIPIENT], MESSAGE)).isWhole

    @pytest_twisted.ensureDeferred
    async def test_one_that_hangs_is_given_up_and_its_connection_with_it(self, server: Server, talk: Talk) -> None:
        client = SMTPClient(
            timeouts=Timeouts(command=0.2), transcript=lambda direction, line: talk.append((direction, line))
        )
        await client.send(routeOf(server), SENDER, [RECIPIENT], MESSAGE)
        transaction = await client.begin(routeOf(server), SENDER)
        server.pause()
        with pytest.raises(Unreachable, match=r"has not answered RCPT within 0\.2 seconds"):
            await transaction.rcpt(RECIPIENT)
        server.resume()
        patient = SMTPClient(transcript=lambda direction, line: talk.append((direction, line)))
        assert (await patient.send(routeOf(server), SENDER, [RECIPIENT], MESSAGE)).isWhole
        assert talk.connections == 2
        await client.close()
        await patient.close()


class TestTLS:
    @pytest.mark.parametrize("tls", ["required", "implicit"])
    @pytest_twisted.ensureDeferred
    async def test_a_verified_server_has_the_message(self, server: Server, client: SMTPClient, tls: str) -> None:
        needsTLS(server)
        transaction = await client.begin(routeOf(server, tls), SENDER)
        assert (transaction.isSecure, transaction.isVerified) == (True, True)
        await transaction.rcpt(RECIPIENT)
        await transaction.data(MESSAGE)
        (stored,) = server.waitFor()
        assert stored.content.endswith(b"\r\n" + MESSAGE)

    @pytest.mark.parametrize("tls", ["required", "implicit"])
    @pytest_twisted.ensureDeferred
    async def test_one_that_cannot_be_verified_has_not(
        self, server: Server, client: SMTPClient, talk: Talk, otherAuthority: str, tls: str
    ) -> None:
        needsTLS(server)
        with pytest.raises(Unreachable, match="signed by no authority that is trusted here"):
            await client.send(routeOf(server, tls, ca=otherAuthority), SENDER, [RECIPIENT], MESSAGE)
        with pytest.raises(Unreachable, match=r"its certificate is not for other\.example"):
            await client.send(routeOf(server, tls, servername="other.example"), SENDER, [RECIPIENT], MESSAGE)
        assert talk.said("MAIL") == []

    @pytest_twisted.ensureDeferred
    async def test_TLS_is_taken_with_any_certificate_where_it_is_not_required(
        self, server: Server, client: SMTPClient, otherAuthority: str
    ) -> None:
        needsTLS(server)
        route = routeOf(server, "opportunistic", ca=otherAuthority, servername="other.example")
        transaction = await client.begin(route, SENDER)
        assert (transaction.isSecure, transaction.isVerified) == (True, False)
        transaction.abandon()

    @pytest_twisted.ensureDeferred
    async def test_a_connection_with_TLS_is_not_one_without(
        self, server: Server, client: SMTPClient, talk: Talk
    ) -> None:
        needsTLS(server)
        for tls in ("none", "required", "implicit", "none", "required"):
            assert (await client.send(routeOf(server, tls), SENDER, [RECIPIENT], MESSAGE)).isWhole
        assert talk.connections == 3

    @pytest_twisted.ensureDeferred
    async def test_a_large_message_goes_through_TLS_as_it_is(self, server: Server, client: SMTPClient) -> None:
        needsTLS(server)
        message = HEADER + b"\r\n" + b".%078d\r\n" * 20_000 % tuple(range(20_000))
        assert (await client.send(routeOf(server, "implicit"), SENDER, [RECIPIENT], message)).isWhole
        (stored,) = server.waitFor()
        assert stored.content.endswith(b"\r\n" + message)


class TestSize:
    @pytest_twisted.ensureDeferred
    async def test_what_is_known_to_be_too_large_is_not_sent(
        self, server: Server, client: SMTPClient, talk: Talk
    ) -> None:
        if type(server).__name__ == "Dovecot":
            pytest.skip("Dovecot has no limit of size")
        message = HEADER + b"\r\n" + b"x" * 78 * (MAX_SIZE // 70)
        with pytest.raises(NotOffered) as caught:
            await client.send(routeOf(server), SENDER, [RECIPIENT], message)
        assert str(caught.value) == f"The next server takes no message of more than {MAX_SIZE} octets"
        assert talk.said("MAIL") == []

    @pytest_twisted.ensureDeferred
    async def test_what_turns_out_to_be_too_large_is_refused_by_the_server(
        self, server: Server, client: SMTPClient
    ) -> None:
        if type(server).__name__ == "Dovecot":
            pytest.skip("Dovecot has no limit of size")
        message = HEADER + b"\r\n" + (b"x" * 78 + b"\r\n") * (MAX_SIZE // 70)
        delivery = await client.send(routeOf(server), SENDER, [RECIPIENT], pieces(message, 65_536))
        (reply,) = delivery.replies
        assert reply.isPermanent
        assert (await client.send(routeOf(server), SENDER, [RECIPIENT], MESSAGE)).isWhole
        (stored,) = server.waitFor()
        assert stored.content.endswith(MESSAGE)
