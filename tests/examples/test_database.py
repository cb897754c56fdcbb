"""examples/database.py: users in SQLite and in a real PostgreSQL, which may be lost meanwhile."""

from __future__ import annotations

import os
import shutil
import smtplib
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.examples.conftest import EXAMPLES, Example, StartExample
from tests.real.programs import PATIENCE, ROOT, Certificates, Maildir, eventually
from tests.secrets import PASSWORD, UNICODE_PASSWORD, WRONG_PASSWORD, plain

ANN, BOB, CONTENT = "ann@example.org", "bob@example.org", b"Subject: hello\r\n\r\nhello\r\n"


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Any]:
    """A server, with a table of no use here."""
    from tests.real.test_postgresql import _AS_POSTGRES, _PROGRAMS, Server

    if not _PROGRAMS:
        pytest.skip("the server of PostgreSQL is not installed")
    # Not below the folder of pytest, which only the user of the tests may enter.
    folder = Path(tempfile.mkdtemp(prefix="smtphooks-postgresql-"))
    try:
        if _AS_POSTGRES:
            shutil.chown(folder, "postgres", "postgres")
        server = Server(folder)
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite3", "psycopg2"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The driver and what it connects to: a database without the table of the example."""
    if request.param == "sqlite3":
        return ["sqlite3", str(tmp_path / "mail.db")]
    import psycopg2

    server = request.getfixturevalue("postgresql")
    connection = psycopg2.connect(server.dsn)
    with connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS users")
    connection.close()
    return ["psycopg2", server.dsn]


def add(source: list[str], *names: str, password: str = PASSWORD) -> None:
    for name in names:
        subprocess.run(
            [sys.executable, EXAMPLES / "database.py", *source, "--add", name],
            input=password + "\n",
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
            timeout=PATIENCE,
            check=True,
        )


def start(startExample: StartExample, certificates: Certificates, source: list[str], maildir: Maildir) -> Example:
    given = ["--key", certificates.server["key"], "--cert", certificates.server["cert"], "--maildir", maildir.path]
    return startExample("database.py", *source, *given)


class Client(smtplib.SMTP):
    """A client that trusts the authority of the test."""

    def __init__(self, example: Example, certificates: Certificates) -> None:
        super().__init__("localhost", example.port, timeout=PATIENCE)
        self.starttls(context=ssl.create_default_context(cafile=certificates.authority))
        self.ehlo()


def codeOfLogin(client: Client, user: str, password: str = PASSWORD) -> int:
    return client.docmd("AUTH", f"PLAIN {plain(user, password)}")[0]


def test_users_log_in_and_write_to_one_another(
    startExample: StartExample, certificates: Certificates, source: list[str], maildir: Maildir
) -> None:
    add(source, ANN, BOB, password=WRONG_PASSWORD)
    add(source, ANN)  # changes her password
    add(source, "Jo@Example.org", password=UNICODE_PASSWORD)
    example = start(startExample, certificates, source, maildir)
    with Client(example, certificates) as client:
        assert client.mail(ANN)[0] == 530
        assert codeOfLogin(client, ANN, WRONG_PASSWORD) == 535
        assert codeOfLogin(client, "eve@example.org") == 535
        assert codeOfLogin(client, "Ann@example.org") == 235
        assert client.mail(BOB)[0] == 553
        assert client.mail(ANN)[0] == 250
        assert client.rcpt("eve@example.org")[0] == 550
        assert client.rcpt("'; DROP TABLE users; --@example.org")[0] in (501, 550)
        assert client.rcpt("BOB@example.org")[0] == 250
        assert client.data(CONTENT)[0] == 250
    assert maildir.message().deliveredTo == ["BOB@example.org"]
    with Client(example, certificates) as client:
        assert codeOfLogin(client, "jo@example.org", UNICODE_PASSWORD) == 235


def test_the_table_holds_no_password(source: list[str], tmp_path: Path) -> None:
    add(source, ANN)
    if source[0] == "sqlite3":
        assert PASSWORD.encode() not in Path(source[1]).read_bytes()


def test_a_database_without_the_table_is_a_temporary_failure_until_it_has_one(
    startExample: StartExample, certificates: Certificates, source: list[str], maildir: Maildir
) -> None:
    example = start(startExample, certificates, source, maildir)
    with Client(example, certificates) as client:
        assert codeOfLogin(client, ANN) == 451
        example.waitForLine("the database cannot be used", "users")
        add(source, ANN)
        assert codeOfLogin(client, ANN) == 235


def test_a_database_that_is_lost_is_a_temporary_failure_until_it_is_back(
    startExample: StartExample, certificates: Certificates, postgresql: Any, maildir: Maildir
) -> None:
    source = ["psycopg2", postgresql.dsn]
    add(source, ANN)
    example = start(startExample, certificates, source, maildir)
    example.mayLogTraceback = True  # adbapi logs that it cannot roll back on a connection that is lost
    with Client(example, certificates) as client, Client(example, certificates) as other:
        assert codeOfLogin(client, ANN) == 235
        assert client.mail(ANN)[0] == 250
        postgresql.stop()
        for recipient in (ANN, "eve@example.org"):
            assert client.rcpt(recipient)[0] == 451
        assert codeOfLogin(other, ANN) == 451
        postgresql.start()
        # Each thread of adbapi has a connection of its own, and may have to notice that it is lost.
        eventually(lambda: all(client.rcpt(ANN)[0] == 250 for _ in range(10)), "recipients that are accepted again")
        assert client.data(CONTENT)[0] == 250
    assert maildir.message().deliveredTo == [ANN]
