"""The layer Recipients: which recipients it refuses, and which options it takes."""

from __future__ import annotations

import os
import re
import sqlite3
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.task import Clock

from smtphooks import Address, OptionError, Session, SMTPError
from smtphooks.layers import Recipients
from smtphooks.layers.database import DatabaseError
from smtphooks.syntax.grammar import parseForwardPath
from tests.conftest import Logged
from tests.layers.pages import blocksOf
from tests.pages import tomllib
from tests.support import HELLO, MAIL, connect

pytestmark = pytest.mark.usefixtures("logged")

RELAY = (550, "5.7.1", "Relay access denied")
UNKNOWN = (550, "5.1.1", "Recipient address rejected: user unknown")


async def ask(layer: Recipients, address: str) -> Any:
    """None if a recipient is passed on, else what it is refused with."""
    path = parseForwardPath(f"<{address}>", utf8=True, lenient=True)
    try:
        deciding = layer.onRcptTo(Address(*path), Session())
        if deciding is not None:
            assert await deciding is None
    except SMTPError as refusal:
        return refusal.responseCode, refusal.enhancedCode, refusal.message
    return None


# --- Lists ---


@pytest_twisted.ensureDeferred
async def test_a_listed_mailbox_passes_on_an_unknown_one_and_another_domain_are_refused() -> None:
    layer = Recipients(recipients=["ann@example.org"])
    assert await ask(layer, "ann@example.org") is None
    assert await ask(layer, "bob@example.org") == UNKNOWN
    assert await ask(layer, "ann@example.net") == RELAY


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    "local",
    ["ann%else.example", "else.example!ann", '"ann@else.example"', "ann+x%else.example", "odd+ann%else.example"],
)
async def test_all_of_a_domain_is_nothing_that_a_server_behind_might_relay(local: str) -> None:
    layer = Recipients(
        recipients=["@example.org", "odd%one@example.org", "ann@example.com"],
        catchAll=["example.net"],
        tagSeparator="+",
    )
    assert await ask(layer, f"{local}@example.org") == UNKNOWN
    assert await ask(layer, f"{local}@example.com") == UNKNOWN
    assert await ask(layer, "ann+x@example.com") is None
    assert await ask(layer, f"{local}@example.net") == UNKNOWN
    assert await ask(layer, "odd%one@example.org") is None


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    "address", ["ANN@EXAMPLE.org", '"ann"@example.org', "@relay.example:ann@example.org", "ann@example.org."]
)
async def test_every_spelling_of_a_listed_mailbox_passes_on(address: str) -> None:
    assert await ask(Recipients(recipients=["Ann@Example.Org"]), address) is None


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("listed", ["ann@bücher.example", "ann@xn--bcher-kva.example", "ann@BÜCHER.example"])
@pytest.mark.parametrize("asked", ["ann@bücher.example", "ann@XN--BCHER-KVA.example"])
async def test_both_forms_of_an_internationalized_domain_are_one(listed: str, asked: str) -> None:
    assert await ask(Recipients(recipients=[listed]), asked) is None


@pytest_twisted.ensureDeferred
async def test_a_local_part_that_holds_another_address_is_no_way_around() -> None:
    layer = Recipients(recipients=["ann@example.org", "@example.com"])
    assert await ask(layer, '"ann@example.org"@example.net') == RELAY
    assert await ask(layer, '"ann@example.org"@example.org') == UNKNOWN
    assert await ask(layer, '""@example.org') == UNKNOWN


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("options", [{"recipients": ["@example.org"]}, {"catchAll": ["Example.ORG"]}])
async def test_a_catch_all_takes_every_mailbox_of_its_domain_only(options: dict[str, Any]) -> None:
    layer = Recipients(**options)
    assert await ask(layer, "anyone@example.org") is None
    assert await ask(layer, "anyone@sub.example.org") == RELAY


@pytest_twisted.ensureDeferred
async def test_domains_are_ours_also_where_no_mailbox_is_listed() -> None:
    layer = Recipients(recipients=["ann@example.org"], domains=["example.org", "Bücher.example"])
    assert await ask(layer, "ann@example.org") is None
    assert await ask(layer, "ann@bücher.example") == UNKNOWN
    assert await ask(layer, "ann@example.net") == RELAY


