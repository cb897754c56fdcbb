"""
The channel between two processes of smtphooks: JSON objects, one on a line, in both directions over one stream.

Each object has a C{kind}.  One that is told something gets no answer; one that is asked answers with an object, or with
the sentence of an error.  The same lines go between the supervisor and its workers, and between the supervisor and the
commands C{smtphooks status} and C{smtphooks drain}.
This module knows no kind of message, and not what either side is.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

_log = Logger()

# What is called for a message: with its fields by name.
Handler = Callable[..., "dict[str, Any] | Awaitable[dict[str, Any]] | None"]

# Octets of a line at most: the metrics of one worker are one line.
_LONGEST = 64 * 1024 * 1024

_ANSWER = "answer"


class ChannelError(Exception):
    """The other side cannot answer, or has said why it does not; the text is for the operator."""


class Channel(LineOnlyReceiver):
    """
    One end of a channel.

    @ivar handlers: for each kind of message what is called; may be replaced.
    @ivar onLost: called when the stream has ended.
    """

    delimiter = b"\n"
    MAX_LENGTH = _LONGEST

    def __init__(self, handlers: Mapping[str, Handler], onLost: Callable[[], object] = lambda: None) -> None:
        self.handlers: Mapping[str, Handler] = handlers
        self.onLost: Callable[[], object] = onLost
        self.isLost: bool = False
        self._numbers = count(1)
        self._asked: dict[int, Deferred[dict[str, Any]]] = {}
        self._closing: Deferred[None] | None = None

    def tell(self, kind: str, **fields: object) -> None:
        """Send a message that wants no answer; nothing happens if the stream has ended."""
        if not self.isLost and self.transport is not None:
            self.transport.write(json.dumps({"kind": kind, **fields}).encode() + b"\n")

    def ask(self, kind: str, timeout: float, clock: IReactorTime, **fields: object) -> Deferred[dict[str, Any]]:
        """
        Send a message, and wait for the answer.

        @param timeout: seconds to wait at most.
        @return: fires with the answer, or fails with a L{ChannelError} or a C{TimeoutError} of Twisted's.
        """
        number = next(self._numbers)
        answer: Deferred[dict[str, Any]] = Deferred(lambda _: self._forget(number))
        if self.isLost:
            answer.errback(ChannelError("the other process has ended"))
            return answer
        self._asked[number] = answer
        self.tell(kind, ask=number, **fields)
        return answer.addTimeout(timeout, clock)

    def close(self) -> Deferred[None]:
        """End the stream; fires when all that was told has been written."""
        if self._closing is None:
            self._closing = Deferred()
            if self.isLost or self.transport is None:
                self._closing.callback(None)
            else:
                self.transport.loseConnection()
        return self._closing

    def _forget(self, number: int) -> None:
        self._asked.pop(number, None)

    def lineReceived(self, line: bytes) -> None:
        """C{LineOnlyReceiver}"""
        try:
            fields = json.loads(line)
            kind, number = fields.pop("kind"), fields.pop("ask", None)
            handler = self.handlers.get(kind)
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
            # The rest of a line whose beginning went to the program that this process was before it was upgraded.
            _log.debug("a line of the channel is not understood")
            return
        if kind == _ANSWER:
            self._answered(number, fields)
            return
        done: Deferred[Any] = maybeDeferred(self._handle, kind, handler, fields)
        if number is not None:
            done.addCallback(lambda result: self.tell(_ANSWER, ask=number, result=result or {}))
            done.addErrback(self._refuse, number)
        done.addErrback(lambda failure: _log.failure("message {kind} failed", failure, kind=kind))

    @staticmethod
    def _handle(kind: str, handler: Handler | None, fields: dict[str, Any]) -> Any:
        if handler is None:
            raise ChannelError(f"{kind} is not known here, the two programs may be of different versions")
        return handler(**fields)

    def _refuse(self, failure: Failure, number: int) -> None:
        self.tell(_ANSWER, ask=number, error=" ".join(failure.getErrorMessage().split()))
        if not failure.check(ChannelError):
            _log.failure("a question of the channel cannot be answered", failure)

    def _answered(self, number: object, fields: dict[str, Any]) -> None:
        waiting = self._asked.pop(number, None) if isinstance(number, int) else None
        if waiting is None:
            return  # it came too late
        if "error" in fields:
            waiting.errback(ChannelError(str(fields["error"])))
        else:
            waiting.callback(fields["result"])

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        """C{LineOnlyReceiver}"""
        self.isLost = True
        asked, self._asked = self._asked, {}
        for waiting in asked.values():
            waiting.errback(ChannelError("the other process has ended"))
        self.onLost()
        if self._closing is not None:
            self._closing.callback(None)
