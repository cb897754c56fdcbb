"""The leaner reactor: what it does as Twisted's, how it is installed, and Twisted's own tests of reactors."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.abstract import FileDescriptor
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionDone, ConnectionFdescWentAway, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableDescriptor
from twisted.logger import LogEvent, capturedLogs
from twisted.python.context import get as getContext
from twisted.python.failure import Failure
from twisted.python.log import ILogContext
from zope.interface import implementer

from smtphooks.reactor import DirectReactor
from tests.real.programs import PATIENCE, ROOT, Client, Maildir, Program, freePort, hidden, tcp

BIN = Path(sys.executable).parent


@implementer(IHalfCloseableDescriptor)
class Socket(FileDescriptor):
    """
    A descriptor of a reactor, whose peer the test holds.

    @ivar peer: the other end.
    @ivar does: what a read does; its result is that of C{doRead}.
    @ivar systems: the system of a message of C{twisted.python.log}, in each read and write.
    @ivar ends: why it was disconnected: the failures, each after the name of the method that got it.
    """

    def __init__(self, reactor: EPollReactor, does: Callable[[], Any]) -> None:
        super().__init__(reactor)
        self.does = does
        self.socket, self.peer = socket.socketpair()
        self.fileno = self.socket.fileno
        self.systems: list[str] = []
        self.ends: list[tuple[str, Failure]] = []
        self.startReading()

    def logPrefix(self) -> str:
        return "Prefix"

    def doRead(self) -> Any:
        self.systems.append(getContext(ILogContext)["system"])
        return self.does()

    def doWrite(self) -> None:
        self.systems.append(getContext(ILogContext)["system"])

    def connectionLost(self, reason: Failure) -> None:
        self.ends.append(("connectionLost", reason))

    def readConnectionLost(self, reason: Failure) -> None:
        self.ends.append(("readConnectionLost", reason))

    def writeConnectionLost(self, reason: Failure) -> None:
        raise AssertionError("no reactor calls it")

    def close(self) -> None:
        self.socket.close()
        self.peer.close()


class Reactor:
    """A reactor that is not installed, and whose events a test asks for."""

    def __init__(self, kind: type[EPollReactor]) -> None:
        self.reactor: Any = kind()
        self.sockets: list[Socket] = []

    def add(self, does: Callable[[], Any] = lambda: None) -> Socket:
        """A descriptor that can be read."""
        self.sockets.append(Socket(self.reactor, does))
        self.sockets[-1].peer.send(b"x")
        return self.sockets[-1]

    def poll(self) -> None:
        """Handle the events that are there."""
        self.reactor.doIteration(0)

    def close(self) -> None:
        for each in self.sockets:
            self.reactor.removeReader(each)
            self.reactor.removeWriter(each)
            each.close()
        for reader in self.reactor._internalReaders:
            self.reactor.removeReader(reader)
            reader.connectionLost(None)
        self.reactor._poller.close()


@pytest.fixture(params=[DirectReactor, EPollReactor])
def either(request: pytest.FixtureRequest) -> Iterator[Reactor]:
    """The leaner reactor, and Twisted's, which it must not differ from."""
    reactor = Reactor(request.param)
    yield reactor
    reactor.close()


@pytest.fixture
def direct() -> Iterator[Reactor]:
    """The leaner reactor."""
    reactor = Reactor(DirectReactor)
    yield reactor
    reactor.close()


@pytest.fixture
def events() -> Iterator[list[LogEvent]]:
    """Everything that is logged."""
    with capturedLogs() as captured:
        yield captured


def raising(error: BaseException) -> Callable[..., None]:
    def does(*_: object) -> None:
        raise error

    return does


def failures(events: list[LogEvent]) -> list[tuple[str, type[BaseException]]]:
    """The failures that are logged, each after the name that its line begins with."""
    return [(event["system"], event["failure"].type) for event in events if "failure" in event]


class TestReading:
    def test_a_read_has_no_logging_context(self, direct: Reactor) -> None:
        """That is what it is leaner by."""
        read = direct.add()
        direct.poll()
        assert read.systems == ["-"]

    def test_every_other_event_has_one(self, direct: Reactor) -> None:
        """Also where a socket can be read as well as written."""
        both, written = direct.add(), direct.add()
        both.startWriting()
        written.stopReading()
        written.startWriting()
        direct.poll()
        assert both.systems == ["Prefix", "Prefix"]
        assert written.systems == ["Prefix"]

    def test_what_a_read_returns_ends_the_connection(self, either: Reactor) -> None:
        """It may be any exception."""
        lost = either.add(lambda: ConnectionLost("so"))
        other = either.add(lambda: ValueError("so"))
        either.poll()
        for ended, kind in ((lost, ConnectionLost), (other, ValueError)):
            ((method, reason),) = ended.ends
            assert (method, reason.type) == ("connectionLost", kind)
        either.poll()
        assert len(lost.systems) == len(other.systems) == 1

    def test_a_clean_end_of_what_is_read_is_half_a_close(self, either: Reactor) -> None:
        """The other direction stays open."""
        ended = either.add(lambda: ConnectionDone("so"))
        either.poll()
        ((method, reason),) = ended.ends
        assert (method, reason.type) == ("readConnectionLost", ConnectionDone)

    def test_a_reset_of_the_peer_is_told(self, either: Reactor) -> None:
        """An event that is not readable alone is Twisted's to handle."""
        broken = either.add()
        broken.stopReading()
        broken.startWriting()
        broken.peer.close()
        broken.doWrite = lambda: ConnectionLost("so")  # type: ignore[method-assign, assignment]
        either.poll()
        ((method, reason),) = broken.ends
        assert (method, reason.type) == ("connectionLost", ConnectionLost)

    def test_what_another_read_has_removed_is_not_read(self, either: Reactor) -> None:
        """Its event is already there."""
        pair: list[Socket] = []

        def remove() -> None:
            for each in pair:
                each.stopReading()

        pair += [either.add(remove), either.add(remove)]
        either.poll()
        assert [len(each.systems) for each in pair] in ([1, 0], [0, 1])


