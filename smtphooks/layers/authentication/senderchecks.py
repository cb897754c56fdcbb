"""
All checks of a sender together: SPF when a message begins; DKIM, ARC and DMARC when it has ended.

In: addresses and names of a session, a message that has passed, L{Answers} of the DNS.  Out: what was found, and how
Authentication-Results says it.
This module needs the libraries of the extra, so only a layer that is used imports it.  It knows no policy and no reply.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from smtphooks.layers.authentication import arccheck, dkimcheck
from smtphooks.layers.authentication.arccheck import ARCResult
from smtphooks.layers.authentication.authenticationresults import Result
from smtphooks.layers.authentication.dkimcheck import DKIMResult
from smtphooks.layers.authentication.dmarc import PERMERROR, DMARCResult, checkDMARC
from smtphooks.layers.authentication.messagescan import Field, MessageScan
from smtphooks.layers.authentication.questions import Answers, together
from smtphooks.layers.authentication.spf import SPFResult, checkHelo, checkMailFrom
from smtphooks.session import Address


def checkSPF(answers: Answers, client: str, helo: str, sender: Address) -> list[SPFResult]:
    """The results of HELO and of the reverse-path."""
    checks = together(
        lambda known: checkHelo(known, client, helo),
        lambda known: checkMailFrom(known, client, sender.local, sender.domain, helo),
    )
    return checks(answers)


def newScan() -> MessageScan:
    """What a message is fed to for the other checks."""
    return MessageScan(_wantedHashes)


def _wantedHashes(fields: Sequence[Field]) -> Iterator[tuple[str, int | None]]:
    yield from dkimcheck.wantedHashes(fields)
    yield from arccheck.wantedHashes(fields)


def checkSignatures(answers: Answers, scan: MessageScan) -> tuple[list[DKIMResult], ARCResult]:
    """The results of the signatures, and of the chain of seals."""
    dkim = dkimcheck.checkDKIM(scan, answers)
    return dkim, arccheck.checkARC(scan, answers)


def checkAuthor(
    answers: Answers, scan: MessageScan, spf: SPFResult | None, signatures: Sequence[DKIMResult]
) -> DMARCResult:
    """The result of DMARC."""
    if scan.fault is not None:
        return DMARCResult(PERMERROR, reason=scan.fault)
    return checkDMARC([field.value for field in scan.fields if field.key == b"from"], spf, signatures, answers)


def spfEntry(found: SPFResult) -> Result:
    """What Authentication-Results says of SPF (RFC 8601 section 2.7.2)."""
    return Result("spf", found.result, [("smtp", found.identity, found.domain)], found.problem)


def dkimEntry(found: DKIMResult) -> Result:
    """What Authentication-Results says of a signature (RFC 8601 section 2.7.1, RFC 6008)."""
    properties = [
        ("header", "d", found.domain),
        ("header", "s", found.selector),
        ("header", "a", found.algorithm),
        ("header", "b", found.signature),
    ]
    return Result("dkim", found.result, properties, found.reason)


def arcEntry(found: ARCResult) -> Result:
    """What Authentication-Results says of a chain of seals (RFC 8617 section 10.1)."""
    return Result("arc", found.result, [("header", "as-d", found.sealers[0] if found.sealers else "")], found.reason)


def dmarcEntry(found: DMARCResult) -> Result:
    """What Authentication-Results says of DMARC (RFC 9989 section 12, RFC 8601 section 2.7)."""
    properties = [("header", "from", found.domain), ("policy", "dmarc", found.policy if found.policyDomain else "")]
    return Result("dmarc", found.result, properties, found.reason)
