"""
A mail server in namespaces of its own: what all of them have in common.

The processes have their own table of processes, so that the death of its first one is the death of all, and their own
mounts, for programs that insist on paths and users which the machine does not have.  Nothing of it is left afterwards.

This module knows no program, and no protocol beyond the greeting.
"""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
import signal
import socket
import ssl
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TypeVar

import pytest
from typing_extensions import Self

from tests.certificates import Authority
from tests.real.programs import PATIENCE, ROOT, Program, eventually, run, which

HOST = "mx.example"
DOMAIN = "there.example"
USER = "ann"

# Who is refused, and how: the same local parts at every server that can.
NOBODY = f"nobody@{DOMAIN}"  # 5xx to RCPT
LATER = f"later@{DOMAIN}"  # 4xx to RCPT

# Everything in these tests is far smaller, except what is sent to be refused.
MAX_SIZE = 8_000_000

_NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]


class Stored(NamedTuple):
    """
    A message that a server has delivered into its Maildir.

    @ivar sender: the reverse path.
    @ivar recipients: those of this file; most servers write one file for each recipient.
    @ivar content: the message with CRLF line ends, behind the fields that the server has put in front.
    """

    sender: str
    recipients: tuple[str, ...]
    content: bytes


_SENDER = re.compile(rb"^Return-Path:\s*<(.*)>", re.IGNORECASE | re.MULTILINE)
_RECIPIENTS = re.compile(rb"^(?:Delivered-To|Envelope-To):\s*(.*(?:\n[ \t].*)*)", re.IGNORECASE | re.MULTILINE)


def _read(file: Path) -> Stored:
    content = file.read_bytes()
    header = content.partition(b"\n\n")[0]
    sender, recipients = _SENDER.search(header), _RECIPIENTS.search(header)
    assert sender, header
    # Dovecot names the recipient only where it is the only one, and in the path.
    names = recipients[1].decode() if recipients else file.parent.parent.name
    addresses = [address.strip(" \n\t<>") for address in names.split(",")]
    return Stored(sender[1].decode(), tuple(addresses), content.replace(b"\n", b"\r\n"))


def unpacked() -> Path | None:
    """The folder of C{.ci/unpack-mtas}: SMTPHOOKS_MTAS, or C{.mtas} in this folder or the next one above it."""
    given = os.environ.get("SMTPHOOKS_MTAS")
    # "make test-compiled" runs in a copy, in the folder .compiled of the clone.
    places = [Path(given)] if given else [ROOT / ".mtas", ROOT.parent / ".mtas"]
    return next((place for place in places if place.is_dir()), None)


def whyNot(*programs: str) -> str:
    """Why a server of these programs cannot run here, in a few words; empty if it can."""
    if os.geteuid() != 0:
        return "only root can make namespaces"
    if which("unshare") is None or run(*_NAMESPACES, "true", status=None).returncode != 0:
        return "no namespaces can be made here"
    folder = unpacked()
    for program in programs:
        if which(program) is None and not (folder and (folder / program).exists()):
            return f"{program} is not installed, or not unpacked by .ci/unpack-mtas"
    return ""


AnyServer = TypeVar("AnyServer", bound="Server")


