"""
How long a client waits for each thing that a server does (RFC 5321 section 4.5.3.2), in seconds.

This module knows no clock.
"""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Timeouts:
    """
    Seconds.  The defaults are those of RFC 5321 for an MTA that nobody waits for, except that of C{connect}.

    @ivar connect: for a connection, the resolution of the name included; and for TLS, wherever it begins.
    @ivar greeting: for the greeting.
    @ivar command: for the reply to EHLO, STARTTLS, AUTH, XCLIENT, MAIL, RCPT and RSET.
    @ivar data: for the reply to DATA.
    @ivar block: for the server to read on while a message is sent, and for the reply to a chunk.
    @ivar message: for the reply to the end of a message; with LMTP for that of each recipient.
    @ivar turn: for a connection to be free, where there are as many as there may be.
    """

    connect: float = 30.0
    greeting: float = 300.0
    command: float = 300.0
    data: float = 120.0
    block: float = 180.0
    message: float = 600.0
    turn: float = 30.0
