"""
The leaner reactor: Twisted's epoll reactor, without a logging context for each socket that can be read.

Before it reads a socket, Twisted enters a context of C{twisted.python.log}, for every event.  This reactor calls
C{doRead} from its loop.  Everything else is Twisted's: what other events do, and how an error is logged and ends a
connection.  Where the platform has no epoll(7), C{install} installs Twisted's default reactor.

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
    from select import EPOLLIN

    from twisted.internet.main import installReactor
    from twisted.python.log import callWithLogger, err

    class DirectReactor(EPollReactor):
        """An epoll reactor that reads directly where an event says nothing but "readable"."""

        def doPoll(self, timeout: float | None) -> None:
            """
            Wait for events, and handle them.

            @param timeout: in seconds; None to wait until there is an event.
            """
            selectables = self._selectables
            for fd, event in self._poller.poll(-1 if timeout is None else timeout, len(selectables)):
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

        # The main loop calls this name.
        doIteration = doPoll

    def install() -> None:
        """
        Install this reactor as C{twisted.internet.reactor}.

        @raise ReactorAlreadyInstalledError: if there is one already.
        """
        installReactor(DirectReactor())  # type: ignore[no-untyped-call]


__all__ = ["install"]
