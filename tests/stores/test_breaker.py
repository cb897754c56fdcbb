"""The circuit breaker: when it refuses, when it tries, and what it says."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs

from smtphooks.hooks import Unavailable
from smtphooks.stores.breaker import Breaker


class Broken(Exception):
    """What counts as a failure here."""


class Tried:
    def __init__(self, failures=2, pause=10):
        self.clock = Clock()
        self.breaker = Breaker("the other side", failures, pause)

    def attempt(self, error=None):
        """Make an attempt that ends so; was it let through?"""
        try:
            with self.breaker.attempt(self.clock, Broken):
                if error is not None:
                    raise error
        except (Broken, KeyError):
            return True
        except Unavailable:
            return False
        return True


def test_it_opens_after_failures_in_a_row():
    tried = Tried(failures=3)
    assert [tried.attempt(Broken()) for _ in range(4)] == [True, True, True, False]


def test_a_success_in_between_is_a_new_beginning():
    tried = Tried(failures=2)
    for _ in range(5):
        assert tried.attempt(Broken())
        assert tried.attempt()
    assert not tried.breaker.isOpen


def test_another_exception_is_neither_failure_nor_success():
    tried = Tried(failures=2)
    assert [tried.attempt(error) for error in (Broken(), KeyError(), Broken())] == [True, True, True]
    assert tried.breaker.isOpen


def test_one_attempt_is_let_through_after_each_pause():
    tried = Tried(failures=1, pause=10)
    tried.attempt(Broken())
    tried.clock.advance(9.9)
    assert not tried.attempt()
    tried.clock.advance(0.2)
    assert tried.attempt(Broken())
    assert not tried.attempt()
    tried.clock.advance(10)
    assert tried.attempt()
    assert tried.attempt() and not tried.breaker.isOpen


def test_a_trial_that_hangs_or_is_given_up_holds_up_no_other():
    tried = Tried(failures=1, pause=10)
    tried.attempt(Broken())
    tried.clock.advance(10)
    with tried.breaker.attempt(tried.clock, Broken):
        assert not tried.attempt()
        tried.clock.advance(10)
        assert tried.attempt(KeyError())
        tried.clock.advance(10)
        assert tried.attempt(Broken())


def test_an_attempt_from_before_that_succeeds_late_closes_it():
    tried = Tried(failures=1)
    with tried.breaker.attempt(tried.clock, Broken):
        tried.attempt(Broken())
        assert tried.breaker.isOpen
    assert not tried.breaker.isOpen


def test_without_a_number_of_failures_it_never_opens():
    tried = Tried(failures=0)
    assert all(tried.attempt(Broken()) for _ in range(100))


def test_it_says_when_it_opens_and_when_it_closes_and_how_long_it_will_be():
    tried = Tried(failures=2, pause=10)
    with capturedLogs() as events:
        for _ in range(3):
            tried.attempt(Broken())
        tried.clock.advance(4)
        with pytest.raises(Unavailable) as caught, tried.breaker.attempt(tried.clock, Broken):
            pass
        tried.clock.advance(6)
        tried.attempt()
    assert str(caught.value) == "the other side is down, it will be tried again in 6.0 seconds"
    assert [event["log_level"] for event in events] == [LogLevel.warn, LogLevel.info]
    texts = [event["log_format"].format(**event) for event in events]
    assert texts[0].startswith("the other side has failed 2 times in a row: it is tried every 10 seconds")
    assert texts[1] == "the other side is back"
