"""Dialogue: hooks are tested without a socket, under every event loop and under none."""

from __future__ import annotations

import asyncio
import base64
import gc
import socket
import subprocess
import sys
from collections.abc import Generator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred, inlineCallbacks
from twisted.internet.task import deferLater

from smtphooks import OptionError, SMTPError, asyncioHook
from smtphooks.layer import Layer
from smtphooks.testing import Dialogue, NoReply, ReceivedReply, SMTPServerThread
from tests.conftest import Logged

MAIL = "MAIL FROM:<a@b.example>"
RCPT = "RCPT TO:<c@d.example>"


def plain(user: str, password: str) -> str:
    return "AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()).decode()


class Choosy:
    """Takes mail for one address."""

    async def onRcptTo(self, address: Any, session: Any) -> None:
        if address.address != "c@d.example":
            raise SMTPError("No such user", responseCode=550)

    async def onData(self, stream: Any, session: Any) -> str:
        return f"Took {len(await stream.read())} octets"


# --- without an event loop ---


def test_replies_come_one_for_each_command_in_order() -> None:
    dialogue = Dialogue(hooks=Choosy(), size=1000)
    assert dialogue.greeting == "220 localhost ESMTP"
    replies = dialogue.say("EHLO x", MAIL, "RCPT TO:<e@f.example>", RCPT, "NOOP")
    assert [reply.code for reply in replies] == [250, 250, 550, 250, 250]
    assert "SIZE 1000" in replies[0].lines
    assert replies[2] == "550 5.1.1 No such user" and replies[2].enhancedCode == "5.1.1"
    assert dialogue.send(b"Subject: x\n\n.text\n").now() == ["250 2.0.0 Took 21 octets"]
    assert not dialogue.isClosed
    assert dialogue.say("QUIT")[0].code == 221
    assert dialogue.isClosed


def test_the_session_is_that_of_the_hooks() -> None:
    sessions = []
    dialogue = Dialogue(onConnect=lambda session: sessions.append(session), peer="2001:db8::7")
    dialogue.say("EHLO x", MAIL)
    assert sessions == [dialogue.session]
    assert dialogue.session.remoteAddress == "2001:db8::7"
    assert str(dialogue.session.envelope.mailFrom) == "a@b.example"


def test_a_message_larger_than_what_may_be_buffered_arrives_whole() -> None:
    received = []

    async def onData(stream: Any, session: Any) -> None:
        async for chunk in stream:
            received.append(chunk)

    dialogue = Dialogue(onData=onData)
    dialogue.say("EHLO x", MAIL, RCPT)
    message = b"line\r\n" * 100_000
    assert dialogue.send(message).now()[0].code == 250
    assert b"".join(received) == message and len(received) > 1


def test_a_client_waits_while_its_message_is_not_read() -> None:
    go: Deferred[None] = Deferred()
    received = []

    async def onData(stream: Any, session: Any) -> None:
        await go
        received.append(len(await stream.read()))

    dialogue = Dialogue(onData=onData)
    dialogue.say("EHLO x", MAIL, RCPT)
    answer = dialogue.send(b"line\r\n" * 100_000)
    with pytest.raises(NoReply, match=r"^no reply to the message: hook onData has not answered$"):
        answer.now()
    protocol: Any = next(iter(dialogue.factory.connections))
    assert protocol.buffered < 131072
    go.callback(None)
    assert answer.now()[0].code == 250 and received == [600_000]


def test_auth_is_a_challenge_and_a_response() -> None:
    def onAuth(auth: Any, session: Any) -> str | None:
        return auth.username if auth.password == "right" else None

    dialogue = Dialogue(onAuth=onAuth)
    user, wrong, right = (base64.b64encode(text).decode() for text in (b"user", b"wrong", b"right"))
    replies = dialogue.say("EHLO x", "AUTH LOGIN", user, wrong, plain("user", "right"))
    assert [reply.code for reply in replies] == [250, 334, 334, 535, 235]
    assert dialogue.session.user == "user" and right not in replies


def test_the_delay_after_a_failed_auth_passes_at_once() -> None:
    dialogue = Dialogue(onAuth=lambda auth, session: None)
    dialogue.say("EHLO x")
    before = dialogue.clock.seconds()
    assert [dialogue.say(plain("user", "wrong"))[0].code for _ in range(3)] == [535, 535, 535]
    assert dialogue.clock.seconds() - before == 1 + 2 + 4


def test_a_session_can_be_one_that_is_encrypted() -> None:
    dialogue = Dialogue(secured=True, needsUpgrade=True)
    assert [reply.code for reply in dialogue.say("EHLO x", MAIL)] == [250, 250]
    assert dialogue.session.secure and dialogue.session.transmissionType == "ESMTPS"
    assert Dialogue(needsUpgrade=True).say("EHLO x", MAIL)[-1].code == 530


