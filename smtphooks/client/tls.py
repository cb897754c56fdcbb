"""
TLS of a client: what a route wants in, what OpenSSL is told out.

A certificate is verified by Twisted and service_identity, or not at all where TLS is only taken because it is there.
This module knows no connection, and not when TLS begins.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    PrivateCertificate,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)
from zope.interface import implementer

from smtphooks.client.errors import Unreachable
from smtphooks.client.route import Route
from smtphooks.netaddress import maybeIP
from smtphooks.tls.certificates import loadCertificates


def creatorFor(route: Route) -> Any:
    """
    What makes the TLS of a connection.

    @raise Unreachable: if a file of the route cannot be used.
    """
    try:
        octets = [value if value is None else _read(value) for value in (route.ca, route.key, route.cert)]
        return _creator(route.servername or route.host or route.name, route.mustVerify, *octets)
    except Exception as error:  # OSError, OptionError, and whatever OpenSSL raises
        raise Unreachable(f"TLS to {route} cannot begin: {error or type(error).__name__}") from error


def _read(value: str | bytes) -> bytes:
    data = os.fsencode(value)
    return data if b"-----BEGIN" in data else Path(os.fsdecode(value)).read_bytes()


# To read the certificates that the system trusts takes longer than a handshake.
@lru_cache(maxsize=64)
def _creator(name: str, verifies: bool, ca: bytes | None, key: bytes | None, cert: bytes | None) -> Any:
    own: Any = None if key is None or cert is None else PrivateCertificate.loadPEM(key + b"\n" + cert)
    if not verifies:
        options: Any = CertificateOptions() if own is None else own.options()
        return _Unverified(options.getContext(), name)
    trusted: Any = platformTrust()
    if ca is not None:
        trusted = trustRootFromCertificates([Certificate(_asOpenSSL(each)) for each in loadCertificates("ca", ca)])
    return optionsForClientTLS(name, trustRoot=trusted, clientCertificate=own)


def _asOpenSSL(certificate: Any) -> Any:
    from OpenSSL.crypto import X509

    return X509.from_cryptography(certificate)


@implementer(IOpenSSLClientConnectionCreator)
class _Unverified:
    """TLS with any certificate; a server may choose one by the name it is called by (SNI)."""

    def __init__(self, context: SSL.Context, name: str) -> None:
        self._context = context
        self._name = name

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Called by Twisted."""
        connection = SSL.Connection(self._context, None)
        if maybeIP(self._name) is None:  # RFC 6066 section 3: not for addresses
            connection.set_tlsext_host_name(self._name.encode("idna"))
        return connection
