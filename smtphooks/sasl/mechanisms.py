"""
SASL: what AUTH and its mechanisms have in common (RFC 4422, RFC 4954), and one small class per mechanism.

A mechanism is an object with a C{name}, C{isAvailable(session)} and C{exchange(initial, session)}.  The exchange is a
generator: it yields octets to challenge the client and gets the octets of its response, it yields an L{Auth} to have
the hook judge it and gets the L{AuthResponse} or is thrown the L{SMTPError} that the hook raised, and it returns the
last of these.  A user's own mechanism is such an
object too, given in option C{authMethods}.
This module knows neither base64 nor command lines nor who judges.  No secret is ever part of a text that it makes.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import re
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Protocol, TypeAlias

import attrs

from smtphooks.replies import SMTPError
from smtphooks.sasl.scram import ScramCredentials, ScramServer, UnknownUsers, unescapeName
from smtphooks.session import Session

# RFC 4616 section 2 and RFC 4013 section 2.3 prohibit them in names and passwords alike: a hook may put what it gets
# into a log, a query or a path.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@attrs.frozen(kw_only=True)
class Auth:
    """
    One attempt to authenticate, for C{onAuth} to judge.

    @ivar method: the name of the mechanism, C{"XCLIENT"} for a name that a trusted proxy gave.
    @ivar username: who the client says it is (the authentication identity).
    @ivar authorizationId: as whom it wants to act, if it said so (PLAIN, EXTERNAL, OAUTHBEARER).
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
            raise _malformed()

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
    @ivar data: of a refusal of XOAUTH2 or OAUTHBEARER: sent to the client as JSON before the reply; of an acceptance of
        SCRAM: the stored credentials of the user.
    @raise ValueError: if the code does not fit the decision.
    """

    user: Any = None
    message: str | None = None
    responseCode: int | None = attrs.field(default=None, validator=_fitsDecision)
    data: Any = attrs.field(default=None, repr=False)

    @property
    def accepts(self) -> bool:
        """The client is who it says it is."""
        return self.user is not None and self.user is not False


Exchange: TypeAlias = Generator["bytes | Auth", Any, AuthResponse]


class Mechanism(Protocol):
    """What every mechanism has; see the module's docstring."""

    name: str

    def isAvailable(self, session: Session) -> bool:
        """Could this client use it?  Encryption is looked after elsewhere."""

    def exchange(self, initial: bytes | None, session: Session) -> Exchange:
        """
        Authenticate.

        @param initial: the client's initial response, None if it gave none.
        @raise SMTPError: if a response is malformed.
        """


def _malformed() -> SMTPError:
    return SMTPError("Malformed authentication data", 501, "5.5.2")


