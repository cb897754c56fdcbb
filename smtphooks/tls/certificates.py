"""
Certificates: private keys and certificates read from PEM and checked, and a self-signed pair where there are none.

An unusable file is an L{OptionError} that names the option and the path, and shows nothing of a key.
This module knows no OpenSSL context, no connection, and not which server name a pair is for.
"""

from __future__ import annotations

import datetime
import functools
import ipaddress
import os
import re
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.logger import Logger

from smtphooks.errors import OptionError
from smtphooks.optionkinds import shownPEM
from smtphooks.options import Options

_log = Logger()

_WANTS_PEM = "it wants PEM text or the path of a PEM file"
_PRIVATE_KEY = re.compile(rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.+?-----END \1PRIVATE KEY-----", re.DOTALL)


def _wrong(name: str, value: str | bytes, why: object, wants: str = _WANTS_PEM) -> OptionError:
    return OptionError(f"option {name} is {{!r}} ({{}}), {wants}", shownPEM(value), why, options=[name])


def readPEM(name: str, value: str | bytes) -> bytes:
    """
    The PEM text in the value of an option, or in the file that it names.

    @raise OptionError: if that cannot be read.
    """
    try:
        data = os.fsencode(value)
        return data if b"-----BEGIN" in data else Path(os.fsdecode(value)).read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no path"
        raise _wrong(name, value, why) from None


def _loadKey(value: str | bytes) -> Any:
    found = _PRIVATE_KEY.search(readPEM("key", value))
    if found is None:
        raise _wrong("key", value, "no private key in it", f"{_WANTS_PEM} that has one")
    try:
        return serialization.load_pem_private_key(found[0], password=None)
    except TypeError:
        raise _wrong("key", value, "encrypted", "it wants a key without a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise _wrong("key", value, "damaged, or of an unknown kind") from None


def loadCertificates(name: str, value: str | bytes) -> list[x509.Certificate]:
    """
    The certificates in the value of an option, in their order; at least one.

    @raise OptionError: if the value holds no certificate.
    """
    pem = readPEM(name, value)
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise _wrong(name, value, "no readable certificate in it") from None


@attrs.frozen
class KeyPair:
    """A private key and its certificate chain, leaf first."""

    key: Any
    chain: list[x509.Certificate]


def loadKeyPair(options: Options) -> KeyPair | None:
    """
    The pair that the options C{key} and C{cert} hold; None if they are not given.

    @raise OptionError: if one cannot be read, or the key is not that of the certificate.
    """
    if options.key is None or options.cert is None:
        return None
    key, chain = _loadKey(options.key), loadCertificates("cert", options.cert)
    try:
        fits = chain[0].public_key() == key.public_key()
    except (ValueError, UnsupportedAlgorithm):
        fits = False
    if not fits:
        raise OptionError(
            "option key is {!r}, it wants the private key of the first certificate in option cert ({!r})",
            shownPEM(options.key),
            shownPEM(options.cert),
            options=["key", "cert"],
        )
    return KeyPair(key, chain)


@functools.cache
def selfSigned(name: str) -> KeyPair:
    """A self-signed pair, one for each name in a process, so that all factories show clients the same certificate."""
    _log.warn(
        "no certificate for {name}: TLS uses a self-signed one that no client can verify; set the options key and cert",
        name=name,
    )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])  # the upper bound of X.520
    loopback = [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    names = [x509.DNSName(host) for host in dict.fromkeys((name, "localhost"))]
    begin = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName([*names, *loopback]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(key, [certificate])
