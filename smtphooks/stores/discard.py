"""
The store that stores nothing: every message is accepted and dropped, as C{discard = true} does without layers.

It is for layers that only decide or count, and for tests of clients.
This module knows no commands, no transport and no options.
"""

from __future__ import annotations

from smtphooks.session import Session
from smtphooks.stream import MessageStream


class Discard:
    """Hooks that drop every message, C{smtphooks.stores.Discard}; in TOML C{smtphooks.stores:Discard}."""

    def onData(self, stream: MessageStream, session: Session) -> None:
        """The rest of a message that a hook does not read is drained."""
