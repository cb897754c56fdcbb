"""
Any octets for the wire, in any pieces: it never raises, its buffers stay bounded, and the result does not depend on how
the octets were cut.

C{make fuzz} runs it; arguments are those of libFuzzer, such as C{-max_total_time=60} and folders of inputs.
"""

from __future__ import annotations

import re
import sys

import atheris

with atheris.instrument_imports(include=["smtphooks"]):
    from smtphooks.syntax.wire import ACCEPT, NORMALIZE, REJECT, LineFault, Wire

LIMIT = 512
MODES = (NORMALIZE, REJECT, ACCEPT)
PULL = 65536


def read(pieces: list[bytes], mode: str, chunk: int) -> list[object]:
    """Parse lines; after an empty line a message, after a line C{B} a chunk of so many octets, and then lines again."""
    wire = Wire(mode)
    found: list[object] = []
    message = b""
    inMessage = False
    for piece in pieces:
        wire.feed(piece)
        while True:
            if not inMessage:
                line = wire.maybeLine(LIMIT)
                if line is None:
                    break
                assert isinstance(line, LineFault) or (b"\n" not in line and len(line) + 1 <= LIMIT)
                found.append(line)
                inMessage = line in (b"", b"B")
                if line == b"":
                    wire.beginMessage()
                elif line == b"B":
                    wire.beginChunk(chunk, first=True, binary=False)
            else:
                data = wire.maybeMessage()
                if data is None and not wire.messageEnded:
                    break
                assert len(data or b"") <= PULL
                message += data or b""
                if wire.messageEnded:
                    message += wire.endOfChunks()
                    if mode == NORMALIZE:
                        assert re.search(rb"(?<!\r)\n|\r(?!\n)", message) is None
                    # In "reject" mode the content of a rejected message does not matter.
                    found.append("refused" if wire.bareNewlineSeen else message)
                    message, inMessage = b"", False
        assert wire.buffered <= len(piece) + LIMIT + 1
    return found


def test(data: bytes) -> None:
    """One input."""
    given = atheris.FuzzedDataProvider(data)
    mode = MODES[given.ConsumeIntInRange(0, 2)]
    chunk = given.ConsumeIntInRange(0, 64)
    size = given.ConsumeIntInRange(1, 16)
    octets = given.ConsumeBytes(given.remaining_bytes())
    whole = read([octets], mode, chunk)
    assert read([octets[start : start + size] for start in range(0, len(octets), size)], mode, chunk) == whole
    assert read([octets[:size], octets[size:]], mode, chunk) == whole


if __name__ == "__main__":
    atheris.Setup(sys.argv, test)
    atheris.Fuzz()
