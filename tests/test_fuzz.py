"""
A server in memory under every kind of event at once: Hypothesis mixes clients, hooks, time and failures, and after each
step the ten invariants of the design must hold, as far as they can be seen from outside.

C{make fuzz} runs the same machine for as long as C{FUZZ_SECONDS} says.
"""

from __future__ import annotations

import gc
import itertools
import os
import time
from collections import Counter, deque
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ITLSTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from smtphooks import AuthResponse, Extension, SMTPError
from smtphooks.connection.state import Want
from smtphooks.options import Options
from smtphooks.protocol import Ended, SMTPServerProtocol
from smtphooks.tls.context import SecureContext
from tests.conftest import takeBetrayals
from tests.reading import Reading
from tests.secrets import PASSWORD, TOKEN, WRONG_PASSWORD, encoded, plain
from tests.support import Transport, cutUp, makeFactory
from tests.tls.handshakes import Handshake

MEMORY = 131072
SOCKET_BUFFER = 65536
GONE = "sesame-of-a-crash"

CLIENT, PROXY, FILTER = "192.0.2.7", "198.51.100.1", "203.0.113.5"
BEHIND_PROXY, BEHIND_FILTER = "192.0.2.99", "192.0.2.200"

# How a hook behaves; a word in its argument chooses.
WAYS = ["now", "now", "later", "soon", "refuse", "crash", "exit", "inject", "hang", "stubborn", "closing", "cancelled"]
# How onData behaves; the local part of the sender chooses.
MESSAGE_WAYS = ["reads", "iterates", "consumes", "slow", "before", "after", "early", "refuses", "mixed", *WAYS[4:]]


class Crash(Exception):
    """A hook crashes with this."""


EXPECTED = (Crash, SystemExit, CancelledError, SMTPError)


@cache
def finishedHandshake() -> Any:
    """The server's side of some TLS connection."""
    return Handshake(SecureContext(Options(name="mx.test"))).server


@implementer(ITLSTransport)
class Line(Transport):
    """
    A transport whose client may stop reading, and whose TLS is only pretended.

    @ivar isRead: the client reads.
    @ivar isHandshaking: STARTTLS has got its 220, so that what the client sends now belongs to the handshake.
    """

    def __init__(self, address: str, port: int) -> None:
        super().__init__(None, IPv4Address("TCP", address, port))
        self.isRead = True
        self.isHandshaking = False

    def write(self, data: bytes) -> None:
        if self.disconnected:
            return  # as Twisted's transports do between abortConnection and connectionLost
        assert not self.isHandshaking, f"written in the clear while TLS begins: {data!r}"
        super().write(data)
        if not self.isRead and len(self.value()) > SOCKET_BUFFER and self.producer is not None:
            self.producer.pauseProducing()

    def resumeProducing(self) -> None:
        if not self.disconnected:
            super().resumeProducing()

    def pauseProducing(self) -> None:
        if not self.disconnected:
            super().pauseProducing()

    def read(self) -> None:
        self.isRead = True
        self.clear()
        if self.producer is not None:
            self.producer.resumeProducing()

    def startTLS(self, context: object) -> bool:
        self.isHandshaking = True
        return True

    def getHandle(self) -> Any:
        return finishedHandshake()

    def getPeerCertificate(self) -> None:
        return None


