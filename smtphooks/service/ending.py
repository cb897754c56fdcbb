"""
Ending: how the process of a service ends, and the sentences that it says before, or where it listens instead.

A service that cannot start ends with one sentence and status 1; twistd by itself would end with a traceback, with
status 0, or as killed by a signal.
This module knows no listeners, no workers and no configuration.
"""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress
from typing import Any

from twisted.internet.error import CannotListenError, ReactorNotRunning
from twisted.logger import Logger

from smtphooks.service.lifecycle import StartFailed
from smtphooks.service.loading import lineOf
from smtphooks.service.settings import cause

log: Logger = Logger(namespace="smtphooks.service.listeners")


class StartError(SystemExit, Exception):
    """
    The service cannot start a layer, or cannot listen.

    It has two bases: on an Exception twistd removes its pid file and tells the process that waits for the daemon; on a
    SystemExit Python exits without a traceback.
    """

    # When it daemonizes, twistd shows a hundred octets of an error, which begin with the full name of its class.
    __module__ = "smtphooks"

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.code: str | int | None = 1


def logListening(endpointName: str, address: str) -> None:
    """Log that clients can connect."""
    log.info("listening on {endpoint} ({address})", endpoint=endpointName, address=address)


def cannotListen(endpointName: str, error: BaseException | None) -> str:
    """The sentence that says so."""
    return f"cannot listen on {endpointName}: {_reason(error)}, free it or name another endpoint"


def logCannotListen(endpointName: str, error: BaseException | None) -> str:
    """Log that clients cannot connect; the sentence that was logged."""
    sentence = cannotListen(endpointName, error)
    log.critical("{sentence}", sentence=sentence)
    return sentence


def logStartFailed(error: StartFailed) -> str:
    """Log that a layer cannot start; the sentence that was logged."""
    failed = error.__cause__ or error
    line = lineOf(failed) if isinstance(failed, Exception) else ""
    sentence = f"layer {error.layer} cannot start: {cause(failed)}{line}"
    log.critical("{sentence}", sentence=sentence)
    return sentence


def endWithFailure(reactor: Any) -> None:
    """End the service, after its start, as if it had not started."""
    atexit.register(_exitWithFailure)
    reactor.callWhenRunning(stopReactor, reactor)


def stopReactor(reactor: Any) -> None:
    """End the process, unless it is ending already."""
    with suppress(ReactorNotRunning):  # already stopping
        reactor.stop()


def _reason(error: BaseException | None) -> str:
    """Why listening failed, short enough for the hundred octets that twistd shows when it daemonizes."""
    if isinstance(error, CannotListenError) and isinstance(error.socketError, OSError):
        return error.socketError.strerror or cause(error)
    return cause(error)


def _exitWithFailure() -> None:
    """Exit with status 1; twistd by itself would exit with 0, or be killed by a signal."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()
    os._exit(1)
