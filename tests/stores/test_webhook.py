"""The store Webhook, with a webhook on loopback that answers on command."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from contextlib import suppress

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, ensureDeferred, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.task import deferLater
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure

from smtphooks.hooks import Unavailable, hookOf
from smtphooks.replies import SMTPError
from smtphooks.session import Address
from smtphooks.stores import Discard, Tee, Webhook
from tests.layers.scanners import Message, isTidy
from tests.secrets import TOKEN
from tests.stores.webhooks import (
    LAST_CHUNK,
    MESSAGE,
    OK,
    PATIENCE,
    SECRET,
    Post,
    Request,
    answer,
    makeSession,
    storeOf,
    webhook,
)

__all__ = ["webhook"]


async def refused(post, *arguments, **given):
    with pytest.raises(SMTPError) as caught:
        await post.answered(*arguments, **given)
    assert isTidy(post.message, post.clock)
    error = caught.value
    return error.responseCode, error.enhancedCode, error.message


async def fault(post, *arguments, **given):
    with pytest.raises(Unavailable) as caught:
        await (post.answered(*arguments, **given) if arguments else post.result)
    assert isTidy(post.message, post.clock)
    return str(caught.value)


def nameOf(webhook):
    return f"webhook at http://127.0.0.1:{webhook.port}"


# --- the request ---


@pytest_twisted.ensureDeferred
async def test_a_message_is_posted_while_it_arrives(webhook):
    post = Post(webhook, Message(b"Subject: x\r\n\r\n", isWhole=False))
    talk = await post.has(b"Subject: x\r\n")
    assert LAST_CHUNK not in talk.received
    post.message.end(b"late\r\n")
    assert await post.answered(answer("200 OK", "Queued as 5\n")) == "Queued as 5"
    request = Request(talk.received)
    assert request.line == "POST /mail?box=1 HTTP/1.1"
    assert request.fields["content-type"] == "message/rfc822"
    assert request.fields["accept-encoding"] == "identity"
    assert request.fields["idempotency-key"] == request.fields["smtphooks-id"] == f"{post.session.id}.1"
    assert request.body.startswith(b"Received: from client.example.org")
    assert request.body.endswith(b"\r\nSubject: x\r\n\r\nlate\r\n")
    assert isTidy(post.message, post.clock)


@pytest_twisted.ensureDeferred
async def test_a_spooled_message_has_a_length_and_nothing_is_sent_before_its_end(webhook):
    message = Message(MESSAGE, isWhole=False)
    post = Post(webhook, message, spool=True)
    assert not webhook.talks
    message.end(b"late\r\n")
    talk = await post.has(b"late\r\n")
    assert await post.answered(OK, b"late\r\n") is None
    request = Request(talk.received)
    assert "transfer-encoding" not in request.fields
    assert request.body.endswith(MESSAGE + b"late\r\n")


@pytest_twisted.ensureDeferred
async def test_the_token_is_sent_as_bearer(webhook):
    post = Post(webhook, token=TOKEN)
    await post.answered(OK)
    assert Request(webhook.talks[0].received).fields["authorization"] == f"Bearer {TOKEN}"


@pytest_twisted.ensureDeferred
async def test_a_signed_request_can_be_verified(webhook):
    post = Post(webhook, secret=SECRET)
    await post.answered(OK, b"Hello.\r\n")
    request = Request(webhook.talks[0].received)
    fields = request.fields
    lines = [
        fields["smtphooks-timestamp"],
        fields["idempotency-key"],
        fields["smtphooks-description"],
        hashlib.sha256(request.body).hexdigest(),
    ]
    expected = hmac.new(SECRET.encode(), "\n".join(lines).encode(), "sha256").hexdigest()
    assert fields["smtphooks-signature"] == f"v1={expected}"
    assert abs(int(fields["smtphooks-timestamp"]) - time.time()) < 60


@pytest_twisted.ensureDeferred
async def test_the_key_of_a_spooled_message_is_that_of_its_repetition(webhook):
    keys = []
    for session, message in (
        (makeSession("b@example.com", "a@example.com"), MESSAGE),
        (makeSession("a@example.com", "b@example.com"), MESSAGE),
        (makeSession("a@example.com"), MESSAGE),
        (makeSession("a@example.com", mailFrom="else@example.org"), MESSAGE),
        (makeSession("a@example.com"), b"X" + MESSAGE),
    ):
        post = Post(webhook, Message(message), session, spool=True)
        await post.answered(OK, b"Hello.\r\n")
        keys.append(Request(webhook.talks[-1].received).fields["idempotency-key"])
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


@pytest_twisted.ensureDeferred
async def test_a_connection_is_kept_for_the_next_message(webhook):
    store = storeOf(webhook)
    await Post(webhook, store=store).answered(OK)
    (talk,) = webhook.talks
    talk.received = b""
    result = ensureDeferred(store.onData(Message(MESSAGE), makeSession()))
    await talk.has(LAST_CHUNK).addTimeout(PATIENCE, reactor)
    talk.answer(OK)
    await result
    assert len(webhook.talks) == 1


@pytest_twisted.ensureDeferred
async def test_a_webhook_may_have_an_IPv6_address(webhook):
    listening = reactor.listenTCP(0, webhook, interface="::1")
    try:
        url = f"http://[::1]:{listening.getHost().port}"
        assert await Post(webhook, url=f"{url}/a%20b?c=%41").answered(OK) is None
    finally:
        await listening.stopListening()
    request = Request(webhook.talks[0].received)
    assert request.line == "POST /a%20b?c=%41 HTTP/1.1"
    assert f"http://{request.fields['host']}" == url


@pytest_twisted.ensureDeferred
async def test_cookies_are_not_kept(webhook):
    store = storeOf(webhook)
    await Post(webhook, store=store).answered(answer("200 OK", Set_Cookie="a=b"))
    (talk,) = webhook.talks
    talk.received = b""
    result = ensureDeferred(store.onData(Message(MESSAGE), makeSession()))
    await talk.has(LAST_CHUNK).addTimeout(PATIENCE, reactor)
    assert b"ookie" not in talk.received
    talk.answer(OK)
    await result


# --- the answer ---


@pytest.mark.parametrize(
    "octets, text",
    [
        (OK, None),
        (answer("200 OK"), None),
        (answer("200 OK", "Queued as 5"), "Queued as 5"),
        (answer("201 Created", "  two\r\n lines\n"), "two lines"),
        (answer("200 OK", "Grüße", "text/plain; charset=utf-8"), "Grüße"),
        (answer("200 OK", b"Gr\xfc\xdfe"), None),
        (answer("200 OK", "a\x1b[0mb"), None),
        (answer("200 OK", "x" * 500), "x" * 500),
        (answer("200 OK", "x" * 501), None),
        (answer("200 OK", "<html>", "text/html"), None),
        (answer("200 OK", '{"id": 5}', "application/json"), None),
        (answer("200 OK", b"\x1f\x8b", Content_Encoding="gzip"), None),
        (answer("200 OK", b"text", Content_Encoding="br"), None),
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            "hi",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, None),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answer("200 OK", "hi"), "hi"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_yes_is_250_with_its_short_text(webhook, octets, text):
    assert await Post(webhook).answered(octets) == text


@pytest_twisted.ensureDeferred
async def test_an_answer_may_end_with_its_connection(webhook):
    octets = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nhi"
    assert await Post(webhook).answered(octets, closes=True) == "hi"


@pytest.mark.parametrize(
    "status, code, enhanced, message",
    [
        (400, 554, "5.6.0", "Message refused"),
        (403, 550, "5.7.1", "Message refused"),
        (404, 550, "5.1.1", "No such recipient"),
        (406, 554, "5.6.1", "Message refused, its content is not accepted"),
        (410, 550, "5.2.1", "Recipient does not take mail any more"),
        (413, 552, "5.3.4", "Message too large"),
        (422, 554, "5.6.0", "Message refused, its content is invalid"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_some_statuses_refuse_for_good(webhook, status, code, enhanced, message):
    assert await refused(Post(webhook), answer(f"{status} No")) == (code, enhanced, message)
    assert await refused(Post(webhook), answer(f"{status} No", "because")) == (code, enhanced, "because")
    assert await refused(Post(webhook), answer(f"{status} No", "<p>", "text/html")) == (code, enhanced, message)


@pytest.mark.parametrize("status", [301, 302, 307, 401, 402, 405, 408, 409, 415, 421, 429, 431, 500, 503, 599, 700])
@pytest_twisted.ensureDeferred
async def test_every_other_status_is_a_fault(webhook, status):
    octets = answer(f"{status} No", "text", Location="/elsewhere")
    assert await fault(Post(webhook), octets) == f"{nameOf(webhook)} answers {status}"
    assert len(webhook.talks) == 1


@pytest.mark.parametrize(
    "octets, said",
    [
        (b"", "gives no answer: Connection was closed cleanly."),
        (b"HTTP/1.1 200", "gives no answer"),
        (b"220 mx.example.org ESMTP\r\n", "gives no answer"),
        (b"\0\0\0\r\n\r\n", "gives no answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhal", "has closed the connection within its answer"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal",
            "has closed the connection within its answer",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhallo", "gives no answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20000, "answers more than 65536 octets"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_no_answer_is_a_fault(webhook, octets, said):
    assert (await fault(Post(webhook), octets, closes=True)).startswith(f"{nameOf(webhook)} {said}")


@pytest.mark.parametrize("status, code", [("200 OK", None), ("403 Forbidden", 550)])
@pytest_twisted.ensureDeferred
async def test_the_status_of_an_endless_answer_counts(webhook, status, code):
    post = Post(webhook)
    octets = answer(status, "x" * 100000)
    if code is None:
        assert await post.answered(octets) is None
    else:
        assert (await refused(post, octets))[0] == code
    await webhook.talks[0].closed


@pytest_twisted.ensureDeferred
async def test_a_webhook_that_is_not_there_is_a_fault(webhook):
    post = Post(webhook, url="http://127.0.0.1:1/")
    assert (await fault(post)).startswith("webhook at http://127.0.0.1:1 cannot be reached: Connection was refused")


# --- an answer before the end ---


@pytest.mark.parametrize("spool", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_refusal_before_the_end_of_the_message_ends_the_request(webhook, spool):
    message = Message(b"x" * 8_000_000, isWhole=spool)
    post = Post(webhook, message, spool=spool)
    talk = await post.has(b"xxx")
    talk.transport.pauseProducing()
    talk.answer(answer("413 Too Large", "at most 5 MB"))
    assert await refused(post, b"", b"xxx") == (552, "5.3.4", "at most 5 MB")
    talk.transport.resumeProducing()
    await talk.closed
    assert len(talk.received) < 8_000_000
    assert not talk.received.endswith(LAST_CHUNK)


@pytest_twisted.ensureDeferred
async def test_a_yes_before_the_end_of_the_message_is_none(webhook):
    post = Post(webhook, Message(b"one\r\n", isWhole=False))
    said = await fault(post, answer("200 OK", "fine"), b"one")
    assert said == f"{nameOf(webhook)} answers 200 before it has the whole message"
    await webhook.talks[0].closed
    assert not webhook.talks[0].received.endswith(LAST_CHUNK)


@pytest_twisted.ensureDeferred
async def test_a_yes_is_none_while_the_end_of_the_message_is_still_to_be_sent(webhook):
    store = storeOf(webhook)
    post = Post(webhook, Message(b"x" * 16_000_000), store=store)
    talk = await post.has(b"xxx")
    talk.transport.pauseProducing()
    talk.answer(answer("200 OK", "fine"))
    assert await fault(post) == f"{nameOf(webhook)} answers 200 before it has the whole message"
    talk.transport.resumeProducing()
    await talk.closed
    assert len(talk.received) < 16_000_000


@pytest_twisted.ensureDeferred
async def test_an_interim_answer_ends_nothing(webhook):
    message = Message(b"one\r\n", isWhole=False)
    post = Post(webhook, message)
    talk = await post.has(b"one")
    talk.answer(b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\nHTTP/1.1 102 Pro")
    message.append(b"two\r\n")
    await talk.has(b"two").addTimeout(PATIENCE, reactor)
    talk.answer(b"cessing\r\n\r\n")
    message.append(b"three\r\n")
    await talk.has(b"three").addTimeout(PATIENCE, reactor)
    message.end()
    await post.answered(OK)
    assert Request(talk.received).body.endswith(b"one\r\ntwo\r\nthree\r\n")


@pytest_twisted.ensureDeferred
async def test_a_request_that_was_cut_has_no_last_chunk_even_if_the_answer_takes_its_time(webhook):
    post = Post(webhook, Message(b"one\r\n", isWhole=False))
    talk = await post.has(b"one")
    head, body = answer("403 Forbidden", "no"), b"no"
    talk.answer(head.removesuffix(body))
    while post.message.isAwaited and not post.message.isPaused:
        await deferLater(reactor, 0)
    post.message.end(b"two\r\n")
    for _ in range(5):
        await deferLater(reactor, 0)
    assert b"two" not in talk.received and not talk.received.endswith(LAST_CHUNK)
    assert await refused(post, body, b"one") == (550, "5.7.1", "no")
    await talk.closed
    assert b"two" not in talk.received and not talk.received.endswith(LAST_CHUNK)


@pytest.mark.parametrize("status", ["413 Too Large", "200 OK"])
@pytest_twisted.ensureDeferred
async def test_an_early_answer_may_follow_an_interim_one(webhook, status):
    post = Post(webhook, Message(b"one\r\n", isWhole=False))
    octets = b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + answer(status, "said")
    if status == "200 OK":
        assert "answers 200 before it has the whole message" in await fault(post, octets, b"one")
    else:
        assert await refused(post, octets, b"one") == (552, "5.3.4", "said")


@pytest_twisted.ensureDeferred
async def test_a_connection_whose_request_was_cut_carries_no_other(webhook):
    store = storeOf(webhook)
    post = Post(webhook, Message(b"one\r\n", isWhole=False), store=store)
    again = []
    post.result.addErrback(lambda failure: again.append(Post(webhook, store=store)))
    (await post.has(b"one")).answer(answer("403 No"))
    await post.result
    await again[0].answered(OK)
    assert len(webhook.talks) == 2
    assert webhook.talks[0].received.count(b"POST ") == 1


# --- messages that break off ---


@pytest.mark.parametrize("spool", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_aborts_the_request(webhook, spool):
    message = Message(b"one\r\n", isWhole=False)
    post = Post(webhook, message, spool=spool)
    talk = None if spool else await post.has(b"one")
    message.fail(Failure(ConnectionLost()))
    with pytest.raises(ConnectionLost):
        await post.result
    assert isTidy(message, post.clock)
    if talk is None:
        assert not webhook.talks
    else:
        await talk.closed
        assert not talk.received.endswith(LAST_CHUNK)


@pytest.mark.parametrize("spool", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_message_above_the_limit_aborts_the_request(webhook, spool):
    message = Message(b"one\r\n", isWhole=False, size=10)
    post = Post(webhook, message, spool=spool)
    talk = None if spool else await post.has(b"one")
    message.end(b"x" * 20)
    with pytest.raises(SMTPError) as caught:
        await post.result
    assert caught.value.responseCode == 552
    if talk is not None:
        await talk.closed
        assert not talk.received.endswith(LAST_CHUNK)


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_while_there_is_no_connection_yet_is_noticed(webhook):
    message = Message(b"one\r\n", isWhole=False)
    post = Post(webhook, message)
    message.fail(Failure(ConnectionLost()))
    with pytest.raises(ConnectionLost):
        await post.result
    assert isTidy(message, post.clock)


@pytest_twisted.ensureDeferred
async def test_a_cancelled_hook_aborts_the_request(webhook):
    post = Post(webhook, Message(b"one\r\n", isWhole=False))
    talk = await post.has(b"one")
    post.result.cancel()
    with pytest.raises(CancelledError):
        await post.result
    assert isTidy(post.message, post.clock)
    await talk.closed
    assert not talk.received.endswith(LAST_CHUNK)


# --- time ---


@pytest_twisted.ensureDeferred
async def test_a_webhook_that_never_answers_is_a_fault(webhook):
    post = Post(webhook, timeout=7)
    talk = await post.has(LAST_CHUNK)
    post.clock.advance(6.9)
    assert not post.result.called
    post.clock.advance(0.2)
    assert await fault(post) == f"{nameOf(webhook)} has not answered within 7 seconds"
    await talk.closed


@pytest_twisted.ensureDeferred
async def test_a_webhook_that_hangs_within_its_answer_is_a_fault(webhook):
    post = Post(webhook, timeout=7)
    talk = await post.has(LAST_CHUNK)
    talk.answer(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhal")
    while not post.store._links._endpoints._links or not next(iter(post.store._links._endpoints._links))._octets:
        await deferLater(reactor, 0)
    post.clock.advance(7)
    assert await fault(post) == f"{nameOf(webhook)} has not answered within 7 seconds"
    await talk.closed


@pytest_twisted.ensureDeferred
async def test_the_time_of_the_client_does_not_count(webhook):
    message = Message(b"one\r\n", isWhole=False)
    post = Post(webhook, message, timeout=7)
    await post.has(b"one")
    post.clock.advance(1000)
    message.end(b"two")
    await post.answered(OK)


@pytest_twisted.ensureDeferred
async def test_a_webhook_that_does_not_read_stops_the_client_and_is_a_fault(webhook):
    message = Message(b"one\r\n", isWhole=False)
    post = Post(webhook, message, timeout=7)
    talk = await post.has(b"one")
    talk.transport.pauseProducing()
    while not message.isPaused:
        message.append(b"x" * 1_000_000)
        await deferLater(reactor, 0)
    post.clock.advance(7)
    assert await fault(post) == f"{nameOf(webhook)} has not read all within 7 seconds"
    talk.transport.resumeProducing()
    await talk.closed


@pytest_twisted.ensureDeferred
async def test_the_turns_of_the_webhook_count_together(webhook):
    message = Message(b"one\r\n", isWhole=False)
    post = Post(webhook, message, timeout=7)
    talk = await post.has(b"one")
    talk.transport.pauseProducing()
    while not message.isPaused:
        message.append(b"x" * 1_000_000)
        await deferLater(reactor, 0)
    post.clock.advance(5)
    talk.transport.resumeProducing()
    while message.isPaused or message.buffered:
        await deferLater(reactor, 0)
    post.clock.advance(100)
    message.end()
    await post.has(LAST_CHUNK)
    post.clock.advance(3)
    assert await fault(post) == f"{nameOf(webhook)} has not answered within 7 seconds"
    await talk.closed


@pytest_twisted.ensureDeferred
async def test_a_webhook_that_accepts_no_connection_is_a_fault(webhook, monkeypatch):
    post = Post(webhook, url="http://192.0.2.1/", connectTimeout=3)
    post.clock.advance(3)
    assert await fault(post) == (
        "webhook at http://192.0.2.1 cannot be reached: it accepted no connection within 3 seconds"
    )


# --- many recipients ---


def many(number):
    return [f"recipient-number-{index:04}@department-{index:04}.example.com" for index in range(number)]


async def answeredInTurn(webhook, post, answers):
    """Answer one request after the other; the requests."""
    talk, requests = await post.has(b"Hello.\r\n"), []
    for octets in answers:
        await talk.has(b"Hello.\r\n").addTimeout(PATIENCE, reactor)
        requests.append(Request(talk.received))
        talk.received = b""
        talk.answer(octets)
    assert len(webhook.talks) == 1
    return requests


@pytest_twisted.ensureDeferred
async def test_recipients_beyond_one_request_go_with_another(webhook):
    recipients = many(130)
    post = Post(webhook, session=makeSession(*recipients))
    requests = await answeredInTurn(webhook, post, [answer("200 OK", str(index)) for index in range(3)])
    assert await post.result == "2"
    told = [json.loads(request.fields["smtphooks-description"])["envelope"]["rcptTo"] for request in requests]
    assert [len(each) for each in told] == [len(r.fields["smtphooks-rcpt-to"].split(",")) for r in requests]
    assert [recipient for each in told for recipient in each] == recipients
    assert len({request.fields["idempotency-key"] for request in requests}) == 3
    assert len({request.body for request in requests}) == 1
    for request in requests:
        assert sum(len(f"{name}: {value}\r\n") for name, value in request.fields.items()) < 8000


@pytest_twisted.ensureDeferred
async def test_over_smtp_the_first_refusal_is_that_of_all(webhook):
    post = Post(webhook, session=makeSession(*many(130)))
    assert len(await answeredInTurn(webhook, post, [OK, answer("403 No")])) == 2
    assert await refused(post, b"", b"") == (550, "5.7.1", "Message refused")


@pytest_twisted.ensureDeferred
async def test_over_lmtp_each_request_answers_for_its_recipients(webhook):
    post = Post(webhook, session=makeSession(*many(130), lmtp=True))
    with capturedLogs() as events:
        requests = await answeredInTurn(webhook, post, [OK, answer("403 No"), answer("500 Crashed")])
        results = await post.result
    counts = [len(request.fields["smtphooks-rcpt-to"].split(",")) for request in requests]
    assert len(results) == sum(counts) == 130
    assert results[: counts[0]] == [None] * counts[0]
    refusals = [(error.responseCode, error.enhancedCode) for error in results[counts[0] :]]
    assert refusals == [(550, "5.7.1")] * counts[1] + [(451, "4.3.0")] * counts[2]
    assert [event["log_level"] for event in events if "cannot decide" in event["log_format"]] == [LogLevel.error]


@pytest_twisted.ensureDeferred
async def test_over_lmtp_one_request_answers_for_all(webhook):
    assert await Post(webhook, session=makeSession("a@x", "b@x", lmtp=True)).answered(answer("200 OK", "hi")) == "hi"


# --- connections that were left ---


async def nextOnSameConnection(webhook, **options):
    """A post on a connection that carried one before."""
    store = storeOf(webhook, **options)
    after = b"Hello.\r\n"
    await Post(webhook, store=store).answered(OK, after)
    (talk,) = webhook.talks
    talk.received = b""
    post = Post(webhook, store=store)
    await talk.has(after).addTimeout(PATIENCE, reactor)
    return post, talk


@pytest_twisted.ensureDeferred
async def test_a_spooled_message_is_sent_again_if_an_idle_connection_was_closed(webhook):
    post, talk = await nextOnSameConnection(webhook, spool=True)
    talk.transport.abortConnection()
    assert await post.answered(answer("200 OK", "again"), b"Hello.\r\n") == "again"
    first, second = (Request(each.received) for each in webhook.talks)
    assert first.fields == second.fields and first.body == second.body


@pytest_twisted.ensureDeferred
async def test_a_streamed_message_is_not_sent_again(webhook):
    post, talk = await nextOnSameConnection(webhook)
    talk.transport.abortConnection()
    assert "has closed an idle connection" in await fault(post)
    assert len(webhook.talks) == 1


@pytest_twisted.ensureDeferred
async def test_a_message_is_not_sent_again_once_an_answer_has_begun(webhook):
    post, talk = await nextOnSameConnection(webhook, spool=True)
    talk.answer(b"HTTP/1.1 200")
    talk.transport.loseConnection()
    assert "gives no answer" in await fault(post)
    assert len(webhook.talks) == 1


@pytest_twisted.ensureDeferred
async def test_a_message_is_not_sent_again_on_a_new_connection(webhook):
    post = Post(webhook, spool=True)
    talk = await post.has(b"Hello.\r\n")
    talk.transport.abortConnection()
    assert "gives no answer" in await fault(post)
    assert len(webhook.talks) == 1


@pytest_twisted.ensureDeferred
async def test_an_answer_to_no_request_ends_its_connection(webhook, logged):
    store = storeOf(webhook)
    await Post(webhook, store=store).answered(OK)
    webhook.talks[0].answer(answer("408 Request Timeout"))
    await webhook.talks[0].closed
    await Post(webhook, store=store).answered(OK)


@pytest_twisted.ensureDeferred
async def test_nothing_is_left_after_onStop(webhook):
    store = storeOf(webhook)
    await Post(webhook, store=store).answered(OK)
    pending = Post(webhook, store=store)
    before = reactor.getDelayedCalls()
    await store.onStop(None)
    assert not [call for call in reactor.getDelayedCalls() if call in before and "_removeConnection" in str(call)]
    with suppress(Unavailable):
        await pending.result
    await webhook.talks[0].closed
    await Post(webhook, store=store).answered(OK)  # and it begins anew


# --- the breaker ---


def closing(status):
    return answer(status, Connection="close")


@pytest_twisted.ensureDeferred
async def test_a_webhook_that_is_down_is_asked_seldom_and_comes_back_by_itself(webhook):
    store = storeOf(webhook, breakerFailures=2, breakerPause=10)
    for _ in range(2):
        assert await fault(Post(webhook, store=store), closing("503 Busy")) == f"{nameOf(webhook)} answers 503"
    assert (
        await fault(Post(webhook, store=store)) == f"{nameOf(webhook)} is down, it will be tried again in 10.0 seconds"
    )
    assert len(webhook.talks) == 2
    store.clock.advance(10)
    assert await fault(Post(webhook, store=store), closing("503 Busy")) == f"{nameOf(webhook)} answers 503"
    assert "is down" in await fault(Post(webhook, store=store))
    store.clock.advance(10)
    for _ in range(2):
        assert await Post(webhook, store=store).answered(closing("200 OK")) is None


@pytest.mark.parametrize("status", ["500 Crashed", "401 No", "404 No", "200 OK"])
@pytest_twisted.ensureDeferred
async def test_a_webhook_that_answers_is_not_down(webhook, status):
    store = storeOf(webhook, breakerFailures=1)
    with suppress(Unavailable, SMTPError):
        await Post(webhook, store=store).answered(closing(status))
    assert await Post(webhook, store=store).answered(closing("200 OK")) is None


@pytest_twisted.ensureDeferred
async def test_clients_that_leave_say_nothing_of_the_webhook(webhook):
    store = storeOf(webhook, breakerFailures=1)
    post = Post(webhook, Message(b"one\r\n", isWhole=False), store=store)
    await post.has(b"one")
    post.message.fail(Failure(ConnectionLost()))
    with suppress(ConnectionLost):
        await post.result
    assert await Post(webhook, store=store).answered(OK) is None


# --- recipients ---


class Question:
    def __init__(self, webhook, store=None, recipient="ann@example.com", **options):
        self.store = store or storeOf(webhook, recipientURL=f"http://127.0.0.1:{webhook.port}/recipient", **options)
        self._accepted = webhook.talk()
        self.result = ensureDeferred(self.store.onRcptTo(Address(recipient), makeSession()))

    async def answered(self, octets):
        talk = await self._accepted.addTimeout(PATIENCE, reactor)
        await talk.has(b"}").addTimeout(PATIENCE, reactor)
        talk.answer(octets)
        return await self.result


@pytest_twisted.ensureDeferred
async def test_a_recipient_is_asked_for(webhook):
    question = Question(webhook, recipient='b"e@example.com', token=TOKEN, secret=SECRET)
    assert await question.answered(answer("200 OK", "Welcome")) == "Welcome"
    request = Request(webhook.talks[0].received)
    assert request.line == "POST /recipient HTTP/1.1"
    assert request.fields["content-type"] == "application/json"
    assert request.fields["authorization"] == f"Bearer {TOKEN}"
    assert json.loads(request.body) == {"recipient": 'b"e@example.com'}
    signed = "\n".join([request.fields["smtphooks-timestamp"], "", "", hashlib.sha256(request.body).hexdigest()])
    expected = hmac.new(SECRET.encode(), signed.encode(), "sha256").hexdigest()
    assert request.fields["smtphooks-signature"] == f"v1={expected}"


@pytest.mark.parametrize(
    "status, code, enhanced, text",
    [
        (400, 550, "5.1.3", "Recipient refused"),
        (403, 550, "5.7.1", "Recipient refused"),
        (404, 550, "5.1.1", "No such recipient"),
        (406, 550, "5.7.1", "Recipient refused"),
        (410, 550, "5.2.1", "Recipient does not take mail any more"),
        (413, 552, "5.2.2", "Mailbox full"),
        (422, 550, "5.1.3", "Recipient refused"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_recipient_may_be_refused_and_that_is_remembered(webhook, status, code, enhanced, text):
    question = Question(webhook)
    results = [question.answered(answer(f"{status} No")), question.store.onRcptTo(Address("ann@example.com"), None)]
    for result in results:
        with pytest.raises(SMTPError) as caught:
            await result
        error = caught.value
        assert (error.responseCode, error.enhancedCode, error.message) == (code, enhanced, text)
    assert webhook.talks[0].received.count(b"POST ") == 1


@pytest_twisted.ensureDeferred
async def test_a_recipient_is_asked_for_again_after_the_time(webhook):
    question = Question(webhook, recipientCacheTime=30)
    await question.answered(answer("200 OK"))
    store = question.store
    store.clock.advance(29.9)
    assert await store.onRcptTo(Address("ann@example.com"), makeSession()) is None
    store.clock.advance(0.2)
    webhook.talks[0].received = b""
    later = Question(webhook, store)
    later._accepted = succeed(webhook.talks[0])
    with pytest.raises(SMTPError):
        await later.answered(answer("404 Gone"))


@pytest_twisted.ensureDeferred
async def test_a_fault_about_a_recipient_is_not_remembered(webhook):
    question = Question(webhook)
    with pytest.raises(Unavailable, match="answers 500"):
        await question.answered(answer("500 Crashed"))
    webhook.talks[0].received = b""
    later = Question(webhook, question.store)
    later._accepted = succeed(webhook.talks[0])
    assert await later.answered(answer("200 OK", "fine")) == "fine"


def test_without_a_url_for_recipients_there_is_no_such_hook():
    url = "http://127.0.0.1/"
    assert hookOf(Webhook(url), "onRcptTo") is None
    assert hookOf(Tee(Webhook(url), Discard()), "onRcptTo") is None
    assert hookOf(Tee(Webhook(url, recipientURL=url), Discard()), "onRcptTo") is not None


# --- logs and options ---


@pytest_twisted.ensureDeferred
async def test_what_was_posted_is_logged_without_path_and_query(webhook):
    with capturedLogs() as events:
        post = Post(webhook)
        await post.answered(OK)
    (event,) = [event for event in events if event["log_namespace"].startswith("smtphooks.stores")]
    assert event["log_format"].format(**event) == (
        f"posted to http://127.0.0.1:{webhook.port}, which answers 204: {len(MESSAGE)} octets [{post.session.id}]"
    )
    assert event["peer"] == "192.0.2.1"