@pytest_twisted.ensureDeferred
async def test_an_address_literal_is_a_domain_like_others() -> None:
    layer = Recipients(recipients=["ann@[192.0.2.1]", "ann@[IPv6:2001:db8:0::1]"])
    assert await ask(layer, "ann@[192.0.2.1]") is None
    assert await ask(layer, "ann@[IPv6:2001:DB8::1]") is None
    assert await ask(layer, "ann@[192.0.2.2]") == RELAY


def test_a_domain_that_cannot_be_read_is_not_ours() -> None:
    with pytest.raises(SMTPError, match="Relay access denied"):
        Recipients(recipients=["ann@example.org"]).onRcptTo(Address("ann@a..b", "ann", "a..b"), Session())


# --- Tags ---


@pytest_twisted.ensureDeferred
async def test_a_tag_is_part_of_the_mailbox_unless_a_separator_is_given() -> None:
    assert await ask(Recipients(recipients=["ann@example.org"]), "ann+news@example.org") == UNKNOWN


@pytest_twisted.ensureDeferred
async def test_a_mailbox_is_known_with_any_tag() -> None:
    layer = Recipients(recipients=["ann@example.org", "bob+work@example.org", "+dora@example.org"], tagSeparator="+")
    assert await ask(layer, "+dora+news@example.org") is None
    assert await ask(layer, "ann+news@example.org") is None
    assert await ask(layer, "Ann+a+b@example.org") is None
    assert await ask(layer, '"ann+a b"@example.org') is None
    assert await ask(layer, "ann+@example.org") is None
    assert await ask(layer, "bob+work@example.org") is None
    assert await ask(layer, "bob+play@example.org") == UNKNOWN
    assert await ask(layer, "bob@example.org") == UNKNOWN
    assert await ask(layer, "+ann@example.org") == UNKNOWN
    assert await ask(layer, "ann+news@example.net") == RELAY


# --- Postmaster (RFC 5321 section 4.5.1) ---


@pytest_twisted.ensureDeferred
async def test_the_postmaster_is_known_alone_and_in_every_domain_of_ours() -> None:
    layer = Recipients(recipients=["ann@example.org"], domains=["example.org", "example.com"])
    for address in ("postmaster", "PostMaster", "Postmaster@example.org", '"postmaster"@example.com'):
        assert await ask(layer, address) is None
    assert await ask(layer, "postmaster@example.net") == RELAY


@pytest_twisted.ensureDeferred
async def test_without_the_option_the_postmaster_is_a_mailbox_like_others() -> None:
    layer = Recipients(recipients=["ann@example.org"], postmaster=False)
    assert await ask(layer, "postmaster") == UNKNOWN
    assert await ask(layer, "postmaster@example.org") == UNKNOWN
    layer = Recipients(recipients=["postmaster", "postmaster@example.org"], postmaster=False)
    assert await ask(layer, "postmaster") is None
    assert await ask(layer, "postmaster@example.org") is None


# --- A file ---


@pytest_twisted.ensureDeferred
async def test_a_file_is_a_source_beside_the_list_and_its_domains_change_with_it(tmp_path: Path) -> None:
    path = tmp_path / "recipients.txt"
    path.write_text("ann@example.org\n")
    layer = Recipients(recipients=["bob@example.com"], file=path)
    layer.clock = clock = Clock()  # type: ignore[assignment]
    assert await ask(layer, "ann@example.org") is None
    assert await ask(layer, "bob@example.com") is None
    assert await ask(layer, "carl@example.net") == RELAY
    path.write_text("carl@example.net\n")
    os.utime(path, (time.time() - 10, time.time() - 10))
    clock.advance(1)
    assert await ask(layer, "carl@example.net") is None
    assert await ask(layer, "ann@example.org") == RELAY
    assert await ask(layer, "bob@example.com") is None


@pytest_twisted.ensureDeferred
async def test_a_file_that_is_damaged_later_changes_nothing(tmp_path: Path, logged: Logged) -> None:
    path = tmp_path / "recipients.txt"
    path.write_text("ann@example.org\n")
    layer = Recipients(file=str(path), domains=["example.org"])
    path.write_text("ann@example.org\nbob@example.net\n")
    os.utime(path, (time.time() - 10, time.time() - 10))
    assert await ask(layer, "ann@example.org") is None
    (text,) = logged.takeTexts()
    assert "line 2: bob@example.net is in none of the domains that option domains lists" in text


