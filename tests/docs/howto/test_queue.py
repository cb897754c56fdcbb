"""docs/howto/queue.rst: mail goes through the receiver, the queue and the delivery of the page."""

from __future__ import annotations

import os
import sys

from smtphooks.testing import SMTPServerThread
from tests.docs.howto.conftest import Page, deliver
from tests.real.conftest import rabbitmq as rabbitmq
from tests.real.conftest import sharedRabbitMQ as sharedRabbitMQ
from tests.real.conftest import startRabbitMQ as startRabbitMQ
from tests.real.programs import ROOT, Program, eventually
from tests.real.rabbitmq import RabbitMQ, needsRabbitMQ

pytestmark = needsRabbitMQ

PAGE = "queue"


def test_mail_goes_through_the_queue(page: Page, rabbitmq: RabbitMQ) -> None:
    port = page.listen("receiver.toml", "tcp:25")
    page.change("receiver.toml", "amqp://127.0.0.1:5672/", rabbitmq.url)
    # The queue of the page may have been declared by other pages.
    page.change("receiver.toml", 'routingKey = "mail"', 'routingKey = "howto"')
    (page.folder / "claims").mkdir()
    page.start("smtphooks --config receiver.toml")
    assert deliver(port, "ann@elsewhere.example")[0] == 550
    assert deliver(port, "ann@example.org", "bob@example.org")[0] == 250
    assert deliver(port, "ann@example.org", message=b"Subject: large\r\n\r\n" + b"x" * 70 + b"\r\n" * 600_000)[0] == 250
    assert len(os.listdir(page.folder / "claims")) == 1
    with SMTPServerThread(lmtp=True) as target:
        target.fail("RCPT", 550, recipient="bob@example.org")
        words = page.command("python examples/queuedelivery.py")
        changes = {
            "python": sys.executable,
            "examples/queuedelivery.py": str(ROOT / "examples" / "queuedelivery.py"),
            "amqp://127.0.0.1:5672/": rabbitmq.url,
            "127.0.0.1:24": f"127.0.0.1:{target.port}",
            "mail": "howto",
        }
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        delivery = Program([changes.get(word, word) for word in words], environment, page.folder)
        messages = target.waitFor(2, 60)
        (parked,) = rabbitmq.waitFor("howto.parked", 1)
        eventually(lambda: not os.listdir(page.folder / "claims"), "the claim is removed")
        assert delivery.terminate() == 0, delivery.output
    assert {len(message.envelope.rcptTo) for message in messages} == {1}
    assert parked.properties.headers["reason"].startswith("550 ")
    listed = rabbitmq.ctl("list_queues", "name", "type")
    for name in ("howto", "howto.parked", *(f"howto.retry.{pause}" for pause in (60, 300, 900, 3600, 14400))):
        assert f"{name}\tquorum" in listed
