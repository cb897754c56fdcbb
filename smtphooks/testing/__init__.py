"""
For the tests of programs that send mail, and of hooks: a real server in a thread, and a client in memory.

L{SMTPServerThread} is the server, L{Dialogue} the client.  Whoever uses them need not know Twisted.
These modules know nothing of pytest, whose plugin is C{pytest_smtphooks.py}.
"""

from smtphooks.client.reply import ReceivedReply
from smtphooks.testing.answer import NoReply
from smtphooks.testing.dialogue import Dialogue
from smtphooks.testing.faults import Drop, Fail, Garble, Stall
from smtphooks.testing.messages import ReceivedMessage
from smtphooks.testing.thread import SMTPServerThread

__all__ = [
    "Dialogue",
    "Drop",
    "Fail",
    "Garble",
    "NoReply",
    "ReceivedMessage",
    "ReceivedReply",
    "SMTPServerThread",
    "Stall",
]
