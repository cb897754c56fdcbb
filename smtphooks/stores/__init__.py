"""
Stores: ready-made hooks that keep messages.

They import what a hook of anybody else could import, and nothing more.
"""

from smtphooks.stores.maildir import Maildir

__all__ = ["Maildir"]
