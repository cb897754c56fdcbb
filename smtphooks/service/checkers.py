"""
Checkers: descriptions of credentials checkers (C{twisted.cred.strcred}) in, a Portal that asks them out.

The argument of a checker may be a password, so no sentence that is made here shows it.
This module knows nothing of configuration files, of mechanisms, or of the factory.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from typing import Any

import attrs
from twisted.cred.checkers import ICredentialsChecker, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import ICredentials, IUsernameHashedPassword, IUsernamePassword
from twisted.cred.error import LoginFailed, UnauthorizedLogin
from twisted.cred.portal import Portal
from twisted.cred.strcred import findCheckerFactories
from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred
from zope.interface import implementer

from smtphooks.sasl.portal import UserNameRealm
from smtphooks.service.settings import NOT_SHOWN, AuthSettings, ConfigError, cause

# The credentials of clients: a password, or a response that was computed from one.
CREDENTIALS = (IUsernamePassword, IUsernameHashedPassword)


@implementer(ICredentialsChecker)
@attrs.frozen
class _InTurn:
    """Asks checkers one after the other until one accepts; a Portal asks one checker only."""

    _checkers: Sequence[ICredentialsChecker]

    @property
    def credentialInterfaces(self) -> list[Any]:
        """C{ICredentialsChecker}"""
        found = {interface for checker in self._checkers for interface in checker.credentialInterfaces}
        return [interface for interface in CREDENTIALS if interface in found]

    @inlineCallbacks
    def requestAvatarId(self, credentials: ICredentials) -> Generator[Deferred[Any], Any, Any]:
        """C{ICredentialsChecker}"""
        for checker in self._checkers:
            if any(interface.providedBy(credentials) for interface in checker.credentialInterfaces):
                try:
                    return (yield maybeDeferred(checker.requestAvatarId, credentials))
                except (UnauthorizedLogin, LoginFailed):
                    pass  # the next one may accept
        raise UnauthorizedLogin


def makePortal(settings: AuthSettings) -> Portal:
    """
    A portal that asks the checkers in order.

    @raise ConfigError: if a checker cannot be made.
    """
    made = [_makeChecker(settings.where, *numbered) for numbered in enumerate(settings.checkers, 1)]
    return Portal(UserNameRealm(), [_InTurn(made)])


def _makeChecker(where: str, number: int, description: str) -> ICredentialsChecker:
    # As twisted.cred.strcred.makeChecker does, but its errors show the whole description.
    kind, _, argument = description.partition(":")
    makers = {maker.authType: maker for maker in findCheckerFactories()}
    if kind not in makers:
        raise ConfigError(f"{where}: checker {number} is of no known kind, known are {', '.join(sorted(makers))}")
    if kind == "file" and argument and not os.path.isfile(argument):
        raise ConfigError(f"{where}: checker {number} is file:{argument}, which is no file, name another one")
    try:
        checker: ICredentialsChecker = makers[kind].generateChecker(argument)
    except Exception as error:
        reason = cause(error).replace(argument, NOT_SHOWN) if argument else cause(error)
        raise ConfigError(f"{where}: checker {number} cannot be made, correct it: {reason}") from None
    if isinstance(checker, InMemoryUsernamePasswordDatabaseDontUse):
        # Twisted's plugin fills this checker with str, but it compares bytes, so it would reject every user.
        checker.users = {_octets(name): _octets(password) for name, password in checker.users.items()}
    if not set(checker.credentialInterfaces) & set(CREDENTIALS):
        raise ConfigError(f"{where}: checker {number} ({kind}) checks no passwords, name another one")
    return checker


def _octets(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
