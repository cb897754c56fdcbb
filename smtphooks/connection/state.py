"""
The state of a connection: how far it has come, and what it waits for.

All parts of a connection read this one object; only the connection and its pump change it.
This module knows no transport, no dialogue and no hook.
"""

from __future__ import annotations

from enum import Enum
from typing import Any


class Phase(Enum):
    """How far a connection has come."""

    __hash__: Any = object.__hash__  # that of Enum is Python code

    OPEN = "open"
    CLOSING = "closing"  # the server has written its last reply, and ignores what the client sends
    LOST = "lost"  # the transport is gone; hooks may still be running, and onClose follows
    ENDED = "ended"  # onClose has ended


class Want(Enum):
    """What an open connection waits for."""

    __hash__: Any = object.__hash__

    LINE = "a command line"
    RESPONSE = "the response to a challenge"
    MESSAGE = "octets of a message, or the answer of onData to them"
    HOOK = "the answer of a hook"
    HANDSHAKE = "the end of a TLS handshake"
    TIMER = "the end of a delay"


# To look a member up in its Enum costs as much as a call, before Python 3.12; these are looked up for every connection.
_OPEN, _HOOK = Phase.OPEN, Want.HOOK


class ConnectionState:
    """
    @ivar phase: how far it has come.
    @ivar want: what it waits for while it is open.
    @ivar hasMoved: a step was taken since the last deadline was set, so the next turn gets a new deadline.
    @ivar isWoken: something has happened since the pump has looked last.
    @ivar inputEnded: the client has closed its sending side.
    @ivar isLeaving: the server ends the connection as soon as no transaction is in progress.
    @ivar isAborted: the connection was ended at once, and pending output dropped.
    """

    __slots__ = ("hasMoved", "inputEnded", "isAborted", "isLeaving", "isWoken", "phase", "want")

    def __init__(self) -> None:
        self.phase: Phase = _OPEN
        self.want: Want = _HOOK
        self.hasMoved: bool = True
        self.isWoken: bool = False
        self.inputEnded: bool = False
        self.isLeaving: bool = False
        self.isAborted: bool = False


def wakeNobody() -> None:
    """Takes the place of what wakes a connection, once it is over."""
