"""The client against Exim, which is strict about who speaks when."""

from __future__ import annotations

from email import message_from_bytes, policy

import pytest
import pytest_twisted

from smtphooks.client import NotOffered, Refused, SMTPClient, Unreachable
from tests.real.client.conftest import Talk, routeOf
from tests.real.client.test_every import HEADER, MESSAGE, RECIPIENT, SENDER
from tests.real.mta.contained import DOMAIN, NOBODY, USER, skipUnlessPossible
from tests.real.mta.exim import Exim
from tests.secrets import PASSWORD, WRONG_PASSWORD, secretsIn


@pytest.mark.parametrize("tls", ["none", "required", "implicit"])
@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "PLAIN", "LOGIN"])
@pytest_twisted.ensureDeferred
async def test_the_user_is_known_to_the_server(
    exim: Exim, client: SMTPClient, talk: Talk, mechanism: str, tls: str
) -> None:
    route = routeOf(exim, tls, user=USER, password=PASSWORD, authMethods=[mechanism])
    recipient = f"{mechanism}.{tls}@{DOMAIN}"
    assert (await client.send(route, SENDER, [recipient], MESSAGE)).isWhole
    name = {"CRAM-MD5": "cram", "PLAIN": "plain", "LOGIN": "login"}[mechanism]
    protocol = "esmtpa" if tls == "none" else "esmtpsa"
    exim.waitForLine(f"P={protocol} ", f"A={name}:{USER} ", f"for {recipient}")
    assert not secretsIn(repr(talk))


@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "PLAIN", "LOGIN"])
@pytest_twisted.ensureDeferred
async def test_a_wrong_password_is_refused(exim: Exim, client: SMTPClient, mechanism: str) -> None:
    route = routeOf(exim, user=USER, password=WRONG_PASSWORD, authMethods=[mechanism])
    with pytest.raises(Refused, match="535") as caught:
        await client.begin(route, SENDER)
    assert not secretsIn(repr(caught.value))


@pytest_twisted.ensureDeferred
async def test_a_mechanism_that_is_not_offered_is_not_tried(exim: Exim, client: SMTPClient, talk: Talk) -> None:
    route = routeOf(exim, user=USER, password=PASSWORD, authMethods=["SCRAM-SHA-256"])
    with pytest.raises(Unreachable, match=f"no mechanism for user {USER}"):
        await client.begin(route, SENDER)
    assert talk.said("AUTH") == []


@pytest_twisted.ensureDeferred
async def test_commands_at_once_break_no_rule_of_synchronization(exim: Exim, client: SMTPClient, talk: Talk) -> None:
    for _ in range(3):
        delivery = await client.send(routeOf(exim), SENDER, [RECIPIENT, NOBODY, f"carol@{DOMAIN}"], MESSAGE)
        assert list(delivery.refused) == [1]
    assert talk.connections == 1
    assert "synchronization" not in exim.log()


@pytest_twisted.ensureDeferred
async def test_internationalized_addresses_are_stored_as_they_are(exim: Exim, client: SMTPClient) -> None:
    sender, recipient = "jürgen@here.example", f"小明@{DOMAIN}"
    message = "Subject: Grüße\r\n\r\nおはよう\r\n".encode()
    assert (await client.send(routeOf(exim), sender, [recipient], message)).isWhole
    (stored,) = exim.waitFor()
    assert (stored.sender, stored.recipients) == (sender, (recipient,))
    assert stored.content.endswith(b"\r\n" + message)
    exim.waitForLine("P=utf8esmtp ")


@pytest_twisted.ensureDeferred
async def test_8bit_content_is_stored_as_it_is(exim: Exim, client: SMTPClient) -> None:
    message = HEADER + b"\r\n" + bytes(range(128, 256)) + "\r\nGrüße\r\n".encode()
    assert (await client.send(routeOf(exim), SENDER, [RECIPIENT], message)).isWhole
    assert exim.waitFor()[0].content.endswith(b"\r\n" + message)


