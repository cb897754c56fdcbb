"""The database of layers: connections in threads, and what becomes of those that fail."""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, gatherResults

from smtphooks.layers.database import Database, DatabaseError

pytestmark = pytest.mark.usefixtures("logged")


class Server:
    """
    A DB-API module whose server can be down.

    @ivar connections: those that were opened.
    """

    def __init__(self) -> None:
        self.connections: list[Any] = []
        self.isUp = True

    def module(self) -> ModuleType:
        made: Any = ModuleType("a_database")
        made.apilevel, made.threadsafety, made.paramstyle = "2.0", 1, "qmark"
        made.OperationalError, made.InterfaceError = sqlite3.OperationalError, sqlite3.InterfaceError
        made.connect = self._connect
        return made  # type: ignore[no-any-return]

    def _connect(self, name: str) -> Any:
        if not self.isUp:
            raise sqlite3.OperationalError("could not connect\n\tto server")
        connection = sqlite3.connect(name, check_same_thread=False)
        self.connections.append(connection)
        return connection

    def closeAll(self) -> None:
        for connection in self.connections:
            connection.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    monkeypatch.setitem(sys.modules, "a_database", server.module())
    yield server
    server.closeAll()


class Lost:
    """A query that finds its connection dead, as often as said."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.asked = 0

    def __call__(self, cursor: Any) -> int:
        self.asked += 1
        if self.asked <= self.times:
            raise sqlite3.OperationalError("server closed the connection unexpectedly")
        return one(cursor)


def one(cursor: Any) -> int:
    cursor.execute("SELECT 1")
    return int(cursor.fetchone()[0])


@pytest_twisted.ensureDeferred
async def test_nothing_is_connected_to_before_the_first_call(server: Server) -> None:
    database = Database("it", "a_database", ":memory:", connections=1)
    assert server.connections == []
    assert await database.run(one) == 1
    assert len(server.connections) == 1
    database.close()


@pytest_twisted.ensureDeferred
async def test_there_are_as_many_connections_as_calls_at_once_up_to_a_limit(server: Server) -> None:
    database = Database("it", "a_database", ":memory:", connections=2)
    both = threading.Barrier(2)
    await gatherResults([database.run(lambda cursor: both.wait(30)) for _ in range(4)])
    assert len(server.connections) == 2
    database.close()


@pytest_twisted.ensureDeferred
async def test_a_connection_is_kept_for_further_calls(server: Server) -> None:
    database = Database("it", "a_database", ":memory:", connections=1)
    for _ in range(3):
        await database.run(one)
    assert len(server.connections) == 1
    database.close()


@pytest_twisted.ensureDeferred
async def test_a_call_whose_connection_was_lost_is_made_once_more_on_another(server: Server) -> None:
    database = Database("it", "a_database", ":memory:", connections=1)
    await database.run(one)
    query = Lost(1)
    assert await database.run(query) == 1
    assert query.asked == 2
    assert len(server.connections) == 2
    database.close()


@pytest_twisted.ensureDeferred
async def test_a_call_that_fails_twice_is_a_failure_and_the_next_has_a_new_connection(server: Server) -> None:
    database = Database("the database of it", "a_database", ":memory:", connections=1)
    with pytest.raises(DatabaseError, match="of it cannot be used: OperationalError: server closed the connection"):
        await database.run(Lost(2))
    assert await database.run(one) == 1
    assert len(server.connections) == 3
    database.close()


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_down_is_a_failure_in_one_line_and_is_asked_again_by_the_next_call(
    server: Server,
) -> None:
    database = Database("it", "a_database", ":memory:", connections=1)
    await database.run(one)
    server.isUp = False
    for query in (Lost(9), one, one):
        with pytest.raises(DatabaseError, match=r"could not connect \tto server$"):
            await database.run(query)
    server.isUp = True
    assert await database.run(one) == 1
    database.close()


@pytest_twisted.ensureDeferred
async def test_a_failure_rolls_back_and_a_result_commits(tmp_path: Path) -> None:
    database = Database("it", "sqlite3", str(tmp_path / "db"), connections=1)

    def insert(cursor: Any, fails: bool) -> None:
        cursor.execute("CREATE TABLE IF NOT EXISTS numbers (number)")
        cursor.execute("INSERT INTO numbers VALUES (1)")
        if fails:
            raise KeyError("a bug")

    await database.run(insert, False)
    with pytest.raises(DatabaseError, match="KeyError: 'a bug'"):
        await database.run(insert, True)
    database.close()
    with sqlite3.connect(tmp_path / "db") as other:
        assert other.execute("SELECT count(*) FROM numbers").fetchone() == (1,)
    other.close()


@pytest_twisted.ensureDeferred
async def test_a_call_on_sqlite_is_made_once_as_a_locked_file_is_no_lost_connection() -> None:
    database = Database("it", "sqlite3", ":memory:", connections=1)
    query = Lost(1)
    with pytest.raises(DatabaseError):
        await database.run(query)
    assert query.asked == 1
    database.close()


@pytest_twisted.ensureDeferred
async def test_each_new_connection_is_prepared_and_one_that_cannot_be_is_closed(server: Server) -> None:
    prepared: list[Any] = []

    def prepare(connection: Any) -> None:
        prepared.append(connection)
        if len(prepared) == 1:
            raise DatabaseError("it is not ours")

    database = Database("it", "a_database", ":memory:", connections=1, prepare=prepare)
    with pytest.raises(DatabaseError, match=r"^it cannot be used: it is not ours$"):
        await database.run(one)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        prepared[0].execute("SELECT 1")
    assert await database.run(one) == 1
    assert len(prepared) == 2
    database.close()


@pytest_twisted.ensureDeferred
async def test_closing_ends_connections_and_threads_and_a_later_call_opens_new_ones(server: Server) -> None:
    database = Database("it", "a_database", ":memory:", connections=1)
    database.close()
    thread = await database.run(lambda cursor: threading.current_thread())
    database.close()
    assert not thread.is_alive()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        server.connections[0].execute("SELECT 1")
    assert await database.run(one) == 1
    database.close()


@pytest_twisted.ensureDeferred
async def test_a_call_that_is_cancelled_before_its_turn_is_never_made(server: Server) -> None:
    """Or clients that ask and leave would have others wait for what nobody wants to know any more."""
    database = Database("the database", "a_database", ":memory:", connections=1)
    entered, release = threading.Event(), threading.Event()
    made: list[int] = []

    def busy(cursor: Any) -> None:
        entered.set()
        release.wait(10)

    first = database.run(busy)
    entered.wait(10)
    first.addErrback(lambda failure: failure.trap(CancelledError))
    first.cancel()  # its thread is busy nevertheless
    for number in range(20):
        leaving = database.run(lambda cursor, number=number: made.append(number))
        leaving.addErrback(lambda failure: failure.trap(CancelledError))
        leaving.cancel()
    last = database.run(one)
    release.set()
    assert await last == 1
    assert made == []
    database.close()


@pytest_twisted.ensureDeferred
async def test_a_call_that_is_cancelled_stays_cancelled() -> None:
    database = Database("it", "sqlite3", ":memory:", connections=1)
    go = threading.Event()
    waiting: Deferred[bool] = database.run(lambda cursor: go.wait(30))
    waiting.cancel()
    go.set()
    with pytest.raises(CancelledError):
        await waiting
    assert await database.run(one) == 1
    database.close()
