"""Workers that hang, or that die when they start: they are replaced, and their siblings serve meanwhile."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.real.programs import Client, eventually, tcp
from tests.real.workers import Files, Supervised, deliver, isZombie, serving

# A worker hangs at a recipient of this name; the others go on.  Each says who it is.
HANGING = """
import os
import time
from pathlib import Path
from smtphooks import Hooks

def spinForEver():
    while True:
        pass

def sleepForEver():
    time.sleep(10000)

class Mail(Hooks):
    def onStart(self, service):
        if Path("broken").exists():
            raise OSError("the database is away")

    def onMailFrom(self, address, session):
        return f"by {os.getpid()}"

    def onRcptTo(self, address, session):
        {"spin": spinForEver, "sleep": sleepForEver}.get(address.local, lambda: None)()

    def onData(self, stream, session):
        return "taken"
"""


def of(client: Client) -> int:
    """The worker that a client has come to."""
    reply = client.say(b"MAIL FROM:<sender@here.example>", 250)
    return int(reply.split()[-1])


def clientOf(port: int, pid: int) -> Client:
    """A client of this worker, in a transaction."""
    while True:
        client = Client(port)
        if of(client) == pid:
            return client
        client.close()


@pytest.mark.parametrize("kind", ["spin", "sleep", "stopped"])
def test_one_that_hangs_is_replaced_and_its_siblings_go_on(tmp_path: Path, kind: str) -> None:
    with serving(tmp_path, hooks=HANGING, top={"workerTimeout": 3}) as service:
        port = service.files.port
        hung, well = service.waitForWorkers(2)
        with clientOf(port, hung) as lost, clientOf(port, well) as there:
            if kind == "stopped":
                os.kill(hung, signal.SIGSTOP)
            else:
                lost.socket.sendall(b"RCPT TO:<%b@there.example>\r\n" % kind.encode())
            while not isZombie(hung):
                there.say(b"RCPT TO:<user@there.example>", 250)
                there.say(b"DATA", 354)
                there.say(b"Subject: on\r\n\r\nand on\r\n.", 250)
                assert of(there) == well
                time.sleep(0.05)
            with pytest.raises(ConnectionError):
                lost.reply(250)
        service.waitForLine(f"(pid {hung}) hangs")
        if kind != "stopped":  # a stopped process has no last words
            service.waitForLine("worker", "says:", "mailhooks.py", f"in {kind}ForEver")
            service.waitForLine("worker", "says:", "mailhooks.py", "in onRcptTo")
        assert well in service.waitForWorkers(2)
        assert service.metrics()['smtphooks_worker_restarts_total{reason="hung"}'] == 1
        assert {of(Client(port)) for _ in range(20)} <= set(service.workers())


def test_one_that_cannot_start_any_more_is_tried_again_while_its_siblings_have_its_clients(tmp_path: Path) -> None:
    with serving(tmp_path, hooks=HANGING) as service:
        first, second = service.waitForWorkers(2)
        broken = tmp_path / "broken"
        broken.touch()
        os.kill(first, signal.SIGKILL)
        service.waitForLine("before it was ready, it is started again in 1 seconds")
        for _ in range(20):
            with Client(service.files.port) as client:
                assert of(client) == second
        service.waitForLine("before it was ready, it is started again in 2 seconds")
        service.waitForLine("layer Mail cannot start", "the database is away")
        assert "Traceback" not in service.output
        broken.unlink()
        assert second in service.waitForWorkers(2)
        # It starts anew with the delays.
        service.waitForWorkers(2)
        os.kill(second, signal.SIGKILL)
        assert second not in service.waitForWorkers(2)


def test_one_that_is_told_to_end_alone_has_a_successor_and_finishes_its_transactions(tmp_path: Path) -> None:
    with serving(tmp_path, hooks=HANGING) as service:
        port = service.files.port
        ended, other = service.waitForWorkers(2)
        with clientOf(port, ended) as there:
            os.kill(ended, signal.SIGTERM)
            service.waitForLine("received SIGTERM")
            # Its socket must not wait for the end of this transaction.
            for _ in range(20):
                with Client(port) as client:
                    assert of(client) != ended
            there.say(b"RCPT TO:<user@there.example>", 250)
            there.say(b"RSET", 250)
            there.reply(421)
        eventually(lambda: isZombie(ended), "it ends")
        assert other in service.waitForWorkers(2)


FAULTY = {
    "configuration": ({"colour": "red"}, HANGING, "colour"),
    "import": ({}, "import nothing_of_this_name", "nothing_of_this_name"),
    "layer": ({}, HANGING.replace('Path("broken").exists()', "True"), "the database is away"),
    "endpoint": ({"metrics": "tcp:1:interface=192.0.2.1"}, HANGING, "192.0.2.1"),
}


@pytest.mark.parametrize("kind", FAULTY)
def test_a_first_start_that_fails_is_one_sentence_and_status_1(tmp_path: Path, kind: str) -> None:
    top, hooks, named = FAULTY[kind]
    files = Files(tmp_path)
    files.write(3, hooks=hooks, top=top)
    with Supervised(files) as service:
        started = service.workers()
        assert service.wait() == 1
        assert "Traceback" not in service.output
        assert service.lines(named), service.output
        said = service.lines("#critical]") or service.lines("smtphooks: ")
        # What is wrong in all workers is said by as many as came to it, each once, and by the supervisor once.
        for worker in ("[worker 1 ", "[worker 2 ", "[worker 3 "):
            assert sum(worker in line for line in said) <= 1, service.output
        assert sum("[worker " not in line for line in said) == 1, service.output
        assert all(map(isZombie, started))
    assert not [path for path in tmp_path.iterdir() if path.is_socket() or path.suffix in (".lock", ".pid")]


def test_a_second_supervisor_at_the_same_port_is_refused_with_one_sentence(tmp_path: Path) -> None:
    with serving(tmp_path, hooks=HANGING) as service:
        folder = tmp_path / "other"
        folder.mkdir()
        files = Files(folder)
        files.write(2, hooks=HANGING, endpoints=[tcp(service.files.port)])
        with Supervised(files) as other:
            assert other.wait() == 1
            assert len(other.lines("cannot listen on", "Address already in use")) == 1
            assert "Traceback" not in other.output
        deliver(service.files.port)
