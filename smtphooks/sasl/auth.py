"""
The values that mechanisms and C{onAuth} exchange, and what every mechanism must have (RFC 4422, RFC 4954).

A mechanism turns the client's responses into an L{Auth}; C{onAuth} answers it with an L{AuthResponse}.
This module knows no mechanism and no command.  No secret is ever part of a text that it makes.
"""

from __future__ import annotations

import hmac
import re
from base64 import b64decode
from collections.abc import Generator
from typing import Any, Protocol, TypeAlias

import attrs

from smtphooks.replies import SMTPError
from smtphooks.session import Session

# RFC 4616 section 2 and RFC 4013 section 2.3 prohibit control characters in names and passwords alike: a hook may put
# either into a log, a query or a path.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def malformed(message: str = "Malformed authentication data") -> SMTPError:
    """The error for a response that does not fit its mechanism."""
    return SMTPError(message, 501, "5.5.2")


def decodeBase64(text: str | bytes, complaint: str = "Malformed authentication data") -> bytes:
    """
    Decode strict base64: the alphabet and the padding of RFC 4648 section 4, and no other character.

    @raise SMTPError: 501 5.5.2 with the complaint, if the text is anything else.
    """
    try:
        octets = b64decode(text, validate=True)
    except ValueError:
        raise malformed(complaint) from None
    # Python ignores surplus padding, how much of it depends on the version.
    if len(text) != (len(octets) + 2) // 3 * 4:
        raise malformed(complaint)
    return octets


@attrs.frozen(kw_only=True)
class Auth:
    """
    One attempt to authenticate, on which C{onAuth} decides.

    @ivar method: the name of the mechanism, C{"XCLIENT"} for a name that a trusted proxy gave.
    @ivar username: the authentication identity, which the client claims to be.
    @ivar authorizationId: the identity that the client wants to act as, if it named one (PLAIN, EXTERNAL, OAUTHBEARER).
    @ivar password: PLAIN and LOGIN.
    @ivar accessToken: XOAUTH2 and OAUTHBEARER.
    @ivar challenge: CRAM-MD5, as it was sent; C{challengeResponse} the digest that the client answered.
    @ivar certificate: EXTERNAL, the verified certificate of the client (C{cryptography.x509.Certificate}).
    @raise SMTPError: if a name or a secret of the client holds a control character, whatever the mechanism.
    """

    method: str
    username: str
    authorizationId: str = ""
    password: str | None = attrs.field(default=None, repr=False)
    accessToken: str | None = attrs.field(default=None, repr=False)
    challenge: str | None = attrs.field(default=None, repr=False)
    challengeResponse: str | None = attrs.field(default=None, repr=False)
    certificate: Any = attrs.field(default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        given = (self.username, self.authorizationId, self.password, self.accessToken, self.challengeResponse)
        if any(text and _CONTROL.search(text) for text in given):
            raise malformed()

    def validatePassword(self, password: str | bytes) -> bool:
        """
        Is this the user's password?  Compared in constant time.

        With CRAM-MD5 this is the only way to know (RFC 2195 section 2).
        """
        if isinstance(password, str):
            password = password.encode()
        if self.challengeResponse is not None:
            digest = hmac.new(password, (self.challenge or "").encode(), "md5").hexdigest()
            return hmac.compare_digest(digest.encode(), self.challengeResponse.lower().encode())
        return self.password is not None and hmac.compare_digest(password, self.password.encode())


def _fitsDecision(response: AuthResponse, attribute: attrs.Attribute[Any], code: Any) -> None:
    isRefusal = type(code) is int and 400 <= code <= 599
    isSuccess = type(code) is int and code == 235 and response.accepts
    if code is not None and not (isRefusal or isSuccess):
        raise ValueError(f"responseCode is {code!r}: a refusal has a number from 400 to 599, a user 235 or none")


@attrs.frozen
class AuthResponse:
    """
    What C{onAuth} decides.

    @ivar user: becomes C{session.user}, whatever it is; None and False refuse.
    @ivar message: text of the reply.
    @ivar responseCode: of a refusal, 535 if None; beside a user it changes nothing, and may be 235.
    @ivar data: with a refusal of XOAUTH2 or OAUTHBEARER, the error that the client gets as JSON before the reply; with
        an acceptance of SCRAM, the stored credentials of the user.
    @raise ValueError: if the code does not fit the decision.
    """

    user: Any = None
    message: str | None = None
    responseCode: int | None = attrs.field(default=None, validator=_fitsDecision)
    data: Any = attrs.field(default=None, repr=False)

    @property
    def accepts(self) -> bool:
        """The client is authenticated."""
        return self.user is not None and self.user is not False


Exchange: TypeAlias = Generator["bytes | Auth", Any, AuthResponse]


class Mechanism(Protocol):
    """
    What a mechanism must have; a user's own, in option C{authMethods}, has it as well.

    It may also have a true C{hidesRefusals}: then a refusal by the hook counts at the end of the exchange only, as the
    mechanism hides from the client which users exist.

    @ivar name: as EHLO shows it and AUTH names it.
    """

    name: str

    def isAvailable(self, session: Session) -> bool:
        """Could this client use it?  Whether it needs TLS first is decided elsewhere."""

    def exchange(self, initial: bytes | None, session: Session) -> Exchange:
        """
        Authenticate.

        The generator yields octets to challenge the client, and is sent the octets of its response.  It yields an
        L{Auth} to ask C{onAuth}, and is sent the L{AuthResponse} or thrown the L{SMTPError} that the hook raised.  It
        returns the L{AuthResponse} that counts.

        @param initial: the client's initial response, None if it gave none.
        @raise SMTPError: if a response is malformed.
        """
