"""
The state of a relay for one session: the transaction upstream; and what its failures are for the client.

This module knows no options, and not how a server is found.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeAlias

import attrs
from twisted.internet.defer import CancelledError, Deferred

from smtphooks.client.errors import ClientError, NotOffered, Unreachable, errorOf
from smtphooks.client.route import Route
from smtphooks.client.transaction import Transaction
from smtphooks.hooks import Unavailable
from smtphooks.session import Address, Envelope, Session
from smtphooks.stores.upstreams import Group, isOfServer

# The Received field is not in the size that the client declares.
_RECEIVED_OCTETS = 512

Said: TypeAlias = tuple[Address | None, dict[str, str | bool]]


@attrs.define
class RelayState:
    """
    The transaction upstream of a session.

    @ivar transaction: None if there is none.
    @ivar group: the servers of which one has it.
    @ivar sender: what MAIL has said.
    @ivar accepted: what was said of the recipients that upstream has accepted.
    @ivar server: the one that has, or had, the last transaction.
    """

    transaction: Transaction | None = None
    group: Group | None = None
    sender: Said | None = None
    accepted: list[Said] = attrs.field(factory=list)
    server: Route | None = None

    def end(self) -> None:
        """End it, without a message if that has not been sent; there is none afterwards."""
        transaction, self.transaction = self.transaction, None
        self.group, self.sender, self.accepted = None, None, []
        if transaction is not None:
            transaction.abandon()

    def maybeFor(self, envelope: Envelope) -> Transaction | None:
        """The transaction, if a message can be sent in it, and if it is for those that the envelope names."""
        transaction = self.transaction
        if transaction is None or not transaction.connection.isUsable:
            return None
        isSame = self.sender == saidOf(envelope.mailFrom) and self.accepted == [*map(saidOf, envelope.rcptTo)]
        return transaction if isSame else None


def saidOf(address: Address | None) -> Said:
    """An address with its parameters as they are now: hooks may change these, and two addresses compare without."""
    return address, {} if address is None else dict(address.args)


def mailArgumentsOf(sender: Address, session: Session) -> dict[str, str | bool]:
    """The parameters of MAIL for upstream."""
    arguments = dict(sender.args)
    size = arguments.get("SIZE")
    if isinstance(size, str):
        arguments["SIZE"] = str(int(size) + _RECEIVED_OCTETS)
    if session.user is None and "AUTH" in arguments:
        arguments["AUTH"] = "<>"  # RFC 4954 section 5: the word of a client that has not authenticated does not count
    return arguments


def faultOf(error: ClientError) -> Exception:
    """What a hook raises: a refusal that is upstream's answer to the client, or that there is none."""
    if isinstance(error, NotOffered) and not error.isOpening:
        return error.asError()
    if isOfServer(error) or error.reply is None:
        return Unavailable(str(error))
    return errorOf(error.reply)


async def within(limit: float, coroutine: Coroutine[Any, Any, Any], clock: Any, what: str) -> Any:
    """
    The result of a coroutine.

    @param limit: seconds after which it is cancelled, 0 for no limit.
    @raise Unreachable: if it is.
    """
    isLate: list[bool] = []
    running = Deferred.fromCoroutine(coroutine)

    def expire() -> None:
        isLate.append(True)
        running.cancel()

    timer = clock.callLater(limit, expire) if limit else None
    try:
        return await running
    except CancelledError:
        if isLate:
            raise Unreachable(f"{what} within {limit:g} seconds") from None
        raise
    finally:
        if timer is not None and timer.active():
            timer.cancel()
