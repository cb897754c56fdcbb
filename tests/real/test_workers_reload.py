"""Workers that are replaced under load, by a new configuration or a new program: no client notices."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from itertools import pairwise
from pathlib import Path

import pytest

from tests.real.programs import ROOT, Client, eventually, freePort, tcp
from tests.real.workers import IS_LONG, Files, Load, Supervised, childrenOf, deliver, isRefused, isZombie, serving

RELOADS = 20 if IS_LONG else 5

# Hooks whose replies tell the version, and the process.
TELLING = """
import os
from smtphooks import Hooks

class Mail(Hooks):
    def onMailFrom(self, address, session):
        return f"VERSION of {os.getpid()}"

    def onData(self, stream, session):
        return "taken"
"""


def told(client: Client) -> str:
    """What hooks tell."""
    reply = client.say(b"MAIL FROM:<sender@here.example>", 250)
    client.say(b"RSET", 250)
    return reply.decode().split(None, 2)[2].strip()


def answer(port: int) -> str:
    """What hooks tell a new client."""
    with Client(port) as client:
        return told(client)


def checkWhole(load: Load) -> None:
    """No connection was refused or cut."""
    assert load.counts["made"] > 0
    assert load.counts["whole"] == load.counts["made"], load.faults
    assert load.faults == []


class TestUnderLoad:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_no_connection_is_refused_or_cut_by_reloads(self, tmp_path: Path, workers: int) -> None:
        with serving(tmp_path, workers=workers) as service:
            with Load(service.files.port, messages=5) as load:
                load.waitForMore(20)
                for _ in range(RELOADS):
                    service.reload()
                    load.waitForMore(20)
            checkWhole(load)
            load.checkStored(service.files.maildir)
            service.waitForWorkers(workers)

    def test_nor_by_new_programs_and_no_count_goes_down(self, tmp_path: Path) -> None:
        with serving(tmp_path) as service:
            counts = [service.metrics()]
            with Load(service.files.port, messages=5) as load:
                load.waitForMore(20)
                for number in range(max(2, RELOADS // 4)):
                    before = service.workers()
                    os.kill(service.pid, signal.SIGUSR2)
                    service.waitForLines(number + 1, "the program has been replaced")
                    # The workers of before go on until the new ones are ready.
                    assert set(before) <= set(service.workers())
                    counts.append(service.metrics())
                    service.waitForLines(number + 1, "new workers serve")
                    load.waitForMore(20)
                    service.waitForWorkers(2)
                    assert not set(before) & set(service.workers())
                    counts.append(service.metrics())
            checkWhole(load)
            load.checkStored(service.files.maildir)
            service.waitForWorkers(2)
            counts.append(service.metrics())
            assert counts[-1]['smtphooks_reloads_total{result="done"}'] == max(2, RELOADS // 4)
            (messages,) = [
                value
                for name, value in counts[-1].items()
                if name.startswith("smtphooks_messages_total") and "acc" in name
            ]
            assert messages == len(load.acknowledged)
        for one, next_ in pairwise(counts):
            fallen = {
                name: (value, next_.get(name))
                for name, value in one.items()
                if name.partition("{")[0].endswith(("_total", "_count", "_sum"))
                and not name.startswith(("python_", "process_"))
                and next_.get(name, 0.0) < value
            }
            assert not fallen


class TestAGoodConfiguration:
    def test_takes_effect_for_new_clients_and_those_that_are_there_go_on(self, tmp_path: Path) -> None:
        with serving(tmp_path, hooks=TELLING.replace("VERSION", "one"), size=1000) as service:
            files = service.files
            old = set(service.workers())
            with Client(files.port) as there:
                assert told(there).startswith("one of ")
                files.write(2, hooks=TELLING.replace("VERSION", "two"), size=2000)
                service.reload()
                # The old ones accept clients until they say so.
                service.waitForLines(len(old), "draining: no new connections")
                with Client(files.port) as client:
                    assert told(client).startswith("two of ")
                    assert b"SIZE 2000" in client.say(b"EHLO client.example", 250)
                assert told(there).startswith("one of ")
                assert b"SIZE 1000" in there.say(b"EHLO client.example", 250)
                there.say(b"QUIT", 221)
            eventually(lambda: all(map(isZombie, old)), "the old workers end")

    def test_opens_new_listeners_and_closes_those_that_are_gone(self, tmp_path: Path) -> None:
        ports = [freePort(), freePort(), freePort()]
        one, two, three = map(tcp, ports)
        # A client that stays keeps a worker of before alive, and with it all that it has open.
        with serving(tmp_path, endpoints=[one, two]) as service, Client(ports[0]):
            service.files.write(2, endpoints=[three, two])
            service.reload()
            service.waitForLine("listening on", three)
            deliver(ports[2])
            deliver(ports[1])
            eventually(lambda: isRefused(ports[0]), "the old workers leave the port")
            service.files.write(2, endpoints=[one])
            service.reload()
            deliver(ports[0])

    @pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 8)])
    def test_changes_the_number_of_workers(self, tmp_path: Path, before: int, after: int) -> None:
        with serving(tmp_path, workers=before) as service:
            service.waitForWorkers(before)
            with Load(service.files.port) as load:
                load.waitForMore(20)
                service.files.write(after)
                service.reload()
                load.waitForMore(20)
            checkWhole(load)
            service.waitForWorkers(after)
            for _ in range(20):
                deliver(service.files.port)


BROKEN = {
    "workers = = 2": "smtphooks.toml",
    "workers = 2\n[options]\nmaxSiez = 3\n": "maxSiez",
    'workers = 2\nhooks = "badhooks:Mail"\n': "the database is gone",
    None: "smtphooks.toml",
}


class TestABrokenConfiguration:
    def test_changes_nothing_and_one_sentence_says_why(self, tmp_path: Path) -> None:
        with serving(tmp_path, hooks=TELLING) as service:
            workers = set(service.workers())
            (tmp_path / "badhooks.py").write_text('raise RuntimeError("the database is gone")\n')
            for number, (text, named) in enumerate(BROKEN.items(), 1):
                if text is None:
                    service.files.config.unlink()
                else:
                    service.files.config.write_text(text)
                assert named in service.refuseReload()
                assert len(service.lines("#error]")) == number
            assert "Traceback" not in service.output
            assert {int(answer(service.files.port).split()[-1]) for _ in range(10)} <= workers
            assert set(service.workers()) == workers
            # SIGUSR2 checks as well, before the program is replaced.
            os.kill(service.pid, signal.SIGUSR2)
            assert "smtphooks.toml" in service.waitForLines(len(BROKEN) + 1, "cannot reload")[-1]
            assert "has been replaced" not in service.output
            service.files.write(2, hooks=TELLING)
            service.reload()
            eventually(lambda: int(answer(service.files.port).split()[-1]) not in workers, "new workers serve alone")
            metrics = service.metrics()
            assert metrics['smtphooks_reloads_total{result="refused"}'] == len(BROKEN) + 1
            assert metrics['smtphooks_reloads_total{result="done"}'] == 1

    def test_nor_does_a_layer_that_cannot_start(self, tmp_path: Path) -> None:
        with serving(tmp_path, hooks=TELLING) as service:
            workers = set(service.workers())
            failing = TELLING + '\n    def onStart(self, service):\n        raise OSError("no disk")\n'
            service.files.write(2, hooks=failing)
            service.refuseReload()
            assert service.lines("layer mailhooks:Mail cannot start", "no disk") or service.lines("no disk")
            assert "Traceback" not in service.output
            eventually(lambda: set(service.workers()) == workers, "the new workers end")
            assert int(answer(service.files.port).split()[-1]) in workers

    def test_nor_does_a_port_that_another_process_has(self, tmp_path: Path) -> None:
        with serving(tmp_path, hooks=TELLING) as service, socket.create_server(("127.0.0.1", 0)) as other:
            workers = set(service.workers())
            free = freePort()
            taken = tcp(other.getsockname()[1])
            service.files.write(2, hooks=TELLING, endpoints=[tcp(free), taken])
            assert taken in service.refuseReload()
            assert not service.lines("#critical]")
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", free)) != 0
            assert set(service.workers()) == workers
            assert int(answer(service.files.port).split()[-1]) in workers

    def test_nor_does_one_without_workers(self, tmp_path: Path) -> None:
        with serving(tmp_path, hooks=TELLING) as service:
            text = service.files.config.read_text()
            service.files.config.write_text(text.replace("workers = 2\n", ""))
            assert "workers is missing" in service.refuseReload()
            deliver(service.files.port)


class TestManyAtOnce:
    def test_signals_while_it_reloads_lead_to_one_more_reload(self, tmp_path: Path) -> None:
        with serving(tmp_path, hooks=TELLING.replace("VERSION", "one")) as service:
            os.kill(service.pid, signal.SIGHUP)
            service.waitForLine("reloading the configuration")
            service.files.write(2, hooks=TELLING.replace("VERSION", "two"))
            for _ in range(5):
                os.kill(service.pid, signal.SIGHUP)
            service.waitForLines(2, "new workers serve")
            service.waitForWorkers(2)
            assert answer(service.files.port).startswith("two of ")
            assert len(service.lines("reloading the configuration")) == 2

    def test_a_new_program_that_is_asked_for_while_it_reloads_comes_after_it(self, tmp_path: Path) -> None:
        with serving(tmp_path, hooks=TELLING) as service:
            os.kill(service.pid, signal.SIGHUP)
            service.waitForLine("reloading the configuration")
            os.kill(service.pid, signal.SIGUSR2)
            service.waitForLine("the program has been replaced")
            service.waitForLines(2, "new workers serve")
            deliver(service.files.port)

    @pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
    def test_one_that_is_ended_while_it_reloads_ends(self, tmp_path: Path, number: signal.Signals) -> None:
        with serving(tmp_path, hooks=TELLING) as service, Client(service.files.port) as busy:
            busy.envelope(b"user@there.example")
            workers = service.workers()
            os.kill(service.pid, number)
            service.waitForLine("reloading the configuration")
            os.kill(service.pid, signal.SIGTERM)
            service.waitForLine("worker", "received SIGTERM, closing")
            checks = {*childrenOf(service.pid)} - {*workers}
            eventually(lambda: all(map(isZombie, checks)), "the check of the configuration ends")
            busy.say(b"RSET", 250)
            assert service.wait() == 0
            assert "Traceback" not in service.output
            assert "has been replaced" not in service.output
            assert "new workers serve" not in service.output
            assert service.workers() == []


class TestANewProgram:
    def test_is_the_one_that_is_installed_then(self, tmp_path: Path) -> None:
        installed = tmp_path / "installed"
        shutil.copytree(ROOT / "smtphooks", installed / "smtphooks", ignore=shutil.ignore_patterns("__pycache__"))
        files = Files(tmp_path)
        files.write(2, hooks=TELLING)
        with Supervised(files, folders=[installed]) as service:
            service.waitUntilReady()
            with Client(files.port) as there:
                for module, old, new in [
                    ("sharedtable.py", "_MAGIC = b", "_MAGIC = b'another' or b"),
                    ("service/supervisor.py", "new workers serve", "NEW workers serve"),
                    ("service/listeners.py", "received SIGTERM, closing", "received SIGTERM, CLOSING"),
                ]:
                    path = installed / "smtphooks" / module
                    text = path.read_text()
                    assert old in text
                    path.write_text(text.replace(old, new))
                os.kill(service.pid, signal.SIGUSR2)
                service.waitForLine("NEW workers serve")
                assert told(there)
            deliver(files.port)
            service.waitForWorkers(2)
            assert service.terminate() == 0
            assert len(service.lines("received SIGTERM, CLOSING")) >= 2
            assert "Traceback" not in service.output

    def test_that_cannot_be_imported_changes_nothing(self, tmp_path: Path) -> None:
        installed = tmp_path / "installed"
        shutil.copytree(ROOT / "smtphooks", installed / "smtphooks", ignore=shutil.ignore_patterns("__pycache__"))
        files = Files(tmp_path)
        files.write(2, hooks=TELLING)
        with Supervised(files, folders=[installed]) as service:
            service.waitUntilReady()
            (installed / "smtphooks/service/worker.py").write_text("import nothing_of_this_name\n")
            os.kill(service.pid, signal.SIGUSR2)
            service.waitForLine("cannot reload", "nothing_of_this_name")
            deliver(files.port)
