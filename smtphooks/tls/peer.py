"""
Peers: the names, certificate, identity, channel binding and cipher of a client after its TLS handshake.

In: a connection of pyOpenSSL.  Out: values, which L{record} writes into a session.  Texts that the client chose (the
server name, names in its certificate) are values only if they are clean lines.
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
    """Cipher and version that a finished handshake has agreed upon."""
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
    IANA's name of the cipher suite that OpenSSL calls C{name}; pyOpenSSL offers no access to it.

    In TLS 1.3 both are the same.  OpenSSL's older names leave out RSA as the key exchange, CBC as the mode, and the
    underscores.
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
        key = "PSK_DHE"  # the order of words in RFC 6655 and the registry
    return f"TLS_{key}_WITH_{cipher}"


HOST_NAME = re.compile(r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


def serverName(connection: SSL.Connection) -> str | None:
    """The host name that the client asked for (SNI), in lower case; None without one, or if it is malformed."""
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
    The client's certificate, if it is valid by option C{ca}, or without it by the system's trust roots.

    With C{rejectUnauthorized=False} the client may have an invalid one: C{getPeerCertificate} of the transport has it.

    Always None where an endpoint such as C{ssl:} began TLS: its context has callbacks of its own, or none.  OpenSSL's
    result of the verification is no substitute: pyOpenSSL offers no access to it, and sets it to success when a
    callback accepts an invalid certificate.
    """
    if verifyErrorOf(connection) != SSL.X509VerificationCodes.OK:
        return None
    try:
        return connection.get_peer_certificate(as_cryptography=True)
    except (ValueError, x509.InvalidVersion):
        return None  # cryptography is stricter than OpenSSL


def identityOf(certificate: x509.Certificate) -> str | None:
    """
    The identity in a certificate: its mail address (subjectAltName), or without one the subject's common name.

    None if there are several, or if it is not a clean line of text.
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
    The C{tls-exporter} channel binding (RFC 9266 section 2); None below TLS 1.3 and before the handshake is done.

    TLS 1.2 would need the extended master secret (section 4.2), and pyOpenSSL does not tell whether it is in use.
    """
    if connection.get_protocol_version() < SSL.TLS1_3_VERSION or connection.get_finished() is None:
        return None
    return connection.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")


def record(connection: SSL.Connection, session: Session) -> None:
    """Write into the session what a finished handshake has shown."""
    session.secure = True
    session.tlsOptions = describe(connection)
    session.servername = serverName(connection)
    session.channelBinding = exporter(connection)
    session.peerCertificate = verifiedCertificate(connection)
    session.peerIdentity = None if session.peerCertificate is None else identityOf(session.peerCertificate)
