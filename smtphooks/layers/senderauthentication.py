"""
SenderAuthentication: SPF, DKIM, ARC and DMARC of each message, told to others and, if the operator wants, decided on.

In: the session, and the message while it arrives.  Out: the state, a header field on top of the message, and refusals.
Rules kept here: what the DNS cannot tell now refuses no mail for good; nothing is refused that the operator has not
asked for.
This module can be imported without the libraries of the extra.  It knows no record, no signature and no DNS message.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from twisted.internet.interfaces import IReactorTime, IResolver
from twisted.logger import Logger

from smtphooks.currentreactor import currentReactor
from smtphooks.errors import OptionError
from smtphooks.layers.authentication.questions import TIMEOUT, Answers, settled
from smtphooks.netaddress import maybeIP
from smtphooks.optionkinds import isLine, listOf, objectWith, oneOf, option, withOptions
from smtphooks.replies import SMTPError
from smtphooks.session import Address, Session
from smtphooks.stream import MessageStream

if TYPE_CHECKING:
    from smtphooks.layers.authentication.arccheck import ARCResult
    from smtphooks.layers.authentication.authenticationresults import Result
    from smtphooks.layers.authentication.dkimcheck import DKIMResult
    from smtphooks.layers.authentication.dmarc import DMARCResult
    from smtphooks.layers.authentication.spf import SPFResult

log: Logger = Logger()

T = TypeVar("T")

RECORD, REJECT = "record", "reject"
_DNS_PORT = 53


@attrs.define
class Findings:
    """
    What is known of the current message, from MAIL to the next MAIL.

    @ivar helo: SPF of the name in HELO; None before MAIL, and for a client without an IP address.
    @ivar spf: SPF of the reverse-path; None as above.
    @ivar dkim: a result for each signature; None before the message has ended.
    @ivar arc: that of the chain of seals; None as above.
    @ivar dmarc: that of the author's domain; None as above.
    @ivar transaction: number of the transaction that this is about.
    """

    helo: SPFResult | None = None
    spf: SPFResult | None = None
    dkim: Sequence[DKIMResult] | None = None
    arc: ARCResult | None = None
    dmarc: DMARCResult | None = None
    transaction: int = 0

    @property
    def summary(self) -> dict[str, Any] | None:
        """For L{Session.verdicts}."""
        found = {
            "spf": self.spf and {"result": self.spf.result, "domain": self.spf.domain},
            "helo": self.helo and {"result": self.helo.result, "domain": self.helo.domain},
            "dkim": [
                {"result": each.result, "domain": each.domain, "selector": each.selector} for each in self.dkim or ()
            ],
            "arc": self.arc and {"result": self.arc.result, "sealers": list(self.arc.sealers)},
            "dmarc": self.dmarc
            and {"result": self.dmarc.result, "domain": self.dmarc.domain, "policy": self.dmarc.policy},
        }
        return found if any(found.values()) else None

    def begin(self, transaction: int) -> None:
        """Of another transaction nothing is known."""
        self.helo = self.spf = self.dkim = self.arc = self.dmarc = None
        self.transaction = transaction


def _serverOf(item: Any) -> Any:
    """Address and port of a DNS server, from a text; other values unchanged, for the check to reject."""
    if not isinstance(item, str):
        return item
    if maybeIP(item) is not None:
        return item, _DNS_PORT
    host, _, port = item.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port) if port.isascii() and port.isdigit() else None


def _isServer(item: Any) -> bool:
    if not (isinstance(item, tuple) and len(item) == 2):
        return False
    address, port = item
    return isinstance(address, str) and maybeIP(address) is not None and isinstance(port, int) and 0 < port < 65536


def _entriesOf(found: Findings) -> list[Result]:
    """What Authentication-Results says."""
    from smtphooks.layers.authentication.senderchecks import arcEntry, dkimEntry, dmarcEntry, spfEntry

    entries = [spfEntry(result) for result in (found.spf, found.helo) if result is not None]
    entries += map(dkimEntry, found.dkim or [])
    if found.arc is not None:
        entries.append(arcEntry(found.arc))
    if found.dmarc is not None:
        entries.append(dmarcEntry(found.dmarc))
    return entries


@withOptions
class SenderAuthentication:
    """
    A layer that finds out whether a message is from whom it says, C{smtphooks.layers.SenderAuthentication}; in TOML
    C{smtphooks.layers:SenderAuthentication}.

    SPF is checked at MAIL, the rest while the message arrives.  What was found is in C{session.of(layer)} and in the
    field Authentication-Results on top of the message; such fields of others that bear our name are removed.

    @ivar name: the authserv-id in that field; None for option C{name} of the server.
    @ivar spf: C{"record"}, or C{"reject"} to refuse at MAIL what SPF says is forged.
    @ivar dmarc: C{"record"}, or C{"reject"} to refuse a message whose author's domain asks for that, and one that names
        no author.
    @ivar timeout: seconds that all questions to the DNS may take at MAIL, and again at the end of the message.
    @ivar servers: DNS servers to ask; none for those of C{/etc/resolv.conf}.
    @ivar resolver: a Twisted C{IResolver} to ask in their place.
    """

    State = Findings

    name: str | None = option(
        None, "a host name", lambda value: isLine(value) and value.isascii() and value != "" and " " not in value
    )
    spf: str = oneOf(RECORD, '"record" or "reject"', (RECORD, REJECT))
    dmarc: str = oneOf(RECORD, '"record" or "reject"', (RECORD, REJECT))
    timeout: float = option(
        TIMEOUT,
        "a number of seconds above 0",
        lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf"),
        mostSeconds=3600,
    )
    servers: Sequence[str | tuple[str, int]] = listOf(
        (),
        'addresses of DNS servers, such as "192.0.2.53" or "[2001:db8::53]:5353"',
        _isServer,
        _serverOf,
    )
    resolver: Any = objectWith("query", "a Twisted IResolver")

    clock: IReactorTime | None = attrs.field(default=None, init=False)
    _ownResolver: Any = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        try:
            import smtphooks.layers.authentication.senderchecks  # noqa: F401
        except ImportError as missing:
            raise OptionError(
                f"SenderAuthentication needs libraries that are not installed ({missing}):"
                " install smtphooks[authentication]"
            ) from missing

    def onStop(self, service: object) -> None:
        """Close the connections to DNS servers that were asked over TCP."""
        resolver, self._ownResolver = self._ownResolver, None
        if resolver is not None:
            resolver.resolv = None  # it is read again every minute
            for connection in list(resolver.connections):
                connection.transport.loseConnection()

    async def onMailFrom(self, address: Address, session: Session) -> None:
        """
        Check SPF.

        @raise SMTPError: by option C{spf}: 550 5.7.23 for what is forged, 451 4.7.24 if the DNS cannot tell.
        """
        from smtphooks.layers.authentication.senderchecks import checkSPF

        found = session.of(self)
        found.begin(session.transaction)
        if maybeIP(session.remoteAddress) is None:  # a UNIX socket
            return
        check = partial(checkSPF, client=session.remoteAddress, helo=session.hostNameAppearsAs, sender=address)
        found.helo, found.spf = await self._settled(check, Answers(), self.timeout)
        if self.spf == REJECT:
            self._decideOnSPF(found, session)

    def _decideOnSPF(self, found: Findings, session: Session) -> None:
        for result in (found.helo, found.spf):
            if result is None:
                continue
            if result.result == "fail":
                says = f"; it says: {result.explanation}" if result.explanation else ""
                raise SMTPError(
                    f"SPF: {result.domain} does not allow mail from {session.remoteAddress}{says}", 550, "5.7.23"
                )
            if result.result == "temperror" and result is found.spf:
                raise SMTPError(f"SPF of {result.domain} cannot be checked now, please try again", 451, "4.7.24")

    async def inspectData(self, stream: MessageStream, session: Session) -> None:
        """
        Check the signatures, and what the author's domain says of them.

        @raise SMTPError: by option C{dmarc}: 550 5.7.1 for what is to be refused, 451 4.7.1 if the DNS cannot tell.
        """
        from smtphooks.layers.authentication.senderchecks import checkAuthor, checkSignatures, newScan

        found, scan = session.of(self), newScan()
        if found.transaction != session.transaction:  # a condition exempted the client at MAIL
            found.begin(session.transaction)
        async for chunk in stream:
            scan.feed(chunk)
        scan.close()
        answers, deadline = Answers(), self._clock().seconds() + self.timeout
        signatures, found.arc = await self._settled(partial(checkSignatures, scan=scan), answers, self.timeout)
        found.dkim = signatures
        check = partial(checkAuthor, scan=scan, spf=found.spf, signatures=signatures)
        found.dmarc = await self._settled(check, answers, deadline - self._clock().seconds())
        self._log(found, session)
        if self.dmarc == REJECT:
            self._decideOnDMARC(found.dmarc)

    def _decideOnDMARC(self, result: DMARCResult) -> None:
        if result.result == "fail" and result.policy == REJECT:
            raise SMTPError(
                f"DMARC: {result.policyDomain} asks to refuse what is not authenticated as from {result.domain}",
                550,
                "5.7.1",
            )
        if result.result == "permerror":
            # A message must have an author (RFC 5322 section 3.6.2), or any policy could be evaded.
            raise SMTPError(f"DMARC: {result.reason}", 550, "5.7.1")
        # Without a record it is not known yet whether there is a policy.
        if result.result == "temperror" and (result.policy == REJECT or not result.policyDomain):
            raise SMTPError(f"DMARC of {result.domain} cannot be checked now, please try again", 451, "4.7.1")

    def _log(self, found: Findings, session: Session) -> None:
        named: list[tuple[str, Any]] = [("spf", found.spf), ("helo", found.helo)]
        named += [("dkim", signature) for signature in found.dkim or []]
        named += [("arc", found.arc), ("dmarc", found.dmarc)]
        results = [f"{name}={each.result}" for name, each in named if each is not None]
        log.info(
            "sender authentication: {results} [{session}]",
            session=session.id,
            peer=session.remoteAddress,
            results=", ".join(results),
        )

    async def filterData(self, stream: MessageStream, session: Session) -> AsyncIterator[bytes]:
        """Put Authentication-Results on top of the message, and remove those that are forged."""
        from smtphooks.layers.authentication.authenticationresults import fieldOf, withField

        name = self.name or session.localName
        async for chunk in withField(stream, fieldOf(name, _entriesOf(session.of(self))), [name]):
            yield chunk

    async def _settled(self, check: Callable[[Answers], T], answers: Answers, timeout: float) -> T:
        return await settled(check, answers, self._resolver(), self._clock(), timeout)

    def _clock(self) -> IReactorTime:
        return IReactorTime(currentReactor()) if self.clock is None else self.clock

    def _resolver(self) -> IResolver:
        if self.resolver is None and self._ownResolver is None:
            from twisted.names import client

            # Not client.getResolver(), whose cache is unbounded: senders choose the names, the records and their TTL.
            servers = list(self.servers)
            self._ownResolver = client.Resolver(servers=servers) if servers else client.Resolver("/etc/resolv.conf")
        resolver: IResolver = self._ownResolver if self.resolver is None else self.resolver
        return resolver