def test_implicit_tls_is_refused_with_the_way_to_do_it() -> None:
    with pytest.raises(OptionError, match="secured=True"):
        Dialogue(secure=True)


def test_it_begins_as_a_server_in_a_thread_does() -> None:
    """A test may go over to the real one, and sees the same."""
    said = ("EHLO x", plain("user", "right"), MAIL, "QUIT")
    hooks = {"onAuth": lambda auth, session: auth.username}
    dialogue = Dialogue(peer="127.0.0.1", **hooks)
    inMemory = "\n".join([dialogue.greeting, *dialogue.say(*said)])
    with SMTPServerThread(**hooks) as server, socket.create_connection((server.host, server.port)) as client:
        client.sendall("".join(f"{line}\r\n" for line in said).encode())
        overTCP = client.makefile(newline=None).read()
    assert _withoutTLS(inMemory) == _withoutTLS(overTCP)


def _withoutTLS(said: str) -> list[str]:
    return [line for line in said.splitlines() if "STARTTLS" not in line]


def test_a_refused_connection_is_greeted_with_the_refusal_and_closed() -> None:
    def onConnect(session: Any) -> None:
        raise SMTPError("Not you", responseCode=554)

    dialogue = Dialogue(onConnect=onConnect)
    assert dialogue.greeting == "554 5.7.1 Not you" and dialogue.isClosed


def test_layers_are_asked_in_order() -> None:
    first: list[Any] = []
    dialogue = Dialogue([Layer(Choosy()), Layer(_Noting(first))])
    assert dialogue.say("EHLO x", MAIL, RCPT, "RCPT TO:<e@f.example>")[-1].code == 550
    assert [str(address) for address in first] == ["c@d.example"]


class _Noting:
    def __init__(self, seen: list[Any]) -> None:
        self._seen = seen

    def onRcptTo(self, address: Any, session: Any) -> None:
        self._seen.append(address)


def test_a_hook_that_crashes_gives_451_and_the_failure_is_told() -> None:
    told = []

    class Hooks:
        def onMailFrom(self, address: Any, session: Any) -> None:
            raise KeyError("bug")

        def onError(self, failure: Any, session: Any) -> None:
            told.append(failure.type)

    assert Dialogue(Hooks()).say("EHLO x", MAIL)[-1].code == 451
    assert told == [KeyError]


# --- a hook that does not answer ---


def test_the_error_names_the_command_and_the_hook_that_is_waited_for() -> None:
    answer: Deferred[None] = Deferred()
    dialogue = Dialogue(onMailFrom=lambda address, session: answer)
    with pytest.raises(NoReply) as raised:
        dialogue.say("EHLO x", MAIL, RCPT)
    assert str(raised.value) == f"no reply to {MAIL}: hook onMailFrom has not answered"
    answer.callback(None)
    # What was said is said in full, and the next has its own reply.
    assert dialogue.say("RCPT TO:<x@y>", "RSET") == ["250 2.1.5 Recipient OK", "250 2.0.0 Flushed"]
    assert len(dialogue.session.envelope.rcptTo) == 0


def test_an_answer_can_be_taken_when_the_hook_has_answered() -> None:
    pending: Deferred[str] = Deferred()
    answer = Dialogue(onHelo=lambda hostname, session: pending)("EHLO x", "NOOP")
    assert not answer.called
    pending.callback("hello")
    assert [reply.lines[0] for reply in answer.now()] == ["hello", "OK"]
    assert answer.now()[0].code == 250


def test_the_error_says_that_time_must_pass() -> None:
    dialogue = Dialogue(greetDelay=5)
    with pytest.raises(NoReply, match=r"no reply to the greeting: the server waits for time to pass, see advance\(\)"):
        _ = dialogue.greeting
    dialogue.advance(5)
    assert dialogue.greeting.code == 220


def test_the_hook_of_the_greeting_is_waited_for() -> None:
    pending: Deferred[None] = Deferred()
    dialogue = Dialogue(onConnect=lambda session: pending)
    answer = dialogue("EHLO x")
    with pytest.raises(NoReply, match="no reply to the greeting: hook onConnect has not answered"):
        answer.now()
    pending.callback(None)
    assert answer.now()[0].code == 250


# --- time ---


def test_a_timeout_comes_when_its_time_has_passed() -> None:
    dialogue = Dialogue(socketTimeout=30)
    dialogue.say("EHLO x")
    assert dialogue.advance(28) == [] and not dialogue.isClosed
    (reply,) = dialogue.advance(3.5)
    assert reply == "421 4.4.2 Timeout, closing connection" and dialogue.isClosed


def test_a_hook_times_out_by_the_clock_of_the_dialogue() -> None:
    dialogue = Dialogue(onMailFrom=lambda address, session: Deferred(), hookTimeout=10)
    answer = dialogue("EHLO x", MAIL)
    assert dialogue.advance(12) == []
    assert answer.now()[-1].code == 451


