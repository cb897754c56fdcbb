"""
DMARC (RFC 9989): does an authenticated domain belong to the author, and what does the author's domain ask for if not?

In: From fields, results of SPF and DKIM, and L{Answers} of the DNS.  Out: the result, and the policy that applies.
Policies and organizational domains are found by the DNS tree walk, without a list of public suffixes.
What a domain asks for is not what is done with a message: that is decided elsewhere.
This module knows no session, no reply, and not how the DNS is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol

import attrs

from smtphooks.layers.authentication.author import AuthorFault, authorDomains
from smtphooks.layers.authentication.dkimcheck import DKIMResult
from smtphooks.layers.authentication.domains import isSubdomain, maybeDomain
from smtphooks.layers.authentication.questions import Answers, TemporaryFailure, together

PASS, FAIL, NONE, TEMPERROR, PERMERROR = "pass", "fail", "none", "temperror", "permerror"
QUARANTINE, REJECT = "quarantine", "reject"

# From the mildest to the strictest.
_POLICIES = (NONE, QUARANTINE, REJECT)

_QUERIES = 8  # RFC 9989 section 4.10
_AUTHORS = 4  # whose domains differ; RFC 9989 section 11.5 leaves the number to the receiver

# RFC 9989 section 4.8: the name of the version is not case-sensitive, its value is.
_VERSION = re.compile(rb"[vV][ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
_URI = re.compile(r"[a-z][a-z0-9+.-]*:[^\s,!]+(?:![0-9]+[kmgt]?)?", re.IGNORECASE)


_Identifier = tuple[str, str, bool]  # the domain; "pass" or "temperror"; whether it is of DKIM, not of SPF


@attrs.frozen
class DMARCRecord:
    """
    A DMARC Policy Record (RFC 9989 section 4.7).

    @ivar domain: the domain that it was found for.
    @ivar policy: C{p}; C{"none"} where the record has to be taken for that; None if it has no policy that applies.
    @ivar subdomainPolicy: C{sp}, None without.
    @ivar nonexistentPolicy: C{np}, None without.
    @ivar isSuffix: C{psd=y}: True; C{psd=n}: False; otherwise None.
    @ivar isTest: C{t=y}.
    @ivar isStrictForDKIM: C{adkim=s}.
    @ivar isStrictForSPF: C{aspf=s}.
    """

    domain: str
    policy: str | None
    subdomainPolicy: str | None = None
    nonexistentPolicy: str | None = None
    isSuffix: bool | None = None
    isTest: bool = False
    isStrictForDKIM: bool = False
    isStrictForSPF: bool = False


@attrs.frozen
class DMARCResult:
    """
    What DMARC says about a message.

    @ivar result: C{"pass"}; C{"fail"}; C{"none"}, the author's domain has no policy; C{"temperror"}; C{"permerror"},
        there is no author, or too many.
    @ivar domain: the domain of the author; C{""} if there is none.
    @ivar policy: what is asked for with messages that fail: C{"none"}, C{"quarantine"} or C{"reject"}.
    @ivar policyDomain: the domain whose record that is; C{""} without a record.
    @ivar organization: the organizational domain of the author, or the domain itself if no other had to be compared;
        C{""} if it has not been found out.
    @ivar reason: why there is an error, C{""} without.
    """

    result: str
    domain: str = ""
    policy: str = NONE
    policyDomain: str = ""
    organization: str = ""
    reason: str = ""


class SPFResult(Protocol):
    """The result of SPF for the reverse-path (RFC 9989 section 4.4.2)."""

    @property
    def result(self) -> str: ...

    @property
    def domain(self) -> str: ...


def parseRecord(octets: bytes, domain: str = "") -> DMARCRecord | None:
    """
    Read a TXT record.

    What is malformed in it is ignored, as are tags that are not known (RFC 9989 section 4.8), and the second tag of a
    name.

    @return: None if this is no DMARC Policy Record.
    """
    if not _VERSION.match(octets):
        return None
    tags: dict[str, str] = {}
    for part in octets.decode("ascii", "replace").split(";")[1:]:
        name, _, value = part.partition("=")
        tags.setdefault(name.strip(" \t").lower(), value.strip(" \t").lower())
    policies = {tag: tags[tag] for tag in ("p", "sp", "np") if tag in tags}
    policy: str | None = policies.get("p")
    if policy is None or any(value not in _POLICIES for value in policies.values()):
        # RFC 9989 section 4.10.1: with an address for reports it counts as "p=none", otherwise it does not apply.
        policy = NONE if any(_URI.fullmatch(uri.strip(" \t")) for uri in tags.get("rua", "").split(",")) else None
        policies = {}
    return DMARCRecord(
        domain=domain,
        policy=policy,
        subdomainPolicy=policies.get("sp"),
        nonexistentPolicy=policies.get("np"),
        isSuffix={"y": True, "n": False}.get(tags.get("psd", "")),
        isTest=tags.get("t") == "y",
        isStrictForDKIM=tags.get("adkim") == "s",
        isStrictForSPF=tags.get("aspf") == "s",
    )


# --- The DNS ---


def _recordOf(domain: str, answers: Answers) -> DMARCRecord | None:
    """The record of a domain, None without; several are none (RFC 9989 section 4.10)."""
    records = [parseRecord(octets, domain) for octets in answers.lookUp(f"_dmarc.{domain}", "TXT")]
    found = [record for record in records if record is not None]
    return found[0] if len(found) == 1 else None


def namesOf(domain: str) -> list[str]:
    """The domains that the tree walk visits, at most eight (RFC 9989 section 4.10)."""
    labels = domain.split(".")
    parents = labels[-(_QUERIES - 1) :] if len(labels) >= _QUERIES else labels[1:]
    return [domain, *(".".join(parents[place:]) for place in range(len(parents)))]


def _walk(domain: str, answers: Answers) -> list[DMARCRecord]:
    """
    The records of a domain and those above it, up to one with C{psd=y} or C{psd=n}, or to the top.

    All names are asked for at once: where no record ends the walk, as is usual, they are needed anyhow.
    """
    together(*(partial(_ask, name) for name in namesOf(domain)))(answers)
    records = []
    for name in namesOf(domain):
        record = _recordOf(name, answers)
        if record is not None:
            records.append(record)
            if record.isSuffix is not None:
                break
    return records


def _ask(name: str, answers: Answers) -> None:
    """Note the question for a record."""
    try:
        answers.lookUp(f"_dmarc.{name}", "TXT")
    except TemporaryFailure:
        return


def organizationOf(domain: str, records: Iterable[DMARCRecord]) -> str:
    """
    The organizational domain of a domain (RFC 9989 section 4.10.2).

    @param records: what a tree walk from it has found, in that order.
    """
    last = domain
    for record in records:
        if record.isSuffix:
            # The domain one label below; for the domain itself, where there is none below on this way, the domain.
            return ".".join(domain.split(".")[-record.domain.count(".") - 2 :])
        last = record.domain  # the walk ends with psd=n
    return last


# --- The check ---


def checkDMARC(
    values: Sequence[bytes], spf: SPFResult | None, signatures: Sequence[DKIMResult], answers: Answers
) -> DMARCResult:
    """
    Whether the author's domain has authorized a message.

    A message should have one From field with one author.  The domains of several are checked one by one, and the worst
    result is that of the message (RFC 9989 section 11.5): else a second author would hide the first one.

    @param values: the values of its From fields.
    @param spf: the result for the reverse-path, None without.
    @param signatures: the results of DKIM.
    @return: if C{answers.missing} then has questions, the result is not final.
    """
    try:
        domains = authorDomains(values)
    except AuthorFault as fault:
        return DMARCResult(PERMERROR, reason=str(fault))
    if len(domains) > _AUTHORS:
        return DMARCResult(PERMERROR, reason=f"From has authors in more than {_AUTHORS} domains")
    results = together(*(partial(_checkAuthor, domain, spf, signatures) for domain in domains))(answers)
    return max(results, key=_badness, default=DMARCResult(TEMPERROR, reason="the answers are not known yet"))


def _badness(result: DMARCResult) -> tuple[int, int]:
    order = (PASS, NONE, TEMPERROR, FAIL)
    return order.index(result.result), _POLICIES.index(result.policy)


def _checkAuthor(author: str, spf: SPFResult | None, signatures: Sequence[DKIMResult], answers: Answers) -> DMARCResult:
    """The result for one author."""
    try:
        own = _recordOf(author, answers)
        identifiers = _identifiersOf(spf, signatures)
        isIdentical = any((name, word) == (author, PASS) for name, word, _ in identifiers)
        if own is not None and own.policy is not None and isIdentical:
            # RFC 9989 section 4.10.2: then no more has to be asked.
            return DMARCResult(PASS, author, _policyOf(author, own, answers), author, author)
        records = _walk(author, answers)
        organization = organizationOf(author, records)
        record = _applicable(author, organization, records)
        if record is None or record.policy is None:
            return DMARCResult(NONE, author, organization=organization)
        policy = _policyOf(author, record, answers)
        result = _alignmentOf(author, organization, record, identifiers, answers)
    except TemporaryFailure as failure:
        return DMARCResult(TEMPERROR, author, reason=str(failure))
    reason = "an authentication that may have passed has failed temporarily" if result == TEMPERROR else ""
    return DMARCResult(result, author, policy, record.domain, organization, reason)


def _applicable(author: str, organization: str, records: Sequence[DMARCRecord]) -> DMARCRecord | None:
    """The record of the author's domain, of its organizational domain, or of its public suffix, in that order."""
    found = {record.domain: record for record in records}
    suffix = next((record for record in records if record.isSuffix), None)
    return found.get(author) or found.get(organization) or suffix


