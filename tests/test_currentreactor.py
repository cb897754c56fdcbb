"""The current reactor: that of the process, unless the thread at hand runs another one."""

from __future__ import annotations

import threading

from twisted.internet import reactor
from twisted.internet.task import Clock

from smtphooks.currentreactor import currentReactor, setReactor


def test_it_is_that_of_the_process() -> None:
    assert currentReactor() is reactor


def test_a_thread_may_have_another_one_which_is_that_of_no_other_thread() -> None:
    found = []

    def run() -> None:
        setReactor(clock)
        found.append(currentReactor())

    clock = Clock()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [clock]
    assert currentReactor() is reactor
