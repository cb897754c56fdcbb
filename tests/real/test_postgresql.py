"""PostgreSQL as the database of recipients: asked, restarted, and down."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from smtphooks import Address, Session, SMTPError
from smtphooks.layers import Recipients
from smtphooks.layers.database import DatabaseError
from tests.real.programs import Program, eventually, freePort, run

# Debian keeps all programs of the server but psql in a folder of their version.
_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))

psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
pytestmark = [
    pytest.mark.usefixtures("logged"),
    pytest.mark.skipif(not _PROGRAMS, reason="the server of PostgreSQL is not installed"),
]

# The server refuses to run as root.
_AS_POSTGRES = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.geteuid() == 0 else []


class Server:
    """
    A PostgreSQL with one table.

    @ivar dsn: what psycopg2 connects with.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = freePort()
        self.dsn = f"host=127.0.0.1 port={self._port} user=postgres dbname=postgres connect_timeout=10"
        run(*self._command("initdb"), "--pgdata", folder / "data", "--username=postgres", "--auth=trust", "--no-sync")
        self.start()
        connection = psycopg2.connect(self.dsn)
        with connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE users (address TEXT PRIMARY KEY)")
            cursor.execute("INSERT INTO users VALUES ('ann@example.org'), ('jörg@xn--bcher-kva.example')")
        connection.close()

    def _command(self, name: str) -> list[str]:
        return [*_AS_POSTGRES, str(_PROGRAMS[-1] / name)]

    def start(self) -> None:
        flags = ["-D", "data", "-p", str(self._port), "-k", str(self._folder), "-h", "127.0.0.1", "-c", "fsync=off"]
        self._program = Program([*self._command("postgres"), *flags], {**os.environ, "LC_ALL": "C"}, self._folder)
        self._program.waitForLine("database system is ready to accept connections")

    def stop(self) -> None:
        """End it and all connections to it."""
        os.kill(self._program.pid, signal.SIGINT)
        self._program.wait()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
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


def makeLayer(server: Server, **given: Any) -> Recipients:
    options = {
        "database": {"module": "psycopg2", "connect": server.dsn},
        "query": "SELECT 1 FROM users WHERE address = %s",
        "domains": ["example.org", "bücher.example"],
    }
    return Recipients(**{**options, **given})


async def codeOf(layer: Recipients, local: str, domain: str = "example.org") -> int:
    """250, or the code that the recipient is refused with."""
    try:
        deciding = layer.onRcptTo(Address(f"{local}@{domain}", local, domain), Session())
        assert deciding is not None
        await deciding
    except SMTPError as refusal:
        assert refusal.responseCode is not None
        return refusal.responseCode
    return 250


@pytest_twisted.ensureDeferred
async def test_mailboxes_are_looked_up(server: Server) -> None:
    layer = makeLayer(server)
    assert await codeOf(layer, "Ann") == 250
    assert await codeOf(layer, "jörg", "bücher.example") == 250
    assert await codeOf(layer, "bob") == 550
    assert await codeOf(layer, "'; DROP TABLE users; --") == 550
    assert await codeOf(layer, "ann") == 250
    layer.onStop(None)


@pytest_twisted.ensureDeferred
async def test_connections_are_kept_and_ended_by_the_stop(server: Server) -> None:
    watching = psycopg2.connect(server.dsn)
    watching.autocommit = True

    def others() -> int:
        with watching.cursor() as cursor:
            cursor.execute("SELECT count(*) - 1 FROM pg_stat_activity WHERE backend_type = 'client backend'")
            return int(cursor.fetchone()[0])

    layer = makeLayer(server)
    eventually(lambda: others() == 0, "no connection of another test")
    for _ in range(10):
        await codeOf(layer, "ann")
    assert 1 <= others() <= 5
    layer.onStop(None)
    eventually(lambda: others() == 0, "the end of the connections")
    watching.close()


@pytest_twisted.ensureDeferred
async def test_a_restart_of_the_server_is_not_noticed(server: Server) -> None:
    layer = makeLayer(server)
    assert await codeOf(layer, "ann") == 250
    server.stop()
    server.start()
    assert await codeOf(layer, "ann") == 250
    assert await codeOf(layer, "bob") == 550
    layer.onStop(None)


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_down_is_a_fault_until_it_is_up(server: Server) -> None:
    layer = makeLayer(server)
    assert await codeOf(layer, "ann") == 250
    server.stop()
    for local in ("ann", "bob"):
        with pytest.raises(
            DatabaseError, match=r"the database of psycopg2 cannot be used: OperationalError: .*refused"
        ):
            await codeOf(layer, local)
    server.start()
    assert await codeOf(layer, "ann") == 250
    assert await codeOf(layer, "bob") == 550
    layer.onStop(None)


@pytest_twisted.ensureDeferred
async def test_a_query_that_the_server_ends_is_a_fault(server: Server) -> None:
    connect = {"dsn": server.dsn, "options": "-c statement_timeout=10"}
    layer = makeLayer(
        server,
        database={"module": "psycopg2", "connect": connect},
        query="SELECT 1 FROM pg_sleep(60) WHERE 'a' <> %s",
    )
    with pytest.raises(DatabaseError, match="canceling statement due to statement timeout"):
        await codeOf(layer, "ann")
    layer.onStop(None)
