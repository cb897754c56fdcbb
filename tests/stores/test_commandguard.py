"""The guard of a program that takes a message, which may be killed alone, as by the kernel when memory is short."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import CancelledError, Deferred

from smtphooks import SMTPError, Unavailable
from smtphooks.stores import Command
from tests.real.programs import eventually
from tests.stores.test_command import LARGE, TEXT, deliver, isAlive, sessionWith, shell, streamOf, until

pytestmark = pytest.mark.usefixtures("logged")

# Reads when it is told to, and says whether it has found the end of its input, or has read all and finds none.
READER = """
import os, pathlib, select, time
place = pathlib.Path({0!r})
(place / "new").write_text(str(os.getpid()))
(place / "new").rename(place / "pid")
while not (place / "go").exists():
    time.sleep(0.01)
while True:
    if not select.select([0], [], [], 0)[0]:
        (place / "open").touch()
        select.select([0], [], [])
    if not os.read(0, 65536):
        break
(place / "ended").touch()
"""


@pytest.mark.parametrize("isWhole", [False, True])
@ensureDeferred
async def test_a_guard_that_is_killed_alone_leaves_no_part_that_looks_whole(
    isWhole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = Command([sys.executable, "-c", READER.format(str(tmp_path))])
    # Two of these are more than the pipe to the program takes, so that the guard and the pipe to it have the rest.
    stream = streamOf(*[LARGE] * 2 if isWhole else [TEXT], isWhole=isWhole)
    ended = Deferred.fromCoroutine(command.onData(stream, sessionWith()))
    (process,) = command._processes
    await until(lambda: (tmp_path / "pid").exists() and process._isDrained and process._isWhole == isWhole)
    pid, guard = int((tmp_path / "pid").read_text()), process.transport.pid
    kill = os.killpg

    def killLate(group: int, number: int) -> None:
        # Until it is killed, the program has all the time to find an end.
        (tmp_path / "go").touch()
        # The reactor stands still meanwhile: the server does nothing at all.
        eventually(lambda: (tmp_path / "open").exists() or (tmp_path / "ended").exists(), "the program has read all")
        kill(group, number)

    monkeypatch.setattr(os, "killpg", killLate)
    os.kill(guard, signal.SIGKILL)
    await until(lambda: process.isOver)
    (tmp_path / "go").touch()
    await until(lambda: not isAlive(pid))
    assert (tmp_path / "open").exists()
    assert not (tmp_path / "ended").exists()
    if not isWhole:
        stream.append(b"", isLast=True)  # the client is heard to the end
    with pytest.raises(Unavailable, match="ended, and nobody knows how"):
        await ended
    assert not command._processes


@ensureDeferred
async def test_a_program_that_has_the_whole_message_is_killed_when_its_guard_was(tmp_path: Path) -> None:
    command = shell(f"cat >/dev/null; echo $$$$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 1000")
    ended = Deferred.fromCoroutine(command.onData(streamOf(TEXT), sessionWith()))
    (process,) = command._processes
    await until((tmp_path / "pid").exists)
    os.kill(process.transport.pid, signal.SIGKILL)
    with pytest.raises(Unavailable, match="ended, and nobody knows how"):
        await ended
    await until(lambda: not isAlive(int((tmp_path / "pid").read_text())))


# --- Descriptors ---


def pipesOf(pid: int) -> set[str]:
    links = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    return {link for link in links if link.startswith("pipe:")}


@ensureDeferred
async def test_a_program_has_its_input_and_outputs_and_no_end_of_another_pipe() -> None:
    with pytest.raises(SMTPError, match=r"^0, 1, 2$"):
        await deliver(shell("cat >/dev/null; ls -m /proc/$$$$/fd; exit 67"))


@ensureDeferred
async def test_no_guard_has_an_end_of_the_pipes_of_another(tmp_path: Path) -> None:
    command = shell(f"echo $$$$ > {tmp_path}/$$SENDER; exec cat >/dev/null")
    streams = [streamOf(TEXT, isWhole=False) for _ in range(3)]
    ended = []
    for sender, stream in zip("abc", streams, strict=True):
        ended.append(Deferred.fromCoroutine(command.onData(stream, sessionWith(sender=sender))))
        await until((tmp_path / sender).exists)
    pipes = [pipesOf(process.transport.pid) for process in command._processes]
    assert all(pipes) and len(set.union(*pipes)) == sum(map(len, pipes))
    for stream, each in zip(streams, ended, strict=True):
        stream.append(b"", isLast=True)
        assert await each is None


@ensureDeferred
async def test_no_descriptor_is_left_however_a_run_ends() -> None:
    good, bad, early = shell("cat >/dev/null"), shell("cat >/dev/null; exit 67"), shell("exit 67")
    crowded = Command(["/bin/cat"], environment={"X": "x" * 200_000})
    descriptors: list[int] = []
    for _ in range(6):
        assert await deliver(good) is None
        for command in (bad, early):
            with pytest.raises(SMTPError, match="User unknown"):
                await deliver(command, LARGE, LARGE, LARGE)
        with pytest.raises(Unavailable, match="Argument list too long"):
            await deliver(crowded)
        for isKilled in (False, True):
            ended = Deferred.fromCoroutine(good.onData(streamOf(TEXT, isWhole=False), sessionWith()))
            (process,) = good._processes
            if isKilled:
                os.kill(process.transport.pid, signal.SIGKILL)
                await until(lambda: all(each.isOver for each in good._processes))
            ended.cancel()
            with pytest.raises((CancelledError, Unavailable)):
                await ended
            await until(lambda: not good._processes)
        descriptors.append(len(os.listdir("/proc/self/fd")))
    assert descriptors == descriptors[:1] * 6
