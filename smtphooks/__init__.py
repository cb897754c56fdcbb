"""
smtphooks: an SMTP and LMTP server for Twisted whose behaviour is decided by lifecycle hooks.

This module only publishes names; C{from smtphooks import SMTPServerFactory} is where to start.
"""

from smtphooks._version import __version__
from smtphooks.connection.calling import asyncioHook
from smtphooks.errors import OptionError
from smtphooks.extension import Extension
from smtphooks.factory import SMTPServerFactory
from smtphooks.hooks import Hooks, ISMTPHooks
from smtphooks.options import Options
from smtphooks.protocol import SMTPServerProtocol
from smtphooks.replies import SMTPError
from smtphooks.sasl.auth import Auth, AuthResponse
from smtphooks.service.service import SMTPService
from smtphooks.session import Address, Envelope, Session, TLSInfo
from smtphooks.stream import ConsumerStopped, MessageStream

__all__ = [
    "Address",
    "Auth",
    "AuthResponse",
    "ConsumerStopped",
    "Envelope",
    "Extension",
    "Hooks",
    "ISMTPHooks",
    "MessageStream",
    "OptionError",
    "Options",
    "SMTPError",
    "SMTPServerFactory",
    "SMTPServerProtocol",
    "SMTPService",
    "Session",
    "TLSInfo",
    "__version__",
    "asyncioHook",
]
