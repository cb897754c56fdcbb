"""The client, and the servers that it is tested against."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted

from smtphooks.client import Route, SMTPClient
from tests.certificates import Authority
from tests.real.mta.contained import HOST, Server
from tests.real.mta.dovecot import Dovecot


class Talk(list[tuple[str, str]]):
    """What client and server have said, in its order: C{(">", line)} and C{("<", line)}."""

    def said(self, verb: str) -> list[str]:
        """The commands of the client that begin so."""
        return [line for direction, line in self if direction == ">" and line.startswith(verb)]

    @property
    def connections(self) -> int:
        """How many there were: each begins with EHLO, as does what follows STARTTLS and XCLIENT."""
        again = self.said("STARTTLS") + self.said("XCLIENT")
        return len(self.said("EHLO") + self.said("LHLO")) - len(again)


@pytest.fixture
def talk() -> Talk:
    return Talk()


@pytest_twisted.async_yield_fixture
async def client(talk: Talk) -> AsyncIterator[SMTPClient]:
    """A client; its transcript is C{talk}."""
    client = SMTPClient(transcript=lambda direction, line: talk.append((direction, line)))
    yield client
    await client.close()


@pytest.fixture(params=["postfixServer", "exim", "openSMTPD", "dovecot"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each of the servers."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Server)
    return found


def routeOf(server: Server, tls: str = "none", **rest: Any) -> Route:
    """The route to a server."""
    port = server.tlsPort if tls == "implicit" else server.port
    given = {"ca": server.ca, "servername": HOST, "name": "client.example", **rest}
    return Route(host="127.0.0.1", port=port, tls=tls, lmtp=isinstance(server, Dovecot), **given)


@pytest.fixture(scope="session")
def otherAuthority() -> str:
    """The certificate of an authority that has signed nothing here."""
    return Authority("Another authority").pem
