"""
Flags of a command that also takes an argument, in any order.

Arguments in, the same arguments out, in the order in which Twisted understands them.
This module knows no command.
"""

from __future__ import annotations

from collections.abc import Sequence
from getopt import GetoptError, gnu_getopt
from itertools import chain

from twisted.python.usage import Options


def flagsFirst(options: Options, arguments: Sequence[str]) -> list[str]:
    """The arguments with the target of the command at their end: Twisted takes no flag behind it."""
    try:
        flags, targets = gnu_getopt([*arguments], options.shortOpt, options.longOpt)
    except GetoptError:
        return [*arguments]  # Twisted will say so
    takers = [name for name in options.longOpt if name.endswith("=")]
    words = [[name, value] if f"{name.lstrip('-')}=" in takers or value else [name] for name, value in flags]
    return [*chain.from_iterable(words), "--", *targets]
