"""The client against Postfix: all mechanisms and extensions that it has."""

from __future__ import annotations

from email import message_from_bytes, policy
from typing import Any

import pytest
import pytest_twisted

from smtphooks.client import NotOffered, Refused, Route, SMTPClient
from tests.real.client.conftest import Talk, routeOf
from tests.real.client.test_every import HEADER, MESSAGE, RECIPIENT, SENDER
from tests.real.mta.contained import DOMAIN, USER
from tests.real.mta.dovecot import Dovecot
from tests.real.mta.postfix import PostfixServer
from tests.secrets import PASSWORD, WRONG_PASSWORD, secretsIn


@pytest_twisted.ensureDeferred
async def test_the_whole_envelope_goes_out_at_once(
    postfixServer: PostfixServer, client: SMTPClient, talk: Talk
) -> None:
    await client.send(routeOf(postfixServer), SENDER, [RECIPIENT, f"carol@{DOMAIN}"], MESSAGE)
    start = next(i for i, (_, line) in enumerate(talk) if line.startswith("MAIL"))
    assert [line[:4] for _, line in talk[start : start + 8]] == [
        "MAIL",
        "RCPT",
        "RCPT",
        "DATA",
        "250 ",
        "250 ",
        "250 ",
        "354 ",
    ]


class TestAUTH:
    @pytest.mark.parametrize("tls", ["none", "required", "implicit"])
    @pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN"])
    @pytest_twisted.ensureDeferred
    async def test_the_user_is_known_to_the_server(
        self, postfixServer: PostfixServer, client: SMTPClient, talk: Talk, mechanism: str, tls: str
    ) -> None:
        route = routeOf(postfixServer, tls, user=USER, password=PASSWORD, authMethods=[mechanism])
        assert (await client.send(route, SENDER, [f"{mechanism}.{tls}@{DOMAIN}"], MESSAGE)).isWhole
        postfixServer.waitFor()
        postfixServer.waitForLine(f"sasl_method={mechanism}, sasl_username={USER}")
        assert not secretsIn(repr(talk))

    @pytest_twisted.ensureDeferred
    async def test_the_one_that_does_not_show_the_password_is_taken(
        self, postfixServer: PostfixServer, client: SMTPClient, talk: Talk
    ) -> None:
        route = routeOf(postfixServer, user=USER, password=PASSWORD)
        (await client.begin(route, SENDER)).abandon()
        assert talk.said("AUTH")[0] == "AUTH SCRAM-SHA-256 …"

    @pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN"])
    @pytest_twisted.ensureDeferred
    async def test_a_wrong_password_is_refused(
        self, postfixServer: PostfixServer, client: SMTPClient, talk: Talk, mechanism: str
    ) -> None:
        route = routeOf(postfixServer, user=USER, password=WRONG_PASSWORD, authMethods=[mechanism])
        with pytest.raises(Refused) as caught:
            await client.begin(route, SENDER)
        assert caught.value.reply is not None
        assert (caught.value.reply.code, caught.value.reply.enhancedCode) == (535, "5.7.8")
        assert not secretsIn(repr(talk) + repr(caught.value))

    @pytest_twisted.ensureDeferred
    async def test_a_token_is_taken_until_it_expires(
        self, postfixServer: PostfixServer, dovecot: Dovecot, client: SMTPClient, talk: Talk
    ) -> None:
        def route(seconds: float) -> Route:
            return routeOf(postfixServer, "required", user=USER, token=dovecot.token(USER, seconds))

        assert (await client.send(route(600), SENDER, [RECIPIENT], MESSAGE)).isWhole
        postfixServer.waitForLine(f"sasl_method=XOAUTH2, sasl_username={USER}")
        with pytest.raises(Refused, match="535"):
            await client.begin(route(-600), SENDER)

    @pytest_twisted.ensureDeferred
    async def test_users_share_no_connection(
        self, postfixServer: PostfixServer, client: SMTPClient, talk: Talk
    ) -> None:
        for credentials in ({}, {"user": USER, "password": PASSWORD}, {}):
            given: dict[str, Any] = credentials
            await client.send(routeOf(postfixServer, **given), SENDER, [RECIPIENT], MESSAGE)
        assert talk.connections == 2


