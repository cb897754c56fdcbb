"""
The directive C{smtphooks-states}: which command leads from which state of the dialogue to which.
This module knows no command by name.
"""

from __future__ import annotations

from typing import Any


def setup(app: Any) -> dict[str, bool]:
    return {"parallel_read_safe": True}