class TestFaults:
    @pytest.mark.parametrize("error", [ValueError("so"), KeyboardInterrupt(), SystemExit(3)])
    def test_an_exception_of_a_read_is_logged_and_disconnects(
        self, either: Reactor, events: list[LogEvent], error: BaseException
    ) -> None:
        """The line says which protocol it was, and others are read."""
        broken = either.add(raising(error))
        fine = either.add()
        either.poll()
        assert failures(events) == [("Prefix", type(error))]
        ((method, reason),) = broken.ends
        assert method == "connectionLost" and reason.value is error
        assert len(fine.systems) == 1
        either.poll()
        assert len(broken.systems) == 1

    @pytest.mark.parametrize(
        ("does", "before"), [(lambda: ConnectionLost("so"), []), (raising(ValueError("so")), [("Prefix", ValueError)])]
    )
    def test_an_exception_at_the_end_is_logged(
        self, either: Reactor, events: list[LogEvent], does: Callable[[], Any], before: list[object]
    ) -> None:
        """With the protocol's name as well, and others are read."""
        broken = either.add(does)
        broken.connectionLost = raising(ZeroDivisionError())  # type: ignore[method-assign]
        fine = either.add()
        either.poll()
        assert failures(events) == [*before, ("Prefix", ZeroDivisionError)]
        assert len(fine.systems) == 1

    def test_an_interrupt_elsewhere_leaves_the_reactor(self, either: Reactor) -> None:
        """Twisted keeps those of reads and writes alone."""
        broken = either.add(lambda: ConnectionLost("so"))
        broken.connectionLost = raising(KeyboardInterrupt())  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            either.poll()

    def test_a_descriptor_of_minus_one_is_disconnected_unread(self, either: Reactor) -> None:
        """Its socket has been closed without a word to the reactor."""
        gone = either.add()
        gone.fileno = lambda: -1  # type: ignore[method-assign]
        either.poll()
        ((method, reason),) = gone.ends
        assert (method, reason.type) == ("connectionLost", ConnectionFdescWentAway)
        assert gone.systems == []

    def test_an_exception_of_fileno_is_logged_and_disconnects(self, either: Reactor, events: list[LogEvent]) -> None:
        """It is handled as one of the read, which it prevents."""
        broken = either.add()
        number = broken.socket.fileno()
        answers = iter([ValueError("so")])

        def fileno() -> int:
            for error in answers:
                raise error
            return number

        broken.fileno = fileno  # type: ignore[method-assign]
        either.poll()
        assert failures(events) == [("Prefix", ValueError)]
        assert [reason.type for _, reason in broken.ends] == [ValueError]
        assert broken.systems == []


# --- How it is installed ---


