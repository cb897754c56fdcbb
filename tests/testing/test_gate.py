"""The gate between a server and its connection."""

from __future__ import annotations

import socket
import ssl

import pytest

from smtphooks.testing import SMTPServerThread
from smtphooks.testing.gate import splitReplies


@pytest.mark.parametrize("cut", range(40))
def test_replies_are_found_however_they_are_cut(cut: int) -> None:
    octets = b"220 x\r\n250-a\r\n250-b\r\n250 c\r\n334 \r\n354\r\n2"
    first, rest = splitReplies(octets[:cut])
    second, rest = splitReplies(rest + octets[cut:])
    assert first + second == [b"220 x\r\n", b"250-a\r\n250-b\r\n250 c\r\n", b"334 \r\n", b"354\r\n"]
    assert rest == b"2"


def test_tls_begins_behind_the_header_of_a_proxy_in_the_same_octets() -> None:
    with SMTPServerThread(secure=True, useProxy=True) as server:
        received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cadata=server.certificate)
        tls = context.wrap_bio(received, sent, server_hostname="localhost")
        with socket.create_connection((server.host, server.port), timeout=10) as client:
            header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
            for step in (tls.do_handshake, tls.read):
                while True:
                    try:
                        result = step()
                        break
                    except ssl.SSLWantReadError:
                        client.sendall(header + sent.read())
                        header = b""
                        received.write(client.recv(65536))
    assert result == b"220 localhost ESMTP\r\n"