# --- A database ---


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """An SQLite file with mailboxes and domains."""
    path = tmp_path / "our users.db"
    database = sqlite3.connect(path)
    with database:
        database.execute("CREATE TABLE users (address TEXT PRIMARY KEY, active)")
        database.execute("CREATE TABLE domains (name TEXT)")
        database.executemany(
            "INSERT INTO users VALUES (?, ?)",
            [("ann@example.org", 1), ("bob@xn--bcher-kva.example", 1), ("carl@example.org", 0), ("postmaster", 1)],
        )
        database.executemany("INSERT INTO domains VALUES (?)", [("example.org",), ("xn--bcher-kva.example",)])
    database.close()
    return path


ACTIVE = "SELECT active FROM users WHERE address = ?"


@pytest_twisted.ensureDeferred
async def test_a_database_is_asked_for_the_mailbox_in_canonical_form(users: Path) -> None:
    layer = Recipients(database=users, query=ACTIVE, domains=["example.org", "bücher.example"])
    assert await ask(layer, '"Ann"@Example.org') is None
    assert await ask(layer, "bob@bücher.example") is None
    assert await ask(layer, "zoe@example.org") == UNKNOWN
    assert await ask(layer, "ann@example.net") == RELAY
    assert await ask(layer, "postmaster@example.org") is None
    layer.onStop(None)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    "query",
    [
        "SELECT active FROM users WHERE address = ?",
        "SELECT count(*) FROM users WHERE active AND address = ?",
        "SELECT address FROM users WHERE active AND address = ?",
        "SELECT EXISTS (SELECT 1 FROM users WHERE active AND address = ?)",
        "SELECT NULL FROM users WHERE active = 0 AND address = ?",
    ],
)
async def test_a_row_that_begins_with_nothing_is_no_mailbox(users: Path, query: str) -> None:
    layer = Recipients(database=str(users), query=query, domains=["example.org"])
    assert await ask(layer, "carl@example.org") == UNKNOWN
    assert await ask(layer, "zoe@example.org") == UNKNOWN
    layer.onStop(None)


@pytest_twisted.ensureDeferred
async def test_a_database_can_know_the_domains_as_well(users: Path) -> None:
    layer = Recipients(
        database=users,
        query=ACTIVE,
        domainQuery="SELECT 1 FROM domains WHERE name = ?",
        recipients=["dora@example.org", "@example.com"],
    )
    assert await ask(layer, "ann@example.org") is None
    assert await ask(layer, "bob@BÜCHER.example") is None
    assert await ask(layer, "zoe@example.org") == UNKNOWN
    assert await ask(layer, "zoe@example.net") == RELAY
    assert await ask(layer, "dora@example.org") is None
    assert await ask(layer, "zoe@example.com") is None
    assert await ask(layer, "postmaster@xn--bcher-kva.example") is None
    assert await ask(layer, "postmaster@example.net") == RELAY
    layer.onStop(None)


@pytest_twisted.ensureDeferred
async def test_an_address_listed_in_a_domain_that_only_the_database_knows_is_known(users: Path) -> None:
    layer = Recipients(
        database=users,
        query=ACTIVE,
        domains=["example.com"],
        domainQuery="SELECT 1 FROM domains WHERE name = ?",
        recipients=["dora@example.org", "dora@example.net"],
    )
    assert await ask(layer, "dora@example.org") is None
    assert await ask(layer, "dora@example.net") == RELAY
    layer.onStop(None)


@pytest_twisted.ensureDeferred
async def test_a_database_is_asked_with_the_tag_and_without(users: Path) -> None:
    layer = Recipients(database=users, query=ACTIVE, domains=["example.org"], tagSeparator="+")
    assert await ask(layer, "ann+x@example.org") is None
    assert await ask(layer, "zoe+x@example.org") == UNKNOWN
    layer.onStop(None)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("local", ['""', "+ann"])
