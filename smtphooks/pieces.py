"""
Pieces: octets that arrive in pieces, perhaps of two octets each, and are needed together.

A bytes object has some 50 octets of overhead, so pieces are joined whenever there are many of them.
This module knows neither messages nor what the octets mean.
"""

from __future__ import annotations

# Pieces that are collected before they are joined.
_MANY = 1024


class Pieces:
    """
    @ivar octets: how many there are.
    """

    __slots__ = ("_joined", "_pieces", "octets")

    def __init__(self) -> None:
        self.octets: int = 0
        self._pieces: list[bytes] = []
        self._joined = 0  # of the first ones each was joined already, and is not copied again

    def add(self, piece: bytes) -> None:
        """Put a piece behind those that are there."""
        self.octets += len(piece)
        self._pieces.append(piece)
        if len(self._pieces) - self._joined >= _MANY:
            self._pieces[self._joined :] = [b"".join(self._pieces[self._joined :])]
            self._joined += 1

    def clear(self) -> None:
        """Drop them all."""
        self._pieces.clear()
        self.octets = self._joined = 0

    def drop(self, octets: int) -> None:
        """Drop so many of the first octets."""
        rest = self.join()[octets:]
        self.clear()
        if rest:
            self.add(rest)

    def join(self) -> bytes:
        """All octets."""
        if len(self._pieces) != 1:
            self._pieces = [b"".join(self._pieces)]
            self._joined = 1
        return self._pieces[0]