def _text(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise _malformed() from None


class _Plain:
    """RFC 4616."""

    name = "PLAIN"

    def isAvailable(self, session: Session) -> bool:
        return True

    def exchange(self, initial: bytes | None, session: Session) -> Exchange:
        message = initial if initial is not None else (yield b"")
        parts = _text(message).split("\0")
        if len(parts) != 3:
            raise _malformed()
        authorizationId, username, password = parts
        username = username or authorizationId  # some clients give the one name in the place of the other
        if not username or not password:
            raise _malformed()
        response: AuthResponse = yield Auth(
            method=self.name, username=username, password=password, authorizationId=authorizationId
        )
        return response


class _Login:
    """Never standardized, but what many clients speak; the prompts are those that all of them know."""

    name = "LOGIN"

    def isAvailable(self, session: Session) -> bool:
        return True

    def exchange(self, initial: bytes | None, session: Session) -> Exchange:
        username = _text(initial if initial is not None else (yield b"Username:"))
        password = _text((yield b"Password:"))
        if not username or not password:
            raise _malformed()
        response: AuthResponse = yield Auth(method=self.name, username=username, password=password)
        return response


class _CramMD5:
    """RFC 2195."""

    name = "CRAM-MD5"

    def isAvailable(self, session: Session) -> bool:
        return True

    def exchange(self, initial: bytes | None, session: Session) -> Exchange:
        if initial is not None:
            raise _malformed()  # the server speaks first
        challenge = f"<{os.urandom(16).hex()}.{int(time.time())}@{session.serverName}>"
        username, space, digest = _text((yield challenge.encode())).rpartition(" ")
        if not space or not username or len(digest) != 32:
            raise _malformed()
        response: AuthResponse = yield Auth(
            method=self.name, username=username, challenge=challenge, challengeResponse=digest
        )
        return response


def _refuseWithData(response: AuthResponse) -> Exchange:
    """RFC 7628 section 3.2.3: the reason travels as a challenge, to which the client answers anything, or cancels."""
    if not response.accepts and response.data is not None:
        with contextlib.suppress(SMTPError):
            yield _asJSON(response.data)
    return response


def _asJSON(data: object) -> bytes:
    if isinstance(data, bytes):
        return data
    return data.encode() if isinstance(data, str) else json.dumps(data, separators=(",", ":")).encode()


def _bearer(pairs: Iterable[str]) -> str:
    """The access token among key=value pairs."""
    for pair in pairs:
        key, _, value = pair.partition("=")
        scheme, _, token = value.partition(" ")
        token = token.strip(" ")  # and nothing else, or control characters would be taken off here before they are seen
        if key.lower() == "auth" and scheme.lower() == "bearer" and token:
            return token
    raise _malformed()


class _XOAuth2:
    """The mechanism of Google and Microsoft that came before RFC 7628."""

    name = "XOAUTH2"

    def isAvailable(self, session: Session) -> bool:
        return True

    def exchange(self, initial: bytes | None, session: Session) -> Exchange:
        pairs = _text(initial if initial is not None else (yield b"")).split("\1")
        usernames = [pair[5:] for pair in pairs if pair.lower().startswith("user=")]
        if len(usernames) != 1 or not usernames[0]:
            raise _malformed()
        response: AuthResponse = yield Auth(method=self.name, username=usernames[0], accessToken=_bearer(pairs))
        return (yield from _refuseWithData(response))


class _OAuthBearer:
    """RFC 7628."""

    name = "OAUTHBEARER"

    def isAvailable(self, session: Session) -> bool:
        return True

    def exchange(self, initial: bytes | None, session: Session) -> Exchange:
        header, *pairs = _text(initial if initial is not None else (yield b"")).split("\1")
        parts = header.split(",")
        # RFC 5801 section 4: gs2-header; a channel binding ("p=") is nothing that this mechanism has.
        if len(parts) != 3 or parts[0] not in ("n", "y") or parts[2]:
            raise _malformed()
        if parts[1] and not parts[1].startswith("a="):
            raise _malformed()
        username = unescapeName(parts[1][2:])
        response: AuthResponse = yield Auth(
            method=self.name, username=username, authorizationId=username, accessToken=_bearer(pairs)
        )
        return (yield from _refuseWithData(response))


class _External:
    """RFC 4422 appendix A; the identity is that of the client's verified certificate."""

    name = "EXTERNAL"

    def isAvailable(self, session: Session) -> bool:
        return session.peerIdentity is not None

    def exchange(self, initial: bytes | None, session: Session) -> Exchange:
        authorizationId = _text(initial if initial is not None else (yield b""))
        response: AuthResponse = yield Auth(
            method=self.name,
            username=session.peerIdentity or "",
            authorizationId=authorizationId,
            certificate=session.peerCertificate,
        )
        return response


class _Scram:
    """RFC 5802 and 7677, with the channel binding of RFC 9266 if C{plus}."""

    hidesRefusals = True  # RFC 5802 section 9: it goes on as if there was such a user

    def __init__(self, plus: bool, plusOffered: bool, unknownUsers: Callable[[], UnknownUsers]) -> None:
        self.name = "SCRAM-SHA-256-PLUS" if plus else "SCRAM-SHA-256"
        self._plus = plus
        self._plusOffered = plusOffered
        self._unknownUsers = unknownUsers

    def isAvailable(self, session: Session) -> bool:
        return not self._plus or session.channelBinding is not None

    def exchange(self, initial: bytes | None, session: Session) -> Exchange:
        first = initial if initial is not None else (yield b"")
        binding = session.channelBinding if self._plusOffered else None
        server = ScramServer(_text(first), binding, required=self._plus)
        attempt = Auth(method=self.name, username=server.username, authorizationId=server.authorizationId)
        try:
            response: AuthResponse = yield attempt
        except SMTPError as refusal:
            if not _isWrongPassword(refusal.responseCode, refusal.enhancedCode):
                raise
            response = AuthResponse()
        # RFC 5802 section 9: from here on an unknown user costs the same steps, and says the same, as a wrong password.
        unknownUsers = self._unknownUsers()
        pretended = unknownUsers.credentialsOf(server.username)
        user, credentials = _storedCredentials(response, server.username) if response.accepts else (None, pretended)
        challenge = server.challenge(credentials).encode()
        if response.accepts:
            unknownUsers.imitate(credentials)
        proof = server.verify(_text((yield challenge)))
        if not response.accepts and not _isWrongPassword(response.responseCode):
            return response
        if not response.accepts or proof is None:
            return AuthResponse()  # the message of the response would tell the two apart
        yield proof.encode()  # RFC 4954 has no room for it in the 235 reply
        return attrs.evolve(response, user=user, data=None)


def _isWrongPassword(code: int | None, enhancedCode: str | None = None) -> bool:
    """Is it a refusal without any other reason, to be worded like that of a wrong password?"""
    return code in (None, 535) and enhancedCode in (None, "5.7.8")


def _storedCredentials(response: AuthResponse, username: str) -> tuple[Any, ScramCredentials]:
    """The user that was accepted, and its credentials."""
    stored = response.data if response.data is not None else response.user
    if not (isinstance(stored, tuple) and len(stored) == 4):
        raise TypeError(
            "onAuth answers SCRAM with (salt, storedKey, serverKey, iterations), or an AuthResponse with these as data"
        )
    return (username if stored is response.user else response.user), ScramCredentials(*stored)


def _makeMechanisms(
    wanted: Iterable[str | Mechanism], unknownUsers: Callable[[], UnknownUsers]
) -> Mapping[str, Mechanism]:
    wanted = list(wanted)
    binds = "SCRAM-SHA-256-PLUS" in wanted
    known: dict[str, Mechanism] = {
        mechanism.name: mechanism
        for mechanism in (
            _Plain(),
            _Login(),
            _CramMD5(),
            _XOAuth2(),
            _OAuthBearer(),
            _External(),
            _Scram(plus=False, plusOffered=binds, unknownUsers=unknownUsers),
            _Scram(plus=True, plusOffered=binds, unknownUsers=unknownUsers),
        )
    }
    found = [known[method] if isinstance(method, str) else method for method in wanted]
    return {mechanism.name.upper(): mechanism for mechanism in found}


class Mechanisms:
    """
    The mechanisms of one server, in the order in which EHLO shows them.

    @ivar unknownUsers: what SCRAM shows for these; servers that know the same users may share one.
    """

    def __init__(
        self,
        wanted: Iterable[str | Mechanism],
        isJudged: Callable[[], bool],
        unknownUsers: UnknownUsers | None = None,
    ) -> None:
        """
        @param wanted: names of built-in mechanisms, and other mechanisms.
        @param isJudged: is there anybody who could judge an attempt?
        """
        self.unknownUsers = UnknownUsers() if unknownUsers is None else unknownUsers
        self._byName = _makeMechanisms(wanted, lambda: self.unknownUsers)
        self.isJudged = isJudged

    def find(self, name: str, session: Session) -> Mechanism | None:
        """The mechanism, if this client could use it."""
        # As with verbs: the upper case of some letters beyond ASCII is ASCII.
        mechanism = self._byName.get(name.upper()) if name.isascii() else None
        return mechanism if mechanism is not None and mechanism.isAvailable(session) else None

    def namesFor(self, session: Session) -> list[str]:
        """What this client could use."""
        return [name for name, mechanism in self._byName.items() if mechanism.isAvailable(session)]

    def __bool__(self) -> bool:
        return bool(self._byName)


NO_MECHANISMS = Mechanisms((), lambda: False)

MECHANISM_NAMES = (
    "PLAIN",
    "LOGIN",
    "CRAM-MD5",
    "XOAUTH2",
    "OAUTHBEARER",
    "SCRAM-SHA-256",
    "SCRAM-SHA-256-PLUS",
    "EXTERNAL",
)

# RFC 4422 section 3.1.
_MECHANISM_NAME = re.compile(r"[A-Za-z0-9_-]{1,20}")


def isMechanism(value: Any) -> bool:
    """Is this the name of a built-in mechanism, or an object that is one?"""
    if isinstance(value, str):
        return value in MECHANISM_NAMES
    name = getattr(value, "name", None)
    return (
        isinstance(name, str)
        and _MECHANISM_NAME.fullmatch(name) is not None
        and all(callable(getattr(value, method, None)) for method in ("isAvailable", "exchange"))
    )