async def test_a_database_is_never_asked_for_a_domain_in_the_place_of_a_mailbox(users: Path, local: str) -> None:
    layer = Recipients(
        database=users,
        query="SELECT ? IN ('@example.org', 'ann@example.org')",
        domains=["example.org"],
        tagSeparator="+",
    )
    assert await ask(layer, "ann@example.org") is None
    assert await ask(layer, f"{local}@example.org") == UNKNOWN
    layer.onStop(None)


@pytest_twisted.ensureDeferred
async def test_the_bare_postmaster_is_asked_for_without_a_domain(users: Path) -> None:
    layer = Recipients(database=users, query=ACTIVE, domains=["example.org"], postmaster=False)
    assert await ask(layer, "Postmaster") is None
    assert await ask(layer, "postmaster@example.org") == UNKNOWN
    layer.onStop(None)


@pytest_twisted.ensureDeferred
async def test_no_text_of_a_client_becomes_sql(users: Path) -> None:
    layer = Recipients(database=users, query=ACTIVE, domains=["example.org"])
    assert await ask(layer, '"\' OR 1 --"@example.org') == UNKNOWN
    layer.onStop(None)


@pytest_twisted.ensureDeferred
async def test_a_database_that_cannot_be_asked_is_a_fault_and_no_unknown_mailbox(users: Path) -> None:
    layer = Recipients(
        database=users,
        query="SELECT 1 FROM missing WHERE a = ?",
        domains=["example.org"],
        recipients=["ann@example.org"],
    )
    with pytest.raises(DatabaseError, match=r"the database .*our users.db cannot be used: OperationalError: no such"):
        await ask(layer, "bob@example.org")
    assert await ask(layer, "ann@example.org") is None
    assert await ask(layer, "bob@example.net") == RELAY
    layer.onStop(None)


@pytest_twisted.ensureDeferred
async def test_a_query_for_domains_that_fails_is_a_fault_and_no_foreign_domain(users: Path) -> None:
    layer = Recipients(database=users, query=ACTIVE, domainQuery="SELECT 1 FROM missing WHERE a = ?")
    with pytest.raises(DatabaseError):
        await ask(layer, "ann@example.org")
    layer.onStop(None)


@pytest_twisted.ensureDeferred
async def test_an_sqlite_file_is_only_read_and_never_made(users: Path) -> None:
    layer = Recipients(database=users, query="DELETE FROM users WHERE address = ? RETURNING 1", domains=["example.org"])
    with pytest.raises(DatabaseError, match="readonly"):
        await ask(layer, "ann@example.org")
    layer.onStop(None)
    users.unlink()
    with pytest.raises(DatabaseError, match="unable to open"):
        await ask(layer, "ann@example.org")
    assert not users.exists()
    layer.onStop(None)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("byName", [False, True])
async def test_a_module_can_be_named_with_what_it_connects_with(users: Path, byName: bool) -> None:
    connect = {"database": str(users)} if byName else str(users)
    layer = Recipients(database={"module": "sqlite3", "connect": connect}, query=ACTIVE, domains=["example.org"])
    assert await ask(layer, "ann@example.org") is None
    layer.onStop(None)


# --- Options ---


