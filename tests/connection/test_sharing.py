"""To wait for a Deferred for which others may wait too."""

from __future__ import annotations

import gc
from typing import Any
from weakref import ref

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, setDebugging, succeed
from twisted.python.failure import Failure

from smtphooks.connection.sharing import Waiter, maybeDealtWith
from tests.conftest import Logged

pytestmark = pytest.mark.usefixtures("logged")


class Someone:
    """Waits with a wait."""

    def __init__(self, shared: Deferred[Any]) -> None:
        self.got: list[Any] = []
        self.raised: list[Failure] = []
        self.wait = Waiter(shared)
        self.wait.begin(self.got.append, self.raised.append)

    @property
    def isCancelled(self) -> bool:
        return len(self.got) == 1 and isinstance(self.got[0], Failure) and bool(self.got[0].check(CancelledError))


def test_all_get_what_is_there_and_it_stays_there() -> None:
    shared: Deferred[str] = Deferred()
    waiters = [Someone(shared), Someone(shared)]
    shared.callback("found")
    waiters.append(Someone(shared))
    assert [waiter.got for waiter in waiters] == [["found"]] * 3
    assert shared.result == "found"


def test_all_get_a_failure_and_it_stays_there_without_a_complaint(logged: Logged) -> None:
    shared: Deferred[str] = Deferred()
    waiters = [Someone(shared), Someone(shared)]
    failure = Failure(KeyError("lost"))
    shared.errback(failure)
    waiters.append(Someone(shared))
    assert [waiter.got for waiter in waiters] == [[failure]] * 3
    assert maybeDealtWith(shared) is failure
    del shared, waiters
    gc.collect()
    assert logged.takeFailures(KeyError) == []


def test_only_the_last_one_cancels() -> None:
    cancelled: list[Any] = []
    shared: Deferred[str] = Deferred(cancelled.append)
    first, second, third = (Someone(shared) for _ in range(3))
    for waiter in (second, first):
        waiter.wait.cancel()
        assert waiter.isCancelled
        waiter.wait.cancel()
    assert (cancelled, third.got) == ([], [])
    third.wait.cancel()
    assert cancelled == [shared]
    assert third.isCancelled


def test_who_was_cancelled_gets_nothing_more() -> None:
    shared: Deferred[str] = Deferred()
    first, second = Someone(shared), Someone(shared)
    first.wait.cancel()
    shared.callback("found")
    assert first.isCancelled
    assert second.got == ["found"]


def test_what_takes_its_time_to_be_cancelled_is_waited_for() -> None:
    rest: Deferred[str] = Deferred()
    shared: Deferred[Any] = Deferred(lambda shared: shared.callback(None))
    shared.addCallback(lambda _: rest)
    waiter = Someone(shared)
    waiter.wait.cancel()
    assert waiter.got == []
    rest.callback("ended")
    assert waiter.got == ["ended"]


def test_a_canceller_that_raises_is_told_and_is_waited_for_no_longer() -> None:
    def cancel(shared: Deferred[Any]) -> None:
        raise SystemExit(3)

    waiter = Someone(Deferred(cancel))
    waiter.wait.cancel()
    assert waiter.isCancelled
    assert [failure.type for failure in waiter.raised] == [SystemExit]


def test_a_canceller_that_fires_and_then_raises_is_told_too() -> None:
    def cancel(shared: Deferred[Any]) -> None:
        shared.errback(KeyError("cancelled"))
        raise OSError("cannot clean up")

    waiter = Someone(Deferred(cancel))
    waiter.wait.cancel()
    assert [failure.type for failure in waiter.got] == [KeyError]
    assert [failure.type for failure in waiter.raised] == [OSError]


class Equal(Deferred[Any]):
    """Equal to others, and not hashable."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal)


def test_two_that_are_equal_are_not_the_same() -> None:
    cancelled: list[Any] = []
    first, second = Equal(cancelled.append), Equal(cancelled.append)
    waiters = [Someone(first), Someone(second)]
    for waiter in waiters:
        waiter.wait.cancel()
    assert [each is wanted for each, wanted in zip(cancelled, (first, second), strict=True)] == [True, True]


def test_who_waits_again_at_once_finds_the_same() -> None:
    for result in ("found", Failure(KeyError("lost"))):
        shared: Deferred[Any] = Deferred()
        got: list[Any] = []

        def again(first: Any, shared: Deferred[Any] = shared, got: list[Any] = got) -> None:
            got.append(first)
            Waiter(shared).begin(got.append, lambda failure: None)

        Waiter(shared).begin(again, lambda failure: None)
        shared.callback(result)
        assert got == [result, result]


def test_a_wait_that_was_cancelled_keeps_no_client_in_memory() -> None:
    class Client:
        def came(self, result: Any) -> None: ...

    shared: Deferred[str] = Deferred()
    Someone(shared)
    client = Client()
    isThere = ref(client)
    wait = Waiter(shared)
    wait.begin(client.came, lambda failure: None)
    wait.cancel()
    del client
    assert isThere() is None


# --- a failure that was dealt with ---


def test_nothing_was_dealt_with_that_no_wait_has_passed_on() -> None:
    pending: Deferred[str] = Deferred()
    failed: Deferred[str] = fail(KeyError())
    for deferred in (pending, failed, succeed("found")):
        assert maybeDealtWith(deferred) is None
    failed.addErrback(lambda failure: None)


def test_what_comes_of_it_afterwards_is_of_interest_again(logged: Logged) -> None:
    shared: Deferred[str] = fail(KeyError("first"))
    Someone(shared)

    def crash(failure: Failure) -> None:
        raise ValueError("a fault of the user's")

    shared.addErrback(crash)
    assert maybeDealtWith(shared) is None
    del shared
    gc.collect()
    assert len(logged.takeFailures(ValueError)) == 1
    assert logged.takeFailures(KeyError) == []


def test_a_deferred_of_which_a_success_came_was_not_dealt_with() -> None:
    shared: Deferred[str] = fail(KeyError())
    Someone(shared)
    shared.addErrback(lambda failure: "mended")
    assert maybeDealtWith(shared) is None
    assert Someone(shared).got == ["mended"]


def test_twisteds_debugging_still_tells_where_it_was_made() -> None:
    setDebugging(True)
    try:
        shared: Deferred[str] = Deferred()
        Someone(shared)
        shared.errback(KeyError())
        with pytest.raises(Exception, match="First Invoker"):
            shared.callback("again")
    finally:
        setDebugging(False)
