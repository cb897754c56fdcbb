"""
Layers: ready-made hooks objects, each of which decides one thing about clients, recipients or messages.

Each can be used alone or beside others, in C{hooks=[…]} or as a C{[[layer]]} of the configuration.  They import only
what users' own layers can import, and know nothing of one another.
"""

from smtphooks.layers.senderauthentication import SenderAuthentication

__all__ = [
    "SenderAuthentication",
]