def test_time_passes_second_by_second() -> None:
    dialogue = Dialogue(onMailFrom=lambda address, session: Deferred(), hookTimeout=10)
    answer = dialogue("EHLO x", MAIL, MAIL)
    dialogue.advance(25)
    assert [reply.code for reply in answer.now()] == [250, 451, 451]


def test_no_time_passes_for_an_onAuth_that_has_not_answered() -> None:
    pending: Deferred[str] = Deferred()
    dialogue = Dialogue(onAuth=lambda auth, session: pending, hookTimeout=5)
    answer = dialogue("EHLO x", plain("user", "right"))
    with pytest.raises(NoReply, match="hook onAuth has not answered"):
        answer.now()
    pending.callback("user")
    assert answer.now()[-1].code == 235 and dialogue.clock.seconds() == 0


# --- the end ---


def test_closing_runs_onClose_and_what_is_waited_for_fails() -> None:
    closed = []
    dialogue = Dialogue(onMailFrom=lambda address, session: Deferred(), onClose=lambda session: closed.append(session))
    answer = dialogue("EHLO x", MAIL)
    dialogue.close()
    assert closed == [dialogue.session] and dialogue.isClosed and not dialogue.factory.connections
    with pytest.raises(NoReply, match=f"^no reply to {MAIL}: the connection was closed$"):
        answer.now()


def test_a_client_that_leaves_within_a_message_leaves_none() -> None:
    raised = []

    async def onData(stream: Any, session: Any) -> None:
        try:
            await stream.read()
        except Exception as error:
            raised.append(type(error).__name__)
            raise

    dialogue = Dialogue(onData=onData)
    dialogue.say("EHLO x", MAIL, RCPT, "DATA", "half")
    dialogue.close().now()
    assert raised == ["ConnectionLost"]


def test_closing_waits_for_onClose() -> None:
    pending: Deferred[None] = Deferred()
    closed = Dialogue(onClose=lambda session: pending).close()
    with pytest.raises(NoReply, match="the connection has not ended: hook onClose has not answered"):
        closed.now()
    pending.callback(None)
    assert closed.now() is None


def test_closing_twice_is_harmless() -> None:
    calls = []
    dialogue = Dialogue(onClose=lambda session: calls.append(session))
    for _ in range(2):
        assert dialogue.close().now() is None
    assert len(calls) == 1


# --- under Twisted's reactor ---


async def later(result: Any = None) -> Any:
    return await deferLater(reactor, 0.01, lambda: result)  # type: ignore[arg-type]


@pytest_twisted.ensureDeferred
async def test_a_coroutine_of_twisted_awaits_the_replies() -> None:
    async def onMailFrom(address: Any, session: Any) -> str:
        return str(await later("slow"))

    dialogue = Dialogue(onMailFrom=onMailFrom)
    replies = await dialogue("EHLO x", MAIL, RCPT)
    assert [reply.text for reply in replies][1:] == ["slow", "Recipient OK"]
    # Woken by the hook's own Deferred, the test goes on with what answers at once.
    assert dialogue.say("NOOP")[0].code == 250
    await dialogue.close()


@pytest_twisted.inlineCallbacks
def test_inlineCallbacks_yields_the_replies() -> Generator[Any, Any, None]:
    dialogue = Dialogue(onMailFrom=lambda address, session: ensureDeferred(later("slow")))
    replies = yield dialogue("EHLO x", MAIL)
    assert replies[-1] == "250 2.1.0 slow"


@pytest_twisted.ensureDeferred
async def test_a_hook_that_never_answers_fails_the_await() -> None:
    dialogue = Dialogue(onMailFrom=lambda address, session: Deferred(), timeout=0.01)
    with pytest.raises(NoReply, match=f"no reply to {MAIL}: hook onMailFrom has not answered .waited for 0.01 seconds"):
        await dialogue("EHLO x", MAIL)
    await dialogue.close()


@pytest_twisted.ensureDeferred
async def test_a_slow_refusal_of_auth_is_not_waited_for_longer() -> None:
    @inlineCallbacks
    def onAuth(auth: Any, session: Any) -> Generator[Any, Any, None]:
        yield later()

    for hook in (onAuth, lambda auth, session: later()):
        dialogue = Dialogue(onAuth=hook)
        assert (await dialogue("EHLO x", plain("user", "wrong")))[-1].code == 535


@pytest_twisted.ensureDeferred
async def test_no_timer_of_an_answer_is_left_behind() -> None:
    before = set(map(id, reactor.getDelayedCalls()))  # type: ignore[attr-defined]
    dialogue = Dialogue(onMailFrom=lambda address, session: ensureDeferred(later()))
    await dialogue("EHLO x", MAIL)
    await dialogue.close()
    assert [call for call in reactor.getDelayedCalls() if id(call) not in before] == []  # type: ignore[attr-defined]


