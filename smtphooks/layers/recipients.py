"""
Recipients: refuse mail for mailboxes that do not exist, and for domains that are not ours.

In: the address of a RCPT command; lists in the configuration, a file, a database.  Out: None, or a refusal: 550 5.7.1
for a domain that is not ours, 550 5.1.1 for an unknown mailbox in one that is.
Rule kept here: a database that gives no answer is a fault, never an unknown mailbox; mail is not refused for good
because of it, nor accepted.
This module knows no delivery, and no client: it decides the same for every session.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from smtphooks.currentreactor import currentReactor
from smtphooks.errors import OptionError
from smtphooks.layers.database import SQLITE, Database
from smtphooks.layers.mailboxes import POSTMASTER, Listing, canonicalDomain, canonicalLocal, hasRoute, listingOf
from smtphooks.layers.recipientfile import RecipientFile
from smtphooks.optionkinds import NotShown, flag, isLine, isText, listOf, option, withOptions
from smtphooks.replies import SMTPError
from smtphooks.session import Address, Session

_CONNECTIONS = 5  # to the database; further look-ups wait for one
# How a query of each style of parameters (PEP 249) writes its placeholder.
_PLACEHOLDERS = {"qmark": "?", "format": "%s", "pyformat": "%s"}


def _refuseRelay() -> SMTPError:
    return SMTPError("Relay access denied", 550, "5.7.1")


def _refuseMailbox() -> SMTPError:
    return SMTPError("Recipient address rejected: user unknown", 550, "5.1.1")


def _isDatabase(value: Any) -> bool:
    if isinstance(value, Mapping):
        isModule = isText(value.get("module")) and all(part.isidentifier() for part in value["module"].split("."))
        return value.keys() == {"module", "connect"} and isModule and isinstance(value["connect"], (str, Mapping))
    return isText(value) and value != ""


def _pathText(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _query(facts: str) -> Any:
    return option(None, f"one line of SQL {facts}", lambda value: isLine(value) and value.strip() != "")


@withOptions
class Recipients:
    """
    A layer that decides on recipients, C{smtphooks.layers.Recipients}; in TOML C{smtphooks.layers:Recipients}.

    A mailbox is known if one of the sources has it: C{recipients}, C{file} or C{query}.  It decides for authenticated
    clients too, who may send elsewhere: exempt them by C{unless = ["authenticated"]}.

    @ivar recipients: addresses; C{@example.org} for every mailbox of a domain.
    @ivar file: the path of a file with one such address a line.
    @ivar database: the path of an SQLite file, which is only read; or a table with C{module}, the name of a DB-API
        module, and C{connect}, what its C{connect()} is called with: a text, or arguments by name.
    @ivar query: SQL with one placeholder, for the mailbox.  The mailbox is known if there is a row whose first column
        is neither NULL nor 0, false or an empty text.
    @ivar domains: the domains that are ours; without it those of C{recipients}, C{file} and C{catchAll}.
    @ivar domainQuery: SQL as C{query}, for the name of a domain.
    @ivar catchAll: domains in which every mailbox is known.
    @ivar tagSeparator: C{ann+news@example.org} is known if C{ann@example.org} is, with C{"+"}.
    @ivar postmaster: C{postmaster}, alone and in every domain of ours, is always known (RFC 5321 section 4.5.1).
    """

    recipients: Sequence[str] = listOf((), "a list of addresses", isText)
    file: str | None = option(
        None,
        "the path of a file with one address a line",
        lambda value: isText(value) and value != "",
        _pathText,
        isPath=isText,
    )
    database: str | Mapping[str, Any] | None = option(
        None,
        "the path of an SQLite file, or a table with module and connect",
        _isDatabase,
        _pathText,
        # What a module connects with may hold a password.
        show=lambda value: NotShown("a table (not shown)") if isinstance(value, Mapping) else value,
        isPath=isText,
        isSecret=True,
    )
    query: str | None = _query("with one placeholder for the mailbox")
    domains: Sequence[str] = listOf((), "a list of domains", isText)
    domainQuery: str | None = _query("with one placeholder for the domain")
    catchAll: Sequence[str] = listOf((), "a list of domains", isText)
    tagSeparator: str = option(
        "",
        'a character such as "+", neither a letter nor a digit, or "" for none',
        lambda value: value == "" or (isLine(value) and len(value) == 1 and not value.isalnum() and value not in '@" '),
    )
    postmaster: bool = flag(True)

    clock: IReactorTime | None = attrs.field(default=None, init=False)
    _listing: Listing = attrs.field(init=False)
    _file: RecipientFile | None = attrs.field(default=None, init=False)
    _database: Database | None = attrs.field(default=None, init=False)
    _domains: frozenset[str] | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        if not (self.recipients or self.file or self.database or self.catchAll):
            raise OptionError(
                "Recipients knows no mailbox, give it recipients, file, database or catchAll",
                options=["recipients", "file", "database", "catchAll"],
            )
        self._domains = _canonicalDomains("domains", self.domains) if self.domains else None
        # What is listed elsewhere may be a domain that the query knows.
        within = None if self.domainQuery else self._domains
        try:
            self._listing = listingOf(self.recipients, within)
        except ValueError as error:
            raise OptionError(f"option recipients is wrong: {error}", options=["recipients"]) from None
        self._addCatchAll(within)
        if self.file is not None:
            self._file = self._openFile(self.file, within)
        self._database = self._makeDatabase()

    def _addCatchAll(self, within: frozenset[str] | None) -> None:
        domains = _canonicalDomains("catchAll", self.catchAll)
        for domain in domains - (domains if within is None else within):
            raise OptionError(
                f"option catchAll has {domain}, which is in none of the domains that option domains lists",
                options=["catchAll", "domains"],
            )
        listing = self._listing
        self._listing = Listing(listing.entries | {f"@{domain}" for domain in domains}, listing.domains | domains)

    def _openFile(self, path: str, within: frozenset[str] | None) -> RecipientFile:
        try:
            return RecipientFile(path, within, self._seconds)
        except OSError as error:
            problem = f"{path} cannot be read, {error.strerror or error}"
        except ValueError as error:
            problem = f"{path}, {error}"
        raise OptionError(f"option file is wrong: {problem}", options=["file"])

    def _makeDatabase(self) -> Database | None:
        database = self.database
        if database is None or self.query is None:
            for name in ("database", "query", "domainQuery"):
                if getattr(self, name) is not None:
                    other = "query" if database is not None else "database"
                    raise OptionError(f"option {name} needs option {other} as well", options=[name, other])
            return None
        if self._domains is None and self.domainQuery is None:
            raise OptionError(
                "option query needs option domains or domainQuery as well, or all domains would be refused",
                options=["query", "domains", "domainQuery"],
            )
        if isinstance(database, str):
            if not os.path.isfile(database):
                raise OptionError("option database is {!r}, but there is no such file", database, options=["database"])
            # Read-only, or a misspelt path would create an empty database.
            named = {"database": Path(database).absolute().as_uri() + "?mode=ro", "uri": True}
            name, module, connect = f"the database {database}", SQLITE, named
        else:
            name, module, connect = f"the database of {database['module']}", database["module"], database["connect"]
        placeholder = _placeholderOf(module)
        for option_ in ("query", "domainQuery"):
            query = getattr(self, option_)
            if query is not None and query.count(placeholder) != 1:
                raise OptionError(
                    f"option {option_} is {{!r}}, it wants the placeholder {placeholder} of {module} in it, once",
                    query,
                    options=[option_],
                )
        return Database(name, module, connect, connections=_CONNECTIONS)

    def _seconds(self) -> float:
        clock = IReactorTime(currentReactor()) if self.clock is None else self.clock
        return clock.seconds()

    def onRcptTo(self, address: Address, session: Session) -> Deferred[None] | None:
        """
        Decide on a recipient.

        @raise SMTPError: 550 5.7.1 for a domain that is not ours, 550 5.1.1 for an unknown mailbox.
        """
        try:
            domain = canonicalDomain(address.domain) if address.domain else ""
        except ValueError:
            raise _refuseRelay() from None
        listings = [self._listing] if self._file is None else [self._listing, self._file.listing()]
        locals_ = self._localsOf(address.local)
        isOurs = not domain or self._isOurs(domain, listings)
        if isOurs and self._isListed(locals_, domain, listings):
            return None
        if self._database is None or not (isOurs or self.domainQuery):
            raise _refuseMailbox() if isOurs else _refuseRelay()
        return Deferred.fromCoroutine(self._lookUp(self._database, locals_, domain, isOurs, listings))

    def _localsOf(self, local: str) -> list[str]:
        """The local part, and what is left of it without a tag."""
        whole = canonicalLocal(local)
        # A local part that begins with the separator has no tag: something must be left.
        end = whole.find(self.tagSeparator, 1) if self.tagSeparator else -1
        return [whole] if end < 0 or hasRoute(whole[end + 1 :]) else [whole, whole[:end]]

    def _isOurs(self, domain: str, listings: list[Listing]) -> bool:
        if self._domains is not None:
            return domain in self._domains
        return any(domain in listing.domains for listing in listings)

    def _isListed(self, locals_: list[str], domain: str, listings: list[Listing]) -> bool:
        if self.postmaster and POSTMASTER in locals_:
            return True
        return any(listing.has(local, domain) for listing in listings for local in locals_)

    async def _lookUp(
        self, database: Database, locals_: list[str], domain: str, isOurs: bool, listings: list[Listing]
    ) -> None:
        if not isOurs:
            if not await database.run(_isKnown, self.domainQuery, domain):
                raise _refuseRelay()
            if self._isListed(locals_, domain, listings):
                return
        # Without a local part it would be the form of a catch-all, which a table may have a row for.
        for local in filter(None, locals_):
            mailbox = f"{local}@{domain}" if domain else local
            if await database.run(_isKnown, self.query, mailbox):
                return
        raise _refuseMailbox()

    def onStop(self, service: object) -> None:
        """Close the connections to the database."""
        if self._database is not None:
            self._database.close()


def _canonicalDomains(option_: str, domains: Sequence[str]) -> frozenset[str]:
    try:
        return frozenset(map(canonicalDomain, domains))
    except ValueError as error:
        raise OptionError(f"option {option_} is wrong: {error}", options=[option_]) from None


def _placeholderOf(module: str) -> str:
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise OptionError(
            f"option database names the module {module}, which cannot be imported, install it: {error}",
            options=["database"],
        ) from None
    style = getattr(found, "paramstyle", None)
    if style not in _PLACEHOLDERS:
        raise OptionError(
            f"option database names the module {module}, it wants one of DB-API 2.0 with placeholders ? or %s",
            options=["database"],
        )
    return _PLACEHOLDERS[style]


def _isKnown(cursor: Any, query: str, value: str) -> bool:
    """Runs in a thread of the database."""
    cursor.execute(query, (value,))
    row = cursor.fetchone()
    return row is not None and bool(row[0])
