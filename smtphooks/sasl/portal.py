"""
An C{onAuth} hook that asks a Portal of C{twisted.cred}.

In: an L{Auth}.  Out: the avatar that the portal's realm gives, which becomes C{session.user}.
This module knows no dialogue, and of mechanisms only the credentials that they yield.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any

import attrs
from twisted.cred.credentials import ICredentials, IUsernameHashedPassword, IUsernamePassword, UsernamePassword
from twisted.cred.error import LoginFailed, UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from smtphooks.sasl.auth import Auth, AuthResponse
from smtphooks.session import Session


class ISMTPUser(Interface):
    """The interface that a realm is asked for; the avatar becomes C{session.user}."""


class _Password(UsernamePassword):
    """A password that is compared in constant time."""

    def checkPassword(self, password: bytes) -> bool:
        """Is this the password?"""
        return hmac.compare_digest(self.password, password)


@implementer(IUsernameHashedPassword)
@attrs.frozen
class _ChallengedPassword:
    """A CRAM-MD5 response, against which a checker can try passwords."""

    username: bytes
    _auth: Auth = attrs.field(repr=False)

    def checkPassword(self, password: bytes) -> bool:
        """Is this the password?"""
        return self._auth.validatePassword(password)


@implementer(IRealm)
class UserNameRealm:
    """A realm whose avatars are names: C{session.user} becomes the user name as text."""

    def requestAvatar(self, avatarId: bytes | tuple[()], mind: object, *interfaces: Any) -> tuple[Any, Any, Any]:
        """C{IRealm}"""
        # Some checkers return text; an anonymous avatar (an empty tuple) is no user.
        name = avatarId.decode() if isinstance(avatarId, bytes) else (avatarId or None)
        return interfaces[0], name, lambda: None


# The credentials that the portal must have a checker for, by mechanism.
_CREDENTIALS = {"PLAIN": IUsernamePassword, "LOGIN": IUsernamePassword, "CRAM-MD5": IUsernameHashedPassword}


def canCheck(portal: Portal, method: str) -> bool:
    """Has the portal a checker for the credentials of this mechanism?"""
    wanted = _CREDENTIALS.get(method)
    return wanted is not None and wanted in portal.listCredentialsInterfaces()


def onAuthOf(portal: Portal) -> Callable[[Auth, Session], Deferred[AuthResponse]]:
    """The C{onAuth} hook that logs in at a portal."""

    def onAuth(auth: Auth, session: Session) -> Deferred[AuthResponse]:
        if auth.authorizationId not in ("", auth.username):
            return succeed(AuthResponse())  # a portal cannot authorize one user to act as another
        if auth.password is None and auth.challengeResponse is None:
            return succeed(AuthResponse())  # and has no credentials for other mechanisms
        username = auth.username.encode()
        credentials: ICredentials
        if auth.challengeResponse is not None:
            credentials = _ChallengedPassword(username, auth)
        else:
            credentials = _Password(username, (auth.password or "").encode())
        login: Deferred[Any] = maybeDeferred(portal.login, credentials, None, ISMTPUser)
        return login.addCallbacks(loggedIn, refused, callbackArgs=(auth, session))

    def loggedIn(login: tuple[Any, Any, Callable[[], Any]], auth: Auth, session: Session) -> AuthResponse:
        _, avatar, logout = login
        # A failed login logs out at once; so does the previous user on a new login.
        left, session.logout = (session.logout, logout) if avatar else (logout, session.logout)
        if left is not None:
            left()
        return AuthResponse(user=avatar or None)

    def refused(failure: Failure) -> AuthResponse:
        failure.trap(UnauthorizedLogin, LoginFailed)
        return AuthResponse()

    return onAuth
