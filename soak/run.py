"""
A server under load, on loopback and for a limited time: thousands of idle connections, some that deliver messages, and
others that are lost at every stage.  At the end it has no descriptor, protocol or timer more than at the start.

C{make soak} runs it.  C{SOAK_CONNECTIONS}, C{SOAK_SENDERS} and C{SOAK_SECONDS} set the load and its duration.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONNECTIONS = int(os.environ.get("SOAK_CONNECTIONS", "5000"))
SENDERS = int(os.environ.get("SOAK_SENDERS", "20"))
SECONDS = float(os.environ.get("SOAK_SECONDS", "30"))

TIMEOUT = 30.0
AT_ONCE = 200  # connections made concurrently
LOST_AT_ONCE = 8  # clients that connect and are lost, again and again
AUTH_DELAY = 2.0  # longer than the delay after a first failed AUTH
BODY = (b"x" * 78 + b"\r\n") * 25
# These counts must return to their values at the start; memory does not, and is only printed.
KEPT = ("descriptors", "connections", "protocols", "calls", "sessions")

CONFIGURATION = """
hooks = "hooks:Hooks"

[options]
name = "mx.example"
authOptional = true
allowInsecureAuth = true
authFailuresPerAddress = 0
socketTimeout = 600

[[listener]]
endpoint = "tcp:{plain}:interface=127.0.0.1:backlog=1024"

[[listener]]
endpoint = "tcp:{secure}:interface=127.0.0.1:backlog=1024"
secure = true
"""

Ports = tuple[int, int]


class Client:
    """An SMTP client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: int, tls: ssl.SSLContext | None = None) -> Client:
        return cls(*await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port, ssl=tls), TIMEOUT))

    async def reply(self, code: int) -> str:
        """The text of the next reply's last line; the reply must have this code."""
        while True:
            line = (await asyncio.wait_for(self._reader.readline(), TIMEOUT)).decode()
            if line[3:4] == " ":
                if line[:3] != str(code):
                    raise AssertionError(f"{line!r} came instead of {code}")
                return line[4:].strip()
            if line[3:4] != "-":
                raise AssertionError(f"{line!r} is no reply")

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def say(self, line: str, code: int) -> str:
        self.send(line.encode() + b"\r\n")
        return await self.reply(code)

    async def begin(self) -> Client:
        await self.reply(220)
        await self.say("EHLO client.example", 250)
        return self

    async def envelope(self) -> None:
        await self.say("MAIL FROM:<sender@client.example>", 250)
        await self.say("RCPT TO:<recipient@mx.example>", 250)

    async def deliver(self) -> None:
        await self.envelope()
        await self.say("DATA", 354)
        self.send(BODY + b".\r\n")
        await self.reply(250)

    async def close(self, *, abort: bool = False) -> None:
        """Close without QUIT; or abort with a TCP reset, as after a crash."""
        if abort:
            connection = self._writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self._writer.transport.abort()
        else:
            self._writer.close()
        # The server may have reset the connection.
        with contextlib.suppress(OSError):
            await asyncio.wait_for(self._writer.wait_closed(), TIMEOUT)


# --- how connections are lost ---


def trusting() -> ssl.SSLContext:
    """A context that accepts the server's self-signed certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def clientHello() -> bytes:
    """The ClientHello of a TLS handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = trusting().wrap_bio(incoming, outgoing)
    try:
        connection.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake cannot complete without a server")


async def atConnect(ports: Ports) -> Client:
    return await Client.connect(ports[0])


async def atGreeting(ports: Ports) -> Client:
    client = await Client.connect(ports[0])
    await client.reply(220)
    return client


async def atEHLO(ports: Ports) -> Client:
    return await (await Client.connect(ports[0])).begin()


async def withinALine(ports: Ports) -> Client:
    client = await atEHLO(ports)
    client.send(b"MAIL FROM:<sender@cli")
    return client


async def atMAIL(ports: Ports) -> Client:
    client = await atEHLO(ports)
    await client.say("MAIL FROM:<sender@client.example>", 250)
    return client


async def atRCPT(ports: Ports) -> Client:
    client = await atEHLO(ports)
    await client.envelope()
    return client