class Peer:
    """
    A client.

    @ivar isGone: its connection is lost.
    @ivar addresses: the addresses that the server may take for its own.
    """

    def __init__(self, machine: Server, address: str, port: int) -> None:
        self.machine = machine
        self.port = port
        self.line = Line(address, port)
        self.reading = Reading(machine.bareNewline, machine.lmtp)
        self.addresses = {address} | ({BEHIND_FILTER} if address == FILTER else set())
        self.network: deque[bytes] = deque()  # on its way to the server
        self.isDone = False  # the client has closed its sending side
        self.isEndSeen = False
        self.isGone = False
        self._heard = 0
        factory = machine.factory
        self.protocol: SMTPServerProtocol = factory.buildProtocol(None)  # type: ignore[assignment, arg-type]
        self.protocol.makeConnection(self.line)

    def __repr__(self) -> str:
        return f"<Peer {self.line.peerAddr.host} {self.port}>"

    @property
    def session(self) -> Any:
        """The session that hooks see; None before the client is admitted."""
        return getattr(self.protocol, "session", None)

    @property
    def isClosed(self) -> bool:
        """The server has closed the connection."""
        return self.line.disconnecting

    @property
    def canSend(self) -> bool:
        """The client has not closed its sending side."""
        return not (self.isGone or self.isDone)

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            # Twisted reads no more than this from a socket at once.
            starts = range(0, len(piece), SOCKET_BUFFER)
            self.network.extend(piece[start : start + SOCKET_BUFFER] for start in starts)

    def flow(self) -> None:
        """The network carries octets both ways, as far as the server reads them."""
        while self.network and not self.isGone and not self.isClosed and self.line.producerState == "producing":
            piece = self.network.popleft()
            if self.line.isHandshaking:
                self.lose()  # these octets were not TLS
                break
            self.reading.sent(piece)
            self.protocol.dataReceived(piece)
        if self.isDone and not self.network and not self.isEndSeen and not self.isGone and not self.isClosed:
            if self.line.isHandshaking:
                self.lose()
            elif self.line.producerState == "producing":
                self.isEndSeen = True
                self.protocol.readConnectionLost()
        self.hear()

    def hear(self) -> None:
        octets = b"".join(self.line.writes[self._heard :])
        self._heard = len(self.line.writes)
        self.reading.came(octets)
        if self.line.isRead:
            self.line.clear()

    def lose(self, *, politely: bool = False) -> None:
        """The connection is lost."""
        if not self.isGone:
            self.hear()
            self.isGone = True
            self.line.disconnecting = True
            self.protocol.connectionLost(Failure(ConnectionDone() if politely else ConnectionLost()))

    def isIdle(self) -> bool:
        """Nothing keeps the server from answering this client: no pending hook, timer or handshake."""
        protocol = self.protocol
        return (
            self.session is not None
            and not (self.isGone or self.isClosed or self.network or self.line.isHandshaking)
            and self.line.isRead
            and protocol._stage.state.want is not Want.TIMER
            and not any(question.session is self.session for question in self.machine.undecided)
        )


class Question:
    """A pending decision of a hook."""

    def __init__(self, machine: Server, hook: str, session: Any, seconds: float | None) -> None:
        self.hook = hook
        self.session = session
        self.answer: Deferred[Any] = Deferred(self._cancelled)
        self._undecided = machine.undecided
        self._undecided.append(self)
        self._call = None if seconds is None else machine.clock.callLater(seconds, self.decide)

    def __repr__(self) -> str:
        return f"<Question of {self.hook}>"

    def _forget(self) -> None:
        self._undecided.remove(self)
        if self._call is not None and self._call.active():
            self._call.cancel()

    def _cancelled(self, answer: Deferred[Any]) -> None:
        self._forget()

    def decide(self, outcome: str = "ok") -> None:
        self._forget()
        results: dict[str, Any] = {
            "refuse": Failure(SMTPError("refused later", 450)),
            "crash": Failure(Crash(GONE)),
            "cancel": Failure(CancelledError(GONE)),
        }
        self.answer.callback(results.get(outcome))


