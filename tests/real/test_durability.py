"""Every message that got a 250 is whole on disk though the server is killed under load; no other is there in part."""

from __future__ import annotations

import base64
import hashlib
import random
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.real.programs import PATIENCE, Client, Maildir, Service, freePort, hidden, table, tcp

ROUNDS = 5
CLIENTS = 8

_MESSAGE = re.compile(rb"X-ID: (\S+)\nX-Octets: (\d+)\nX-Digest: (\w+)\n\n((?s:.*))\Z")


class Load:
    """
    Clients that send until the server is killed.

    @ivar acknowledged: the identity of every delivery that got a 250.
    """

    def __init__(self, name: str, smtp: int, lmtp: int) -> None:
        self._name = name
        self._smtp = smtp
        self._lmtp = lmtp
        self._news = threading.Condition()
        self.acknowledged: list[bytes] = []

    def waitFor(self, count: int) -> bool:
        """Wait for this many acknowledgements."""
        with self._news:
            return self._news.wait_for(lambda: len(self.acknowledged) >= count, PATIENCE)

    def send(self, number: int) -> None:
        """Be one client: every second one sends chunks, every fourth one speaks LMTP, with two recipients."""
        chooser = random.Random(f"{self._name}-{number}")
        lmtp = number % 4 == 3
        port, greeting = (self._lmtp, b"LHLO client.example") if lmtp else (self._smtp, b"EHLO client.example")
        recipients = [b"first@there.example", b"second@there.example"][: 1 + lmtp]
        send = self._sendChunks if number % 2 == 0 else self._sendData
        try:
            with Client(port, greeting) as client:
                for count in range(1_000_000):
                    identity = f"{self._name}-{number}-{count}".encode()
                    client.envelope(*recipients)
                    send(client, compose(identity, chooser))
                    for recipient in recipients:
                        client.reply(250)
                        self._acknowledge(identity + b"/" + recipient)
        except OSError:
            pass  # the server is gone

    def _acknowledge(self, delivery: bytes) -> None:
        with self._news:
            self.acknowledged.append(delivery)
            self._news.notify_all()

    def _sendData(self, client: Client, message: bytes) -> None:
        client.say(b"DATA", 354)
        client.socket.sendall(hidden(message))

    def _sendChunks(self, client: Client, message: bytes) -> None:
        half = len(message) // 2
        client.socket.sendall(b"BDAT %d\r\n" % half + message[:half])
        client.reply(250)
        client.socket.sendall(b"BDAT %d LAST\r\n" % (len(message) - half) + message[half:])


def compose(identity: bytes, chooser: random.Random) -> bytes:
    """A message of 1 to 200 KB whose header tells whether it is whole."""
    octets = chooser.randbytes(int(750 * 200 ** chooser.random()))
    body = base64.encodebytes(octets).replace(b"\nA", b"\n.")
    header = b"X-ID: %b\nX-Octets: %d\nX-Digest: %b\n\n" % (identity, len(body), digest(body))
    return (header + body).replace(b"\n", b"\r\n")


def digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def deliveries(maildir: Maildir) -> list[bytes]:
    """The identities of all stored messages, each of which must be whole."""
    found = []
    for stored in maildir.messages():
        parts = _MESSAGE.match(stored.content)
        assert parts is not None, stored
        identity, octets, expected, body = parts.groups()
        assert len(body) == int(octets), identity
        assert digest(body) == expected, identity
        (recipient,) = stored.deliveredTo
        found.append(identity + b"/" + recipient.encode())
    return found


def startBoth(folder: Path, maildir: Maildir) -> tuple[Service, int, int]:
    """A service that speaks SMTP on the first port and LMTP on the second one."""
    smtp, lmtp = freePort(), freePort()
    config = folder / "smtphooks.toml"
    tables = [
        'hooks = "smtphooks.stores:Maildir"\n',
        table("hooks-options", {"path": maildir.path}),
        table("options", {"authOptional": True}),
        table("[listener]", {"endpoint": tcp(smtp)}),
        table("[listener]", {"endpoint": tcp(lmtp), "lmtp": True}),
    ]
    config.write_text("\n".join(tables))
    return Service(folder, ["--config", str(config)], [tcp(smtp), tcp(lmtp)]), smtp, lmtp


def test_acknowledged_messages_outlive_a_server_that_is_killed_under_load(tmp_path: Path, maildir: Maildir) -> None:
    chooser = random.Random("rounds")
    acknowledged = []
    for number in range(ROUNDS):
        service, smtp, lmtp = startBoth(tmp_path, maildir)
        load = Load(f"round{number}", smtp, lmtp)
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(load.send, client) for client in range(CLIENTS)]
            try:
                reached = load.waitFor(chooser.randint(50, 250))
            finally:
                service.kill()
        for client in clients:
            client.result()
        assert reached, service.output
        acknowledged += load.acknowledged

    found = deliveries(maildir)
    assert set(acknowledged) <= set(found)
    assert len(found) == len(set(found))
    # In each round, each client can have had one message in flight that was stored and not acknowledged.
    assert len(found) <= len(acknowledged) + ROUNDS * CLIENTS * 2
