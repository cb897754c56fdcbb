"""
The passwords and tokens that tests use, and the search for them in a text (invariant 7).

Every test of AUTH takes its secrets from here.  L{encoded} makes SASL responses and remembers them, because they are
secrets as well.
"""

from __future__ import annotations

from base64 import b64encode

PASSWORD = "correct-Horse;battery=staple"
WRONG_PASSWORD = "Tr0ub4dor&3,almost"
UNICODE_PASSWORD = "Gänse\u00a0füßchen\u2603"
TOKEN = "vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg"
CRAM_PASSWORD = "tanstaaftanstaaf"  # RFC 2195 section 2
CRAM_DIGEST = "b913a602c7eda7a495b4e6e7334d3890"
SCRAM_PASSWORD = "pencil-of-RFC-7677"
SCRAM_SECRET = "what-unknown-users-are-made-of"

# A shorter text could occur anywhere by chance.
_SHORTEST = 16


def _base64Forms(secret: bytes) -> set[str]:
    """What the base64 of any octets that contain the secret must contain, for each offset at which it may begin."""
    forms = set()
    for before in range(3):
        whole = b64encode(b"\0" * before + secret).decode()
        # The first and last characters also depend on the neighbouring octets.
        forms.add(whole[-(-before * 8 // 6) : (before + len(secret)) * 8 // 6])
    return forms


def _forms(secret: str) -> set[str]:
    octets = secret.encode()
    return {secret, repr(secret)[1:-1], repr(octets)[2:-1], octets.hex(), *_base64Forms(octets)}


_SECRETS = {
    form
    for secret in (
        PASSWORD,
        WRONG_PASSWORD,
        UNICODE_PASSWORD,
        TOKEN,
        CRAM_PASSWORD,
        CRAM_DIGEST,
        SCRAM_PASSWORD,
        SCRAM_SECRET,
    )
    for form in _forms(secret)
}


def encoded(octets: str | bytes) -> str:
    """The octets in base64, as a client sends them; the result counts as a secret too."""
    octets = octets.encode() if isinstance(octets, str) else octets
    text = b64encode(octets).decode()
    if len(octets) >= _SHORTEST:
        _SECRETS.add(text)
    return text


def plain(username: str = "ann", password: str = PASSWORD, authorizationId: str = "") -> str:
    """The response of PLAIN, in base64."""
    return encoded(f"{authorizationId}\0{username}\0{password}")


def secretsIn(text: str) -> list[str]:
    """The secrets that a text contains, in any form; a log must have none."""
    return sorted(secret for secret in _SECRETS if secret in text)
