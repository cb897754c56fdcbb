"""Signals: on the reactor's thread, and only where they belong to this program."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smtphooks.service.signals import takeSignals

NUMBERS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)


class Reactor:
    """A reactor that has installed its handlers."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []

    def sigTerm(self, *_: object) -> None:
        """The handler of the reactor itself."""

    def callFromThread(self, function: Callable[[], object]) -> None:
        self.calls.append(function)


@pytest.fixture
def reactor() -> Iterator[Any]:
    before = [(number, signal.getsignal(number)) for number in NUMBERS]
    one = Reactor()
    signal.signal(signal.SIGTERM, one.sigTerm)
    yield one
    for number, handler in before:
        signal.signal(number, handler)


def test_a_signal_calls_its_function_on_the_thread_of_the_reactor(reactor: Any) -> None:
    called: list[str] = []
    assert takeSignals(
        reactor, {signal.SIGHUP: lambda: called.append("HUP"), signal.SIGTERM: lambda: called.append("TERM")}
    )
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)
    assert called == []
    for call in reactor.calls:
        call()
    assert called == ["HUP", "TERM"]


def test_a_signal_without_a_function_is_ignored(reactor: Any) -> None:
    assert takeSignals(reactor, {signal.SIGUSR2: None})
    os.kill(os.getpid(), signal.SIGUSR2)
    assert reactor.calls == []


def test_signals_of_another_program_are_left_alone(reactor: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    before = signal.getsignal(signal.SIGHUP)
    assert not takeSignals(reactor, {signal.SIGHUP: lambda: None})
    assert not takeSignals(object(), {signal.SIGHUP: lambda: None})
    assert signal.getsignal(signal.SIGHUP) == before
