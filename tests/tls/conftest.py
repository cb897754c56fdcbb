"""What the tests of TLS share: the warnings that are logged."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.logger import LogLevel, globalLogPublisher

from smtphooks.tls.certificates import selfSigned


@pytest.fixture
def warnings() -> Any:
    """What is logged as a warning."""
    events: list[str] = []

    def observe(event: Any) -> None:
        if event["log_level"] is LogLevel.warn:
            events.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(observe)
    selfSigned.cache_clear()
    yield events
    globalLogPublisher.removeObserver(observe)
