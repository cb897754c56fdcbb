"""Certificates for the tests, made at run time: an authority, and the certificates that it signs."""

from __future__ import annotations

import datetime
import functools
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)

_SIGNS_CERTIFICATES = x509.KeyUsage(
    key_cert_sign=True,
    crl_sign=True,
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


@functools.cache
def rsaKey(bits: int = 2048) -> Any:
    """One key for the whole run, because generating it is slow."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@attrs.frozen(eq=False)
class Pair:
    """
    A private key and its certificate.

    @ivar issuers: the intermediate certificates between it and the authority, nearest first.
    """

    privateKey: Any
    certificate: x509.Certificate
    issuers: tuple[x509.Certificate, ...] = ()

    def keyPEM(self, passphrase: bytes = b"") -> bytes:
        encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        return self.privateKey.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)

    @property
    def key(self) -> str:
        """The private key as PEM text."""
        return self.keyPEM().decode()

    @property
    def cert(self) -> str:
        """The certificates as PEM text, leaf first."""
        chain = (self.certificate, *self.issuers)
        return "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in chain)

    def writeTo(self, directory: Path, stem: str = "server") -> dict[str, str]:
        """Write the files, and return the options that name them."""
        paths = {"key": directory / f"{stem}.key", "cert": directory / f"{stem}.pem"}
        paths["key"].write_text(self.key)
        paths["cert"].write_text(self.cert)
        return {option: str(path) for option, path in paths.items()}


class Authority:
    """Signs certificates.  Its own is signed by C{parent}, or by itself."""

    def __init__(self, name: str = "Test authority", parent: Authority | None = None) -> None:
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.privateKey = ec.generate_private_key(ec.SECP256R1())
        self.parent = parent
        signer = parent or self
        extensions = [(x509.BasicConstraints(ca=True, path_length=None), True), (_SIGNS_CERTIFICATES, True)]
        self.certificate = self._sign(self.name, self.privateKey, signer, extensions)

    @property
    def pem(self) -> str:
        """Its certificate as PEM text, for option C{ca}."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @staticmethod
    def _sign(
        subject: x509.Name,
        key: Any,
        signer: Authority,
        extensions: Sequence[tuple[Any, bool]],
        begin: datetime.timedelta = -DAY,
        end: datetime.timedelta = 30 * DAY,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(signer.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begin)
            .not_valid_after(now + end)
        )
        # RFC 5280 sections 4.2.1.1 and 4.2.1.2 require both; the clients of Python 3.13 and later do as well.
        ownKey = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        signersKey = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.privateKey.public_key())
        for extension, critical in [*extensions, (ownKey, False), (signersKey, False)]:
            builder = builder.add_extension(extension, critical)
        return builder.sign(signer.privateKey, hashes.SHA256())

    def issue(
        self,
        *commonNames: str,
        names: Sequence[str] = (),
        emails: Sequence[str] = (),
        client: bool = False,
        begin: datetime.timedelta = -DAY,
        end: datetime.timedelta = 30 * DAY,
        key: Any = None,
    ) -> Pair:
        """
        A new certificate.

        @param names: host names and IP addresses; C{emails}: mail addresses, both for subjectAltName.
        @param client: the certificate is for a client, else for a server.
        """
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in commonNames])
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        extensions: list[tuple[Any, bool]] = [(x509.ExtendedKeyUsage([usage]), False)]
        alternatives = [*map(_hostOrAddress, names), *map(x509.RFC822Name, emails)]
        if alternatives:
            extensions.append((x509.SubjectAlternativeName(alternatives), False))
        key = key or ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(subject, key, self, extensions, begin, end)
        return Pair(key, certificate, (self.certificate,) if self.parent else ())

    def server(self, name: str, **given: Any) -> Pair:
        """A certificate for a host name."""
        return self.issue(name, names=[name], **given)

    def client(self, name: str, **given: Any) -> Pair:
        """A certificate for a user."""
        return self.issue(name, client=True, **given)


def _hostOrAddress(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