def environment() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def output(*arguments: str, folder: Path) -> str:
    """The output of Python, which must succeed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=environment(),
        timeout=2 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def script(*lines: str, folder: Path) -> str:
    return output("-c", "\n".join(lines), folder=folder).strip()


PRINT_CLASS = "from twisted.internet import reactor; print(type(reactor).__module__, type(reactor).__name__)"


class TestEndOfTurn:
    def test_calls_come_when_all_events_that_came_together_are_handled(self, direct: Reactor) -> None:
        done: list[str] = []
        for name in "ab":
            direct.add(lambda name=name: done.append(name) or direct.reactor.atEndOfTurn(lambda: done.append("end")))  # type: ignore[misc]
        direct.poll()
        assert sorted(done[:2]) == ["a", "b"]
        assert done[2:] == ["end", "end"]

    def test_a_call_comes_at_once_outside_of_a_turn_and_at_its_end(self, direct: Reactor) -> None:
        done: list[str] = []
        direct.reactor.atEndOfTurn(lambda: done.append("now"))
        assert done == ["now"]
        atEnd = direct.reactor.atEndOfTurn
        direct.add(lambda: atEnd(lambda: atEnd(lambda: done.append("within"))))
        direct.poll()
        assert done == ["now", "within"]

    def test_what_a_call_raises_is_logged_and_harms_no_other(self, direct: Reactor, events: list[LogEvent]) -> None:
        done: list[str] = []
        for call in (raising(ValueError("x")), lambda: done.append("other")):
            direct.add(lambda call=call: direct.reactor.atEndOfTurn(call))  # type: ignore[misc]
        direct.poll()
        assert done == ["other"]
        assert [kind for _, kind in failures(events)] == [ValueError]

    def test_calls_do_not_wait_for_a_turn_within_the_turn(self, direct: Reactor) -> None:
        """Code of others may call C{iterate} in a read; what it waits for may be an answer to what is to be written."""
        done: list[str] = []

        def read() -> None:
            if not done:
                direct.reactor.atEndOfTurn(lambda: done.append("written"))
                direct.poll()
                assert done == ["written"]

        direct.add(read)
        direct.poll()
        assert done == ["written"]

    def test_a_turn_that_an_interrupt_leaves_ends_too(self, direct: Reactor) -> None:
        done: list[str] = []
        direct.add(lambda: direct.reactor.atEndOfTurn(lambda: done.append("end")))
        last = direct.add()
        last.startWriting()
        last.logPrefix = raising(KeyboardInterrupt())  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            direct.poll()
        before = len(done)
        direct.reactor.atEndOfTurn(lambda: done.append("now"))
        assert done[before:] == ["now"]


class TestInstall:
    def test_the_import_alone_installs_no_reactor(self, tmp_path: Path) -> None:
        """Neither does that of the package, which comes first."""
        said = script(
            "import sys, smtphooks.reactor", "print('twisted.internet.reactor' in sys.modules)", folder=tmp_path
        )
        assert said == "False"

    def test_it_becomes_the_reactor(self, tmp_path: Path) -> None:
        """These are the lines of the documentation."""
        lines = ["import smtphooks.reactor; smtphooks.reactor.install()"]
        assert f"``{lines[0]}``" in " ".join((ROOT / "docs" / "start.rst").read_text().split())
        assert script(*lines, PRINT_CLASS, folder=tmp_path) == "smtphooks.reactor DirectReactor"

    def test_a_second_reactor_is_refused_as_Twisted_does(self, tmp_path: Path) -> None:
        said = script(
            "import smtphooks.reactor, twisted.internet.reactor",
            "from twisted.internet.error import ReactorAlreadyInstalledError",
            "try: smtphooks.reactor.install()",
            "except ReactorAlreadyInstalledError: print('already')",
            folder=tmp_path,
        )
        assert said == "already"

    def test_without_epoll_it_is_twisteds_default(self, tmp_path: Path) -> None:
        said = script(
            "import select; del select.epoll",
            "import smtphooks.reactor; smtphooks.reactor.install()",
            PRINT_CLASS,
            folder=tmp_path,
        )
        assert said == "twisted.internet.pollreactor PollReactor"

    def test_twistd_lists_it(self, tmp_path: Path) -> None:
        assert re.search(
            r"^ +smtphooks\s", output(str(BIN / "twistd"), "--help-reactors", folder=tmp_path), re.MULTILINE
        )

    def test_a_message_is_served_under_twistd_with_it(self, tmp_path: Path) -> None:
        port = freePort()
        command = [BIN / "twistd", "-r", "smtphooks", "-n", "--pidfile=", "smtphooks", "--listen", tcp(port)]
        service = Program([*map(str, command)], environment(), tmp_path)
        try:
            service.waitForLine("reactor class: smtphooks.reactor.DirectReactor.")
            service.waitForLine("listening on")
            with Client(port) as client:
                client.envelope(b"user@mx.example")
                client.say(b"DATA", 354)
                client.socket.sendall(hidden(b"Subject: hello\r\n\r\nhello\r\n"))
                client.reply(250)
                client.say(b"QUIT", 221)
            assert service.terminate() == 0
        finally:
            service.kill()
        assert Maildir(tmp_path / "maildir").message().content == b"Subject: hello\n\nhello\n"


# --- Twisted's own tests ---


def passed(*arguments: str, folder: Path) -> int:
    """How many tests pass under trial; none may fail."""
    pytest.importorskip("hamcrest", reason="Twisted's tests use it")
    said = output("-m", "twisted.trial", *arguments, folder=folder)
    found = re.search(r"^PASSED \(.*successes=(\d+)\)$", said, re.MULTILINE)
    assert found, said
    return int(found[1])


class TestConformance:
    def test_it_passes_the_tests_of_reactors(self, tmp_path: Path) -> None:
        """Some skip themselves where there is no IPv6."""
        assert passed("tests.conformance", folder=tmp_path) > 200

    def test_networking_works_with_it_as_the_global_reactor(self, tmp_path: Path) -> None:
        """trial runs these in the reactor that it is told to install."""
        modules = [f"twisted.test.test_{name}" for name in ("internet", "tcp", "unix")]
        assert passed("--reactor=smtphooks", *modules, "twisted.protocols.test.test_tls", folder=tmp_path) > 100
