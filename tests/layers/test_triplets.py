"""Triplets: the decisions of greylisting, on a real file."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.layers import triplets
from smtphooks.layers.database import DatabaseError
from smtphooks.layers.triplets import Triplets

NETWORK, OTHER = "192.0.2.0/24", "198.51.100.0/24"
MAIL = b"mail"


class Table:
    """The triplets in a file, and the time."""

    def __init__(self, path: str, **given: Any) -> None:
        self.triplets = Triplets(**{"delay": 300, "window": 3600, "remember": 86400, "maxRows": 1000, **given})
        self.connection = sqlite3.connect(path, isolation_level=None)
        triplets.prepare(self.connection)
        self.now = 1e9

    def ask(self, network: str = NETWORK, mail: bytes = MAIL, after: float = 0) -> float:
        """The decision, so many seconds later."""
        self.now += after
        left = self.triplets.decide(self.connection.cursor(), network, mail, self.now)
        self.connection.commit()
        return left

    def count(self, table: str) -> int:
        (number,) = self.connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(number)


@pytest.fixture
def table() -> Iterator[Table]:
    made = Table(":memory:")
    with closing(made.connection):
        yield made


def test_a_mail_is_put_off_until_it_comes_again_in_time(table: Table) -> None:
    assert table.ask() == 300
    assert table.ask(after=100) == 200
    assert table.ask(after=199) == 1
    assert table.ask(after=1) == 0


def test_a_network_is_known_by_its_first_mail_that_came_again(table: Table) -> None:
    for mail in (b"1", b"2", b"3"):
        assert table.ask(mail=mail) == 300
    assert table.ask(mail=b"2", after=300) == 0
    assert table.ask(mail=b"1") == 0
    assert table.ask(mail=b"new") == 0
    assert table.ask(OTHER) == 300
    assert (table.count("waiting"), table.count("known")) == (1, 1)


def test_another_mail_of_the_same_network_is_put_off_by_itself(table: Table) -> None:
    table.ask()
    assert table.ask(mail=b"other", after=300) == 300


def test_a_mail_that_comes_again_too_late_is_a_new_one(table: Table) -> None:
    table.ask()
    assert table.ask(after=3601) == 300
    assert table.ask(after=300) == 0
    table.ask(OTHER)
    assert table.ask(OTHER, after=3600) == 0


def test_a_network_is_forgotten_a_time_after_its_last_mail(table: Table) -> None:
    table.ask()
    table.ask(after=300)
    for _ in range(3):
        assert table.ask(mail=b"another", after=86400) == 0
    assert table.ask(after=86401) == 300


def test_a_clock_that_is_set_back_puts_no_mail_off_for_longer_than_the_delay(table: Table) -> None:
    table.ask()
    assert table.ask(after=-7200) == 300
    assert table.ask(after=300) == 0
    assert table.ask(after=-7200) == 0
    assert table.ask(after=80000) == 0


def test_rows_out_of_date_are_removed_now_and_then(table: Table) -> None:
    table.ask()
    table.ask(OTHER, after=100)
    table.ask(OTHER, after=300)
    table.ask("203.0.113.0/24", after=3601)
    assert (table.count("waiting"), table.count("known")) == (1, 1)
    table.ask("203.0.113.0/24", b"new", after=90000)
    assert (table.count("waiting"), table.count("known")) == (1, 0)


def test_beyond_the_limit_the_oldest_mails_that_wait_are_forgotten_and_no_known_network() -> None:
    table = Table(":memory:", maxRows=20)
    with closing(table.connection):
        table.ask()
        table.ask(after=300)
        for number in range(30):
            table.ask(f"10.0.{number}.0/24", after=1)
            assert table.count("waiting") <= 10
        assert table.ask(mail=b"another") == 0
        assert table.ask("10.0.0.0/24") == 300
        assert table.ask("10.0.29.0/24", after=299) < 300


def test_beyond_the_limit_the_networks_that_were_silent_longest_are_forgotten_and_new_ones_still_get_known() -> None:
    table = Table(":memory:", maxRows=6, remember=1e9)
    with closing(table.connection):
        for number in range(9):
            assert table.ask(f"10.0.{number}.0/24") == 300
            assert table.ask(f"10.0.{number}.0/24", after=300) == 0
        table.ask(OTHER)
        assert table.count("known") == 3
        assert [table.ask(f"10.0.{number}.0/24") for number in (6, 7, 8, 0)] == [0, 0, 0, 300]


def test_the_limit_is_enforced_after_each_hundredth_of_it() -> None:
    table = Table(":memory:", maxRows=1000)
    with closing(table.connection):
        for number in range(1500):
            table.ask(f"10.{number // 256}.{number % 256}.0/24", after=1)
            assert table.count("waiting") <= 510
        assert table.count("waiting") >= 500


def test_a_network_pushes_out_none_but_its_own_mails() -> None:
    table = Table(":memory:", maxRows=1000)
    with closing(table.connection):
        table.ask()
        for number in range(2000):
            table.ask(OTHER, b"%d" % number, after=0.01)
        assert table.count("waiting") == 11
        assert table.ask(after=300) == 0
        assert table.ask(OTHER, b"1999") == 0


def test_without_a_limit_nothing_is_pushed_out() -> None:
    table = Table(":memory:", maxRows=0)
    with closing(table.connection):
        for number in range(2000):
            table.ask(OTHER, b"%d" % number)
        assert table.count("waiting") == 2000


@given(
    st.lists(
        st.tuples(st.sampled_from([NETWORK, OTHER]), st.sampled_from([b"a", b"b"]), st.integers(0, 2000)), max_size=40
    )
)
def test_it_decides_as_a_plain_model_does(comings: list[tuple[str, bytes, int]]) -> None:
    table = Table(":memory:", remember=5000)
    first: dict[tuple[str, bytes], float] = {}
    known: dict[str, float] = {}
    with closing(table.connection):
        for network, mail, after in comings:
            left = table.ask(network, mail, after)
            now = table.now
            if network in known and now - known[network] <= 5000:
                expected: float = 0
            elif (network, mail) not in first or now - first[network, mail] > 3600:
                first[network, mail], expected = now, 300
            else:
                expected = max(0, first[network, mail] + 300 - now)
            if expected == 0:
                known[network] = now
                first = {key: value for key, value in first.items() if key[0] != network}
            assert left == expected


# --- The file ---


def test_what_it_knows_outlives_the_process(tmp_path: Path) -> None:
    path = str(tmp_path / "greylist.db")
    table = Table(path)
    table.ask()
    table.ask(OTHER)
    table.ask(OTHER, after=300)
    table.connection.close()
    table = Table(path)
    table.now += 400
    with closing(table.connection):
        assert table.ask() == 0
        assert table.ask(OTHER, b"new") == 0


def test_a_file_without_rows_has_no_problem_and_neither_has_one_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "greylist.db"
    assert triplets.problemOf(str(path)) == ""
    path.touch()
    assert triplets.problemOf(str(path)) == ""
    Table(str(path)).connection.close()
    assert triplets.problemOf(str(path)) == ""


def test_what_is_no_file_of_sqlite_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "greylist.db"
    path.write_text("What is this?")
    assert triplets.problemOf(str(path)) == f"{path} is no SQLite file, move it away"
    assert triplets.problemOf(str(tmp_path)) == f"{tmp_path} cannot be read, Is a directory"
    assert triplets.problemOf(f"{path}\0") == f"{path}\0 cannot be read, embedded null byte"
    assert triplets.problemOf(str(tmp_path / "none" / "x")) == f"{tmp_path}/none is no folder"


def test_the_database_of_another_program_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "users.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE users (name)")
    before = path.read_bytes()
    with closing(sqlite3.connect(path)) as connection, pytest.raises(DatabaseError, match="of another program"):
        triplets.prepare(connection)
    assert path.read_bytes() == before


class Racing:
    """A connection to a file that another process prepares behind the first statement."""

    def __init__(self, connection: sqlite3.Connection, other: sqlite3.Connection) -> None:
        self._connection = connection
        self._other = [other]

    def execute(self, statement: str) -> Any:
        rows = self._connection.execute(statement).fetchall()
        while self._other:
            triplets.prepare(self._other.pop())
        return SimpleNamespace(fetchone=lambda: next(iter(rows), None))


def test_two_processes_may_make_the_file_at_once(tmp_path: Path) -> None:
    first, second = (sqlite3.connect(tmp_path / "greylist.db", isolation_level=None) for _ in range(2))
    with closing(first), closing(second):
        triplets.prepare(Racing(first, second))


def test_damage_within_the_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "greylist.db"
    table = Table(str(path))
    for number in range(500):
        table.ask(f"10.0.{number}.0/24")
    table.connection.close()
    octets = bytearray(path.read_bytes())
    octets[4096 : 4096 * 3] = b"\xff" * 8192
    path.write_bytes(octets)
    with closing(sqlite3.connect(path)) as connection, pytest.raises((DatabaseError, sqlite3.DatabaseError)):
        triplets.check(connection.cursor())


WORKER = """
import sqlite3, sys
from smtphooks.layers import triplets
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
triplets.prepare(connection)
table = triplets.Triplets(300, 3600, 86400, 1000)
for number in range(100):
    table.decide(connection.cursor(), f"10.{sys.argv[2]}.{number}.0/24", b"mail", 1e9)
    connection.commit()
"""


def test_several_processes_share_one_file_from_its_making_on(tmp_path: Path) -> None:
    path = str(tmp_path / "greylist.db")
    processes = [
        subprocess.Popen([sys.executable, "-c", WORKER, path, str(number)], stderr=subprocess.PIPE)
        for number in range(4)
    ]
    errors = [process.communicate(timeout=60)[1].decode() for process in processes]
    assert errors == [""] * 4
    table = Table(path)
    with closing(table.connection):
        assert table.count("waiting") == 400
