"""
TOML: values and tables in, their notation out, as Python reads TOML but does not write it.

C{--check} prints it, and sentences about a configuration show values in it; a value without a notation in TOML is
written as Python writes it.
This module knows nothing of configurations, of options, or of what may be shown.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence


def toTOML(value: object) -> str:
    """A value, on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON's escapes are valid in TOML; DEL must be escaped in TOML only.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{" + ", ".join(pair(name, item) for name, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return "[" + ", ".join(map(toTOML, value)) + "]"
    return value.isoformat() if isinstance(value, (datetime.date, datetime.time)) else repr(value)


def pair(name: str, value: object) -> str:
    """A key and its value."""
    return f"{key(name)} = {toTOML(value)}"


def key(name: str) -> str:
    """A key, in quotes if it needs them."""
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else toTOML(name)


def table(header: str, values: Mapping[str, object]) -> str:
    """A table, with a line for each of its keys."""
    return "".join(f"{line}\n" for line in [header, *(pair(name, value) for name, value in values.items())])
