"""
The deliveries of the matrix: for each store how the receiver is configured, what is at the other side, and what it has.

In: a place to run in.  Out: a receiver and another side that can be broken, and the messages that arrived.
Rule: an other side acknowledges what it has kept durably, and nothing else, as the store under test must.
This module knows no clients and no rounds.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from chaos import keeping
from chaos.load import Ports
from chaos.messages import recognize
from chaos.place import Place
from tests.real.programs import Program, freePort

Arrived = Iterator[tuple[list[str], bytes]]

_RECEIVER = """
[options]
authOptional = true
closeTimeout = 2
hideDSN = false

[[listener]]
endpoint = "tcp:{ports.smtp}:interface=127.0.0.1"

[[listener]]
endpoint = "tcp:{ports.lmtp}:interface=127.0.0.1"
lmtp = true

"""


_UPSTREAM = """
[options]
authOptional = true
closeTimeout = 2

[[listener]]
endpoint = "tcp:{port}:interface={there}"
lmtp = {lmtp}

[[layer]]
use = "smtphooks.stores:Maildir"
path = "{maildir}"
"""


class Delivery:
    """
    A receiver with a store, without another side unless a subclass has one.

    @cvar name: in the table, and after --delivery.
    @cvar parts: what of it can be broken: C{"receiver"}, C{"other"}, C{"network"}, C{"disk"}.
    @cvar settling: seconds until what the other side has accepted is where it is looked for.
    @ivar receiver: the process of smtphooks under test.
    """

    name: ClassVar[str]
    parts: ClassVar[frozenset[str]]
    settling: ClassVar[float] = 0
    receiver: Program

    def __init__(self, place: Place) -> None:
        self.place = place
        self.ports = Ports(freePort(), freePort())
        self._receivers: list[Program] = []
        self._taken = 0

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot run here; None if it can."""
        return None

    def store(self) -> str:
        """The keys of the layer, in TOML."""
        raise NotImplementedError

    def arrived(self) -> Arrived:
        """The recipients and octets of what has arrived, which is removed; lines end with CRLF."""
        raise NotImplementedError

    def start(self) -> None:
        self.startOther()
        self.startReceiver()

    def close(self) -> None:
        """Kill all of it."""
        self.receiver.kill()
        self.killOther()

    def startReceiver(self) -> None:
        configuration = _RECEIVER.format(ports=self.ports) + "[[layer]]\n" + self.store()
        self.receiver = self.place.serve("receiver", configuration)
        self._receivers.append(self.receiver)

    def takeOutput(self) -> str:
        """What all receivers have logged that was not taken yet."""
        output = "".join(receiver.output for receiver in self._receivers)
        start, self._taken = self._taken, len(output)
        return output[start:]

    def startOther(self) -> None:
        """Start the other side, and wait until it listens."""

    def killOther(self) -> None:
        """Send SIGKILL to the other side."""

    def stopOther(self) -> None:
        """Stop the other side as an operator does."""

    def signalOther(self, number: int) -> None:
        """Send a signal to the other side."""


class ToMaildir(Delivery):
    """The disk is the other side."""

    name = "Maildir"
    parts = frozenset({"receiver", "disk"})

    def store(self) -> str:
        return f'use = "smtphooks.stores:Maildir"\npath = "{self.place.kept}/maildir"\n'

    def arrived(self) -> Arrived:
        return maildirArrived(self.place.kept / "maildir")


class ToProcess(Delivery):
    """The other side is one process, which C{runOther} starts."""

    parts = frozenset({"receiver", "other", "network", "disk"})
    _other: Program | None = None

    def runOther(self) -> Program:
        raise NotImplementedError

    def startOther(self) -> None:
        self._other = self.runOther()

    @property
    def other(self) -> Program:
        assert self._other is not None, "the other side does not run"
        return self._other

    def killOther(self) -> None:
        self.other.kill()

    def stopOther(self) -> None:
        self.other.terminate()

    def signalOther(self, number: int) -> None:
        os.kill(self.other.pid, number)


class ToServer(ToProcess):
    """A second smtphooks, which stores in a Maildir; the connections to it are encrypted, as it offers that."""

    name = "Relay"
    lmtp = False
    tls = "opportunistic"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._port = freePort()
        self._maildir = place.kept / "maildir"

    @property
    def upstream(self) -> str:
        """Where it listens."""
        return f"{self.place.there}:{self._port}"

    def store(self) -> str:
        what = f'use = "smtphooks.stores:Relay"\nupstream = "{self.upstream}"\n'
        limits = "connectTimeout = 1\ntimeout = 2\ndataTimeout = 2\n"
        return what + f'lmtp = {str(self.lmtp).lower()}\ntls = "{self.tls}"\n' + limits

    def runOther(self) -> Program:
        configuration = _UPSTREAM.format(
            there=self.place.there, port=self._port, lmtp=str(self.lmtp).lower(), maildir=self._maildir
        )
        return self.place.serve("upstream", configuration, there=True)

    def arrived(self) -> Arrived:
        return maildirArrived(self._maildir)


