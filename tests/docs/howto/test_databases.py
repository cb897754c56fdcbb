"""docs/howto/databases.rst: messages are kept in PostgreSQL and counted in SQLite, as it says."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.howto.conftest import Page, deliver
from tests.real import test_postgresql as real

PAGE = "databases"
needsServer = pytest.mark.skipif(not real._PROGRAMS, reason="the server of PostgreSQL is not installed")


@pytest.fixture(scope="module")
def server() -> Iterator[real.Server]:
    # Not below the folder of pytest, which only the user of the tests may enter.
    folder = Path(tempfile.mkdtemp(prefix="smtphooks-howto-"))
    try:
        if real._AS_POSTGRES:
            shutil.chown(folder, "postgres", "postgres")
        server = real.Server(folder)
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder)


def query(server: real.Server, text: str, *, rows: bool = True) -> list[tuple[object, ...]]:
    connection = real.psycopg2.connect(server.dsn)
    with connection, connection.cursor() as cursor:
        cursor.execute(text)
        found = cursor.fetchall() if rows else []
    connection.close()
    return list(found)


@pytest.fixture
def port(page: Page, server: real.Server) -> int:
    """Make the tables of the page, and have it use this database."""
    query(server, f"DROP TABLE IF EXISTS users, messages; {page.text('schema.sql')}", rows=False)
    dsn = page.text("archive.toml").split('dsn = "')[1].split('"')[0]
    page.change("archive.toml", dsn.split(" options")[0], server.dsn)
    return page.listen("archive.toml", "tcp:2525")


@needsServer
def test_messages_are_kept_for_known_users(page: Page, server: real.Server, port: int) -> None:
    page.start("smtphooks --config archive.toml")
    assert deliver(port, "joe@example.org") == (550, b"5.1.1 No such user")
    assert deliver(port, "Ann@example.org") == (250, b"2.0.0 Kept for 1")
    ((sender, recipient, content),) = query(server, "SELECT * FROM messages")
    assert (sender, recipient) == ("sender@client.example", "ann@example.org")
    assert bytes(content) == b"Subject: hello\r\n\r\nhello\r\n"  # type: ignore[call-overload]


@needsServer
def test_a_missing_table_keeps_the_service_from_starting(page: Page, server: real.Server, port: int) -> None:
    query(server, "DROP TABLE users", rows=False)
    status, said = page.run("smtphooks --config archive.toml")
    assert status == 1 and "cannot start: " in said and 'relation "users" does not exist' in said


@needsServer
def test_a_database_that_is_down_delays_and_comes_back(page: Page, server: real.Server, port: int) -> None:
    service = page.start("smtphooks --config archive.toml")
    assert deliver(port, "ann@example.org")[0] == 250
    server.stop()
    assert deliver(port, "ann@example.org")[0] == 451
    service.waitForLine("the database: ")
    server.start()
    replies = [deliver(port, "ann@example.org")[0] for _ in range(7)]
    # Each connection of the pool may find once that it is dead.
    assert replies[-1] == 250
    assert "Rollback failed" in service.output


def test_sqlite_counts_what_a_sender_sends(page: Page) -> None:
    port = page.listen("lite.toml", "tcp:2525")
    page.start("smtphooks --config lite.toml")
    for _ in range(3):
        assert deliver(port, "ann@example.org")[0] == 250
    page.stop()
    with sqlite3.connect(page.folder / "sent.db") as database:
        assert database.execute("SELECT * FROM sent").fetchall() == [("sender@client.example", 3)]
    database.close()
