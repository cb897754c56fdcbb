"""
SCRAM-SHA-256, the server's side of its three messages (RFC 5802, RFC 7677).

In: the client's messages and the stored credentials.  Out: the server's messages, None if the proof is wrong.
The C{scramp} package makes credentials (C{ScramMechanism("SCRAM-SHA-256").make_auth_info(password)}); the exchange
itself is done here because scramp refuses the C{tls-exporter} binding of RFC 9266, which is the only one that TLS 1.3
has.  This module knows neither SMTP nor where credentials are stored.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from base64 import b64encode
from typing import NamedTuple

from smtphooks.replies import SMTPError
from smtphooks.sasl.auth import decodeBase64, malformed

_BINDING = "tls-exporter"
_FIRST = re.compile(
    r"(n|y|p=([A-Za-z0-9.-]+)),(?:a=([^,\0]*))?,(n=([^,\0]+),r=([!-+\--~]+)(?:,[A-Za-z]=[^,]*)*)", re.DOTALL
)
_FINAL = re.compile(r"(c=([A-Za-z0-9+/=]+),r=([!-+\--~]+)(?:,[A-Za-z]=[^,]*)*),p=([A-Za-z0-9+/=]+)", re.DOTALL)
_ESCAPE = re.compile(r"=(2C|3D)?")


class ScramCredentials(NamedTuple):
    """
    What a server stores of a password (RFC 5802 section 5.1), in the order of scramp's C{make_auth_info}.

    @ivar iterations: how often the password was hashed, 4096 at least (RFC 7677 section 4).
    """

    salt: bytes
    storedKey: bytes
    serverKey: bytes
    iterations: int


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


# For servers without option scramSecret; all servers of a process show the same.
_PROCESS_SECRET = os.urandom(32)


class UnknownUsers:
    """
    Credentials of users that do not exist, so that a client cannot tell them from others (RFC 5802 section 9).

    They fit no password.  A name has the same salt each time.  The length of the salt and the number of iterations are
    those given here, or else those of the last known user.
    """

    def __init__(
        self, secret: bytes | None = None, iterations: int | None = None, saltLength: int | None = None
    ) -> None:
        """
        @param secret: what they are derived from; without it, they change with each start of the process.
        @param iterations: None to learn the number from known users.
        @param saltLength: in octets; None to learn it as well.
        """
        self._secret = _PROCESS_SECRET if secret is None else secret
        self._learnsIterations, self._learnsSaltLength = iterations is None, saltLength is None
        # Else those of scramp's make_auth_info, until a known user has come.
        self._iterations = 4096 if iterations is None else iterations
        self._saltLength = 32 if saltLength is None else saltLength

    def imitate(self, credentials: ScramCredentials) -> None:
        """Show from now on the salt length and iterations of this known user, unless they were given."""
        if self._learnsIterations:
            self._iterations = credentials.iterations
        if self._learnsSaltLength:
            self._saltLength = len(credentials.salt)

    def credentialsOf(self, username: str) -> ScramCredentials:
        """The credentials that an unknown user of this name has."""
        salt = self._derive("salt", username, self._saltLength)
        storedKey, serverKey = (self._derive(key, username, 32) for key in ("StoredKey", "ServerKey"))
        return ScramCredentials(salt, storedKey, serverKey, self._iterations)

    def _derive(self, purpose: str, username: str, length: int) -> bytes:
        # SHAKE because a salt may have any length.
        return hashlib.shake_256(_hmac(self._secret, f"{purpose},{username}".encode())).digest(length)


class ScramServer:
    """
    One exchange.

    @ivar username: the authentication identity; C{authorizationId} the identity to act as, or C{""}.
    """

    def __init__(self, first: str, binding: bytes | None, required: bool) -> None:
        """
        @param first: the client's first message.
        @param binding: the channel binding of the connection if the client was offered to use it.
        @param required: the client has chosen the mechanism that uses it.
        @raise SMTPError: if the message is malformed, or its binding is not what was offered.
        """
        match = _FIRST.fullmatch(first)
        if match is None:
            raise malformed()
        flag, bindingName, authorizationId, self._bareFirst, username, self._clientNonce = match.groups()
        self.username: str = unescapeName(username)
        self.authorizationId: str = unescapeName(authorizationId or "")
        if required != (bindingName is not None) or (required and bindingName != _BINDING):
            raise SMTPError(f"Channel binding {_BINDING} belongs to SCRAM-SHA-256-PLUS alone", 501, "5.5.4")
        if flag == "y" and binding is not None:
            # RFC 5802 section 6: a man in the middle has removed it from what the server advertised.
            raise SMTPError("Channel binding was offered, but the client did not see it", 535, "5.7.8")
        header = first[: len(first) - len(self._bareFirst)]
        self._channel = header.encode() + (binding or b"" if required else b"")

    def challenge(self, credentials: ScramCredentials) -> str:
        """The server's first message."""
        self._credentials = credentials
        self._nonce = self._clientNonce + b64encode(os.urandom(18)).decode()
        self._first = f"r={self._nonce},s={b64encode(credentials.salt).decode()},i={credentials.iterations}"
        return self._first

    def verify(self, final: str) -> str | None:
        """
        The server's final message, None if the client does not know the password or is bound to another channel.

        @raise SMTPError: if the message is malformed.
        """
        match = _FINAL.fullmatch(final)
        if match is None:
            raise malformed()
        withoutProof, channel, nonce, proof = match.groups()
        message = f"{self._bareFirst},{self._first},{withoutProof}".encode()
        isBound = hmac.compare_digest(decodeBase64(channel), self._channel)
        isFresh = hmac.compare_digest(nonce.encode(), self._nonce.encode())
        signature = _hmac(self._credentials.storedKey, message)
        given = decodeBase64(proof)
        clientKey = bytes(one ^ other for one, other in zip(given, signature, strict=False))
        knows = len(given) == len(signature) and hmac.compare_digest(
            hashlib.sha256(clientKey).digest(), self._credentials.storedKey
        )
        if not (isBound and isFresh and knows):
            return None
        return f"v={b64encode(_hmac(self._credentials.serverKey, message)).decode()}"


def unescapeName(name: str) -> str:
    """RFC 5802 section 5.1: a comma and an equals sign in a name are written =2C and =3D, any other =XX is an error."""
    if any(code is None for code in (match[1] for match in _ESCAPE.finditer(name))):
        raise malformed()
    return name.replace("=2C", ",").replace("=3D", "=")
