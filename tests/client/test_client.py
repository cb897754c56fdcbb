"""The client: a message in one call, what is told of it, and the same in a task of asyncio."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import pytest_twisted

from smtphooks.client import Delivery, NotOffered, Refused, Route, SMTPClient, Unreachable, routeTo
from smtphooks.testing import SMTPServerThread
from tests.client.network import ESMTP, MESSAGE, ROUTE, Network, Server, clientOf, nothingIsLeft

pytestmark = pytest.mark.usefixtures("logged")

LMTP = Route(path="/server", name="client.test", tls="none", lmtp=True)


def send(server: Server, *arguments: Any, route: Route = ROUTE, **given: Any) -> Any:
    """Send a message, and leave nothing."""
    network = Network(server)
    client = clientOf(network)
    outcome = network.run(client.send(route, *(arguments or ("a@b.test", ["c@d.test"], MESSAGE)), **given))
    nothingIsLeft(network, client)
    return outcome.either


def linesOf(server: Server) -> list[str]:
    return server.heard[1:]


# --- what is said ---


def test_all_is_said_at_once_where_the_server_pipelines() -> None:
    """RFC 2920 section 3.1."""
    network = Network(Server())
    client = clientOf(network)
    outcome = network.run(client.send(ROUTE, "a@b.test", ["c@d.test", "e@d.test"], MESSAGE))
    assert outcome.value.isWhole
    group = b"MAIL FROM:<a@b.test> SIZE=35\r\nRCPT TO:<c@d.test>\r\nRCPT TO:<e@d.test>\r\nDATA\r\n"
    assert group in network.lines[0].written
    nothingIsLeft(network, client)


def test_a_message_that_is_there_whole_says_how_large_it_is_and_what_it_wants() -> None:
    server = Server()
    assert send(server, "ä@b.test", ["c@d.test"], "größe\r\n".encode()).isWhole
    assert linesOf(server)[0] == "MAIL FROM:<ä@b.test> SIZE=9 BODY=8BITMIME SMTPUTF8"


def test_what_is_given_is_not_changed() -> None:
    server = Server()
    send(
        server, "a@b.test", ["c@d.test"], MESSAGE, mailArgs={"size": "5", "RET": "HDRS"}, rcptArgs=[{"NOTIFY": "NEVER"}]
    )
    assert linesOf(server)[:2] == ["MAIL FROM:<a@b.test> SIZE=5 RET=HDRS", "RCPT TO:<c@d.test> NOTIFY=NEVER"]


def test_a_message_larger_than_the_server_takes_is_not_begun() -> None:
    server = Server(extensions=("SIZE 10",))
    assert isinstance(send(server), NotOffered)
    assert not any(line.startswith("MAIL") for line in server.heard)


def test_XFORWARD_tells_what_the_server_offers_to_be_told() -> None:
    server = Server()
    send(server, xForward={"NAME": "client.test", "ADDR": "192.0.2.1", "HELO": "x", "name": "a b"})
    assert linesOf(server)[:1] == ["XFORWARD NAME=client.test ADDR=192.0.2.1 name=a+20b"]
    assert send(Server(XFORWARD="550 no"), xForward={"NAME": "x"}).reply.code == 550
    quiet = Server(extensions=())
    send(quiet, xForward={"NAME": "x"})
    assert not any(line.startswith("XFORWARD") for line in quiet.heard)


# --- what comes of it ---


@pytest.mark.parametrize("extensions", [ESMTP, ("8BITMIME",)])
@pytest.mark.parametrize("route", [ROUTE, LMTP])
def test_recipients_that_are_refused_are_told_by_their_number(route: Route, extensions: tuple[str, ...]) -> None:
    server = Server(lmtp=route.lmtp, extensions=extensions, RCPT=["250 ok", "550 5.1.1 no", "250 ok", "452 4.5.3 many"])
    delivery = send(server, "a@b.test", [f"{i}@d.test" for i in range(4)], MESSAGE, route=route)
    assert {i: reply.code for i, reply in delivery.refused.items()} == {1: 550, 3: 452}
    assert [reply.code for reply in delivery.replies] == [250] * (2 if route.lmtp else 1)
    assert not delivery.isWhole


@pytest.mark.parametrize("extensions", [ESMTP, ("8BITMIME",)])
@pytest.mark.parametrize("start", ["354 go on", "554 5.5.1 no valid recipients", "421 bye"])
def test_if_all_recipients_are_refused_there_is_no_message(extensions: tuple[str, ...], start: str) -> None:
    server = Server(extensions=extensions, RCPT="550 5.1.1 no", DATA=start)
    delivery = send(server, "a@b.test", ["c@d.test", "e@d.test"], MESSAGE)
    assert isinstance(delivery, Delivery)
    assert [*delivery.refused] == [0, 1]
    assert delivery.replies == []
    assert not delivery.isWhole
    assert not any(server.messages)


@pytest.mark.parametrize("extensions", [ESMTP, ("8BITMIME",)])
def test_a_refused_MAIL_is_an_error_and_the_connection_is_used_again(extensions: tuple[str, ...]) -> None:
    server = Server(
        extensions=extensions, MAIL=["550 5.7.1 no"], RCPT=["503 first MAIL", "250 ok"], DATA=["503 first MAIL"]
    )
    if "PIPELINING" not in extensions:
        server.replies = {"MAIL": ["550 5.7.1 no"]}
    network = Network(server)
    client = clientOf(network)
    first = network.run(client.send(ROUTE, "a@b.test", ["c@d.test"], MESSAGE))
    assert isinstance(first.error, Refused)
    assert str(first.error) == "/server refuses MAIL: 550 5.7.1 no"
    assert network.run(client.send(ROUTE, "a@b.test", ["c@d.test"], MESSAGE)).value.isWhole
    assert len(network.lines) == 1
    assert server.heard.count("RSET") == 1
    nothingIsLeft(network, client)


def test_a_refused_message_is_a_reply() -> None:
    delivery = send(Server(message="554 5.6.0 spam"))
    assert [reply.code for reply in delivery.replies] == [554]
    assert not delivery.isWhole


# --- what is no message ---


@pytest.mark.parametrize("recipients", [[], (), "c@d.test"])
def test_there_is_one_recipient_at_least_and_a_text_is_no_list(recipients: Any) -> None:
    network = Network(Server())
    client = clientOf(network)
    outcome = network.run(client.send(ROUTE, "a@b.test", recipients, MESSAGE))
    assert isinstance(outcome.error, ValueError)
    assert not network.lines
    nothingIsLeft(network, client)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (("a@b> X=1", ["c@d.test"], MESSAGE), ValueError),
        (("a@b.test", ["c@d.test", "e"], MESSAGE), ValueError),
        (("a@b.test", ["c@d.test"], "text"), TypeError),
    ],
)
def test_what_cannot_be_said_is_an_error_before_anything_is(arguments: Any, kind: type[Exception]) -> None:
    server = Server()
    network = Network(server)
    client = clientOf(network)
    assert isinstance(network.run(client.send(ROUTE, *arguments)).error, kind)
    assert not any(line.startswith(("MAIL", "RCPT", "DATA")) for line in server.heard)
    assert client._pool._idle, "the connection is as good as before"
    nothingIsLeft(network, client)


# --- against a server of ours ---


@pytest_twisted.ensureDeferred
async def test_binary_messages_go_to_a_server_of_ours_in_chunks() -> None:
    content = bytes(range(256)) * 3000 + b"\r\n.\r\n"
    with SMTPServerThread() as server:
        client = SMTPClient()
        route = routeTo(f"{server.host}:{server.port}")
        delivery = await client.send(route, "a@b.test", ["c@d.test"], content, mailArgs={"BODY": "BINARYMIME"})
        await client.close()
        assert delivery.isWhole
        assert server.messages[0].octets == content


@pytest_twisted.ensureDeferred
async def test_a_server_of_ours_receives_over_LMTP_and_answers_for_each_recipient() -> None:
    with SMTPServerThread(unix=True, lmtp=True) as server:
        client = SMTPClient()
        server.fail("RCPT", 550, recipient="no@d.test")
        route = routeTo(server.path, lmtp=True, tls="none")
        delivery = await client.send(route, "", ["c@d.test", "no@d.test", "e@d.test"], MESSAGE)
        await client.close()
        assert [*delivery.refused] == [1]
        assert [reply.code for reply in delivery.replies] == [250, 250]
        assert server.messages[0].octets == MESSAGE


@pytest_twisted.ensureDeferred
async def test_a_server_of_ours_learns_who_the_client_was_and_what_is_asked_of_it() -> None:
    options: dict[str, Any] = {"useXClient": True, "hideDSN": False, "hideREQUIRETLS": False}
    with SMTPServerThread(**options) as server:
        client = SMTPClient()
        who = [("ADDR", "192.0.2.99"), ("NAME", "client.example"), ("HELO", "hello.example")]
        route = Route(
            host=server.host,
            port=server.port,
            tls="required",
            ca=server.certificate,
            servername="localhost",
            xClient=who,
        )
        given: Any = {"mailArgs": {"ENVID": "a+b", "REQUIRETLS": True}, "rcptArgs": [{"ORCPT": "rfc822;x+y@d.test"}]}
        delivery = await client.send(route, "ä@b.test", ["c@d.test"], MESSAGE, **given)
        await client.close()
        assert delivery.isWhole
        (message,) = server.messages
        assert message.session.remoteAddress == "192.0.2.99"
        assert message.session.hostNameAppearsAs == "hello.example"
        assert message.session.secure
        assert message.envelope.mailFrom.args["ENVID"] == "a+b"
        assert message.envelope.mailFrom.args["REQUIRETLS"] is True
        assert message.envelope.mailFrom.args["SMTPUTF8"] is True
        assert message.envelope.rcptTo[0].args["ORCPT"] == "rfc822;x+y@d.test"


# --- asyncio ---

TASK = """
import asyncio
from twisted.internet import asyncioreactor
asyncioreactor.install()
from twisted.internet import reactor

