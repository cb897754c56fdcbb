"""
The shared table: numbers that all workers of one machine count together, in memory that they share.

In: keys as texts.  Out: for each key the cells of all columns, and the cell of this process, which it alone writes.
Each worker has a column.  A reader adds up what all columns have, so nothing is locked, and a worker that dies or hangs
stops nobody.  What the numbers in a cell mean is the business of the modules that count: C{admission/sharedclients},
C{sasl/sharedfailures} and C{layers/machinecounts}.
This module knows no limits, no clients and no reactor.

The layout
==========

A page with the header, and then for each L{Kind} an area of tags and an area of cells.  A key is hashed to a bucket and
a tag.  A bucket has room for C{WAYS} keys in each column; its tags in all columns stand side by side, so that one look
finds a key in all of them::

    tags     bucket 0 [column 0: 8 tags] [column 1: 8 tags] …   bucket 1 …
    cells    bucket 0 [column 0: 8 cells] [column 1: 8 cells] … bucket 1 …

Every tag and every word of a cell is an aligned integer of 64 bits, stored and loaded at once by the processor, so that
no reader sees half of one.  A cell is zeroed before its tag is written, and keeps its place until it is given up; then
it says nothing any more, so it does not matter that readers see it go word by word.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from hashlib import blake2b
from itertools import count
from mmap import mmap
from operator import itemgetter
from struct import Struct
from sys import byteorder
from time import monotonic
from typing import Any

import attrs

WAYS = 8
_WORD = 8
_ROW = (
    WAYS * _WORD
)  # octets of the tags of a column in a bucket: a cache line, so that writers do not disturb each other

_MAGIC = b"smtphook"
_VERSION = 1
_HEADER = 4096
_SECRET_AT, _SECRET = 2048, 16
_ZERO = _HEADER // _WORD - 1  # the index of a word that is always 0
_MOST_COLUMNS = 4096


_DIGEST = Struct("=8sQ")
# How much memory copies of tags may take in each process, which spare it to hash keys and to look for their tags again.
_REMEMBERED = 1 << 18
# Seconds between two reports that there is no room.
_REPORT_INTERVAL = 3600


@attrs.frozen(eq=False)
class Kind:
    """
    A kind of cells.

    @ivar words: words of a cell.
    @ivar read: how many words, the first ones, are read in all columns.
    @ivar buckets: a power of 2.
    """

    words: int
    read: int
    buckets: int


# Live counts, rates and failures of AUTH.  Of keys for half of the cells of a column, fewer than 1 in 100 have no room:
# of 16,384, 65,536 and 8,192 keys.  A column that is full takes 9 MB.
LIVE = Kind(words=1, read=1, buckets=1 << 12)
RATES = Kind(words=4, read=2, buckets=1 << 14)
FAILURES = Kind(words=22, read=1, buckets=1 << 11)
_KINDS = (LIVE, RATES, FAILURES)


class Table:
    """
    Memory that processes share.

    @ivar fd: its file descriptor, for other processes.
    @ivar columns: how many columns there are.
    @ivar column: the column that this process writes; None for the supervisor, which only clears.
    @ivar words: all of it, as integers.
    @ivar octets: all of it, as octets.
    """

    def __init__(self, fd: int, columns: int, column: int | None) -> None:
        """Use L{create} or L{attach}."""
        self.fd = fd
        self.columns = columns
        self.column = column
        self.octets: mmap = mmap(fd, _sizeOf(columns))
        self.words: memoryview[int] = memoryview(self.octets).cast("q")
        self.secret: bytes = self.octets[_SECRET_AT : _SECRET_AT + _SECRET]
        self._numbers = count()

    @classmethod
    def create(cls, columns: int) -> Table:
        """A new table in which all is zero."""
        if not 0 < columns <= _MOST_COLUMNS:
            raise ValueError(f"a table cannot have {columns} columns")
        fd = newFile()
        os.ftruncate(fd, _sizeOf(columns))
        os.pwrite(fd, _headerOf(columns), 0)
        # Without it a client could compute addresses that all belong into one bucket.
        os.pwrite(fd, os.urandom(_SECRET), _SECRET_AT)
        return cls(fd, columns, None)

    @classmethod
    def attach(cls, fd: int, column: int | None) -> Table:
        """
        The table that another process has created.

        @param column: the column that this process is to write; None for none.
        @raise ValueError: if it was made by another version of this module, or has no such column.
        """
        header = os.pread(fd, _HEADER, 0)
        columns = int.from_bytes(header[len(_MAGIC) : len(_MAGIC) + _WORD], byteorder)
        if not 0 < columns <= _MOST_COLUMNS or not header.startswith(_headerOf(columns)):
            raise ValueError("the table was made by another version")
        if os.fstat(fd).st_size != _sizeOf(columns):
            raise ValueError("the table has another size")
        if column is not None and not 0 <= column < columns:
            raise ValueError(f"the table has no column {column}")
        return cls(fd, columns, column)

    def clear(self, column: int) -> None:
        """Forget the live counts of a process that has ended.  Its rates and failures go on counting."""
        row = _ROW * self.columns
        start = _startOf(LIVE, self.columns) + _ROW * column
        for tags in range(start, start + row * LIVE.buckets, row):
            if self.octets[tags : tags + _ROW] != bytes(_ROW):
                self.octets[tags : tags + _ROW] = bytes(_ROW)

    def cells(self, kind: Kind, name: str) -> Cells:
        """Cells of this kind for one use, which has a name of its own."""
        return Cells(self, kind, name)

    def secretFor(self, use: bytes) -> bytes:
        """Octets that nobody else knows, for one use: the same ones in every worker."""
        return blake2b(use, key=self.secret, digest_size=32).digest()

    def numbered(self, name: str) -> str:
        """A name for a use that has none, by the order in which they are made: the same one in every worker."""
        return f"{name} {next(self._numbers)}"

    def close(self) -> None:
        """Give the memory back; the table and its cells cannot be used any more, and C{fd} is still open."""
        self.words.release()
        self.octets.close()


def _reading(indexes: list[int]) -> Any:
    """What takes the words at these indexes, and perhaps some zeros: for a single item it would give no tuple."""
    return itemgetter(*indexes) if len(indexes) > 1 else itemgetter(_ZERO, _ZERO, *indexes)


_READ_NOTHING = _reading([])


@attrs.define(eq=False)
class Place:
    """
    Where a key is found.

    @ivar start: the octet at which the tags of its bucket begin; C{end} where they end; C{tags} a copy of them.
    @ivar tag: the tag of the key.
    @ivar cells: for each column that has the key the index of the first word of its cell.
    @ivar own: that of this process, -1 if it has none.
    @ivar read: takes from L{Table.words} the first words of all cells, and perhaps zeros.
    @ivar readSecond: takes their second words.
    """

    key: str
    start: int
    end: int
    tags: bytes
    tag: bytes
    cells: list[int]
    own: int = -1
    read: Callable[[memoryview], tuple[int, ...]] = _READ_NOTHING
    readSecond: Callable[[memoryview], tuple[int, ...]] = _READ_NOTHING


class Cells:
    """
    The cells of one use, such as the clients of one listener.

    @ivar words: C{Table.words}.
    """

    def __init__(self, table: Table, kind: Kind, name: str) -> None:
        self.words: memoryview[int] = table.words
        self._octets = table.octets
        self._kind = kind
        self._column = table.column
        self._hash = blake2b(table.secret + name.encode() + b"\0", digest_size=_DIGEST.size)
        self._tags = _startOf(kind, table.columns)
        self._row = _ROW * table.columns
        self._noTags = bytes(self._row)
        self._cells = (self._tags + self._row * kind.buckets) // _WORD
        # Where keys were found, which holds as long as the tags of their bucket are the same.
        self._places: dict[str, Place] = {}
        self._most = max(_REMEMBERED // self._row, 256)
        self._nextReport = 0.0

    def find(self, key: str) -> Place:
        """Where a key is."""
        place = self._places.get(key)
        if place is not None and self._octets[place.start : place.end] == place.tags:
            return place
        return self._look(key)

    def claim(self, place: Place, isSpent: Callable[[int], bool]) -> Place:
        """
        Have a cell of this process for a key that has none yet.

        @param isSpent: whether a cell of this process, by the index of its first word, can be given up for it.
        @return: where the key is now; without an own cell if there is no room.
        """
        assert self._column is not None and place.own < 0
        words, size = self.words, self._kind.words
        first = self._firstOwn(place.start)
        tags = place.start // _WORD + self._column * WAYS
        ways = words[tags : tags + WAYS].tolist()
        if 0 in ways:
            way = ways.index(0)
        else:
            way = next((way for way in range(WAYS) if isSpent(first + way * size)), -1)
            if way < 0:
                return place
        cell = first + way * size
        self._octets[cell * _WORD : (cell + size) * _WORD] = bytes(size * _WORD)
        words[tags + way] = int.from_bytes(place.tag, byteorder, signed=True)
        return self._placeOf(place.key, place.tag, place.start)

    def reportIsDue(self) -> bool:
        """Whether the operator should be told now that there is no room: at most once an hour."""
        isDue = monotonic() >= self._nextReport
        if isDue:
            self._nextReport = monotonic() + _REPORT_INTERVAL
        return isDue

    def sameKey(self, cell: int) -> list[int]:
        """The cells of all columns for the key that has this cell, by the indexes of their first words."""
        at = self._tags + (cell - self._cells) // self._kind.words * _WORD
        start = at - (at - self._tags) % self._row
        return self._cellsOf(self._octets[at : at + _WORD], start, self._octets[start : start + self._row])

    def _look(self, key: str) -> Place:
        hashed = self._hash.copy()
        hashed.update(key.encode("utf-8", "surrogatepass"))
        # That a tag is 0, as free ones are, happens once in 2 ** 64 keys.
        tag, number = _DIGEST.unpack(hashed.digest())
        return self._placeOf(key, tag, self._tags + (number & self._kind.buckets - 1) * self._row)

    def _placeOf(self, key: str, tag: bytes, start: int) -> Place:
        end = start + self._row
        tags = self._octets[start:end]
        cells = self._cellsOf(tag, start, tags) if tags != self._noTags else []
        if len(self._places) >= self._most:
            self._places.clear()
        place = self._places[key] = Place(key, start, end, tags, tag, cells)
        if cells:
            place.read = _reading(cells)
            if self._kind.read > 1:
                place.readSecond = _reading([cell + 1 for cell in cells])
            first = self._firstOwn(start)
            place.own = next((cell for cell in cells if first <= cell < first + WAYS * self._kind.words), -1)
        return place

    def _firstOwn(self, start: int) -> int:
        """The first cell of this process in the bucket whose tags start there."""
        column = 0 if self._column is None else self._column
        return self._cells + ((start - self._tags) // _WORD + column * WAYS) * self._kind.words

    def _cellsOf(self, tag: bytes, start: int, tags: bytes) -> list[int]:
        """The first words of the cells in a bucket that have this tag."""
        cells: list[int] = []
        at = tags.find(tag)
        while at >= 0:
            if at % _WORD == 0:
                cells.append(self._cells + (start - self._tags + at) // _WORD * self._kind.words)
            at = tags.find(tag, at + 1)
        return cells


def _startOf(kind: Kind, columns: int) -> int:
    """The octet at which the tags of a kind begin; its cells follow."""
    before = _KINDS[: _KINDS.index(kind)]
    return _HEADER + sum(_octetsOf(kind, columns) for kind in before)


def _octetsOf(kind: Kind, columns: int) -> int:
    return kind.buckets * columns * WAYS * (1 + kind.words) * _WORD


def _sizeOf(columns: int) -> int:
    return _HEADER + sum(_octetsOf(kind, columns) for kind in _KINDS)


def _headerOf(columns: int) -> bytes:
    """What says how the table is laid out; all that another version might do otherwise is in it."""
    numbers = [columns, _VERSION, WAYS, *(number for kind in _KINDS for number in (kind.words, kind.buckets))]
    return _MAGIC + b"".join(number.to_bytes(_WORD, byteorder) for number in numbers)


def newFile() -> int:
    """The file descriptor of a file without a name, which other processes may have too."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("smtphooks")
    fd, path = tempfile.mkstemp(prefix="smtphooks")
    os.unlink(path)
    return fd


_current: Table | None = None


def currentTable() -> Table | None:
    """The table of this worker; None where there are no workers."""
    return _current


def useTable(table: Table | None) -> None:
    """Count in this table from now on; called before the configuration is made."""
    global _current
    _current = table
