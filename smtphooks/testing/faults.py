"""
Faults: what a test wants to go wrong, and the script of them that a server follows.

A fault is for a command, or for C{CONNECT}, the beginning of a connection with its greeting.  C{DATA} stands for a
message, and a fault for it comes when the whole message has arrived, by DATA or by the last BDAT.  Of AUTH it is the
outcome that is meant.  Faults of one command are used in the order in which they were given.
This module knows neither replies nor connections, and not what makes a fault happen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from smtphooks.errors import OptionError, unknownName
from smtphooks.optionkinds import isLine

CONNECT, DATA = "CONNECT", "DATA"
_OF_SMTP = ("HELO", "EHLO")
_OF_LMTP = ("LHLO",)
_OF_BOTH = ("STARTTLS", "AUTH", "MAIL", "RCPT", DATA, "RSET", "NOOP", "VRFY", "HELP", "QUIT")


def verbsOf(lmtp: bool, added: Iterable[str] = ()) -> tuple[str, ...]:
    """
    What a fault may be for.

    @param added: commands of extensions.
    """
    return (CONNECT, *(_OF_LMTP if lmtp else _OF_SMTP), *_OF_BOTH, *added)


def _verb(verb: Any) -> Any:
    """A message ends with DATA or with BDAT, as the client likes; a test does not care which."""
    verb = verb.upper() if isinstance(verb, str) else verb
    return DATA if verb == "BDAT" else verb


def _wants(words: str, fits: Any) -> Any:
    def check(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not fits(value):
            name = attribute.name
            raise OptionError(f"{name} of {type(instance).__name__} is {{!r}}, it wants {words}", value, options=[name])

    return check


def _isWhole(value: object, least: int, most: float) -> bool:
    return type(value) is int and least <= value <= most


def _isBare(address: str) -> bool:
    return bool(address) and not set(address) & set("<>")


def _isDuration(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and type(value) is not bool and 0 <= value < float("inf"))


_isVerb = _wants("the name of a command", lambda value: isinstance(value, str))
_times: Any = attrs.field(
    default=None,
    validator=_wants("a whole number, 1 or more, or None for always", lambda v: v is None or _isWhole(v, 1, 2**63)),
)


@attrs.frozen
class Fail:
    """
    A command is refused, and has no effect but what a refused one has.

    @ivar verb: the command.
    @ivar code: of the refusal, 400 to 599; 421 closes the connection.  One of C{CONNECT} closes it in any case.
    @ivar times: how many times; None for always.
    @ivar recipient: only for this address, with C{RCPT} and C{DATA}.  A message is refused if it is one of its
        recipients; with LMTP, only that recipient's reply is the refusal.
    @ivar text: of the refusal.
    """

    verb: str = attrs.field(converter=_verb, validator=_isVerb)
    code: int = attrs.field(validator=_wants("a whole number from 400 to 599", lambda v: _isWhole(v, 400, 599)))
    times: int | None = _times
    recipient: str | None = None
    text: str = attrs.field(default="Refused on demand", validator=_wants("one line of text", isLine))

    def __attrs_post_init__(self) -> None:
        if self.recipient is not None and not (isinstance(self.recipient, str) and _isBare(self.recipient)):
            raise OptionError(
                "recipient of Fail is {!r}, it wants an address without angle brackets",
                self.recipient,
                options=["recipient"],
            )
        if self.recipient is not None and self.verb not in ("RCPT", DATA):
            raise OptionError(
                f"recipient of Fail is {{!r}} with {self.verb}, it wants RCPT or DATA",
                self.recipient,
                options=["recipient"],
            )

    def isFor(self, recipients: Iterable[str]) -> bool:
        """Is it for any recipient, or for one of these?"""
        own = self.recipient
        return own is None or own.casefold() in {recipient.casefold() for recipient in recipients}


@attrs.frozen
class Drop:
    """
    The connection is closed (by a FIN, in TLS without close_notify) in place of the reply to a command.

    What was replied before still arrives.  The command itself has been done, but a message is not taken: it has come
    whole, and its sender cannot know what became of it.

    @ivar after: the command.
    @ivar times: how many times; None for always.
    """

    after: str = attrs.field(converter=_verb, validator=_isVerb)
    times: int | None = _times

    @property
    def verb(self) -> str:
        """The command."""
        return self.after


@attrs.frozen
class Stall:
    """
    The reply to a command, and all behind it, comes later.

    @ivar verb: the command.
    @ivar seconds: how much later; None for never.
    @ivar times: how many times; None for always.
    """

    verb: str = attrs.field(converter=_verb, validator=_isVerb)
    seconds: float | None = attrs.field(
        default=None, validator=_wants("a number of seconds, or None for no reply at all", _isDuration)
    )
    times: int | None = _times


@attrs.frozen
class Garble:
    """
    Other octets come in place of the reply to a command; else the server goes on as if it had replied.

    A message is not taken: the reply that would have said so was never given.

    @ivar verb: the command.
    @ivar octets: as they are, with line ends if there are to be any.
    @ivar times: how many times; None for always.
    """

    verb: str = attrs.field(converter=_verb, validator=_isVerb)
    octets: bytes = attrs.field(validator=_wants("octets (bytes)", lambda value: isinstance(value, bytes)))
    times: int | None = _times


Fault = Fail | Drop | Stall | Garble


@attrs.define
class _Entry:
    fault: Fault
    left: float


class Faults:
    """The script: faults that are yet to happen.  Any thread may change it, effective for the next event."""

    def __init__(self, verbs: Iterable[str], faults: Iterable[Fault] = ()) -> None:
        """
        @param verbs: what faults may be for.
        """
        self._verbs = tuple(verbs)
        self._lock = threading.Lock()
        self._entries: list[_Entry] = []
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        """
        One more, behind those that there are.

        @raise OptionError: if it is none, or for a command that the server does not have.
        """
        if not isinstance(fault, (Fail, Drop, Stall, Garble)):
            raise OptionError("a fault is {!r}, it wants a Fail, Drop, Stall or Garble", fault, options=["faults"])
        if fault.verb not in self._verbs:
            known = ", ".join(self._verbs)
            raise OptionError(f"{unknownName('command', fault.verb, self._verbs)} (a fault is for one of {known})")
        with self._lock:
            self._entries.append(_Entry(fault, float("inf") if fault.times is None else fault.times))

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        with self._lock:
            self._entries.clear()

    def isNext(self, verb: str, kind: type[Fault]) -> bool:
        """Is there one of this kind for the command?"""
        with self._lock:
            return any(entry.fault.verb == verb and isinstance(entry.fault, kind) for entry in self._entries)

    def maybeFail(self, verb: str, recipients: Iterable[str] = ()) -> Fail | None:
        """Use up the first refusal of the command, of any recipient or one of these."""
        found: Fail | None = self._take(verb, lambda fault: isinstance(fault, Fail) and fault.isFor(recipients))
        return found

    def maybeFailOnly(self, verb: str, recipient: str) -> Fail | None:
        """Use up the first refusal of the command that is for this recipient alone."""
        found: Fail | None = self._take(
            verb, lambda fault: isinstance(fault, Fail) and fault.recipient is not None and fault.isFor([recipient])
        )
        return found

    def maybeOther(self, verb: str) -> Drop | Stall | Garble | None:
        """Use up the first fault of the reply to the command."""
        found: Drop | Stall | Garble | None = self._take(verb, lambda fault: not isinstance(fault, Fail))
        return found

    def _take(self, verb: str, fits: Callable[[Fault], bool]) -> Any:
        with self._lock:
            for entry in self._entries:
                if entry.fault.verb == verb and fits(entry.fault):
                    entry.left -= 1
                    if not entry.left:
                        self._entries.remove(entry)
                    return entry.fault
        return None
