"""examples/queuedelivery.py with a real RabbitMQ: mail that an MX has queued is delivered, comes back, or is parked."""

from __future__ import annotations

import json
import os
import smtplib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smtphooks.testing import ReceivedMessage, SMTPServerThread
from tests.examples.conftest import EXAMPLES
from tests.real.conftest import rabbitmq as rabbitmq
from tests.real.conftest import sharedRabbitMQ as sharedRabbitMQ
from tests.real.conftest import startRabbitMQ as startRabbitMQ
from tests.real.programs import ROOT, Program, Service, eventually, freePort, table, tcp
from tests.real.rabbitmq import RabbitMQ, needsRabbitMQ
from tests.secrets import secretsIn

pytestmark = needsRabbitMQ

CONTENT = b"Subject: hello\r\n\r\nhello\r\n"
LARGE = CONTENT + b"0123456789abcdef\r\n" * 1000

StartConsumer = Callable[..., Program]


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> str:
    name: str = request.node.name
    return f"delivery.{name}"


@pytest.fixture
def target() -> Iterator[SMTPServerThread]:
    """The server that mail is delivered to."""
    with SMTPServerThread() as server:
        yield server


@pytest.fixture
def startConsumer(rabbitmq: RabbitMQ, tmp_path: Path, queue: str) -> Iterator[StartConsumer]:
    started: list[Program] = []

    def start(target: str, *arguments: str, pauses: str = "1,1") -> Program:
        command = [sys.executable, str(EXAMPLES / "queuedelivery.py"), rabbitmq.url, target, "--queue", queue]
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        program = Program([*command, "--pauses", pauses, *arguments], {**os.environ, "PYTHONPATH": paths}, tmp_path)
        started.append(program)
        program.waitForLine("delivering from")
        return program

    yield start
    for program in started:
        assert program.terminate() == 0, program.output
        assert "Traceback" not in program.output, program.output
        assert not secretsIn(program.output)


@pytest.fixture
def mx(rabbitmq: RabbitMQ, tmp_path: Path, queue: str) -> Iterator[int]:
    """The port of an MX that queues its mail."""
    port = freePort()
    (tmp_path / "claims").mkdir()
    layer = {"use": "smtphooks.stores:RabbitMQ", "url": rabbitmq.url, "routingKey": queue, "declare": True}
    config = tmp_path / "mx.toml"
    config.write_text(
        table("options", {"authOptional": True, "name": "mx.example"})
        + table("[layer]", {**layer, "claims": "claims", "claimAbove": 10_000})
        + table("[listener]", {"endpoint": tcp(port)})
    )
    service = Service(tmp_path, ["--config", str(config)], [tcp(port)])
    yield port
    assert service.terminate() == 0
    assert not secretsIn(service.output), service.output


def send(port: int, *recipients: str, content: bytes = CONTENT) -> None:
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.sendmail("ann@example.org", recipients or ("bob@mx.example",), content)


def claims(folder: Path) -> list[str]:
    return os.listdir(folder / "claims")


def recipientsOf(message: ReceivedMessage) -> list[str]:
    return list(map(str, message.envelope.rcptTo))


def at(target: SMTPServerThread) -> str:
    return f"127.0.0.1:{target.port}"


def test_mail_goes_from_an_mx_through_the_queue_to_the_server(
    rabbitmq: RabbitMQ, queue: str, target: SMTPServerThread, startConsumer: StartConsumer, mx: int
) -> None:
    startConsumer(at(target))
    send(mx, "bob@mx.example", "eve@mx.example")
    (message,) = target.waitFor(1, 30)
    assert str(message.envelope.mailFrom) == "ann@example.org"
    assert recipientsOf(message) == ["bob@mx.example", "eve@mx.example"]
    assert message.octets.startswith(b"Received: ") and message.octets.endswith(CONTENT)
    eventually(lambda: rabbitmq.count(queue) == 0, "the queue is empty")


def test_a_large_message_is_delivered_from_its_claim_which_is_removed(
    tmp_path: Path, queue: str, target: SMTPServerThread, startConsumer: StartConsumer, mx: int
) -> None:
    send(mx, content=LARGE)
    assert len(claims(tmp_path)) == 1
    startConsumer(at(target), "--claims", str(tmp_path / "claims"))
    (message,) = target.waitFor(1, 30)
    assert message.octets.endswith(LARGE)
    eventually(lambda: not claims(tmp_path), "the claim is removed")


def test_who_is_refused_for_now_gets_the_message_later_and_alone(
    queue: str, target: SMTPServerThread, startConsumer: StartConsumer, mx: int
) -> None:
    target.fail("RCPT", 451, times=1, recipient="eve@mx.example")
    startConsumer(at(target))
    send(mx, "bob@mx.example", "eve@mx.example")
    first, second = target.waitFor(2, 30)
    assert (recipientsOf(first), recipientsOf(second)) == (["bob@mx.example"], ["eve@mx.example"])


def test_who_is_refused_for_good_is_parked(
    rabbitmq: RabbitMQ, tmp_path: Path, queue: str, target: SMTPServerThread, startConsumer: StartConsumer, mx: int
) -> None:
    target.fail("RCPT", 550, recipient="eve@mx.example")
    startConsumer(at(target), "--claims", str(tmp_path / "claims"))
    send(mx, "bob@mx.example", "eve@mx.example", content=LARGE)
    target.waitFor(1, 30)
    (parked,) = rabbitmq.waitFor(f"{queue}.parked", 1)
    assert json.loads(parked.properties.headers["envelope"])["rcptTo"] == ["eve@mx.example"]
    assert parked.properties.headers["reason"].startswith("550 ")
    assert len(claims(tmp_path)) == 1


