"""
For the tests of programs that send mail, and of hooks: a real server in a thread, and a client in memory.

What is here uses public names only, as the code of a user would.
It knows nothing of pytest but in its plugin, and wants no knowledge of Twisted.
"""

from smtphooks.testing.answer import NoReply
from smtphooks.testing.dialogue import Dialogue
from smtphooks.testing.faults import Drop, Fail, Garble, Stall
from smtphooks.testing.memory import ReceivedReply
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
