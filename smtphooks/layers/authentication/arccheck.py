"""
ARC: the chain of seals that forwarders have put on a message, validated (RFC 8617 section 5.2).

In: a L{MessageScan}, and L{Answers} of the DNS.  Out: whether the chain is unbroken, and by whom it is sealed.  dkimpy
hashes the header and verifies; the hash of the body has been computed while it arrived.
A chain that is unbroken says only who has claimed what: whether a sealer is believed is a question of policy.
This module knows no policy, no session, and not how the DNS is asked.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial

import attrs
import dkim

from smtphooks.layers.authentication.messagescan import Field, MessageScan
from smtphooks.layers.authentication.questions import Answers, TemporaryFailure, together
from smtphooks.layers.authentication.signatures import (
    FAIL,
    PASS,
    QUIET,
    TEMPERROR,
    Signature,
    SignatureFault,
    checkTimes,
    isVerified,
    readKey,
    readSignature,
    tagsOf,
)

NONE = "none"

INSTANCES = 50  # RFC 8617 section 4.2.1
_OCTETS = 98304  # of all sets together, as each seal covers all sets before it; a set has some 2000

_RESULTS, _MESSAGE, _SEAL = b"arc-authentication-results", b"arc-message-signature", b"arc-seal"
_KEYS = (_RESULTS, _MESSAGE, _SEAL)

_INSTANCE = re.compile(rb"\s{0,99}i\s{0,99}=\s{0,99}([0-9]{1,2})\s{0,99};")
_NUMBER = re.compile(rb"[0-9]{1,2}")


@attrs.frozen
class ARCResult:
    """
    The result for a chain.

    @ivar result: C{"pass"}, C{"fail"}, C{"none"} for a message without a chain, or C{"temperror"}.
    @ivar reason: why it is not C{"pass"}; C{""} if there is nothing to say.
    @ivar sealers: domains of the seals, the last one first; not verified unless the result is C{"pass"}.
    """

    result: str
    reason: str = ""
    sealers: tuple[str, ...] = ()


@attrs.frozen
class ARCSet:
    """
    What one forwarder has added.

    @ivar fields: the three fields, in the order in which they are hashed.
    @ivar seal: the ARC-Seal.
    @ivar chainStatus: what it says about the chain before it, C{cv=}.
    """

    fields: list[Field]
    seal: Signature
    chainStatus: bytes


def setsOf(fields: Sequence[Field]) -> list[ARCSet]:
    """
    The sets of a chain, the first one first (RFC 8617 section 4.2).

    @raise SignatureFault: if they are not one set of three fields for each number from 1 on.
    """
    found = [field for field in fields if field.key in _KEYS]
    if len(found) > INSTANCES * len(_KEYS):
        raise SignatureFault(FAIL, f"the chain has more than {INSTANCES} sets")
    if sum(len(field.value) for field in found) > _OCTETS:
        raise SignatureFault(FAIL, f"the chain has more than {_OCTETS} octets")
    numbered: dict[tuple[int, bytes], Field] = {}
    for field in found:
        place = _instanceOf(field), field.key
        if place in numbered:
            raise SignatureFault(FAIL, f"set {place[0]} has a field twice")
        numbered[place] = field
    sets = []
    for number in range(1, len(found) // len(_KEYS) + 1):
        parts = [numbered.get((number, key)) for key in _KEYS]
        whole = [part for part in parts if part is not None]
        if len(whole) < len(_KEYS):
            raise SignatureFault(FAIL, f"set {number} is not complete")
        sets.append(_setOf(whole))
    if len(sets) * len(_KEYS) != len(found):
        raise SignatureFault(FAIL, "a set is not complete")
    return sets


def _instanceOf(field: Field) -> int:
    """The number of the set that a field is of."""
    if field.key == _RESULTS:
        number = _INSTANCE.match(field.value)
        text = number[1] if number is not None else b""
    else:
        text = tagsOf(field).get(b"i", b"")
    if not _NUMBER.fullmatch(text):
        raise SignatureFault(FAIL, "a field has no number of a set")
    return int(text)


def _setOf(fields: list[Field]) -> ARCSet:
    seal = readSignature(fields[-1], isSeal=True)
    if b"h" in seal.tags:  # RFC 8617 section 4.1.3
        raise SignatureFault(FAIL, "an ARC-Seal has h=")
    return ARCSet(fields, seal, seal.tags.get(b"cv", b"").lower())


def _lastSignature(sets: Sequence[ARCSet]) -> Signature:
    """The ARC-Message-Signature of the last set, the only one that must still be valid."""
    signature = readSignature(sets[-1].fields[1])
    if _SEAL in signature.names:  # RFC 8617 section 4.1.2
        raise SignatureFault(FAIL, "an ARC-Message-Signature covers ARC-Seal")
    return signature


def wantedHashes(fields: Sequence[Field]) -> Iterator[tuple[str, int | None]]:
    """Which hash of the body the chain needs, for L{MessageScan}: at most one."""
    try:
        sets = setsOf(fields)
        if sets:
            signature = _lastSignature(sets)
            yield signature.form, signature.length
    except SignatureFault:
        return


def checkARC(scan: MessageScan, answers: Answers, now: float | None = None) -> ARCResult:
    """
    Validate the chain of a message that has ended.

    @param now: the time in seconds since the epoch; None for the clock of the computer.
    @return: if C{answers.missing} then has questions, the result is not final.
    """
    if scan.fault is not None:
        return ARCResult(FAIL, scan.fault)
    sealers: tuple[str, ...] = ()
    try:
        sets = setsOf(scan.fields)
        if not sets:
            return ARCResult(NONE)
        sealers = tuple(part.seal.domain for part in reversed(sets))
        _checkStatuses(sets)
        signature = _lastSignature(sets)
        checkTimes(signature, time.time() if now is None else now)
        _checkBody(scan, signature)
    except SignatureFault as fault:
        return ARCResult(FAIL, fault.reason, sealers)
    seals = [partial(_checkSeal, sets[:number]) for number in range(len(sets), 0, -1)]
    together(*(partial(_ask, part) for part in (signature, *(part.seal for part in sets))))(answers)
    if answers.missing:
        return ARCResult(TEMPERROR, "the keys are not known yet", sealers)
    temporary = []
    for check in (partial(_checkMessage, scan.fields, signature), *seals):
        try:
            check(answers)
        except SignatureFault as fault:  # what is left does not matter any more
            return ARCResult(FAIL, fault.reason, sealers)
        except TemporaryFailure as failure:
            temporary.append(str(failure))
    return ARCResult(TEMPERROR, temporary[0], sealers) if temporary else ARCResult(PASS, "", sealers)


def _checkStatuses(sets: Sequence[ARCSet]) -> None:
    """What the seals say about the chain before them (RFC 8617 section 5.2, steps 2 and 3)."""
    if sets[-1].chainStatus == b"fail":
        raise SignatureFault(FAIL, "the last seal says that the chain was broken before it")
    for number, part in enumerate(sets, start=1):
        if part.chainStatus != (b"none" if number == 1 else b"pass"):
            raise SignatureFault(FAIL, f"the seal of set {number} has an invalid cv=")


def _checkBody(scan: MessageScan, signature: Signature) -> None:
    """The body is the one that was signed, all of it: with C{l=}, anybody could append to it."""
    if scan.bodyHash(signature.form, signature.length) != signature.bodyHash:
        raise SignatureFault(FAIL, "the body has been changed")
    if signature.length is not None and signature.length != scan.bodyOctets(signature.form):
        raise SignatureFault(FAIL, "the last ARC-Message-Signature covers only the beginning of the body")


def _ask(signature: Signature, answers: Answers) -> None:
    """Note the question for the key of a signature."""
    with suppress(TemporaryFailure):
        answers.lookUp(signature.keyName, "TXT")


def _checkMessage(fields: Sequence[Field], signature: Signature, answers: Answers) -> None:
    """The last ARC-Message-Signature is valid."""
    concerned = [field for field in fields if field.key in signature.names]
    _mustBeVerified(concerned, signature, signature.names, "the last ARC-Message-Signature is not valid", answers)


def _checkSeal(sets: Sequence[ARCSet], answers: Answers) -> None:
    """The last seal of some sets is valid."""
    # RFC 8617 section 5.1.1: it covers all sets from the first one on, without itself, which dkimpy adds.  dkimpy takes
    # fields of the same name from the bottom up, so the first set has to be the last one.
    fields = [field for part in reversed(sets) for field in reversed(part.fields)]
    covered = [key for _ in sets for key in _KEYS][:-1]
    _mustBeVerified(fields, sets[-1].seal, covered, f"the seal of set {len(sets)} is not valid", answers)


def _mustBeVerified(
    fields: Sequence[Field], signature: Signature, covered: Sequence[bytes], otherwise: str, answers: Answers
) -> None:
    """A signature of fields is by its key."""
    records = answers.lookUp(signature.keyName, "TXT")
    if not records:
        raise SignatureFault(FAIL, "there is no key for a signature of the chain")
    key = readKey(records[0], signature)
    signer = dkim.ARC(logger=QUIET)
    signer.headers = [(field.name, field.value) for field in fields]
    if not isVerified(signer, signature, covered, key):
        raise SignatureFault(FAIL, otherwise)
