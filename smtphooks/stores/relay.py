"""
The store C{Relay}: each message goes on to another server, SMTP or LMTP, while its client waits; nothing is queued.

In: the hooks of a session.  Out: a transaction upstream that follows that of the client, command by command, and what
upstream answers as the answer to the client.
Rules: a message is acknowledged where upstream has acknowledged it, and never before; whatever ends the client's
transaction ends that upstream; what is sent is the transaction of the client, or one made anew, never half of it.
This module knows no wire, and not which server is tried first.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from smtphooks.awaiting import Waiting
from smtphooks.client.client import SMTPClient
from smtphooks.client.errors import ClientError, Unreachable, errorOf
from smtphooks.client.mechanisms import mechanismsFor
from smtphooks.client.place import waitingFor
from smtphooks.client.route import Route, routeTo
from smtphooks.client.timeouts import Timeouts
from smtphooks.client.tls import checkTLS
from smtphooks.client.transaction import Transaction
from smtphooks.currentreactor import currentReactor
from smtphooks.errors import OptionError
from smtphooks.hooks import Unavailable
from smtphooks.optionkinds import (
    NotShown,
    count,
    flag,
    isLine,
    isText,
    listOf,
    oneOf,
    option,
    pem,
    seconds,
    toUpper,
    withOptions,
)
from smtphooks.replies import SMTPError
from smtphooks.session import Address, Session
from smtphooks.stores.relayidentity import xClientOf, xForwardOf
from smtphooks.stores.relayresults import Content, Result, isInOrder, resultOf, resultsFor, textOf, worst
from smtphooks.stores.relaystate import RelayState, faultOf, mailArgumentsOf, saidOf, within
from smtphooks.stores.upstreams import WANTS, Group, Upstream, Upstreams
from smtphooks.stream import MessageStream

log: Logger = Logger()

_TLS = ("none", "opportunistic", "required", "implicit")

_DENIED = "Relay access denied"
_ELSEWHERE = "This recipient's server is another one, please send the message to it separately"


def _secretText() -> Any:
    def show(value: Any) -> NotShown | None:
        return None if value is None else NotShown("(not shown)")

    return option(None, "one line of text", lambda value: isLine(value) and value != "", show=show, isSecret=True)


@withOptions
class Relay:
    """
    Hooks that hand every message on to another server, C{smtphooks.stores.Relay}; in TOML C{smtphooks.stores:Relay}.

    It should be the last of several layers: a recipient that is refused behind it has been accepted upstream already,
    so the message would take a transaction anew.

    @ivar upstream: the server, or several; see C{docs/stores/relay.rst}.
    @ivar lmtp: it speaks LMTP.
    @ivar tls: C{"none"}, C{"opportunistic"}, C{"required"} or C{"implicit"}, as L{Route} has them; so are C{ca},
        C{key}, C{cert}, C{servername}, C{user}, C{password}, C{token}, C{authMethods} and C{allowInsecureAuth}.
    @ivar xClient: tell upstream by XCLIENT who the client is.
    @ivar xForward: tell upstream by XFORWARD who the client is.
    @ivar connections: the most connections to one server, 0 for no limit.
    @ivar connectTimeout: seconds that one server may take until it has accepted MAIL, before the next one is tried.
    @ivar timeout: seconds that servers together may take for MAIL, and upstream for any other command.
    @ivar dataTimeout: seconds that upstream may take to read on while a message is sent, and for the reply to it.
    @ivar retryTime: seconds for which a server that cannot be used is left out, if there are others.
    @ivar hopLimit: how many C{Received} fields a message may have, 0 for no limit.
    @raise OptionError: for a wrong value.
    """

    upstream: Any = option(attrs.NOTHING, WANTS, lambda value: True)
    lmtp: bool = flag(False)
    tls: str = oneOf("opportunistic", '"none", "opportunistic", "required" or "implicit"', _TLS)
    ca: str | bytes | None = pem()
    key: str | bytes | None = pem()
    cert: str | bytes | None = pem()
    servername: str | None = option(None, "a host name", lambda value: isLine(value) and value != "")
    user: str | None = option(None, "one line of text", lambda value: isLine(value) and value != "")
    password: str | None = _secretText()
    token: str | None = _secretText()
    authMethods: tuple[str, ...] = listOf((), "a list of mechanisms such as PLAIN", isText, toUpper)
    allowInsecureAuth: bool = flag(False)
    xClient: bool = flag(False)
    xForward: bool = flag(False)
    connections: int = count(50, "connections")
    connectTimeout: float = seconds(30)
    timeout: float = seconds(120)
    dataTimeout: float = seconds(300)
    retryTime: float = seconds(30)
    hopLimit: int = count(50, "Received fields")

    _upstreams: Upstreams = attrs.field(init=False, repr=False)
    _client: SMTPClient | None = attrs.field(default=None, init=False, repr=False)

    State = RelayState
    wantsToBeLast = True

    def __attrs_post_init__(self) -> None:
        self._upstreams = Upstreams(self.upstream, self._routeTo, self.retryTime)
        for group in self._upstreams.groups:
            for upstream in group.upstreams:
                if self.tls != "none" and (self.ca or self.key):
                    checkTLS(upstream.route)
                _checkMechanisms(upstream.route)

    def _routeTo(self, text: str) -> Route:
        names = ("lmtp", "tls", "ca", "key", "cert", "servername", "user", "password", "token")
        given = {name: getattr(self, name) for name in (*names, "authMethods", "allowInsecureAuth")}
        return routeTo(text, **given)

    @property
    def advertisedLimits(self) -> dict[str, int]:
        """What the server advertises with LIMITS (RFC 9422 section 4): recipients of one domain can share a server."""
        return {"RCPTDOMAINMAX": 1} if self._upstreams.isSplit else {}

    # --- its life ---

    async def onStop(self, service: object) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _opened(self) -> SMTPClient:
        """The client; there is one as soon as a message comes, in whichever reactor's thread that is."""
        if self._client is None:
            timeouts = Timeouts(
                connect=self.connectTimeout,
                greeting=self.connectTimeout,
                turn=self.connectTimeout,
                command=self.timeout,
                data=self.timeout,
                block=self.dataTimeout,
                message=self.dataTimeout,
            )
            self._client = SMTPClient(connections=self.connections, timeouts=timeouts)
        return self._client

    # --- hooks: Twisted runs their coroutines, also where those of others are tasks of asyncio ---

    def onMailFrom(self, address: Address, session: Session) -> Waiting[str | None]:
        """
        Begin upstream, if there is just one for all recipients.

        @return: what upstream answers; it fails with L{SMTPError} or L{Unavailable}.
        """
        return waitingFor(Deferred.fromCoroutine(self._mail(session)))

    def onRcptTo(self, address: Address, session: Session) -> Waiting[str | None]:
        """Ask upstream for a recipient; as L{onMailFrom}."""
        return waitingFor(Deferred.fromCoroutine(self._ask(address, session)))

    def onData(self, stream: MessageStream, session: Session) -> Waiting[str | list[Result]]:
        """
        Send the message.

        @return: what upstream answers; over LMTP for each recipient, in order.
        """
        return waitingFor(Deferred.fromCoroutine(self._deliver(stream, session)))

    def onReset(self, session: Session) -> None:
        """The client gives its transaction up."""
        session.of(self).end()

    def onClose(self, session: Session) -> None:
        """The client is gone."""
        session.of(self).end()

    # --- inside ---

    async def _mail(self, session: Session) -> str | None:
        state: RelayState = session.of(self)
        state.end()  # that of a sender whom a later layer has refused
        if self._upstreams.isSplit:
            return None
        (group,) = self._upstreams.groups
        transaction = await self._begin(group, state, session)
        return None if transaction.mailReply is None else textOf(transaction.mailReply)

    async def _begin(self, group: Group, state: RelayState, session: Session) -> Transaction:
        """
        Begin a transaction upstream.

        @raise SMTPError: if upstream refuses.
        @raise Unavailable: if no server can be used.
        """
        sender, said = session.envelope.mailFrom or Address(""), saidOf(session.envelope.mailFrom)
        arguments, clock = mailArgumentsOf(sender, session), currentReactor()
        xForward = xForwardOf(session) if self.xForward else None

        async def attempt(upstream: Upstream) -> Transaction:
            route = attrs.evolve(
                upstream.route, name=session.localName, xClient=xClientOf(session) if self.xClient else ()
            )
            beginning = self._opened().begin(route, str(sender), arguments, xForward)
            what = f"{route} has not accepted a message"
            transaction: Transaction = await within(self.connectTimeout, beginning, clock, what)
            return transaction

        try:
            trying = self._upstreams.firstOf(group, clock, attempt)
            transaction: Transaction = await within(self.timeout, trying, clock, "no server has accepted a message")
        except ClientError as error:
            raise faultOf(error) from error
        except ValueError as error:
            raise SMTPError("This sender cannot be passed on", 553, "5.1.7") from error
        state.transaction, state.group, state.sender = transaction, group, said
        state.server = transaction.connection.route
        return transaction

    async def _ask(self, address: Address, session: Session) -> str | None:
        """Ask for a recipient, in a transaction that is begun if there is none."""
        state: RelayState = session.of(self)
        group = self._upstreams.maybeGroup(address.domain)
        if group is None:
            raise SMTPError(_DENIED, 550, "5.7.1")
        if state.group is not group:
            if state.accepted:
                raise SMTPError(_ELSEWHERE, 452, "4.5.3")
            state.end()
        transaction = state.transaction or await self._begin(group, state, session)
        said = saidOf(address)
        try:
            reply = await transaction.rcpt(str(address), address.args)
        except ClientError as error:
            raise faultOf(error) from error
        except ValueError as error:
            raise SMTPError("This recipient cannot be passed on", 553, "5.1.3") from error
        if not 200 <= reply.code < 300:
            raise errorOf(reply)
        state.accepted.append(said)
        return textOf(reply)

    async def _deliver(self, stream: MessageStream, session: Session) -> str | list[Result]:
        state: RelayState = session.of(self)
        asked = [address for address, _ in state.accepted]
        # Where RCPT was not asked here, nobody can tell whether other hooks have moved recipients.
        isEach = session.lmtp and (not asked or isInOrder(asked, session.envelope.rcptTo))
        try:
            if self.hopLimit and len((await stream.header()).get_all("Received", ())) >= self.hopLimit:
                raise SMTPError("Too many hops, this message is in a loop", 554, "5.4.6")
            stream.prepend(session.receivedHeader().encode(errors="replace"))
            results = await self._send(Content(stream), state, session)
        except ClientError as error:
            raise faultOf(error) from error
        finally:
            state.end()
        self._logRelayed(results, stream, session, state.server)
        if isEach:
            return results
        result = worst(results)
        if isinstance(result, SMTPError):
            raise result
        return result

    async def _send(self, content: Content, state: RelayState, session: Session) -> list[Result]:
        """
        Send the message, in the transaction that there is if that can be.

        @return: a result for each recipient.
        """
        transaction, recipients = state.maybeFor(session.envelope), session.envelope.rcptTo
        if not recipients:
            raise Unavailable("other hooks have left no recipient")
        if transaction is not None:
            try:
                return self._results(await transaction.data(content), [None] * len(recipients))
            except Unreachable:
                if content.hasBegun:
                    raise
        # The connection was cut while the client took its time, or other hooks have changed the envelope.
        state.end()
        asking = self._refusals(recipients, session)
        refusals = await within(
            self.timeout, asking, currentReactor(), "upstream has not accepted all recipients again"
        )
        refused = [refusal for refusal in refusals if refusal is not None]
        transaction = state.transaction
        if transaction is None or len(refused) == len(recipients) or (refused and not session.lmtp):
            # Over SMTP the client gets one reply, and nobody must have the message where that refuses.
            return list(refused)
        return self._results(await transaction.data(content), refusals)

    async def _refusals(self, recipients: list[Address], session: Session) -> list[SMTPError | None]:
        return [await self._maybeRefusal(address, session) for address in recipients]

    async def _maybeRefusal(self, address: Address, session: Session) -> SMTPError | None:
        try:
            await self._ask(address, session)
        except SMTPError as error:
            return error
        return None

    def _results(self, replies: list[Any], refusals: list[SMTPError | None]) -> list[Result]:
        return resultsFor([resultOf(reply) for reply in replies], refusals, self.lmtp)

    def _logRelayed(self, results: list[Result], stream: MessageStream, session: Session, server: object) -> None:
        accepted = [result for result in results if isinstance(result, str)]
        if accepted:
            log.info(
                "relayed to {server} for {recipients} recipients: {octets} octets, {reply} [{session}]",
                server=str(server),
                session=session.id,
                peer=session.remoteAddress,
                recipients=len(accepted),
                octets=stream.byteLength,
                reply=accepted[0],
            )


def _checkMechanisms(route: Route) -> None:
    """
    Look whether there is any way to authenticate.

    @raise OptionError: if there is none.
    """
    if route.user is not None and not mechanismsFor(route, isPrivate=True):
        wants = "XOAUTH2 for a token" if route.token is not None else "SCRAM-SHA-256, CRAM-MD5, PLAIN or LOGIN"
        raise OptionError(
            f"option authMethods is {{!r}}, it wants {wants}", [*route.authMethods], options=["authMethods"]
        )
