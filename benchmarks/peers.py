"""
The servers that are compared: how each is installed, its version, and the command that starts it.

This module knows no load and no figures.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[1]
SERVERS = Path(__file__).parent / "servers"
BUILT = ROOT / ".bench"
_NODE = BUILT / "node"
_GO = BUILT / "go-smtp"
# Where Debian's packages put the sources of Go libraries.
_GO_SOURCES = Path("/usr/share/gocode")
_GO_LIBRARIES = ("src/github.com/emersion/go-smtp", "src/github.com/emersion/go-sasl")


@dataclass(frozen=True)
class Peer:
    """
    One server in one variant.

    @ivar program: the command, to which port, mode and folder are appended.
    @ivar version: the installed version, None if it is not installed.
    @ivar hint: how to install it.
    @ivar variant: the last argument of the command, if any.
    @ivar lmtp: whether it supports LMTP.
    @ivar idle: connections that are held open while it is measured.
    @ivar cores: the number of cores that a service can use; it may run on all of them, and without it on that of the
        servers.
    """

    name: str
    program: tuple[str, ...]
    version: Callable[[], str | None]
    hint: str = ""
    variant: str = ""
    lmtp: bool = True
    idle: int = 0
    cores: int = 0

    def command(self, port: int, mode: str, folder: Path) -> list[str]:
        return [*self.program, str(port), mode, str(folder), *[self.variant] * bool(self.variant)]


@dataclass(frozen=True)
class Sink(Peer):
    """Postfix's smtp-sink, which has a command line of its own."""

    def command(self, port: int, mode: str, folder: Path) -> list[str]:
        # It does not run as root without -u, and its default limit is 256 connections.
        user = ["-u", "root"] * (os.getuid() == 0)
        return [*self.program, *user, "-m", "20000", *["-L"] * (mode == "lmtp"), f"127.0.0.1:{port}", "4096"]


def _module(name: str) -> tuple[str, ...]:
    return sys.executable, "-m", f"benchmarks.servers.{name}"


def _packaged(*names: str) -> str | None:
    try:
        return ", ".join(f"{name} {version(name)}" for name in names)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _smtpServer() -> str | None:
    package = _NODE / "node_modules" / "smtp-server" / "package.json"
    if not package.exists() or not shutil.which("node"):
        return None
    return f"smtp-server {json.loads(package.read_text())['version']}, Node {_output('node', '--version')[1:]}"


def _goSmtp() -> str | None:
    if not _GO.exists() or not shutil.which("dpkg-query"):
        return None
    package = _output("dpkg-query", "-W", "-f${Version}", "golang-github-emersion-go-smtp-dev")
    return f"go-smtp {package}, Go {_output('go', 'env', 'GOVERSION')[2:]}"


def _smtpSink() -> str | None:
    if not shutil.which("smtp-sink") or not shutil.which("postconf"):
        return None
    return f"Postfix {_output('postconf', '-dh', 'mail_version')}"


_smtphooks = partial(
    Peer,
    program=_module("smtphooks_server"),
    version=partial(_packaged, "smtphooks", "twisted"),
    hint="pip install --editable .",
)

# As the peers have callbacks: with a hook that accepts a recipient and one that reads the message.  On its own reactor.
SMTPHOOKS = _smtphooks("smtphooks")
NO_HOOKS = _smtphooks("smtphooks, no hooks", variant="none")
ALL_HOOKS = _smtphooks("smtphooks, all hooks", variant="all")
# With the two hooks, on other reactors.
TWISTED_REACTOR = _smtphooks("smtphooks, Twisted's reactor", variant="twisted")
ASYNCIO = _smtphooks("smtphooks, asyncio reactor", variant="asyncio")
UVLOOP = _smtphooks(
    "smtphooks, uvloop reactor",
    variant="uvloop",
    version=partial(_packaged, "smtphooks", "twisted", "uvloop"),
    hint="pip install uvloop",
)
# By the number of layers that are asked for each recipient.
LAYERS = {
    number: _smtphooks(name, variant=str(number))
    for number, name in ((0, "no hook"), (1, "one layer"), (6, "six layers"))
}
MAILDIR = _smtphooks("smtphooks, Maildir with sync", variant="maildir")
FEW_IDLE = _smtphooks("10 idle", idle=10)
MANY_IDLE = _smtphooks("10,000 idle", idle=10_000)
# The service as it is run, with the two hooks.
SERVICE = _smtphooks("smtphooks service, text log", program=_module("smtphooks_service"), variant="text")
SERVICE_JSON = _smtphooks("smtphooks service, JSON log", program=_module("smtphooks_service"), variant="json")