class Server:
    """
    A mail server on ports of its own, with a folder of its own.  It listens once it is constructed.

    What it stores and where it listens outlives C{kill} and C{restart}, and is gone after C{stop}.

    @cvar programs: what must be installed, or unpacked by C{.ci/unpack-mtas}, where it is a path in that folder.
    @ivar port: the port of plain SMTP, or LMTP, which offers STARTTLS.
    @ivar tlsPort: the port of implicit TLS.
    @ivar path: its UNIX socket; None if it has none.
    @ivar ca: the path of the certificate of the authority that has signed the server's one.
    @ivar users: who may authenticate, with passwords.
    """

    programs: tuple[str, ...] = ()
    path: str | None = None

    # Further users of the system, with their numbers, that only these processes see.
    _accounts: Mapping[str, int] = {}
    # The user that stores messages.
    _storer = "nobody"

    def __init__(self, users: Mapping[str, str] | None = None) -> None:
        """
        @param users: passwords of those who may authenticate.
        """
        self.users = dict(users or {})
        self.folder = Path(tempfile.mkdtemp(prefix="real-"))
        # Servers give up their privileges, and their users must reach the folder; the path of a socket must be short.
        self.folder.chmod(0o755)
        self.port, self.tlsPort = _freePorts(2)
        authority = Authority()
        authority.issue(HOST, names=[HOST, "localhost", "127.0.0.1"]).writeTo(self.folder, "server")
        # Servers refuse a key that all may read.
        (self.folder / "server.key").chmod(0o600)
        self.ca = str(self.folder / "ca.pem")
        Path(self.ca).write_text(authority.pem)
        self._maildir = self.folder / "maildir"
        self._earlier = ""
        self._program: Program | None = None
        try:
            self._prepare()
            self.start()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # What each server says about itself.

    def _prepare(self) -> None:
        """Write its configuration, once."""
        raise NotImplementedError

    def _command(self) -> list[object]:
        """The command that runs it in the foreground."""
        raise NotImplementedError

    def _mounts(self) -> Iterable[list[object]]:
        """The commands that mount what only this server must see."""
        return ()

    def _hasQueue(self) -> bool:
        """It has acknowledged messages that it has not delivered."""
        return False

    def _logged(self) -> str:
        """What it has written to a log that is not its output."""
        return ""

    # Its life.

    def start(self) -> None:
        """Start it, and wait until it listens."""
        assert not self.isRunning
        lines = [*self._accountMounts(), *self._mounts(), self._command()]
        # The shell is the first process, which reaps the orphans of the namespace: not each server would.
        script = " && ".join(shlex.join(map(str, line)) for line in lines)
        root = unpacked() or self.folder
        libraries = [str(folder) for place in ("lib", "usr/lib") for folder in (root / place).glob("*-linux-gnu")]
        environment = {**os.environ, "LC_ALL": "C"}
        if libraries:
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
        environment["PATH"] = f"{environment.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        # The second command keeps the shell from becoming the first one's process.
        self._program = Program([*_NAMESPACES, "sh", "-c", f"{script}; exit $?"], environment, self.folder)
        eventually(self._isUp, f"the greetings of {type(self).__name__}")

    def _accountMounts(self) -> Iterable[list[object]]:
        if not self._accounts:
            return
        for name, line in (("passwd", "{0}:x:{1}:{1}::/nonexistent:/usr/sbin/nologin\n"), ("group", "{0}:x:{1}:\n")):
            own = self.folder / name
            added = "".join(line.format(user, number) for user, number in self._accounts.items())
            # In front, where they are found first if the machine has users of these names.
            own.write_text(added + Path("/etc", name).read_text())
            yield ["mount", "--bind", own, f"/etc/{name}"]

    @property
    def isRunning(self) -> bool:
        """Its first process has not ended."""
        return self._program is not None and self._program.isRunning

    def _isUp(self) -> bool:
        if not self.isRunning:
            raise AssertionError(f"{type(self).__name__} does not start:\n{self.log()}")
        return _greets(self.port) and (self.path is None or _greets(self.path))

    def kill(self) -> None:
        """Send SIGKILL to all of its processes, also paused ones."""
        if self._program is not None:
            # The first process of a namespace takes all others along; unshare waits until they have ended.
            for pid in _children(self._program.pid):
                _send(signal.SIGKILL, pid)
            self._program.wait()
            self._earlier += self._program.output
            self._program = None

    def terminate(self) -> None:
        """Ask the server to end as an operator does, and wait until it has."""
        assert self._program is not None
        for shell in _children(self._program.pid):
            for server in _children(shell):
                _send(signal.SIGTERM, server)
        self._program.wait()
        self.kill()

    def stop(self) -> None:
        """Stop it, and remove all that it has written."""
        self.kill()
        shutil.rmtree(self.folder)

    def restart(self) -> None:
        """Stop it if it still runs, and start it on the same ports, with the messages and the queue that it has."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Send SIGSTOP to all of its processes: connections are accepted by the system, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT to all of its processes."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._program is not None
        done: set[int] = set()
        # Again, until no process is left that was born meanwhile.
        while new := _descendants(self._program.pid) - done:
            for pid in new:
                _send(number, pid)
            done |= new

    # What it has done.

    def messages(self) -> list[Stored]:
        """The messages that it has delivered, in the order of their arrival."""
        files = sorted(self._maildir.rglob("new/*"), key=lambda file: file.stat().st_mtime_ns)
        return [_read(file) for file in files]

    def waitFor(self, count: int = 1) -> list[Stored]:
        """The messages, once there are this many."""
        eventually(lambda: len(list(self._maildir.rglob("new/*"))) >= count, f"{count} messages")
        return self.messages()

    def waitUntilIdle(self) -> None:
        """Wait until it has delivered all that it has acknowledged."""
        eventually(lambda: not self._hasQueue(), f"an empty queue of {type(self).__name__}")

    def clear(self) -> None:
        """Forget the messages so far."""
        for file in self._maildir.rglob("new/*"):
            file.unlink()

    def log(self) -> str:
        """What it has logged since it was constructed, over all restarts."""
        output = "" if self._program is None else self._program.output
        return self._earlier + output + self._logged()

    def waitForLine(self, *parts: str) -> str:
        """The first line of the log that has all of these parts, once there is one."""
        found: list[str] = []

        def search() -> list[str]:
            found[:] = [line for line in self.log().splitlines() if all(part in line for part in parts)]
            return found

        eventually(search, f"a line of the log with {parts}")
        return found[0]

    def _ownMaildir(self) -> None:
        """Make the Maildir, for the user that stores."""
        for name in ("", "tmp", "new", "cur"):
            folder = self._maildir / name
            folder.mkdir()
            self._own(folder)

    def _own(self, path: Path) -> None:
        shutil.chown(path, self._accounts.get(self._storer, self._storer))


def needsTLS(server: Server) -> None:
    """Skip a test if no handshake succeeds: OpenSMTPD of Debian 12 fails with OpenSSL 3 (its issue 1171)."""
    context = ssl.create_default_context(cafile=server.ca)
    try:
        with socket.create_connection(("127.0.0.1", server.tlsPort), PATIENCE) as plain:
            context.wrap_socket(plain, server_hostname=HOST).close()
    except (ssl.SSLError, ConnectionError) as error:
        pytest.skip(f"{type(server).__name__} cannot do TLS with this OpenSSL: {error}")


def running(server: AnyServer) -> AnyServer:
    """A server that an earlier test may have paused or killed: as new, except for its log."""
    if server.isRunning:
        server.resume()
    else:
        server.start()
    server.waitUntilIdle()
    server.clear()
    return server


def skipUnlessPossible(kind: type[Server]) -> None:
    """Skip a test if this server cannot run here."""
    reason = whyNot(*kind.programs)
    if reason:
        pytest.skip(f"{kind.__name__}: {reason}")


def _freePorts(count: int) -> list[int]:
    """Ports that the system does not give to clients, so that a restart finds them still free."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = random.sample(range(first * 2 // 3, first), 100)
    return [port for port in ports if not _accepts(port)][:count]


def _greets(place: int | str) -> bool:
    """A server at this port, or path of a socket, has something to say."""
    kind = socket.AF_INET if isinstance(place, int) else socket.AF_UNIX
    with socket.socket(kind) as probe:
        probe.settimeout(PATIENCE)
        try:
            probe.connect(("127.0.0.1", place) if isinstance(place, int) else place)
            greeting = probe.recv(3) == b"220"
            probe.sendall(b"QUIT\r\n")
            return greeting
        except OSError:
            return False


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _send(number: signal.Signals, pid: int) -> None:
    # It may have ended by itself.
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def modeOf(file: Path) -> int:
    """The mode of a file, 0 if it is gone by now."""
    try:
        return file.stat().st_mode
    except FileNotFoundError:
        return 0


def _children(pid: int) -> set[int]:
    children: set[int] = set()
    # A process and its threads may end at any time.
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            children.update(map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split()))
    return children


def _descendants(pid: int) -> set[int]:
    children = _children(pid)
    return children.union(*map(_descendants, children))
