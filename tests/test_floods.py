"""
Floods: a client fills each kind of state that a connection keeps, for as long as the server lets it.

These tests measure the memory that Python uses; L{test_invariants} counts octets.
"""

from __future__ import annotations

import gc
import tracemalloc
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest

from smtphooks import SMTPError
from smtphooks.connection.state import Want
from tests.support import HELLO, MAIL, RCPT, Client, Pending, Transport, makeFactory

MOST = 4 * 1024 * 1024
PIECE = 16384

pytestmark = pytest.mark.usefixtures("logged")


class Sink(Transport):
    """
    A transport that counts replies and drops them.

    @ivar said: how many replies were written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.said = 0

    def write(self, data: bytes) -> None:
        self.said += sum(line[3:4] == b" " for line in data.split(b"\r\n"))


def lines(*texts: str) -> bytes:
    return "".join(f"{text}\r\n" for text in texts).encode()


def many(number: int, *texts: str) -> bytes:
    """The lines, repeated; "{}" in them becomes a number that is never the same."""
    return b"".join(lines(*[text.replace("{}", f"{each:06}") for text in texts]) for each in range(number))


def flooded(data: bytes, *begin: str, trusts: bool = False, **given: Any) -> tuple[Client, int]:
    """A client that has sent as many of these octets as the server took, and the peak of memory that they cost."""
    client = Client(makeFactory(useXClient=trusts, useXForward=trusts, **given), Sink())
    client.feed(lines(*begin))
    pieces = [data[start : start + PIECE] for start in range(0, len(data), PIECE)]
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for piece in pieces:
            if client.isClosed or client.transport.producerState != "producing":
                break
            client.feed(piece)
            while client.pump.state.want is Want.TIMER:
                client.clock.advance(1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return client, peak - before


def refused(*arguments: Any) -> None:
    raise SMTPError("No " * 100)


async def reads(stream: Any, session: Any) -> None:
    async for _ in stream:
        continue


# No other limit may end the flood early.
FREE = {"maxErrors": 0, "maxUnrecognizedCommands": 0, "maxJunkCommands": 0, "maxCommandLength": 4096}
OPEN = {**FREE, "allowInsecureAuth": True, "onAuth": lambda auth, _: auth.username * (auth.method == "XCLIENT")}
DSN = {"hideDSN": False, "maxCommandLength": 4096}

CREDENTIALS = b64encode(b"\0ann\0" + b"x" * 3000).decode()
LONG = "l" * 235
LONGEST = f"RCPT TO:<{LONG}{{}}@mx.test> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;{'x' * 487}{{}}"
# One character beyond U+FFFF makes Python keep the whole text with four octets a character.
WIDE = f"RCPT TO:<{LONG}{{}}\U00010348@mx.test> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=utf-8;{'x' * 484}{{}}\U00010348"
RECIPIENTS = (HELLO, f"{MAIL} SMTPUTF8")

FLOODS: dict[str, tuple[Callable[[], bytes], tuple[str, ...], dict[str, Any]]] = {
    "recipients": (lambda: many(3000, "RCPT TO:<{}@mx.test>"), RECIPIENTS, {}),
    "recipients with the longest parameters": (lambda: many(3000, LONGEST), RECIPIENTS, DSN),
    "recipients of wide characters": (lambda: many(3000, WIDE), RECIPIENTS, DSN),
    "wide recipients without a limit": (lambda: many(9000, WIDE), RECIPIENTS, {**DSN, "maxRecipients": 10**9}),
    "transactions": (lambda: many(40, MAIL, *[LONGEST] * 50, "RSET"), (HELLO,), {**DSN, **FREE}),
    "names": (lambda: many(4000, f"EHLO {'n' * 240}{{}}", "RSET"), (), FREE),
    "refused names": (lambda: many(4000, f"EHLO {'n' * 240}{{}}"), (), {**FREE, "onHelo": refused}),
    "XCLIENT": (lambda: many(4000, f"XCLIENT HELO={'h' * 200}{{}} NAME=n{{}}.test LOGIN={{}}"), (), OPEN),
    "XFORWARD": (lambda: many(4000, f"XFORWARD HELO={'h' * 200}{{}} IDENT={'i' * 200}{{}}"), (), FREE),
    "AUTH": (lambda: many(300, f"AUTH PLAIN {b64encode(b'x' * 6000).decode()}"), (HELLO,), OPEN),
    "credentials": (lambda: many(300, f"AUTH PLAIN {CREDENTIALS}"), (HELLO,), OPEN),
    "cancelled challenges": (lambda: many(9000, "AUTH LOGIN", "*"), (HELLO,), OPEN),
    "a challenge left open": (lambda: b"x" * 4_000_000, (HELLO, "AUTH LOGIN"), OPEN),
    "responses too long": (lambda: many(200, "AUTH LOGIN", "x" * 20000), (HELLO,), OPEN),
    "unknown commands": (lambda: many(9000, f"X{{}}{'x' * 200} {'y' * 200}"), (), FREE),
    "unknown parameters": (lambda: many(4000, f"{MAIL} {'X' * 800}{{}}=1"), (HELLO,), FREE),
    "refused senders": (lambda: many(9000, f"MAIL FROM:<{LONG}{{}}@x>"), (HELLO,), {**FREE, "onMailFrom": refused}),
    "refused recipients": (lambda: many(9000, "RCPT TO:<{}@x>"), (HELLO, MAIL), {**FREE, "onRcptTo": refused}),
    "refused messages": (lambda: many(2000, MAIL, RCPT, "DATA", "."), (HELLO,), {**FREE, "onData": refused}),
    "messages": (lambda: many(2000, MAIL, RCPT, "DATA", "x{}", "."), (HELLO,), {**FREE, "onData": reads}),
    "chunks of nothing": (lambda: many(9000, "BDAT 0"), (HELLO, MAIL, RCPT), {"onData": reads}),
    "chunks of one octet": (lambda: b"BDAT 1\r\nx" * 9000, (HELLO, MAIL, RCPT), {"onData": reads}),
    "chunks that no hook reads": (lambda: b"BDAT 1\r\nx" * 99999, (HELLO, MAIL, RCPT), {"onData": Pending()}),
    "chunks of two that no hook reads": (lambda: b"BDAT 2\r\nxy" * 99999, (HELLO, MAIL, RCPT), {"onData": Pending()}),
    "chunks outside of a message": (lambda: b"BDAT 1\r\nx" * 9000, (HELLO,), FREE),
    "pipelined lines": (lambda: many(9000, "NOOP {}"), (HELLO, MAIL, RCPT), {**FREE, "onRcptTo": Pending()}),
    "many commands": (lambda: many(9000, "NOOP {}", "VRFY {}", "HELP", "RSET"), (HELLO,), FREE),
}  # fmt: skip


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_memory_of_a_connection_is_bounded(flood: tuple[Callable[[], bytes], tuple[str, ...], dict[str, Any]]) -> None:
    data, begin, given = flood
    client, memory = flooded(data(), *begin, trusts=True, **given)
    assert memory < MOST
    assert client.protocol.buffered < 131072
    client.lose()


@pytest.fixture(params=[None, "text", ["text"] * 2000], ids=["None", "text", "list"])
def answer(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("end", ["DATA", "BDAT"])
def test_with_lmtp_one_line_makes_no_more_replies_than_recipients_were_accepted(
    end: str, answer: Any, logged: Any
) -> None:
    def onData(stream: Any, session: Any) -> Any:
        session.envelope.rcptTo *= 3
        return answer

    client, memory = flooded(many(1500, "RCPT TO:<{}@mx.test>"), "LHLO client.test", MAIL, lmtp=True, onData=onData)
    assert memory < MOST
    sink = client.transport
    assert isinstance(sink, Sink)
    if end == "DATA":
        client.feed(lines("DATA"))
    sink.said = 0
    client.feed(lines(".") if end == "DATA" else b"BDAT 0 LAST\r\n")
    assert sink.said == 1000
    client.feed(lines("NOOP"))
    assert sink.said == 1001
    logged.clear()
