"""
What can go wrong between a client and a server, each with what to tell whoever waits for the message to be taken.

This module knows no connection, and not who asks.
"""

from __future__ import annotations

from smtphooks.client.reply import ReceivedReply
from smtphooks.replies import SMTPError


class ClientError(Exception):
    """
    A message, or a part of a dialogue, came to nothing.

    @ivar reply: the L{ReceivedReply} that says so, or None if there is none.
    @ivar isPermanent: trying again will not help.
    @ivar isOpening: it came before any transaction could begin, so it is about the server and not about a message.
    @ivar isOfIdentity: it is about the client that XCLIENT has named: the server may well take messages of others.
    """

    reply: ReceivedReply | None = None
    isPermanent: bool = False
    isOpening: bool = False
    isOfIdentity: bool = False
    _codes: tuple[int, str] = (451, "4.4.1")

    def __init__(self, what: str) -> None:
        # A server may say what it likes, and a log is read in a terminal.
        super().__init__(" ".join("".join(c if c.isprintable() else " " for c in what).split()))

    def asError(self) -> SMTPError:
        """The refusal for a client of ours whose message this is; a text of ours names no host."""
        code, enhancedCode = self._codes
        return SMTPError(str(self), code, enhancedCode)


class Refused(ClientError):
    """The server refuses: C{reply} says why."""

    def __init__(self, what: str, reply: ReceivedReply) -> None:
        super().__init__(f"{what}: {reply}")
        self.reply: ReceivedReply = reply
        self.isPermanent: bool = reply.isPermanent

    def asError(self) -> SMTPError:
        """The server's own refusal; C{421} and C{521}, which are about its connection with us, as one of a message."""
        return errorOf(self.reply)


class Unreachable(ClientError):
    """
    There is no connection, or none that can be used: refused, cut, timed out, without the TLS that must be, or with
    what speaks no SMTP.
    """

    def asError(self) -> SMTPError:
        """Temporary, whatever it is; the cause is for the operator."""
        return SMTPError("The next server cannot be reached now, please try again later", *self._codes)


class TLSFailed(Unreachable):
    """
    TLS did not come about.

    @ivar why: in a few words.
    @ivar isUntrusted: the certificate of the server is why.
    """

    def __init__(self, server: object, why: str, isUntrusted: bool) -> None:
        super().__init__(f"{server}: TLS fails, {why}")
        self.why: str = why
        self.isUntrusted: bool = isUntrusted


class NoMechanism(Unreachable):
    """
    The server offers no mechanism of AUTH that the credentials are good for.

    @ivar isInTheClear: it offers one, which would show the password to whoever reads on the way.
    """

    def __init__(self, what: str, isInTheClear: bool) -> None:
        super().__init__(what)
        self.isInTheClear: bool = isInTheClear


class NotOffered(ClientError):
    """The server does not offer what the message needs; temporary where the operator of one of the two can help."""

    def __init__(self, what: str, code: int = 554, enhancedCode: str = "5.6.3") -> None:
        super().__init__(what)
        self.isPermanent: bool = code >= 500
        self._codes: tuple[int, str] = (code, enhancedCode)


def because(error: Unreachable, cause: BaseException | None) -> Unreachable:
    """An error with its cause, as C{raise … from} gives it one."""
    error.__cause__ = cause
    return error


def errorOf(reply: ReceivedReply) -> SMTPError:
    """
    The refusal that a reply is, for a client of ours.

    A connection of that client is not to be closed because one of ours is: 421 becomes 451, and 521 (RFC 7504) 554.
    It is not that client either who has to authenticate or to begin TLS: 530 (RFC 4954, RFC 3207) is for the operator,
    and becomes 451.  What refuses nothing where it ought to is temporary.
    """
    code = {421: 451, 521: 554, 530: 451}.get(reply.code, reply.code)
    text = " ".join(reply.lines).strip()
    if code < 400:
        return SMTPError(text or "Not now", 451, "4.3.0")
    enhancedCode = {421: reply.enhancedCode or "4.3.2", 530: "4.3.5"}.get(reply.code, reply.enhancedCode)
    return SMTPError(text or "Refused", code, enhancedCode)
