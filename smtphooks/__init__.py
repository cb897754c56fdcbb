"""
smtphooks: an SMTP and LMTP server for Twisted whose behaviour is decided by lifecycle hooks.

C{from smtphooks import SMTPServerFactory} is where to start.  Octets go one way, through these folders::

    syntax/      octets to values: command lines, message octets, addresses, headers of proxies; no Twisted
    dialogue/    the state machine: a command in, a reply or a question for a hook out; no Twisted
    connection/  one connection: its deadlines and back-pressure, calls of hooks, the message, writing

with, at the side of that way::

    admission/   which clients may connect: trusted proxies, reverse look-up, limits
    tls/         certificates, contexts, what a peer showed, why a handshake failed
    sasl/        the mechanisms of AUTH
    layers/      ready-made hooks that decide about clients, recipients and messages
    stores/      ready-made hooks that keep messages, or hand them on
    client/      the other side of the dialogue
    metrics/     what servers do, counted for Prometheus
    testing/     for the tests of others: a server in a thread, a client in memory
    service/     twistd, the configuration file, systemd, the supervisor of several workers
    command/     what the command smtphooks does besides serving

Beside the folders stand what users name (the factory, the protocol, hooks, options, replies, the session, the stream of
a message, extensions) and the values that every folder may import; C{sharedtable}, in which the workers of a machine
count together, and C{sharedlock}, by which one of them speaks for all; C{reactor}, on which all of this runs with less
work than on Twisted's own; and C{__main__}, which is the command.  This module only publishes the public names.
"""

from smtphooks._version import __version__
from smtphooks.consumer import ConsumerStopped
from smtphooks.errors import OptionError
from smtphooks.extension import Extension
from smtphooks.factory import SMTPServerFactory
from smtphooks.hooks import Hooks, ISMTPHooks, Unavailable, asyncioHook
from smtphooks.layer import Layer
from smtphooks.options import Options
from smtphooks.protocol import SMTPServerProtocol
from smtphooks.replies import SMTPError
from smtphooks.sasl.auth import Auth, AuthResponse
from smtphooks.service.service import SMTPService
from smtphooks.session import Address, Envelope, Session, TLSInfo
from smtphooks.spool import Spool
from smtphooks.stream import MessageStream

__all__ = [
    "Address",
    "Auth",
    "AuthResponse",
    "ConsumerStopped",
    "Envelope",
    "Extension",
    "Hooks",
    "ISMTPHooks",
    "Layer",
    "MessageStream",
    "OptionError",
    "Options",
    "SMTPError",
    "SMTPServerFactory",
    "SMTPServerProtocol",
    "SMTPService",
    "Session",
    "Spool",
    "TLSInfo",
    "Unavailable",
    "__version__",
    "asyncioHook",
]
