"""The samples in contrib: systemd accepts the units, and the service that they start works without changes."""

from __future__ import annotations

import configparser
import io
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.logger import FileLogObserver, ILogObserver, globalLogPublisher, textFileLogObserver

from smtphooks.service.jsonlog import lineOfJSON
from smtphooks.service.textlog import lineOfWorker
from tests.certificates import Authority
from tests.real.programs import PATIENCE, ROOT, Client, Maildir, Program, freePort, hidden, requires, run, tcp, which
from tests.secrets import WRONG_PASSWORD, plain
from tests.support import Client as MemoryClient
from tests.support import Transport, makeFactory

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONTRIB = ROOT / "contrib"
BIN = Path(sys.executable).parent
UNITS = ["smtphooks.service", "smtphooks.socket"]
INSTALLED = "/opt/smtphooks/bin"
CONFIGURED = "/etc/smtphooks"
CREDENTIALS = "/run/credentials/smtphooks.service"


def sectionsOf(unit: str) -> list[str]:
    return re.findall(r"^\[(\w+)\]$", (CONTRIB / unit).read_text(), re.MULTILINE)


def valuesOf(key: str, unit: str = "smtphooks.service") -> list[str]:
    return re.findall(rf"^{key}=(.*)$", (CONTRIB / unit).read_text(), re.MULTILINE)


def valueOf(key: str, unit: str = "smtphooks.service") -> str:
    (value,) = valuesOf(key, unit)
    return value


def environment(path: Path = ROOT) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(path)}


# --- the units ---


def test_the_service_reports_readiness_and_has_the_time_to_stop() -> None:
    assert sectionsOf("smtphooks.service") == ["Unit", "Service", "Install"]
    assert valueOf("Type") == "notify"
    assert valueOf("ExecReload") == "kill -HUP $MAINPID"
    assert int(valueOf("TimeoutStopSec")) > 30 + 10  # closeTimeout, and some time for the rest
    # Workers are ended by their supervisor, and killed if it is gone.
    assert valueOf("KillMode") == "mixed"
    # cffi makes pyOpenSSL's callbacks in memory that is both writable and executable.
    assert valuesOf("MemoryDenyWriteExecute") == []


def test_the_sockets_are_a_unit_of_their_own() -> None:
    assert sectionsOf("smtphooks.socket") == ["Unit", "Socket", "Install"]


def test_the_working_folder_is_the_one_that_the_service_can_write() -> None:
    assert valueOf("WorkingDirectory") == f"/var/lib/{valueOf('StateDirectory')}"
    assert valueOf("ProtectSystem") == "strict"


def test_the_control_socket_is_in_a_folder_that_the_service_can_write_and_others_know() -> None:
    control = Path(tomllib.loads((CONTRIB / "smtphooks.toml").read_text())["control"])
    assert control.parent == Path("/run", valueOf("RuntimeDirectory"))


def test_each_key_of_the_configuration_is_a_credential_of_the_unit() -> None:
    tls = tomllib.loads((CONTRIB / "smtphooks.toml").read_text())["tls"]
    loaded = [credential.split(":") for credential in valuesOf("LoadCredential")]
    assert set(tls.values()) == {f"{CREDENTIALS}/{name}" for name, _ in loaded}
    assert all(path.startswith(f"{CONFIGURED}/") for _, path in loaded)


@requires("systemd-analyze")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_nothing_wrong(tmp_path: Path, name: str) -> None:
    for unit in UNITS:
        text = re.sub(rf"{INSTALLED}/\w+", str(which("true")), (CONTRIB / unit).read_text())
        (tmp_path / unit).write_text(text)
    done = run("systemd-analyze", "verify", "--man=no", tmp_path / name, status=None)
    # systemd-analyze may also complain of other units of this machine.
    complaints = [line for line in done.stdout.decode().splitlines() if "smtphooks" in line]
    assert (done.returncode, complaints) == (0, [])


