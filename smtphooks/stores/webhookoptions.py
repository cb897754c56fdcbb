"""
The options of the store C{Webhook}: what a URL, a token and a secret look like, and what is in their files.

In: values as they are given.  Out: their checks, and what is used of them.  Rule: no error shows a secret, and of a URL
only whom it asks, as a path or a query may hold a secret.
This module knows no request.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import idna
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.ssl import Certificate, trustRootFromCertificates

from smtphooks.errors import OptionError
from smtphooks.netaddress import maybeIP
from smtphooks.optionkinds import NotShown, isLine, isSecret, isSecretPath, option, shownPEM

_WANTS_TOKEN = "ASCII characters without spaces, or the path of a file that holds them: a path begins with / or ./"
_WANTS_URL = '"http://host…" or "https://host…" in ASCII, without user, password and fragment'


def _isURL(value: object) -> bool:
    if not isinstance(value, str) or not value.isprintable() or not value.isascii() or " " in value:
        return False
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError:
        return False
    isWhole = url.scheme in ("http", "https") and port != 0 and _isHost(url.hostname or "")
    return isWhole and not url.fragment and not {"@", "%"} & {*url.netloc}


def _isHost(name: str) -> bool:
    """Is it an address, or a name as Twisted looks it up?"""
    if maybeIP(name) is not None:
        return True
    try:
        return bool(name and idna.encode(name))
    except idna.IDNAError:
        return False


def originOf(url: str) -> str:
    """Whom a URL asks: its scheme, host and port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _shownURL(value: object) -> object:
    if not isinstance(value, str):
        return value
    return originOf(value) if _isURL(value) else NotShown("no such URL")


def aURL(default: Any) -> Any:
    """Where requests are sent to."""
    return option(default, _WANTS_URL, _isURL, show=_shownURL)


def isDuration(value: Any) -> bool:
    """Is it a number of seconds?"""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")


# --- secrets ---


def _isToken(value: object) -> bool:
    return isLine(value) and isinstance(value, str) and bool(value) and value.isascii() and " " not in value


def _shownToken(value: object) -> object:
    return None if value is None else NotShown("(not shown)")


def aToken() -> Any:
    """A token, or the path of a file that holds it."""
    return option(None, _WANTS_TOKEN, _isToken, show=_shownToken, isPath=isSecretPath, isSecret=True)


def tokenOf(value: str) -> str:
    """
    The token that an option gives.

    @raise OptionError: if its file cannot be read, or holds none.
    """
    if not isSecretPath(value):
        return value
    found = _read("token", value).decode("latin-1").strip()
    if not _isToken(found):
        raise OptionError("the file of option token holds no ASCII characters without spaces", options=["token"])
    return found


def secretOf(value: str | bytes) -> bytes:
    """
    The secret that an option gives.

    @raise OptionError: if its file cannot be read, or holds too little.
    """
    if isinstance(value, bytes):
        return value
    if not isSecretPath(value):
        return value.encode()
    found = _read("secret", value).rstrip(b"\r\n")
    if not isSecret(found):
        raise OptionError("the file of option secret has too little in it, it wants 16 octets", options=["secret"])
    return found


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no path"
        raise OptionError(f"the file of option {name} cannot be read: {why}", options=[name]) from None


def trustRootOf(ca: str | bytes) -> Any:
    """
    What option C{ca} trusts, an C{IOpenSSLTrustRoot}.

    @raise OptionError: if there is no certificate in it.
    """
    octets = os.fsencode(ca)
    try:
        octets = octets if b"-----BEGIN" in octets else Path(os.fsdecode(octets)).read_bytes()
        found = x509.load_pem_x509_certificates(octets)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no readable certificate in it"
        raise OptionError(
            "option ca is {!r} ({}), it wants PEM text or the path of a PEM file", shownPEM(ca), why, options=["ca"]
        ) from None
    return trustRootFromCertificates([Certificate.loadPEM(each.public_bytes(Encoding.PEM)) for each in found])
