"""
Hiding: options of the operator's classes in, the same options without passwords, tokens and other secrets out.

An option is secret if its class declares that (C{isSecret}), if its name says so, or where a text holds a password, as
the address of a database does.
This module knows no option of smtphooks' own, and not where options stand.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from smtphooks.service.settings import NOT_SHOWN, HooksSettings
from smtphooks.service.toml import toTOML

_SECRET_NAME = re.compile("passw|passphrase|pwd|secret|token|credential|api_?key|private_?key|dsn", re.IGNORECASE)
# The path of a file that holds a secret is none itself.
_PATH_NAME = re.compile("(file|path|folder|dir)$", re.IGNORECASE)

# "scheme://user:password@host", and "password=…" as PostgreSQL writes it, or as a query does.
_IN_ADDRESS = re.compile(r"(://[^/\s:@]*):[^/\s]*@")
_IN_PAIRS = re.compile(r"\b(passw\w*|pwd|secret|token)=('[^']*'|[^\s&;'\"]+)", re.IGNORECASE)


def saysSecret(name: str) -> bool:
    """Does the name of an option say that its value is a secret?"""
    return bool(_SECRET_NAME.search(name)) and not _PATH_NAME.search(name)


def withoutSecrets(value: Any, secrets: Collection[str] | None = None) -> Any:
    """
    A value, or a table of options, with C{"(not shown)"} in the place of each secret.

    @param secrets: the options in this table that are secrets; None if only their names are known.
    """
    if isinstance(value, Mapping):
        return {
            name: NOT_SHOWN if _isSecret(name, item, secrets) else withoutSecrets(item) for name, item in value.items()
        }
    if isinstance(value, list):
        return [withoutSecrets(item) for item in value]
    return _withoutPasswords(value) if isinstance(value, str) else value


def scrubbed(sentence: str, options: Mapping[str, Any], secrets: Collection[str] | None = None) -> str:
    """A sentence that may show the values of options, without the secrets in them."""
    for secret in sorted(_secretsIn(options, secrets), key=len, reverse=True):
        for written in {secret, repr(secret)[1:-1], toTOML(secret)[1:-1]}:
            sentence = sentence.replace(written, NOT_SHOWN)
    return _withoutPasswords(sentence)


def scrubbedFor(sentence: str, settings: HooksSettings) -> str:
    """A sentence about an object of hooks, without the secrets among its options and those of the objects in these."""
    for one in settings.objects.values():
        sentence = scrubbedFor(sentence, one)
    return scrubbed(sentence, settings.options, settings.secrets)


def _isSecret(name: str, value: object, secrets: Collection[str] | None) -> bool:
    return not isinstance(value, bool) and (saysSecret(name) if secrets is None else name in secrets)


def _withoutPasswords(text: str) -> str:
    return _IN_PAIRS.sub(rf"\1={NOT_SHOWN}", _IN_ADDRESS.sub(rf"\1:{NOT_SHOWN}@", text))


def _secretsIn(value: object, secrets: Collection[str] | None, isSecret: bool = False) -> Iterator[str]:
    """The texts of all secrets."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            # A table that its class declares as secret says by its own names what in it is: errors need the others.
            isHidden = saysSecret(name) if isinstance(item, Mapping) else _isSecret(name, item, secrets)
            yield from _secretsIn(item, None, isSecret or isHidden)
    elif isinstance(value, list):
        for item in value:
            yield from _secretsIn(item, None, isSecret)
    elif isSecret and not isinstance(value, bool) and str(value):
        yield str(value)
