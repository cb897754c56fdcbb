"""
The load: clients on many connections that note exactly what they were told of every message.

In: the ports of the receiver.  Out: L{Ledger.tell}, once for every copy.
Commands go one by one or in a pipeline, messages by DATA or by BDAT, to one recipient or to two; every third client
speaks LMTP.  Now and then one leaves within a message.  A client tries again what was cut or had a 4xx, as its
queue would.
This module knows no store and no faults.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from chaos.ledger import Copy, Ledger, Told
from chaos.messages import compose

# How long a client waits for a reply; only a server that hangs lets it wait that long.
PATIENCE = 60.0

RECIPIENTS = ("first@there.example", "second@there.example")
_LEAVING = 8  # a client leaves within every eighth message
_PAUSE = 0.02
_AGAIN = 0.2  # the most seconds before it tries again
_TRIES = 3  # of a message
_CHUNKS = 3


class Ports(NamedTuple):
    """
    Where the receiver listens.

    @ivar lmtp: None if it listens for SMTP alone, which all clients speak then.
    """

    smtp: int
    lmtp: int | None
    host: str = "127.0.0.1"


class Load:
    """Clients that send until they are told to stop; what is in flight then is ended first."""

    def __init__(
        self,
        name: str,
        ports: Ports,
        ledger: Ledger,
        clients: int,
        sources: Sequence[str] = ("",),
        recipients: Sequence[str] = RECIPIENTS,
        pause: float = _PAUSE,
    ) -> None:
        """
        @param sources: the addresses of the clients, which take them in turns; C{""} is any.
        @param pause: the most seconds between two messages of a client.
        """
        self._stopping = threading.Event()
        self._clients = [
            _Client(f"{name}-{number}", number, ports, ledger, sources[number % len(sources)], recipients, pause)
            for number in range(clients)
        ]
        self._threads = [
            threading.Thread(target=client.run, args=[self._stopping], daemon=True) for client in self._clients
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def complaints(self) -> list[str]:
        """What clients found wrong with the replies."""
        return [client.complaint for client in self._clients if client.complaint]


class _Message(NamedTuple):
    """
    A message that is to be sent.

    @ivar tries: how often it was sent already.
    """

    identity: str
    recipients: list[str]
    content: bytes
    tries: int = 0


class _Attempt:
    """
    One try to send a message.

    @ivar pending: the copies of which nothing is known yet.
    """

    def __init__(self, message: _Message, ledger: Ledger) -> None:
        self.message = message
        self.pending = [Copy(message.identity, recipient) for recipient in message.recipients]
        self._ledger = ledger
        self._again: list[str] = []

    def tell(self, copy: Copy, told: Told) -> None:
        """Note what became of a copy."""
        self.pending.remove(copy)
        self._ledger.tell(copy, told)
        if told in (Told.LATER, Told.CUT):
            self._again.append(copy.recipient)

    def end(self, told: Told) -> None:
        """Note what became of all other copies."""
        for copy in list(self.pending):
            self.tell(copy, told)

    def next(self) -> _Message | None:
        """What is to be tried again."""
        tries = self.message.tries + 1
        return self.message._replace(recipients=self._again, tries=tries) if self._again and tries < _TRIES else None


class _Malformed(Exception):
    """A reply is none."""


class _Client:
    """
    One client, with one connection at a time.

    @ivar complaint: a sentence, if the server broke the protocol, or this module is wrong; the client has ended then.
    """

    def __init__(
        self,
        name: str,
        number: int,
        ports: Ports,
        ledger: Ledger,
        source: str,
        recipients: Sequence[str],
        pause: float,
    ) -> None:
        self._name = name
        self._number = number
        lmtp = ports.lmtp if number % 3 == 2 else None
        self._lmtp = lmtp is not None
        self._address = (ports.host, lmtp or ports.smtp)
        self._source = source
        self._recipients = recipients
        self._pause = pause
        self._ledger = ledger
        self._chooser = random.Random(name)
        self._count = 0
        self._again: _Message | None = None
        self.complaint = ""

    def run(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            try:
                with Connection(self._address, self._lmtp, self._source) as connection:
                    while not stopping.is_set() and self._deliver(connection, self._next()):
                        time.sleep(self._chooser.uniform(0, _AGAIN if self._again else self._pause))
            except OSError:
                stopping.wait(self._chooser.uniform(0, _AGAIN))
            except Exception as error:
                self.complaint = f"{self._name}: {error!r}"
                return

    def _next(self) -> _Message:
        """The message that is to be tried again, or another one."""
        again, self._again = self._again, None
        if again:
            return again
        self._count += 1
        identity = f"{self._name}-{self._count}"
        recipients = list(self._recipients[: self._chooser.choice((1, 1, 2))])
        return _Message(identity, recipients, compose(identity, self._chooser))

    def _deliver(self, connection: Connection, message: _Message) -> bool:
        """
        Send one message, and note what becomes of it.

        @return: whether the connection can be used further.
        """
        attempt = _Attempt(message, self._ledger)
        try:
            # The first ones leave soon, so that a short load has it as well.
            if message.tries == 0 and (self._count + self._number) % _LEAVING == 3:
                self._leave(connection, attempt)
                attempt.end(Told.LEFT)
                return False
            self._transact(connection, attempt)
        except TimeoutError:
            attempt.end(Told.SILENT)
            raise
        except OSError:
            attempt.end(Told.CUT)
            raise
        finally:
            self._again = attempt.next()
        return True

    def _transact(self, connection: Connection, attempt: _Attempt) -> None:
        chunked = self._chooser.random() < 0.4
        accepted = self._open(connection, attempt, [] if chunked else [b"DATA"])
        content = attempt.message.content
        if chunked and accepted:
            done = self._sendChunks(connection, content)
        elif not chunked and connection.code == 354:
            # DATA may get a 354 though no recipient is left: an empty message is refused then (RFC 2920 section 3.1).
            connection.send(content.replace(b"\r\n.", b"\r\n..") + b".\r\n" if accepted else b".\r\n")
            done = True
        else:
            done = False
        if not done:
            attempt.end(toldBy(connection.code))
            connection.send(b"RSET\r\n")
            connection.reply()
        elif self._lmtp:
            for copy in accepted:
                attempt.tell(copy, toldBy(connection.reply()))
        else:
            attempt.end(toldBy(connection.reply()))

    def _open(self, connection: Connection, attempt: _Attempt, last: list[bytes]) -> list[Copy]:
        """
        Send the commands, at once or one by one; the code of the last reply is that of C{connection}.

        @return: the copies whose recipients were accepted; the others have been told.
        """
        copies = list(attempt.pending)
        commands = [b"MAIL FROM:<sender@here.example>"]
        commands += [b"RCPT TO:<%b>" % copy.recipient.encode() for copy in copies] + last
        if self._chooser.random() < 0.5:
            connection.send(b"".join(command + b"\r\n" for command in commands))
            codes = [connection.reply() for _ in commands]
        else:
            codes = []
            for command in commands:
                connection.send(command + b"\r\n")
                codes.append(connection.reply())
        if codes[0] != 250:
            attempt.end(toldBy(codes[0]))
            return []
        accepted = []
        for copy, code in zip(copies, codes[1:], strict=False):
            if code == 250:
                accepted.append(copy)
            else:
                attempt.tell(copy, toldBy(code))
        return accepted

    def _sendChunks(self, connection: Connection, content: bytes) -> bool:
        """Send the message as chunks; False if it was refused before the last one."""
        step = len(content) // _CHUNKS + 1
        chunks = [content[first : first + step] for first in range(0, len(content), step)]
        for number, chunk in enumerate(chunks):
            isLast = number == len(chunks) - 1
            connection.send(b"BDAT %d%b\r\n" % (len(chunk), b" LAST" * isLast) + chunk)
            if not isLast and connection.reply() != 250:
                return False
        return True

    def _leave(self, connection: Connection, attempt: _Attempt) -> None:
        """Send a message without its end, and go, politely or not."""
        content = attempt.message.content
        if self._open(connection, attempt, [b"DATA"]) and connection.code == 354:
            part = content[: self._chooser.randrange(len(content))]
            connection.send(part.replace(b"\r\n.", b"\r\n.."))
        if self._chooser.random() < 0.5:
            connection.reset()


def toldBy(code: int) -> Told:
    """What a final reply says of a copy."""
    if code == 250:
        return Told.TAKEN
    if 400 <= code <= 599:
        return Told.LATER if code < 500 else Told.NEVER
    raise _Malformed(f"{code} is no reply to a message")


class Connection:
    """
    A connection on which the server has greeted.

    @ivar code: that of the last reply.
    """

    def __init__(self, address: tuple[str, int], lmtp: bool = False, source: str = "") -> None:
        """
        @param source: the address of the client; C{""} is any.
        @raise OSError: if the server does not greet.
        """
        self._socket = socket.create_connection(address, PATIENCE, (source, 0))
        self._file = self._socket.makefile("rb")
        self.code = 0
        try:
            greeting = self.reply()
            self.send(b"LHLO client.example\r\n" if lmtp else b"EHLO client.example\r\n")
            if (greeting, self.reply()) != (220, 250):
                raise ConnectionError("the server is not ready")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def reset(self) -> None:
        """End with RST when it is closed."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def send(self, octets: bytes) -> None:
        self._socket.sendall(octets)

    def reply(self) -> int:
        """
        The code of the next reply.

        @raise ConnectionError: if the connection has ended, within a reply as well.
        """
        while True:
            line = self._file.readline()
            if not line.endswith(b"\r\n"):
                raise ConnectionError("the connection was cut")
            if not line[:3].isdigit() or line[3:4] not in (b" ", b"-"):
                raise _Malformed(f"{line!r} is no reply")
            if line[3:4] == b" ":
                self.code = int(line[:3])
                return self.code
