"""
The chain: one hook of several layers, called as if it were one hook.

Rules kept here: the layers are asked in their order, and all of them; a refusal ends the chain; no yes lets anything
past a later layer.  A layer that answers at once costs no more than its call; where one has to wait, or fails, a
L{_Asking} goes on from there.
This module knows neither sessions nor what a hook decides on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from smtphooks.connection.calling import HookCaller, PendingAnswer, Rest
from smtphooks.connection.runner import TOLD, HookRunner
from smtphooks.layer import PASS, Condition, Layer, labelIn
from smtphooks.replies import HOOK_TIMED_OUT, SMTPError
from smtphooks.session import Session

# The first layer that answers something to these decides.
_FIRST_DECIDES = frozenset({"onAuth"})


@attrs.frozen(eq=False)
class Link:
    """
    The hook of one layer.

    @ivar label: what the log calls it.
    @ivar function: the hook itself.
    @ivar exempts: whether a session is not its business; None if every one is.
    @ivar timeout: seconds that it may take, 0 for no limit.
    @ivar mayFail: a fault of it counts as if it had not been asked.
    @ivar layer: the name of the layer.
    """

    label: str
    function: Callable[..., Any]
    exempts: Condition | None = None
    timeout: float = 0.0
    mayFail: bool = False
    layer: str = ""


def linkOf(layer: Layer, hook: str, function: Callable[..., Any]) -> Link:
    """The hook of a layer as a link of a chain."""
    # What a layer is only told of it is told whoever the client is: it may count, or let go of something.
    exempts = None if hook in TOLD else layer.exempts
    return Link(labelIn(layer, hook), function, exempts, layer.hookTimeout, layer.onFault == PASS, layer.name)


class Chain:
    """
    A hook that several layers have, or one with conditions of its own.

    @ivar hook: its name.
    @ivar links: the layers' hooks, in order.
    @ivar hooks: those of the factory.
    @ivar slowest: the name of the link that has last held the reactor for longer than C{slow} seconds.
    """

    __slots__ = ("_clock", "_decides", "_links", "_slow", "hook", "hooks", "links", "slowest")

    def __init__(
        self, hook: str, links: Sequence[Link], hooks: object, clock: Callable[[], IReactorTime], slow: float
    ) -> None:
        """
        @param slow: seconds that a link may hold the reactor, 0 for no limit.
        """
        self.hook: str = hook
        self.hooks: object = hooks
        self.links: Sequence[Link] = links
        self.slowest: str = ""
        self._clock = clock
        self._slow = slow or float("inf")
        self._decides = hook in _FIRST_DECIDES
        self._links = [(link.function, link.exempts) for link in links]

    def __call__(self, *arguments: Any) -> Any:
        """
        Ask the layers.

        @return: what they answer together: None, a text, or the L{Rest} of it where one has more to say.
        """
        text: Any = None
        index = 0
        before = perf_counter()
        try:
            for function, exempts in self._links:
                if exempts is None or not exempts(arguments[-1]):
                    result = function(*arguments)
                    now = perf_counter()
                    if now - before > self._slow:
                        self.slowest = self.links[index].label
                    before = now
                    if result is not None:
                        if type(result) is not str:
                            return Rest(_Asking(self, arguments, index, result, text))
                        text = result
                        if self._decides:
                            break
                index += 1
        except BaseException:
            # Even SystemExit, as L{HookCaller.call} has it.
            return Rest(_Asking(self, arguments, index, Failure(), text))
        return text

    def withLinks(self, links: Sequence[Link], hooks: object) -> Chain:
        """
        A chain like this one, of other links.

        @param hooks: in the place of those of the factory.
        """
        return Chain(self.hook, links, hooks, self._clock, self._slow)

    def callLater(self, seconds: float, function: Callable[[], object]) -> IDelayedCall:
        """Call a function later, as the clock of the factory says."""
        return self._clock().callLater(seconds, function)

    @property
    def decides(self) -> bool:
        """The first answer that is not None decides."""
        return self._decides


class _Asking:
    """
    The rest of one call of a chain, from the link on that had more to say than a text.

    @ivar answer: what the layers have answered so far: the last text, or what has decided.
    """

    __slots__ = (
        "_arguments",
        "_caller",
        "_chain",
        "_fired",
        "_first",
        "_index",
        "_isCancelled",
        "_pending",
        "_runner",
        "_timer",
        "answer",
    )

    def __init__(self, chain: Chain, arguments: tuple[Any, ...], index: int, result: Any, text: str | None) -> None:
        """
        @param index: of the link.
        @param result: what it answered, as it is.
        @param text: the last text of the links before.
        """
        self._chain = chain
        self._arguments = arguments
        self._index = index
        self._first = result
        self.answer: Any = text
        self._caller: HookCaller
        self._runner: HookRunner
        self._fired: Callable[[Any], object] | None = None
        self._pending: PendingAnswer | None = None
        self._timer: IDelayedCall | None = None
        self._isCancelled = False

    @property
    def _link(self) -> Link:
        return self._chain.links[self._index]

    def goOn(self, caller: HookCaller) -> bool:
        """Go on as far as nothing has to be waited for; whether the answer is there."""
        chain = self._chain
        self._caller = caller
        # There may be no session, as for onError after a TLS handshake has failed.
        self._runner = HookRunner(chain.hooks, self._arguments[-1] or Session(), caller=caller)
        result, self._first = self._first, None
        return self._ask(result if isinstance(result, Failure) else caller.settle(self._link.label, result))

    def begin(self, fired: Callable[[Any], object], raised: Callable[[Failure], object]) -> None:
        """Have the answer told, once it is there."""
        self._fired = fired

    def cancel(self) -> None:
        """The answer is of no use any more.  The layer that is waited for may still take a while to end."""
        self._isCancelled = True
        self._stopTimer()
        if self._pending is not None:
            self._pending.cancel()

    def _ask(self, answer: Any) -> bool:
        """
        Take the answer of this link, and ask those behind it.

        @return: whether all is said; else something is waited for.
        """
        while True:
            if type(answer) is PendingAnswer:
                self._wait(answer)
                return False
            if self._isDecided(answer):
                return True
            answer = None
            self._index += 1
            # A layer may have lost its own connection.
            if self._index == len(self._chain.links) or self._isCancelled:
                return True
            answer = self._callLink()

    def _callLink(self) -> Any:
        link = self._link
        if link.exempts is not None:
            isExempt = self._caller.call(link.label, link.exempts, self._arguments[-1:])
            if isExempt:
                return isExempt if isinstance(isExempt, Failure) else None
        return self._caller.call(link.label, link.function, self._arguments)

    def _isDecided(self, answer: Any) -> bool:
        """Whether no further link is asked."""
        if answer is None:
            return False
        chain = self._chain
        answer = self._runner.checked(chain.hook, answer)
        if not isinstance(answer, Failure):
            if chain.decides or isinstance(answer, str):
                self.answer = answer
            return chain.decides
        self._blame()
        if chain.hook in TOLD:
            self._runner.logFailure(chain.hook, answer)
            return False
        return self._isRefused(self._runner.refusalFor(chain.hook, answer), isFault=not answer.check(SMTPError))

    def _isRefused(self, refusal: SMTPError, isFault: bool) -> bool:
        if isFault and self._link.mayFail:
            return False
        self.answer = Failure(refusal)
        return True

    def _blame(self) -> None:
        """Whatever is logged about the chain from here on is about this link."""
        self._caller.blamed = (self._chain.hook, self._link.label)

    # --- waiting ---

    def _wait(self, pending: PendingAnswer) -> None:
        self._blame()
        self._pending = pending
        timeout = self._link.timeout
        if timeout:
            self._timer = self._chain.callLater(timeout, self._timeOut)
        pending.whenThere(self._came)
        if self._isCancelled:
            self.cancel()  # The layer has lost its own connection.

    def _came(self) -> None:
        pending = self._pending
        self._stopTimer()
        if pending is not None:
            self._pending = None
            self._resume(pending.result)

    def _resume(self, answer: Any) -> None:
        if self._isCancelled:
            self.answer = answer
        elif not self._ask(answer):
            return
        self._tell()

    def _tell(self) -> None:
        fired, self._fired = self._fired, None
        if fired is not None:
            fired(self.answer)

    def _timeOut(self) -> None:
        self._timer = None
        pending, self._pending = self._pending, None
        if pending is None:
            return
        hook = self._chain.hook
        self._blame()
        self._runner.logTimedOut(hook)
        self._runner.cancel(hook, pending)
        if (hook not in TOLD and self._isRefused(HOOK_TIMED_OUT.asError(), isFault=True)) or self._ask(None):
            self._tell()

    def _stopTimer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