class HookSet:
    """
    All hooks of the server.

    @ivar calls: how often each hook was called for each session.
    @ivar taken: the messages that each session's C{onData} has taken, in order.
    @ivar temper: how those hooks behave that have no argument to choose by.
    @ivar violations: calls that no hook may ever get.
    """

    def __init__(self, machine: Server) -> None:
        self.machine = machine
        self.calls: dict[Any, Counter[str]] = {}
        self.taken: dict[Any, list[bytes]] = {}
        self.ways: dict[int, str] = {}
        self.temper = "now"
        self.violations: list[str] = []

    def _called(self, hook: str, session: Any) -> None:
        calls = self.calls.setdefault(session, Counter())
        if calls["onClose"] and hook != "onError":
            self.violations.append(f"{hook} after onClose")
        calls[hook] += 1

    def _wait(self, hook: str, session: Any, seconds: float | None = None) -> Deferred[Any]:
        return Question(self.machine, hook, session, seconds).answer

    def _behave(self, hook: str, way: str, session: Any, text: str = "") -> Any:
        self._called(hook, session)
        return self._act(hook, way, session, text)

    def _act(self, hook: str, way: str, session: Any, text: str = "") -> Any:
        if way == "refuse":
            raise SMTPError("refused\r\n250 yes", 554)
        if way == "closing":
            raise SMTPError("leave", 421)
        if way == "crash":
            raise Crash(GONE)
        if way == "exit":
            raise SystemExit(GONE)
        if way in ("later", "hang"):
            return self._wait(hook, session)
        if way == "soon":
            return self._wait(hook, session, 1.5)
        if way == "stubborn":
            return self._stubborn(hook, session)
        if way == "cancelled":
            gone: Deferred[None] = Deferred()
            gone.cancel()
            return gone
        if way == "inject":
            return "yes\r\n250 2.0.0 and another\x85\u2028\0"
        return f"answers {text}" if text else None

    async def _stubborn(self, hook: str, session: Any) -> None:
        try:
            await self._wait(hook, session)
        except CancelledError:
            await self._wait(hook + " that was cancelled", session)

    def _told(self, hook: str, session: Any) -> Any:
        isOfBystander = session is self.machine.bystander.session
        return self._behave(hook, "now" if isOfBystander else self.temper, session)

    def onConnect(self, session: Any) -> Any:
        return self._behave("onConnect", self.ways.get(session.remotePort, "now"), session)

    def onSecure(self, transport: Any, session: Any) -> Any:
        if session.user is not None or session.openingCommand is not None or session.envelope.mailFrom is not None:
            self.violations.append("something outlived STARTTLS")
        return self._told("onSecure", session)

    def onHelo(self, hostname: str, session: Any) -> Any:
        return self._behave("onHelo", hostname.partition(".")[0], session)

    def onAuth(self, auth: Any, session: Any) -> Any:
        if auth.method != "XCLIENT" and not (session.secure or self.machine.options["allowInsecureAuth"]):
            self.violations.append("a password in the clear")
        answer = self._behave("onAuth", str(auth.username), session)
        if answer is not None:
            return answer
        return AuthResponse(user=auth.username if auth.method == "XCLIENT" or auth.password == PASSWORD else None)

    def onMailFrom(self, address: Any, session: Any) -> Any:
        way, _, text = address.local.partition(".")
        return self._behave("onMailFrom", way if text else "now", session, address.address)

    def onRcptTo(self, address: Any, session: Any) -> Any:
        return self._behave("onRcptTo", address.local.partition(".")[0], session, address.address)

    def onVrfy(self, text: str, session: Any) -> Any:
        return self._behave("onVrfy", text.partition(" ")[0], session, text)

    def more(self, argument: str, session: Any) -> Any:
        return self._behave("XTRA", argument.partition(" ")[0], session, argument)

    def onReset(self, session: Any) -> Any:
        return self._told("onReset", session)

    def onClose(self, session: Any) -> Any:
        return self._told("onClose", session)

    def onError(self, failure: Failure, session: Any) -> Any:
        return None if session is None else self._told("onError", session)

    async def onData(self, stream: Any, session: Any) -> Any:
        self._called("onData", session)
        recipients = len(session.envelope.rcptTo)
        way = session.envelope.mailFrom.local
        if way == "early":
            return "not read"
        if way == "before":
            await self._wait("onData", session)
        if way in WAYS:
            answer = self._act("onData", way, session)
            if answer is not None and not isinstance(answer, str):
                await answer
        message = await self._read(stream, way, session)
        if way == "after":
            await self._wait("onData", session)
        if way == "refuses":
            raise SMTPError("not this one", 554)
        if stream.sizeExceeded:
            return None
        self.taken.setdefault(session, []).append(message)
        if way == "mixed" and session.lmtp:
            return [None, SMTPError("not for this one", 550), "text"][:recipients]
        return "yes\r\n550 no" if way == "inject" else None

    async def _read(self, stream: Any, way: str, session: Any) -> bytes:
        if way == "consumes":
            consumer = StringTransport()
            await stream.deliverTo(consumer)
            return consumer.value()
        if way not in ("iterates", "slow"):
            return bytes(await stream.read())
        message = b""
        async for chunk in stream:
            message += chunk
            if way == "slow":
                await self._wait("onData, a chunk", session, 1)
        return message


