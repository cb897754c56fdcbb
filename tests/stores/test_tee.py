"""The store of two stores: a message is accepted where both have it."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from smtphooks import OptionError, SMTPError
from smtphooks.hooks import choosesRecipients
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


@pytest.mark.parametrize("hook", ["onAuth", "inspectData", "filterData"])
def test_a_store_with_a_hook_that_would_not_be_called_is_an_error(hook: str) -> None:
    class Choosy(Mailbox): ...

    setattr(Choosy, hook, lambda *arguments: None)
    with pytest.raises(OptionError, match=f"option b has {hook}, which Tee would not call, put it into a layer of"):
        Tee(Mailbox(), Choosy())


def test_stores_without_a_life_give_it_none() -> None:
    tee = Tee(Mailbox(), Mailbox())
    assert (tee.onStart, tee.onStop) == (None, None)


# --- Stores with other hooks, as a relay has them: it asks its upstream while the client is there ---


class Upstream(Answering):
    """A store that writes each call into a diary, and answers to a hook what it is told to."""

    def __init__(self, diary: list[str], name: str, **answers: Any) -> None:
        super().__init__(answers.pop("onData", None))
        self.diary = diary
        self.name = name
        self.answers = answers

    def _call(self, hook: str) -> Any:
        self.diary.append(f"{self.name}.{hook}")
        answer = self.answers.get(hook)
        if isinstance(answer, BaseException):
            raise answer
        return answer() if callable(answer) else answer

    async def onMailFrom(self, address: Any, session: Any) -> Any:
        return self._call("onMailFrom")

    def onRcptTo(self, address: Any, session: Any) -> Any:
        return self._call("onRcptTo")

    async def onData(self, stream: Any, session: Any) -> Any:
        self.diary.append(f"{self.name}.onData")
        return await super().onData(stream, session)

    def onReset(self, session: Any) -> Any:
        return self._call("onReset")

    async def onClose(self, session: Any) -> Any:
        return self._call("onClose")


def test_hooks_of_the_stores_are_called_in_their_order() -> None:
    diary: list[str] = []
    client = connect(hooks=[Tee(Upstream(diary, "a", onRcptTo="upstream says yes"), Upstream(diary, "b"))])
    assert client.say(*ENVELOPE)[-1] == "250 2.1.5 upstream says yes"
    client.say("DATA", "text", ".", "MAIL FROM:<>", "RSET")
    client.lose()
    assert diary == [
        *("a.onMailFrom", "b.onMailFrom", "a.onRcptTo", "b.onRcptTo", "a.onData", "b.onData"),
        *("a.onMailFrom", "b.onMailFrom", "a.onReset", "b.onReset", "a.onClose", "b.onClose"),
    ]


def test_a_hook_that_one_store_has_is_its_own() -> None:
    diary: list[str] = []
    upstream = Upstream(diary, "b")
    tee: Any = Tee(Mailbox(), upstream)
    assert tee.onRcptTo == upstream.onRcptTo
    assert not hasattr(tee, "onHelo")
    assert connect(hooks=[tee]).last(*ENVELOPE, "DATA", "text", ".").startswith("250")
    assert diary == ["b.onMailFrom", "b.onRcptTo", "b.onData"]


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_recipient_is_accepted_by_both(name: str) -> None:
    diary: list[str] = []
    refusing = {name: {"onRcptTo": SMTPError("not here", 550)}}
    tee = Tee(*[Upstream(diary, each, **refusing.get(each, {})) for each in "ab"])
    client = connect(hooks=[tee])
    assert client.last(*ENVELOPE) == "550 5.1.1 not here"
    assert client.session.envelope.rcptTo == []
    assert diary[2:] == (["a.onRcptTo"] if name == "a" else ["a.onRcptTo", "b.onRcptTo"])


def test_a_hook_may_answer_late_and_be_refused_by_a_fault(logged: Logged) -> None:
    diary: list[str] = []
    client = connect(
        hooks=[Tee(Upstream(diary, "a", onRcptTo=lambda: succeed("late")), Upstream(diary, "b", onRcptTo="second"))]
    )
    assert client.last(*ENVELOPE) == "250 2.1.5 late"
    for name in "ab":
        answers = {name: {"onRcptTo": False}}
        client = connect(hooks=[Tee(*[Upstream(diary, each, **answers.get(each, {})) for each in "ab"])])
        assert client.last(*ENVELOPE).startswith("451")
    assert len(logged.takeFailures(TypeError)) == 2


def test_a_sender_that_the_second_refuses_ends_the_transaction_of_the_first() -> None:
    diary: list[str] = []
    tee = Tee(Upstream(diary, "a"), Upstream(diary, "b", onMailFrom=SMTPError("no", 550)))
    assert connect(hooks=[tee]).last(*ENVELOPE[:2]).startswith("550")
    assert diary == ["a.onMailFrom", "b.onMailFrom", "a.onReset"]


@pytest.mark.parametrize("lmtp", [False, True])
def test_what_the_first_refuses_ends_the_transaction_of_the_second(lmtp: bool) -> None:
    diary: list[str] = []
    refusal = SMTPError("full", 452)
    tee = Tee(Upstream(diary, "a", onData=[refusal] if lmtp else refusal), Upstream(diary, "b"))
    client = connect(hooks=[tee], lmtp=lmtp)
    assert client.last(*(LMTP_ENVELOPE if lmtp else ENVELOPE), "DATA", "text", ".").startswith("452")
    assert diary[4:] == ["a.onData", "b.onReset"]


def test_a_message_that_reaches_no_store_ends_the_transaction_of_both(logged: Logged) -> None:
    diary: list[str] = []
    tee = Tee(Upstream(diary, "a", onReset=ValueError("crash")), Upstream(diary, "b"))
    client = connect(hooks=[tee], size=3)
    assert client.last(*ENVELOPE, "DATA", "text", ".").startswith("552")
    assert diary[4:] == ["a.onReset", "b.onReset"]
    assert len(logged.takeFailures(ValueError)) == 1


@pytest.mark.parametrize("hook", ["onReset", "onClose"])
def test_the_second_is_told_what_the_first_crashed_at(hook: str, logged: Logged) -> None:
    diary: list[str] = []
    client = connect(hooks=[Tee(Upstream(diary, "a", **{hook: ValueError("crash")}), Upstream(diary, "b"))])
    client.say(*ENVELOPE[:2], "RSET")
    client.lose()
    assert diary[2:] == ["a.onReset", "b.onReset", "a.onClose", "b.onClose"]
    assert len(logged.takeFailures(ValueError)) == 1


def test_both_observe_replies() -> None:
    seen: list[int] = []

    class Observing(Mailbox):
        def onReply(self, verb: str, reply: Any, session: Any) -> None:
            seen.append(reply.code)

    connect(hooks=[Tee(Observing(), Observing())]).say("NOOP")
    assert seen == [220, 220, 250, 250]


@pytest.mark.parametrize("chooses, asked", [(None, True), (False, False)])
def test_it_decides_on_recipients_if_one_of_its_stores_does(chooses: bool | None, asked: bool) -> None:
    upstream: Any = Upstream([], "b")
    if chooses is not None:
        upstream.choosesRecipients = chooses
    assert choosesRecipients(Tee(Mailbox(), upstream)) is asked
    assert not choosesRecipients(Tee(Mailbox(), Mailbox()))


def test_what_its_stores_say_of_themselves_it_says() -> None:
    class Last(Answering):
        wantsToBeLast = True
        advertisedLimits = {"RCPTDOMAINMAX": 1}

    class More(Answering):
        advertisedLimits = {"RCPTDOMAINMAX": 3, "MAILMAX": 2}

    both, none = Tee(More(), Last()), Tee(Answering(), Answering())
    assert (both.wantsToBeLast, both.advertisedLimits) == (True, {"RCPTDOMAINMAX": 1, "MAILMAX": 2})
    assert (none.wantsToBeLast, none.advertisedLimits) == (False, {})
