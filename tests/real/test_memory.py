"""The memory of the server is bounded, however much a client sends and however little it reads."""

from __future__ import annotations

import re
import selectors
import socket
from collections.abc import Iterable
from itertools import chain, cycle, islice, repeat
from pathlib import Path

import pytest

from tests.real.conftest import Running, StartService
from tests.real.programs import PATIENCE, Client, Maildir, reset

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="there is no Linux /proc here")

LIMIT = 20_000_000
MESSAGE_OCTETS = 200_000_000
BLOCK = (b"x" * 78 + b"\r\n") * 1000
BLOCKS = MESSAGE_OCTETS // len(BLOCK)
# A peer that has taken no octet for this long has stopped reading.
SILENCE = 1.0


class Growth:
    """How far the peak of a service's memory is above what it had after its first transaction."""

    def __init__(self, running: Running) -> None:
        self._service = running.service
        with Client(running.port) as client:
            client.envelope(b"recipient@there.example")
            client.say(b"RSET", 250)
        self._service.forgetPeak()
        self._before = self._service.memory("VmRSS")

    @property
    def octets(self) -> int:
        return self._service.memory("VmHWM") - self._before


def begin(client: Client, command: str) -> None:
    """Begin a transaction, up to the first octet of its message."""
    client.envelope(b"recipient@there.example")
    if command == "DATA":
        client.say(b"DATA", 354)
    else:
        client.socket.sendall(b"BDAT %d LAST\r\n" % (BLOCKS * len(BLOCK)))


def push(connection: socket.socket, blocks: Iterable[bytes]) -> int:
    """Send until the peer has stopped reading; how many octets it took."""
    sent = 0
    connection.settimeout(SILENCE)
    try:
        for block in blocks:
            rest = memoryview(block)
            while rest:
                taken = connection.send(rest)
                sent += taken
                rest = rest[taken:]
    except TimeoutError:
        return sent
    finally:
        connection.settimeout(PATIENCE)
    return sent


@pytest.mark.parametrize("command", ["DATA", "BDAT"])
def test_message_that_the_hook_does_not_read_is_dropped_as_it_comes(startService: StartService, command: str) -> None:
    running = startService("UnreadMessages")
    growth = Growth(running)
    with Client(running.port) as client:
        begin(client, command)
        for block in repeat(BLOCK, BLOCKS):
            client.socket.sendall(block)
        if command == "DATA":
            client.socket.sendall(b".\r\n")
        assert b"Taken unread" in client.reply(250)
        client.say(b"QUIT", 221)

    assert growth.octets < LIMIT


@pytest.mark.parametrize("command", ["DATA", "BDAT"])
@pytest.mark.parametrize("hooks", ["HeldMessages", "HalfReadMessages"])
def test_client_is_paused_while_the_hook_does_not_read(startService: StartService, hooks: str, command: str) -> None:
    running = startService(hooks, options={"closeTimeout": 1})
    growth = Growth(running)
    with Client(running.port) as client, Client(running.port) as other:
        reset(client.socket)
        begin(client, command)
        sent = push(client.socket, repeat(BLOCK, BLOCKS))

        # The octets that were sent wait in the buffers of the sockets.
        assert sent < MESSAGE_OCTETS
        assert growth.octets < LIMIT
        other.say(b"NOOP", 250)


@pytest.mark.parametrize("command", ["DATA", "BDAT"])
def test_large_message_in_a_maildir_is_never_in_memory(
    startService: StartService, maildir: Maildir, command: str
) -> None:
    running = startService()
    growth = Growth(running)
    with Client(running.port) as client:
        begin(client, command)
        for block in repeat(BLOCK, BLOCKS):
            client.socket.sendall(block)
        if command == "DATA":
            client.socket.sendall(b".\r\n")
        client.reply(250)

    (file,) = maildir.files()
    assert file.stat().st_size > BLOCKS * (len(BLOCK) - 1000)
    assert growth.octets < LIMIT