async def withinDATA(ports: Ports) -> Client:
    client = await atRCPT(ports)
    await client.say("DATA", 354)
    client.send(BODY)
    return client


async def withinBDAT(ports: Ports) -> Client:
    client = await atRCPT(ports)
    client.send(b"BDAT 100000 LAST\r\n" + BODY)
    return client


async def afterTheDot(ports: Ports) -> Client:
    client = await withinDATA(ports)
    client.send(b".\r\n")
    return client


async def withinAUTH(ports: Ports) -> Client:
    client = await atEHLO(ports)
    await client.say("AUTH LOGIN", 334)
    return client


async def whileAUTHWaits(ports: Ports) -> Client:
    client = await atEHLO(ports)
    client.send(b"AUTH PLAIN AG5vYm9keQBub3RoaW5n\r\n")
    return client


async def withinSTARTTLS(ports: Ports) -> Client:
    client = await atEHLO(ports)
    await client.say("STARTTLS", 220)
    client.send(clientHello()[:50])
    return client


async def behindItsHello(ports: Ports) -> Client:
    client = await atEHLO(ports)
    await client.say("STARTTLS", 220)
    client.send(clientHello())
    return client


async def withinTLS(ports: Ports) -> Client:
    client = await Client.connect(ports[1])
    client.send(clientHello()[:50])
    return client


async def overTLS(ports: Ports) -> Client:
    client = await (await Client.connect(ports[1], trusting())).begin()
    await client.envelope()
    await client.say("DATA", 354)
    client.send(BODY)
    return client


LOSSES: list[Callable[[Ports], Awaitable[Client]]] = [
    *(atConnect, atGreeting, atEHLO, withinALine, atMAIL, atRCPT, withinDATA, withinBDAT, afterTheDot),
    *(withinAUTH, whileAUTHWaits, withinSTARTTLS, behindItsHello, withinTLS, overTLS),
]


# --- the run ---


