"""The kill matrix: its account of messages, stores that lie to it, and a short round of every cell."""

from __future__ import annotations

import os
import random
import re
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from chaos import keeping
from chaos.command import main
from chaos.deliveries import Delivery
from chaos.ledger import Copy, Counts, Ledger, Told
from chaos.load import Load, Ports
from chaos.matrix import DELIVERIES
from chaos.messages import LEAST, MOST, Found, compose, recognize
from chaos.run import Result, faultsOf, table
from tests.real.programs import ROOT, eventually

SEED = 1
# What a run may take at most; only one that hangs takes as long.
PATIENCE = 300


def chaos(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chaos", "--short", "--seed", str(SEED), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=PATIENCE,
        check=False,
    )


# --- messages ---


def test_messages_are_of_all_sizes_and_tell_whose_they_are() -> None:
    chooser = random.Random(SEED)
    messages = {f"message-{number}": compose(f"message-{number}", chooser) for number in range(300)}
    for identity, octets in messages.items():
        assert recognize(b"Received: from somewhere\r\n" + octets) == Found(identity, True)
        assert octets.endswith(b"\r\n")
        assert b"\n" not in octets.replace(b"\r\n", b"")
    sizes = sorted(map(len, messages.values()))
    assert sizes[0] < 10 * LEAST
    assert MOST / 2 < sizes[-1] < MOST + 1000
    assert any(b"\r\n." in octets for octets in messages.values())


def test_a_message_of_which_an_octet_is_missing_changed_or_added_is_not_whole() -> None:
    chooser = random.Random(SEED)
    octets = next(filter(lambda octets: b"\r\n." in octets, (compose("message", chooser) for _ in range(100))))
    for damaged in (
        octets[:-1],
        octets[:-2],
        octets + b"\r\n",
        octets.replace(b"\r\n.", b"\r\n..", 1),
        octets[:-9] + b"!" * 9,
    ):
        assert recognize(damaged) == Found("message", False)
    assert recognize(octets[:30]) == Found("", False)


# --- the account ---

ONE, OTHER = Copy("message", "one"), Copy("message", "other")


def test_a_copy_with_a_250_that_is_not_found_is_lost() -> None:
    ledger = Ledger()
    ledger.tell(ONE, Told.TAKEN)
    ledger.tell(OTHER, Told.TAKEN)
    ledger.find(Found("message", True), ["other"])
    assert ledger.missing() == [ONE]
    assert ledger.counts().lost == 1
    assert ledger.complaints() == ["message for one had a 250 and is lost"]


def test_a_copy_that_is_found_in_part_is_not_found() -> None:
    ledger = Ledger()
    ledger.tell(ONE, Told.TAKEN)
    ledger.find(Found("message", False), ["one"])
    assert (ledger.counts().half, ledger.counts().lost) == (1, 1)
    assert ledger.complaints() == ["message for one had a 250 and is lost", "message is there in part"]


def test_what_nobody_can_name_is_a_part_of_something() -> None:
    ledger = Ledger()
    ledger.find(Found("", False), [])
    assert ledger.complaints() == ["what has no name is there in part"]


def test_a_copy_that_was_refused_may_be_there_any_number_of_times() -> None:
    ledger = Ledger()
    ledger.tell(ONE, Told.LATER)
    ledger.tell(OTHER, Told.CUT)
    for _ in range(3):
        ledger.find(Found("message", True), ["one"])
    counts = ledger.counts()
    assert (counts.sent, counts.found, counts.again, counts.lost) == (2, 1, 2, 0)
    assert ledger.complaints() == []


def test_a_copy_that_is_never_answered_is_a_fault() -> None:
    ledger = Ledger()
    ledger.tell(ONE, Told.SILENT)
    assert ledger.complaints() == ["message for one was never answered"]


def test_an_acknowledgement_can_be_waited_for() -> None:
    ledger = Ledger()
    assert not ledger.waitFor(1, 0)
    ledger.tell(ONE, Told.TAKEN)
    assert ledger.waitFor(1, 0)


def test_the_table_has_the_counts_of_cells_and_their_sums() -> None:
    counts = Counts(Counter({Told.TAKEN: 3, Told.CUT: 1}), found=4, again=2, half=0, lost=0)
    lines = table([Result("Maildir", "disk full", counts, []), Result("Tee", "disk full", counts, [])]).splitlines()
    assert " ".join(lines[1].split()) == (
        "delivery what is broken sent 250 4xx 5xx cut left silent found again half lost"
    )
    assert " ".join(lines[3].split()) == "Maildir disk full 4 3 0 0 1 0 0 4 2 0 0"
    assert " ".join(lines[5].split()) == "all 8 6 0 0 2 0 0 8 4 0 0"


