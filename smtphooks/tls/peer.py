"""
What a peer showed in a TLS handshake: names, certificate, identity, channel binding and cipher.

Functions of a pyOpenSSL connection that make values out of it; L{record} writes them into a session.  What a client put
there (names, certificates) is checked to be text before it goes on.
This module knows no options and no contexts, and keeps no connection alive.
"""

from __future__ import annotations

import re
from typing import Any
from weakref import WeakKeyDictionary

from cryptography import x509
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto

from smtphooks.session import Session, TLSInfo


def describe(connection: SSL.Connection) -> TLSInfo:
    """What a finished handshake agreed upon."""
    name = connection.get_cipher_name() or "(NONE)"
    return TLSInfo(name, standardName(name), connection.get_protocol_version_name())


_KEY_EXCHANGES = {
    "": "RSA",
    "ADH": "DH_anon",
    "AECDH": "ECDH_anon",
    "ECDHE": "ECDHE_RSA",
    "SRP": "SRP_SHA",
    "SRP-RSA": "SRP_SHA_RSA",
    "SRP-DSS": "SRP_SHA_DSS",
}


def standardName(name: str) -> str:
    """
    IANA's name of a cipher suite that OpenSSL calls C{name}; pyOpenSSL has no way to ask for it.

    Those of TLS 1.3 are the same.  For the others OpenSSL leaves out what it takes for granted: RSA where no key
    exchange is named, CBC where no mode is, and the underlines.
    """
    if name.startswith(("TLS_", "(")):
        return name
    found = re.fullmatch(r"((?:(?:A?(?:EC)?DHE?|RSA|DSS|ECDSA|PSK|SRP)-)*)(.+)", name)
    assert found is not None
    exchange, cipher = found[1].rstrip("-"), found[2].replace("-", "_")
    cipher = re.sub(r"^(AES|ARIA|CAMELLIA)(\d)", r"\1_\2", cipher)
    cipher = re.sub(r"^((?:AES|CAMELLIA)_\d+|SEED)_SHA", r"\1_CBC_SHA", cipher)
    cipher = re.sub(r"CCM8$", "CCM_8", cipher).replace("POLY1305", "POLY1305_SHA256")
    key = _KEY_EXCHANGES.get(exchange, exchange.replace("-", "_"))
    if key == "DHE_PSK" and cipher.endswith("CCM_8"):
        key = "PSK_DHE"  # so it stands in RFC 6655 and the registry
    return f"TLS_{key}_WITH_{cipher}"


HOST_NAME = re.compile(r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


def serverName(connection: SSL.Connection) -> str | None:
    """The host name that the client asked for (SNI), in lower case; None if it sent none, or what is none."""
    name = (connection.get_servername() or b"").decode("ascii", "replace").lower()
    return name if HOST_NAME.fullmatch(name) and not name.startswith("*") else None


_verifyErrors: WeakKeyDictionary[SSL.Connection, int] = WeakKeyDictionary()
"""The first error that OpenSSL found in a client's certificate; C{X509VerificationCodes.OK} if it found none."""


def requireValid(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
    """
    A callback for C{set_verify}: an invalid certificate ends the handshake.

    OpenSSL calls it for each error, and for each certificate of a chain, the client's own (depth 0) last.
    """
    if not ok and not _verifyErrors.get(connection):
        _verifyErrors[connection] = error
    elif ok and depth == 0:
        _verifyErrors.setdefault(connection, SSL.X509VerificationCodes.OK)
    return bool(ok)


def allowInvalid(*verified: Any) -> bool:
    """A callback for C{set_verify}: the handshake goes on with an invalid certificate, which is only noted."""
    requireValid(*verified)
    return True


def verifyErrorOf(connection: SSL.Connection) -> int | None:
    """
    OpenSSL's code for what is wrong with the client's certificate, C{X509VerificationCodes.OK} if nothing is.

    None without a certificate, and where the connection has other callbacks than those above.
    """
    return _verifyErrors.get(connection)


def verifiedCertificate(connection: SSL.Connection) -> x509.Certificate | None:
    """
    The client's certificate, if it gave one that option C{ca} (without it, the system's trust roots) vouches for.

    With C{rejectUnauthorized=False} it may have given another; the transport's C{getPeerCertificate} tells.

    Always None where an endpoint such as C{ssl:} began TLS: its context has callbacks of its own, or none.  OpenSSL's
    result of the verification is no substitute: pyOpenSSL offers no access to it, and sets it to success when a
    callback accepts an invalid certificate.
    """
    if verifyErrorOf(connection) != SSL.X509VerificationCodes.OK:
        return None
    try:
        return connection.get_peer_certificate(as_cryptography=True)
    except (ValueError, x509.InvalidVersion):
        return None  # OpenSSL reads some that cryptography does not


def identityOf(certificate: x509.Certificate) -> str | None:
    """
    Whom a certificate stands for: its mail address (subjectAltName), or if it has none the subject's common name.

    Several of them, or one that is no clean line of text, stand for nobody.
    """
    try:
        names = _namesIn(certificate)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return None
    name = names[0] if len(names) == 1 else None
    return name if isinstance(name, str) and name.isprintable() and name == name.strip() != "" else None


def _namesIn(certificate: x509.Certificate) -> list[str] | list[str | bytes]:
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        addresses = []
    else:
        addresses = alternatives.get_values_for_type(x509.RFC822Name)
    return addresses or [name.value for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


def exporter(connection: SSL.Connection) -> bytes | None:
    """
    The C{tls-exporter} channel binding (RFC 9266 section 2), None where there is none.

    Below TLS 1.3 it is only safe with the extended master secret (section 4.2), and pyOpenSSL does not tell whether
    that was used.
    """
    if connection.get_protocol_version() < SSL.TLS1_3_VERSION or connection.get_finished() is None:
        return None
    return connection.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")


def record(connection: SSL.Connection, session: Session) -> None:
    """Let the session say what a finished handshake has brought."""
    session.secure = True
    session.tlsOptions = describe(connection)
    session.servername = serverName(connection)
    session.channelBinding = exporter(connection)
    session.peerCertificate = verifiedCertificate(connection)
    session.peerIdentity = None if session.peerCertificate is None else identityOf(session.peerCertificate)
