"""
What a webhook's answer means for the client: text for 250, a refusal for good, or a fault.

In: an L{Answer}.  Out: the text of the reply.
Rule: only a few statuses refuse for good; whatever else comes is a fault, so that the client tries again and no mail is
lost.
This module knows no HTTP but its status codes, and no connection.
"""

from __future__ import annotations

from typing import NamedTuple

from smtphooks.hooks import Unavailable
from smtphooks.replies import SMTPError


class Answer(NamedTuple):
    """
    @ivar code: the status.
    @ivar text: its body in one line, if that is a short plain text; else empty.
    @ivar isOnAll: the webhook answered after all had been sent, and not on a part of the message.
    @ivar octets: the beginning of its body.
    """

    code: int
    text: str
    isOnAll: bool
    octets: bytes = b""

    @property
    def isYes(self) -> bool:
        """Is it 2xx?"""
        return 200 <= self.code <= 299


class WebhookFault(Unavailable):
    """A webhook cannot be reached, does not answer in time, or answers what is no answer."""


class StaleConnection(WebhookFault):
    """A connection was closed that an earlier request had left, before the first octet of an answer."""


# Answers of the webhook's application.  401, 405 and the like are mistakes of the operator, which must bounce no mail.
MESSAGE_REFUSALS = {
    400: SMTPError("Message refused", 554, "5.6.0"),
    403: SMTPError("Message refused", 550, "5.7.1"),
    404: SMTPError("No such recipient", 550, "5.1.1"),
    406: SMTPError("Message refused, its content is not accepted", 554, "5.6.1"),
    410: SMTPError("Recipient does not take mail any more", 550, "5.2.1"),
    413: SMTPError("Message too large", 552, "5.3.4"),
    422: SMTPError("Message refused, its content is invalid", 554, "5.6.0"),
}

RECIPIENT_REFUSALS = {
    400: SMTPError("Recipient refused", 550, "5.1.3"),
    403: SMTPError("Recipient refused", 550, "5.7.1"),
    404: SMTPError("No such recipient", 550, "5.1.1"),
    406: SMTPError("Recipient refused", 550, "5.7.1"),
    410: SMTPError("Recipient does not take mail any more", 550, "5.2.1"),
    413: SMTPError("Mailbox full", 552, "5.2.2"),
    422: SMTPError("Recipient refused", 550, "5.1.3"),
}

# Whoever answers these is not there: a proxy in front of it, or a server that sheds load.
_DOWN = (429, 502, 503, 504)


def checkIsUp(answer: Answer, name: str) -> None:
    """
    Does the webhook itself answer?

    @raise WebhookFault: for one of 429, 502, 503 and 504.
    """
    if answer.code in _DOWN:
        raise WebhookFault(f"{name} answers {answer.code}")


def textOf(answer: Answer, refusals: dict[int, SMTPError], name: str) -> str | None:
    """
    The text of the 250, None for the usual one.

    @raise SMTPError: if the webhook refuses for good.
    @raise Unavailable: for any other answer, and a yes to what has not been sent yet.
    """
    refusal = refusals.get(answer.code)
    if refusal is not None:
        raise SMTPError(answer.text or refusal.message, refusal.responseCode, refusal.enhancedCode)
    if not answer.isYes:
        raise Unavailable(f"{name} answers {answer.code}")
    if not answer.isOnAll:
        raise Unavailable(f"{name} answers {answer.code} before it has the whole message")
    return answer.text or None
