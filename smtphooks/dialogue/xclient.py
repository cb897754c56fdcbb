"""
XCLIENT and XFORWARD, the extensions for trusted proxies and filters that Postfix documents, and their commands.

XCLIENT makes the session that of another client, XFORWARD only names that client for the next message.  Both are taken
from listed peers alone (invariant 8), and their attributes count all together or not at all.
This module knows what becomes of an attribute; its syntax is known to L{smtphooks.syntax.xclient} alone.
"""

from __future__ import annotations

from smtphooks import replies
from smtphooks.dialogue import authentication
from smtphooks.dialogue.context import Command, Context
from smtphooks.dialogue.extensions import PeerExtension, isDisabled
from smtphooks.dialogue.steps import Task
from smtphooks.netaddress import bracketed
from smtphooks.options import Options
from smtphooks.replies import Reply
from smtphooks.sasl.auth import Auth
from smtphooks.session import Session
from smtphooks.syntax import xclient
from smtphooks.syntax.networks import peersOf


def extensionsOf(options: Options) -> tuple[PeerExtension, PeerExtension]:
    """Both extensions, for the peers that the options list."""

    def extension(verb: str, attributes: str, option: str, value: object) -> PeerExtension:
        return PeerExtension(
            verb,
            lambda session: None if isDisabled(verb, options, session) else attributes,
            peers=peersOf(option, value) if value else None,
        )

    return (
        extension("XCLIENT", xclient.xClientKeywords, "useXClient", options.useXClient),
        extension("XFORWARD", xclient.xForwardKeywords, "useXForward", options.useXForward),
    )


def xClient(context: Context, argument: str, answer: None) -> Task:
    """XCLIENT_README: the session starts anew, as that of the client named, and with a greeting."""
    session = context.session
    if not context.extensions.isInForce("XCLIENT"):
        return replies.NOT_IMPLEMENTED
    if context.inTransaction:
        return replies.NOT_NOW
    attributes = xclient.parseXClient(argument)
    # Attributes may come in several commands.
    user = session.user if session.xClient.get("LOGIN") and "LOGIN" not in attributes else None
    if attributes.get("LOGIN"):
        # The proxy has verified the password; whether the name may act here is for the hook to decide.
        attempt = Auth(method="XCLIENT", username=attributes["LOGIN"] or "")
        response = yield from authentication.askOnAuth(context, attempt)
        if not response.accepts:
            return authentication.failureReply(response)
        user = response.user
    context.startAnew()
    session.user = user
    session.xClient = {**session.xClient, **_known(attributes)}
    if "ADDR" in attributes:
        # From here on the client speaks, and it is not trusted with what it says of itself.
        context.extensions.distrust()
    _become(session, attributes)
    return context.greeting()


def _known(attributes: dict[str, str | None]) -> dict[str, str]:
    return {name: value or "" for name, value in attributes.items()}


def _become(session: Session, attributes: dict[str, str | None]) -> None:
    if "ADDR" in attributes:
        session.remoteAddress = attributes["ADDR"] or ""
        session.remotePort = 0
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


def readXForward(context: Context, argument: str) -> dict[str, str] | Reply:
    """XFORWARD_README: for the log and the hooks of the next message; nothing else depends on it."""
    if not context.extensions.isInForce("XFORWARD"):
        return replies.NOT_IMPLEMENTED
    if context.inTransaction:
        return replies.NOT_NOW
    return _known(xclient.parseXForward(argument))


def acceptXForward(context: Context, attributes: dict[str, str], answer: None) -> Reply:
    """Attributes may come in several commands."""
    session = context.session
    session.xForward = {**session.xForward, **attributes}
    return replies.OK


COMMANDS = {
    "XCLIENT": Command(xClient, extension="XCLIENT", junk=True),
    "XFORWARD": Command(acceptXForward, readXForward, extension="XFORWARD", junk=True),
}
