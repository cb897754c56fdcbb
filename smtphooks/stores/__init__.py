"""
Stores: ready-made hooks that store messages.

They import only what users' own hooks can import, and know nothing of options and connections.
"""

from smtphooks.stores.command import Command
from smtphooks.stores.discard import Discard
from smtphooks.stores.maildir import Maildir
from smtphooks.stores.rabbitmq import RabbitMQ
from smtphooks.stores.relay import Relay
from smtphooks.stores.tee import Tee
from smtphooks.stores.webhook import Webhook

__all__ = ["Command", "Discard", "Maildir", "RabbitMQ", "Relay", "Tee", "Webhook"]
