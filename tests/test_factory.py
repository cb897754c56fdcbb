"""The factory: its options, its connections, and how it ends them."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs

from smtphooks import Layer, Options, SMTPServerFactory, SMTPServerProtocol
from smtphooks.errors import OptionError, OptionWarning
from smtphooks.layers import Rspamd
from tests.secrets import SCRAM_SECRET, encoded
from tests.support import ENVELOPE, HELLO, MAIL, RCPT, Client, Diary, Mailbox, Pending, Transport, connect, makeFactory

pytestmark = pytest.mark.usefixtures("logged")

LEAVE = "421 4.3.2 Server is shutting down"


def limits(client: Client) -> int:
    """The number of pending timers that abort connections."""
    return sum(call.func == client.factory.server.live._endByForce for call in client.clock.getDelayedCalls())


class Closed:
    """The Deferred of C{close}; true once it has fired."""

    def __init__(self, factory: SMTPServerFactory) -> None:
        self.results: list[Any] = []
        factory.close().addCallback(self.results.append)

    def __bool__(self) -> bool:
        return self.results == [None]


def test_it_holds_checked_options() -> None:
    factory = SMTPServerFactory(size=5)
    assert isinstance(factory.options, Options)
    assert factory.options.size == 5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sise": 5}, "unknown option sise, did you mean size?"),
        ({"size": "5"}, "option size is '5', it wants a whole number of octets, 0 for no limit"),
        ({"hook": None}, "unknown option hook, did you mean hooks?"),
        ({"onRcptto": None}, "unknown option onRcptto, did you mean onRcptTo?"),
    ],
)
def test_a_wrong_option_is_an_error_when_the_factory_is_made(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        SMTPServerFactory(**given)
    assert str(caught.value) == message


# --- scramSecret ---


def challengeOf(factory: SMTPServerFactory, username: str = "nobody") -> list[str]:
    """The challenge of SCRAM for an unknown user: nonce, salt and number of iterations."""
    client = Client(factory)
    client.session.secure = True
    challenge = client.last(HELLO, f"AUTH SCRAM-SHA-256 {encoded(f'n,,n={username},r=x')}")
    return b64decode(challenge[4:]).decode().split(",")


def saltOf(factory: SMTPServerFactory, username: str = "nobody") -> str:
    return challengeOf(factory, username)[1]


def makeScram(**given: Any) -> SMTPServerFactory:
    return makeFactory(authMethods=["SCRAM-SHA-256"], onAuth=lambda auth, session: None, **given)


def test_unknown_users_have_their_salt_from_the_secret_whatever_holds_it(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SCRAM_SECRET + "\n")
    salts = [saltOf(makeScram(scramSecret=secret)) for secret in (SCRAM_SECRET, SCRAM_SECRET.encode(), str(file))]
    assert salts == salts[:1] * 3
    assert saltOf(makeScram(scramSecret=SCRAM_SECRET), "somebody") != salts[0]
    assert saltOf(makeScram(scramSecret=SCRAM_SECRET + "x")) != salts[0]
    assert saltOf(makeScram()) != salts[0]
    assert saltOf(makeScram()) == saltOf(makeScram())  # a process has one secret


def test_unknown_users_show_the_iterations_and_the_length_of_salt_that_are_given_from_the_start() -> None:
    _, salt, iterations = challengeOf(makeScram(scramIterations=10000, scramSaltLength=12))
    assert iterations == "i=10000"
    assert len(b64decode(salt[2:])) == 12
    _, salt, iterations = challengeOf(makeScram())
    assert (len(b64decode(salt[2:])), iterations) == (32, "i=4096")


def test_a_file_of_a_secret_is_read_once_when_the_factory_is_made(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secret").write_bytes(bytes(range(16)))
    factory = makeScram(scramSecret="./secret")
    Path("secret").unlink()
    assert saltOf(factory) == saltOf(makeScram(scramSecret=bytes(range(16))))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "that cannot be read (No such file or directory)"),
        (b"", "with too little in it"),
        (b"x" * 15 + b"\r\n", "with too little in it"),
    ],
)
def test_a_file_without_a_secret_is_an_error(tmp_path: Path, content: bytes | None, what: str) -> None:
    file = tmp_path / SCRAM_SECRET
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(OptionError) as caught:
        makeScram(scramSecret=str(file))
    # Without the path: it may be the secret itself, written in the wrong form.
    assert str(caught.value) == (
        f"option scramSecret is the path of a file {what}, it wants the path of a readable file with 16 octets or more;"
        " a secret that begins with / or . stands in a file"
    )


def test_what_cannot_be_a_path_is_an_error_too(tmp_path: Path) -> None:
    for secret, why in ((str(tmp_path), "Is a directory"), ("/\0" + SCRAM_SECRET, "no path")):
        with pytest.raises(OptionError, match=rf"cannot be read \({why}\)") as caught:
            makeScram(scramSecret=secret)
        assert SCRAM_SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "isSaid"),
    [
        ({"authMethods": ["PLAIN", "SCRAM-SHA-256"]}, True),
        ({"authMethods": ["SCRAM-SHA-256-PLUS"]}, True),
        ({"authMethods": ["SCRAM-SHA-256"], "scramSecret": SCRAM_SECRET}, False),
        ({"authMethods": ["PLAIN"]}, False),
    ],
    ids=["with PLAIN", "PLUS", "secret", "no SCRAM"],
)
def test_without_a_secret_the_log_says_so_where_SCRAM_is_offered(given: dict[str, Any], isSaid: bool) -> None:
    factory = makeFactory(onData=print, onAuth=print, **given)
    with capturedLogs() as events:
        factory.doStart()
    said = [event["log_level"] for event in events if "scramSecret" in str(event["log_format"])]
    assert said == [LogLevel.info] * isSaid


# --- Protocols ---


def test_it_makes_protocols_that_know_it() -> None:
    factory = SMTPServerFactory()
    protocol = factory.buildProtocol(None)  # type: ignore[arg-type]
    assert isinstance(protocol, SMTPServerProtocol)
    assert protocol.factory is factory


def test_connections_are_the_live_ones() -> None:
    factory = makeFactory()
    one, two = Client(factory), Client(factory)
    assert factory.connections == {one.protocol, two.protocol}
    one.lose()
    assert factory.connections == {two.protocol}


def test_it_warns_when_every_message_would_be_dropped() -> None:
    for given, warnings in [({}, 1), ({"onData": lambda stream, session: None}, 0)]:
        factory = SMTPServerFactory(**given)
        with capturedLogs() as events:
            factory.doStart()
        assert len([event for event in events if event["log_level"] is LogLevel.warn]) == warnings


def test_times_are_measured_with_the_global_reactor_unless_told_otherwise() -> None:
    factory = SMTPServerFactory(closeTimeout=1000)
    client = Client(factory)
    client.say(*ENVELOPE)
    closed = Closed(factory)
    from twisted.internet import reactor

    assert factory.clock is IReactorTime(reactor)
    client.lose()
    assert closed
    assert not [call for call in reactor.getDelayedCalls() if call.func == factory._abortAll]  # type: ignore[attr-defined]


# --- close ---


def test_without_connections_close_is_done_at_once() -> None:
    assert Closed(makeFactory())


@pytest.mark.parametrize("lines", [(), (HELLO,), (*ENVELOPE, "RSET"), (*ENVELOPE, "DATA", ".")])
def test_an_idle_client_gets_421_at_once(lines: tuple[str, ...]) -> None:
    diary = Diary()
    client = connect(onClose=diary.hook("onClose"))
    client.say(*lines) if lines else client.replies()
    closed = Closed(client.factory)
    assert client.replies() == [LEAVE]
    assert client.isClosed
    assert not closed
    client.finish()
    assert closed
    assert diary == ["onClose"]
    assert not client.clock.getDelayedCalls()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((HELLO, MAIL), (RCPT, "DATA", "text", ".")),
        (ENVELOPE, ("DATA", "text", ".")),
        ((*ENVELOPE, "DATA"), ("text", ".")),
        ((*ENVELOPE, "BDAT 6", "text"), ("BDAT 6 LAST", "more")),
        (ENVELOPE, ("RSET",)),
        ((HELLO, MAIL), (HELLO,)),
    ],
)
def test_a_transaction_may_finish_and_then_gets_421(before: tuple[str, ...], after: tuple[str, ...]) -> None:
    mailbox = Mailbox()
    client = connect(onData=mailbox.onData)
    client.say(*before)
    closed = Closed(client.factory)
    assert client.replies() == []
    for line in after:
        assert not client.isClosed
        client.say(line)
    assert client.isClosed
    client.finish()
    assert closed
    assert len(mailbox) == (after[-1] != "RSET" and after[-1] != HELLO)


def test_the_421_follows_the_reply_to_the_message() -> None:
    client = connect()
    client.say(*ENVELOPE, "DATA")
    Closed(client.factory)
    assert client.say(".") == ["250 2.0.0 Message accepted", LEAVE]


def test_a_pipelined_second_transaction_is_not_begun() -> None:
    diary = Diary()
    client = connect(onMailFrom=diary.hook("onMailFrom"), closeTimeout=0)
    client.say(*ENVELOPE)
    Closed(client.factory)
    assert client.say("DATA", ".", MAIL, RCPT, "DATA", ".")[-2:] == ["250 2.0.0 Message accepted", LEAVE]
    assert diary == ["onMailFrom"]
    assert client.isClosed


def test_a_hook_is_waited_for() -> None:
    onVrfy = Pending()
    client = connect(onVrfy=onVrfy)
    client.say("VRFY x")
    closed = Closed(client.factory)
    assert client.replies() == []
    onVrfy.decide("known")
    assert client.replies() == ["250 2.1.5 known", LEAVE]
    client.finish()
    assert closed


def test_a_client_that_is_not_done_in_time_is_aborted() -> None:
    mailbox, diary = Mailbox(), Diary()
    client = connect(onData=mailbox.onData, onClose=diary.hook("onClose"), closeTimeout=5)
    client.say(*ENVELOPE, "DATA", "half")
    closed = Closed(client.factory)
    client.clock.advance(4.9)
    assert not client.transport.disconnected
    client.clock.advance(0.1)
    assert client.transport.disconnected
    assert not closed
    client.finish()
    assert closed
    assert (mailbox, diary) == ([], ["onClose"])


def test_without_a_close_timeout_no_client_is_aborted() -> None:
    client = connect(closeTimeout=0)
    client.say(HELLO, MAIL)
    Closed(client.factory)
    assert limits(client) == 0


def test_close_waits_for_the_hook_of_a_message_that_was_taken() -> None:
    onData = Pending()
    client = connect(onData=onData, closeTimeout=5)
    client.say(*ENVELOPE, "DATA", ".")
    closed = Closed(client.factory)
    client.clock.advance(4)
    client.lose()
    assert not closed
    onData.decide()
    assert closed


def test_close_waits_for_on_close() -> None:
    onClose = Pending()
    client = connect(onClose=onClose)
    closed = Closed(client.factory)
    client.finish()
    assert not closed
    onClose.decide()
    assert closed


def test_hooks_that_end_soon_after_their_connection_was_cut_off_are_waited_for() -> None:
    onData, onClose = Pending(), Pending()
    client = connect(onData=onData, onClose=onClose, closeTimeout=5)
    client.say(*ENVELOPE, "DATA", ".")
    closed = Closed(client.factory)
    client.clock.pump([1] * 5)
    client.finish()
    onData.decide()
    assert not closed
    onClose.decide()
    assert closed
    assert (onData.cancelled, onClose.cancelled) == (0, 0)


@pytest.mark.parametrize("isGone", [False, True])
def test_hooks_that_do_not_end_are_cancelled_soon_after_close_timeout(isGone: bool) -> None:
    """Even onData after the whole message: the client has no reply yet, so it will retry."""
    onData, onClose = Pending(), Pending()
    client = connect(onData=onData, onClose=onClose, closeTimeout=5)
    client.say(*ENVELOPE, "DATA", ".")
    if isGone:
        client.lose()
    closed = Closed(client.factory)
    client.clock.pump([1] * 5)
    assert (onData.cancelled, onClose.calls) == (0, [])
    if not isGone:
        client.finish()
    client.clock.pump([1] * 2)
    assert (onData.cancelled, len(onClose.calls)) == (1, 1)
    client.clock.pump([1] * 3)
    assert onClose.cancelled == 1
    assert closed
    assert client.replies() == []
    assert not client.clock.getDelayedCalls()


def test_not_even_a_hook_that_will_not_be_cancelled_keeps_close_from_its_end() -> None:
    async def onData(stream: Any, session: Any) -> None:
        try:
            await Deferred()
        except CancelledError:
            await Deferred()

    client = connect(onData=onData, closeTimeout=5)
    client.say(*ENVELOPE, "DATA", ".")
    closed = Closed(client.factory)
    client.clock.pump([1] * 5)
    client.finish()
    client.clock.pump([1] * 2)
    assert closed


def test_without_a_close_timeout_a_hook_may_take_as_long_as_it_likes() -> None:
    onData = Pending()
    client = connect(onData=onData, closeTimeout=0)
    client.say(*ENVELOPE, "DATA", ".")
    closed = Closed(client.factory)
    client.lose()
    client.clock.pump([100] * 100)
    assert not closed
    onData.decide()
    assert closed


def test_closing_twice_is_closing_once() -> None:
    client = connect()
    client.say(HELLO, MAIL)
    first, second = Closed(client.factory), Closed(client.factory)
    assert limits(client) == 1
    assert not first
    assert not second
    client.lose()
    assert first
    assert second
    assert Closed(client.factory)


def test_each_client_is_let_go_by_itself() -> None:
    factory = makeFactory()
    idle, busy = Client(factory), Client(factory)
    busy.say(*ENVELOPE)
    closed = Closed(factory)
    assert idle.isClosed
    idle.finish()
    assert not closed
    assert busy.say("DATA", ".")[-1] == LEAVE
    busy.finish()
    assert closed


def test_a_connection_accepted_while_closing_gets_421() -> None:
    factory = makeFactory()
    busy = Client(factory)
    busy.say(*ENVELOPE)
    closed = Closed(factory)
    late = Client(factory)
    assert late.replies()[-1] == LEAVE
    assert late.isClosed
    busy.lose()
    assert not closed
    late.finish()
    assert closed


def test_a_connection_accepted_while_closing_whose_hook_is_slow_gets_421_behind_it() -> None:
    onConnect = Pending()
    factory = makeFactory(onConnect=onConnect)
    Closed(factory)
    late = Client(factory)
    assert late.replies() == []
    onConnect.decide()
    assert late.replies()[-1] == LEAVE
    assert late.isClosed


def test_a_client_that_reads_nothing_gets_421_when_it_reads_again() -> None:
    client = connect()
    client.pump.writer.pauseProducing()
    closed = Closed(client.factory)
    assert (client.codes(), bool(closed)) == ([220], False)
    client.pump.writer.resumeProducing()
    assert client.replies() == [LEAVE]


def test_a_transport_that_ends_at_once_does_no_harm() -> None:
    """It calls connectionLost within loseConnection."""

    class Sudden(Transport):
        def loseConnection(self) -> None:
            super().loseConnection()
            client.finish()

    factory = makeFactory()
    client = Client(factory, Sudden())
    assert Closed(factory)
    assert not factory.connections


def test_no_client_is_counted_any_more_when_the_factory_is_closed() -> None:
    factory = makeFactory()
    client = Client(factory)
    counts: list[int] = []
    factory.close().addCallback(lambda _: counts.append(factory.clients.connections))
    client.finish()
    assert counts == [0]


def test_a_factory_that_listens_again_serves_again() -> None:
    factory = makeFactory(onData=lambda stream, session: None)
    assert Closed(factory)
    factory.doStart()
    client = Client(factory)
    assert client.last(HELLO, "NOOP") == "250 2.0.0 OK"
    assert not Closed(factory)
    assert client.replies() == [LEAVE]


def test_a_close_is_done_though_the_factory_listens_again_meanwhile() -> None:
    factory = makeFactory(onData=lambda stream, session: None)
    old = Client(factory)
    old.say(*ENVELOPE)
    closed = Closed(factory)
    factory.doStart()
    old.lose()
    assert closed
    assert not factory.clock.getDelayedCalls()  # type: ignore[union-attr]


def test_listening_again_aborts_no_client_that_connected_since() -> None:
    factory = makeFactory(onData=lambda stream, session: None, closeTimeout=5)
    old = Client(factory)
    old.say(*ENVELOPE)
    Closed(factory)
    factory.doStart()
    new = Client(factory)
    assert isinstance(factory.clock, Clock)
    factory.clock.advance(5)
    assert old.transport.disconnected
    assert not new.transport.disconnected
    assert new.last(HELLO, "NOOP") == "250 2.0.0 OK"


def test_the_protocol_may_be_a_class_of_the_users_own() -> None:
    class Mine(SMTPServerProtocol):
        pass

    class Factory(SMTPServerFactory):
        protocol = Mine  # type: ignore[assignment]

    client = Client(Factory())
    assert isinstance(client.protocol, Mine)
    client.lose()


# --- what was probably not meant ---


class Store:
    async def onData(self, stream: Any, session: Any) -> None: ...


def test_seconds_that_can_only_be_milliseconds_are_a_warning_of_python_at_the_line_that_has_them() -> None:
    with pytest.warns(OptionWarning) as caught:
        factory = SMTPServerFactory(Store(), socketTimeout=60000)
    assert [str(each.message) for each in caught] == [
        "option socketTimeout is 60000 seconds, which is 16.7 hours, did you mean 60?"
    ]
    assert [each.filename for each in caught] == [__file__]
    assert factory.options.socketTimeout == 60000


def test_those_of_a_layer_name_it() -> None:
    with pytest.warns(OptionWarning) as caught:
        SMTPServerFactory([Layer(Rspamd(url="http://127.0.0.1:11333", timeout=30000), hookTimeout=5000), Store()])
    assert [str(each.message) for each in caught] == [
        "layer Rspamd: option hookTimeout is 5000 seconds, which is 83.3 minutes, did you mean 5?",
        "layer Rspamd: option timeout is 30000 seconds, which is 8.33 hours, did you mean 30?",
    ]


def test_usual_options_give_no_warning() -> None:
    with catch_warnings():
        simplefilter("error")
        SMTPServerFactory(Store(), socketTimeout=300, dataTimeout=86400)


# --- the drain ---


class Drained:
    """The Deferred of C{drain}; its results."""

    def __init__(self, factory: SMTPServerFactory) -> None:
        self.results: list[bool] = []
        factory.drain().addCallback(self.results.append)


def test_a_client_sends_several_messages_and_quits_in_the_first_half_of_a_drain() -> None:
    client = connect(closeTimeout=60)
    client.say(*ENVELOPE)
    drained = Drained(client.factory)
    client.clock.pump([1] * 20)
    assert client.say("DATA", ".")[-1][:3] == "250"
    assert client.say(MAIL, RCPT, "DATA", ".")[-1][:3] == "250"
    assert client.last("QUIT")[:3] == "221"
    client.finish()
    assert drained.results == [True]
    assert client.clock.getDelayedCalls() == []


def test_in_the_second_half_of_a_drain_idle_clients_get_421_and_transactions_finish() -> None:
    factory = makeFactory(closeTimeout=60)
    idle, busy = Client(factory), Client(factory)
    idle.replies()
    busy.say(*ENVELOPE)
    drained = Drained(factory)
    idle.clock.pump([1] * 29)
    assert idle.replies() == []
    idle.clock.advance(1)
    assert idle.replies() == [LEAVE]
    assert busy.say("DATA", ".")[-1] == LEAVE
    idle.finish()
    busy.finish()
    assert drained.results == [True]
    assert idle.clock.getDelayedCalls() == []


def test_at_the_end_of_a_drain_what_is_left_is_ended_by_force() -> None:
    client = connect(closeTimeout=60)
    client.say(*ENVELOPE)
    Drained(client.factory)
    client.clock.pump([1] * 59)
    assert client.transport.producerState == "producing"
    assert not client.transport.disconnected
    client.clock.advance(1)
    assert client.transport.disconnected


@pytest.mark.parametrize("how", ["refuse", "drain"])
def test_a_client_that_comes_meanwhile_gets_421_in_place_of_a_greeting_until_it_is_resumed(how: str) -> None:
    onConnect = Pending()
    factory = makeFactory(onConnect=onConnect)
    getattr(factory, how)()
    assert factory.isRefusing
    late = Client(factory)
    assert (late.replies(), late.isClosed, onConnect.calls) == ([LEAVE], True, [])
    late.finish()
    factory.resume()
    assert not factory.isRefusing
    served = Client(factory)
    onConnect.decide()
    assert served.codes() == [220]


def test_while_new_clients_are_refused_those_that_are_there_go_on() -> None:
    client = connect()
    client.factory.refuse()
    client.clock.pump([1] * 60)
    assert client.say(*ENVELOPE, "DATA", ".")[-1][:3] == "250"


def test_a_client_that_is_refused_as_it_drains_is_counted_by_no_limit() -> None:
    factory = makeFactory(maxClients=1)
    factory.refuse()
    Client(factory).finish()
    assert factory.clients.connections == 0
    factory.resume()
    assert Client(factory).codes() == [220]


def test_a_drain_that_is_resumed_says_so_and_closes_nothing() -> None:
    client = connect(closeTimeout=20)
    drained = Drained(client.factory)
    client.factory.resume()
    client.clock.pump([1] * 30)
    assert drained.results == [False]
    assert client.codes() == [220]
