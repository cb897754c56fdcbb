"""
The mechanisms of SASL that smtphooks has, one small class each, and those of one server.

A mechanism never sees base64: octets of the client come in, an L{Auth} for C{onAuth} and challenges go out, as
L{Mechanism} describes.  To add a mechanism is to add its class.
This module knows neither command lines nor hooks.  No secret is ever part of a text that it makes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from smtphooks.replies import SMTPError
from smtphooks.sasl.auth import Auth, AuthResponse, Exchange, Mechanism, malformed
from smtphooks.sasl.scram import ScramCredentials, ScramServer, UnknownUsers, unescapeName
from smtphooks.session import Session

# By name, in the order in which they stand below.
_BUILT_IN: dict[str, type[_BuiltIn]] = {}


class _BuiltIn(Mechanism):
    """What the built-in mechanisms have in common; each subclass is one of them."""

    def __init_subclass__(cls) -> None:
        _BUILT_IN[cls.name] = cls

    def __init__(self, server: Mechanisms) -> None:
        self._server = server

    def isAvailable(self, session: Session) -> bool:
        return True


def _text(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise malformed() from None


class _Plain(_BuiltIn):
    """RFC 4616."""

    name = "PLAIN"

    def exchange(self, initial: bytes | None, session: Session) -> Exchange:
        message = initial if initial is not None else (yield b"")
        parts = _text(message).split("\0")
        if len(parts) != 3:
            raise malformed()
        authorizationId, username, password = parts
        username = username or authorizationId  # some clients send the name in the place of the authorization identity
        if not username or not password:
            raise malformed()
        response: AuthResponse = yield Auth(
            method=self.name, username=username, password=password, authorizationId=authorizationId
        )
        return response


class _Login(_BuiltIn):
    """Never standardized, but widely spoken; the prompts are those that all clients know."""

    name = "LOGIN"

    def exchange(self, initial: bytes | None, session: Session) -> Exchange:
        username = _text(initial if initial is not None else (yield b"Username:"))
        password = _text((yield b"Password:"))
        if not username or not password:
            raise malformed()
        response: AuthResponse = yield Auth(method=self.name, username=username, password=password)
        return response


class _CramMD5(_BuiltIn):
    """RFC 2195."""

    name = "CRAM-MD5"

    def exchange(self, initial: bytes | None, session: Session) -> Exchange:
        if initial is not None:
            raise malformed()  # the server speaks first
        challenge = f"<{os.urandom(16).hex()}.{int(time.time())}@{session.localName}>"
        username, space, digest = _text((yield challenge.encode())).rpartition(" ")
        if not space or not username or len(digest) != 32:
            raise malformed()
        response: AuthResponse = yield Auth(
            method=self.name, username=username, challenge=challenge, challengeResponse=digest
        )
        return response


def _refuseWithData(response: AuthResponse) -> Exchange:
    """RFC 7628 section 3.2.3: the error is sent as a challenge; the client answers it with anything, or cancels."""
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
        token = token.strip(" ")  # only spaces: control characters must stay to be refused
        if key.lower() == "auth" and scheme.lower() == "bearer" and token:
            return token
    raise malformed()


class _XOAuth2(_BuiltIn):
    """The mechanism of Google and Microsoft that came before RFC 7628."""

    name = "XOAUTH2"

    def exchange(self, initial: bytes | None, session: Session) -> Exchange:
        pairs = _text(initial if initial is not None else (yield b"")).split("\1")
        usernames = [pair[5:] for pair in pairs if pair.lower().startswith("user=")]
        if len(usernames) != 1 or not usernames[0]:
            raise malformed()
        response: AuthResponse = yield Auth(method=self.name, username=usernames[0], accessToken=_bearer(pairs))
        return (yield from _refuseWithData(response))


class _OAuthBearer(_BuiltIn):
    """RFC 7628."""

    name = "OAUTHBEARER"

    def exchange(self, initial: bytes | None, session: Session) -> Exchange:
        header, *pairs = _text(initial if initial is not None else (yield b"")).split("\1")
        parts = header.split(",")
        # RFC 5801 section 4: gs2-header; this mechanism has no channel binding ("p=").
        if len(parts) != 3 or parts[0] not in ("n", "y") or parts[2]:
            raise malformed()
        if parts[1] and not parts[1].startswith("a="):
            raise malformed()
        username = unescapeName(parts[1][2:])
        response: AuthResponse = yield Auth(
            method=self.name, username=username, authorizationId=username, accessToken=_bearer(pairs)
        )
        return (yield from _refuseWithData(response))


class _Scram(_BuiltIn):
    """RFC 5802 and 7677."""

    name = "SCRAM-SHA-256"
    hidesRefusals = True  # RFC 5802 section 9: an unknown user costs the same steps as a wrong password
    _binds = False

    def exchange(self, initial: bytes | None, session: Session) -> Exchange:
        first = initial if initial is not None else (yield b"")
        binding = session.channelBinding if self._server.offersBinding else None
        server = ScramServer(_text(first), binding, required=self._binds)
        attempt = Auth(method=self.name, username=server.username, authorizationId=server.authorizationId)
        try:
            response: AuthResponse = yield attempt
        except SMTPError as refusal:
            if not _isWrongPassword(refusal.responseCode, refusal.enhancedCode):
                raise
            response = AuthResponse()
        # From here on the client must not be able to tell an unknown user from a wrong password.
        unknownUsers = self._server.unknownUsers
        pretended = unknownUsers.credentialsOf(server.username)
        user, credentials = _storedCredentials(response, server.username) if response.accepts else (None, pretended)
        challenge = server.challenge(credentials).encode()
        if response.accepts:
            unknownUsers.imitate(credentials)
        proof = server.verify(_text((yield challenge)))
        if not response.accepts and not _isWrongPassword(response.responseCode):
            return response
        if not response.accepts or proof is None:
            return AuthResponse()  # the message of the hook's response would tell the two apart
        yield proof.encode()  # RFC 4954 has no room for it in the 235 reply
        return attrs.evolve(response, user=user, data=None)


class _ScramPlus(_Scram):
    """The same with the channel binding of RFC 9266."""

    name = "SCRAM-SHA-256-PLUS"
    _binds = True

    def isAvailable(self, session: Session) -> bool:
        return session.channelBinding is not None


def _isWrongPassword(code: int | None, enhancedCode: str | None = None) -> bool:
    """Does the refusal give no reason but the wrong password, so that it may be worded like any other of these?"""
    return code in (None, 535) and enhancedCode in (None, "5.7.8")


def _storedCredentials(response: AuthResponse, username: str) -> tuple[Any, ScramCredentials]:
    """The user that was accepted, and its credentials."""
    stored = response.data if response.data is not None else response.user
    if not (isinstance(stored, tuple) and len(stored) == 4):
        raise TypeError(
            "onAuth answers SCRAM with (salt, storedKey, serverKey, iterations), or an AuthResponse with these as data"
        )
    return (username if stored is response.user else response.user), ScramCredentials(*stored)


class _External(_BuiltIn):
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


MECHANISM_NAMES = tuple(_BUILT_IN)

# RFC 4422 section 3.1.
_MECHANISM_NAME = re.compile(r"[A-Za-z0-9_-]{1,20}")


def isMechanism(value: Any) -> bool:
    """Is this the name of a built-in mechanism, or an object that is a mechanism?"""
    if isinstance(value, str):
        return value in MECHANISM_NAMES
    name = getattr(value, "name", None)
    return (
        isinstance(name, str)
        and _MECHANISM_NAME.fullmatch(name) is not None
        and all(callable(getattr(value, method, None)) for method in ("isAvailable", "exchange"))
    )


class Mechanisms:
    """
    The mechanisms of one server, in the order in which EHLO shows them.

    @ivar hasHook: is there an C{onAuth} hook, without which AUTH is not offered?
    @ivar unknownUsers: what SCRAM shows for unknown users; servers that know the same users may share it.
    @ivar offersBinding: the server offers SCRAM with channel binding.
    """

    def __init__(
        self,
        wanted: Iterable[str | Mechanism],
        hasHook: Callable[[], bool],
        unknownUsers: UnknownUsers | None = None,
    ) -> None:
        """
        @param wanted: names of built-in mechanisms, and other mechanisms.
        """
        wanted = list(wanted)
        self.hasHook = hasHook
        self.unknownUsers: UnknownUsers = UnknownUsers() if unknownUsers is None else unknownUsers
        self.offersBinding: bool = _ScramPlus.name in wanted
        found = [_BUILT_IN[each](self) if isinstance(each, str) else each for each in wanted]
        self._byName = {mechanism.name.upper(): mechanism for mechanism in found}

    def find(self, name: str, session: Session) -> Mechanism | None:
        """The mechanism of that name, if this client could use it."""
        # As with verbs: the upper case of some letters beyond ASCII is ASCII.
        mechanism = self._byName.get(name.upper()) if name.isascii() else None
        return mechanism if mechanism is not None and mechanism.isAvailable(session) else None

    def namesFor(self, session: Session) -> list[str]:
        """The names of the mechanisms that this client could use."""
        return [name for name, mechanism in self._byName.items() if mechanism.isAvailable(session)]

    def __bool__(self) -> bool:
        return bool(self._byName)


NO_MECHANISMS = Mechanisms((), lambda: False)