from smtphooks.client import Route, SMTPClient, Timeouts, Unreachable
from smtphooks.testing import SMTPServerThread

async def content():
    for line in (b"Subject: x\\r\\n", b"\\r\\n", b".text\\r\\n"):
        await asyncio.sleep(0)
        yield line

async def main():
    with SMTPServerThread(users={"ann": "a-Password-of-ann"}, maxClients=9) as server:
        client = SMTPClient(connections=2)
        route = Route(
            host="127.0.0.1", port=server.port, tls="required", ca=server.certificate, servername="localhost",
            user="ann", password="a-Password-of-ann",
        )
        sent = [client.send(route, "a@b.test", ["c@d.test", "e@d.test"], content()) for _ in range(5)]
        for delivery in await asyncio.gather(*sent):
            assert delivery.isWhole, delivery
        transaction = await client.begin(route, "a@b.test")
        assert (await transaction.rcpt("c@d.test")).code == 250
        assert [reply.code for reply in await transaction.data(b"x\\r\\n")] == [250]
        task = asyncio.create_task(client.send(route, "a@b.test", ["c@d.test"], never()))
        await asyncio.sleep(0.2)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            print("cancelled")
        server.stall("MAIL")
        try:
            await asyncio.wait_for(client.begin(route, "a@b.test"), 0.2)
        except asyncio.TimeoutError:
            print("timed out")
        await client.close()
        assert not client._pool._open
        assert len(server.messages) == 6, server.messages

async def never():
    yield b"begun\\r\\n"
    await asyncio.Event().wait()

def done(task):
    reactor.stop()
    task.result()

async def start():
    task = asyncio.get_running_loop().create_task(main())
    task.add_done_callback(done)

reactor.callWhenRunning(lambda: asyncio.ensure_future(start()))
reactor.run()
"""


def test_all_of_it_works_in_a_task_of_asyncio() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", TASK], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.split("\n"), done.returncode) == (["cancelled", "timed out", ""], 0), done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "never awaited" not in done.stderr


def test_a_server_that_is_not_there_is_unreachable() -> None:
    network = Network(Server())
    network.refuses = 1
    client = clientOf(network)
    assert isinstance(network.run(client.send(ROUTE, "a@b.test", ["c@d.test"], MESSAGE)).error, Unreachable)
    nothingIsLeft(network, client)