class TestWhatAMessageNeeds:
    @pytest_twisted.ensureDeferred
    async def test_8bit_content_is_announced_and_stored_as_it_is(
        self, postfixServer: PostfixServer, client: SMTPClient, talk: Talk
    ) -> None:
        message = HEADER + b"\r\n" + bytes(range(128, 256)) + "\r\nGrüße\r\n".encode()
        assert (await client.send(routeOf(postfixServer), SENDER, [RECIPIENT], message)).isWhole
        assert talk.said("MAIL") == [f"MAIL FROM:<{SENDER}> SIZE={len(message)} BODY=8BITMIME"]
        assert postfixServer.waitFor()[0].content.endswith(b"\r\n" + message)

    @pytest_twisted.ensureDeferred
    async def test_internationalized_addresses_are_stored_as_they_are(
        self, postfixServer: PostfixServer, client: SMTPClient, talk: Talk
    ) -> None:
        sender, recipient = "jürgen@here.example", f"小明@{DOMAIN}"
        message = "Subject: Grüße\r\n\r\nおはよう\r\n".encode()
        assert (await client.send(routeOf(postfixServer), sender, [recipient], message)).isWhole
        assert talk.said("MAIL")[0].endswith(" SMTPUTF8")
        (stored,) = postfixServer.waitFor()
        assert (stored.sender, stored.recipients) == (sender, (recipient,))
        assert b" with UTF8SMTP id " in stored.content
        assert stored.content.endswith(b"\r\n" + message)

    @pytest_twisted.ensureDeferred
    async def test_binary_content_is_not_offered(self, postfixServer: PostfixServer, client: SMTPClient) -> None:
        with pytest.raises(NotOffered, match="BINARYMIME"):
            await client.begin(routeOf(postfixServer), SENDER, {"BODY": "BINARYMIME"})

    @pytest.mark.parametrize("size", [0, 1, 262_144, 262_145, 1_000_000])
    @pytest_twisted.ensureDeferred
    async def test_chunks_are_stored_as_they_are(
        self, postfixServer: PostfixServer, client: SMTPClient, talk: Talk, size: int
    ) -> None:
        """Postfix offers CHUNKING without BINARYMIME, for which alone the client uses it: so it is told to."""
        message = HEADER + b"\r\n" + b".\r\n" * (size // 3)
        transaction = await client.begin(routeOf(postfixServer), SENDER)
        await transaction.rcpt(RECIPIENT)
        transaction.isInChunks = True
        assert [reply.code for reply in await transaction.data(message)] == [250]
        assert talk.said("DATA") == []
        assert postfixServer.waitFor()[0].content.endswith(b"\r\n" + message)
        assert (await client.send(routeOf(postfixServer), SENDER, [RECIPIENT], MESSAGE)).isWhole
        assert talk.connections == 1

    @pytest_twisted.ensureDeferred
    async def test_a_notification_has_what_the_envelope_said(
        self, postfixServer: PostfixServer, client: SMTPClient
    ) -> None:
        delivery = await client.send(
            routeOf(postfixServer),
            SENDER,
            [RECIPIENT, f"carol@{DOMAIN}"],
            MESSAGE,
            mailArgs={"RET": "HDRS", "ENVID": "id+1=2 3"},
            rcptArgs=[{"NOTIFY": "SUCCESS", "ORCPT": "rfc822;bob+ö@old.example"}, {"NOTIFY": "NEVER"}],
        )
        assert delivery.isWhole
        (notification,) = [each for each in postfixServer.waitFor(3) if each.sender == ""]
        assert notification.recipients == (SENDER,)
        report = message_from_bytes(notification.content, policy=policy.default)
        assert report.get_content_type() == "multipart/report"
        assert b"Original-Envelope-Id: id+1=2 3" in notification.content
        assert b"Original-Recipient: rfc822;bob+" in notification.content
        assert f"Final-Recipient: rfc822; {RECIPIENT}".encode() in notification.content
        assert b"carol" not in notification.content
        assert b"What is to be stored" not in notification.content  # RET=HDRS


class TestWhoTheClientIs:
    @pytest_twisted.ensureDeferred
    async def test_XCLIENT_tells_it_to_the_log_and_the_trace(
        self, postfixServer: PostfixServer, client: SMTPClient, talk: Talk
    ) -> None:
        who = (
            ("NAME", "mail.sender.example"),
            ("ADDR", "192.0.2.7"),
            ("PORT", "4711"),
            ("PROTO", "ESMTP"),
            ("HELO", "helo.sender.example"),
            ("LOGIN", "bo+b=x"),
        )
        assert (await client.send(routeOf(postfixServer, xClient=who), SENDER, [RECIPIENT], MESSAGE)).isWhole
        (stored,) = postfixServer.waitFor()
        assert b"from helo.sender.example (mail.sender.example [192.0.2.7])" in stored.content
        postfixServer.waitForLine("client=mail.sender.example[192.0.2.7]", "sasl_username=bo+b=x")
        assert talk.said("EHLO") == ["EHLO client.example", "EHLO helo.sender.example"]

    @pytest_twisted.ensureDeferred
    async def test_XCLIENT_tells_an_IPv6_address_behind_TLS(
        self, postfixServer: PostfixServer, client: SMTPClient
    ) -> None:
        who = (("ADDR", "IPV6:2001:db8::7"), ("NAME", "[UNAVAILABLE]"), ("HELO", "six.example"))
        route = routeOf(postfixServer, "required", xClient=who)
        assert (await client.send(route, SENDER, [RECIPIENT], MESSAGE)).isWhole
        assert b"from six.example (unknown [IPv6:2001:db8::7])" in postfixServer.waitFor()[0].content

    @pytest_twisted.ensureDeferred
    async def test_clients_share_no_connection(
        self, postfixServer: PostfixServer, client: SMTPClient, talk: Talk
    ) -> None:
        for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1"):
            await client.send(routeOf(postfixServer, xClient=(("ADDR", address),)), SENDER, [RECIPIENT], MESSAGE)
        assert len(talk.said("XCLIENT")) == 2
        found = [
            address
            for each in postfixServer.waitFor(3)
            for address in (b"192.0.2.1", b"192.0.2.2")
            if address in each.content
        ]
        assert sorted(found) == [b"192.0.2.1", b"192.0.2.1", b"192.0.2.2"]

    @pytest_twisted.ensureDeferred
    async def test_XFORWARD_tells_it_for_each_message_of_a_connection(
        self, postfixServer: PostfixServer, client: SMTPClient, talk: Talk
    ) -> None:
        for number in (1, 2):
            attributes = {
                "NAME": f"mail{number}.sender.example",
                "ADDR": f"192.0.2.{number}",
                "PORT": "4711",
                "PROTO": "ESMTP",
                "HELO": "with space.example",
                "IDENT": f"QUEUE{number}",
                "SOURCE": "REMOTE",
            }
            delivery = await client.send(routeOf(postfixServer), SENDER, [RECIPIENT], MESSAGE, xForward=attributes)
            assert delivery.isWhole
            postfixServer.waitForLine(
                f"orig_queue_id=QUEUE{number}", f"orig_client=mail{number}.sender.example[192.0.2.{number}]"
            )
        assert talk.connections == 1
        assert len(talk.said("XFORWARD")) == 2

    @pytest_twisted.ensureDeferred
    async def test_attributes_that_fill_more_than_a_line_are_told_in_several(
        self, postfixServer: PostfixServer, client: SMTPClient, talk: Talk
    ) -> None:
        name = ".".join(["n" * 60] * 4)
        attributes = {"NAME": name, "ADDR": "192.0.2.1", "HELO": " ".join(["h" * 60] * 4), "IDENT": "i" * 200}
        assert (await client.send(routeOf(postfixServer), SENDER, [RECIPIENT], MESSAGE, xForward=attributes)).isWhole
        lines = talk.said("XFORWARD")
        assert len(lines) == 2
        assert all(len(line) <= 510 for line in lines)
        postfixServer.waitForLine(f"orig_client={name}[192.0.2.1]")