# --- what clients say ---

ways = st.sampled_from(WAYS)
numbers = st.integers(0, 99)
cuts = st.lists(st.integers(0, 100000), max_size=6)
names = st.builds("{}.{}".format, st.just("now") | ways, numbers)
bodies = st.lists(
    st.sampled_from(
        [
            *(
                b"\r",
                b"\n",
                b".",
                b"\r\n",
                b"\r\n.",
                b"\n.\n",
                b"\n.\r\n",
                b"\r\n.\n",
                b"\r.\r",
                b"\r\n.\r",
                b"\r.\r\n",
            ),
            *(
                b"a",
                b"\0",
                b"\xff",
                b"\r\n\0.\r\n",
                b"QUIT\r\n",
                b"MAIL FROM:<x@y.test>\r\n",
                b"x" * 20000,
                b"\n" * 9000,
            ),
        ]
    ),
    max_size=8,
).map(b"".join)


def encode(*lines: str) -> bytes:
    return "".join(line + "\r\n" for line in lines).encode()


xclients = st.sampled_from(
    [
        encode(f"XCLIENT ADDR={BEHIND_FILTER}", "XCLIENT NAME=x PORT=", "XFORWARD ADDR=1.2.3.4", "RSET"),
        *[encode(f"XCLIENT ADDR={BEHIND_FILTER} LOGIN={way}") for way in WAYS],
    ]
)
hellos = st.builds(lambda verb, name: encode(f"{verb} {name}.test"), st.sampled_from(["EHLO", "HELO", "LHLO"]), names)
commands = hellos | st.one_of(
    st.builds(lambda name: encode(f"VRFY {name}"), names),
    st.builds(lambda name: encode(f"XTRA {name}"), names),
    st.builds(lambda name: encode(f"MAIL FROM:<{name}@client.test>"), names),
    st.builds(lambda name: encode(f"RCPT TO:<{name}@mx.test>"), names),
    st.sampled_from([encode(line) for line in ("NOOP", "RSET", "HELP", "DATA", "STARTTLS", "QUIT", "VRFY", "XTRA")]),
    st.just(encode("STARTTLS", "MAIL FROM:<early@client.test>")),
    xclients,
)
authentications = st.one_of(
    st.builds(
        lambda way, word: encode(f"AUTH PLAIN {plain(way, word)}"), ways, st.sampled_from([PASSWORD, WRONG_PASSWORD])
    ),
    st.builds(lambda way: encode("AUTH LOGIN", encoded(way), encoded(PASSWORD)), ways),
    st.sampled_from(
        [encode("AUTH PLAIN", "*"), encode("AUTH PLAIN", encoded(TOKEN)), encode(f"AUTH LOGIN {PASSWORD}")]
    ),
)
broken = st.sampled_from(
    [
        *(
            b"\r\n",
            b"\n",
            b"\r",
            b"\0\r\n",
            b"\xff\xfe\r\n",
            b"x" * 3000 + b"\r\n",
            b"x" * 20000,
            b"NO\rOP\r\n",
            b"NOOP\n",
        ),
        *(
            b"NOOP\r\r\n",
            b"MAIL\r\n",
            b"MAIL FROM:<a@b> X=1\r\n",
            b"RCPT TO:<>\r\n",
            b"BDAT\r\n",
            b"BDAT 1x\r\n",
            b".\r\n",
        ),
        *(
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "EHLO \u017fmtp\r\n".encode(),
            b"MA",
            b"EHLO a\x1b[2J\r\n",
            b"LAST\r\n",
        ),
    ]
)

