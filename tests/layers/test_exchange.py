"""Exchanges with scanners that answer, stall, leave, or talk nonsense: what comes of them, and that nothing is left."""

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from smtphooks.layers import exchange
from smtphooks.layers.exchange import Answer, Request, ScannerFault, ask
from smtphooks.replies import SMTPError
from tests.layers.scanners import Message, isTidy, scanner

__all__ = ["scanner"]

LARGE = b"x" * 50_000


def begin(port, message, octets=0, answerEnd=b"!", timeout=5, clock=None):
    """The Deferred of an exchange with a scanner that wants the length before each chunk, and a dot at the end."""
    request = Request(
        opening=b"scan:",
        before=lambda length: b"%d<" % length,
        behind=b">",
        closing=b".",
        octets=octets,
        answerEnd=answerEnd,
        answerOctets=100,
    )
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
    asking = ask(endpoint, request, message, scanner="the scanner", timeout=timeout, clock=clock or Clock())
    return ensureDeferred(asking)


async def fault(asked):
    """The text of the fault that the exchange ends with."""
    with pytest.raises(ScannerFault) as caught:
        await asked
    return str(caught.value)


@pytest_twisted.ensureDeferred
async def test_the_message_is_sent_while_it_arrives_and_the_answer_is_returned(scanner):
    clock, message = Clock(), Message(b"one", isWhole=False)
    accepted = scanner.talk()
    asked = begin(scanner.port, message, clock=clock)
    talk = await accepted
    await talk.has(b"scan:3<one>")
    message.append(b"three")
    await talk.has(b"5<three>")
    message.append(b"", isLast=True)
    await talk.has(b">.")
    assert talk.received == b"scan:3<one>5<three>."
    talk.answer(b"cle")
    talk.answer(b"an!")
    assert await asked == Answer(b"clean", isOnAll=True)
    assert isTidy(message, clock)


@pytest_twisted.ensureDeferred
async def test_an_empty_message_is_sent_as_well(scanner):
    accepted = scanner.talk()
    asked = begin(scanner.port, Message())
    talk = await accepted
    await talk.has(b"scan:.")
    talk.answer(b"clean!")
    assert await asked == Answer(b"clean", isOnAll=True)


@pytest_twisted.ensureDeferred
async def test_an_answer_may_end_with_the_connection(scanner):
    accepted = scanner.talk()
    asked = begin(scanner.port, Message(b"one"), answerEnd=b"")
    talk = await accepted
    await talk.has(b".")
    talk.answer(b"clean!")
    talk.transport.loseConnection()
    assert await asked == Answer(b"clean!", isOnAll=True)


@pytest_twisted.ensureDeferred
async def test_no_more_of_the_message_is_sent_than_wanted_and_then_the_answer_may_come(scanner):
    clock, message = Clock(), Message(b"one", b"two", isWhole=False)
    accepted = scanner.talk()
    asked = begin(scanner.port, message, octets=5, clock=clock)
    talk = await accepted
    await talk.has(b".")
    assert talk.received == b"scan:5<onetw>."
    message.append(b"three")
    talk.answer(b"clean!")
    assert await asked == Answer(b"clean", isOnAll=True)
    assert talk.received == b"scan:5<onetw>."
    assert isTidy(message, clock)


@pytest_twisted.ensureDeferred
async def test_the_stream_flows_on_when_enough_of_it_was_sent(scanner):
    message = Message(b"onetwo", isWhole=False)
    accepted = scanner.talk()
    asked = begin(scanner.port, message, octets=3)
    talk = await accepted
    await talk.has(b".")
    for _ in range(10):
        message.append(LARGE)
    assert message.buffered == 0
    message.append(b"", isLast=True)
    talk.answer(b"clean!")
    assert (await asked).isOnAll


@pytest_twisted.ensureDeferred
async def test_an_answer_before_the_end_of_the_message_says_that_it_came_too_early(scanner):
    clock, message = Clock(), Message(b"one", isWhole=False)
    accepted = scanner.talk()
    asked = begin(scanner.port, message, clock=clock)
    talk = await accepted
    await talk.has(b"one")
    talk.answer(b"too large!")
    talk.transport.loseConnection()
    assert await asked == Answer(b"too large", isOnAll=False)
    assert isTidy(message, clock)


