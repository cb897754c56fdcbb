"""
Errors of options: one sentence for the operator that names the option, what it got and what it wants.

This module knows no option, and nothing of where its value was written.
"""

from __future__ import annotations

import difflib
import string
from collections.abc import Callable, Iterable
from typing import Any


class _Sentence(string.Formatter):
    """Fills a sentence with values, C{{!r}} in one notation or another."""

    def __init__(self, notation: Callable[[object], str]) -> None:
        self._notation = notation

    def convert_field(self, value: Any, conversion: Any) -> Any:
        return self._notation(value) if conversion == "r" else value


class OptionError(ValueError):
    """
    An option that does not exist, has a wrong value, or does not go with another; its text is for people.

    Python's notation is C{str} of it; L{said} has others, such as that of a configuration file.

    @ivar options: the names of the options concerned.
    @ivar host: whose of C{sniOptions} they are, None for the main ones.
    """

    def __init__(self, sentence: str, *values: object, options: Iterable[str] = (), host: str | None = None) -> None:
        """
        @param sentence: with C{{!r}} for each value; without values it is taken as it is.
        """
        super().__init__(sentence, *values)
        self._sentence = sentence
        self._values = values
        self.options = tuple(options)
        self.host = host

    def said(self, notation: Callable[[object], str] = repr) -> str:
        """The sentence with values in a notation, without a word on the host."""
        if not self._values:
            return self._sentence
        return _Sentence(notation).vformat(self._sentence, self._values, {"true": True, "false": False})

    def __str__(self) -> str:
        return f"in sniOptions of {self.host}: {self.said()}" if self.host is not None else self.said()

    def ofOption(self, name: str) -> OptionError:
        """The same, said of an option by what knows no names."""
        return OptionError(f"option {name} is wrong: {self._sentence}", *self._values, options=[name])

    def ofHost(self, host: str) -> OptionError:
        """The same of a server name."""
        return OptionError(self._sentence, *self._values, options=self.options, host=host)


def unknownName(what: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that is not known, with the nearest that is."""
    byLowerCase = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(str(name).lower(), byLowerCase, n=1)
    return f"unknown {what} {name}" + (f", did you mean {byLowerCase[near[0]]}?" if near else "")
