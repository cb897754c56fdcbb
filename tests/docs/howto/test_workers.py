"""docs/howto/workers.rst: what an operator of several workers sees at the start, at a reload, and when one dies."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.howto.conftest import Page, deliver
from tests.pages import blocksOf
from tests.real.programs import PATIENCE, ROOT, Client, Program, eventually, which

PAGE = "workers"

HOOKS = """\
import os

import {imported}


def wrote(what):
    with open("calls", "a") as file:
        file.write(f"{{what}} {{os.getpid()}}\\n")


wrote("imported")


class Hooks:
    def onStart(self, service):
        wrote("started")
        {started}

    def onData(self, stream, session):
        return "Took it"
"""


@pytest.fixture
def port(page: Page) -> int:
    """That of the configuration."""
    return page.listen("workers.toml", "tcp:2525")


def haveHooks(page: Page, started: str = "pass", imported: str = "sys") -> None:
    """Have hooks in the place of the layers."""
    text = page.text("workers.toml").partition("[[layer]]")[0]
    if not text.startswith("hooks"):
        text = f'hooks = "ours:Hooks"\n{text}'
    (page.folder / "workers.toml").write_text(text)
    (page.folder / "ours.py").write_text(HOOKS.format(started=started, imported=imported))


def callsOf(page: Page, what: str) -> list[int]:
    """The processes that have written that."""
    lines = page.text("calls").splitlines()
    return [int(line.split()[1]) for line in lines if line.startswith(what)]


def workersOf(service: Program) -> set[int]:
    """The processes that the supervisor has started and that have not ended."""
    children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text()
    return {int(pid) for pid in children.split()}


def oldOnesDrain(service: Program) -> None:
    """Wait until those before a reload take no new connections: for a moment they do beside the new ones."""
    eventually(lambda: service.output.count("draining: no new connections") == 2, "both old workers drain")


def said(service: Program, name: str) -> None:
    """Wait until the log has the lines of a block of the page, in their order."""
    (block,) = [block for block in blocksOf(f"howto/{PAGE}.rst", "text") if block.name == name]
    # What differs from one run to another: the time, the number of a worker, processes and addresses.
    real = [
        (r"^\S+", r"\\S+"),
        (r"worker\\ [12]", r"worker\\ [12]"),
        (r"4711", r"\\d+"),
        (r"tcp:2525\\ \S+", r"\\S+\\ \\S+"),
    ]
    patterns = []
    for line in block.text.splitlines():
        pattern = re.escape(line)
        for shown, found in real:
            pattern = re.sub(shown, found, pattern)
        patterns.append(f"{pattern}\n")
    whole = re.compile("(?:.*\n)*?".join(patterns))
    eventually(lambda: whole.search(service.output), f"{whole.pattern} in {service.output}")


def test_all_workers_of_the_page_serve_and_a_reload_is_refused_or_done(page: Page, port: int) -> None:
    service = page.start("smtphooks --config workers.toml")
    said(service, "start.log")
    before = workersOf(service)
    assert len(before) == 2
    with Client(port) as early:
        page.change("workers.toml", "[[layer]]", "[[layers]]")
        service.hangUp()
        said(service, "refused.log")
        assert workersOf(service) == before
        assert deliver(port, "ann@example.org")[0] == 250

        page.change("workers.toml", "[[layers]]", "[[layer]]")
        page.change("workers.toml", '"@example.org"', '"@example.net"')
        service.hangUp()
        said(service, "reloaded.log")
        oldOnesDrain(service)
        assert deliver(port, "ann@example.org")[0] == 550
        assert deliver(port, "ann@example.net")[0] == 250
        # It was there before, and so are its recipients.
        early.say(b"MAIL FROM:<a@client.example>", 250)
        early.say(b"RCPT TO:<ann@example.org>", 250)
        early.say(b"QUIT", 221)
    eventually(lambda: len(workersOf(service)) == 2, "the old workers have ended")
    assert not workersOf(service) & before
    assert len(list((page.folder / "mail" / "new").iterdir())) == 2


def test_a_connection_goes_on_for_half_of_closeTimeout(page: Page, port: int) -> None:
    page.change("workers.toml", "[options]", "[options]\ncloseTimeout = 4")
    service = page.start("smtphooks --config workers.toml")
    service.waitForLine("2 workers serve")
    with Client(port) as idle, Client(port) as sending:
        sending.envelope(b"ann@example.org")
        service.hangUp()
        service.waitForLine("2 new workers serve")
        idle.say(b"NOOP", 250)
        idle.reply(421)
        sending.say(b"DATA", 354)
        sending.say(b".", 250)


def test_each_worker_has_hooks_of_its_own_and_the_supervisor_has_none(page: Page, port: int) -> None:
    haveHooks(page)
    service = page.start("smtphooks --config workers.toml")
    service.waitForLine("2 workers serve")
    assert {*callsOf(page, "started")} == workersOf(service)
    assert service.pid not in callsOf(page, "imported")


def test_hooks_that_cannot_start_end_the_start_and_refuse_a_reload(page: Page, port: int) -> None:
    haveHooks(page, started="raise OSError('no database')")
    failing = Program(
        [sys.executable, "-m", "smtphooks", "--config", "workers.toml"],
        {**os.environ, "PYTHONPATH": str(ROOT)},
        page.folder,
    )
    assert failing.wait() == 1
    assert re.search(r"worker [12] has ended with status 1 before it was ready", failing.output)
    assert "cannot start: OSError: no database" in failing.output

    haveHooks(page)
    service = page.start("smtphooks --config workers.toml")
    service.waitForLine("2 workers serve")
    before = workersOf(service)
    haveHooks(page, started="raise OSError('no database')")
    service.hangUp()
    service.waitForLine("cannot reload, all stays as it was: worker", "before it was ready, see the log")
    eventually(lambda: workersOf(service) == before, "the new workers are gone")
    assert deliver(port, "ann@example.org")[0] == 250


def test_modules_of_hooks_are_read_again(page: Page, port: int) -> None:
    haveHooks(page)
    service = page.start("smtphooks --config workers.toml")
    service.waitForLine("2 workers serve")
    haveHooks(page, imported="missing")
    service.hangUp()
    service.waitForLine("cannot reload, all stays as it was", "missing")
    haveHooks(page)
    text = page.text("ours.py").replace("Took it", "Taken by the new ones")
    (page.folder / "ours.py").write_text(text)
    service.hangUp()
    service.waitForLine("2 new workers serve")
    oldOnesDrain(service)
    assert b"Taken by the new ones" in deliver(port, "ann@example.org")[1]


def test_a_new_version_takes_the_place_of_the_supervisor(page: Page, port: int) -> None:
    service = page.start("smtphooks --config workers.toml")
    service.waitForLine("2 workers serve")
    before = workersOf(service)
    with Client(port) as early:
        os.kill(service.pid, signal.SIGUSR2)
        said(service, "replaced.log")
        early.say(b"QUIT", 221)
    eventually(lambda: not workersOf(service) & before, "the old workers have ended")
    assert deliver(port, "ann@example.org")[0] == 250


def test_a_worker_that_dies_is_replaced_and_one_without_its_supervisor_ends(page: Page, port: int) -> None:
    arguments = [sys.executable, "-m", *page.command("smtphooks --config workers.toml")]
    service = Program(arguments, {**os.environ, "PYTHONPATH": str(ROOT)}, page.folder)
    try:
        service.waitForLine("2 workers serve")
        os.kill(min(workersOf(service)), signal.SIGKILL)
        said(service, "died.log")
        assert deliver(port, "ann@example.org")[0] == 250
        eventually(lambda: len(workersOf(service)) == 2, "another one takes its place")
        workers = workersOf(service)
    finally:
        service.kill()
    eventually(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in workers), "the workers end")


def test_the_log_shows_which_hook_did_not_return(page: Page, port: int) -> None:
    haveHooks(page)
    page.change("ours.py", 'return "Took it"', "import time; time.sleep(600)")
    (page.folder / "workers.toml").write_text(f"workerTimeout = 5\n{page.text('workers.toml')}")
    service = page.start("smtphooks --config workers.toml")
    service.waitForLine("2 workers serve")
    with Client(port) as client:
        client.envelope(b"ann@example.org")
        client.socket.sendall(b"DATA\r\n.\r\n")
        service.waitForLine("hangs: no sign of life for", "its stacks follow")
        service.waitForLine("says:", "ours.py", "in onData")
        service.waitForLine("was killed by SIGABRT, another one takes its place")


@pytest.mark.skipif(which("taskset") is None, reason="taskset is not installed")
def test_auto_counts_the_cores_that_the_process_may_use() -> None:
    core = min(os.sched_getaffinity(0))
    program = "from smtphooks.service.settings import WorkerSettings; print(WorkerSettings('auto').number)"
    command = ["taskset", "--cpu-list", str(core), sys.executable, "-c", program]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=-1, check=True, timeout=PATIENCE)
    assert done.stdout == b"1\n"
