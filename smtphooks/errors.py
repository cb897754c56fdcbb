"""
Errors of options: one sentence for the operator, which names the option, what it got and what it wants.

This module knows no option, and not where a value was written.
"""

from __future__ import annotations

import difflib
import string
from collections.abc import Callable, Iterable
from typing import Any


class _Sentence(string.Formatter):
    """Fills a sentence; values marked C{{!r}} are written in a notation of the caller's."""

    def __init__(self, notation: Callable[[object], str]) -> None:
        self._notation = notation

    def convert_field(self, value: Any, conversion: Any) -> Any:
        return self._notation(value) if conversion == "r" else value


class OptionWarning(UserWarning):
    """An option that was probably not meant as it is."""


class OptionError(ValueError):
    """
    An option that does not exist, has a wrong value, or conflicts with another.

    C{str} writes values as Python does; L{said} in any notation, such as that of a configuration file.

    @ivar options: the names of the options concerned.
    @ivar host: the server name in C{sniOptions} that has them, None for the main options.
    """

    def __init__(self, sentence: str, *values: object, options: Iterable[str] = (), host: str | None = None) -> None:
        """
        @param sentence: has C{{!r}} for each value; without values it is not formatted.
        """
        super().__init__(sentence, *values)
        self._sentence = sentence
        self._values = values
        self.options: tuple[str, ...] = tuple(options)
        self.host = host

    def said(self, notation: Callable[[object], str] = repr) -> str:
        """The sentence with its values in a notation, without the server name."""
        if not self._values:
            return self._sentence
        return _Sentence(notation).vformat(self._sentence, self._values, {"true": True, "false": False})

    def __str__(self) -> str:
        return f"in sniOptions of {self.host}: {self.said()}" if self.host is not None else self.said()

    def ofOption(self, name: str) -> OptionError:
        """The same error with the name of its option, which the code that raised it did not know."""
        return OptionError(f"option {name} is wrong: {self._sentence}", *self._values, options=[name])

    def ofHost(self, host: str) -> OptionError:
        """The same error for the options of a server name."""
        return OptionError(self._sentence, *self._values, options=self.options, host=host)


def unknownName(what: str, name: str, known: Iterable[str]) -> str:
    """The sentence for an unknown name, with the nearest known one."""
    byLowerCase = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(str(name).lower(), byLowerCase, n=1)
    return f"unknown {what} {name}" + (f", did you mean {byLowerCase[near[0]]}?" if near else "")
