"""
Signatures of DKIM and ARC, and their keys: what must hold before dkimpy verifies one (RFC 6376 sections 3.5, 3.6, 6.1).

In: a header field, a key record.  Out: a checked signature or key, whose verification takes a bounded time; or a fault,
with the word of RFC 8601 for it.
This module knows no DNS and no policy.
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Sequence

import attrs
import dkim
from dkim.crypto import parse_public_key
from dkim.util import InvalidTagValueList, parse_tag_value

from smtphooks.layers.authentication.bodyhash import RELAXED, SIMPLE
from smtphooks.layers.authentication.domains import isSubdomain, maybeDomain
from smtphooks.layers.authentication.messagescan import Field

PASS, FAIL, NEUTRAL, POLICY, TEMPERROR, PERMERROR = "pass", "fail", "neutral", "policy", "temperror", "permerror"

# Bounds for signatures, far beyond those that are seen: some patterns of dkimpy take time that is quadratic in the
# length of white space, and each name that is signed is searched in the whole header.
_FIELD_OCTETS = 8192
_TOO_MUCH_SPACE = re.compile(rb"\s{100}")
_NAMES = 256

# RFC 8301 section 3.2: shorter keys are never valid, longer ones need not be supported.  The exponent is 65537 or
# smaller in practice; the time of a verification grows with its length.
_RSA_BITS = (1024, 4096)
_EXPONENT_BITS = 32

_ED25519_KEY_OCTETS, _ED25519_SIGNATURE_OCTETS = 32, 64

_ALGORITHMS = {b"rsa-sha256": "rsa", b"ed25519-sha256": "ed25519"}
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}")
_DIGITS = re.compile(rb"[0-9]{1,12}")

# For dkimpy, whose own logger shows parts of messages.
QUIET = logging.Logger("dkimpy", logging.CRITICAL + 1)


class SignatureFault(Exception):
    """
    A signature or key cannot be used.

    @ivar result: the word of RFC 8601 section 2.7.1.
    @ivar reason: why, as text.
    """

    def __init__(self, result: str, reason: str) -> None:
        super().__init__(reason)
        self.result = result
        self.reason = reason


@attrs.frozen
class Signature:
    """
    A signature, well-formed and within bounds.

    @ivar field: the header field that it is in.
    @ivar tags: its tags.
    @ivar domain: C{d=}, as A-labels in lower case.
    @ivar selector: C{s=}.
    @ivar kind: the kind of the key, C{"rsa"} or C{"ed25519"}.
    @ivar octets: C{b=}, decoded.
    @ivar names: C{h=}, in lower case; empty for an ARC-Seal.
    @ivar form: the canonical form of the body.
    @ivar length: C{l=}, None without.
    @ivar bodyHash: C{bh=}, decoded; None for an ARC-Seal.
    """

    field: Field
    tags: dict[bytes, bytes]
    domain: str
    selector: str
    kind: str
    octets: bytes
    names: list[bytes]
    form: str
    length: int | None
    bodyHash: bytes | None

    @property
    def keyName(self) -> str:
        """The domain name of the key record (RFC 6376 section 3.6.2.1)."""
        return f"{self.selector}._domainkey.{self.domain}"


@attrs.frozen
class Key:
    """
    A public key.

    @ivar record: the record that it is in.
    @ivar octets: the length of a signature by it.
    @ivar isTesting: C{t=y}.
    @ivar isStrict: C{t=s}, the domain of C{i=} must be that of C{d=}.
    """

    record: bytes
    octets: int
    isTesting: bool
    isStrict: bool


def tagsOf(field: Field) -> dict[bytes, bytes]:
    """
    The tags of a signature.

    @raise SignatureFault: if it is too long, or not a list of tags (RFC 6376 section 3.2).
    """
    if len(field.value) > _FIELD_OCTETS or _TOO_MUCH_SPACE.search(field.value):
        raise SignatureFault(PERMERROR, "the signature is too long")
    return _tags(field.value, "the signature")


def _tags(octets: bytes, what: str) -> dict[bytes, bytes]:
    try:
        tags: dict[bytes, bytes] = parse_tag_value(octets)
    except (InvalidTagValueList, IndexError) as fault:
        raise SignatureFault(PERMERROR, f"{what} is not a list of tags") from fault
    return tags


def readSignature(field: Field, isSeal: bool = False) -> Signature:
    """
    A signature of DKIM, or an ARC-Message-Signature, which has the same tags but C{i=} and C{v=}; or an ARC-Seal.

    @raise SignatureFault: if it is malformed or not acceptable.
    """
    tags = tagsOf(field)
    for tag in (b"a", b"b", b"d", b"s") if isSeal else (b"a", b"b", b"bh", b"d", b"h", b"s"):
        if tag not in tags:
            raise SignatureFault(PERMERROR, f"the signature has no {tag.decode()}=")
    if tags[b"a"] == b"rsa-sha1":
        raise SignatureFault(PERMERROR, "rsa-sha1 is not accepted")  # RFC 8301 section 3.1
    if tags[b"a"] not in _ALGORITHMS:
        raise SignatureFault(PERMERROR, "the algorithm of the signature is unknown")
    domain, selector = (maybeDomain(tags[tag].decode("utf-8", "replace")) for tag in (b"d", b"s"))
    if domain is None or selector is None:
        raise SignatureFault(PERMERROR, "the domain or the selector of the signature is not a domain name")
    names = [name.strip().lower() for name in tags.get(b"h", b"").split(b":")]
    if len(names) > _NAMES:
        raise SignatureFault(PERMERROR, "the signature covers too many fields")
    if not isSeal and b"from" not in names:
        raise SignatureFault(PERMERROR, "the signature does not cover From")  # RFC 6376 section 6.1.1
    form, length = _bodyOf(tags, default=RELAXED if isSeal else SIMPLE)
    return Signature(
        field=field,
        tags=tags,
        domain=domain,
        selector=selector,
        kind=_ALGORITHMS[tags[b"a"]],
        octets=_decoded(tags[b"b"], "b"),
        names=[] if isSeal else names,
        form=form,
        length=length,
        bodyHash=None if isSeal else _decoded(tags[b"bh"], "bh"),
    )


def _bodyOf(tags: dict[bytes, bytes], default: str) -> tuple[str, int | None]:
    """The canonical form of the body, and how much of it is covered (C{c=} and C{l=})."""
    _, slash, body = tags.get(b"c", b"").partition(b"/")
    form = body.decode("utf-8", "replace") if slash else default
    if form not in (SIMPLE, RELAXED):
        raise SignatureFault(PERMERROR, "the canonicalization of the signature is unknown")
    if b"l" not in tags:
        return form, None
    if not _DIGITS.fullmatch(tags[b"l"]):
        raise SignatureFault(PERMERROR, "l= is not a number")
    return form, int(tags[b"l"])


def checkIdentity(signature: Signature, isStrict: bool) -> None:
    """
    The identity of a signature of DKIM is in its domain (C{i=}, RFC 6376 sections 3.5 and 3.6.1).

    @raise SignatureFault: if it is not.
    """
    if b"i" not in signature.tags:
        return
    _, at, domain = signature.tags[b"i"].decode("utf-8", "replace").rpartition("@")
    name = maybeDomain(domain)
    if not at or name is None or not isSubdomain(name, signature.domain):
        raise SignatureFault(PERMERROR, "the identity i= is not in the domain d=")
    if isStrict and name != signature.domain:
        raise SignatureFault(PERMERROR, "the key is not for subdomains in i=")


def _decoded(value: bytes, tag: str) -> bytes:
    """A value in Base64, with white space anywhere (RFC 6376 section 2.10)."""
    octets = b"".join(value.split())
    if not _BASE64.fullmatch(octets) or len(octets) % 4:
        raise SignatureFault(PERMERROR, f"{tag}= is not Base64")
    return base64.b64decode(octets)


def checkTimes(signature: Signature, now: float, leeway: float = 300) -> None:
    """
    A signature has not expired (RFC 6376 section 3.5).

    @param leeway: seconds that clocks may differ.
    @raise SignatureFault: if it has, or if its times are malformed.
    """
    times = {}
    for tag in (b"t", b"x"):
        if tag in signature.tags:
            if not _DIGITS.fullmatch(signature.tags[tag]):
                raise SignatureFault(PERMERROR, f"{tag.decode()}= is not a time")
            times[tag] = int(signature.tags[tag])
    if b"x" in times and times[b"x"] < now - leeway:
        raise SignatureFault(FAIL, "the signature has expired")


def readKey(record: bytes, signature: Signature) -> Key:
    """
    A key record, which must be fit for a signature (RFC 6376 sections 3.6.1 and 6.1.2, RFC 8301, RFC 8463).

    @raise SignatureFault: if it is not.
    """
    tags = _tags(record, "the key record")
    if tags.get(b"v", b"DKIM1") != b"DKIM1":
        raise SignatureFault(PERMERROR, "the key record has an unknown version")
    if tags.get(b"k", b"rsa") != signature.kind.encode():
        raise SignatureFault(PERMERROR, "the key is not for the algorithm of the signature")
    if b"h" in tags and b"sha256" not in _listOf(tags[b"h"]):
        raise SignatureFault(PERMERROR, "the key is not for the hash algorithm of the signature")
    if b"s" in tags and not {b"*", b"email"} & set(_listOf(tags[b"s"])):
        raise SignatureFault(PERMERROR, "the key is not for mail")
    if not tags.get(b"p", b"-"):
        raise SignatureFault(PERMERROR, "the key has been revoked")
    flags = _listOf(tags.get(b"t", b""))
    octets = _signatureOctets(tags, signature.kind)
    if len(signature.octets) != octets:
        # RFC 8017 section 8.2.2; the time that dkimpy takes grows with the length.
        raise SignatureFault(FAIL, "the signature has not the length that the key requires")
    return Key(record, octets, isTesting=b"y" in flags, isStrict=b"s" in flags)


def _signatureOctets(tags: dict[bytes, bytes], kind: str) -> int:
    """The length of signatures by a key, which is within bounds."""
    malformed = SignatureFault(PERMERROR, "the key is malformed")
    try:
        key = base64.b64decode(b"".join(tags[b"p"].split()))
        if kind == "ed25519":
            if len(key) != _ED25519_KEY_OCTETS:
                raise malformed
            return _ED25519_SIGNATURE_OCTETS
        numbers = parse_public_key(key)
        modulus, exponent = numbers["modulus"], numbers["publicExponent"]
    except SignatureFault:
        raise
    except Exception as fault:  # parse_public_key raises whatever a malformed key leads to
        raise malformed from fault
    bits = modulus.bit_length()
    least, most = _RSA_BITS
    if bits < least:
        raise SignatureFault(PERMERROR, f"the key has {bits} bits, fewer than {least}")
    if bits > most or exponent.bit_length() > _EXPONENT_BITS:
        raise SignatureFault(PERMERROR, f"the key has more than {most} bits, or a large exponent")
    return int(bits + 7) // 8


def _listOf(value: bytes) -> list[bytes]:
    return [item.strip() for item in value.split(b":")]


def isVerified(signer: dkim.DomainSigner, signature: Signature, covered: Sequence[bytes], key: Key) -> bool:
    """
    Whether a signature of header fields is by a key; C{bh=} is compared elsewhere.

    @param signer: dkimpy's object, which has the fields.
    @param covered: names of the fields, in lower case.
    @raise SignatureFault: if dkimpy cannot tell.
    """
    # As for an ARC-Seal, which has no bh=, dkimpy then looks at no body.
    tags = {tag: value for tag, value in signature.tags.items() if tag != b"bh"}
    if signature.bodyHash is None:
        tags[b"c"] = b"relaxed/relaxed"  # RFC 8617 section 4.1.3
    field = (signature.field.name, signature.field.value)
    try:
        return bool(signer.verify_sig(tags, list(covered), field, lambda name, timeout: key.record))
    except Exception as fault:  # octets that nobody has foreseen make dkimpy raise all kinds of exceptions
        raise SignatureFault(PERMERROR, "the signature cannot be verified") from fault


def shortened(signature: bytes) -> str:
    """The first characters of C{b=}, which tell signatures apart (RFC 6008)."""
    octets = b"".join(signature.split())[:8]
    return octets.decode("ascii") if _BASE64.fullmatch(octets) else ""
