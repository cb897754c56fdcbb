"""
A database for layers: a few connections of a DB-API module (PEP 249), each in a thread of its own, by Twisted's adbapi.

In: a function, which is called in a thread with a cursor, in a transaction of its own.  Out: its result, or one
sentence that names the database and the cause.
Rule kept here: a connection on which something failed is never used again.
This module knows no mail and no SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, TypeVar

from twisted.enterprise import adbapi
from twisted.internet.defer import Deferred, DeferredSemaphore, maybeDeferred
from twisted.python.failure import Failure

from smtphooks.currentreactor import currentReactor
from smtphooks.hooks import Unavailable

T = TypeVar("T")

SQLITE = "sqlite3"


class DatabaseError(Unavailable):
    """The database cannot be used: its answer is not known."""


class _Connection(adbapi.Connection):
    """A connection that is closed, not kept, when something on it has failed."""

    def rollback(self) -> None:
        """
        Close it, which rolls back as well (PEP 249); the next call in this thread opens another.

        adbapi keeps a connection that may be dead, and logs a traceback if it is.
        """
        pool = self._pool
        if self._connection is not None and pool.connections.get(pool.threadID()) is self._connection:
            pool.disconnect(self._connection)


class Database:
    """
    A database, which is connected to by the first call.

    @ivar name: what errors call it.
    """

    def __init__(
        self,
        name: str,
        module: str,
        connect: str | Mapping[str, Any],
        *,
        connections: int,
        prepare: Callable[[Any], object] | None = None,
    ) -> None:
        """
        @param module: the name of the DB-API module, such as C{"sqlite3"} or C{"psycopg2"}.
        @param connect: what its C{connect()} is called with: one text, or arguments by name.
        @param connections: how many connections, and threads, there are at most.
        @param prepare: called in the thread with each new connection.
        """
        self.name = name
        self._module = module
        self._positional = (connect,) if isinstance(connect, str) else ()
        self._named = {} if isinstance(connect, str) else dict(connect)
        if module == SQLITE:
            # adbapi closes the connections of all threads in the reactor's.
            self._named.setdefault("check_same_thread", False)
        self._connections = connections
        self._prepare = prepare
        self._free = DeferredSemaphore(connections)
        self._pool: adbapi.ConnectionPool | None = None
        self._reactor: Any = None  # that of the pool

    def run(self, work: Callable[..., T], *arguments: object) -> Deferred[T]:
        """
        Call C{work(cursor, *arguments)} in a thread, and commit.

        If the connection has been lost since its last use, as when the server was restarted, it is called once more.
        A call that is cancelled before there is a thread for it is not made.

        @raise DatabaseError: for any failure.
        """
        return Deferred.fromCoroutine(self._inTurn(work, arguments))

    async def _inTurn(self, work: Callable[..., T], arguments: tuple[object, ...]) -> T:
        await self._free.acquire()
        running: Deferred[T] = maybeDeferred(self._begin, work, arguments)
        # A thread cannot be interrupted: its turn ends when it does, not when nobody waits for it any more.
        waiting: Deferred[T] = Deferred()
        running.addBoth(self._end).chainDeferred(waiting)
        return await waiting

    def _end(self, result: Any) -> Any:
        self._free.release()
        return result

    def _begin(self, work: Callable[..., T], arguments: tuple[object, ...]) -> Deferred[T]:
        reactor = currentReactor()
        if self._pool is None or self._reactor is not reactor:
            self._reactor = reactor
            self._pool = adbapi.ConnectionPool(
                self._module,
                *self._positional,
                cp_min=1,
                cp_max=self._connections,
                cp_name=self.name,
                cp_reactor=reactor,
                cp_openfun=None if self._prepare is None else self._prepareOrClose,
                **self._named,
            )
            self._pool.connectionFactory = _Connection
        done: Deferred[T] = self._pool.runWithConnection(self._perform, self._pool.dbapi, work, arguments)
        return done.addErrback(self._explain)

    def _perform(self, connection: Any, dbapi: Any, work: Callable[..., T], arguments: tuple[object, ...]) -> T:
        try:
            return _withCursor(connection, work, arguments)
        except (dbapi.OperationalError, dbapi.InterfaceError):
            if self._module == SQLITE:  # a file has no server that could have gone away
                raise
            connection.reconnect()
            return _withCursor(connection, work, arguments)

    def _prepareOrClose(self, connection: Any) -> None:
        assert self._prepare is not None
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise

    def _explain(self, failure: Failure) -> Any:
        error = failure.value
        cause = str(error).strip().replace("\n", " ")
        if not isinstance(error, DatabaseError):
            cause = f"{type(error).__name__}: {cause}"
        raise DatabaseError(f"{self.name} cannot be used: {cause}") from error

    def close(self) -> None:
        """Close all connections, once the calls underway have ended; a further call opens new ones."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None


def _withCursor(connection: Any, work: Callable[..., T], arguments: tuple[object, ...]) -> T:
    with closing(connection.cursor()) as cursor:
        return work(cursor, *arguments)
