"""
The commands of a trusted proxy or filter: XCLIENT and XFORWARD, as Postfix documents them.

XCLIENT makes the session that of somebody else, XFORWARD only says who it was.  Both are believed from listed peers
alone (invariant 8), and are applied wholly or not at all.
A handler gets the dialogue and the argument of the command, yields what it must know first and returns the reply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smtphooks import replies
from smtphooks.dialogue import authentication
from smtphooks.dialogue.steps import Task
from smtphooks.netaddress import bracketed
from smtphooks.replies import Reply
from smtphooks.sasl.mechanisms import Auth
from smtphooks.syntax import xclient

if TYPE_CHECKING:
    from smtphooks.dialogue.engine import Dialogue
    from smtphooks.session import Session


def xClient(dialogue: Dialogue, argument: str) -> Task:
    """XCLIENT_README: the session starts anew, as that of the client named, and with a greeting."""
    session = dialogue.session
    if not dialogue.extensions.inForce("XCLIENT", session):
        return replies.NOT_IMPLEMENTED
    if dialogue.inTransaction:
        return replies.NOT_NOW
    attributes = xclient.parseXClient(argument)
    # Attributes may come in several commands.
    user = session.user if session.xClient.get("LOGIN") and "LOGIN" not in attributes else None
    if attributes.get("LOGIN"):
        # The proxy has asked for the password, but whose name is worth anything is still the hook's to say.
        response = yield from authentication.judge(dialogue, Auth(method="XCLIENT", username=attributes["LOGIN"] or ""))
        if not response.accepts:
            return authentication.refusalOf(response)
        user = response.user
    dialogue.startAnew()
    session.user = user
    session.xClient = {**session.xClient, **{name: value or "" for name, value in attributes.items()}}
    _become(session, attributes)
    return dialogue.greeting()


def _become(session: Session, attributes: dict[str, str | None]) -> None:
    if "ADDR" in attributes:
        session.remoteAddress = attributes["ADDR"] or ""
        session.remotePort = 0
        # From here on it is the client who speaks, and nobody believes what that says of itself.
        session.proxies = frozenset()
    if "ADDR" in attributes or "NAME" in attributes:
        session.clientHostname = _hostnameOf(session.xClient.get("NAME", ""), session.remoteAddress)
    if "PORT" in attributes:
        session.remotePort = int(attributes["PORT"] or 0)
    if "DESTADDR" in attributes:
        session.localAddress = attributes["DESTADDR"] or ""
        session.localPort = 0
    if "DESTPORT" in attributes:
        session.localPort = int(attributes["DESTPORT"] or 0)
    session.hostNameAppearsAs = session.xClient.get("HELO", "")


def _hostnameOf(name: str, address: str) -> str:
    if name and name != xclient.TEMPORARILY_UNKNOWN:
        return name
    return bracketed(address)


def xForward(dialogue: Dialogue, argument: str) -> Reply:
    """XFORWARD_README: for the log of who gets the next message; nothing else depends on it."""
    session = dialogue.session
    if not dialogue.extensions.inForce("XFORWARD", session):
        return replies.NOT_IMPLEMENTED
    if dialogue.inTransaction:
        return replies.NOT_NOW
    attributes = xclient.parseXForward(argument)
    session.xForward = {**session.xForward, **{name: value or "" for name, value in attributes.items()}}
    return replies.OK
