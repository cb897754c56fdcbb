"""
Certificates for tests: an authority that lives as long as the process, and pairs that it has signed, sound or not.

A client that trusts the authority verifies a sound certificate, by name or by address of the loopback interface, as
strictly as it likes: OpenSSL's strict mode (Python's default from 3.13 on) wants extensions that a lone self-signed
certificate cannot have.
This module knows no server, and writes no file.
"""

from __future__ import annotations

import datetime
import functools
import ipaddress
import threading
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LOOPBACK = ("127.0.0.1", "::1")
_DAY = datetime.timedelta(days=1)
# So that servers which start at the same time in several threads have the same authority.
_lock = threading.Lock()


@attrs.frozen
class Pair:
    """
    A private key and its certificate.

    @ivar key: PEM text.
    @ivar certificate: PEM text.
    """

    key: str
    certificate: str


def authority() -> str:
    """The certificate of the authority, which a client is to trust; PEM text."""
    with _lock:
        return _pem(_authority()[1])


def pairFor(name: str, isExpired: bool = False, isOfAnother: bool = False) -> Pair:
    """
    A pair for a server name, C{localhost} and the addresses of the loopback interface.

    @param isExpired: its certificate was valid until yesterday.
    @param isOfAnother: its certificate is for C{another.invalid}, and for nothing else.
    """
    with _lock:
        return _pairFor(name, isExpired, isOfAnother)


@functools.cache
def _authority() -> tuple[Any, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _named("smtphooks.testing")
    usage = dict.fromkeys(
        [
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ],
        False,
    )
    builder = (
        _builder(subject, subject, key.public_key(), _now() + 365 * _DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
    )
    return key, builder.sign(key, hashes.SHA256())


@functools.cache
def _pairFor(name: str, isExpired: bool, isOfAnother: bool) -> Pair:
    issuerKey, issuer = _authority()
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName("another.invalid")]
    if not isOfAnother:
        names = [x509.DNSName(host) for host in dict.fromkeys((name, "localhost"))]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in _LOOPBACK]
    until = _now() + (-_DAY if isExpired else 365 * _DAY)
    builder = (
        _builder(_named(name[:64]), issuer.subject, key.public_key(), until)  # the upper bound of X.520
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuerKey.public_key()), critical=False)
    )
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Pair(encoded.decode(), _pem(builder.sign(issuerKey, hashes.SHA256())))


def _builder(subject: x509.Name, issuer: x509.Name, publicKey: Any, until: datetime.datetime) -> Any:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(publicKey)
        .serial_number(x509.random_serial_number())
        .not_valid_before(until - 366 * _DAY)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(publicKey), critical=False)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
