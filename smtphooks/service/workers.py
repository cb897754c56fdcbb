"""
Workers, as the supervisor has them: processes that it starts, hears of, and ends.

A worker is this program once more, with the same flags; the environment variable C{SMTPHOOKS_WORKER} tells it its
number and its file descriptors.  Three streams lead to it: its standard output, its standard error, and the channel.
This module knows neither when a worker is needed nor what it does.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import attrs
from twisted.internet import process
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks.service.channel import Channel
from smtphooks.service.overview import RATED
from smtphooks.service.program import Program, killedBy
from smtphooks.service.rates import Rates
from smtphooks.service.settings import cause
from smtphooks.service.sockets import ListeningSockets
from smtphooks.service.workerlines import Lines
from smtphooks.sharedtable import Table

_log = Logger()

# The environment variable that makes a worker of this program.
WORKER = "SMTPHOOKS_WORKER"

# Octets that are read at once, and how often when a process has ended: more than a stream holds, but others may have
# the stream as well, and write on.
_AT_ONCE, _READS = 65536, 64

NOWHERE = -1

STARTING, READY, DRAINING, ENDED = "starting", "ready", "draining", "ended"

# What a worker finds its streams and the table by; its sockets come behind.
_STDIN, _STDOUT, _STDERR, _CHANNEL, _TABLE, _FIRST_SOCKET = range(6)


@attrs.frozen
class Place:
    """
    Where a worker finds what it has been given, in its own numbers of file descriptors.

    @ivar number: its number, from 1 on; another worker in its place has the same.
    @ivar column: its column in the table.
    @ivar sockets: for each listener the family of its sockets, whether they are shared, and the sockets.
    """

    number: int
    column: int
    sockets: Sequence[tuple[int, bool, Sequence[int]]]
    channel: int = _CHANNEL
    table: int = _TABLE

    @property
    def descriptors(self) -> Iterable[int]:
        """All file descriptors."""
        yield from (self.channel, self.table)
        for _, _, sockets in self.sockets:
            yield from sockets


@attrs.frozen
class Streams:
    """
    The supervisor's ends of the streams of a worker, as file descriptors.
    """

    channel: int
    output: int
    errors: int


class _Ending(ProcessProtocol):
    """The end of a process that was started here."""

    def __init__(self) -> None:
        self.died: Deferred[int] = Deferred()

    def processEnded(self, reason: Failure) -> None:
        error: Any = reason.value
        self.died.callback(error.status)


class _AdoptedEnding:
    """The end of a process that the program which this one has replaced had started: it is a child of this process."""

    def __init__(self, pid: int) -> None:
        self.died: Deferred[int] = Deferred()
        self._pid = pid
        # Twisted has functions for this, but no interface.
        handlers: dict[int, Any] = process.reapProcessHandlers
        handlers[pid] = self
        self.reapProcess()

    def reapProcess(self) -> None:
        """Called by Twisted when a child has ended."""
        try:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
        except ChildProcessError:
            pid, status = self._pid, 0
        if pid:
            del process.reapProcessHandlers[pid]
            self.died.callback(status)


def diedOf(pid: int) -> Deferred[int]:
    """Fires with the status of a child that was started before this program replaced another one in its process."""
    return _AdoptedEnding(pid).died


class _Output(Protocol):
    """A stream of output."""

    def __init__(self, descriptor: int, lines: Lines) -> None:
        self._descriptor = descriptor
        self._lines = lines
        self._isLost = False

    def dataReceived(self, data: bytes) -> None:
        if not self._isLost:
            self._lines.feed(data)

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._isLost = True

    def end(self) -> None:
        """
        Read what is there, and close the stream.

        The process has ended, but those that it started may have the stream as well, and keep it open.
        """
        if not self._isLost:
            _takeRest(self._descriptor, self._lines.feed)
        self._isLost = True
        self._lines.end()
        if self.transport is not None:
            self.transport.loseConnection()


def _takeRest(descriptor: int, taken: Callable[[bytes], object]) -> None:
    """Take what a process that has ended had written."""
    # Beside BlockingIOError that is ECONNRESET, if it has not read all that it was told.
    with suppress(OSError):
        for _ in range(_READS):
            if not (data := os.read(descriptor, _AT_ONCE)):
                break
            taken(data)


@attrs.define(eq=False)
class Worker:
    """
    A worker.

    @ivar number: from 1 on.
    @ivar generation: all workers of one configuration have the same.
    @ivar column: its column in the table; C{NOWHERE} if that is not the table which a program handed over.
    @ivar table: the table, None if it is not known here.
    @ivar since: when it was started, by the clock of the reactor.
    @ivar lastBeat: when its reactor was known to run, or else when it was started.
    @ivar hasBeaten: its reactor has run.
    @ivar died: fires with the status of the process, as C{waitpid} gives it.
    @ivar state: C{STARTING}, C{READY}, C{DRAINING} or C{ENDED}.
    @ivar lastState: its state when it ended.
    @ivar isHung: it was killed as it did not answer.
    @ivar rates: those of what it has told.
    @ivar serving: the sockets that it has been told to serve.
    """

    number: int
    generation: int
    column: int
    pid: int
    since: float
    streams: Streams
    died: Deferred[int] = attrs.field(repr=False)
    table: Table | None = attrs.field(default=None, repr=False)
    lastBeat: float = 0.0
    hasBeaten: bool = False
    state: str = STARTING
    lastState: str = STARTING
    isHung: bool = False
    serving: list[int] | None = None
    rates: Rates = attrs.field(init=False, repr=False)
    status: int | None = None
    channel: Channel = attrs.field(init=False, repr=False, factory=lambda: Channel({}))  # until it is connected
    _waiting: list[Deferred[None]] = attrs.field(init=False, repr=False, factory=list)
    _outputs: list[_Output] = attrs.field(init=False, repr=False, factory=list)

    def connect(
        self,
        reactor: Any,
        channel: Channel,
        output: Lines,
        errors: Lines,
    ) -> None:
        """Listen to its streams, and for its end."""
        self.channel = channel
        self.lastBeat = reactor.seconds()
        self.rates = Rates(self.since, RATED)
        self._outputs = [_Output(self.streams.output, output), _Output(self.streams.errors, errors)]
        connect(reactor, channel, self.streams.channel)
        connect(reactor, self._outputs[0], self.streams.output)
        connect(reactor, self._outputs[1], self.streams.errors)
        self.died.addCallback(self._died)

    def _died(self, status: int) -> None:
        self.status = status
        for each in self._outputs:
            each.end()
        if not self.channel.isLost:
            _takeRest(self.streams.channel, self.channel.dataReceived)
        if self.channel.transport is not None:
            self.channel.transport.loseConnection()
        for descriptor in attrs.astuple(self.streams):
            with suppress(OSError):
                os.close(descriptor)
        self.lastState, self.state = self.state, ENDED
        waiting, self._waiting = self._waiting, []
        for ended in waiting:
            ended.callback(None)

    def whenEnded(self) -> Deferred[None]:
        """Fires when the process has ended and all that it wrote has been read."""
        ended: Deferred[None] = Deferred()
        self._waiting.append(ended)
        return ended

    def serve(self, sockets: list[int]) -> None:
        """Have it accept from these sockets and from no others."""
        if sockets != self.serving:
            self.serving = sockets
            self.channel.tell("serve", sockets=sockets)

    def signal(self, number: int) -> None:
        """Send a signal, if the process is still there."""
        if self.status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    @property
    def howItEnded(self) -> str:
        """How the process has ended, in words."""
        status = self.status or 0
        if os.WIFSIGNALED(status):
            return killedBy(os.WTERMSIG(status))
        return f"has ended with status {os.waitstatus_to_exitcode(status)}"


class NeverReady(Exception):
    """
    A worker has ended before it was ready.

    @ivar worker: which.
    """

    def __init__(self, worker: Worker) -> None:
        super().__init__(f"worker {worker.number} {worker.howItEnded} before it was ready, see the log")
        self.worker = worker


def cannotStart(error: BaseException | None) -> str:
    """The sentence that says why workers cannot start."""
    if isinstance(error, NeverReady):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return f"workers cannot start: {error.strerror}, allow more (LimitNOFILE of systemd, or ulimit -n)"
    return f"workers cannot start: {cause(error)}"


class _One(Factory):
    """A factory for the one protocol that is there."""

    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: object) -> Protocol:
        """C{IProtocolFactory}"""
        return self._protocol


def connect(reactor: Any, protocol: Protocol, descriptor: int) -> None:
    """
    Have a protocol read and write a stream.

    The file descriptor stays open, for a program that replaces this one: the reactor has a copy.
    """
    os.set_blocking(descriptor, False)
    reactor.adoptStreamConnection(descriptor, socket.AF_UNIX, _One(protocol))


def start(
    reactor: Any,
    program: Program,
    place: Place,
    generation: int,
    sockets: Sequence[ListeningSockets],
    table: Table,
) -> Worker:
    """
    Start a worker; it has still to be connected.

    @param place: number and column; its sockets are those that are given.
    @param sockets: those of the listeners, in order.
    @raise OSError: if there is no process, or no file descriptor, to be had.
    """
    with ExitStack() as closing:
        pairs = []
        for _ in range(3):
            pair = socket.socketpair()
            pairs.append([closing.enter_context(each) for each in pair])
        nothing = closing.enter_context(open(os.devnull))
        for _ in pairs:
            # To connect it takes one more for each stream; without them it would run on, and nobody would hear it.
            closing.callback(os.close, os.dup(nothing.fileno()))
        standard = {_STDIN: nothing.fileno(), _TABLE: table.fd}
        streams = dict(zip((_CHANNEL, _STDOUT, _STDERR), [theirs.fileno() for _, theirs in pairs], strict=True))
        given, inherited = _inherited(sockets)
        place = attrs.evolve(place, sockets=given)
        environment = program.environment(**{WORKER: json.dumps(attrs.asdict(place))})
        ending = _Ending()
        # A terminal interrupts workers as well.  Until their reactor runs, Python would show a traceback of that.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            child = reactor.spawnProcess(
                ending,
                sys.executable,
                program.command,
                environment,
                program.folder,
                childFDs={**standard, **streams, **inherited},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        ours = Streams(*[ours.detach() for ours, _ in pairs])
    return Worker(place.number, generation, place.column, child.pid, reactor.seconds(), ours, ending.died, table)


def _inherited(sockets: Sequence[ListeningSockets]) -> tuple[list[tuple[int, bool, list[int]]], dict[int, int]]:
    """The sockets as a worker finds them, and its number of each file descriptor."""
    given: list[tuple[int, bool, list[int]]] = []
    descriptors: dict[int, int] = {}
    for one in sockets:
        first = _FIRST_SOCKET + len(descriptors)
        numbers = [*range(first, first + len(one.descriptors))]
        descriptors.update(zip(numbers, one.descriptors, strict=True))
        given.append((one.family, one.isShared, numbers))
    return given, descriptors


def placeOf(environment: Mapping[str, str]) -> Place | None:
    """What the environment says of this process as a worker, None if it is none."""
    given = environment.get(WORKER)
    return None if given is None else Place(**known(Place, json.loads(given)))


def known(kind: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Of the fields that a program of another version has given those that a class of attrs has."""
    names = {field.name for field in attrs.fields(kind) if field.init}
    return {name: value for name, value in fields.items() if name in names}
