"""
A network in memory: the client of the package connects to a server of the test, and time passes when the test says so.

The server is a script, which may be cut after any octet that it sends; or a factory of smtphooks itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from smtphooks.client import ClientError, Route, SMTPClient, Timeouts

ROUTE = Route(path="/server", name="client.test", tls="none")
ESMTP = ("PIPELINING", "SIZE 1000000", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING", "BINARYMIME", "XFORWARD NAME ADDR")
MESSAGE = b"Subject: a message\r\n\r\n.with a dot\r\n"


class Server:
    """
    What a server says, and what it has heard.

    Octets that the client sends go to L{hear}.  A reply is looked up by the command in C{replies}, and is otherwise
    the positive one.

    @ivar replies: replies in the place of the usual ones, by verb: a text, or a list of them, one for each time.
    @ivar heard: the command lines.
    @ivar messages: the contents that came whole, as they were on the wire.
    @ivar contents: how many contents have begun, with an octet at least.
    @ivar said: how many octets it has said.
    @ivar ends: where each reply has ended, in octets said: its label, and the number.
    """

    def __init__(self, *, lmtp: bool = False, extensions: tuple[str, ...] = ESMTP, **replies: Any) -> None:
        self.lmtp = lmtp
        self.extensions = extensions
        self.replies: dict[str, Any] = dict(replies)
        self.heard: list[str] = []
        self.messages: list[bytes] = []
        self.contents = 0
        self.said = 0
        self.ends: list[tuple[str, int]] = []
        self.isSilent = False
        self.line: Line
        self._octets = b""
        self._recipients = 0
        self._chunk: int | None = None
        self._held = b""
        self._isLast = False
        self._inData = False

    def connected(self) -> None:
        self.say("greeting", "220 server.test ready")

    def hear(self, data: bytes) -> None:
        self._octets += data
        while self._step():
            pass

    def _step(self) -> bool:
        if self._inData:
            return self._content()
        if self._chunk is not None:
            return self._chunked()
        line, newline, rest = self._octets.partition(b"\r\n")
        if not newline:
            return False
        self._octets = rest
        text = line.decode()
        self.heard.append(text)
        self.command(text.split(" ")[0].upper(), text)
        return True

    def _content(self) -> bool:
        if self._octets:
            self.contents += 1 if not self._held else 0
            self._held = self._octets
        whole = b"\r\n" + self._octets
        at = whole.find(b"\r\n.\r\n")
        if at < 0:
            return False
        self.messages.append(whole[2 : at + 2])
        self._octets, self._held, self._inData = whole[at + 5 :], b"", False
        self.finish()
        return True

    def _chunked(self) -> bool:
        assert self._chunk is not None
        if len(self._octets) < self._chunk:
            return False
        self.contents += 1 if not self._held else 0
        self._held += self._octets[: self._chunk]
        self._octets, self._chunk = self._octets[self._chunk :], None
        if not self._isLast:
            self.say("BDAT", "250 2.0.0 chunk")
            return True
        self.messages.append(self._held)
        self._held = b""
        self.finish()
        return True

    def finish(self) -> None:
        """The message is complete."""
        for number in range(self._recipients if self.lmtp else 1):
            self.say("message", f"250 2.0.0 taken {number}")
        self._recipients = 0

    def command(self, verb: str, text: str) -> None:
        if verb in ("EHLO", "LHLO") and verb not in self.replies:
            lines = ["server.test", *self.extensions]
            shown = [f"250-{line}" for line in lines[:-1]] + [f"250 {lines[-1]}"]
            self.say(verb, "\r\n".join(shown))
        elif verb == "RCPT":
            self._recipients += self.say("RCPT", "250 2.1.5 ok").startswith("25")
        elif verb == "DATA":
            self._inData = self.say("DATA", "354 go on").startswith("354")
        elif verb == "BDAT":
            words = text.split(" ")
            self._chunk, self._isLast = int(words[1]), words[-1] == "LAST"
        elif verb == "QUIT":
            if self.say("QUIT", "221 2.0.0 bye"):
                self.line.close()
        else:
            self._recipients = 0 if verb in ("RSET", "MAIL") else self._recipients
            self.say(verb, "250 2.0.0 ok")

    def say(self, label: str, text: str) -> str:
        """Say a reply, or what replaces it; None for nothing at all."""
        given = self.replies.get(label, text)
        if isinstance(given, list):
            given = given.pop(0) if given else text
        if given is None or self.isSilent:
            self.isSilent = True
            return ""
        octets = f"{given}\r\n".encode() if isinstance(given, str) else given
        self.isSilent = not octets.endswith(b"\n")
        self.said += len(octets)
        self.ends.append((label, self.said))
        self.line.toClient(octets)
        return given if isinstance(given, str) else ""


class Line:
    """
    A connection: the transport of the client, and the server's end.

    @ivar written: all octets that the client has written.
    @ivar isOpen: neither side has ended it.
    @ivar isReading: the server reads.
    """

    def __init__(self, network: Network, server: Server) -> None:
        self.network = network
        self.server = server
        self.written = b""
        self.isOpen = True
        self.isReading = True
        self.disconnecting = False
        self.wasAborted = False
        self.protocol: Any = None
        self.producer: Any = None
        self._budget = network.budget
        self._drips = network.drips
        server.line = self

    # --- the client's transport ---

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        if not self.isOpen or self.disconnecting:
            return
        self.written += data
        if not self.isReading:
            if self.producer is not None:
                self.producer.pauseProducing()
            return
        self.network.soon(lambda: self.server.hear(data) if self.isOpen else None)

    def loseConnection(self) -> None:
        if self.producer is None:  # as TLS has it
            self.disconnecting = True
            self._end(ConnectionDone())

    def abortConnection(self) -> None:
        self.wasAborted = True
        self._end(ConnectionAborted())

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def getPeer(self) -> Any:
        return UNIXAddress("/server")

    def getHost(self) -> Any:
        return UNIXAddress(None)

    # --- the server's end ---

    def toClient(self, octets: bytes) -> None:
        if self._budget is not None:
            octets, left = octets[: self._budget], octets[self._budget :]
            self._budget -= len(octets)
            if octets:
                self._deliver(octets)
            if left or not self._budget:
                self._end(self.network.cause)
            return
        self._deliver(octets)

    def _deliver(self, octets: bytes) -> None:
        for piece in [octets[i : i + 1] for i in range(len(octets))] if self._drips else [octets]:
            self.network.soon(lambda piece=piece: self.protocol.dataReceived(piece) if self.protocol else None)

    def close(self, cause: Exception | None = None) -> None:
        """The server closes the connection."""
        self._end(cause or ConnectionDone())

    def _end(self, cause: Exception) -> None:
        if self.isOpen:
            self.isOpen = False
            self.network.soon(lambda: self._tell(cause))

    def _tell(self, cause: Exception) -> None:
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            protocol.connectionLost(Failure(cause))


class Network(Clock):
    """
    A reactor for the client.

    @ivar servers: those to be met, one for each connection; the last one for all that follow.
    @ivar lines: the connections so far.
    @ivar budget: octets that a server says before the connection is cut, None for no end.
    @ivar cause: how it is cut.
    @ivar drips: each octet of a server arrives alone.
    @ivar refuses: how many attempts to connect are refused.
    @ivar hangs: no attempt to connect comes to an end.
    """

    def __init__(self, *servers: Server) -> None:
        super().__init__()
        self.servers = [*servers]
        self.lines: list[Line] = []
        self.budget: int | None = None
        self.cause: Exception = ConnectionDone()
        self.drips = False
        self.refuses = 0
        self.hangs = False
        self._soon: deque[Callable[[], object]] = deque()

    def soon(self, function: Callable[[], object]) -> None:
        """As with callLater(0), which in a Clock takes longer the more calls there are."""
        self._soon.append(function)

    def settle(self) -> None:
        """Whatever can happen now happens."""
        while self._soon or any(call.getTime() <= self.seconds() for call in self.getDelayedCalls()):
            while self._soon:
                self._soon.popleft()()
            self.advance(0)

    def connectUNIX(self, path: str, factory: Any, timeout: float = 30, checkPID: bool = False) -> Any:
        connector = Connector(self, factory)
        factory.doStart()
        factory.startedConnecting(connector)
        if not self.hangs:
            self.soon(connector.connect)
        return connector

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Outcome:
        """Run until nothing happens without time passing."""
        outcome = self.start(coroutine)
        self.settle()
        return outcome

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> Outcome:
        """Run as far as the coroutine comes at once."""
        return Outcome(self, Deferred.fromCoroutine(coroutine))

    def open(self) -> list[Line]:
        return [line for line in self.lines if line.isOpen]


class Connector:
    """An attempt to connect."""

    def __init__(self, network: Network, factory: Any) -> None:
        self.network, self.factory, self.isOver = network, factory, False

    def connect(self) -> None:
        if self.isOver:
            return
        self.isOver = True
        network = self.network
        if network.refuses:
            network.refuses -= 1
            self.factory.clientConnectionFailed(self, Failure(ConnectionRefusedError()))
            return
        server = network.servers.pop(0) if len(network.servers) > 1 else network.servers[0]
        line = Line(network, server)
        network.lines.append(line)
        line.protocol = self.factory.buildProtocol(UNIXAddress("/server"))
        line.protocol.makeConnection(line)
        server.connected()

    def getDestination(self) -> Any:
        return UNIXAddress("/server")

    def stopConnecting(self) -> None:
        self.isOver = True
        self.factory.clientConnectionFailed(self, Failure(ConnectionLost("stopped")))


class Outcome(list[Any]):
    """What a Deferred comes to."""

    def __init__(self, network: Network, deferred: Deferred[Any]) -> None:
        super().__init__()
        self.network = network
        self.deferred = deferred
        deferred.addBoth(self.append)

    @property
    def isPending(self) -> bool:
        return not self

    @property
    def value(self) -> Any:
        """The result."""
        assert self, "there is no result"
        if isinstance(self[0], Failure):
            self[0].raiseException()
        return self[0]

    @property
    def error(self) -> BaseException:
        """The exception."""
        assert self, "there is no result"
        assert isinstance(self[0], Failure), f"the result is {self[0]!r}"
        return self[0].value

    @property
    def either(self) -> Any:
        """The result, or an exception of the client."""
        assert self, "there is no result"
        if isinstance(self[0], Failure):
            assert isinstance(self[0].value, ClientError), self[0].getTraceback()
            return self[0].value
        return self[0]


def clientOf(network: Network, **given: Any) -> SMTPClient:
    """A client whose time limits are short, and differ."""
    timeouts = given.pop("timeouts", None) or Timeouts(
        connect=11.0, greeting=12.0, command=13.0, data=14.0, block=15.0, message=16.0, turn=17.0
    )
    return SMTPClient(reactor=network, timeouts=timeouts, **given)


def nothingIsLeft(network: Network, client: SMTPClient) -> None:
    """The client closes, and leaves no connection, no timer, and nobody who waits."""
    closed = network.run(client.close())
    for _ in range(3):
        if closed.isPending:
            network.advance(6)
            network.settle()
    assert closed.value is None
    pool = client._pool
    assert not pool._open
    assert not pool._idle
    assert not pool._turns
    assert not network.open()
    assert not network.getDelayedCalls()
