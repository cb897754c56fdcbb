"""The client against OpenSMTPD, which takes one command at a time, and no internationalized mail."""

from __future__ import annotations

import pytest
import pytest_twisted

from smtphooks.client import NotOffered, Refused, SMTPClient, Unreachable
from tests.real.client.conftest import Talk, routeOf
from tests.real.client.test_every import HEADER, MESSAGE, RECIPIENT, SENDER
from tests.real.mta.contained import DOMAIN, NOBODY, USER, needsTLS
from tests.real.mta.opensmtpd import OpenSMTPD
from tests.secrets import PASSWORD, WRONG_PASSWORD, secretsIn


@pytest_twisted.ensureDeferred
async def test_every_command_waits_for_the_reply_to_the_one_before(
    openSMTPD: OpenSMTPD, client: SMTPClient, talk: Talk
) -> None:
    names = [RECIPIENT, NOBODY, f"carol@{DOMAIN}"]
    assert list((await client.send(routeOf(openSMTPD), SENDER, names, MESSAGE)).refused) == [1]
    said = [direction for direction, line in talk if direction == ">" or line[3:4] == " "]
    # The greeting comes first, and the reply to the message without a command.
    assert "".join(said) == "<" + "><" * 6 + "<"


@pytest_twisted.ensureDeferred
async def test_internationalized_mail_is_not_offered(openSMTPD: OpenSMTPD, client: SMTPClient, talk: Talk) -> None:
    for sender, recipient in (("jürgen@here.example", RECIPIENT), (SENDER, f"小明@{DOMAIN}")):
        with pytest.raises(NotOffered, match="SMTPUTF8"):
            await client.send(routeOf(openSMTPD), sender, [recipient], MESSAGE)
    assert talk.said("MAIL") == []


@pytest_twisted.ensureDeferred
async def test_8bit_content_is_stored_as_it_is(openSMTPD: OpenSMTPD, client: SMTPClient) -> None:
    message = HEADER + b"\r\n" + bytes(range(128, 256)) + "\r\nGrüße\r\n".encode()
    assert (await client.send(routeOf(openSMTPD), SENDER, [RECIPIENT], message)).isWhole
    assert openSMTPD.waitFor()[0].content.endswith(b"\r\n" + message)


@pytest_twisted.ensureDeferred
async def test_parameters_of_DSN_are_taken(openSMTPD: OpenSMTPD, client: SMTPClient, talk: Talk) -> None:
    delivery = await client.send(
        routeOf(openSMTPD),
        SENDER,
        [RECIPIENT],
        MESSAGE,
        mailArgs={"RET": "HDRS", "ENVID": "id12"},
        rcptArgs=[{"NOTIFY": "FAILURE,DELAY", "ORCPT": "rfc822;bob@old.example"}],
    )
    assert delivery.isWhole
    assert talk.said("RCPT") == [f"RCPT TO:<{RECIPIENT}> NOTIFY=FAILURE,DELAY ORCPT=rfc822;bob@old.example"]


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest_twisted.ensureDeferred
async def test_the_user_is_known_to_the_server(
    openSMTPD: OpenSMTPD, client: SMTPClient, talk: Talk, mechanism: str
) -> None:
    needsTLS(openSMTPD)
    route = routeOf(openSMTPD, "required", user=USER, password=PASSWORD, authMethods=[mechanism])
    assert (await client.send(route, SENDER, [RECIPIENT], MESSAGE)).isWhole
    openSMTPD.waitForLine("smtp authentication", f"user={USER}", "result=ok")
    route = routeOf(openSMTPD, "required", user=USER, password=WRONG_PASSWORD, authMethods=[mechanism])
    with pytest.raises(Refused, match="535"):
        await client.begin(route, SENDER)
    assert not secretsIn(repr(talk))


@pytest_twisted.ensureDeferred
async def test_no_password_is_said_where_AUTH_is_not_offered(
    openSMTPD: OpenSMTPD, client: SMTPClient, talk: Talk
) -> None:
    with pytest.raises(Unreachable, match="offers nothing for AUTH"):
        await client.begin(routeOf(openSMTPD, user=USER, password=PASSWORD), SENDER)
    assert talk.said("AUTH") == []


@pytest_twisted.ensureDeferred
async def test_TLS_that_is_not_required_stands_in_no_ones_way(openSMTPD: OpenSMTPD, client: SMTPClient) -> None:
    """Also where every handshake fails, as with OpenSMTPD of Debian 12."""
    assert (await client.send(routeOf(openSMTPD, "opportunistic"), SENDER, [RECIPIENT], MESSAGE)).isWhole
    assert openSMTPD.waitFor()[0].content.endswith(b"\r\n" + MESSAGE)


@pytest_twisted.ensureDeferred
async def test_a_message_without_a_header_is_refused_at_its_end(openSMTPD: OpenSMTPD, client: SMTPClient) -> None:
    delivery = await client.send(routeOf(openSMTPD), SENDER, [RECIPIENT], b"without a header\r\n")
    assert [reply.code for reply in delivery.replies] == [550]
    assert not delivery.isWhole
    assert (await client.send(routeOf(openSMTPD), SENDER, [RECIPIENT], MESSAGE)).isWhole
    assert len(openSMTPD.waitFor()) == 1
