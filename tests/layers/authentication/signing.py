"""Signed messages for tests: keys, key records, and the scan of a message that was cut anywhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import dkim

from smtphooks.layers.authentication import arccheck, dkimcheck
from smtphooks.layers.authentication.messagescan import MessageScan
from smtphooks.layers.authentication.questions import Answers, TemporaryFailure

DATA = Path(__file__).parent / "data" / "dkim"


def readData(name: str) -> bytes:
    """A file of test data, with the line ends of the wire."""
    return (DATA / name).read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def readKey(name: str) -> bytes:
    return (DATA / name).read_bytes()


PRIVATE, RECORD = readKey("test.private"), readKey("test.txt").strip()
MESSAGE = readData("test.message")
KEYS = {
    name: record for name, _, record in (line.partition(" ") for line in (DATA / "keys.txt").read_text().splitlines())
}


def answersOf(records: Mapping[str, Sequence[bytes] | TemporaryFailure]) -> Answers:
    """The answers of the DNS: TXT records by name."""
    answers = Answers()
    for name, found in records.items():
        answers.learn(name, "TXT", found)
    return answers


def scanOf(*pieces: bytes) -> MessageScan:
    """A message that has passed by in pieces."""
    scan = MessageScan(lambda fields: chain(dkimcheck.wantedHashes(fields), arccheck.wantedHashes(fields)))
    for piece in pieces:
        scan.feed(piece)
    scan.close()
    return scan


def signed(message: bytes, **options: object) -> bytes:
    """A message with a signature by C{test._domainkey.example.com}."""
    return bytes(dkim.sign(message, b"test", b"example.com", PRIVATE, **options)) + message


def rsaRecord(modulus: int, exponent: int = 65537) -> bytes:
    """A key record for any numbers, also those of which no library makes a key."""

    def der(tag: int, content: bytes) -> bytes:
        length = len(content)
        head = bytes([length]) if length < 128 else b"\x82" + length.to_bytes(2, "big")
        return bytes([tag]) + head + content

    def integer(number: int) -> bytes:
        return der(2, number.to_bytes(number.bit_length() // 8 + 1, "big"))

    return b"k=rsa; p=" + base64.b64encode(der(0x30, integer(modulus) + integer(exponent)))