# Octets that are repeated, and how many buffers of a socket they fill.
floods = st.sampled_from(
    [(b"NOOP " + b"x" * 500 + b"\r\n", 4), (b"x", 4), (b"HELP" + b" x" * 80 + b"\r\n", 5), (b"NOOP\n", 1), (b"\n", 1)]
)


@st.composite
def envelopes(draw: st.DrawFn, lmtp: bool) -> bytes:
    hello = "LHLO" if lmtp else "EHLO"
    body = draw(st.sampled_from(["", "", "", " BODY=BINARYMIME", " SMTPUTF8", " SIZE=9"]))
    sender = f"MAIL FROM:<{draw(st.sampled_from(MESSAGE_WAYS))}@client.test>{body}"
    recipients = [f"RCPT TO:<now.{number}@mx.test>" for number in draw(st.lists(numbers, min_size=1, max_size=3))]
    return encode(f"{hello} now.test", sender, *recipients)


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    body = draw(bodies)
    return b"BDAT %d%s\r\n%s" % (len(body), draw(st.sampled_from([b"", b" LAST", b" last"])), body)


def transactions(lmtp: bool) -> st.SearchStrategy[bytes]:
    data = bodies.map(lambda body: b"DATA\r\n" + body + b"\r\n.\r\n") | bodies.map(lambda body: b"DATA\r\n" + body)
    messages = data | st.lists(chunks(), min_size=1, max_size=3).map(b"".join)
    return st.builds(bytes.__add__, envelopes(lmtp), messages)


speech = {
    lmtp: st.lists(
        st.one_of(*[transactions(lmtp)] * 3, *[commands] * 3, authentications, broken, chunks(), bodies),
        min_size=1,
        max_size=5,
    ).map(b"".join)
    for lmtp in (False, True)
}


outcomes = st.sampled_from(["ok", "ok", "ok", "refuse", "crash", "cancel"])

# The events; one that stands here more often is more likely.
EVENTS = [
    *["talks"] * 3,
    *["delivers"] * 4,
    *["deliversMore"] * 2,
    *["decides"] * 3,
    *["waits"] * 2,
    *["authenticates", "floods", "stops", "comes"] * 2,
    *["secures", "leaves", "changes", "closes"],
]


