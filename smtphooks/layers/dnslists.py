"""
DNS lists: clients, names given with HELO and domains of senders that lists in DNS have something against (RFC 5782).

In: sessions, and lists as the operator writes them.  Out: a refusal at RCPT, with the reason that a list gives.
Look-ups begin as soon as there is something to ask and are awaited at RCPT: the dialogue up to there costs no time,
users have authenticated, mail for postmaster gets through, and the log has the sender and the recipient.
This module knows no DNS; see C{dnsanswers.py}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from smtphooks.currentreactor import currentReactor
from smtphooks.errors import OptionError
from smtphooks.layers.dnsanswers import Answer, ListLookups
from smtphooks.layers.dnslist import (
    CONTROL_ADDRESS,
    CONTROL_DOMAIN,
    TEST_ADDRESS,
    TEST_DOMAIN,
    DNSList,
    domainOf,
    parseList,
    reversedAddress,
    unreversed,
)
from smtphooks.netaddress import isPublic, maybeIP, unmapped
from smtphooks.optionkinds import isText, listOf, objectWith, option, within, withOptions
from smtphooks.replies import SMTPError
from smtphooks.session import Address, Session

log: Logger = Logger()

# A client that is listed by mistake must be able to say so (RFC 5321 section 4.5.1, RFC 2142 sections 2 and 4).
_ALWAYS_REACHED = ("postmaster", "abuse")

_DNS_PORT = 53


class _Inquiry:
    """
    What lists say about one name.

    @ivar about: the beginning of a sentence for the client.
    @ivar answers: the answer of each list, None while some are missing.
    """

    def __init__(self, about: str, lists: Sequence[DNSList], lookUps: Sequence[Deferred[Answer]]) -> None:
        self.about = about
        self.lists = lists
        self.answers: Sequence[Answer] | None = None
        self._waiting: Deferred[None] | None = None
        self._all = gatherResults(lookUps, consumeErrors=True)
        self._all.addCallbacks(self._conclude, lambda cancelled: self._conclude([Answer()] * len(lists)))

    def cancel(self) -> None:
        """Nobody is interested any more."""
        self._all.cancel()

    async def listings(self) -> list[tuple[DNSList, Answer]]:
        """The lists whose answers count, with these."""
        if self.answers is None:
            self._waiting = Deferred()
            await self._waiting
        answers = self.answers or ()
        return [(each, answer) for each, answer in zip(self.lists, answers, strict=True) if each.counts(answer.codes)]

    def _conclude(self, answers: Sequence[Answer]) -> None:
        self.answers = answers
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)


@attrs.define(eq=False)
class _State:
    """
    @ivar address: the client that C{client} is about.
    """

    address: str = ""
    client: _Inquiry | None = None
    helo: _Inquiry | None = None
    sender: _Inquiry | None = None

    @property
    def inquiries(self) -> list[_Inquiry]:
        """All of them."""
        return [inquiry for inquiry in (self.client, self.helo, self.sender) if inquiry is not None]


def _lists() -> Any:
    return listOf((), "a list of DNS lists", isText)


@withOptions
class DNSLists:
    """
    A layer that refuses what DNS lists have something against, C{smtphooks.layers.DNSLists}.

    A list that does not answer in time, or not to this server, has listed nothing.  Addresses that are not of the
    public Internet are not looked up.  Authenticated users and mail for postmaster and abuse are not refused.

    @ivar clients: lists of addresses, asked about the client.
    @ivar helos: lists of domains, asked about the name given with HELO or EHLO.
    @ivar senders: lists of domains, asked about the domain of the reverse-path.
    @ivar allow: lists of addresses; nothing that comes from a client in one of them is refused.
    @ivar threshold: the least sum of scores that is refused.
    @ivar timeout: seconds for an answer.
    @ivar servers: addresses of DNS servers; those of the system unless given.
    @ivar resolver: a Twisted C{IResolver} in their place.
    """

    clients: Sequence[str] = _lists()
    helos: Sequence[str] = _lists()
    senders: Sequence[str] = _lists()
    allow: Sequence[str] = _lists()
    threshold: int = option(1, "a whole number from 1", within(1))
    timeout: float = option(
        4,
        "a number of seconds, more than 0 and at most 60",
        lambda value: type(value) in (int, float) and 0 < value <= 60,
    )
    servers: Sequence[str] = listOf((), 'a list of addresses such as "127.0.0.1" or "[::1]:5353"', isText)
    resolver: Any = objectWith("lookupAddress", "a Twisted IResolver")
    clock: Any = attrs.field(default=None, init=False)

    State = _State
    choosesRecipients = False

    def __attrs_post_init__(self) -> None:
        self._clients = [parseList("clients", text) for text in self.clients]
        self._helos = [parseList("helos", text) for text in self.helos]
        self._senders = [parseList("senders", text) for text in self.senders]
        self._allow = [parseList("allow", text) for text in self.allow]
        if not (self._clients or self._helos or self._senders):
            raise OptionError("option clients is empty, and so are helos and senders: no list is asked")
        for name, ofDomains in (("helos", self._helos), ("senders", self._senders)):
            if any(each.score < 0 for each in ofDomains):
                raise OptionError(
                    f"option {name} has a list with a negative score, but a client can claim any name", options=[name]
                )
        self._servers = [_parseServer(text) for text in self.servers]
        if self._servers and self.resolver is not None:
            raise OptionError("option servers cannot be given beside resolver", options=["servers", "resolver"])
        for hook, lists in (
            ("onConnect", (*self._clients, *self._allow)),
            ("onHelo", self._helos),
            ("onMailFrom", self._senders),
        ):
            if not lists:
                setattr(self, hook, None)  # what is not asked costs nothing
        self._lookUps: ListLookups | None = None
        self._test: Deferred[Any] | None = None

    # --- hooks ---

    def onConnect(self, session: Session) -> None:
        """Begin to ask about the client."""
        self._askAboutClient(session)

    def onHelo(self, hostname: str, session: Session) -> None:
        """Begin to ask about the name that the client gives."""
        state = session.of(self)
        _cancel(state.helo)
        state.helo = self._askAboutDomain("HELO name", hostname, self._helos)

    def onMailFrom(self, address: Address, session: Session) -> None:
        """Begin to ask about the domain of the sender."""
        state = session.of(self)
        _cancel(state.sender)
        state.sender = self._askAboutDomain("Sender domain", address.domain, self._senders)

    async def onRcptTo(self, address: Address, session: Session) -> None:
        """
        Decide, when all lists have answered or their time is up.

        @raise SMTPError: 550.
        """
        if session.user is not None or address.local.lower() in _ALWAYS_REACHED:
            return
        self._askAboutClient(session)
        state = session.of(self)
        score, reasons, lists = 0, [], []
        for inquiry in state.inquiries:
            listings = await inquiry.listings()
            if inquiry is state.client and any(each in self._allow for each, _ in listings):
                return
            score += sum(each.score for each, _ in listings)
            against = [(each, answer) for each, answer in listings if each.score > 0]
            if against:
                lists += [each.shown for each, _ in against]
                reasons.append(_reason(inquiry.about, against))
        if score >= self.threshold:
            log.info(
                "refused by DNS lists {lists}, with a score of {score} [{session}]",
                session=session.id,
                peer=session.remoteAddress,
                lists=", ".join(lists),
                score=score,
            )
            raise SMTPError("; ".join(reasons), 550, "5.7.1")

    def onClose(self, session: Session) -> None:
        """The client has left: cancel what is still asked."""
        for inquiry in session.of(self).inquiries:
            inquiry.cancel()

    def onStart(self, service: object) -> None:
        """Ask each list for the entries that RFC 5782 section 5 demands; nothing waits for it."""
        addresses = [self._testList(each, TEST_ADDRESS, CONTROL_ADDRESS) for each in (*self._clients, *self._allow)]
        domains = [self._testList(each, TEST_DOMAIN, CONTROL_DOMAIN) for each in (*self._helos, *self._senders)]
        self._test = gatherResults([*addresses, *domains], consumeErrors=True)
        self._test.addErrback(lambda cancelled: None)

    def onStop(self, service: object) -> None:
        """Cancel all look-ups."""
        if self._test is not None:
            self._test.cancel()
        if self._lookUps is not None:
            self._lookUps.stop()

    # --- asking ---

    def _askAboutClient(self, session: Session) -> None:
        """Once for each client: with XCLIENT one connection has several, one after the other."""
        state, text = session.of(self), session.remoteAddress
        if state.address == text:
            return
        _cancel(state.client)
        state.address, state.client = text, None
        ip = maybeIP(text)
        if ip is not None and isPublic(str(unmapped(ip))) and "%" not in text:
            # Those of allow first: one that is in both kinds of lists is let in.
            lists, subject = [*self._allow, *self._clients], reversedAddress(ip)
            state.client = self._ask(f"Client {text}", subject, lists, CONTROL_ADDRESS)

    def _askAboutDomain(self, what: str, text: str, lists: Sequence[DNSList]) -> _Inquiry | None:
        domain = domainOf(text)
        return None if domain is None else self._ask(f"{what} {domain}", domain, lists, CONTROL_DOMAIN)

    def _ask(self, about: str, subject: str, lists: Sequence[DNSList], control: str) -> _Inquiry:
        lookUps = self._lookUpsNow()
        return _Inquiry(
            about,
            lists,
            [lookUps.lookUp(subject, each.zone, control, each not in self._allow and each.score > 0) for each in lists],
        )

    def _lookUpsNow(self) -> ListLookups:
        if self._lookUps is None:
            if self.clock is None:
                self.clock = IReactorTime(currentReactor())
            self._lookUps = ListLookups(self.resolver, self._servers, self.clock, self.timeout)
        return self._lookUps

    def _testList(self, each: DNSList, test: str, control: str) -> Deferred[Answer]:
        def judge(answer: Answer) -> Answer:
            if answer.isKnown and not answer.codes:
                entry = unreversed(test)
                lookUps.report(each.zone, f"lacks the entry for tests of RFC 5782 ({entry}): has it been given up?")
            return answer

        lookUps = self._lookUpsNow()
        return lookUps.lookUp(test, each.zone, control).addCallback(judge)


def _reason(about: str, listings: Sequence[tuple[DNSList, Answer]]) -> str:
    lists = ", ".join(dict.fromkeys(each.shown for each, _ in listings))
    texts = [answer.text for _, answer in listings if answer.text]
    return f"{about} is listed by {lists}" + (f": {texts[0]}" if texts else "")


def _cancel(inquiry: _Inquiry | None) -> None:
    if inquiry is not None:
        inquiry.cancel()


def _parseServer(text: str) -> tuple[str, int]:
    """
    The address and port of a DNS server.

    @raise OptionError: if the text is none.
    """
    host, _, port = text.rpartition(":")
    if maybeIP(text) is not None:
        host, port = text, str(_DNS_PORT)
    elif host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if maybeIP(host) is None or not port.isdecimal() or not 0 < int(port) <= 65535:
        raise OptionError(
            'option servers has {!r}, it wants addresses such as "127.0.0.1" or "[::1]:5353"', text, options=["servers"]
        )
    return host, int(port)
