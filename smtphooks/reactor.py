"""
The leaner reactor: Twisted's epoll reactor, without a logging context for each socket that can be read.

Before it reads a socket, Twisted enters a context of C{twisted.python.log}, for every event.  This reactor calls
C{doRead} from its loop.  Everything else is Twisted's: what other events do, and how an error is logged and ends a
connection.  Where the platform has no epoll(7), C{install} installs Twisted's default reactor.

It also tells when all that has happened at once has been handled (L{DirectReactor.atEndOfTurn}): replies that are
written then find their clients awake, for to wake a client costs more than to write to it.

The price is small: what is logged with C{twisted.python.log} while a socket is read has the system C{-}, not the
protocol's prefix.  C{twisted.logger} has never shown that prefix.
This module knows nothing of SMTP or of the rest of the package, and imports C{twisted.internet.reactor} nowhere.
"""

from __future__ import annotations

try:
    from twisted.internet.epollreactor import EPollReactor
except ImportError:  # pragma: no cover
    from twisted.internet.default import install
else:
    from collections.abc import Callable
    from select import EPOLLIN

    from twisted.internet.main import installReactor
    from twisted.python.log import callWithLogger, err

    class DirectReactor(EPollReactor):
        """An epoll reactor that reads directly where an event says nothing but "readable"."""

        _calls: list[Callable[[], object]] | None = None  # for the end of this turn; None outside of one

        def doPoll(self, timeout: float | None) -> None:
            """
            Wait for events, and handle them.

            @param timeout: in seconds; None to wait until there is an event.
            """
            self._endTurn()  # one that this turn is a part of, by C{iterate}
            selectables = self._selectables
            events = self._poller.poll(-1 if timeout is None else timeout, len(selectables))
            self._calls = []
            try:
                for fd, event in events:
                    try:
                        selectable = selectables[fd]
                    except KeyError:  # an event before this one has removed it
                        continue
                    try:
                        # A descriptor of -1 has been closed; what that means is Twisted's to say.
                        isDirect = event == EPOLLIN and selectable.fileno() != -1
                        why = selectable.doRead() if isDirect else None
                    except BaseException as error:  # Twisted's reactors catch no less
                        callWithLogger(selectable, err)
                        callWithLogger(selectable, self._disconnectSelectable, selectable, error, False)
                    else:
                        if not isDirect:
                            callWithLogger(selectable, self._doReadOrWrite, selectable, fd, event)
                        elif why:
                            callWithLogger(selectable, self._disconnectSelectable, selectable, why, True)
            finally:
                self._endTurn()

        def atEndOfTurn(self, call: Callable[[], object]) -> None:
            """
            Call a function when all events that have come together are handled, or at once if none are being handled.

            @param call: what it raises is logged.
            """
            if self._calls is None:
                call()
            else:
                self._calls.append(call)

        def _endTurn(self) -> None:
            calls, self._calls = self._calls, None
            for call in calls or ():
                try:
                    call()
                except BaseException:
                    err()

        # The main loop calls this name.
        doIteration: Callable[..., None] = doPoll

    def install() -> None:
        """
        Install this reactor as C{twisted.internet.reactor}.

        @raise ReactorAlreadyInstalledError: if there is one already.
        """
        installReactor(DirectReactor())  # type: ignore[no-untyped-call]


__all__ = ["install"]
