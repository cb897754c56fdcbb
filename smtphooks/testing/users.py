"""
Users: those that a test names with their passwords, as a layer that authenticates.

It answers every built-in mechanism that has a password or a token.
This module knows no server.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
from collections.abc import Mapping
from typing import Any

from smtphooks.errors import OptionError
from smtphooks.session import Session

# RFC 7677 section 4 asks for no less, and a test for no more.
_ITERATIONS = 4096

Credentials = tuple[bytes, bytes, bytes, int]


@functools.cache
def _credentials(password: str) -> Credentials:
    """What SCRAM-SHA-256 stores of a password (RFC 5802 section 3)."""
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    storedKey = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    return salt, storedKey, hmac.digest(salted, b"Server Key", "sha256"), _ITERATIONS


class Users:
    """A layer that knows these users and no others; C{session.user} becomes the name."""

    def __init__(self, users: Mapping[str, str]) -> None:
        """
        @param users: passwords, or access tokens, by name.
        @raise OptionError: if it is something else.
        """
        isMapping = isinstance(users, Mapping)
        if not isMapping or not all(isinstance(text, str) for pair in users.items() for text in pair):
            kind = type(users).__name__
            raise OptionError(f"option users is a {kind}, it wants passwords by name, all of them text")
        self._users = dict(users)

    def onAuth(self, auth: Any, session: Session) -> str | Credentials | bool:
        """Is it the password of this user?  The answer is the name, what SCRAM decides by, or False."""
        password = self._users.get(auth.username)
        if password is None or auth.authorizationId not in ("", auth.username):
            return False
        if auth.method.startswith("SCRAM-"):
            return _credentials(password)
        isRight = password == auth.accessToken or auth.validatePassword(password)
        return str(auth.username) if isRight else False