class Server(RuleBasedStateMachine):
    """The machine: a server, clients that come and go, and a bystander that no other connection may affect."""

    def __init__(self) -> None:
        super().__init__()
        self.undecided: list[Question] = []
        self.peers: list[Peer] = []
        self.ports = itertools.count(1025)
        self.closed: list[None] = []
        self.isClosing = False
        self.surprises: list[LogEvent] = []
        globalLogPublisher.addObserver(self._observe)

    def _observe(self, event: LogEvent) -> None:
        failure = event.get("log_failure")
        if failure is None:
            return
        # A stubborn hook reads on after the server has given it up.
        isExpected = isinstance(failure.value, EXPECTED) or "onData has ended" in str(failure.value)
        if "Unhandled" in str(event.get("log_format")) or not isExpected:
            self.surprises.append(event)

    @initialize(
        bareNewline=st.sampled_from(["normalize", "reject", "accept"]),
        lmtp=st.booleans(),
        given=st.fixed_dictionaries(
            {
                "allowInsecureAuth": st.booleans(),
                "authOptional": st.sampled_from([True, True, True, False]),
                "hookTimeout": st.sampled_from([0, 0, 7]),
                "greetDelay": st.sampled_from([0, 0, 2]),
                "size": st.sampled_from([0, 30000]),
                "maxErrors": st.sampled_from([0, 3, 20]),
                "closeTimeout": st.sampled_from([3, 30]),
            }
        ),
    )
    def begin(self, bareNewline: str, lmtp: bool, given: dict[str, Any]) -> None:
        self.bareNewline, self.lmtp, self.options = bareNewline, lmtp, given
        self.hooks = HookSet(self)
        self.factory = makeFactory(
            hooks=self.hooks,
            extensions=[Extension("XTRA", commands={"XTRA": self.hooks.more})],
            bareNewline=bareNewline,
            lmtp=lmtp,
            maxAllowedUnauthenticatedCommands=False,
            useProxy=[PROXY],
            useXClient=[FILTER],
            **given,
        )
        assert isinstance(self.factory.clock, Clock)
        self.clock = self.factory.clock
        self.bystander = self._connect(CLIENT, "now")
        self.peers += [self._connect(CLIENT, "now"), self._connect(FILTER, "now")]
        self._advance(given["greetDelay"])
        self.bystander.send(encode("LHLO now.test" if lmtp else "EHLO now.test"))
        self.bystander.flow()

    def _connect(self, address: str, way: str, header: list[bytes] | None = None) -> Peer:
        port = next(self.ports)
        self.hooks.ways[port] = way
        peer = Peer(self, address, port)
        for piece in header or []:
            peer.protocol.dataReceived(piece)
        return peer

    def _advance(self, seconds: float) -> None:
        while seconds > 0:
            self.clock.advance(min(seconds, 5))
            seconds -= 5
            self._flow()
            self._askBystander()

    def _flow(self) -> None:
        for peer in self.peers:
            peer.flow()

    def _askBystander(self) -> None:
        bystander = getattr(self, "bystander", None)
        if bystander is not None and not bystander.isClosed and bystander.reading.isGreeted:
            before = bystander.reading.replies
            bystander.send(encode("NOOP"))
            bystander.flow()
            assert bystander.reading.replies == before + 1, "another connection blocks the bystander"

    def _peer(self, data: st.DataObject, *, sends: bool = False, isStuck: bool = False) -> Peer | None:
        """A client that can send if C{sends}; if C{isStuck}, preferably one that waits for a hook or does not read."""
        peers = [peer for peer in self.peers if (peer.canSend and not peer.isClosed if sends else not peer.isGone)]
        if isStuck:
            sessions = [question.session for question in self.undecided]
            peers = [peer for peer in peers if peer.session in sessions or not peer.line.isRead] or peers
        return data.draw(st.sampled_from(peers)) if peers else None

    # --- events ---

    @rule(data=st.data(), what=st.sampled_from(EVENTS))
    def happens(self, data: st.DataObject, what: str) -> None:
        """One rule for all events, weighted by EVENTS; of many rules Hypothesis would leave out some in each run."""
        getattr(self, "_" + what)(data)

    def _comes(self, data: st.DataObject) -> None:
        if sum(peer.canSend and not peer.isClosed for peer in self.peers) > 3:
            return  # few busy clients find more than many
        how = data.draw(st.sampled_from(["alone", "alone", "as a filter", "through a proxy", "badly"]))
        if how in ("alone", "as a filter"):
            address = CLIENT if how == "alone" else FILTER
            self.peers.append(self._connect(address, data.draw(st.just("now") | ways)))
        else:
            self.peers.append(self._connectThroughProxy(how != "badly", data.draw(st.integers(0, 60))))

    def _connectThroughProxy(self, isValid: bool, cut: int) -> Peer:
        header = f"PROXY {'TCP4' if isValid else 'TCP5'} {BEHIND_PROXY} 10.0.0.1 1024 25\r\n".encode()
        peer = self._connect(PROXY, "now", [piece for piece in (header[:cut], header[cut:]) if piece])
        peer.addresses = {BEHIND_PROXY}
        if not self.isClosing:
            assert (peer.session is not None) is isValid
        peer.isDone = peer.session is None
        return peer

    def _sends(self, data: st.DataObject, what: st.SearchStrategy[bytes]) -> None:
        peer = self._peer(data, sends=True)
        if peer is not None:
            peer.send(*cutUp(data.draw(what), data.draw(cuts)))

    def _talks(self, data: st.DataObject) -> None:
        self._sends(data, speech[self.lmtp])

    def _delivers(self, data: st.DataObject) -> None:
        self._sends(data, transactions(self.lmtp))

    def _deliversMore(self, data: st.DataObject) -> None:
        """Several messages at once."""
        self._sends(data, st.lists(transactions(self.lmtp), min_size=2, max_size=4).map(b"".join))

    def _authenticates(self, data: st.DataObject) -> None:
        peer = self._peer(data, sends=True)
        if peer is not None:
            hello = encode("RSET", "LHLO now.test" if self.lmtp else "EHLO now.test")
            isFilter = BEHIND_FILTER in peer.addresses
            peer.send(hello, data.draw(xclients | authentications if isFilter else authentications))

    def _secures(self, data: st.DataObject) -> None:
        peer = self._peer(data, sends=True)
        if peer is None:
            return
        peer.send(encode("STARTTLS"))
        peer.flow()
        if peer.line.isHandshaking and not peer.isGone and not peer.isClosed:
            ending = data.draw(st.sampled_from(["well", "well", "badly", "never"]))
            if ending == "well":
                peer.line.isHandshaking = False
                peer.protocol.handshakeCompleted()
            elif ending == "badly":
                peer.lose()

    def _decides(self, data: st.DataObject) -> None:
        for outcome in data.draw(st.lists(outcomes, min_size=1, max_size=5)):
            if self.undecided:
                data.draw(st.sampled_from(self.undecided)).decide(outcome)

    def _waits(self, data: st.DataObject) -> None:
        self._advance(data.draw(st.sampled_from([0.5, 1, 2, 5, 20, 62, 310])))

    def _floods(self, data: st.DataObject) -> None:
        peer = self._peer(data, sends=True, isStuck=True)
        if peer is not None:
            octets, times = data.draw(floods)
            peer.send(*[octets * (SOCKET_BUFFER // len(octets))] * times)

    def _leaves(self, data: st.DataObject) -> None:
        peer = self._peer(data, isStuck=True)
        if peer is not None:
            peer.lose(politely=data.draw(st.booleans()))

    def _stops(self, data: st.DataObject) -> None:
        """The client stops sending or reading, or reads again."""
        what = data.draw(st.sampled_from(["sending", "reading", "reading", "not reading"]))
        peer = self._peer(data, sends=what == "sending")
        if peer is None:
            return
        if what == "sending":
            peer.isDone = True
        elif what == "reading":
            peer.line.isRead = False
        else:
            peer.line.read()

    def _changes(self, data: st.DataObject) -> None:
        self.hooks.temper = data.draw(ways)

    def _closes(self, data: st.DataObject) -> None:
        if data.draw(st.integers(0, 3)) == 3:  # rarely, because a server that closes has little left to test
            self._close()

    def _close(self) -> None:
        if not self.isClosing:
            self.isClosing = True
            self.factory.close().addCallback(self.closed.append)

    # --- invariants ---

    @invariant()
    def all(self) -> None:
        if not hasattr(self, "factory"):
            return
        self._flow()
        self._askBystander()
        for peer in self.peers:
            self._check(peer)
        assert not self.surprises, self.surprises
        assert not self.hooks.violations, self.hooks.violations
        assert not takeBetrayals()  # invariant 7

    def _check(self, peer: Peer) -> None:
        reading, protocol, session = peer.reading, peer.protocol, peer.session
        said = b"".join(peer.line.writes)
        assert GONE.encode() not in said  # 5
        assert b"Crash" not in said
        if session is None:
            assert said == b"" or reading.isOver  # 8: nothing is processed before the header of a proxy
            return
        stage = protocol._stage
        gathered = 0 if isinstance(stage, Ended) else stage._pump.writer.gathered
        assert protocol.buffered + gathered < MEMORY  # 6
        assert len(peer.line.value()) < MEMORY
        if session in self.hooks.calls:
            assert session.remoteAddress in peer.addresses  # 8
        if reading.isOver:
            assert peer.isClosed, "the server has sent its last reply and does not close"
        if peer.isIdle():  # 1
            assert reading.isAnswered(), "the server does not answer"
            assert not peer.isEndSeen, "the server does not close a half-closed connection"
        self._checkMessages(peer)
        if peer.isGone:
            pending = [question.hook for question in self.undecided if question.session is session]
            kept = ("onData", "onClose", "onError")
            assert all(hook.startswith(kept) or "cancelled" in hook for hook in pending), pending

    def _checkMessages(self, peer: Peer) -> None:
        """Invariants 2 and 3."""
        taken = list(self.hooks.taken.get(peer.session, []))
        for message, sender in peer.reading.acknowledged:
            if sender != "early":
                assert taken and taken.pop(0) == message, f"acknowledged, and not taken by the hook: {message!r}"
        if taken:
            assert peer.isGone or peer.isClosed or not peer.line.isRead, "taken by the hook, and not acknowledged"
            assert taken == [peer.reading.wholeMessage()], "the client did not send this message"

    def teardown(self) -> None:
        try:
            if hasattr(self, "factory"):
                self.all()
                self._end()
        finally:
            globalLogPublisher.removeObserver(self._observe)

    def _end(self) -> None:
        """The server can be closed, and nothing is left behind."""
        if not self.isClosing:
            self._deliverOfBystander()
            self._close()
        self.hooks.temper = "now"
        for peer in self.peers:
            if not peer.isGone:
                peer.line.read()
        self.all()
        self._advance(max(20, self.options["closeTimeout"]) + 2)  # a failed AUTH is delayed by 16 at most
        for _ in range(2):  # a stubborn hook that is cancelled waits a second time
            for question in list(self.undecided):
                if question in self.undecided:
                    question.decide()
            self.all()
            for peer in (*self.peers, self.bystander):
                assert peer.isClosed, "the server does not end this connection"
                peer.lose(politely=True)
        while self.undecided:
            self.undecided[0].decide()
        self.all()
        assert self.closed == [None]
        assert not self.factory.connections
        assert not self.clock.getDelayedCalls()
        assert not self.factory.clients.networks
        for session, calls in self.hooks.calls.items():
            assert calls["onClose"] == 1, session
        for peer in self.peers:
            assert peer.session is None or peer.session in self.hooks.calls

    def _deliverOfBystander(self) -> None:
        if self.options["authOptional"]:
            before = len(self.bystander.reading.acknowledged)
            envelope = encode("MAIL FROM:<reads@client.test>", "RCPT TO:<now.1@mx.test>", "DATA", "text", ".")
            self.bystander.send(envelope)
            self.bystander.flow()
            assert self.bystander.reading.acknowledged[before:] == [(b"text\r\n", "reads")]
            assert self.hooks.taken[self.bystander.session] == [b"text\r\n"]


PROFILE = {"deadline": None, "suppress_health_check": list(HealthCheck), "stateful_step_count": 40}


def test_all_invariants_hold_whatever_happens() -> None:
    run_state_machine_as_test(Server, settings=settings(max_examples=100, **PROFILE))
    gc.collect()


@pytest.mark.skipif("FUZZ_SECONDS" not in os.environ, reason="make fuzz sets FUZZ_SECONDS")
def test_all_invariants_hold_for_as_long_as_asked() -> None:
    end = time.monotonic() + float(os.environ["FUZZ_SECONDS"])
    profile = settings(max_examples=50, derandomize=False, **PROFILE, print_blob=True)
    while time.monotonic() < end:
        run_state_machine_as_test(Server, settings=profile)
    gc.collect()