def _policyOf(author: str, record: DMARCRecord, answers: Answers) -> str:
    """What a record asks for with messages that fail (RFC 9989 sections 4.7 and 4.10.1)."""
    assert record.policy is not None
    policy = record.policy
    if record.domain != author:
        policy = record.subdomainPolicy or policy
        if record.nonexistentPolicy is not None and not answers.exists(author):
            policy = record.nonexistentPolicy
    return _POLICIES[max(0, _POLICIES.index(policy) - record.isTest)]


def _identifiersOf(spf: SPFResult | None, signatures: Sequence[DKIMResult]) -> list[_Identifier]:
    """What is authenticated, or may be."""
    found: list[_Identifier] = [(signature.domain, PASS, True) for signature in signatures if signature.authenticates]
    found += [(signature.domain, TEMPERROR, True) for signature in signatures if signature.result == TEMPERROR]
    if spf is not None and spf.result in (PASS, TEMPERROR):
        found.append((maybeDomain(spf.domain) or "", spf.result, False))
    return found


def _alignmentOf(
    author: str, organization: str, record: DMARCRecord, identifiers: Sequence[_Identifier], answers: Answers
) -> str:
    """
    Whether an identifier is in alignment with the author (RFC 9989 section 4.4).

    A temporary error of an identifier that could not be in alignment is none: the message may be an attacker's, who
    then could make any of them.
    """
    found = {
        result
        for domain, result, isDKIM in identifiers
        if domain == author
        or (
            not (record.isStrictForDKIM if isDKIM else record.isStrictForSPF)
            and _isRelaxed(domain, organization, answers)
        )
    }
    return PASS if PASS in found else TEMPERROR if TEMPERROR in found else FAIL


def _isRelaxed(domain: str, organization: str, answers: Answers) -> bool:
    """
    Whether a domain is in the organization of the author.

    Only a domain at or below the organizational domain can be, so no other is asked for.
    """
    return isSubdomain(domain, organization) and organizationOf(domain, _walk(domain, answers)) == organization
