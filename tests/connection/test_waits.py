"""What connections wait for, in words, and how many messages they have brought."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import ITLSTransport
from zope.interface import alsoProvides

from smtphooks import Layer
from tests.certificates import Authority
from tests.support import ENVELOPE, HELLO, MAIL, RCPT, Client, Pending, connect, makeFactory

pytestmark = pytest.mark.usefixtures("logged")


def certificate() -> dict[str, str]:
    pair = Authority().server("mx.test")
    return {"key": pair.key, "cert": pair.cert}


def waits(client: Client) -> list[str]:
    return list(client.factory.waits().elements())


def test_a_command() -> None:
    client = connect()
    assert waits(client) == ["a command"]
    client.say(*ENVELOPE)
    assert waits(client) == ["a command"]


def test_octets_of_a_message_and_then_the_hook() -> None:
    onData = Pending()
    client = connect(onData=onData)
    client.say(*ENVELOPE, "DATA", "text")
    assert waits(client) == ["a message"]
    client.say(".")
    assert waits(client) == ["onData"]
    onData.decide()
    assert waits(client) == ["a command"]


def test_a_hook_that_does_not_read_its_message() -> None:
    client = connect(onData=Pending())
    client.say(*ENVELOPE, "DATA")
    client.feed(b"x" * 200 * 1024)
    assert waits(client) == ["onData"]


def test_the_next_chunk_of_a_message() -> None:
    client = connect(onData=Pending())
    client.say(*ENVELOPE, "BDAT 4", "ab")
    assert waits(client) == ["a chunk of a message"]
    client.say("BDAT 4", "a")
    assert waits(client) == ["a message"]


@pytest.mark.parametrize(
    ("hook", "lines"),
    [
        ("onConnect", ()),
        ("onHelo", (HELLO,)),
        ("onMailFrom", (HELLO, MAIL)),
        ("onRcptTo", ENVELOPE),
        ("onVrfy", (HELLO, "VRFY user")),
    ],
)
def test_a_hook(hook: str, lines: tuple[str, ...]) -> None:
    given: Any = {hook: Pending()}
    client = connect(**given)
    client.feed("".join(f"{line}\r\n" for line in lines).encode())
    assert waits(client) == [hook]


def test_the_hook_of_one_of_several_layers_is_named_with_its_layer() -> None:
    class Recipients:
        def onRcptTo(self, address: Any, session: Any) -> None: ...

    class Store:
        onRcptTo, onData = Pending(), Pending()

    factory = makeFactory(hooks=[Layer(Recipients(), name="users"), Layer(Store(), name="store")])
    client = Client(factory)
    client.say(HELLO, MAIL, RCPT)
    assert waits(client) == ["onRcptTo of store"]
    Store.onRcptTo.decide()
    client.say("DATA", ".")
    assert waits(client) == ["onData of store"]


def test_the_filter_that_holds_a_message_up() -> None:
    stuck: Deferred[None] = Deferred()

    class Filter:
        async def filterData(self, stream: Any, session: Any) -> Any:
            await stuck
            async for octets in stream:
                yield octets

    class Store:
        async def onData(self, stream: Any, session: Any) -> None:
            await stream.read()

    factory = makeFactory(hooks=[Layer(Filter(), name="filter"), Layer(Store(), name="store")])
    client = Client(factory)
    client.say(*ENVELOPE, "DATA", "text", ".")
    assert waits(client) == ["filterData of filter"]
    stuck.callback(None)
    assert waits(client) == ["a command"]


def test_a_response_to_auth() -> None:
    client = connect(authMethods=["PLAIN"], allowInsecureAuth=True, onAuth=Pending())
    client.say(HELLO, "AUTH PLAIN")
    assert waits(client) == ["a response to AUTH"]
    client.say("AGEAYg==")
    assert waits(client) == ["onAuth"]


def test_a_TLS_handshake() -> None:
    client = connect(hideSTARTTLS=False, **certificate())
    alsoProvides(client.transport, ITLSTransport)
    client.transport.startTLS = lambda context, normal=True: None  # type: ignore[attr-defined]
    client.say(HELLO)
    assert client.last("STARTTLS")[:3] == "220"
    assert waits(client) == ["a TLS handshake"]


def test_the_client_to_read_a_reply() -> None:
    client = connect()
    client.pump.writer.pauseProducing()
    assert waits(client) == ["the client to read a reply"]


def test_a_delay() -> None:
    client = connect(greetDelay=5)
    assert waits(client) == ["a delay"]


def test_the_client_to_close() -> None:
    client = connect()
    client.say("QUIT")
    assert waits(client) == ["the client to close"]


def test_a_client_that_is_turned_away_to_close() -> None:
    factory = makeFactory()
    factory.refuse()
    assert waits(Client(factory)) == ["the client to close"]


def test_a_PROXY_header_and_then_the_name_of_the_client() -> None:
    class Resolver:
        def lookupPointer(self, name: str, timeout: object = None) -> Deferred[str]:
            return Deferred()

        lookupAddress = lookupPointer

    client = connect(useProxy=["192.0.2.7"], resolver=Resolver(), disableReverseLookup=False)
    assert waits(client) == ["a PROXY header"]
    client.feed(b"PROXY TCP4 198.51.100.1 192.0.2.1 1025 25\r\n")
    assert waits(client) == ["the name of the client"]


@pytest.mark.parametrize("hook", ["onData", "onClose"])
def test_the_last_hook_of_a_client_that_is_gone(hook: str) -> None:
    last = Pending()
    client = connect(**{hook: last})
    client.say(*ENVELOPE, "DATA", ".")
    client.lose()
    assert waits(client) == [hook]
    last.decide()
    assert waits(client) == []


def test_a_hook_that_goes_on_though_its_client_is_gone() -> None:
    going: Deferred[None] = Deferred()

    async def onRcptTo(address: Any, session: Any) -> None:
        try:
            await Deferred()
        except CancelledError:
            await going

    client = connect(onRcptTo=onRcptTo)
    client.say(*ENVELOPE)
    client.lose()
    assert waits(client) == ["onRcptTo"]
    going.callback(None)
    assert waits(client) == []


def test_connections_that_wait_for_the_same_are_counted() -> None:
    factory = makeFactory(onData=Pending())
    Client(factory)
    Client(factory)
    Client(factory).say(*ENVELOPE, "DATA", ".")
    assert factory.waits() == {"a command": 2, "onData": 1}


def test_to_ask_changes_nothing() -> None:
    """The answer of a hook stays where it is until it is pulled."""
    onData = Pending()
    client = connect(onData=onData)
    client.say(*ENVELOPE, "DATA", ".")
    client.lose()
    onData.calls.clear()
    wake = client.pump.message._wake
    client.pump.message._wake = lambda: None
    client.pump.message.delivery._pending._wake = lambda: None  # type: ignore[union-attr]
    onData.decide()
    waits(client)
    assert not client.pump.message.delivery.isDecided  # type: ignore[union-attr]
    wake()
    assert waits(client) == []


@pytest.mark.parametrize("end", [lambda client: client.finish(), lambda client: client.lose()])
def test_messages_are_counted_while_a_connection_is_open_and_after_it(end: Callable[[Client], None]) -> None:
    client = connect()
    factory = client.factory
    assert (factory.accepted, factory.messages) == (1, 0)
    client.say(*ENVELOPE, "DATA", ".", MAIL, RCPT, "DATA", ".")
    assert factory.messages == 2
    client.say("QUIT")
    end(client)
    assert (factory.accepted, factory.messages) == (1, 2)
    Client(factory).say(*ENVELOPE, "DATA", ".")
    assert (factory.accepted, factory.messages) == (2, 3)
