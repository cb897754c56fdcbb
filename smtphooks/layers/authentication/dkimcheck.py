"""
DKIM: the signatures of a message, verified (RFC 6376, RFC 8301, RFC 8463).

In: a L{MessageScan}, and L{Answers} of the DNS.  Out: a result for each signature, with the words of RFC 8601.  dkimpy
hashes the header and verifies; the hash of the body has been computed while it arrived.
Whatever a message or a key record contains, the result is a word, never an exception, and its costs are bounded.
This module knows no policy, no session, and not how the DNS is asked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial

import attrs
import dkim

from smtphooks.layers.authentication.messagescan import Field, MessageScan
from smtphooks.layers.authentication.questions import Answers, TemporaryFailure, together
from smtphooks.layers.authentication.signatures import (
    FAIL,
    PASS,
    PERMERROR,
    POLICY,
    QUIET,
    TEMPERROR,
    Key,
    Signature,
    SignatureFault,
    checkIdentity,
    checkTimes,
    isVerified,
    readKey,
    readSignature,
    shortened,
    tagsOf,
)

# The signatures of a message that are verified, and the key records that are read for each, of which the first fit one
# is used (RFC 6376 sections 6.1 and 6.1.2 leave both to the verifier).
SIGNATURES = 10
_KEYS = 3

_KEY = b"dkim-signature"


@attrs.frozen
class DKIMResult:
    """
    The result for one signature.

    @ivar result: C{"pass"}, C{"fail"}, C{"policy"}, C{"temperror"} or C{"permerror"}.
    @ivar reason: why it is not C{"pass"}, or what is to be known about one that is; C{""} if there is nothing to say.
    @ivar domain: C{d=}; C{""} if it is no domain name, as the next ones are if they cannot be told.
    @ivar selector: C{s=}.
    @ivar algorithm: C{a=}.
    @ivar signature: the first characters of C{b=}.
    @ivar isTesting: the signer says that the key is for tests (C{t=y}).
    @ivar coversBody: the signature has no C{l=}, or one that covers the whole body.
    """

    result: str
    reason: str = ""
    domain: str = ""
    selector: str = ""
    algorithm: str = ""
    signature: str = ""
    isTesting: bool = False
    coversBody: bool = True

    @property
    def authenticates(self) -> bool:
        """
        Whether the domain is responsible for this message.

        With C{l=}, anybody can append to a body what the reader sees instead of it (RFC 6376 section 8.2), so a
        signature that does not cover the whole body vouches for nothing.  A key for tests does: RFC 6376 section 3.6.1
        asks for mercy only where the signature fails, and large senders leave C{t=y} for years.
        """
        return self.result == PASS and self.coversBody


def signaturesOf(fields: Sequence[Field]) -> list[Field]:
    """The fields with signatures, as many of them as are verified."""
    return [field for field in fields if field.key == _KEY][:SIGNATURES]


def wantedHashes(fields: Sequence[Field]) -> Iterator[tuple[str, int | None]]:
    """Which hashes of the body the signatures need, for L{MessageScan}: at most one for each that is verified."""
    for field in signaturesOf(fields):
        try:
            signature = readSignature(field)
        except SignatureFault:
            continue
        yield signature.form, signature.length


def checkDKIM(scan: MessageScan, answers: Answers, now: float | None = None) -> list[DKIMResult]:
    """
    Verify the signatures of a message that has ended, in the order of the header.

    If there are more than L{SIGNATURES}, one C{"policy"} stands for all further ones.

    @param now: the time in seconds since the epoch; None for the clock of the computer.
    @return: nothing for a message without signatures.  If C{answers.missing} then has questions, the results are
        not complete.
    """
    if scan.fault is not None:
        return [DKIMResult(PERMERROR, scan.fault)]
    moment = time.time() if now is None else now
    results = together(*(partial(_check, scan, field, moment) for field in signaturesOf(scan.fields)))(answers)
    further = sum(field.key == _KEY for field in scan.fields) - SIGNATURES
    if further > 0:
        results.append(DKIMResult(POLICY, f"{further} more signatures were not looked at"))
    return results


def _check(scan: MessageScan, field: Field, now: float, answers: Answers) -> DKIMResult:
    """The result for one signature."""
    told = DKIMResult(PERMERROR)
    try:
        tags = tagsOf(field)
        told = attrs.evolve(
            told,
            algorithm=_word(tags.get(b"a", b"")),
            selector=_word(tags.get(b"s", b"")),
            signature=shortened(tags.get(b"b", b"")),
        )
        signature = readSignature(field)
        told = attrs.evolve(told, domain=signature.domain, selector=signature.selector)
        checkTimes(signature, now)
        checkIdentity(signature, isStrict=False)
        told = attrs.evolve(told, coversBody=_coversBody(scan, signature))
        return _verified(scan, signature, answers, told)
    except SignatureFault as fault:
        return attrs.evolve(told, result=fault.result, reason=fault.reason)
    except TemporaryFailure as failure:
        return attrs.evolve(told, result=TEMPERROR, reason=str(failure))


def _word(octets: bytes) -> str:
    """A value that may be shown: a word of printable ASCII."""
    text = octets.decode("ascii", "replace")
    return text if len(text) < 64 and text.isascii() and text.isprintable() and " " not in text else ""


def _coversBody(scan: MessageScan, signature: Signature) -> bool:
    """Whether a signature covers the whole body, which must be the one that was signed."""
    found = scan.bodyHash(signature.form, signature.length)
    if found is None:  # RFC 6376 section 3.5
        raise SignatureFault(PERMERROR, "l= is more than the length of the body")
    if found != signature.bodyHash:
        raise SignatureFault(FAIL, "the body has been changed")
    return signature.length is None or signature.length == scan.bodyOctets(signature.form)


def _verified(scan: MessageScan, signature: Signature, answers: Answers, told: DKIMResult) -> DKIMResult:
    """The result for a signature whose body has not been changed."""
    records = answers.lookUp(signature.keyName, "TXT")
    if not records:
        raise SignatureFault(PERMERROR, "there is no key for the signature")
    key = _firstFit(records[:_KEYS], signature)
    told = attrs.evolve(told, isTesting=key.isTesting)
    try:
        checkIdentity(signature, key.isStrict)
        signer, position = _signerFor(scan.fields, signature)
        _mustBeAcceptable(signer, position)
        if not isVerified(signer, signature, signature.names, key):
            raise SignatureFault(FAIL, "the signature is not by the key, or the header has been changed")
    except SignatureFault as fault:
        return attrs.evolve(told, result=fault.result, reason=fault.reason)
    reason = "" if told.coversBody else "the signature covers only the beginning of the body"
    return attrs.evolve(told, result=PASS, reason=reason)


def _firstFit(records: Sequence[bytes], signature: Signature) -> Key:
    """The first key that is fit for a signature; the fault of the first one if none is."""
    faults = []
    for record in records:
        try:
            return readKey(record, signature)
        except SignatureFault as fault:
            faults.append(fault)
    raise faults[0]


def _mustBeAcceptable(signer: dkim.DKIM, position: int) -> None:
    """What dkimpy requires of the tags of a signature besides."""
    try:
        signer.verify_headerprep(position)
    except Exception as fault:
        raise SignatureFault(PERMERROR, "the signature is malformed") from fault


def _signerFor(fields: Sequence[Field], signature: Signature) -> tuple[dkim.DKIM, int]:
    """
    dkimpy's object with the fields that a signature concerns, and the position of the signature in it.

    dkimpy canonicalizes all fields that it has, and searches all of them for each name.
    """
    concerned = [field for field in fields if field is signature.field or field.key in signature.names]
    signer = dkim.DKIM(logger=QUIET)
    signer.headers = [(field.name, field.value) for field in concerned]
    position = [field is signature.field for field in concerned if field.key == _KEY].index(True)
    return signer, position
