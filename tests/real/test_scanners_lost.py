"""Debian's rspamd and clamd at once in front of one mailbox: lost within a message, and without limits of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from smtphooks.layer import Layer
from smtphooks.layers import ClamAV, Rspamd
from tests.conftest import Logged
from tests.real.programs import requires
from tests.real.test_clamav import VIRUSES, Clamd
from tests.real.test_rspamd import RspamdProgram, about
from tests.support import ENVELOPE, Mailbox
from tests.test_tcp import served

pytestmark = requires("clamd", "rspamd")

CLEAN, SPAM = about(b"hello"), about(b"spam")
VIRUS = CLEAN + VIRUSES["Own.Text"] + b"\r\n"

ACCEPTED = b"250 2.0.0 Message accepted\r\n"
TRY_AGAIN = b"451 4.3.0 Temporary server error, please try again later\r\n"
REFUSED_AS_SPAM = b"554 5.7.1 Message refused as spam\r\n"
REFUSED_AS_VIRUS = b"550 5.7.1 Message refused, it contains Own.Text.UNOFFICIAL\r\n"


class Scanners:
    """
    Both programs.

    @ivar processes: those of each, by its name.
    """

    def __init__(self, folder: Path) -> None:
        for name in ("clamd", "rspamd"):
            (folder / name).mkdir()
        self.clamd, self.rspamd = Clamd(folder / "clamd"), RspamdProgram(folder / "rspamd")
        workers = Path(f"/proc/{self.rspamd.pid}/task/{self.rspamd.pid}/children").read_text().split()
        self.processes = {"clamd": [self.clamd.pid], "rspamd": [self.rspamd.pid, *map(int, workers)]}

    def layers(self, timeout: float = 30, **options: Any) -> list[Layer]:
        scanners = [
            Rspamd(url=self.rspamd.url, timeout=timeout),
            ClamAV(endpoint=self.clamd.tcp, timeout=timeout),
        ]
        return [Layer(scanner, **options) for scanner in scanners]

    @contextmanager
    def stalled(self, name: str) -> Iterator[None]:
        """One of them accepts connections and octets, as the kernel does that for it, and does nothing."""
        for process in self.processes[name]:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in self.processes[name]:
                os.kill(process, signal.SIGCONT)

    def stop(self) -> None:
        self.clamd.kill()
        self.rspamd.terminate()


class Dialogue:
    """
    A client of a server with some layers.

    @ivar mailbox: the messages that it has accepted.
    """

    def __init__(self) -> None:
        self.mailbox = Mailbox()
        self._client: Any = None

    async def begin(self, serve: Any, layers: list[Layer]) -> Dialogue:
        server = await serve(hooks=[*layers, SimpleNamespace(onData=self.mailbox.onData)], onClose=None)
        self._client = await server.connect()
        await self._client.until(b"220 ")
        return self

    async def send(self, message: bytes, reply: bytes) -> None:
        await self.sendBeginning(message)
        await self.sendEnd(b"", reply)

    async def sendBeginning(self, octets: bytes) -> None:
        """Send octets of a message, and wait until the server has them."""
        self._client.say(*ENVELOPE)
        self._client.transport.write(b"BDAT %d\r\n" % len(octets) + octets)
        await self._client.until(b"250 2.1.5 ")
        await self._client.until(b"250 2.0.0 ")

    async def sendEnd(self, octets: bytes, reply: bytes) -> None:
        self._client.transport.write(b"BDAT %d LAST\r\n" % len(octets) + octets)
        await self._client.until(reply)


@served
async def test_a_scanner_without_a_timeout_keeps_to_that_of_its_hooks(
    serve: Any, logged: Logged, tmp_path: Path
) -> None:
    scanners = Scanners(tmp_path)
    try:
        dialogue = await Dialogue().begin(serve, scanners.layers(timeout=0, hookTimeout=0.5))
        for name in scanners.processes:
            with scanners.stalled(name):
                await dialogue.send(CLEAN, b"451 4.")
        assert dialogue.mailbox == []
        await dialogue.send(CLEAN, ACCEPTED)
        # What one of them cannot tell is still refused by the other.
        passing = await Dialogue().begin(serve, scanners.layers(timeout=0.5, onFault="pass"))
        with scanners.stalled("rspamd"):
            await passing.send(VIRUS, REFUSED_AS_VIRUS)
        scanners.clamd.kill()
        await passing.send(SPAM, REFUSED_AS_SPAM)
        assert passing.mailbox == []
        logged.takeTexts()
    finally:
        scanners.stop()


@served
async def test_nothing_is_let_past_when_a_scanner_dies_within_a_message(
    serve: Any, logged: Logged, tmp_path: Path
) -> None:
    scanners = Scanners(tmp_path)
    try:
        dialogue = await Dialogue().begin(serve, scanners.layers())
        await dialogue.sendBeginning(CLEAN)
        scanners.clamd.kill()
        await dialogue.sendEnd(b"more\r\n", TRY_AGAIN)
        assert dialogue.mailbox == []
        (text,) = logged.takeTexts()
        assert text.startswith("hook inspectData of ClamAV cannot decide: clamd at")
    finally:
        scanners.stop()
