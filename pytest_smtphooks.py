"""
The plugin for pytest: the fixtures C{smtp_server} and C{lmtp_server}, and the mark C{smtphooks} for their options.

pytest imports it in every run wherever smtphooks is installed, so it imports nothing until a test asks for a server.
This module knows no Twisted and no SMTP.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from smtphooks.testing import SMTPServerThread

_MARK = (
    "smtphooks(**options): options and hooks of the servers of the fixtures smtp_server and lmtp_server, as"
    " smtphooks.testing.SMTPServerThread takes them; those of the closest mark win."
)

_servers = pytest.StashKey[list[tuple[str, Any]]]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", _MARK)


@pytest.fixture
def smtp_server(request: pytest.FixtureRequest) -> Iterator[SMTPServerThread]:
    """An SMTP server for this test, which keeps what it receives in C{smtp_server.messages}."""
    yield from _serve(request)


@pytest.fixture
def lmtp_server(request: pytest.FixtureRequest) -> Iterator[SMTPServerThread]:
    """An LMTP server for this test, which keeps what it receives in C{lmtp_server.messages}."""
    yield from _serve(request, lmtp=True)


def _serve(request: pytest.FixtureRequest, **given: Any) -> Iterator[SMTPServerThread]:
    from smtphooks.testing import SMTPServerThread

    with SMTPServerThread(**{**_optionsOf(request.node), **given}) as server:
        request.node.stash.setdefault(_servers, []).append((str(request.fixturename), server))
        yield server


def _optionsOf(item: pytest.Item) -> dict[str, Any]:
    """The options of all marks of a test, of its class and of its module."""
    options: dict[str, Any] = {}
    for mark in item.iter_markers("smtphooks"):
        if mark.args:
            raise TypeError(f"the mark smtphooks takes options by name, and was given {mark.args!r}")
        options = {**mark.kwargs, **options}  # the closest comes first
    return options


# In the older style, which every pytest knows that the plugin may be loaded by.
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Show what the servers of a test that failed have seen."""
    outcome = yield
    report = outcome.get_result()
    if report.failed and report.when == "call":
        for name, server in item.stash.get(_servers, []):
            report.sections.append((f"What {name} has seen", _seen(server)))


def _seen(server: SMTPServerThread) -> str:
    messages = [
        f"received from {message.envelope.mailFrom} for {', '.join(map(str, message.envelope.rcptTo))}:"
        f" {message['Subject'] or '(no subject)'}"
        for message in server.messages
    ]
    return "\n".join([*messages, *(f"refused {refusal}" for refusal in server.refusals)]) or "nothing"