class Soak:
    """
    One run.

    @ivar delivered: messages that the server acknowledged with 250.
    @ivar losses: the number of lost connections, by stage.
    """

    def __init__(self, ports: Ports) -> None:
        self.ports = ports
        self.delivered = 0
        self.losses: Counter[str] = Counter()

    async def measure(self) -> dict[str, int]:
        client = await (await Client.connect(self.ports[0])).begin()
        measured: dict[str, int] = json.loads((await client.say("VRFY measure", 250)).partition(" ")[2])
        await client.say("QUIT", 221)
        await client.close()
        return measured

    async def warmUp(self) -> None:
        """Have the server create what it creates only once, before the first measurement."""
        for lose in LOSSES:
            for abort in (True, False):
                await (await lose(self.ports)).close(abort=abort)
        client = await atEHLO(self.ports)
        await client.deliver()
        await client.close()

    async def settled(self, wanted: dict[str, int] | None = None) -> dict[str, int]:
        """The counts, as soon as they are those wanted, or after the timeout; without wanted ones after a delay."""
        end = time.monotonic() + TIMEOUT
        await asyncio.sleep(AUTH_DELAY)
        while True:
            measured = await self.measure()
            if wanted is None or not differences(wanted, measured) or time.monotonic() > end:
                return measured
            await asyncio.sleep(0.5)

    async def idle(self, count: int) -> list[Client]:
        room = asyncio.Semaphore(AT_ONCE)

        async def one() -> Client:
            async with room:
                return await atEHLO(self.ports)

        return list(await asyncio.gather(*(one() for _ in range(count))))

    async def send(self, end: float) -> None:
        client = await atEHLO(self.ports)
        while time.monotonic() < end:
            await client.deliver()
            self.delivered += 1
        await client.say("QUIT", 221)
        await client.close()

    async def lose(self, end: float, first: int) -> None:
        for number in itertools.count(first):
            if time.monotonic() > end:
                return
            stage = LOSSES[number % len(LOSSES)]
            client = await stage(self.ports)
            await client.close(abort=number // len(LOSSES) % 2 == 0)
            self.losses[stage.__name__] += 1

    async def run(self) -> list[str]:
        """Run and print; the result is a sentence for each difference."""
        await self.warmUp()
        start = await self.settled()
        show("at the start", start)
        began = time.monotonic()
        idle = await self.idle(CONNECTIONS)
        print(f"{len(idle)} idle connections made in {time.monotonic() - began:.1f} s")
        held = await self.measure()
        show("while they idle", held)
        print(f"{(held['memory'] - start['memory']) / len(idle):.0f} octets of memory for each")
        end = time.monotonic() + SECONDS
        await asyncio.gather(
            *(self.send(end) for _ in range(SENDERS)),
            *(self.lose(end, number * 2) for number in range(LOST_AT_ONCE)),
        )
        print(f"{self.delivered} messages by {SENDERS} senders, {self.delivered / SECONDS:.0f} a second")
        print("lost:", ", ".join(f"{count} {name}" for name, count in self.losses.items()))
        under = await self.measure()
        show("after the load", under)
        alive = await self.answering(idle)
        for number, client in enumerate(idle):
            await client.close(abort=number % 2 == 0)
        last = await self.settled(start)
        show("at the end", last)
        taken = last["messages"] - start["messages"]
        most = self.delivered + self.losses["afterTheDot"]
        return [
            *differences(start, last),
            *[f"{len(idle) - alive} idle connections are not served any more"] * (alive != len(idle)),
            *[f"{taken} messages taken, {self.delivered} acknowledged"] * (not self.delivered <= taken <= most),
            *[f"{held['calls'] - start['calls']} timers for idle connections"] * (held["calls"] > start["calls"]),
            *["a stage was not tried"] * (len(self.losses) != len(LOSSES)),
        ]

    async def answering(self, idle: list[Client]) -> int:
        """The number of idle connections that still get a reply."""
        for client in idle:
            client.send(b"NOOP\r\n")
        results = await asyncio.gather(*(client.reply(250) for client in idle), return_exceptions=True)
        return sum(isinstance(result, str) for result in results)


def show(when: str, measured: dict[str, Any]) -> None:
    print(f"{when:>16}:", ", ".join(f"{value} {name}" for name, value in measured.items()), flush=True)


def differences(start: dict[str, int], last: dict[str, int]) -> list[str]:
    """A sentence for each count that differs."""
    return [f"{last[name]} {name}, and {start[name]} at the start" for name in KEPT if last[name] != start[name]]


def freePort() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def raiseLimit() -> None:
    """Allow descriptors for all connections, here and in the server, which inherits the limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + 1000
    if most != resource.RLIM_INFINITY and most < wanted:
        raise SystemExit(
            f"{wanted} file descriptors are needed, {most} allowed: raise ulimit -n or lower SOAK_CONNECTIONS"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def start(folder: Path, ports: Ports) -> subprocess.Popen[bytes]:
    (folder / "smtphooks.toml").write_text(CONFIGURATION.format(plain=ports[0], secure=ports[1]))
    twistd = Path(sys.executable).parent / "twistd"
    path = os.pathsep.join([str(ROOT / "soak"), os.environ.get("PYTHONPATH", "")])
    server = subprocess.Popen(
        [twistd, "-n", "--pidfile=", "--logfile=twistd.log", "smtphooks", "--config=smtphooks.toml"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
    )
    end = time.monotonic() + TIMEOUT
    while server.poll() is None and time.monotonic() < end:
        try:
            for port in ports:
                socket.create_connection(("127.0.0.1", port), 1).close()
            return server
        except ConnectionRefusedError:
            time.sleep(0.05)
    server.kill()
    raise SystemExit("the server does not start:\n" + (folder / "twistd.log").read_text())


def main() -> int:
    raiseLimit()
    ports = freePort(), freePort()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = start(folder, ports)
        try:
            wrong = asyncio.run(Soak(ports).run())
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                status = server.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                server.kill()
                status = server.wait()
        log = (folder / "twistd.log").read_text()
    if status != 0:
        wrong.append(f"the server's exit status is {status}")
    if "Traceback" in log or "Unhandled" in log:
        wrong.append("the log has a failure:\n" + log[log.find("Traceback") - 500 :][:3000])
    print("\n".join(wrong) or "all counts are as at the start")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
