"""
TLS of a client: what a route wants in, what OpenSSL is told out, and why a certificate was not accepted.

Rule: a certificate is either verified, by OpenSSL up to an authority and by service_identity for the name, where doubt
is refusal; or not at all, where TLS is only taken because it is there.  Twisted's own C{optionsForClientTLS} takes a
certificate without any name for that of every server.
This module knows no connection, and not when TLS begins.
"""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    platformTrust,
    trustRootFromCertificates,
)
from zope.interface import implementer

from smtphooks.client.errors import Unreachable
from smtphooks.client.route import Route
from smtphooks.errors import OptionError
from smtphooks.netaddress import maybeIP
from smtphooks.tls.certificates import loadCertificates, loadKeyPair, readPEM

# X509_V_ERR_… of OpenSSL, in the words of an operator.
_UNTRUSTED = "its certificate is signed by no authority that is trusted here"
_FAULTS = {
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    18: "its certificate is signed by itself, and not trusted here",
    19: _UNTRUSTED,
    20: _UNTRUSTED,
    21: _UNTRUSTED,
    23: "its certificate has been revoked",
    26: "its certificate is not for a server",
}


@implementer(IOpenSSLClientConnectionCreator)
class Encryption:
    """
    The TLS of one connection.

    @ivar fault: why the certificate of the server is not accepted, as far as it is known; None otherwise.
    """

    def __init__(self, context: SSL.Context, name: str, verifies: bool) -> None:
        """
        @param name: of the server.
        """
        self.fault: str | None = None
        self._context = context
        self._name = name
        self._verifies = verifies
        self._isVerified = False

    @property
    def isAccepted(self) -> bool:
        """After the handshake: the certificate is what it must be."""
        return self._isVerified or not self._verifies

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Called by Twisted."""
        connection = SSL.Connection(self._context, None)
        if maybeIP(self._name) is None:  # RFC 6066 section 3: not for addresses
            connection.set_tlsext_host_name(_inASCII(self._name))
        if self._verifies:
            connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._verify)
        return connection

    def _verify(self, connection: Any, certificate: Any, number: int, depth: int, isSound: int) -> bool:
        """Called by OpenSSL, with the certificate of an authority first and that of the server, depth 0, last."""
        if not isSound:
            self.fault = self.fault or _FAULTS.get(number, f"its certificate is not sound (error {number} of OpenSSL)")
            return False
        if depth == 0:
            check = verify_certificate_hostname if maybeIP(self._name) is None else verify_certificate_ip_address
            try:
                check(certificate.to_cryptography(), self._name)
            except Exception:  # a name that does not fit, none at all, or one that cannot be read
                self.fault = f"its certificate is not for {self._name}"
                return False
            self._isVerified = True
        return True


def encryptionFor(route: Route) -> Encryption:
    """
    The TLS of a connection.

    @raise Unreachable: if a file of the route, or its name, cannot be used.
    """
    try:
        return _encryptionFor(route)
    except Exception as error:  # OptionError, UnicodeError, and whatever OpenSSL raises
        raise Unreachable(f"TLS to {route} cannot begin: {error or type(error).__name__}") from error


def checkTLS(route: Route) -> None:
    """
    Look at the files of a route, which needs no server.

    @raise OptionError: if one cannot be used.
    """
    try:
        _encryptionFor(route)
    except OptionError:
        raise
    except Exception as error:  # UnicodeError, and whatever OpenSSL raises
        names = [name for name in ("servername", "ca", "key", "cert") if getattr(route, name) is not None]
        sentence = f"options {', '.join(names)} cannot be used: {error or type(error).__name__}"
        raise OptionError(sentence, options=names) from error


def _encryptionFor(route: Route) -> Encryption:
    given = {"ca": route.ca, "key": route.key, "cert": route.cert}
    octets = [None if value is None else readPEM(name, value) for name, value in given.items()]
    name = nameOf(route)
    _inASCII(name)
    return Encryption(_context(route.mustVerify, *octets), name, route.mustVerify)


def nameOf(route: Route) -> str:
    """The name that the certificate is to be for."""
    return (route.servername or route.host or route.name).rstrip(".")


def _inASCII(name: str) -> bytes:
    return name.encode() if name.isascii() else name.encode("idna")


# To read the certificates that the system trusts takes longer than a handshake.
@lru_cache(maxsize=64)
def _context(verifies: bool, ca: bytes | None, key: bytes | None, cert: bytes | None) -> Any:
    arguments: dict[str, Any] = {}
    if verifies and ca is None:
        arguments["trustRoot"] = platformTrust()
    elif verifies and ca is not None:
        trusted = [Certificate(X509.from_cryptography(each)) for each in loadCertificates("ca", ca)]
        arguments["trustRoot"] = trustRootFromCertificates(trusted)
    options: Any = CertificateOptions(**arguments)
    context = options.getContext()
    files: Any = SimpleNamespace(key=key, cert=cert)
    pair = loadKeyPair(files)
    if pair is not None:
        context.use_certificate(pair.chain[0])
        for issuer in pair.chain[1:]:
            context.add_extra_chain_cert(issuer)
        context.use_privatekey(pair.key)
    return context