def workersIn(variant: str) -> dict[int, Peer]:
    """
    The service by its number of workers, on all cores; 0 is that of one process and no supervisor.

    The numbers are 0, 1, 2 and the further powers of two up to the number of cores.

    @param variant: C{hashing}, whose hook costs much more than anything else, or C{maildir}.
    """
    powers = [1 << exponent for exponent in range(1, max((os.cpu_count() or 1).bit_length(), 2))]
    names = {0: "one process", 1: "1 worker", **{number: f"{number} workers" for number in powers}}
    return {
        number: _smtphooks(
            f"smtphooks, {name}",
            program=_module("smtphooks_workers"),
            variant=f"{variant}-{number}",
            cores=max(number, 1),
        )
        for number, name in names.items()
    }


HASHING = workersIn("hashing")
STORING = workersIn("maildir")

AIOSMTPD = Peer("aiosmtpd", _module("aiosmtpd_server"), partial(_packaged, "aiosmtpd"), "pip install aiosmtpd==1.4.6")
MAILBOX = Peer(
    "aiosmtpd, Maildir without sync",
    AIOSMTPD.program,
    AIOSMTPD.version,
    AIOSMTPD.hint,
    variant="mailbox",
)
TWISTED_MAIL = Peer(
    "twisted.mail", _module("twisted_mail"), partial(_packaged, "twisted"), "pip install twisted[tls]", lmtp=False
)
SMTP_SERVER = Peer("smtp-server", ("node", str(SERVERS / "smtp_server.js")), _smtpServer, "apt install nodejs npm")
GO_SMTP = Peer("go-smtp", (str(_GO),), _goSmtp, "apt install golang-go golang-github-emersion-go-{smtp,sasl}-dev")
# The cost of the transport alone: fixed replies.
CANNED = Peer("canned replies", _module("canned"), partial(_packaged, "twisted"), "pip install twisted")
SMTP_SINK = Sink("smtp-sink", ("smtp-sink",), _smtpSink, "apt install postfix")

PEERS = (AIOSMTPD, TWISTED_MAIL, SMTP_SERVER, GO_SMTP, SMTP_SINK)


def environment() -> dict[str, str]:
    """The environment of a server's process; smtphooks' service finds its hooks by it."""
    return {**os.environ, "NODE_PATH": str(_NODE / "node_modules"), "PYTHONPATH": str(ROOT)}


def build() -> None:
    """Install or compile the peers in JavaScript and Go, if the tools for that are installed."""
    BUILT.mkdir(exist_ok=True)
    wanted = json.loads((SERVERS / "package.json").read_text())["dependencies"]["smtp-server"]
    if shutil.which("npm") and f"smtp-server {wanted}," not in (_smtpServer() or ""):
        _NODE.mkdir(exist_ok=True)
        shutil.copy(SERVERS / "package.json", _NODE)
        _run(["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"], cwd=_NODE)
    if shutil.which("go") and all((_GO_SOURCES / library).exists() for library in _GO_LIBRARIES):
        settings = {"GO111MODULE": "off", "GOPATH": str(_GO_SOURCES), "GOCACHE": str(BUILT / "go-cache")}
        _run(["go", "build", "-o", str(_GO), str(SERVERS / "go_smtp.go")], env={**os.environ, **settings})


def _run(command: list[str], **options: object) -> None:
    done = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        print(f"{' '.join(command[:2])} failed, so this peer is missing:\n{done.stderr}", file=sys.stderr)
