"""
Limits: what the dialogue counts of a client and of its transaction, and how much is too much.

Hooks may change the session and the envelope, but not these counts, so no hook lifts a limit by accident.
This module knows neither options nor replies, and no command but those that lead to authentication.
"""

from __future__ import annotations

import attrs

# Commands that do not count before authentication: they lead to it, or end the connection.
_TOWARDS_AUTHENTICATION = frozenset({"HELO", "EHLO", "LHLO", "STARTTLS", "AUTH", "QUIT"})

# Where the number of recipients is limited, so is the memory that they take: octets of the MAIL and RCPT commands that
# were accepted.  A thousand recipients with the longest paths, or with usual ones and DSN parameters, have room in it.
_ENVELOPE_OCTETS = 512 * 1024

# RFC 5321 section 4.5.3.1.10: a client may send any number of recipients and try the refused ones again later.  As with
# Postfix (smtpd_recipient_overshoot_limit), so many more are refused before the connection is closed.
_RECIPIENTS_REFUSED = 1000


class Counts:
    """
    What a client has done on this connection.

    Each C{add…} counts one more, and answers whether there are now more than C{most}; 0 and False are no limit.

    @ivar errors: 4xx and 5xx replies of the server itself.
    @ivar junk: commands since the last message that bring no message on.
    @ivar unrecognized: commands that the server does not know.
    @ivar unauthenticated: commands before authentication, but for those that lead to it.
    @ivar messages: transactions that have come to a message.
    @ivar authFailures: failed attempts of AUTH since the last success.
    """

    __slots__ = ("authFailures", "errors", "junk", "messages", "unauthenticated", "unrecognized")

    authFailures: int
    errors: int
    junk: int
    messages: int
    unauthenticated: int
    unrecognized: int

    def __init__(self) -> None:
        self.errors = self.junk = self.unrecognized = self.unauthenticated = self.messages = self.authFailures = 0

    def addError(self, most: int) -> bool:
        self.errors += 1
        return 0 < most < self.errors

    def addJunk(self, most: int) -> bool:
        self.junk += 1
        return 0 < most < self.junk

    def addUnrecognized(self, most: int) -> bool:
        self.unrecognized += 1
        return 0 < most < self.unrecognized

    def addUnauthenticated(self, most: int, verb: str) -> bool:
        if verb not in _TOWARDS_AUTHENTICATION:
            self.unauthenticated += 1
        return 0 < most < self.unauthenticated


@attrs.define
class Tally:
    """
    What the dialogue itself knows of the current transaction, whatever hooks do to the envelope.

    @ivar isBinary: the message is BINARYMIME.
    @ivar isUtf8: the client has asked for SMTPUTF8.
    @ivar recipients: how many were accepted.
    @ivar refused: how many were refused for lack of room.
    @ivar octets: of the MAIL and RCPT commands that were accepted.
    """

    isBinary: bool = False
    isUtf8: bool = False
    recipients: int = 0
    refused: int = 0
    octets: int = 0

    def hasRoom(self, most: int, octets: int) -> bool:
        """
        May a further recipient be accepted?

        @param most: the limit of recipients, 0 for none.
        @param octets: of its RCPT command.
        """
        return not most or (self.recipients < most and self.octets + octets <= _ENVELOPE_OCTETS)

    def addRefused(self) -> bool:
        """Count a recipient that is refused for lack of room; is it one too many?"""
        self.refused += 1
        return self.refused > _RECIPIENTS_REFUSED
