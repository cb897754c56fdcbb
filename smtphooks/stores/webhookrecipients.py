"""
What a webhook has said of recipients a moment ago, so that it is not asked again for each message.

In: answers.  Out: the same answers for some seconds.  Rule: memory is bounded, what was asked for least recently goes.
This module knows no request, and not which answers are worth keeping.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from smtphooks.stores.webhookreplies import Answer

_MOST = 10000


class _Kept(NamedTuple):
    answer: Answer
    until: float


class RecipientAnswers:
    """Answers by the address of the recipient."""

    def __init__(self, time: float) -> None:
        """
        @param time: seconds that an answer is kept, 0 to keep none.
        """
        self._time = time
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def maybeAnswer(self, address: str, now: float) -> Answer | None:
        """The answer that was kept, if it is not too old."""
        kept = self._kept.get(address)
        if kept is None:
            return None
        if kept.until <= now:
            del self._kept[address]
            return None
        self._kept.move_to_end(address)
        return kept.answer

    def keep(self, address: str, answer: Answer, now: float) -> None:
        """Keep an answer."""
        if self._time:
            self._kept[address] = _Kept(answer, now + self._time)
            self._kept.move_to_end(address)
            if len(self._kept) > _MOST:
                self._kept.popitem(last=False)
