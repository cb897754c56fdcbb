"""
Stores: ready-made hooks that store messages, or hand them on.

They import what users' own hooks can import, kinds of options and the client, and know nothing of a server's own
options and connections.
"""

from smtphooks.stores.command import Command
from smtphooks.stores.discard import Discard
from smtphooks.stores.maildir import Maildir
from smtphooks.stores.rabbitmq import RabbitMQ
from smtphooks.stores.relay import Relay
from smtphooks.stores.tee import Tee
from smtphooks.stores.webhook import Webhook

__all__ = ["Command", "Discard", "Maildir", "RabbitMQ", "Relay", "Tee", "Webhook"]
