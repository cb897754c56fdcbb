"""
The other side of RabbitMQ: the broker of the tests, on the other side of the network.

This module knows no faults but what the broker itself can do.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from urllib.parse import unquote, urlsplit

from chaos.deliveries import Arrived, ToProcess, makeFolder
from chaos.place import Place
from tests.real.programs import Program
from tests.real.rabbitmq import Queued, RabbitMQ, needsRabbitMQ

_QUEUE = "smtphooks"


class _Broker(RabbitMQ):
    """A broker, which and whose port mapper run at the other side of a place."""

    def __init__(self, place: Place) -> None:
        folder = place.folder / "broker"
        folder.mkdir()
        super().__init__(folder)
        self._place = place
        self.url = self.url.replace("127.0.0.1", place.there)
        configuration = folder / "rabbitmq.conf"
        configuration.write_text(configuration.read_text().replace("127.0.0.1", place.there))

    def _launch(self, *arguments: str) -> Program:
        return self._place.run(*arguments, there=True, environment=self._environment)


class ToBroker(ToProcess):
    """A quorum queue of a broker; its disk is its own, and it would stop all publishers before that is full."""

    name = "RabbitMQ"
    parts = frozenset({"receiver", "other", "network"})
    further = ""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._broker = _Broker(place)

    @classmethod
    def missing(cls) -> str | None:
        skipped, *_ = needsRabbitMQ.args
        return str(needsRabbitMQ.kwargs["reason"]) if skipped else None

    def start(self) -> None:
        self._broker.start()
        self._broker.declare(_QUEUE)
        self.startReceiver()

    def close(self) -> None:
        self.receiver.kill()
        self._broker.close()

    def store(self) -> str:
        limits = "connectTimeout = 1\nconfirmTimeout = 2\n"
        return f'use = "smtphooks.stores:RabbitMQ"\nurl = "{self._broker.url}"\n' + limits + self.further

    def startOther(self) -> None:
        self._broker.start()

    def killOther(self) -> None:
        self._broker.kill()

    def stopOther(self) -> None:
        self._broker.stop()

    def signalOther(self, number: int) -> None:
        if number == signal.SIGSTOP:
            self._broker.pause()
        else:
            self._broker.resume()

    def arrived(self) -> Arrived:
        for queued in self._broker.take(_QUEUE):
            yield json.loads(queued.properties.headers["envelope"])["rcptTo"], self._octetsOf(queued)

    def _octetsOf(self, queued: Queued) -> bytes:
        return queued.body


class ToBrokerByClaims(ToBroker):
    """A broker which has references to the octets of all but small messages; these are in a folder."""

    name = "RabbitMQ, claims"
    parts = ToBroker.parts | {"disk"}

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._claims = makeFolder(place.kept / "claims")
        self.further = f'claims = "{self._claims}"\nclaimAbove = 10000\n'

    def _octetsOf(self, queued: Queued) -> bytes:
        claim = queued.properties.headers.get("claim")
        if claim is None:
            return queued.body
        path = Path(unquote(urlsplit(claim).path))
        octets = path.read_bytes() if path.exists() else b""
        path.unlink(missing_ok=True)
        return octets