def test_a_folder_of_messages_has_what_was_kept_and_nothing_that_was_begun(tmp_path: Path) -> None:
    (tmp_path / ".begun").write_text("half")
    keeping.keep(str(tmp_path), ["one", "other"], b"octets\n")
    assert list(keeping.takeAll(str(tmp_path))) == [(["one", "other"], b"octets\n")]
    assert list(keeping.takeAll(str(tmp_path))) == []


# --- the load ---


class Server(threading.Thread):
    """A server that gives these replies, each before the next line of a client, to one connection after the other."""

    def __init__(self, *replies: bytes) -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.ports = Ports(*[self._listener.getsockname()[1]] * 2)
        self._replies = replies
        self.start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines, suppress(ConnectionError):
                for reply in self._replies:
                    connection.sendall(reply)
                    lines.readline()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.join()


def loaded(*replies: bytes) -> tuple[Ledger, Load]:
    """What one client notes of a server with these replies until it has noted something."""
    server, ledger = Server(*replies), Ledger()
    load = Load("load", server.ports, ledger, 1)
    load.start()
    try:
        eventually(lambda: ledger.counts().sent or load.complaints(), "a note")
    finally:
        load.stop()
        server.stop()
    return ledger, load


READY = (b"220 here\r\n", b"250 here\r\n")


@pytest.mark.parametrize(
    ("replies", "told"),
    [
        ((b"451 4.3.0 no\r\n",) * 100, Told.LATER),
        ((b"550 5.0.0 no\r\n",) * 100, Told.NEVER),
        ((b"250 Ok\r\n", b"25"), Told.CUT),
        ((), Told.CUT),
    ],
)
def test_a_client_notes_what_it_was_told(replies: tuple[bytes, ...], told: Told) -> None:
    ledger, load = loaded(*READY, *replies)
    assert set(ledger.counts().told) - {Told.LEFT} == {told}
    assert load.complaints() == []


@pytest.mark.parametrize("reply", [b"what?\r\n", b"354 Go on\r\n"])
def test_a_client_complains_of_what_is_no_reply(reply: bytes) -> None:
    _, load = loaded(*READY, *[reply] * 10)
    (complaint,) = load.complaints()
    assert "is no reply" in complaint


# --- the matrix ---


def test_a_store_that_lies_is_found_out() -> None:
    liars = {"Hasty": "had a 250 and is lost", "Careless": "is there in part", "Frugal": "is there in part"}
    done = chaos("--fault", "receiver killed", *(f"--delivery={liar}" for liar in liars))
    assert done.returncode == 1, done.stdout
    for liar, complaint in liars.items():
        assert re.search(f"^ +{SEED}/{liar}/.* {complaint}$", done.stdout, re.MULTILINE), done.stdout


# Of what differs from another delivery at the other side only, a few cells are enough here; "make chaos" plays all.
SOME = ["other side killed", "network reset", "disk full"]
VARIANTS = ("Relay to LMTP", "Relay to Postfix", "Relay to Dovecot", "Webhook, signed", "Tee")
# A broker takes seconds to start, and after each loss the store waits longer.
OF_BROKERS = {"RabbitMQ": ["receiver killed", "other side killed", "network cut"], "RabbitMQ, claims": ["disk full"]}
# Runs mostly wait, each in namespaces of its own.
AT_ONCE = 4

Runs = dict[str, "Future[subprocess.CompletedProcess[str]]"]


def cellsOf(delivery: type[Delivery]) -> list[str]:
    return list(faultsOf(delivery, OF_BROKERS.get(delivery.name, SOME if delivery.name in VARIANTS else [])))


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[Runs]:
    """The runs of the deliveries whose tests were selected, several at a time."""
    selected = [getattr(item, "callspec", None) for item in request.session.items if "runs" in item.fixturenames]
    deliveries = [callspec.params["delivery"] for callspec in selected if callspec]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            delivery.name: pool.submit(
                chaos, "--delivery", delivery.name, *(f"--fault={fault}" for fault in cellsOf(delivery))
            )
            for delivery in deliveries
            if not delivery.missing()
        }


@pytest.mark.parametrize("delivery", DELIVERIES, ids=lambda delivery: str(delivery.name))
def test_nothing_is_lost_whatever_is_broken(delivery: type[Delivery], runs: Runs) -> None:
    missing = delivery.missing()
    if missing:
        pytest.skip(missing)
    done = runs[delivery.name].result()
    assert done.returncode == 0, done.stdout
    for fault in cellsOf(delivery):
        assert f"{delivery.name}, {fault}: " in done.stdout


def test_a_run_in_which_nothing_is_played_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--delivery", "Webhook", "--fault", "network cut"], "not allowed") == 1
    assert "Webhook, network cut: skipped, no namespaces (not allowed)" in capsys.readouterr().out
