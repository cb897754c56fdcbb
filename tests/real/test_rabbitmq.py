"""The store RabbitMQ with Debian's broker: what is confirmed is in the queue, and whatever else happens is a 4xx."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredList, ensureDeferred
from twisted.logger import LogLevel, capturedLogs

from smtphooks.hooks import Unavailable
from smtphooks.replies import SMTPError
from smtphooks.session import Address, Envelope, Session
from smtphooks.stores import RabbitMQ as Store
from tests.layers.scanners import Message
from tests.real.programs import freePort
from tests.real.rabbitmq import RabbitMQ, StartRabbitMQ, needsRabbitMQ
from tests.secrets import PASSWORD

pytestmark = needsRabbitMQ

MESSAGE = b"Subject: hello\r\n\r\nHello.\r\n"
MakeStore = Callable[..., Store]


def makeSession(*recipients: str, **given: Any) -> Session:
    envelope = Envelope(Address("ann@example.org"), list(map(Address, recipients or ["bob@mx.example"])))
    return Session(**{"localName": "mx.example", "remoteAddress": "192.0.2.1", "envelope": envelope, **given})


async def deliver(store: Store, message: bytes = MESSAGE, session: Session | None = None) -> Any:
    return await store.onData(Message(message), session or makeSession())


async def failure(store: Store, message: bytes = MESSAGE) -> str:
    with pytest.raises(Unavailable) as caught:
        await deliver(store, message)
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition of this process holds; only a test that fails waits for long."""
    for _ in range(3000):
        if condition():
            return
        await seconds(0.01)
    raise AssertionError("it does not come true")


async def pauseEnds(store: Store) -> None:
    """Wait until the link that is lost is gone, and the store may try to open another one."""
    publisher = store._publisher
    assert publisher is not None
    await until(lambda: publisher._link is None and publisher._clock.seconds() >= publisher._nextAttempt)


async def seconds(number: float) -> None:
    waiting: Deferred[None] = Deferred()
    reactor.callLater(number, waiting.callback, None)  # type: ignore[attr-defined]
    await waiting


