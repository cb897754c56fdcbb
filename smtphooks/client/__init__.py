"""
The other side of the dialogue: a client of SMTP and LMTP servers.

A core without I/O (C{conversation}, C{opening}, C{content}, C{reply}), and Twisted's endpoints as the user of it.
"""

from smtphooks.client.client import Delivery, SMTPClient
from smtphooks.client.errors import ClientError, NotOffered, Refused, Unreachable, errorOf
from smtphooks.client.reply import ReceivedReply
from smtphooks.client.route import Route, routeTo
from smtphooks.client.timeouts import Timeouts
from smtphooks.client.transaction import Transaction

__all__ = [
    "ClientError",
    "Delivery",
    "NotOffered",
    "ReceivedReply",
    "Refused",
    "Route",
    "SMTPClient",
    "Timeouts",
    "Transaction",
    "Unreachable",
    "errorOf",
    "routeTo",
]
