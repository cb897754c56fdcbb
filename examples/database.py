"""
Users and recipients in PostgreSQL or SQLite, asked through twisted.enterprise.adbapi.

    python database.py sqlite3 mail.db --add ann@example.org    (asks for her password; makes the table if need be)
    python database.py sqlite3 mail.db --maildir maildir
    python database.py psycopg2 "host=127.0.0.1 dbname=mail user=mail" --maildir maildir

Users log in and write to one another: an address of the table is a user and a recipient.  Queries run in the threads of
adbapi, the hash of a password as well; a database that is lost is a 451, and is connected to again.
"""

from __future__ import annotations

import argparse
import getpass
import hashlib
import hmac
import os
import sys
from typing import Any

from twisted.enterprise.adbapi import ConnectionLost, ConnectionPool
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.logger import globalLogBeginner, textFileLogObserver

from smtphooks import Address, Auth, Session, SMTPError, SMTPServerFactory, SMTPService, Unavailable
from smtphooks.stores import Maildir

TABLE = "CREATE TABLE IF NOT EXISTS users (address TEXT PRIMARY KEY, salt TEXT NOT NULL, hash TEXT NOT NULL)"


def hashOf(password: str, salt: str) -> str:
    return hashlib.scrypt(password.encode(), salt=bytes.fromhex(salt), n=16384, r=8, p=1).hex()


class Database:
    def __init__(self, driver: str, source: str) -> None:
        # A connection of SQLite is made in one thread and closed in another.
        options = {"check_same_thread": False} if driver == "sqlite3" else {}
        self.pool = ConnectionPool(driver, source, cp_reconnect=True, cp_noisy=False, **options)
        self.mark = "?" if self.pool.dbapi.paramstyle == "qmark" else "%s"

    async def ask(self, interaction: Any, *values: str) -> Any:
        try:
            return await self.pool.runInteraction(interaction, *values)
        except (self.pool.dbapi.Error, ConnectionLost) as error:
            raise Unavailable(f"the database cannot be used: {error!r}") from error

    # What runs in a thread of adbapi.

    def exists(self, cursor: Any, address: str) -> bool:
        cursor.execute(f"SELECT 1 FROM users WHERE address = {self.mark}", (address,))
        return cursor.fetchone() is not None

    def knows(self, cursor: Any, address: str, password: str) -> bool:
        cursor.execute(f"SELECT salt, hash FROM users WHERE address = {self.mark}", (address,))
        # An unknown user costs the same time as a known one.
        salt, expected = cursor.fetchone() or ("00" * 16, "")
        return hmac.compare_digest(hashOf(password, salt), expected)

    def add(self, cursor: Any, address: str, password: str) -> None:
        salt = os.urandom(16).hex()
        cursor.execute(TABLE)
        cursor.execute(f"DELETE FROM users WHERE address = {self.mark}", (address,))
        mark = self.mark
        cursor.execute(f"INSERT INTO users VALUES ({mark}, {mark}, {mark})", (address, salt, hashOf(password, salt)))

    # Hooks.

    async def onAuth(self, auth: Auth, session: Session) -> str | None:
        user = auth.username.lower()
        return user if await self.ask(self.knows, user, auth.password or "") else None

    def onMailFrom(self, address: Address, session: Session) -> None:
        if address.address.lower() != session.user:
            raise SMTPError("You may send as yourself only", 553, "5.7.1")

    async def onRcptTo(self, address: Address, session: Session) -> None:
        if not await self.ask(self.exists, address.address.lower()):
            raise SMTPError("No such user here", 550, "5.1.1")


async def main(reactor: Any) -> None:
    parser = argparse.ArgumentParser(description="Take mail of users for users, who are in a database.")
    parser.add_argument("driver", choices=["sqlite3", "psycopg2"], help="the module of the database")
    parser.add_argument("source", help="what the module connects to: a file, or a DSN")
    parser.add_argument("--add", metavar="ADDRESS", help="add a user, or change the password of one, and end")
    parser.add_argument("--maildir", default="maildir", help="where messages are stored (%(default)s)")
    parser.add_argument("--listen", default="tcp:2587:interface=127.0.0.1", help="an endpoint (%(default)s)")
    parser.add_argument("--key", help="a PEM file; without it, a certificate is made that no client trusts")
    parser.add_argument("--cert", help="a PEM file")
    given = parser.parse_args()
    database = Database(given.driver, given.source)
    if given.add:
        password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
        await database.ask(database.add, given.add.lower(), password)
        return
    observer: Any = textFileLogObserver(sys.stdout)  # type checkers do not know the interfaces of zope
    globalLogBeginner.beginLoggingTo([observer])
    # Two objects of hooks: the database decides, the Maildir stores.  AUTH is offered after STARTTLS only.
    factory = SMTPServerFactory(
        hooks=[database, Maildir(given.maildir)],
        needsUpgrade=True,
        key=given.key,
        cert=given.cert,
        size=26214400,
        hookTimeout=60,  # a database that does not answer is a 451 as well
    )
    service = SMTPService(given.listen, factory)
    service.startService()
    # SIGTERM stops the service first: idle clients get 421, transactions finish.
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    await Deferred[None]()


if __name__ == "__main__":
    react(main)
