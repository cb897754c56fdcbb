"""
Where the names of Python and Twisted are documented that our docstrings link to.

pydoctor reads an inventory as Sphinx writes it.  Those of Python and Twisted would have to be fetched at each build,
for the sake of a few names, so inventories of just these are written here.
This module knows no page, and nothing of smtphooks.
"""

from __future__ import annotations

import zlib
from pathlib import Path

TWISTED = "https://docs.twisted.org/en/stable/api/"
PYTHON = "https://docs.python.org/3/library/"

NAMES = {
    TWISTED: [
        "twisted.internet.defer.CancelledError",
        "twisted.internet.defer.Deferred",
        "twisted.python.failure.Failure",
    ],
    PYTHON: ["email.message.Message"],
}


def write(folder: Path) -> list[str]:
    """Write an inventory for each site; what pydoctor's option C{--intersphinx-file} wants for each."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = []
    for number, (site, names) in enumerate(NAMES.items()):
        head = (
            "# Sphinx inventory version 2\n# Project: names\n# Version: 1\n# The remainder is compressed using zlib.\n"
        )
        lines = [f"{name} py:class 1 {_page(site, name)} -\n" for name in names]
        path = folder / f"{number}.inv"
        path.write_bytes(head.encode() + zlib.compress("".join(lines).encode()))
        arguments.append(f"{path}::{site}")
    return arguments


def _page(site: str, name: str) -> str:
    return f"{name}.html" if site == TWISTED else f"email.compat32-message.html#{name}"