def test_a_message_that_comes_back_too_often_is_parked(
    rabbitmq: RabbitMQ, queue: str, target: SMTPServerThread, startConsumer: StartConsumer, mx: int
) -> None:
    target.fail("DATA", 451)
    program = startConsumer(at(target))
    send(mx)
    (parked,) = rabbitmq.waitFor(f"{queue}.parked", 1)
    assert parked.properties.headers["attempt"] == 3
    assert parked.body.endswith(CONTENT)
    assert program.output.count("1 refused for now") == 2


def test_a_server_that_is_down_gets_the_message_later(
    queue: str, target: SMTPServerThread, startConsumer: StartConsumer, mx: int
) -> None:
    port = freePort()
    program = startConsumer(f"127.0.0.1:{port}")
    send(mx)
    program.waitForLine("1 refused for now")
    with SMTPServerThread(port=port) as late:
        assert late.waitFor(1, 30)


def test_what_is_no_message_is_parked(
    rabbitmq: RabbitMQ, queue: str, target: SMTPServerThread, startConsumer: StartConsumer
) -> None:
    startConsumer(at(target))
    rabbitmq.publish(queue, b"hello", message_id="other", headers={"a": 1})
    rabbitmq.publish(queue, b"hello", headers={"envelope": "[]"})
    rabbitmq.publish(queue, b"hello")
    assert len(rabbitmq.waitFor(f"{queue}.parked", 3)) == 3


def test_a_broker_that_is_killed_loses_no_message(
    rabbitmq: RabbitMQ, queue: str, target: SMTPServerThread, startConsumer: StartConsumer, mx: int
) -> None:
    program = startConsumer(at(target))
    target.fail("DATA", 451, times=1)
    send(mx)
    program.waitForLine("1 refused for now")
    rabbitmq.kill()
    rabbitmq.start()
    assert target.waitFor(1, 60)


ENVELOPE = {
    "mailFrom": "ann@example.org",
    "rcptTo": ["bob@mx.example"],
    "mailParameters": {},
    "rcptParameters": [{}],
}


def headersWith(**changes: object) -> dict[str, object]:
    return {"envelope": json.dumps({**ENVELOPE, **changes})}


def test_what_nobody_can_deliver_is_parked_and_holds_up_no_other(
    rabbitmq: RabbitMQ, tmp_path: Path, queue: str, target: SMTPServerThread, startConsumer: StartConsumer
) -> None:
    (tmp_path / "claims" / "folder.eml").mkdir(parents=True)
    program = startConsumer(at(target), "--claims", str(tmp_path / "claims"))
    claim = {"claim-sha256": "0" * 64}
    poison: list[dict[str, object]] = [
        headersWith(mailFrom=None),
        headersWith(mailParameters=[1]),
        headersWith(rcptTo=[1]),
        headersWith(rcptTo="b"),
        headersWith(rcptTo=5),
        headersWith(rcptTo=[], rcptParameters=[]),
        headersWith(rcptTo=["bob@mx.example>\r\nRSET"]),
        headersWith(rcptParameters=[[1]]),
        headersWith(rcptParameters=[]),
        {**headersWith(), "attempt": "x"},
        {**headersWith(), "attempt": -1},
        {"envelope": "[" * 100_000},
        {"envelope": b"\xff"},
        {**headersWith(), "claim": 5, **claim},
        {**headersWith(), "claim": "file:///gone.eml", **claim},
        {**headersWith(), "claim": "file:///folder.eml", **claim},
        {**headersWith(), "claim": f"file:///{'x' * 300}.eml", **claim},
        {**headersWith(), "claim": "ftp://x", **claim},
    ]
    for headers in poison:
        rabbitmq.publish(queue, b"x", headers=headers)
    rabbitmq.publish(queue, CONTENT, headers=headersWith())
    assert len(rabbitmq.waitFor(f"{queue}.parked", len(poison))) == len(poison)
    assert len(target.waitFor(1, 30)) == 1
    assert "lost RabbitMQ" not in program.output


def test_what_the_broker_adds_and_a_long_reply_leave_the_headers_in_one_frame(
    rabbitmq: RabbitMQ, queue: str, target: SMTPServerThread, startConsumer: StartConsumer
) -> None:
    program = startConsumer(at(target), pauses="1,1,1,1,1,1")
    target.fail("RCPT", 451)
    # As many octets as smtphooks.stores.RabbitMQ puts into a frame of 128 KiB.
    rabbitmq.publish(queue, CONTENT, headers={**headersWith(), "verdicts": "x" * (131_072 - 1_500)})
    (parked,) = rabbitmq.waitFor(f"{queue}.parked", 1)
    assert parked.properties.headers["attempt"] == 7
    assert "x-death" not in parked.properties.headers
    assert "lost RabbitMQ" not in program.output


def test_a_queue_of_another_kind_leaves_no_connections(
    rabbitmq: RabbitMQ, queue: str, target: SMTPServerThread, startConsumer: StartConsumer
) -> None:
    program = startConsumer(at(target))
    rabbitmq.delete(queue)
    rabbitmq.declare(queue, "classic")
    eventually(lambda: program.output.count("lost RabbitMQ") > 2, "it tries again and again")
    assert int(rabbitmq.ctl("list_connections", "pid").count("<")) <= 1
    rabbitmq.delete(queue)
    program.waitForLine("delivering from")