@pytest_twisted.ensureDeferred
async def test_an_answer_is_not_lost_with_a_connection_that_breaks_while_the_message_is_written(scanner, monkeypatch):
    connected = Deferred()
    connect = exchange._Exchange._connected

    def deaf(self):
        connect(self)
        self.transport.stopReading()  # what comes is not read before a write fails
        connected.callback(self.transport)

    monkeypatch.setattr(exchange._Exchange, "_connected", deaf)
    message = Message(b"one", isWhole=False)
    accepted = scanner.talk()
    asked = begin(scanner.port, message)
    transport, talk = await connected, await accepted
    await talk.has(b"one")
    talk.answer(b"too large!")
    talk.transport.loseConnection()
    await talk.closed
    while transport.connected:
        message.append(LARGE)
        turn = Deferred()
        reactor.callLater(0, turn.callback, None)
        await turn
    assert await asked == Answer(b"too large", isOnAll=False)


@pytest_twisted.ensureDeferred
async def test_a_scanner_that_does_not_read_stops_the_message_and_is_given_up(scanner):
    clock, message = Clock(), Message(isWhole=False)
    accepted = scanner.talk()
    asked = begin(scanner.port, message, clock=clock, timeout=5)
    talk = await accepted
    talk.transport.pauseProducing()
    while not message.buffered:
        message.append(LARGE)
        turn = Deferred()
        reactor.callLater(0, turn.callback, None)
        await turn
    wanted = message.wanted
    message.append(LARGE)
    assert message.wanted == wanted, "the client is asked for more"
    clock.advance(4.9)
    assert not asked.called
    clock.advance(0.1)
    assert await fault(asked) == "the scanner has read nothing for 5 seconds"
    assert isTidy(message, clock)
    talk.transport.resumeProducing()


@pytest_twisted.ensureDeferred
async def test_a_scanner_that_reads_on_gets_the_rest(scanner):
    clock, message = Clock(), Message(isWhole=False)
    accepted = scanner.talk()
    asked = begin(scanner.port, message, clock=clock, timeout=5)
    talk = await accepted
    talk.transport.pauseProducing()
    sent = 0
    while not message.buffered:
        message.append(LARGE)
        sent += len(LARGE)
        turn = Deferred()
        reactor.callLater(0, turn.callback, None)
        await turn
    clock.advance(4)
    message.append(b"", isLast=True)
    talk.transport.resumeProducing()
    await talk.has(b">.")
    assert talk.received.count(b"x") == sent
    clock.advance(4)
    talk.answer(b"clean!")
    assert (await asked).octets == b"clean"
    assert isTidy(message, clock)


@pytest_twisted.ensureDeferred
async def test_a_client_that_is_slow_is_no_fault_of_the_scanner(scanner):
    clock, message = Clock(), Message(b"one", isWhole=False)
    accepted = scanner.talk()
    asked = begin(scanner.port, message, clock=clock, timeout=5)
    talk = await accepted
    await talk.has(b"one")
    clock.advance(1000)
    message.append(b"", isLast=True)
    await talk.has(b".")
    talk.answer(b"clean!")
    assert (await asked).octets == b"clean"


@pytest_twisted.ensureDeferred
async def test_a_scanner_that_never_answers_is_given_up(scanner):
    clock, message = Clock(), Message(b"one")
    accepted = scanner.talk()
    asked = begin(scanner.port, message, clock=clock, timeout=5)
    talk = await accepted
    await talk.has(b".")
    clock.advance(5)
    assert await fault(asked) == "the scanner has not answered within 5 seconds"
    await talk.closed
    assert isTidy(message, clock)


@pytest_twisted.ensureDeferred
async def test_a_scanner_that_reads_the_rest_but_never_answers_is_given_up(scanner):
    clock, message = Clock(), Message(b"x" * 5_000_000)
    accepted = scanner.talk()
    asked = begin(scanner.port, message, clock=clock, timeout=5)
    talk = await accepted
    await talk.has(b"scan:")
    talk.transport.pauseProducing()
    clock.advance(4)
    talk.transport.resumeProducing()
    await talk.has(b">.")
    clock.advance(1)
    assert await fault(asked) == "the scanner has not answered within 5 seconds"


@pytest_twisted.ensureDeferred
async def test_without_a_timeout_a_scanner_may_take_any_time(scanner):
    clock = Clock()
    accepted = scanner.talk()
    asked = begin(scanner.port, Message(b"one"), clock=clock, timeout=0)
    talk = await accepted
    await talk.has(b".")
    assert not clock.getDelayedCalls()
    talk.answer(b"clean!")
    await asked


class Nowhere:
    """An endpoint that never connects."""

    def __init__(self):
        self.cancelled = 0

    def connect(self, factory):
        return Deferred(self._cancel)

    def _cancel(self, connecting):
        self.cancelled += 1