def inThread(function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
    from twisted.internet.threads import deferToThread

    return deferToThread(function, *arguments)


@pytest.fixture
def queue(rabbitmq: RabbitMQ, request: pytest.FixtureRequest) -> str:
    name: str = request.node.name
    rabbitmq.declare(name)
    return name


@pytest_twisted.async_yield_fixture
async def makeStore(rabbitmq: RabbitMQ) -> AsyncIterator[MakeStore]:
    """Make stores that publish to the broker; they are stopped when the test ends."""
    stores = []

    def make(queue: str, **options: Any) -> Store:
        stores.append(Store(**{"url": rabbitmq.url, "routingKey": queue, **options}))
        return stores[-1]

    yield make
    for store in stores:
        await store.onStop(None)


# --- what is in the queue ---


@pytest_twisted.ensureDeferred
async def test_a_message_is_in_the_queue_when_it_is_accepted(
    rabbitmq: RabbitMQ, queue: str, makeStore: MakeStore
) -> None:
    session = makeSession("bob@mx.example", "eve@mx.example")
    reply = await deliver(makeStore(queue), MESSAGE, session)
    (queued,) = rabbitmq.take(queue)
    assert reply == f"Queued as {session.id}.{session.transaction}"
    received, _, message = queued.body.partition(b"\r\nSubject")
    assert received.startswith(b"Received: from ")
    assert b"Subject" + message == MESSAGE
    properties = queued.properties
    assert (properties.content_type, properties.delivery_mode) == ("message/rfc822", 2)
    assert properties.message_id == f"{session.id}.{session.transaction}"
    assert properties.timestamp > 1_700_000_000
    assert json.loads(properties.headers["envelope"])["mailFrom"] == "ann@example.org"
    assert json.loads(properties.headers["envelope"])["rcptTo"] == ["bob@mx.example", "eve@mx.example"]
    assert json.loads(properties.headers["session"])["remoteAddress"] == "192.0.2.1"
    assert json.loads(properties.headers["verdicts"]) == {}


@pytest_twisted.ensureDeferred
async def test_the_same_message_has_the_same_key_again(rabbitmq: RabbitMQ, queue: str, makeStore: MakeStore) -> None:
    store = makeStore(queue)
    for session in (makeSession(), makeSession(), makeSession("eve@mx.example")):
        await deliver(store, MESSAGE, session)
    await deliver(store, MESSAGE + b"x")
    first, second, *others = (each.properties.headers["idempotency-key"] for each in rabbitmq.take(queue))
    assert first == second
    assert len({first, *others}) == 3


@pytest_twisted.ensureDeferred
async def test_hundreds_in_flight_on_one_channel_arrive_once_each(
    rabbitmq: RabbitMQ, queue: str, makeStore: MakeStore
) -> None:
    store = makeStore(queue)
    numbers = range(400)
    results = await DeferredList(
        [ensureDeferred(deliver(store, b"Subject: %d\r\n\r\n" % number)) for number in numbers], consumeErrors=True
    )
    assert all(isOK for isOK, _ in results)
    bodies = [queued.body.partition(b"Subject: ")[2] for queued in rabbitmq.take(queue)]
    assert sorted(map(int, bodies)) == list(numbers)


@pytest_twisted.ensureDeferred
async def test_recipients_with_more_octets_than_a_frame_become_several_messages(
    rabbitmq: RabbitMQ, queue: str, makeStore: MakeStore
) -> None:
    recipients = [f"{'x' * 200}{number}@mx.example" for number in range(1000)]
    await deliver(makeStore(queue), MESSAGE, makeSession(*recipients))
    queued = rabbitmq.take(queue)
    assert len(queued) == 2
    told = [name for each in queued for name in json.loads(each.properties.headers["envelope"])["rcptTo"]]
    assert sorted(told) == sorted(recipients)
    assert len({each.properties.message_id for each in queued}) == 2
    assert len({each.properties.headers["idempotency-key"] for each in queued}) == 2


# --- nowhere to go ---


@pytest_twisted.ensureDeferred
async def test_an_unroutable_message_fails_and_those_around_it_do_not(
    rabbitmq: RabbitMQ, queue: str, makeStore: MakeStore
) -> None:
    with rabbitmq.channel() as channel:
        channel.exchange_declare("headers.one", "headers", durable=True)
        channel.queue_bind(queue, "headers.one", "", {"x-match": "any", "envelope": ENVELOPE_OF_BOB})
    store = makeStore("", exchange="headers.one")
    sessions = [makeSession("bob@mx.example" if number % 3 else "eve@mx.example") for number in range(200)]
    results = await DeferredList(
        [ensureDeferred(deliver(store, MESSAGE, session)) for session in sessions], consumeErrors=True
    )
    for number, (isOK, result) in enumerate(results):
        assert isOK is bool(number % 3)
        if not isOK:
            assert "NO_ROUTE" in str(result.value)
    bobs = [session for session in sessions if session.envelope.rcptTo[0].address == "bob@mx.example"]
    expected = {f"{session.id}.{session.transaction}" for session in bobs}
    queued = rabbitmq.take(queue)
    assert {each.properties.message_id for each in queued} == expected
    assert len(queued) == len(expected)


ENVELOPE_OF_BOB = json.dumps(
    {
        "mailFrom": "ann@example.org",
        "rcptTo": ["bob@mx.example"],
        "mailParameters": {},
        "rcptParameters": [{}],
        "bodyType": "7bit",
        "smtpUtf8": False,
        "requireTLS": False,
    },
    separators=(",", ":"),
)


@pytest_twisted.ensureDeferred
async def test_a_queue_that_is_not_there_is_a_failure_until_it_is(rabbitmq: RabbitMQ, makeStore: MakeStore) -> None:
    store = makeStore("not.there")
    assert "no queue 'not.there'" in await failure(store)
    assert "next attempt in 1 seconds" in await failure(store)
    rabbitmq.declare("not.there")
    await pauseEnds(store)
    await deliver(store)
    rabbitmq.delete("not.there")
    assert "NO_ROUTE" in await failure(store)


@pytest_twisted.ensureDeferred
async def test_a_quorum_queue_is_declared_where_that_is_asked_for(rabbitmq: RabbitMQ, makeStore: MakeStore) -> None:
    await deliver(makeStore("declared.here", declare=True))
    assert "declared.here\tquorum\ttrue" in rabbitmq.ctl("list_queues", "name", "type", "durable")


@pytest_twisted.ensureDeferred
async def test_a_queue_of_another_type_is_not_taken_for_a_quorum_queue(
    rabbitmq: RabbitMQ, makeStore: MakeStore
) -> None:
    rabbitmq.declare("classic.here", "classic")
    assert "x-queue-type" in await failure(makeStore("classic.here", declare=True))


@pytest_twisted.ensureDeferred
async def test_a_full_queue_that_rejects_is_a_failure(rabbitmq: RabbitMQ, makeStore: MakeStore) -> None:
    rabbitmq.declare("full", "classic", x_max_length=1, x_overflow="reject-publish")
    store = makeStore("full")
    await deliver(store)
    assert "does not take a message" in await failure(store)


@pytest_twisted.ensureDeferred
async def test_a_message_above_the_limit_is_refused_and_never_sent(
    rabbitmq: RabbitMQ, queue: str, makeStore: MakeStore
) -> None:
    store = makeStore(queue, maxMessageSize=1000)
    with pytest.raises(SMTPError) as caught:
        await deliver(store, MESSAGE + b"x" * 1000)
    assert caught.value.responseCode == 552
    await deliver(store)
    assert rabbitmq.count(queue) == 1


# --- a broker that is lost, hangs, or takes nothing ---


@pytest_twisted.ensureDeferred
async def test_a_channel_closed_by_the_broker_fails_its_messages_and_is_opened_again(
    startRabbitMQ: StartRabbitMQ, makeStore: MakeStore
) -> None:
    broker = startRabbitMQ("max_message_size = 5000")
    broker.declare("small")
    store = makeStore("small", url=broker.url)
    await deliver(store)
    results = await DeferredList(
        [ensureDeferred(deliver(store, body)) for body in (b"x" * 9000, MESSAGE, MESSAGE)], consumeErrors=True
    )
    assert not any(isOK for isOK, _ in results)
    assert all("larger than configured max size" in str(result.value) for _, result in results)
    await pauseEnds(store)
    sessions = [makeSession() for _ in range(20)]
    await DeferredList(
        [ensureDeferred(deliver(store, MESSAGE, session)) for session in sessions], fireOnOneErrback=True
    )
    ids = {each.properties.message_id for each in broker.take("small")}
    assert {f"{session.id}.{session.transaction}" for session in sessions} <= ids
    broker.close()


@pytest_twisted.ensureDeferred
async def test_a_broker_that_is_killed_fails_what_it_has_not_confirmed(
    rabbitmq: RabbitMQ, queue: str, makeStore: MakeStore
) -> None:
    store = makeStore(queue)
    await deliver(store)
    rabbitmq.kill()
    assert "RabbitMQ at 127.0.0.1" in await failure(store)
    await inThread(rabbitmq.start)
    for _ in range(100):
        try:
            await deliver(store)
            break
        except Unavailable:
            await pauseEnds(store)
    assert rabbitmq.count(queue) == 2


@pytest_twisted.ensureDeferred
async def test_a_broker_that_hangs_is_noticed_by_the_time_limit(
    rabbitmq: RabbitMQ, queue: str, makeStore: MakeStore
) -> None:
    store = makeStore(queue, confirmTimeout=1, connectTimeout=1)
    await deliver(store)
    rabbitmq.pause()
    try:
        assert "has not confirmed a message within 1 seconds" in await failure(store)
        await pauseEnds(store)
        assert "no answer within 1 seconds" in await failure(store)
    finally:
        rabbitmq.resume()
    await pauseEnds(store)
    await deliver(store)


@pytest_twisted.ensureDeferred
async def test_a_broker_that_hangs_within_a_message_keeps_no_connection(
    rabbitmq: RabbitMQ, queue: str, makeStore: MakeStore
) -> None:
    store = makeStore(queue, confirmTimeout=1, connectTimeout=1)
    await deliver(store)
    rabbitmq.pause()
    try:
        # More than the kernel takes for a process that does not read.
        assert "has not confirmed a message" in await failure(store, MESSAGE + b"x" * 12_000_000)
        await until(lambda: not reactor.getWriters())  # type: ignore[attr-defined]
    finally:
        rabbitmq.resume()


@pytest_twisted.ensureDeferred
async def test_the_next_node_is_used_when_one_is_lost(
    rabbitmq: RabbitMQ, startRabbitMQ: StartRabbitMQ, queue: str, makeStore: MakeStore
) -> None:
    other = startRabbitMQ()
    other.declare(queue)
    store = makeStore(queue, url=[other.url, f"amqp://127.0.0.1:{freePort()}", rabbitmq.url])
    await deliver(store)
    assert other.count(queue) == 1
    other.kill()
    await until(lambda: store._publisher is not None and store._publisher._link is None)
    await pauseEnds(store)
    await deliver(store)
    assert rabbitmq.count(queue) == 1
    other.close()


@pytest_twisted.ensureDeferred
async def test_a_broker_out_of_memory_takes_nothing_and_says_so(
    rabbitmq: RabbitMQ, queue: str, makeStore: MakeStore
) -> None:
    store = makeStore(queue)
    await deliver(store)
    rabbitmq.ctl("set_vm_memory_high_watermark", "0.00001")
    try:
        # The broker says so after the first message that comes, and may take that.
        results = await DeferredList([ensureDeferred(deliver(store)) for _ in range(5)], consumeErrors=True)
        assert any("takes nothing now: low on memory" in str(result.value) for isOK, result in results if not isOK)
        assert "takes nothing now" in await failure(store)
    finally:
        rabbitmq.ctl("set_vm_memory_high_watermark", "0.9")
    await until(lambda: store._publisher._link.blocked is None)  # type: ignore[union-attr]
    await deliver(store)


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_takes_no_other_message_along(
    rabbitmq: RabbitMQ, queue: str, makeStore: MakeStore
) -> None:
    store = makeStore(queue)
    await deliver(store)
    rabbitmq.pause()
    leaving, staying = ensureDeferred(deliver(store)), ensureDeferred(deliver(store))
    await seconds(0)
    leaving.cancel()
    with pytest.raises(CancelledError):
        await leaving
    rabbitmq.resume()
    await staying


# --- who may connect ---


@pytest_twisted.ensureDeferred
async def test_a_wrong_password_is_a_failure_that_does_not_show_it(
    rabbitmq: RabbitMQ, queue: str, makeStore: MakeStore
) -> None:
    store = makeStore(queue, url=f"amqp://mail:{PASSWORD[:5]}@127.0.0.1:{rabbitmq.port}/")
    with capturedLogs() as events:
        assert "ACCESS_REFUSED" in await failure(store)
    assert [event["log_level"] for event in events] == [LogLevel.warn]
    assert PASSWORD[:5] not in repr(events) + repr(store)


@pytest_twisted.ensureDeferred
async def test_tls_verifies_the_broker(rabbitmq: RabbitMQ, queue: str, makeStore: MakeStore) -> None:
    await deliver(makeStore(queue, url=rabbitmq.tlsUrl, ca=rabbitmq.authority))
    assert "its certificate is signed by no authority" in await failure(makeStore(queue, url=rabbitmq.tlsUrl))
    assert rabbitmq.count(queue) == 1


@pytest_twisted.ensureDeferred
async def test_a_start_connects_and_a_stop_leaves_nothing(rabbitmq: RabbitMQ, queue: str, makeStore: MakeStore) -> None:
    store = makeStore(queue)
    before = set(reactor.getDelayedCalls())  # type: ignore[attr-defined]
    await store.onStart(None)
    await deliver(store)
    await store.onStop(None)
    await until(lambda: set(reactor.getDelayedCalls()) <= before)  # type: ignore[attr-defined]
    await until(lambda: "closing AMQP connection" in rabbitmq.output)


@pytest_twisted.ensureDeferred
async def test_a_broker_that_is_down_keeps_nothing_from_starting(makeStore: MakeStore, queue: str) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        store = makeStore(queue, url=f"amqp://127.0.0.1:{listening.getsockname()[1]}")
        await store.onStart(None)
        assert "cannot be used" in await failure(store)


# --- claims ---


@pytest_twisted.ensureDeferred
async def test_a_large_message_is_kept_and_referred_to(
    rabbitmq: RabbitMQ, queue: str, makeStore: MakeStore, tmp_path: Path
) -> None:
    store = makeStore(queue, claims=str(tmp_path), claimAbove=1000)
    large = MESSAGE + b"x" * 1000
    await deliver(store)
    await deliver(store, large)
    small, claim = rabbitmq.take(queue)
    assert small.body.endswith(MESSAGE)
    assert (claim.body, claim.properties.content_type) == (b"", "message/external-body")
    headers = claim.properties.headers
    (path,) = tmp_path.iterdir()
    assert headers["claim"] == f"file://{path}"
    content = path.read_bytes()
    assert content.startswith(b"Received: ") and content.endswith(large)
    assert headers["claim-octets"] == str(len(content))
    assert headers["claim-sha256"] == hashlib.sha256(content).hexdigest()
    # The key does not depend on the way that a message takes.
    await deliver(makeStore(queue), large)
    assert rabbitmq.take(queue)[0].properties.headers["idempotency-key"] == headers["idempotency-key"]


@pytest_twisted.ensureDeferred
async def test_what_the_broker_does_not_take_is_not_kept(
    rabbitmq: RabbitMQ, queue: str, makeStore: MakeStore, tmp_path: Path
) -> None:
    store = makeStore(queue, claims=str(tmp_path), claimAbove=0)
    await deliver(store)
    (kept,) = tmp_path.iterdir()
    rabbitmq.delete(queue)
    assert "NO_ROUTE" in await failure(store)
    assert list(tmp_path.iterdir()) == [kept]


class NoClaims:
    """Claims that nothing may be asked of."""

    async def keep(self, *arguments: object) -> str:
        raise AssertionError("a message was kept")

    async def drop(self, reference: str) -> None:
        raise AssertionError("a message was dropped")

    def read(self, reference: str) -> AsyncIterator[bytes]:
        raise AssertionError("a message was read")


@pytest_twisted.ensureDeferred
async def test_nothing_is_kept_while_no_node_can_be_used(makeStore: MakeStore, queue: str) -> None:
    store = makeStore(queue, url=f"amqp://127.0.0.1:{freePort()}", claims=NoClaims(), claimAbove=0)
    assert "cannot be used" in await failure(store)


@pytest_twisted.ensureDeferred
async def test_a_message_for_many_is_kept_once_for_each_part(
    rabbitmq: RabbitMQ, queue: str, makeStore: MakeStore, tmp_path: Path
) -> None:
    recipients = [f"{'x' * 200}{number}@mx.example" for number in range(1000)]
    await deliver(makeStore(queue, claims=str(tmp_path), claimAbove=0), MESSAGE, makeSession(*recipients))
    claims = [each.properties.headers["claim"] for each in rabbitmq.take(queue)]
    assert sorted(claims) == sorted(f"file://{path}" for path in tmp_path.iterdir())
    assert len(claims) == 2
