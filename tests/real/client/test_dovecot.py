"""The client against Dovecot over LMTP: a reply for each recipient."""

from __future__ import annotations

import pytest
import pytest_twisted

from smtphooks.client import NotOffered, Route, SMTPClient, Unreachable
from tests.real.client.conftest import Talk, routeOf
from tests.real.client.test_every import HEADER, MESSAGE, RECIPIENT, SENDER
from tests.real.mta.contained import DOMAIN, LATER, NOBODY
from tests.real.mta.dovecot import FULL, Dovecot
from tests.secrets import PASSWORD

CAROL = f"carol@{DOMAIN}"


@pytest.fixture(params=["inet", "unix"])
def route(request: pytest.FixtureRequest, dovecot: Dovecot) -> Route:
    if request.param == "inet":
        return routeOf(dovecot)
    return Route(path=dovecot.path, lmtp=True, tls="none")


@pytest_twisted.ensureDeferred
async def test_each_recipient_has_its_own_reply_in_the_order_of_asking(
    dovecot: Dovecot, client: SMTPClient, route: Route
) -> None:
    delivery = await client.send(route, SENDER, [RECIPIENT, NOBODY, FULL, LATER, CAROL], MESSAGE)
    assert {number: reply.code for number, reply in delivery.refused.items()} == {1: 550, 3: 451}
    assert [(reply.code, reply.enhancedCode) for reply in delivery.replies] == [
        (250, "2.0.0"),
        (552, "5.2.2"),
        (250, "2.0.0"),
    ]
    assert not delivery.isWhole
    assert sorted(each.recipients for each in dovecot.waitFor(2)) == [(RECIPIENT,), (CAROL,)]


@pytest_twisted.ensureDeferred
async def test_many_recipients_have_many_replies(dovecot: Dovecot, client: SMTPClient, route: Route) -> None:
    names = [f"user{number}@{DOMAIN}" for number in range(40)]
    delivery = await client.send(route, SENDER, names, MESSAGE)
    assert delivery.isWhole
    assert [reply.code for reply in delivery.replies] == [250] * 40
    assert all(f"<{name}>" in reply.text for name, reply in zip(names, delivery.replies, strict=True))
    assert len(dovecot.waitFor(40)) == 40


@pytest_twisted.ensureDeferred
async def test_a_transaction_has_replies_only_for_whom_it_has_accepted(
    dovecot: Dovecot, client: SMTPClient, route: Route, talk: Talk
) -> None:
    transaction = await client.begin(route, SENDER)
    assert [(await transaction.rcpt(name)).code for name in (NOBODY, CAROL, FULL)] == [550, 250, 250]
    assert [reply.code for reply in await transaction.data(MESSAGE)] == [250, 552]
    assert (await client.send(route, SENDER, [RECIPIENT], MESSAGE)).isWhole
    assert talk.connections == 1


@pytest.mark.parametrize("size", [1, 262_145, 1_000_000])
@pytest_twisted.ensureDeferred
async def test_chunks_have_a_reply_for_each_recipient(dovecot: Dovecot, client: SMTPClient, size: int) -> None:
    """Dovecot offers CHUNKING without BINARYMIME, for which alone the client uses it: so it is told to."""
    message = HEADER + b"\r\n" + b".\r\n" * (size // 3)
    transaction = await client.begin(routeOf(dovecot), SENDER)
    for name in (RECIPIENT, FULL, CAROL):
        await transaction.rcpt(name)
    transaction.isInChunks = True
    assert [reply.code for reply in await transaction.data(message)] == [250, 552, 250]
    assert all(each.content.endswith(b"\r\n" + message) for each in dovecot.waitFor(2))


@pytest_twisted.ensureDeferred
async def test_XCLIENT_tells_who_the_client_is(dovecot: Dovecot, client: SMTPClient) -> None:
    who = (("ADDR", "192.0.2.7"), ("PORT", "4711"), ("HELO", "helo.sender.example"), ("NAME", "not.offered.example"))
    assert (await client.send(routeOf(dovecot, xClient=who), SENDER, [RECIPIENT], MESSAGE)).isWhole
    assert b"from helo.sender.example ([192.0.2.7])" in dovecot.waitFor()[0].content


@pytest_twisted.ensureDeferred
async def test_what_it_does_not_offer_is_told_before_MAIL(dovecot: Dovecot, client: SMTPClient, talk: Talk) -> None:
    with pytest.raises(NotOffered, match="SMTPUTF8"):
        await client.send(routeOf(dovecot), "jürgen@here.example", [RECIPIENT], MESSAGE)
    with pytest.raises(Unreachable, match="offers nothing for AUTH"):
        await client.begin(routeOf(dovecot, user="ann", password=PASSWORD), SENDER)
    assert talk.said("MAIL") == []


@pytest_twisted.ensureDeferred
async def test_parameters_of_DSN_are_left_out_where_it_has_none(
    dovecot: Dovecot, client: SMTPClient, talk: Talk
) -> None:
    arguments = {"RET": "HDRS", "ENVID": "1"}
    rcptArgs = [{"NOTIFY": "NEVER"}]
    assert (
        await client.send(routeOf(dovecot), SENDER, [RECIPIENT], MESSAGE, mailArgs=arguments, rcptArgs=rcptArgs)
    ).isWhole
    assert talk.said("RCPT") == [f"RCPT TO:<{RECIPIENT}>"]