@pytest.mark.parametrize("message", [Message(b"one", isWhole=False), Message(b"one"), Message()])
def test_a_scanner_that_does_not_accept_the_connection_is_given_up(message):
    clock, endpoint = Clock(), Nowhere()
    request = Request(b"", lambda length: b"", b"", b"", 0, b"", 100)
    asked = ensureDeferred(ask(endpoint, request, message, scanner="the scanner", timeout=5, clock=clock))
    clock.advance(5)
    with pytest.raises(ScannerFault, match=r"^the scanner cannot be reached: it accepted no connection within 5 sec"):
        asked.addErrback(lambda failure: failure.raiseException()).result.raiseException()
    asked.addErrback(lambda failure: None)
    assert endpoint.cancelled == 1
    assert isTidy(message, clock)


@pytest_twisted.ensureDeferred
async def test_a_scanner_that_is_not_there_is_a_fault(scanner):
    await scanner._listening.stopListening()
    clock, message = Clock(), Message(b"one", isWhole=False)
    assert "the scanner cannot be reached: Connection was refused" in await fault(
        begin(scanner.port, message, clock=clock)
    )
    assert isTidy(message, clock)


@pytest.mark.parametrize(
    "octets, answerEnd, said",
    [
        (b"", b"!", "the scanner has closed the connection without an answer"),
        (b"", b"", "the scanner has closed the connection without an answer"),
        (b"cle", b"!", "the scanner has closed the connection within its answer b'cle'"),
        (b"x" * 101, b"!", "the scanner answers more than 100 octets"),
        (b"x" * 101, b"", "the scanner answers more than 100 octets"),
    ],
)
@pytest.mark.parametrize("isWhole", [True, False])
@pytest_twisted.ensureDeferred
async def test_what_is_no_whole_answer_is_a_fault(scanner, octets, answerEnd, said, isWhole):
    clock, message = Clock(), Message(b"one", isWhole=isWhole)
    accepted = scanner.talk()
    asked = begin(scanner.port, message, answerEnd=answerEnd, clock=clock)
    talk = await accepted
    await talk.has(b"one")
    talk.answer(octets)
    talk.transport.loseConnection()
    assert await fault(asked) == said
    assert isTidy(message, clock)


@pytest.mark.parametrize("moment", ["connecting", "sending", "waiting"])
@pytest_twisted.ensureDeferred
async def test_a_cancelled_exchange_leaves_nothing_behind(scanner, moment):
    clock, message = Clock(), Message(b"one", isWhole=moment == "waiting")
    accepted = scanner.talk()
    asked = begin(scanner.port, message, clock=clock)
    if moment != "connecting":
        talk = await accepted
        await talk.has(b"one")
    asked.cancel()
    with pytest.raises(CancelledError):
        await asked
    assert isTidy(message, clock)
    if moment != "connecting":
        await talk.closed


@pytest.mark.parametrize("moment", ["connecting", "sending"])
@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_ends_the_exchange(scanner, moment):
    clock, message = Clock(), Message(b"one", isWhole=False)
    accepted = scanner.talk()
    asked = begin(scanner.port, message, clock=clock)
    if moment == "sending":
        talk = await accepted
        await talk.has(b"one")
    message.fail(Failure(ConnectionLost()))
    with pytest.raises(ConnectionLost):
        await asked
    assert isTidy(message, clock)
    if moment == "sending":
        await talk.closed
        assert not talk.received.endswith(b"."), "a part looked like the whole message"


@pytest_twisted.ensureDeferred
async def test_a_message_above_the_limit_of_the_server_ends_the_exchange(scanner):
    clock, message = Clock(), Message(b"onetwo", isWhole=False, size=5)
    accepted = scanner.talk()
    asked = begin(scanner.port, message, clock=clock)
    with pytest.raises(SMTPError, match="maximum size"):
        await asked
    assert isTidy(message, clock)
    if accepted.called:
        await (await accepted).closed


@pytest_twisted.ensureDeferred
async def test_a_coroutine_that_is_closed_leaves_nothing_behind(scanner):
    clock, message = Clock(), Message(b"one", isWhole=False)
    accepted = scanner.talk()
    request = Request(b"scan:", lambda length: b"", b"", b"", 0, b"", 100)
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", scanner.port)
    asking = ask(endpoint, request, message, scanner="the scanner", timeout=5, clock=clock)
    asking.send(None)
    talk = await accepted
    await talk.has(b"one")
    asking.close()
    await talk.closed
    assert isTidy(message, clock)


def test_a_stream_that_has_been_read_is_an_error_of_the_caller():
    clock, endpoint, message = Clock(), Nowhere(), Message(b"one")
    message.__aiter__()
    request = Request(b"", lambda length: b"", b"", b"", 0, b"", 100)
    asked = ensureDeferred(ask(endpoint, request, message, scanner="the scanner", timeout=5, clock=clock))
    failures = []
    asked.addErrback(failures.append)
    assert failures[0].check(RuntimeError)
    assert isTidy(message, clock)