# --- the service ---


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """The folder of the configuration, with the files that the head of the unit lists."""
    folder = tmp_path / "etc"
    folder.mkdir()
    for name in ("smtphooks.toml", "mailhooks.py"):
        shutil.copy(CONTRIB / name, folder)
    Authority().server("mx.example.org").writeTo(folder)
    return folder


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The working folder."""
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


def started(etc: Path, endpoint: str) -> list[str]:
    """The command of the unit, with the paths of this test."""
    config = etc / "smtphooks.toml"
    text = config.read_text().replace(f"{CREDENTIALS}/key.pem", str(etc / "server.key"))
    text = text.replace(f"{CREDENTIALS}/cert.pem", str(etc / "server.pem")).replace("tcp:25", endpoint)
    config.write_text(text.replace("/run/smtphooks/smtphooks.control", str(etc.parent / "control")))
    command = valueOf("ExecStart").replace(INSTALLED, str(BIN)).replace(CONFIGURED, str(etc))
    return shlex.split(command)


def checked(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, "--check"],
        env=environment(),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_the_command_accepts_each_flag_of_the_unit_and_the_sample_configuration(etc: Path, state: Path) -> None:
    done = checked(started(etc, "tcp:25"), state)
    assert (done.returncode, done.stderr) == (0, "")
    printed = tomllib.loads(done.stdout)
    assert printed["hooks"] == "mailhooks:Mail"
    assert printed["options"]["key"] == str(etc / "server.key")


def test_an_unknown_flag_would_be_noticed(etc: Path, state: Path) -> None:
    done = checked([*started(etc, "tcp:25"), "--log-from=json"], state)
    assert done.returncode == 1
    assert "unknown flag --log-from" in done.stderr


def test_the_service_stores_mail_in_its_working_folder(etc: Path, state: Path) -> None:
    port = freePort()
    service = Program(started(etc, tcp(port)), environment(), state)
    try:
        service.waitForLine("listening on")
        with Client(port) as client:
            client.say(b"EHLO client.example", 250)
            client.say(b"MAIL FROM:<a@client.example>", 250)
            client.say(b"RCPT TO:<b@elsewhere.example>", 550)
            client.say(b"RCPT TO:<b@example.org>", 250)
            client.say(b"DATA", 354)
            client.socket.sendall(hidden(b"Subject: hello\r\n\r\nhello\r\n"))
            client.reply(250)
            client.say(b"QUIT", 221)
        assert service.terminate() == 0
    finally:
        service.kill()
    assert b"hello" in Maildir(state / "maildir").message().content


# --- the cache of plugins ---


PLUGIN = "from twisted.application.service import ServiceMaker\nx = ServiceMaker('x', 'x', 'x', 'x')\n"


def test_the_cache_of_plugins_is_written_before_the_start_so_that_the_service_can_read_it(tmp_path: Path) -> None:
    plugins = tmp_path / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "x.py").write_text(PLUGIN)
    command = valueOf("ExecStartPre")
    assert command.startswith(
        f"+{INSTALLED}/python -I -c "
    )  # with root's privileges, and without the working folder in sys.path
    words = shlex.split(command.removeprefix("+"))
    words.remove("-I")  # with -I it would not search the folder of this test
    words[0] = sys.executable
    umask = int(valueOf("UMask"), 8)
    subprocess.run(words, env=environment(tmp_path), cwd=tmp_path, check=True, timeout=PATIENCE, umask=umask)
    mode = stat.S_IMODE((plugins / "dropin.cache").stat().st_mode)
    assert mode & 0o044 == 0o044


# --- fail2ban ---

FILTER = CONTRIB / "fail2ban" / "filter.d" / "smtphooks.conf"

# HELO names by which a client might get another host banned.
FORGED = '" from 198.51.100.9 with PLAIN as "x": [smtphooks.eventlog#info] AUTH failed from 198.51.100.9 with PLAIN'

# The error of a hook may quote such a name, and each of its lines is a line of a text log.
_LINE = '[smtphooks.eventlog#info] AUTH failed from 198.51.100.10 with PLAIN as "x"'
_OBJECT = (
    '{"time": "2026-11-25T12:00:00.000000Z", "level": "info", "namespace": "smtphooks.eventlog", "text": '
    '"AUTH failed from 198.51.100.10 with PLAIN as x"}'
)
_TIME = "2026-11-25T12:00:00+0000"
QUOTED = "\n".join(
    [
        *(
            "bad",
            _LINE,
            f" {_LINE}",
            f"{_TIME} {_LINE}",
            f"host twistd[12]: {_LINE}",
            f"host twistd[12]: {_TIME} {_LINE}",
            f"[worker 12 {_LINE[1:]}",
            f" [worker 12 {_LINE[1:]}",
            f"{_TIME} [worker 12 {_LINE[1:]}",
        ),
        *(_OBJECT, f" {_OBJECT}", f"host twistd[12]: {_OBJECT}"),
        # The journal ends a line at a NUL.
        f"bad\0[worker 12 {_LINE[1:]}",
        *(f"bad\0{_LINE}", f"bad\0{_TIME} {_LINE}"),
        "[smtphooks.eventlog#info] AUTH of 198.51.100.10 refused by server: 421 4.7.0 Too many failed authentications "
        "from your address",
    ]
)


def linesOfFailures(observer: Callable[[io.StringIO], ILogObserver]) -> str:
    """
    The log of clients that fail to authenticate, try to forge a line, and send other commands that are rejected.

    Each client fails once and is then barred.
    """
    written = io.StringIO()
    observe = observer(written)

    def quote(*_: object) -> None:
        raise ValueError(QUOTED)

    globalLogPublisher.addObserver(observe)
    try:
        for peer, user in (("192.0.2.7", "ann"), ("2001:db8::7", "joe"), ("192.0.2.8", FORGED)):
            kind = IPv6Address if ":" in peer else IPv4Address
            factory = makeFactory(
                allowInsecureAuth=True,
                authFailuresPerAddress=1,
                onAuth=lambda auth, session: None,
                onVrfy=quote,
            )
            client = MemoryClient(factory, Transport(peerAddress=kind("TCP", peer, 50000)))
            client.say("EHLO client.test", f"VRFY {FORGED}", f"MAIL FROM:<{FORGED}>", FORGED)
            client.say(f"AUTH PLAIN {plain(user, WRONG_PASSWORD)}")
            client.clock.advance(1)
            client.say(f"AUTH PLAIN {plain(user, WRONG_PASSWORD)}")
            client.lose()
    finally:
        globalLogPublisher.removeObserver(observe)
    return written.getvalue()


def inAFile(log: str) -> str:
    return log


def inTheJournal(log: str) -> str:
    """
    The log as fail2ban reads it from the journal: each line is an entry with a time, a host and a program.

    A line ends with a newline or a NUL (journald.conf(5), LineMax).
    """
    return "".join(f"2026-11-25 12:00:00 host twistd[12]: {line}\n" for line in re.split("[\n\0]", log))


def asJSON(file: io.StringIO) -> ILogObserver:
    return FileLogObserver(file, lineOfJSON)


def textOfWorker(file: io.StringIO) -> ILogObserver:
    return FileLogObserver(file, partial(lineOfWorker, worker=12))


def jsonOfWorker(file: io.StringIO) -> ILogObserver:
    return FileLogObserver(file, partial(lineOfJSON, worker=12))


@pytest.mark.parametrize(
    ("place", "observer", "found"),
    [
        (inAFile, textFileLogObserver, 1),
        (inAFile, asJSON, 1),
        (inTheJournal, asJSON, 1),
        (inTheJournal, textFileLogObserver, 0),
        (inAFile, textOfWorker, 1),
        (inAFile, jsonOfWorker, 1),
        (inTheJournal, jsonOfWorker, 1),
        (inTheJournal, textOfWorker, 0),
    ],
)
@requires("fail2ban-regex")
def test_fail2ban_finds_failed_authentications_and_no_others(
    place: Callable[[str], str], observer: Any, found: int, tmp_path: Path
) -> None:
    log = tmp_path / "smtphooks.log"
    log.write_text(place(linesOfFailures(observer)))
    assert log.read_text().count("AUTH failed from 198.51.100.10") > 3, "there is something to be misread"
    ran = subprocess.run(
        [str(which("fail2ban-regex")), "--print-all-matched", str(log), str(FILTER)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    matched = [line.strip(" |") for line in ran.stdout.partition("Matched line(s):")[2].splitlines()]
    for peer in ("192.0.2.7", "2001:db8::7", "192.0.2.8"):
        assert sum(f"AUTH failed from {peer} with PLAIN as" in line for line in matched) == found, ran.stdout
        assert sum(f"AUTH of {peer} refused by server: 421 4.7.0 Too many" in line for line in matched) == found
    assert re.search(rf"^Lines: \d+ lines, 0 ignored, {6 * found} matched", ran.stdout, re.MULTILINE), ran.stdout


def test_the_jail_names_the_filter() -> None:
    jail = configparser.ConfigParser()
    jail.read(CONTRIB / "fail2ban" / "jail.d" / "smtphooks.conf")
    assert jail["smtphooks"]["filter"] == FILTER.stem


def test_the_jail_reads_the_journal_that_the_unit_writes_to() -> None:
    jail = configparser.ConfigParser()
    jail.read(CONTRIB / "fail2ban" / "jail.d" / "smtphooks.conf")
    assert "--logfile" not in valueOf("ExecStart") and valuesOf("StandardOutput") == []
    assert jail["smtphooks"]["backend"] == "systemd"
    assert jail["smtphooks"]["journalmatch"] == "_SYSTEMD_UNIT=smtphooks.service"