@pytest_twisted.ensureDeferred
async def test_an_onClose_that_never_ends_fails_the_await() -> None:
    with pytest.raises(NoReply, match="the connection has not ended: hook onClose has not answered"):
        await Dialogue(onClose=lambda session: Deferred(), timeout=0.01).close()


def test_no_timer_is_left_behind_where_nothing_is_awaited() -> None:
    before = set(map(id, reactor.getDelayedCalls()))  # type: ignore[attr-defined]
    with pytest.raises(NoReply):
        Dialogue(onMailFrom=lambda address, session: Deferred()).say("EHLO x", MAIL)
    assert [call for call in reactor.getDelayedCalls() if id(call) not in before] == []  # type: ignore[attr-defined]


def test_an_answer_that_nobody_awaits_fails_quietly(logged: Logged) -> None:
    async def wait() -> None:
        Dialogue(onMailFrom=lambda address, session: Deferred(), timeout=0)("EHLO x", MAIL)
        await asyncio.sleep(0.01)

    asyncio.run(wait())
    gc.collect()


def test_an_error_that_is_raised_is_not_logged_as_well(logged: Logged) -> None:
    with pytest.raises(ValueError, match="octets"):
        Dialogue().say(b"octets")
    gc.collect()


# --- under asyncio ---


def test_hooks_may_await_what_asyncio_has() -> None:
    class Hooks:
        async def onHelo(self, hostname: str, session: Any) -> str:
            await asyncio.sleep(0)
            return "hello"

        async def onMailFrom(self, address: Any, session: Any) -> str:
            await asyncio.sleep(0.01)
            return "slow"

        def onRcptTo(self, address: Any, session: Any) -> Any:
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(future.set_result, "a future")
            return future

        @asyncioHook
        async def onData(self, stream: Any, session: Any) -> str:
            async with asyncio.Lock():
                message = await asyncio.wait_for(stream.read(), 5)
            return f"Took {len(message)} octets"

    async def talk() -> list[ReceivedReply]:
        dialogue = Dialogue(Hooks())
        replies = await dialogue("EHLO x", MAIL, RCPT)
        replies += await dialogue.send("text")
        replies += dialogue.say("NOOP")
        await dialogue.close()
        return replies

    texts = [reply.lines[0] for reply in asyncio.run(talk())]
    assert texts == ["hello", "slow", "a future", "Took 6 octets", "OK"]


@pytest.mark.parametrize("kind", ["coroutine", "task", "future"])
def test_a_slow_refusal_of_auth_under_asyncio(kind: str) -> None:
    async def refuse(auth: Any, session: Any) -> None:
        await asyncio.sleep(0.01)

    hooks = {"coroutine": refuse, "task": asyncioHook(refuse), "future": lambda *a: asyncio.ensure_future(refuse(*a))}

    async def talk() -> list[ReceivedReply]:
        return await Dialogue(onAuth=hooks[kind])("EHLO x", plain("user", "wrong"))

    assert asyncio.run(talk())[-1].code == 535


def test_a_hook_that_never_answers_fails_the_await_under_asyncio() -> None:
    async def onRcptTo(address: Any, session: Any) -> None:
        await asyncio.Event().wait()

    async def talk() -> None:
        dialogue = Dialogue(onRcptTo=onRcptTo, timeout=0.01)
        try:
            await dialogue("EHLO x", MAIL, RCPT)
        finally:
            await dialogue.close()

    with pytest.raises(NoReply, match="hook onRcptTo has not answered"):
        asyncio.run(talk())


def test_several_dialogues_go_on_at_once() -> None:
    async def talk() -> list[list[ReceivedReply]]:
        both = asyncio.Barrier(2) if sys.version_info >= (3, 11) else None

        async def onMailFrom(address: Any, session: Any) -> None:
            await (both.wait() if both else asyncio.sleep(0.01))

        dialogues = [Dialogue(onMailFrom=onMailFrom) for _ in range(2)]
        return await asyncio.gather(*(_talk(dialogue) for dialogue in dialogues))

    assert [replies[-1].code for replies in asyncio.run(talk())] == [250, 250]


async def _talk(dialogue: Dialogue) -> list[ReceivedReply]:
    return await dialogue("EHLO x", MAIL)


def test_no_reactor_is_installed_and_none_is_needed() -> None:
    program = (
        "import sys\n"
        "from smtphooks.testing import Dialogue\n"
        "dialogue = Dialogue()\n"
        "dialogue.say('EHLO x', 'MAIL FROM:<a@b>', 'RCPT TO:<c@d>')\n"
        "print(dialogue.send('x').now()[0].code)\n"
        "print('twisted.internet.reactor' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("250\nFalse\n", "")
