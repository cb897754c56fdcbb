"""
Lifecycle: C{onStart} and C{onStop} of the objects of hooks that a service has.

Rules kept here: an object is started once, also where several factories or services share it, and stopped when the
last of these services has stopped; objects are started in the order of the layers and stopped in the reverse order; one
that cannot be stopped does not keep the others from being stopped.
This module knows neither sockets nor the configuration.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any
from weakref import WeakValueDictionary

from twisted.internet.defer import Deferred, TimeoutError, fail, inlineCallbacks, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks.connection.calling import HookCaller, PendingAnswer
from smtphooks.factory import SMTPServerFactory
from smtphooks.hooks import hookOf
from smtphooks.layer import Layer

_log = Logger()

# Seconds that onStop may take where the connections have used up option closeTimeout.
_LEAST_SECONDS = 3.0


class StartFailed(Exception):
    """
    C{onStart} of a layer has failed; its C{__cause__} is what it raised.

    @ivar layer: the name of the layer.
    """

    def __init__(self, layer: str, error: BaseException) -> None:
        super().__init__(f"layer {layer} cannot start: {type(error).__name__}: {error}")
        self.layer = layer
        self.__cause__: BaseException | None = error


class Lifecycle:
    """
    The life of all objects of hooks of a service.

    @ivar isStarting: a layer is waited for.
    """

    def __init__(self, factories: Sequence[SMTPServerFactory]) -> None:
        self._factories = factories
        self._starting: Deferred[None] | None = None
        self._begun: list[_Life] = []
        self._isClosing = False
        self._deadline: float | None = None

    @property
    def isStarting(self) -> bool:
        return self._starting is not None

    def start(self, service: object, goOn: Callable[[], object], failed: Callable[[Failure], object]) -> None:
        """
        Start the objects, and then go on.

        @param goOn: called when all have started; before this method returns, if none of them has to be waited for.
        @param failed: told of what fails later: a L{StartFailed}, or what C{goOn} raised then.
        @raise StartFailed: if it is known at once.
        @raise Exception: what C{goOn} raises at once.
        """
        results: list[Any] = []
        isLate = False

        def ended(result: Any) -> None:
            if not isLate:
                results.append(result)
            elif self._starting is starting:  # else it was stopped meanwhile
                self._starting = None
                if not isinstance(result, Failure):
                    try:
                        goOn()
                        return
                    except Exception:
                        result = Failure()
                failed(result)

        starting = self._begin(service)
        starting.addBoth(ended)
        isLate = True
        if not results:
            self._starting = starting
            return
        if isinstance(results[0], Failure):
            results[0].raiseException()
        try:
            goOn()
        except Exception:
            self.stop(service)
            raise

    def closing(self) -> None:
        """The service begins to stop.  What is still starting is cancelled; C{closeTimeout} runs from now on."""
        starting, self._starting = self._starting, None
        self._isClosing = True
        self._deadline = self._timeLimit()
        if starting is not None:
            starting.cancel()

    @inlineCallbacks
    def stop(self, service: object) -> Generator[Deferred[Any], Any, None]:
        """Stop what has started, one after the other; what fails, or takes too long, is logged."""
        deadline = self._deadline if self._isClosing else self._timeLimit()
        if deadline is not None:
            deadline = max(deadline, self._clock.seconds() + _LEAST_SECONDS)
        while self._begun:
            life = self._begun.pop()
            stopping = life.end(service)
            if deadline is not None:
                stopping.addTimeout(max(0, deadline - self._clock.seconds()), self._clock)
            yield stopping.addErrback(life.logStop)

    @inlineCallbacks
    def _begin(self, service: object) -> Generator[Deferred[Any], Any, None]:
        self._isClosing = False
        lives = list(self._lives())
        if lives:
            yield _loopOf(self._clock)
        for life in lives:
            try:
                yield life.begin(service)
            except Exception as error:
                if not self._isClosing:
                    yield self.stop(service)
                raise StartFailed(life.name, error) from error
            self._begun.append(life)

    def _lives(self) -> Iterator[_Life]:
        """The objects that have a life, in the order of the layers; one may occur more than once."""
        for factory in self._factories:
            framed = [*factory.layersWith("onStart"), *factory.layersWith("onStop")]
            for layer in factory.layers:
                if layer in framed:
                    yield _lifeOf(layer, factory.options.asyncioHooks)

    @property
    def _clock(self) -> Any:
        return self._factories[0].reactor()

    def _timeLimit(self) -> float | None:
        """When the last object must have stopped, by the clock; None for no limit."""
        limits = [factory.options.closeTimeout for factory in self._factories]
        return self._clock.seconds() + max(limits) if self._begun and all(limits) else None


class _Life:
    """
    One object of hooks, from its start to its stop, for all services that share it.

    A service may have it more than once, and then begins and ends it as often.

    @ivar name: that of its layer.
    """

    def __init__(self, layer: Layer, isForAsyncio: bool) -> None:
        self.name = layer.name
        self._hooks = layer.hooks
        self._caller = HookCaller(asyncioHooks=isForAsyncio)
        self._isRunning = False
        self._services = 0  # how often it has been begun and not ended
        self._starting: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []

    def begin(self, service: object) -> Deferred[None]:
        """
        Start it, unless it has been started; fires when that is done.

        @param service: what C{onStart} is called with.
        """
        if self._isRunning:
            self._services += 1
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._leave)
        self._waiting.append(waiting)
        if self._starting is None:
            self._starting = self._call("onStart", service)
            self._starting.addBoth(self._started)
        return waiting

    def end(self, service: object) -> Deferred[None]:
        """Stop it, unless another service goes on with it; fires when that is done."""
        self._services -= 1
        if self._services:
            return succeed(None)
        self._isRunning = False
        return self._call("onStop", service)

    def logStop(self, failure: Failure) -> None:
        """Log that it could not be stopped."""
        if failure.check(TimeoutError):
            _log.warn("layer {layer} takes too long to stop", layer=self.name)
        else:
            _log.failure("layer {layer} cannot stop", failure, layer=self.name)

    def _started(self, result: Any) -> None:
        self._starting = None
        waiting, self._waiting = self._waiting, []
        if not isinstance(result, Failure):
            self._isRunning = True
            self._services = len(waiting)
        for each in waiting:
            each.callback(result)

    def _leave(self, waiting: Deferred[None]) -> None:
        """A service waits no longer."""
        self._waiting.remove(waiting)
        if not self._waiting and self._starting is not None:
            self._starting.cancel()

    def _call(self, name: str, service: object) -> Deferred[Any]:
        hook = hookOf(self._hooks, name)
        if hook is None:
            return succeed(None)
        answer = self._caller.call(name, hook, (service,))
        if type(answer) is PendingAnswer:
            done: Deferred[Any] = Deferred(lambda _: answer.cancel())
            # One that was cancelled may go on regardless, and end later.
            answer.whenThere(lambda: None if done.called else done.callback(_unlessExit(answer.result)))
            return done
        answer = _unlessExit(answer)
        return fail(answer) if isinstance(answer, Failure) else succeed(answer)


def _unlessExit(answer: Any) -> Any:
    """The answer of a hook; what would end the process is a failure like others."""
    if isinstance(answer, Failure) and not isinstance(answer.value, Exception):
        return Failure(RuntimeError(f"it raised {answer.value!r}"))
    return answer


# By the identity of the object, which need not be hashable; a life keeps its object.
_lives: WeakValueDictionary[int, _Life] = WeakValueDictionary()


def _lifeOf(layer: Layer, isForAsyncio: bool) -> _Life:
    life = _lives.get(id(layer.hooks))
    if life is None:
        life = _lives[id(layer.hooks)] = _Life(layer, isForAsyncio)
    return life


def _loopOf(reactor: Any) -> Deferred[None]:
    """Fires when asyncio's event loop runs, if the reactor is that of asyncio: hooks may want to use it."""
    module = sys.modules.get("twisted.internet.asyncioreactor")
    if module is None or not isinstance(reactor, module.AsyncioSelectorReactor) or asyncio._get_running_loop():
        return succeed(None)
    # When "startup" is fired, and callWhenRunning calls, the loop does not run yet.
    return deferLater(reactor, 0)
