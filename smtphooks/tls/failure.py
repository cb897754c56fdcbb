"""
Failures: why a TLS handshake failed, in one line of the log for the operator.

In: the error that ended the connection, and the connection of pyOpenSSL.  Out: a sentence about the client, with
OpenSSL's own words behind it.
This module knows no options and no contexts.
"""

from __future__ import annotations

from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted, ConnectionClosed
from twisted.python.failure import Failure

from smtphooks.tls.peer import verifyErrorOf

_EXPLANATIONS = {
    "http request": "the client spoke HTTP, not TLS",
    "https proxy request": "the client spoke HTTP, not TLS",
    "wrong version number": "the client did not speak TLS (plain SMTP on a TLS port?)",
    "unknown protocol": "the client did not speak TLS (plain SMTP on a TLS port?)",
    "packet length too long": "the client did not speak TLS (plain SMTP on a TLS port?)",
    "no shared cipher": "no cipher in common with the client",
    "unsupported protocol": "no version of TLS in common with the client",
    "version too low": "no version of TLS in common with the client",
    "peer did not return a certificate": "the client gave no certificate",
    "certificate verify failed": "the client's certificate is not accepted",
    "unknown ca": "the client does not trust our certificate",
    "bad certificate": "the client does not accept our certificate",
    "certificate unknown": "the client does not accept our certificate",
    "certificate expired": "the client finds our certificate expired",
    "protocol version": "the client wants another version of TLS",
    "handshake failure": "the client found nothing in common with us",
}

_VERIFY_ERRORS = {
    getattr(SSL.X509VerificationCodes, code): code[4:].replace("_", " ").replace("CERT ", "certificate ").lower()
    for code in dir(SSL.X509VerificationCodes)
    if code.startswith("ERR_")
}


def reasonsOf(error: BaseException | None) -> list[str]:
    """OpenSSL's reasons in an error, the first cause first; empty if the connection merely ended."""
    queue = error.args[0] if isinstance(error, SSL.Error) and error.args else None
    return [str(entry[-1]) for entry in queue] if isinstance(queue, list) else []


def explainHandshakeFailure(reason: Failure | BaseException, connection: SSL.Connection | None = None) -> str:
    """
    Say in one line why a handshake failed.

    @param reason: the argument of C{connectionLost}.
    @param connection: knows what is wrong with the client's certificate.
    """
    error = reason.value if isinstance(reason, Failure) else reason
    if not isinstance(error, (SSL.Error, ConnectionClosed)):
        return f"TLS failed ({type(error).__name__})"
    if isinstance(error, ConnectionAborted):
        return "the client did not finish it in time"  # the server aborts a handshake for no other reason
    reasons = reasonsOf(error)
    if not reasons or reasons[-1].startswith("unexpected eof"):
        return "the client left within the handshake"
    for text in reasons:
        explanation = _EXPLANATIONS.get(text.rpartition(" alert ")[2])
        if explanation is not None:
            verifyError = None if connection is None else verifyErrorOf(connection)
            return f"{explanation} ({_VERIFY_ERRORS[verifyError] if verifyError else text})"
    return f"TLS failed ({': '.join(reasons)})"
