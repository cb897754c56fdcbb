"""The store of two stores: a message is accepted where both have it."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from smtphooks import OptionError, SMTPError
from smtphooks.stores import Tee
from tests.conftest import Logged
from tests.support import ENVELOPE, LMTP_ENVELOPE, RCPT, Mailbox, Pending, callHook, connect

pytestmark = pytest.mark.usefixtures("logged")


class Answering(Mailbox):
    """A store that keeps the message, and answers what it is told to."""

    def __init__(self, answer: Any = None) -> None:
        super().__init__()
        self.answer = answer

    async def onData(self, stream: Any, session: Any) -> Any:
        await super().onData(stream, session)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def send(a: Any, b: Any) -> str:
    return connect(hooks=[Tee(a, b)]).last(*ENVELOPE, "DATA", "text", ".")


def test_each_store_gets_the_whole_message_and_the_first_answers() -> None:
    a, b = Answering("stored"), Answering("copied")
    assert send(a, b) == "250 2.0.0 stored"
    assert a == b == [b"text\r\n"]


def test_the_second_is_not_asked_for_what_the_first_refused() -> None:
    a, b = Answering(SMTPError("full", 452)), Answering()
    assert send(a, b) == "452 4.3.1 full"
    assert (b, b.lost) == ([], [])


@pytest.mark.parametrize("error, code", [(SMTPError("full", 452), 452), (ValueError("crash"), 451)])
def test_a_message_that_the_second_does_not_take_is_not_accepted(error: Exception, code: int, logged: Logged) -> None:
    assert send(Answering("stored"), Answering(error)).startswith(str(code))
    logged.takeFailures(ValueError)


@pytest.mark.parametrize("answer", [lambda: succeed("stored"), lambda: succeed(succeed), lambda: "stored"])
def test_stores_may_answer_as_hooks_may(answer: Any) -> None:
    class Plain:
        def onData(self, stream: Any, session: Any) -> Any:
            return answer()

    assert send(Plain(), Mailbox()).startswith("250")


def neverRun() -> Any:
    yield


async def neverBegun() -> Any:
    yield


@pytest.mark.parametrize(
    "answer", [SMTPError("returned", 550), False, neverRun(), neverBegun(), SMTPError, [False], [SMTPError]]
)
def test_no_answer_that_is_none_is_a_yes(answer: Any, logged: Logged) -> None:
    class Plain:
        def onData(self, stream: Any, session: Any) -> Any:
            return answer

    assert send(Plain(), Mailbox())[0] in "45"
    assert send(Mailbox(), Plain())[0] in "45"
    logged.takeFailures(TypeError)


def test_a_store_that_does_not_read_holds_nothing_up() -> None:
    class Blind:
        def onData(self, stream: Any, session: Any) -> str:
            return "seen"

    mailbox = Mailbox()
    assert send(Blind(), mailbox) == "250 2.0.0 seen"
    assert mailbox == [b"text\r\n"]


@pytest.mark.parametrize(
    "a, b, replies",
    [
        (None, None, ["250", "250"]),
        ("all", ["one", SMTPError("full", 552)], ["250", "552"]),
        (["one", SMTPError("full", 552)], None, ["250", "552"]),
        ([SMTPError("full", 452), "two"], ["one", SMTPError("full", 552)], ["452", "552"]),
        ([SMTPError("full", 452)] * 2, SMTPError("not asked", 550), ["452", "452"]),
        (["only one"], ["one", "two"], ["451", "451"]),
    ],
)
def test_with_lmtp_a_recipients_mail_is_stored_if_both_have_it(a: Any, b: Any, replies: list[str]) -> None:
    client = connect(hooks=[Tee(Answering(a), Answering(b))], lmtp=True)
    assert [line[:3] for line in client.say(*LMTP_ENVELOPE, RCPT, "DATA", "text", ".")[-2:]] == replies


class Living(Answering):
    """A store with a life."""

    def __init__(self, diary: list[str], name: str, error: Exception | None = None) -> None:
        super().__init__()
        self.diary = diary
        self.name = name
        self.error = error

    def onStart(self, service: Any) -> Any:
        self.diary.append(f"{self.name} starts")
        return succeed(None) if self.error is None else fail(self.error)

    async def onStop(self, service: Any) -> None:
        self.diary.append(f"{self.name} stops")
        if self.error is not None:
            raise self.error


def test_stores_are_started_and_stopped() -> None:
    diary: list[str] = []
    for stores in ((Living(diary, "a"), Living(diary, "b")), (Living(diary, "a"), Mailbox())):
        tee = Tee(*stores)
        assert callHook(tee.onStart, (None,)) is None
        assert callHook(tee.onStop, (None,)) is None
    assert diary == ["a starts", "b starts", "b stops", "a stops", "a starts", "a stops"]


def test_a_store_that_cannot_be_started_or_stopped_stops_the_other() -> None:
    diary: list[str] = []
    error = ValueError("no disk")
    tee = Tee(Living(diary, "a"), Living(diary, "b", error))
    for method in (tee.onStart, tee.onStop):
        assert callHook(method, (None,)).value is error
    assert diary == ["a starts", "b starts", "a stops", "b stops", "a stops"]


def test_a_client_that_leaves_reaches_no_store() -> None:
    a, b = Mailbox(), Mailbox()
    client = connect(hooks=[Tee(a, b)])
    client.say(*ENVELOPE, "DATA", "text")
    client.lose()
    assert (a, a.lost, b, b.lost) == ([], [], [], [])


def test_a_store_that_is_cancelled_by_a_timeout_refuses() -> None:
    pending = Pending()

    class Slow:
        def onData(self, stream: Any, session: Any) -> Deferred[Any]:
            return pending()

    client = connect(hooks=[Tee(Mailbox(), Slow())], hookTimeout=5)
    client.say(*ENVELOPE, "DATA", "text", ".")
    client.clock.advance(6)
    assert client.codes() == [451]
    assert pending.cancelled == 1


@pytest.mark.parametrize("stores", [(object(), Mailbox()), (Mailbox(), None)])
def test_what_is_no_store_is_an_error(stores: Any) -> None:
    with pytest.raises(OptionError, match="it wants a store, an object with onData"):
        Tee(*stores)


def test_a_store_with_a_hook_that_would_not_be_called_is_an_error() -> None:
    class Choosy(Mailbox):
        def onRcptTo(self, address: Any, session: Any) -> None: ...

    with pytest.raises(OptionError, match="option b has onRcptTo, which Tee would not call, put it into a layer of"):
        Tee(Mailbox(), Choosy())


def test_stores_without_a_life_give_it_none() -> None:
    tee = Tee(Mailbox(), Mailbox())
    assert (tee.onStart, tee.onStop) == (None, None)
