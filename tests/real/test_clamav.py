"""Debian's clamd, with two signatures of our own: viruses it finds, limits it has, and that it may go and come back."""

from __future__ import annotations

import getpass
import os
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
import pytest_twisted

from smtphooks.layers import ClamAV
from smtphooks.layers.exchange import ScannerFault
from smtphooks.replies import SMTPError
from smtphooks.session import Session
from tests.layers.scanners import Message
from tests.real.programs import Program, freePort, requires, which

pytestmark = requires("clamd")

# In no text of this project are they whole, or a scanner on the developer's machine could take it for a virus.
VIRUSES = {"Own.Text": b"smtphooks-" + b"own-virus", "Own.Other": b"smtphooks-" + b"other-virus"}

_CONFIG = """\
Foreground yes
LocalSocket {folder}/clamd.socket
TCPSocket {port}
TCPAddr 127.0.0.1
DatabaseDirectory {folder}/signatures
TemporaryDirectory {folder}
StreamMaxLength 1M
User {user}
"""


class Clamd(Program):
    """
    clamd with the signatures of L{VIRUSES}.

    @ivar tcp: its endpoint; C{unix}: its other one, the same for each clamd of a folder.
    """

    def __init__(self, folder: Path) -> None:
        port = freePort()
        signatures = folder / "signatures"
        signatures.mkdir(exist_ok=True)
        lines = [f"{name}:0:*:{octets.hex()}\n" for name, octets in VIRUSES.items()]
        (signatures / "own.ndb").write_text("".join(lines))
        config = folder / "clamd.conf"
        config.write_text(_CONFIG.format(folder=folder, port=port, user=getpass.getuser()))
        program = which("clamd")
        assert program is not None
        super().__init__([program, "-c", str(config)], os.environ, folder)
        self.tcp, self.unix = f"tcp:127.0.0.1:{port}", f"unix:{folder}/clamd.socket"
        self.waitForLine("Self checking")


@pytest.fixture(scope="module")
def clamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clamd]:
    clamd = Clamd(tmp_path_factory.mktemp("clamd"))
    yield clamd
    clamd.kill()


async def scan(endpoint: str, message: Message, **options: object) -> str | None:
    """The name of the virus in a message, which is refused if there is one."""
    layer, session = ClamAV(endpoint=endpoint, **options), Session()
    try:
        await layer.inspectData(message, session)
    except SMTPError:
        if session.of(layer).virus is None:
            raise
    assert session.of(layer).isScanned
    virus: str | None = session.of(layer).virus
    return virus


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest_twisted.ensureDeferred
async def test_clean_messages_pass_and_viruses_are_refused(clamd: Clamd, kind: str) -> None:
    endpoint = getattr(clamd, kind)
    assert await scan(endpoint, Message(b"Subject: x\r\n\r\ntext\r\n")) is None
    assert await scan(endpoint, Message()) is None
    for name, octets in VIRUSES.items():
        chunks = [b"Subject: x\r\n\r\n", octets[:7], octets[7:], b"\r\n"]
        assert await scan(endpoint, Message(*chunks)) == f"{name}.UNOFFICIAL"


@pytest_twisted.ensureDeferred
async def test_a_virus_in_an_attachment_is_found(clamd: Clamd) -> None:
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("file.txt", VIRUSES["Own.Other"])
    assert await scan(clamd.tcp, Message(archive.getvalue())) == "Own.Other.UNOFFICIAL"


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest_twisted.ensureDeferred
async def test_a_message_above_the_limit_of_clamd_is_refused_for_good(clamd: Clamd, kind: str) -> None:
    for chunk in (1000, 70_000, 3_000_000):
        chunks = [b"x" * chunk] * (3_000_000 // chunk)
        with pytest.raises(SMTPError) as caught:
            await scan(getattr(clamd, kind), Message(*chunks))
        assert caught.value.responseCode == 552


@pytest_twisted.ensureDeferred
async def test_only_the_beginning_of_a_large_message_is_scanned_if_so_wanted(clamd: Clamd) -> None:
    virus, filler = VIRUSES["Own.Text"], b"x" * 1_000_000
    assert await scan(clamd.tcp, Message(filler, filler, virus), sizeLimit=1_000_000) is None
    assert await scan(clamd.tcp, Message(virus, filler, filler), sizeLimit=1_000_000) == "Own.Text.UNOFFICIAL"


@pytest_twisted.ensureDeferred
async def test_while_clamd_is_gone_there_is_no_verdict(tmp_path: Path) -> None:
    clamd = Clamd(tmp_path)
    assert await scan(clamd.tcp, Message(b"text")) is None
    clamd.kill()
    for endpoint in (clamd.tcp, clamd.unix):
        with pytest.raises(ScannerFault, match=r"^clamd at .* cannot be reached: Connection was refused"):
            await scan(endpoint, Message(VIRUSES["Own.Text"]))
