"""
Stores: ready-made hooks that store messages.

They import only what users' own hooks can import, and know nothing of options and connections.
"""

from smtphooks.stores.maildir import Maildir

__all__ = ["Maildir"]
