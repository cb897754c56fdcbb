"""The pages of the documentation about layers, read by their tests."""

from __future__ import annotations

import re
import textwrap


def blocksOf(page: str, language: str) -> list[str]:
    """The blocks of code in a page."""
    found = re.findall(rf"^\.\. code-block:: {language}\n(?:    :name: .*\n)?\n((?:    .*\n|\n)+)", page, re.MULTILINE)
    return [textwrap.dedent(block) for block in found]