@pytest.mark.parametrize("command", ["DATA", "BDAT"])
def test_large_message_in_a_spool_is_never_in_memory(startService: StartService, command: str) -> None:
    running = startService("SpooledMessages")
    growth = Growth(running)
    with Client(running.port) as client:
        begin(client, command)
        for block in repeat(BLOCK, BLOCKS):
            client.socket.sendall(block)
        if command == "DATA":
            client.socket.sendall(b".\r\n")
        octets = BLOCKS * len(BLOCK)
        assert b"Counted [%d, %d, %d]" % (octets, octets, octets) in client.reply(250)

    assert growth.octets < LIMIT


LAYERS = {
    "filters": ["RewrittenMessages"] * 3,
    # The message goes into a file first, and then through the filters.
    "inspectors": ["InspectedMessages"] * 3,
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_delivery_that_is_stuck_behind_layers_fills_no_memory(startService: StartService, kind: str) -> None:
    running = startService([*LAYERS[kind], "HalfReadMessages"], options={"closeTimeout": 1})
    growth = Growth(running)
    with Client(running.port) as client, Client(running.port) as other:
        reset(client.socket)
        begin(client, "DATA")
        sent = push(client.socket, chain(repeat(BLOCK, BLOCKS), [b".\r\n"]))
        running.service.waitForLine("one chunk was read")

        assert (sent > MESSAGE_OCTETS - len(BLOCK)) is (kind == "inspectors")
        other.say(b"NOOP", 250)
        assert growth.octets < LIMIT


@pytest.mark.parametrize("kind", LAYERS)
def test_large_message_through_layers_into_a_slow_delivery_is_never_in_memory(
    startService: StartService, kind: str
) -> None:
    running = startService([*LAYERS[kind], "SlowlyReadMessages"])
    growth = Growth(running)
    with Client(running.port) as client:
        begin(client, "DATA")
        for block in repeat(BLOCK, BLOCKS):
            client.socket.sendall(block)
        client.socket.sendall(b".\r\n")
        fields = 3 * len(b"X-Rewritten: yes\r\n") + len(b"\r\n")
        assert b"Counted %d" % (BLOCKS * len(BLOCK) + fields) in client.reply(250)

    assert growth.octets < LIMIT


COMMANDS = {
    "NOOP": [b"NOOP"],
    "EHLO": [b"EHLO client.example"],
    "mixed": [
        b"EHLO client.example",
        b"MAIL FROM:<sender@here.example>",
        b"RCPT TO:<recipient@there.example>",
        b"RSET",
        b"VRFY recipient@there.example",
        b"HELP",
        b"NOOP",
    ],
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_client_that_does_not_read_its_replies_is_paused_and_loses_none(startService: StartService, kind: str) -> None:
    count = 100_000
    lines = [command + b"\r\n" for command in COMMANDS[kind]]
    # Long replies, which would fill the memory if they were buffered.
    running = startService("UnreadMessages", options={"heloResponse": "%s " + "x" * 400, "maxJunkCommands": 0})
    growth = Growth(running)
    commands = b"".join(islice(cycle(lines), count))
    with Client(running.port) as client:
        sent = push(client.socket, [commands])
        assert growth.octets < LIMIT

        assert converse(client.socket, commands[sent:], count) == count
    assert growth.octets < LIMIT


def converse(connection: socket.socket, commands: bytes, count: int) -> int:
    """Send the rest of the commands while reading replies; how many of them came."""
    replies = 0
    unread = b""
    rest = memoryview(commands)
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
        while replies < count:
            for _, events in selector.select(PATIENCE) or pytest.fail(f"{replies} replies, then silence"):
                if events & selectors.EVENT_READ:
                    unread += connection.recv(1 << 20)
                    whole, newline, unread = unread.rpartition(b"\r\n")
                    replies += len(re.findall(rb"^[24]\d\d (?=[^\n]*\r\n)", whole + newline, re.MULTILINE))
                if events & selectors.EVENT_WRITE:
                    rest = rest[connection.send(rest) :]
                    if not rest:
                        selector.modify(connection, selectors.EVENT_READ)
    return replies
