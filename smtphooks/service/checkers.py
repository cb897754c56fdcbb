"""
Checkers: whom to ask for users, in Twisted's own words (C{twisted.cred.strcred}), and a Portal that asks them.

What a checker is given may be a password, so that no text made here says it.
This module knows nothing of files of configuration, of mechanisms, or of the factory.
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
from smtphooks.service.reading import NOT_SHOWN, AuthSettings, ConfigError, cause

# What clients bring: a password, or an answer that only a password explains.
CREDENTIALS = (IUsernamePassword, IUsernameHashedPassword)


@implementer(ICredentialsChecker)
@attrs.frozen
class _InTurn:
    """Asks checkers one by one until one knows who it is; a Portal by itself asks one alone."""

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
                    pass  # the next one may know better
        raise UnauthorizedLogin


def makePortal(said: AuthSettings) -> Portal:
    """
    A portal that asks checkers in their order.

    @raise ConfigError: which never says what a checker was given, for that may be a password.
    """
    made = [_makeChecker(said.where, *numbered) for numbered in enumerate(said.checkers, 1)]
    return Portal(UserNameRealm(), [_InTurn(made)])


def _makeChecker(where: str, number: int, description: str) -> ICredentialsChecker:
    # As twisted.cred.strcred.makeChecker does, whose errors say all that it was given.
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
        # Twisted's plugin puts texts into a checker of octets, which so knows nobody.
        checker.users = {_octets(name): _octets(password) for name, password in checker.users.items()}
    if not set(checker.credentialInterfaces) & set(CREDENTIALS):
        raise ConfigError(f"{where}: checker {number} ({kind}) checks no passwords, name another one")
    return checker


def _octets(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