def test_a_client_gets_the_reply() -> None:
    client = connect(hooks=Recipients(recipients=["ann@example.org"]))
    assert client.say(HELLO, MAIL, "RCPT TO:<ann@example.org>")[-1].startswith("250 2.1.5 ")
    assert client.say("RCPT TO:<bob@example.org>") == ["550 5.1.1 Recipient address rejected: user unknown"]
    assert client.say("RCPT TO:<ann@example.net>") == ["550 5.7.1 Relay access denied"]


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({}, "Recipients knows no mailbox, give it recipients, file, database or catchAll"),
        ({"domains": ["example.org"]}, "Recipients knows no mailbox, give it"),
        ({"recipients": "ann@example.org"}, "option recipients is 'ann@example.org', it wants a list of addresses"),
        ({"recipients": ["ann"]}, "option recipients is wrong: ann is no address, write local-part@domain"),
        ({"recipients": ["a@b"], "domains": ["c"]}, "option recipients is wrong: a@b is in none of the domains"),
        ({"recipients": ["a@b"], "domains": ["c d"]}, "option domains is wrong: c d is no domain"),
        ({"catchAll": ["a@b"]}, "option catchAll is wrong: a@b is no domain"),
        ({"catchAll": ["b"], "domains": ["c"]}, "option catchAll has b, which is in none of the domains"),
        ({"file": "/nowhere/recipients.txt"}, "option file is wrong: /nowhere/recipients.txt cannot be read, No such"),
        ({"file": 5}, "option file is 5, it wants the path of a file"),
        ({"tagSeparator": "+-"}, "option tagSeparator is '+-', it wants a character"),
        ({"tagSeparator": "a"}, "option tagSeparator is 'a', it wants a character"),
        ({"tagSeparator": "@"}, "option tagSeparator is '@', it wants a character"),
        ({"postmaster": 1}, "option postmaster is 1, it wants True or False"),
        ({"recipient": ["a@b"]}, "unknown option recipient, did you mean recipients?"),
        ({"database": "users.db"}, "option database needs option query as well"),
        ({"recipients": ["a@b"], "query": "SELECT ?"}, "option query needs option database as well"),
        ({"recipients": ["a@b"], "domainQuery": "SELECT ?"}, "option domainQuery needs option database as well"),
        ({"database": "u.db", "query": "SELECT ?"}, "option query needs option domains or domainQuery as well"),
        (
            {"database": "nowhere.db", "query": "SELECT ?", "domains": ["b"]},
            "option database is 'nowhere.db', but there is no such file",
        ),
        ({"database": {"module": "x"}}, "option database is a table (not shown), it wants the path of an SQLite file"),
        (
            {"database": {"module": "no_such", "connect": ""}, "query": "SELECT ?", "domains": ["b"]},
            "option database names the module no_such, which cannot be imported, install it:",
        ),
        (
            {"database": {"module": "json", "connect": ""}, "query": "SELECT ?", "domains": ["b"]},
            "option database names the module json, it wants one of DB-API 2.0",
        ),
        (
            {"database": {"module": "sqlite3", "connect": ""}, "query": "SELECT %s", "domains": ["b"]},
            "option query is 'SELECT %s', it wants the placeholder ? of sqlite3 in it, once",
        ),
        (
            {"database": {"module": "sqlite3", "connect": ""}, "query": "?", "domainQuery": "??"},
            "option domainQuery is '??', it wants the placeholder ? of sqlite3 in it, once",
        ),
    ],
)
def test_a_wrong_option_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError) as caught:
        Recipients(**options)
    assert str(caught.value).startswith(sentence)


def test_a_malformed_file_is_one_sentence_that_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "recipients.txt"
    path.write_text("ann@example.org\nbob\n")
    with pytest.raises(OptionError, match=f"^option file is wrong: {path}, line 2: bob is no address"):
        Recipients(file=path)


def test_what_a_module_connects_with_is_not_shown() -> None:
    database = {"module": "sqlite3", "connect": "host=x password=not-to-be-seen"}
    layer = Recipients(database=database, query="SELECT ?", domains=["b"])
    assert "not-to-be-seen" not in repr(layer)
    with pytest.raises(OptionError) as caught:
        Recipients(database={**database, "more": 1})
    assert "not-to-be-seen" not in str(caught.value)


# --- The documentation ---

PAGE = (Path(__file__).parents[2] / "docs" / "layers" / "recipients.rst").read_text()


def test_the_documentation_has_every_option_with_its_default() -> None:
    for field in attrs.fields(Recipients):
        if field.init:
            (default,) = re.findall(rf"^``{field.name}``\s+(\S+)", PAGE, re.MULTILINE)
            assert {"none": (None, ()), "see": ((),), '``""``': ("",), "``true``": (True,)}[default].count(
                field.default
            )


def test_the_examples_of_the_documentation_are_valid(
    tmp_path: Path, users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    users.rename("users.db")
    monkeypatch.setitem(sys.modules, "psycopg2", SimpleNamespace(paramstyle="pyformat"))
    (file,) = blocksOf(PAGE, "text")
    Path("recipients.txt").write_text(file)
    layers = [layer for text in blocksOf(PAGE, "toml") for layer in tomllib.loads(text)["layer"]]
    assert len(layers) == 3
    for layer in layers:
        assert layer.pop("use") == "smtphooks.layers:Recipients"
        layer.pop("unless", None)
        Recipients(**layer)
