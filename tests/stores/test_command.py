"""The store that runs a program, with real programs and the reactor's own processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock, deferLater
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure

from smtphooks import MessageStream, OptionError, Session, SMTPError, Unavailable
from smtphooks.session import Address, Envelope
from smtphooks.stores import Command
from smtphooks.stores.commandprocess import CommandProcess
from tests.conftest import Logged
from tests.support import ENVELOPE, Client, connect

pytestmark = pytest.mark.usefixtures("logged")

TEXT = b"Subject: hello\r\n\r\nHello.\r\n"
LARGE = b"x" * 65534 + b"\r\n"


def streamOf(*chunks: bytes, isWhole: bool = True, size: int = 0) -> MessageStream:
    stream = MessageStream(size=size)
    for chunk in chunks:
        stream.append(chunk)
    if isWhole:
        stream.append(b"", isLast=True)
    return stream


def sessionWith(*recipients: str, sender: str = "ann@client.test", lmtp: bool = False, **args: str | bool) -> Session:
    addresses = [Address(each, *each.rpartition("@")[::2]) for each in recipients or ("bob@mx.test",)]
    return Session(
        localName="mx.test",
        lmtp=lmtp,
        id="S",
        openingCommand="LHLO" if lmtp else "EHLO",
        hostNameAppearsAs="client.test",
        remoteAddress="192.0.2.7",
        remotePort=50000,
        clientHostname="host.client.test",
        envelope=Envelope(Address(sender, args=args), addresses),
    )


def shell(script: str, **options: Any) -> Command:
    return Command(["/bin/sh", "-c", script], **options)


async def deliver(command: Command, *chunks: bytes, session: Session | None = None) -> Any:
    return await command.onData(streamOf(*chunks or (TEXT,)), session or sessionWith())


async def until(isSo: Callable[[], bool]) -> None:
    while not isSo():
        await deferLater(reactor, 0.01)  # type: ignore[arg-type]


def isAlive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# --- The message ---


@ensureDeferred
async def test_the_program_gets_the_message_behind_a_Received_field(tmp_path: Path) -> None:
    assert await deliver(shell(f"cat > {tmp_path}/got")) is None
    received, _, rest = (tmp_path / "got").read_bytes().partition(b"Subject")
    assert received.startswith(b"Received: from client.test (host.client.test [192.0.2.7])\n\tby mx.test with ESMTP id")
    assert b"\r" not in received and b"for <bob@mx.test>" in received
    assert rest == b": hello\n\nHello.\n"


@ensureDeferred
async def test_line_ends_are_LF_wherever_the_message_is_cut_and_those_of_a_binary_one_stay(tmp_path: Path) -> None:
    command = shell(f"cat > {tmp_path}/got")
    stream = streamOf(isWhole=False)
    ended = Deferred.fromCoroutine(command.onData(stream, sessionWith()))
    for chunk in (b"A: b\r", b"\n\r", b"\nc\r"):
        stream.append(chunk)
        await until(lambda: not stream.buffered)
    stream.append(b"", isLast=True)
    await ended
    assert (tmp_path / "got").read_bytes().endswith(b"A: b\n\nc\r")
    await deliver(command, TEXT, session=sessionWith(BODY="BINARYMIME"))
    assert (tmp_path / "got").read_bytes().endswith(TEXT)


@ensureDeferred
async def test_a_large_message_is_read_from_the_client_only_as_fast_as_the_program_takes_it(tmp_path: Path) -> None:
    command = shell(f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; cat | wc -c > {tmp_path}/got")
    stream = streamOf(isWhole=False)
    ended = Deferred.fromCoroutine(command.onData(stream, sessionWith()))
    octets = 0
    # Two pipes, a block in the guard, and what is being written.
    while octets < 6 * 65536:
        stream.append(LARGE)
        octets += len(LARGE)
        await deferLater(reactor, 0.02)  # type: ignore[arg-type]
    assert stream.buffered >= 65536
    (tmp_path / "go").touch()
    await until(lambda: not stream.buffered)
    stream.append(b"", isLast=True)
    await ended
    assert int((tmp_path / "got").read_text()) > octets - 12  # CRLF became LF, and there is a Received field


# --- How it ends ---


@pytest.mark.parametrize(
    "status, code, enhanced, text",
    [
        (64, 550, "5.3.0", "Command line usage error"),
        (65, 554, "5.6.0", "Data format error"),
        (67, 550, "5.1.1", "User unknown"),
        (69, 554, "5.3.0", "Service unavailable"),
        (70, 451, "4.3.0", "Internal software error"),
        (73, 550, "5.2.0", "Cannot create output file"),
        (75, 451, "4.3.0", "Temporary failure"),
        (77, 550, "5.7.0", "Permission denied"),
        (78, 554, "5.3.5", "Local configuration error"),
    ],
)
@ensureDeferred
async def test_a_status_of_sysexits_is_a_refusal(status: int, code: int, enhanced: str, text: str) -> None:
    with pytest.raises(SMTPError, match=text) as caught:
        await deliver(shell(f"cat >/dev/null; exit {status}"))
    assert (caught.value.responseCode, caught.value.enhancedCode) == (code, enhanced)


@pytest.mark.parametrize(
    "script, said",
    [
        ("exit 1", "/bin/sh exited with 1"),
        ("echo secret; exit 2", "/bin/sh exited with 2: secret"),
        ("kill -9 $$", "/bin/sh was ended by signal 9"),
        ("exec /no/such/program", "/bin/sh exited with 127"),
        ("exit 0", "/bin/sh exited with 0 before it had read the whole message"),
        ("read line; exit 0", "/bin/sh exited with 0 before it had read the whole message"),
    ],
)
@ensureDeferred
async def test_any_other_end_is_a_fault_whose_text_no_client_sees(script: str, said: str) -> None:
    with pytest.raises(Unavailable) as caught:
        await deliver(shell(script.replace("$", "$$"), environment={}), LARGE, LARGE, LARGE)
    assert str(caught.value).startswith(said)
    with pytest.raises(Unavailable) as caught:
        await deliver(shell(script.replace("$", "$$")))
    assert str(caught.value).startswith(said)


@ensureDeferred
async def test_a_program_that_reads_all_before_it_ends_counts_by_its_status_alone() -> None:
    assert await deliver(shell("head -1 >/dev/null; cat >/dev/null"), LARGE, LARGE, LARGE) is None
    with pytest.raises(SMTPError, match="User unknown"):
        await deliver(shell("exit 67"), LARGE, LARGE, LARGE)


@pytest.mark.parametrize(
    "script, reply",
    [
        ("echo; echo 'No such mailbox'; echo more; exit 67", (550, "5.1.1", "No such mailbox")),
        ("echo 'on stderr' >&2; exit 67", (550, "5.1.1", "on stderr")),
        ("echo 'on stderr, for the log' >&2; exit 75", (451, "4.3.0", "Temporary failure")),
        ("echo 'on stderr' >&2; echo out; exit 75", (451, "4.3.0", "out")),
        ("echo '5.2.2 Mailbox full'; exit 67", (550, "5.2.2", "Mailbox full")),
        ("echo '4.2.2 Mailbox full'; exit 67", (550, "5.1.1", "4.2.2 Mailbox full")),
        (r"printf 'a\tb\007c'; exit 67", (550, "5.1.1", "a b c")),
        ("yes | tr -d '\\n' | head -c 3000000; exit 67", (550, "5.1.1", "y" * 200)),
    ],
)
@ensureDeferred
async def test_the_first_line_that_it_writes_is_the_text_of_the_refusal(
    script: str, reply: tuple[int, str, str]
) -> None:
    with pytest.raises(SMTPError) as caught:
        await deliver(shell("cat >/dev/null;" + script))
    error = caught.value
    assert (error.responseCode, error.enhancedCode, str(error)) == reply


@ensureDeferred
async def test_what_leaves_children_with_the_pipes_holds_nothing_up(tmp_path: Path) -> None:
    assert await deliver(shell(f"cat >/dev/null; sleep 1000 & echo $$! > {tmp_path}/pid")) is None
    pid = int((tmp_path / "pid").read_text())
    assert isAlive(pid)
    os.kill(pid, signal.SIGKILL)


@ensureDeferred
async def test_a_daemon_that_would_read_on_is_not_trusted(tmp_path: Path) -> None:
    """Its parent says 0 before anybody has the message, and it may see no end of it."""
    script = f"import os, sys\nif os.fork(): os._exit(0)\nsys.stdin.buffer.read(); open({str(tmp_path / 'got')!r}, 'w')"
    command = Command([sys.executable, "-c", script])
    stream = streamOf(LARGE, isWhole=False)
    ended = Deferred.fromCoroutine(command.onData(stream, sessionWith()))
    while not ended.called:
        stream.append(LARGE)
        await deferLater(reactor, 0.01)  # type: ignore[arg-type]
    with pytest.raises(Unavailable, match="before it had read the whole message"):
        await ended
    assert not (tmp_path / "got").exists()


def test_of_what_a_program_writes_only_the_beginning_is_kept() -> None:
    process = CommandProcess("x", Clock())
    for _ in range(1000):
        process.childDataReceived(1, b"y" * 1000)
    assert process._received[1] == b"y" * 4096


# --- A message that is not whole ---

# What traps a signal goes on after it, and so would take what it has for the whole.
KEEPER = "trap : TERM; echo $$$$ > {0}/pid; cat > {0}/tmp; mv {0}/tmp {0}/whole"


@pytest.mark.parametrize("how", ["lost", "large", "cancelled", "closed"])
@ensureDeferred
async def test_a_part_of_a_message_is_never_taken_for_the_whole(how: str, tmp_path: Path) -> None:
    stream = streamOf(TEXT, isWhole=False, size=100 if how == "large" else 0)
    command = shell(KEEPER.format(tmp_path))
    coroutine = command.onData(stream, sessionWith())
    ended = Deferred.fromCoroutine(coroutine)
    await until(lambda: (tmp_path / "tmp").exists() and (tmp_path / "tmp").stat().st_size > 0)
    if how == "lost":
        stream.fail(Failure(ConnectionLost()))
    elif how == "large":
        stream.append(LARGE)
    elif how == "cancelled":
        ended.cancel()
    else:
        coroutine.close()
    if how != "closed":
        with pytest.raises((ConnectionLost, SMTPError, CancelledError)):
            await ended
    pid = int((tmp_path / "pid").read_text())
    await until(lambda: not isAlive(pid))
    assert not (tmp_path / "whole").exists()
    await until(lambda: not command._processes)


@ensureDeferred
async def test_a_server_that_is_killed_leaves_no_part_that_looks_whole(tmp_path: Path) -> None:
    program = tmp_path / "server.py"
    program.write_text(
        "import sys\n"
        "from twisted.internet import reactor\n"
        "from twisted.internet.defer import Deferred\n"
        "from tests.stores.test_command import KEEPER, TEXT, sessionWith, shell, streamOf\n"
        "from pathlib import Path\n"
        "command = shell(KEEPER.format(sys.argv[1]))\n"
        "Deferred.fromCoroutine(command.onData(streamOf(TEXT, isWhole=False), sessionWith()))\n"
        "reactor.run()\n"
    )
    root = str(Path(__file__).parents[2])
    pid = os.spawnve(
        os.P_NOWAIT, sys.executable, [sys.executable, str(program), str(tmp_path)], {**os.environ, "PYTHONPATH": root}
    )
    await until(lambda: (tmp_path / "tmp").exists() and (tmp_path / "tmp").stat().st_size > 0)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    child = int((tmp_path / "pid").read_text())
    await until(lambda: not isAlive(child))
    assert not (tmp_path / "whole").exists()


# --- Limits ---


@ensureDeferred
async def test_a_program_that_takes_too_long_is_ended_with_all_its_group(tmp_path: Path) -> None:
    clock = Clock()
    command = shell(f"cat >/dev/null; sleep 1000 & echo $$! > {tmp_path}/pid; wait", timeout=30)
    command.clock = clock
    ended = Deferred.fromCoroutine(command.onData(streamOf(TEXT), sessionWith()))
    await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    clock.advance(31)
    with pytest.raises(Unavailable, match="/bin/sh did not end in time, and was killed"):
        await ended
    pid = int((tmp_path / "pid").read_text())
    await until(lambda: not isAlive(pid))
    await until(lambda: not command._processes)
    assert clock.getDelayedCalls() == []


@ensureDeferred
async def test_one_that_ignores_SIGTERM_is_killed(tmp_path: Path) -> None:
    clock = Clock()
    command = shell(f"trap '' TERM; cat >/dev/null; echo $$$$ > {tmp_path}/pid; sleep 1000", timeout=30, concurrency=1)
    command.clock = clock
    ended = Deferred.fromCoroutine(command.onData(streamOf(TEXT), sessionWith()))
    await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    clock.advance(31)
    with pytest.raises(Unavailable):
        await ended
    pid = int((tmp_path / "pid").read_text())
    waiting = Deferred.fromCoroutine(command.onData(streamOf(TEXT), sessionWith()))
    assert isAlive(pid) and len(command._processes) == 1  # it keeps its place
    clock.advance(5)
    await until(lambda: not isAlive(pid))
    await until(lambda: len(command._processes) == 1)
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting
    await command.onStop(None)
    assert not command._processes


@ensureDeferred
async def test_one_that_does_not_read_is_killed_but_not_for_the_time_in_which_the_client_is_waited_for() -> None:
    clock = Clock()
    command = shell("exec sleep 1000", timeout=30)
    command.clock = clock
    stream = streamOf(LARGE, isWhole=False)
    ended = Deferred.fromCoroutine(command.onData(stream, sessionWith()))
    (process,) = command._processes
    await until(lambda: process._isDrained)
    clock.advance(100)
    assert not ended.called
    while stream.buffered < 65536:
        stream.append(LARGE)
        await deferLater(reactor, 0.02)  # type: ignore[arg-type]
    clock.advance(31)
    with pytest.raises(Unavailable, match="did not read the message in time"):
        await ended


@ensureDeferred
async def test_so_many_run_at_the_same_time_and_others_wait_for_some_time(tmp_path: Path) -> None:
    clock = Clock()
    command = shell(
        f"cat >/dev/null; touch {tmp_path}/$$SENDER; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done",
        concurrency=2,
        waitTimeout=10,
    )
    command.clock = clock
    ended = [Deferred.fromCoroutine(command.onData(streamOf(TEXT), sessionWith(sender=sender))) for sender in "abc"]
    await until(lambda: len(os.listdir(tmp_path)) == 2)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    clock.advance(11)
    with pytest.raises(Unavailable, match="/bin/sh runs 2 times, and none has ended in time"):
        await ended.pop()
    ended.append(Deferred.fromCoroutine(command.onData(streamOf(TEXT), sessionWith(sender="d"))))
    (tmp_path / "go").touch()
    for each in ended:
        assert await each is None
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "d", "go"]
    assert clock.getDelayedCalls() == []


@ensureDeferred
async def test_nothing_is_left_when_the_service_has_stopped(tmp_path: Path) -> None:
    command = shell(f"trap '' TERM; cat >/dev/null; echo $$$$ > {tmp_path}/pid; sleep 1000")
    ended = Deferred.fromCoroutine(command.onData(streamOf(TEXT), sessionWith()))
    await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    await command.onStop(None)
    with pytest.raises(Unavailable, match="ended, and nobody knows how"):
        await ended
    pid = int((tmp_path / "pid").read_text())
    await until(lambda: not isAlive(pid))
    assert not command._processes


# --- Arguments and environment ---

SHOW = (
    "import json, os, sys; sys.stdin.buffer.read(); "
    "json.dump([sys.argv[1:], dict(os.environ), os.getcwd()], open(sys.argv[1], 'w'))"
)


async def shown(path: Path, *argv: str, session: Session | None = None, **options: Any) -> Any:
    command = Command([sys.executable, "-c", SHOW, str(path), *argv], **options)
    await deliver(command, session=session)
    return json.loads(path.read_text())


@ensureDeferred
async def test_values_stand_in_arguments(tmp_path: Path) -> None:
    argv, _, folder = await shown(
        tmp_path / "got",
        "-f${sender}",
        "${recipient}",
        "${mailbox}+x@${domain}",
        "$${sender} $HOME",
        "${client_address}:${client_port} ${client_helo} ${client_hostname} ${client_protocol}",
        "[${sasl_username}]",
        "${queue_id}",
        session=sessionWith(sender="a b'$(x)`@client.test"),
    )
    assert argv[1:] == [
        "-fa b'$(x)`@client.test",
        "bob@mx.test",
        "bob+x@mx.test",
        "${sender} $HOME",
        "192.0.2.7:50000 client.test host.client.test ESMTP",
        "[]",
        "S.1",
    ]
    assert folder == "/"


@ensureDeferred
async def test_the_environment_is_the_envelope_and_nothing_of_the_servers_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_SECRET", "x")
    monkeypatch.setenv("TZ", "UTC")
    session = sessionWith("bob@mx.test", "zoé@mx.test")
    _, variables, folder = await shown(
        tmp_path / "got", session=session, environment={"EXTRA": "1"}, directory=str(tmp_path)
    )
    message = json.loads(variables.pop("SMTPHOOKS_MESSAGE"))
    assert message["envelope"]["rcptTo"] == ["bob@mx.test", "zoé@mx.test"]
    assert message["session"]["remoteAddress"] == "192.0.2.7"
    assert variables == {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "EXTRA": "1",
        "SENDER": "ann@client.test",
        "RECIPIENT": "",
        "RECIPIENTS": "bob@mx.test\nzoé@mx.test",
        "LOCAL": "",
        "DOMAIN": "",
        "ORIGINAL_RECIPIENT": "",
        "CLIENT_ADDRESS": "192.0.2.7",
        "CLIENT_HOSTNAME": "host.client.test",
        "CLIENT_HELO": "client.test",
        "CLIENT_PROTOCOL": "ESMTP",
        "SASL_USERNAME": "",
        "QUEUE_ID": "S.1",
    }
    assert folder == str(tmp_path)


@pytest.mark.parametrize(
    "argument, session, code",
    [
        ("${recipient}", sessionWith("-x@mx.test"), "5.1.3"),
        ("${mailbox}", sessionWith("--x@mx.test"), "5.1.3"),
        ("${sender}", sessionWith(sender="-oQ/tmp@x"), "5.1.7"),
        ("${client_helo}${sender}", sessionWith(sender="x"), None),
    ],
)
@ensureDeferred
async def test_an_address_becomes_no_option(argument: str, session: Session, code: str | None, tmp_path: Path) -> None:
    argv = ["/bin/sh", "-c", f"cat >/dev/null; touch {tmp_path}/ran", "sh"]
    if code is None:
        session.hostNameAppearsAs = "-x"
        code = "5.7.1"
    with pytest.raises(SMTPError, match="begins with a hyphen") as caught:
        await deliver(Command([*argv, argument]), session=session)
    assert caught.value.enhancedCode == code
    assert not (tmp_path / "ran").exists()
    with pytest.raises(SMTPError, match="begins with a hyphen"):
        await deliver(Command(["/usr/bin/env", "--", "true", argument]), session=session)
    for harmless in (["--", argument], ["--", "${recipient}", argument], [f"--value={argument}"], [f"<{argument}>"]):
        assert await deliver(Command([*argv, *harmless]), session=session) is None


@ensureDeferred
async def test_thousands_of_recipients_are_as_many_calls_as_their_list_needs(tmp_path: Path) -> None:
    recipients = [f"{'x' * 50}{index}@{'y' * 60}.test" for index in range(1500)]
    command = shell(f'cat >/dev/null; echo "$$RECIPIENTS" >> {tmp_path}/got; echo x >> {tmp_path}/calls')
    assert await deliver(command, session=sessionWith(*recipients)) is None
    assert (tmp_path / "got").read_text().split() == recipients
    assert (tmp_path / "calls").read_text() == "x\n" * 6


@ensureDeferred
async def test_an_environment_that_is_too_large_is_a_fault() -> None:
    with pytest.raises(Unavailable, match="/bin/cat cannot be run: Argument list too long"):
        await deliver(Command(["/bin/cat"], environment={"X": "x" * 200_000}))


# --- Several recipients ---

CHOOSE = (
    "cat >/dev/null; case $$RECIPIENT in a@*) ;; b@*) echo no b; exit 67;; c@*) echo later; exit 75;; *) exit 3;; esac"
)


@ensureDeferred
async def test_with_lmtp_each_recipient_has_its_own_run_and_result(logged: Logged) -> None:
    with capturedLogs() as events:
        results = await deliver(shell(CHOOSE), LARGE, session=sessionWith("a@x", "b@x", "c@x", "d@x", "a@x", lmtp=True))
    assert [each and (each.responseCode, str(each)) for each in results] == [
        None,
        (550, "no b"),
        (451, "later"),
        (451, "Temporary server error, please try again later"),
        None,
    ]
    assert logged.takeTexts() == ["/bin/sh exited with 3 [S]"]
    assert [event["log_level"] for event in events].count(LogLevel.info) == 5


@pytest.mark.parametrize(
    "recipients, said", [(["a@x"], None), (["a@x", "b@x"], "no b"), (["b@x", "c@x", "a@x"], "later")]
)
@ensureDeferred
async def test_with_smtp_the_worst_result_is_the_reply(recipients: list[str], said: str | None) -> None:
    command = Command(["/bin/sh", "-c", CHOOSE, "${recipient}"])
    if said is None:
        assert await deliver(command, session=sessionWith(*recipients)) is None
        return
    with pytest.raises(SMTPError, match=said):
        await deliver(command, session=sessionWith(*recipients))


@ensureDeferred
async def test_all_runs_for_a_message_share_its_time(logged: Logged) -> None:
    clock = Clock()
    command = shell("cat >/dev/null; exec sleep 1000", timeout=30)
    command.clock = clock
    ended = Deferred.fromCoroutine(command.onData(streamOf(TEXT), sessionWith("a@x", "b@x", lmtp=True)))
    await until(lambda: any(process._isWhole for process in command._processes))
    clock.advance(31)
    results = await ended
    assert results is not None
    assert logged.takeTexts() == [
        "/bin/sh did not end in time, and was killed [S]",
        "/bin/sh has no time left for this recipient [S]",
    ]
    clock.advance(6)  # the program may have begun too late for the first signal
    await until(lambda: not command._processes)
    assert [each and each.responseCode for each in results] == [451, 451]


# --- Users, options ---


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run programs as others")
@ensureDeferred
async def test_it_runs_as_another_user() -> None:
    # The folders of pytest are for the user that runs it alone.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        got = Path(folder, "got")
        got.touch()
        got.chmod(0o666)
        told = f"(id -u; id -g; id -G; echo $$HOME) > {got}"
        assert await deliver(shell(f"cat >/dev/null; {told}", user="nobody")) is None
        assert got.read_text().split()[:2] == ["65534", "65534"]
        assert await deliver(shell(f"cat >/dev/null; {told}", user=65534, group="mail")) is None
        numbers = got.read_text().split()[:-1]
        assert numbers[1] == "8"
        assert "0" not in numbers


@ensureDeferred
async def test_a_folder_that_is_not_there_any_more_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    store = Command(["/bin/cat"], directory=str(tmp_path / "folder"))
    (tmp_path / "folder").rmdir()
    with pytest.raises(Unavailable, match=r"cannot be run: \[Errno 2\] No such file or directory: '.*/folder'"):
        await deliver(store)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({}, "option argv is missing, it wants a list of texts, the program first"),
        ({"argv": []}, r"option argv is \(\), it wants a list"),
        ({"argv": "cat"}, "option argv is 'cat', it wants a list"),
        ({"argv": ["cat", "a\0"]}, "option argv is"),
        ({"argv": ["/no/such/program"]}, "option argv begins with '/no/such/program', there is no such program"),
        ({"argv": ["no-such-program"]}, "there is no such program"),
        ({"argv": ["/etc/passwd"]}, "option argv begins with '/etc/passwd', it is no program that may be run"),
        ({"argv": ["cat"], "directory": "/no/such"}, "option directory is '/no/such', there is no such folder"),
        ({"argv": ["cat", "${recipent}"]}, r"option argv: .*recipent.*recipient"),
        ({"argv": ["cat", "${}"]}, "option argv"),
        ({"argv": ["${sender}"]}, "it wants a program"),
        ({"argv": ["sh", "-c", "echo ${sender}"]}, "to a shell as a part of its program"),
        ({"argv": ["env", "bash", "-ec", "echo ${sender}"]}, "to a shell as a part of its program"),
        ({"argv": ["cat"], "environment": {"A=": "x"}}, r"option environment is \(not shown\), it wants a table"),
        ({"argv": ["cat"], "environment": {"A": 1}}, "it wants a table of names and texts"),
        ({"argv": ["cat"], "user": "nobody-such"}, "option user is 'nobody-such', there is no such user"),
        ({"argv": ["cat"], "user": "nobody", "group": "nogroup-such"}, "there is no such group"),
        ({"argv": ["cat"], "group": "mail"}, "it wants option user as well"),
        ({"argv": ["cat"], "timeout": -1}, "option timeout is -1"),
    ],
)
def test_what_can_be_known_to_be_wrong_is_an_error_when_it_is_made(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        Command(**options)


def test_its_repr_shows_no_variable() -> None:
    assert "hunter2" not in repr(Command(["cat"], environment={"TOKEN": "hunter2"}))


# --- In a server ---


async def repliesOf(client: Client) -> list[str]:
    while not (replies := client.replies()):
        await deferLater(reactor, 0.01)  # type: ignore[arg-type]
    return replies


class Inspecting:
    """A layer that reads a message to its end, and then refuses it."""

    async def inspectData(self, stream: Any, session: Any) -> None:
        async for _ in stream:
            pass
        raise SMTPError("It has a virus", 550)


@ensureDeferred
async def test_what_a_layer_refuses_at_its_end_is_not_whole_for_the_program(tmp_path: Path) -> None:
    command = shell(KEEPER.format(tmp_path))
    client = connect(hooks=[Inspecting(), command])
    client.say(*ENVELOPE, "DATA", "x" * 900)
    # The program may not even have been started.
    client.say(*["x" * 900] * 1000, ".")
    assert await repliesOf(client) == ["550 5.7.1 It has a virus"]
    await until(lambda: not command._processes)
    assert not (tmp_path / "whole").exists()


@ensureDeferred
async def test_a_client_that_leaves_in_the_middle_has_the_program_killed(tmp_path: Path) -> None:
    command = shell(KEEPER.format(tmp_path))
    client = connect(hooks=[command])
    client.say(*ENVELOPE, "DATA", "x" * 900)
    await until(lambda: (tmp_path / "tmp").exists() and (tmp_path / "tmp").stat().st_size > 0)
    client.lose()
    await until(lambda: not command._processes)
    assert not (tmp_path / "whole").exists()


@ensureDeferred
async def test_a_refusal_before_the_end_of_the_message_is_told_at_its_end() -> None:
    command = shell("exit 67")
    client = connect(hooks=[command])
    client.say(*ENVELOPE, "DATA", "x" * 900)
    (process,) = command._processes
    await until(lambda: process.isOver)
    client.say("x" * 900, "x" * 900)
    assert client.say(".", "NOOP") == ["550 5.1.1 User unknown", "250 2.0.0 OK"]


def test_a_hook_that_runs_as_a_task_of_asyncio_may_deliver_so(tmp_path: Path) -> None:
    """With the reactor of asyncio, in a process of its own."""
    program = tmp_path / "server.py"
    program.write_text(
        "import asyncio, sys\n"
        "from twisted.internet import asyncioreactor\n"
        "asyncioreactor.install()\n"
        "from twisted.internet import reactor\n"
        "from twisted.internet.defer import Deferred\n"
        "from tests.stores.test_command import LARGE, sessionWith, shell, streamOf\n"
        "async def main():\n"
        "    one = shell('cat > /dev/null', concurrency=1)\n"
        "    both = [one.onData(streamOf(LARGE), sessionWith('a@x', 'b@x', lmtp=True)) for _ in range(2)]\n"
        "    print(await asyncio.gather(*both))\n"
        "    reactor.stop()\n"
        "reactor.callWhenRunning(lambda: Deferred.fromFuture(asyncio.ensure_future(main())))\n"
        "reactor.run()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, env=environment, timeout=60)
    assert (ended.stdout, ended.stderr) == ("[[None, None], [None, None]]\n", "")