class ToLMTPServer(ToServer):
    """The same over LMTP, and in the clear."""

    name = "Relay to LMTP"
    lmtp = True
    tls = "none"


class ToEndpoint(ToProcess):
    """An HTTP endpoint that keeps each message in a file, and has it while it comes from the client."""

    name = "Webhook"
    further = "connectTimeout = 1\ntimeout = 2\nbreakerPause = 0.5\n"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._port = freePort()
        self._folder = makeFolder(place.kept / "posted")

    def store(self) -> str:
        url = f"http://{self.place.there}:{self._port}/"
        return f'use = "smtphooks.stores:Webhook"\nurl = "{url}"\n' + self.further

    def runOther(self) -> Program:
        arguments = [self.place.there, str(self._port), self._folder]
        program = self.place.run(sys.executable, "-m", "chaos.endpoint", *arguments, there=True)
        program.waitForLine("ready")
        return program

    def arrived(self) -> Arrived:
        return keeping.takeAll(self._folder)


class ToSignedEndpoint(ToEndpoint):
    """The same with a secret: the message is received whole first."""

    name = "Webhook, signed"
    further = ToEndpoint.further + 'secret = "0123456789abcdef"\n'


class ToBoth(ToEndpoint):
    """A Maildir and then an endpoint.  What only one of them has did not arrive."""

    name = "Tee"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._maildir = place.kept / "maildir"
        self._stored: set[tuple[str, str]] = set()
        self._posted: set[tuple[str, str]] = set()

    def store(self) -> str:
        # The keys of a store, as a table in one line.
        b = ", ".join(super().store().splitlines())
        a = f'use = "smtphooks.stores:Maildir", path = "{self._maildir}"'
        return f'use = "smtphooks.stores:Tee"\na = {{{a}}}\nb = {{{b}}}\n'

    def arrived(self) -> Arrived:
        stored, posted = maildirArrived(self._maildir), super().arrived()
        for arrived, here, there in ((stored, self._stored, self._posted), (posted, self._posted, self._stored)):
            for recipients, octets in arrived:
                found = recognize(octets)
                copies = {(found.identity, recipient) for recipient in recipients}
                here |= copies
                if not found.isWhole or copies & there:
                    yield [recipient for _, recipient in copies & there], octets


class ToProgram(Delivery):
    """A program for each message; those that run are the other side."""

    name = "Command"
    parts = frozenset({"receiver", "other", "disk"})

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._folder = makeFolder(place.kept / "piped")

    def store(self) -> str:
        program = [sys.executable, "-S", str(Path(__file__).with_name("program.py")), self._folder]
        return f'use = "smtphooks.stores:Command"\nargv = {program}\ntimeout = 2\n'

    def arrived(self) -> Arrived:
        for recipients, octets in keeping.takeAll(self._folder):
            yield recipients, withCRLF(octets)

    def killOther(self) -> None:
        self.signalOther(signal.SIGKILL)

    def stopOther(self) -> None:
        self.signalOther(signal.SIGTERM)

    def signalOther(self, number: int) -> None:
        for pid in leaves(self.receiver.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def makeFolder(path: Path) -> str:
    path.mkdir()
    return str(path)


def withCRLF(octets: bytes) -> bytes:
    """Lines that a store ended with LF."""
    return octets.replace(b"\n", b"\r\n")


_DELIVERED_TO = re.compile(rb"^Delivered-To: (.*)$", re.MULTILINE)


def maildirArrived(maildir: Path) -> Arrived:
    """What is in C{new/} of a Maildir, or of several in a folder, each of the recipient that its name says."""
    for path in maildir.glob("**/new/*"):
        octets = path.read_bytes()
        header = octets.partition(b"\n\n")[0]
        recipients = [recipient.decode() for recipient in _DELIVERED_TO.findall(header)]
        yield recipients or [path.parent.parent.name], withCRLF(octets)
        path.unlink()


def leaves(pid: int) -> list[int]:
    """Of the processes that a process has started, and those that these have, the ones that have none."""
    children: list[int] = []
    # Each of them may end meanwhile.
    with suppress(FileNotFoundError, ProcessLookupError):
        for listed in Path(f"/proc/{pid}/task").glob("*/children"):
            children += map(int, listed.read_text().split())
    found = []
    for child in children:
        found += leaves(child) or [child]
    return found
