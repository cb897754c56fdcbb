"""
TLS of a client: what a route wants in, what OpenSSL is told out.

A certificate is verified by OpenSSL and service_identity, or not at all where TLS is only taken because it is there.
This module knows no connection, and not when TLS begins.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from OpenSSL import SSL
from OpenSSL.crypto import X509, X509StoreContext, X509StoreContextError
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    PrivateCertificate,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.protocols.tls import TLSMemoryBIOProtocol
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


# Why the certificate of a server was not trusted: a callback of OpenSSL can only say that it is not.
_untrusted: WeakKeyDictionary[SSL.Connection, str] = WeakKeyDictionary()


# To read the certificates that the system trusts takes longer than a handshake.
@lru_cache(maxsize=64)
def _creator(name: str, verifies: bool, ca: bytes | None, key: bytes | None, cert: bytes | None) -> _Creator:
    own: Any = {}
    if key is not None and cert is not None:
        pair: Any = PrivateCertificate.loadPEM(key + b"\n" + cert)
        own = {"privateKey": pair.privateKey.original, "certificate": pair.original}
    trusted: Any = platformTrust() if verifies else None
    if verifies and ca is not None:
        trusted = trustRootFromCertificates([Certificate(_asOpenSSL(each)) for each in loadCertificates("ca", ca)])
    options: Any = CertificateOptions(trustRoot=trusted, **own)
    return _Creator(options.getContext(), name, verifies)


def _asOpenSSL(certificate: Any) -> Any:
    return X509.from_cryptography(certificate)


@implementer(IOpenSSLClientConnectionCreator)
class _Creator:
    """
    TLS to a server, which may choose a certificate by the name it is called by (SNI).

    That of Twisted does the same where it verifies, and does not tell why a certificate is not trusted.
    """

    def __init__(self, context: SSL.Context, name: str, verifies: bool) -> None:
        self._context = context
        self._verifies = verifies
        self._shown = name
        isAddress = maybeIP(name) is not None
        self._name: str | None = None if isAddress else name.encode("idna").decode()  # RFC 6066 section 3
        self._identity: Any = IPAddress_ID(name) if isAddress else DNS_ID(str(self._name))

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Called by Twisted."""
        connection = SSL.Connection(self._context, None)
        if self._name is not None:
            connection.set_tlsext_host_name(self._name.encode())
        if self._verifies:
            connection.set_verify(SSL.VERIFY_PEER, self._isTrusted)
        return connection

    def _isTrusted(self, connection: SSL.Connection, certificate: X509, code: int, depth: int, isTrusted: int) -> bool:
        """OpenSSL has looked at a certificate of the chain."""
        why = None if isTrusted else _errorOf(connection, certificate)
        if why is None and depth == 0:  # the server's own
            try:
                verify_service_identity(extract_patterns(certificate), [self._identity], [])
            except Exception:  # it names others, or nobody, or its names cannot be read
                why = f"it is not for {self._shown}"
        if why is not None:
            _untrusted[connection] = why
        return why is None


def _errorOf(connection: SSL.Connection, certificate: X509) -> str:
    """What OpenSSL has against a certificate: the callback has a number, of which no public function makes a text."""
    store: Any = connection.get_context().get_cert_store()
    try:
        X509StoreContext(store, certificate).verify_certificate()
    except X509StoreContextError as error:
        return str(error)
    return "its chain is not trusted"


def whyUntrusted(transport: Any) -> str | None:
    """Why the certificate of a server was not trusted, where TLS has failed; None if that was not the cause."""
    handle = transport.getHandle() if isinstance(transport, TLSMemoryBIOProtocol) else None
    return _untrusted.get(handle) if isinstance(handle, SSL.Connection) else None
