"""
SPF (RFC 7208): may this client use that domain?  Evaluated by pyspf, with answers of the DNS that are known already.

In: the client's address, an identity, and L{Answers}.  Out: an L{SPFResult}.
Rules kept here: all limits of RFC 7208 section 4.6.4 hold; a record that is made to cost time is a permanent error; an
error of pyspf's own is a permanent error of that record, and harms no other mail.
This module knows no session, no resolver and no reply.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

import attrs
import idna
import spf
from twisted.logger import Logger

from smtphooks.layers.authentication.questions import Answers, TemporaryFailure, Unknown, isName

log: Logger = Logger()

# pyspf's patterns take time by the square of a term's length, and for each look-up all records are evaluated again.
# A domain has 253 octets; macros may make it of more.
_TERM_OCTETS = 400
_TERMS = 200
_MACROS = 64
_VOID_LOOKUPS = 2  # RFC 7208 section 4.6.4
_HOSTS = 10


@attrs.frozen
class SPFResult:
    """
    What SPF says of one identity (RFC 7208 section 2.6).

    @ivar result: C{"pass"}, C{"fail"}, C{"softfail"}, C{"neutral"}, C{"none"}, C{"temperror"} or C{"permerror"}.
    @ivar identity: C{"mailfrom"} or C{"helo"}.
    @ivar domain: the domain that was checked, international ones as A-labels.
    @ivar explanation: with C{"fail"} what the domain itself says to it, C{""} if it says nothing; text of others, of
        which the beginning is kept.
    @ivar problem: with C{"temperror"} and C{"permerror"} what is wrong.
    """

    result: str
    identity: str
    domain: str
    explanation: str = ""
    problem: str = ""


def checkMailFrom(answers: Answers, client: str, local: str, domain: str, helo: str) -> SPFResult:
    """
    Whether a client may use a domain in its reverse-path; for the null reverse-path, that is its name in HELO.

    @param client: its IP address.
    @raise Unknown: as L{Answers.lookUp}.
    """
    if not domain:
        local, domain = "postmaster", helo  # RFC 7208 section 2.4
    return _check(answers, client, "mailfrom", local or "postmaster", domain, helo)


def checkHelo(answers: Answers, client: str, helo: str) -> SPFResult:
    """
    Whether a client may use a name in HELO (RFC 7208 section 2.3).

    @raise Unknown: as L{Answers.lookUp}.
    """
    return _check(answers, client, "helo", "postmaster", helo, helo)


def _check(answers: Answers, client: str, identity: str, local: str, domain: str, helo: str) -> SPFResult:
    domain = asALabels(domain)
    if "." not in domain.rstrip(".") or domain.startswith("["):
        return SPFResult("none", identity, domain)  # RFC 7208 section 4.3
    try:
        query = _Query(answers, client, local, domain, asALabels(helo))
        result, _, text = query.check()
    except Exception as fault:
        if answers.missing:  # whatever was raised, it will be evaluated again
            raise
        log.warn("SPF of {domain} cannot be evaluated: {fault!r}", domain=domain, fault=fault)
        return SPFResult("permerror", identity, domain, problem="its record cannot be evaluated")
    if result in ("temperror", "permerror"):
        return SPFResult(result, identity, domain, problem=str(query.prob))
    return SPFResult(result, identity, domain, explanation=text[:_TERM_OCTETS] if result == "fail" else "")


def asALabels(domain: str) -> str:
    """A domain as the DNS knows it (RFC 8616 section 4); C{""} if it has no such form."""
    if domain.isascii():
        return domain
    try:
        return idna.encode(domain, uts46=True).decode()
    except ValueError:  # the base class of idna's errors
        return ""


class _Query(spf.query):  # type: ignore[misc]
    """pyspf's evaluation, with look-ups of L{Answers} in place of its own."""

    def __init__(self, answers: Answers, client: str, local: str, domain: str, helo: str) -> None:
        super().__init__(i=client.partition("%")[0], s=f"{local}@{domain}", h=helo, strict=True)
        # pyspf would cut at the first @, which may be in a quoted local-part.
        self.l, self.o, self.d = local, domain, domain
        self._answers = answers
        self.set_default_explanation("")

    def dns(self, name: str, qtype: str, cnames: Any = None, ignore_void: bool = False) -> list[Any]:
        """The records of a name; an answer without any is a void look-up, of which there may be two."""
        name = str(name).removesuffix(".")
        if not isName(name):
            return []
        records = self._lookUp(name, qtype)
        if not records and not ignore_void:
            self.void_lookups += 1
            if self.void_lookups > _VOID_LOOKUPS:
                raise spf.PermError(f"Void lookup limit of {_VOID_LOOKUPS} exceeded")
        return [(octets,) for octets in records] if qtype == "TXT" else records

    def _lookUp(self, name: str, kind: str) -> list[Any]:
        try:
            return self._answers.lookUp(name, kind)
        except TemporaryFailure as failure:
            raise spf.TempError(str(failure)) from failure

    def dns_spf(self, domain: str) -> str | None:
        """The record of a domain."""
        record: str | None = super().dns_spf(domain)
        terms = record.split(" ") if record else []
        if record and (len(terms) > _TERMS or max(map(len, terms)) > _TERM_OCTETS or record.count("%") > _MACROS):
            raise spf.PermError(f"The record of {domain} is too long")
        return record

    def expand(self, s: str, stripdot: bool = True) -> str:
        """A term or an explanation, macros replaced; an explanation that is too long is as none."""
        if len(s) > _TERM_OCTETS:
            raise spf.PermError("A text with macros is too long")
        expanded: str = super().expand(s, stripdot)
        return expanded

    def cidrmatch(self, ipaddrs: list[str], n: int) -> bool:
        """Whether the client is in the network of one of these addresses; pyspf's own takes 20 times as long."""
        family = socket.AF_INET6 if self.v == "ip6" else socket.AF_INET
        unused = self.cidrmax - n
        network = int(self.ipaddr) >> unused
        return any(int.from_bytes(socket.inet_pton(family, ip), "big") >> unused == network for ip in ipaddrs)

    def dns_mx(self, domainname: str) -> list[Any]:
        """The addresses of the mail exchangers of a domain."""
        hosts = [host for _, host in self.dns(domainname, "MX", ignore_void=True)]
        if len(hosts) <= _HOSTS:  # more are a permanent error
            self._note(hosts)
        addresses: list[Any] = super().dns_mx(domainname)
        return addresses

    def validated_ptrs(self) -> list[str]:
        """The host names of the client that lead back to it; names that cannot be found are skipped (section 5.5)."""
        try:
            names = self.dns_ptr(self.i)[:_HOSTS]
        except spf.TempError:
            return []
        self._note(names)
        return [name for name in names if self._leadsBack(name)]

    def _leadsBack(self, name: str) -> bool:
        try:
            return bool(self.cidrmatch(self.dns_a(name, self.A), self.cidrmax))
        except spf.TempError:
            return False

    def _note(self, hosts: list[str]) -> None:
        """Note the questions for the addresses of all these hosts, so that they are asked at once."""
        for host in hosts:
            with suppress(Unknown, TemporaryFailure):
                self._answers.lookUp(host, self.A)
