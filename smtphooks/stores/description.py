"""
The description of a message for programs that take it on: what its envelope, its session and the layers say.

In: the session of C{onData}.  Out: one mapping, made of what JSON has; all stores that hand a message to a program
describe it in this way.
This module knows no store, and neither headers nor queues.
"""

from __future__ import annotations

from typing import Any

from smtphooks.session import Address, Session


def describe(session: Session) -> dict[str, Any]:
    """
    What is known of the current message besides its octets.

    @return: C{"id"}, unique to the message; C{"envelope"} and C{"session"}, with what is known of each; C{"verdicts"},
        as L{Session.verdicts} has them.  Unknown values are None.
    """
    envelope = session.envelope
    sender = envelope.mailFrom or Address("")
    return {
        "id": f"{session.id}.{session.transaction}",
        "envelope": {
            "mailFrom": sender.address,
            "rcptTo": [address.address for address in envelope.rcptTo],
            "mailParameters": dict(sender.args),
            "rcptParameters": [dict(address.args) for address in envelope.rcptTo],
            "bodyType": envelope.bodyType,
            "smtpUtf8": envelope.smtpUtf8,
            "requireTLS": envelope.requireTLS,
        },
        "session": {
            "id": session.id,
            "transaction": session.transaction,
            "localName": session.localName,
            "remoteAddress": session.remoteAddress,
            "remotePort": session.remotePort,
            "localAddress": session.localAddress,
            "localPort": session.localPort,
            "clientHostname": session.clientHostname,
            "hostNameAppearsAs": session.hostNameAppearsAs,
            "transmissionType": session.transmissionType,
            "secure": session.secure,
            "tls": session.tlsOptions and session.tlsOptions._asdict(),
            "peerIdentity": session.peerIdentity,
            "user": None if session.user is None else str(session.user),
        },
        "verdicts": session.verdicts,
    }
