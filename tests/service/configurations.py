"""Configuration files for tests, a module of hooks beside them, and properties of the configurations."""

from __future__ import annotations

from pathlib import Path

import pytest

from smtphooks.admission.clients import Clients
from smtphooks.service.checking import Configuration, configure
from smtphooks.service.reading import readSettings
from smtphooks.service.settings import ConfigError
from tests.certificates import Authority

MODULE = """
import attrs
from smtphooks import Extension, Hooks
from smtphooks.optionkinds import count, option, withOptions

class Mail(Hooks):
    def __init__(self, **given):
        self.given = given
        if "bad" in given:
            raise ValueError("bad is\\nbad")

    def onData(self, stream, session):
        return "taken"

class Trusting(Mail):
    def onAuth(self, auth, session):
        return auth.username

class Nothing(Hooks):
    pass

class Dropping(Hooks):
    def __init__(self, **given):
        self.given = given

    def onRcptTo(self, address, session):
        pass

class Picky:
    def __init__(self, domains=()):
        self.domains = domains

    def onRcptTo(self, address, session):
        pass

@withOptions
class Declared:
    file: str = option(None, "a path", lambda value: isinstance(value, str), isPath=lambda text: True)
    also: list = option((), "a list of paths", lambda value: isinstance(value, (list, tuple)), isPath=lambda text: True)
    token: str = option(None, "a text", lambda value: isinstance(value, str), isSecret=True)
    secret: str = option(None, "a path", bool, isSecret=True, isPath=lambda text: text[0] in "./")
    word: str = option("", "a short text", lambda value: len(value) < 9, isSecret=True)
    number: int = count(3, "things")
    _file: object = attrs.field(default=None, init=False)
    _token: object = attrs.field(default=None, init=False)

    def __attrs_post_init__(self):
        if self.number == 1:
            raise ValueError(f"cannot log in with {self.token}")

    def onMailFrom(self, address, session):
        pass

@attrs.define
class Storing:
    token: str = attrs.field(metadata={"isSecret": True})
    file: str = attrs.field(metadata={"isPath": lambda text: True})

    def onData(self, stream, session):
        pass

class Filtering:
    async def filterData(self, stream, session):
        async for chunk in stream:
            yield chunk

class Misspelt(Picky):
    def onRcpTo(self, address, session):
        pass

class Wanting:
    def __init__(self, wanted):
        pass

class Outer:
    inner = Mail()

single = Mail()
limit = Extension("LIMIT")
other = Extension("OTHER")
size = 3
"""

MAIL = 'hooks = "mailapp:Mail"\n'
OPTIONAL = MAIL + "[options]\nauthOptional = true\n"
USERS = '[auth]\ncheckers = ["memory:joe:pencil"]\n'
AUTHORITY = Authority()
PAIRS = {stem: AUTHORITY.server(f"{stem}.example") for stem in ("main", "mail", "own")}
LISTENERS = "[[listener]]\nendpoint = 'tcp:1'\n[[listener]]\nendpoint = 'tcp:2'\n"


def configured(text: str) -> Configuration:
    """The configuration from a file with this text."""
    Path("smtphooks.toml").write_text(text)
    return configure(readSettings("smtphooks.toml"))


def refusal(text: str) -> str:
    """The sentence for a file with this text."""
    with pytest.raises(ConfigError) as caught:
        configured(text)
    return str(caught.value)


def limitsOf(clients: Clients) -> tuple[int, int]:
    return clients.most, clients.mostPerNetwork


def sharingOf(configuration: Configuration) -> tuple[list[int], list[int]]:
    """For each listener the first that shares its count of failed AUTH, and the first that shares its SCRAM salts."""
    counts = [listener.factory.server.authFailures for listener in configuration.listeners]
    shown = [listener.factory.server.mechanisms.unknownUsers for listener in configuration.listeners]
    return [counts.index(one) for one in counts], [shown.index(one) for one in shown]
