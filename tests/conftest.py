"""
Rules for every test: Hypothesis gives the same examples each time, a test fails if an error is logged that it does not
expect, and no secret is logged at all.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings
from twisted.internet.interfaces import IReactorTime
from twisted.logger import LogEvent, eventAsText, globalLogPublisher
from twisted.python.failure import Failure

from smtphooks.connection.registry import LiveConnections
from tests.secrets import secretsIn

# The same examples on every machine, and no deadline: a slow machine must not fail a test.
settings.register_profile("smtphooks", derandomize=True, deadline=None, database=None)
settings.load_profile("smtphooks")


class Logged(list[dict[str, object]]):
    """
    The events that were logged as a failure or an error.

    A test takes out those that it expects; it fails if any are left when it ends.
    """

    def takeFailures(self, kind: type[BaseException]) -> list[Failure]:
        """Take out the failures of this type."""
        taken = self._take(kind)
        if not taken:
            gc.collect()  # An error that no Deferred handles is logged when the Deferred goes.
            taken = self._take(kind)
        return taken

    def _take(self, kind: type[BaseException]) -> list[Failure]:
        taken = []
        for event in list(self):
            failure = event.get("log_failure")
            if isinstance(failure, Failure) and failure.check(kind):
                self.remove(event)
                taken.append(failure)
        return taken

    def takeTexts(self) -> list[str]:
        """Take out the errors without a failure, and return their texts."""
        taken = [event for event in self if "log_failure" not in event]
        for event in taken:
            self.remove(event)
        return [str(event["log_format"]).format(**event) for event in taken]


@pytest.fixture
def logged() -> Iterator[Logged]:
    """The events logged as a failure or an error; the list must be empty when the test ends."""
    events = Logged()

    def observe(event: dict[str, object]) -> None:
        if event.get("log_format") == "Unhandled error in Deferred:":
            return  # Only a heading; the failure itself is the next event.
        if "log_failure" in event or getattr(event.get("log_level"), "name", "") in ("error", "critical"):
            events.append(event)

    globalLogPublisher.addObserver(observe)
    try:
        yield events
    finally:
        globalLogPublisher.removeObserver(observe)
    unseen = [event.get("log_failure") or event for event in events]
    assert not unseen, f"logged, and not expected: {unseen}"


# --- No server is left running ---


@pytest.fixture(autouse=True)
def noServerIsLeftRunning() -> Iterator[None]:
    """No timer of a factory is left on the real reactor, where it would fire during a later test."""
    yield
    reactor = sys.modules.get("twisted.internet.reactor")
    calls = [] if reactor is None else IReactorTime(reactor).getDelayedCalls()
    left = [call for call in calls if isinstance(getattr(call.func, "__self__", None), LiveConnections)]
    for call in left:
        call.cancel()
    assert not left, f"a server of this test is left: {left}"


# --- No secret is logged (invariant 7) ---

_betrayals: list[str] = []


def _searchForSecrets(event: LogEvent) -> None:
    """Search everything that an observer at any level could print of an event."""
    texts = [eventAsText(event, includeTraceback=True), *(f"{key}={value!r}" for key, value in event.items())]
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        texts += [failure.getTraceback(detail="verbose"), str(failure.value), repr(failure.value)]
    for text in texts:
        _betrayals.extend(f"{secret!r} was logged: {text}" for secret in secretsIn(text))


def takeBetrayals() -> list[str]:
    """The secrets that have been logged since the last call."""
    found = list(_betrayals)
    _betrayals.clear()
    return found


def pytest_sessionstart(session: pytest.Session) -> None:
    globalLogPublisher.addObserver(_searchForSecrets)


def pytest_sessionfinish(session: pytest.Session) -> None:
    gc.collect()  # An error that no Deferred handles is logged when the Deferred goes.
    globalLogPublisher.removeObserver(_searchForSecrets)
    late = takeBetrayals()
    if late:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        sys.stderr.write("\n".join(["", "SECRETS IN THE LOG", *late, ""]))


@pytest.fixture(autouse=True)
def nothingSecretIsLogged() -> Iterator[None]:
    """No event of the log, at any level, holds a secret of L{tests.secrets}."""
    yield
    found = takeBetrayals()
    assert not found, "\n".join(found)