@pytest.mark.parametrize("size", [1, 262_145, 1_000_000])
@pytest_twisted.ensureDeferred
async def test_chunks_are_stored_as_they_are(exim: Exim, client: SMTPClient, talk: Talk, size: int) -> None:
    """Exim offers CHUNKING without BINARYMIME, for which alone the client uses it: so it is told to."""
    message = HEADER + b"\r\n" + b".\r\n" * (size // 3)
    transaction = await client.begin(routeOf(exim), SENDER)
    await transaction.rcpt(RECIPIENT)
    transaction.isInChunks = True
    assert [reply.code for reply in await transaction.data(message)] == [250]
    assert talk.said("DATA") == []
    assert exim.waitFor()[0].content.endswith(b"\r\n" + message)
    assert (await client.send(routeOf(exim), SENDER, [RECIPIENT], MESSAGE)).isWhole
    assert talk.connections == 1


@pytest_twisted.ensureDeferred
async def test_a_notification_has_what_the_envelope_said(exim: Exim, client: SMTPClient) -> None:
    delivery = await client.send(
        routeOf(exim),
        SENDER,
        [RECIPIENT],
        MESSAGE,
        mailArgs={"RET": "HDRS", "ENVID": "id12"},
        rcptArgs=[{"NOTIFY": "SUCCESS", "ORCPT": "rfc822;bob@old.example"}],
    )
    assert delivery.isWhole
    (notification,) = [each for each in exim.waitFor(2) if each.sender == ""]
    assert notification.recipients == (SENDER,)
    assert message_from_bytes(notification.content, policy=policy.default).get_content_type() == "multipart/report"
    assert b"Original-Envelope-ID: id12" in notification.content
    assert b"Final-Recipient: rfc822;" in notification.content


@pytest_twisted.ensureDeferred
async def test_XCLIENT_that_must_be_and_is_not_offered_ends_it(exim: Exim, client: SMTPClient, talk: Talk) -> None:
    with pytest.raises(NotOffered, match="XCLIENT"):
        await client.begin(routeOf(exim, xClient=(("ADDR", "192.0.2.7"),)), SENDER)
    assert talk.said("MAIL") == []


class TestLimits:
    """What a server says about connections is not about messages."""

    @pytest_twisted.ensureDeferred
    async def test_a_connection_that_has_had_its_share_is_replaced(self, client: SMTPClient, talk: Talk) -> None:
        skipUnlessPossible(Exim)
        with Exim(smtp_accept_max_per_connection=2) as exim:
            for _ in range(5):
                assert (await client.send(routeOf(exim), SENDER, [RECIPIENT], MESSAGE)).isWhole
            assert len(exim.waitFor(5)) == 5
            assert talk.connections == 3
            assert sum(line.startswith("421") for _, line in talk) == 2

    @pytest_twisted.ensureDeferred
    async def test_one_that_was_closed_for_its_silence_is_replaced(self, client: SMTPClient, talk: Talk) -> None:
        skipUnlessPossible(Exim)
        with Exim(smtp_receive_timeout="1s") as exim:
            assert (await client.send(routeOf(exim), SENDER, [RECIPIENT], MESSAGE)).isWhole
            exim.waitForLine("SMTP command timeout")
            assert (await client.send(routeOf(exim), SENDER, [RECIPIENT], MESSAGE)).isWhole
            assert len(exim.waitFor(2)) == 2
            assert talk.connections == 2

    @pytest_twisted.ensureDeferred
    async def test_a_server_that_is_full_is_one_for_later(self, client: SMTPClient) -> None:
        skipUnlessPossible(Exim)
        with Exim(smtp_accept_max=2) as exim:
            transaction = await client.begin(routeOf(exim), SENDER)
            # It may not have noticed that a connection from before has ended.
            others = 0
            with pytest.raises(Refused, match="421 Too many concurrent SMTP connections") as caught:
                while others < 2:
                    await client.begin(routeOf(exim), SENDER)
                    others += 1
            assert not caught.value.isPermanent
            await transaction.rcpt(RECIPIENT)
            assert [reply.code for reply in await transaction.data(MESSAGE)] == [250]
