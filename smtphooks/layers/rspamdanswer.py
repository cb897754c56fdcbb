"""
The answer of rspamd to /checkv2: what it says of a message, and the changes to its header that it asks for.

In: the octets of an HTTP response.  Out: an L{RspamdVerdict}.  Whatever is not as it should be is a L{ScannerFault}: a
verdict that is half understood must not let a message pass.
This module knows no connection, and not what becomes of an action.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException, HTTPResponse
from io import BytesIO
from typing import Any, TypeVar

import attrs

from smtphooks.layers.exchange import ScannerFault
from smtphooks.layers.fields import Addition, isFieldName

T = TypeVar("T")

# What the milter protocol can do, and a layer cannot: they are named in the log.
_NOT_APPLIED = ("change_from", "add_rcpt", "del_rcpt", "spam_header")


@attrs.frozen
class RspamdVerdict:
    """
    What rspamd says of a message.

    @ivar action: what it advises, such as C{"reject"} or C{"add header"}.
    @ivar score: the sum of the scores of its symbols.
    @ivar requiredScore: the score at which it would reject, or None.
    @ivar symbols: the score of each symbol.
    @ivar message: the text for the reply, or None.
    @ivar subject: the new subject, or None.
    @ivar isNoAction: the action shall only be noted.
    @ivar removals: names of fields to be removed, each with which of them goes; see L{HeaderChanges}.
    @ivar additions: fields to be added.
    @ivar notApplied: what it asks for besides.
    """

    action: str
    score: float
    requiredScore: float | None
    symbols: Mapping[str, float]
    message: str | None
    subject: str | None
    isNoAction: bool
    removals: tuple[tuple[str, int], ...]
    additions: tuple[Addition, ...]
    notApplied: tuple[str, ...]


class _Octets:
    """Takes the place of a socket from which a response is read."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def makefile(self, mode: str) -> BytesIO:
        return BytesIO(self._octets)


def readVerdict(response: bytes) -> RspamdVerdict:
    """
    Read a response.

    @raise ScannerFault: if it is no verdict; its text completes "rspamd …".
    """
    try:
        answer = HTTPResponse(_Octets(response))  # type: ignore[arg-type]
        answer.begin()
        body = answer.read()
    except (HTTPException, ValueError, OSError) as error:
        raise ScannerFault(f"answers no whole HTTP response: {type(error).__name__}") from None
    if answer.status != 200:
        raise ScannerFault(f"answers {answer.status} {ascii(answer.reason)[1:-1][:100]}")
    try:
        return _verdictOf(_Table("the answer", json.loads(body)))
    except (ValueError, RecursionError):
        raise ScannerFault(f"answers something else than JSON: {body[:100]!r}") from None


class _Table:
    """An object of JSON, whose members have the types that one asks for."""

    def __init__(self, what: str, value: object) -> None:
        # An empty table of Lua has no type of its own, and may be written as an empty array.
        members = {} if value == [] else value
        if not isinstance(members, dict):
            raise ScannerFault(f"answers nonsense: {what} is no object")
        self.what = what
        self.members: dict[str, Any] = members

    def _get(self, name: str, wants: str, fits: Callable[[Any], bool], default: T) -> Any | T:
        value = self.members.get(name, default)
        if value is not default and not fits(value):
            raise ScannerFault(f"answers nonsense: {name} in {self.what} is no {wants}")
        return value

    def maybeText(self, name: str) -> str | None:
        text: str | None = self._get(name, "text", lambda value: isinstance(value, str), None)
        return text

    def maybeNumber(self, name: str) -> float | None:
        number: float | None = self._get(name, "number", _isNumber, None)
        return number

    def flag(self, name: str) -> bool:
        return bool(self._get(name, "boolean", lambda value: isinstance(value, bool), False))

    def table(self, name: str) -> _Table:
        return _Table(f"{name} in {self.what}", self.members.get(name, {}))

    def must(self, name: str, value: T | None) -> T:
        if value is None:
            raise ScannerFault(f"answers nonsense: {self.what} has no {name}")
        return value


def _isNumber(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15


def _verdictOf(answer: _Table) -> RspamdVerdict:
    milter = answer.table("milter")
    symbols = answer.table("symbols")
    return RspamdVerdict(
        action=answer.must("action", answer.maybeText("action")),
        score=answer.must("score", answer.maybeNumber("score")),
        requiredScore=answer.maybeNumber("required_score"),
        symbols={name: symbols.table(name).maybeNumber("score") or 0.0 for name in symbols.members},
        message=answer.table("messages").maybeText("smtp_message"),
        subject=answer.maybeText("subject"),
        isNoAction=milter.flag("no_action"),
        removals=tuple(_removals(milter.table("remove_headers"))),
        additions=(*_signatures(answer), *_additions(milter.table("add_headers"))),
        notApplied=tuple(name for name in _NOT_APPLIED if name in milter.members),
    )


def _named(table: _Table) -> Iterator[tuple[str, list[Any]]]:
    """The fields that a table names, each with a list of what is to be done."""
    for name, value in table.members.items():
        if not isFieldName(name):
            raise ScannerFault(f"answers nonsense: {table.what} has the name {name[:100]!r}")
        yield name, value if isinstance(value, list) else [value]


def _removals(table: _Table) -> Iterator[tuple[str, int]]:
    for name, numbers in _named(table):
        for number in numbers:
            if not _isNumber(number) or number != int(number):
                raise ScannerFault(f"answers nonsense: {name} in {table.what} is no number of a field")
            yield name, int(number)


def _additions(table: _Table) -> Iterator[Addition]:
    for name, values in _named(table):
        for value in values:
            what = _Table(f"{name} in {table.what}", value if isinstance(value, dict) else {"value": value})
            # Lua does not tell a number from its text.
            text = what.maybeNumber("value") if _isNumber(what.members.get("value")) else what.maybeText("value")
            order = what.maybeNumber("index" if "index" in what.members else "order")
            yield Addition(name, str(what.must("value", text)), -1 if order is None else int(order))


def _signatures(answer: _Table) -> Iterator[Addition]:
    """Signatures of DKIM, which belong on top."""
    values = answer.members.get("dkim-signature", [])
    for value in values if isinstance(values, list) else [values]:
        if not isinstance(value, str):
            raise ScannerFault("answers nonsense: dkim-signature is no text")
        yield Addition("DKIM-Signature", value, 0)
