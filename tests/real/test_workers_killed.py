"""Workers that are killed under load: what was acknowledged is stored, and no client is refused."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.real.mta.postfix import Postfix
from tests.real.programs import requires, run
from tests.real.workers import IS_LONG, Files, Load, Supervised, serving, storedIn

# Seconds, in each of which a worker is killed.
SECONDS = 30 if IS_LONG else 8

CLIENTS = 8


def killEverySecond(service: Supervised, seconds: int = SECONDS) -> int:
    """Kill a worker every second, one that serves; how many were killed."""
    killed = 0
    deadline = time.monotonic()
    for _ in range(seconds):
        with suppress(IndexError, ProcessLookupError):
            os.kill(service.ready()[0], signal.SIGKILL)
            killed += 1
        deadline += 1
        time.sleep(max(0, deadline - time.monotonic()))
    return killed


@pytest.mark.parametrize("workers", [1, 4])
def test_every_acknowledged_message_is_stored_and_no_client_is_refused(tmp_path: Path, workers: int) -> None:
    with serving(tmp_path, workers=workers) as service:
        with Load(service.files.port, CLIENTS) as load:
            load.waitForMore(20)
            killed = killEverySecond(service)
            # It serves on by itself.
            load.waitForMore(20)
        # A single worker that dies before it serves is not started again at once.
        assert killed >= SECONDS // (1 if workers > 1 else 3)
        load.checkStored(service.files.maildir)
        assert load.counts["refused"] == 0, load.faults
        # A worker that is killed takes with it whom it has let in, some of them before they have been greeted.
        assert load.counts["unheard"] <= killed, load.faults
        assert load.counts["unheard"] + load.counts["cut"] <= killed * CLIENTS, load.counts
        found = storedIn(service.files.maildir)
        # What was stored and not acknowledged was in hand when a worker was killed.
        assert len(found.keys() - {*load.acknowledged}) <= killed * CLIENTS
        assert set(found.values()) == {1}
        service.waitForWorkers(workers)


def source(port: int, name: str, isOver: Callable[[], bool]) -> tuple[dict[str, int], list[str]]:
    """
    Run smtp-source again and again; it gives up when a connection is lost.

    @return: for each recipient how many messages were accepted, and why it gave up.
    """
    accepted: dict[str, int] = {}
    faults: list[str] = []
    while not isOver():
        recipient = f"{name}run{len(accepted)}@there.example"
        load = ["-c", "-m", "50", "-t", recipient, "-f", "sender@here.example"]
        said = run("smtp-source", *load, f"127.0.0.1:{port}", status=None).stdout.decode()
        # It counts replies to DATA: the last of these messages need not be accepted when it gives up.
        counted = [int(each) for each in re.findall(r"(\d+)\r", said)]
        given = [line for line in said.splitlines() if "fatal" in line]
        accepted[recipient] = max(counted, default=0) - len(given)
        faults += given
    return accepted, faults


@requires("smtp-source")
def test_what_smtp_source_saw_accepted_is_stored(tmp_path: Path) -> None:
    accepted: dict[str, int] = {}
    faults: list[str] = []
    with serving(tmp_path, workers=3) as service, ThreadPoolExecutor(5) as pool:
        killing = pool.submit(killEverySecond, service)
        sources = [pool.submit(source, service.files.port, f"client{each}", killing.done) for each in range(4)]
        for each in sources:
            counts, said = each.result()
            accepted |= counts
            faults += said
        killed = killing.result()
        stored = Counter(message.deliveredTo[0] for message in service.files.maildir.messages())
    assert sum(accepted.values()) > 100
    assert not {name: (count, stored[name]) for name, count in accepted.items() if stored[name] < count}
    assert not [fault for fault in faults if "refused" in fault or "fatal: connect" in fault]
    assert len(faults) <= killed * 4


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the user of Postfix reaches."""
    with tempfile.TemporaryDirectory(prefix="real-") as path:
        Path(path).chmod(0o755)
        yield Path(path)


@requires("postfix", "postqueue", "smtp-source")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start Postfix")
def test_a_queue_of_Postfix_comes_through(folder: Path, tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.write(3)
    # It tries again after a second; it would take a server that has cut a connection for dead for a minute otherwise.
    again = {"minimal_backoff_time": "1s", "maximal_backoff_time": "2s", "queue_run_delay": "1s"}
    patient = {"default_destination_concurrency_limit": "5"}
    postfix = Postfix(folder, {"there.example": f"[127.0.0.1]:{files.port}"}, "smtp", **again, **patient)
    count = 600 if IS_LONG else 150
    try:
        with Supervised(files) as service:
            service.waitUntilReady()
            killer = ThreadPoolExecutor(1).submit(killEverySecond, service)
            to = ["-t", "user@there.example", "-f", "sender@there.example"]
            run("smtp-source", "-d", "-s", "4", "-m", str(count), "-N", *to, f"127.0.0.1:{postfix.port}")
            killer.result()
            postfix.waitUntilIdle()
            delivered = {message.deliveredTo[0] for message in files.maildir.messages()}
            # The last message was delivered, or a notification of failure was.
            assert [recipient for recipient in delivered if recipient == "sender@there.example"] == []
            assert len(delivered) == count
    finally:
        postfix.stop()
