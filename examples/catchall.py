"""
A catch-all for development: it takes every message, for anyone and from anyone, and shows them on a page.

    python catchall.py

Point your application at port 2525 of 127.0.0.1, with or without a user and a password, and look at
http://127.0.0.1:8025/.  Nothing leaves the machine.  The last messages are in memory only, and end with the program.
GET /messages lists them as JSON, for tests; DELETE /messages forgets them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from email import message_from_bytes, policy
from html import escape
from itertools import count
from typing import Any, NamedTuple

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import react
from twisted.logger import Logger, globalLogBeginner, textFileLogObserver
from twisted.web.server import Site

from smtphooks import Auth, MessageStream, Session, SMTPServerFactory, SMTPService

log = Logger()

PAGE = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<title>Mail</title>
<style>body {{ font: 1em sans-serif }} td, th {{ padding: .3em 1em; text-align: left }}</style>
<table><tr><th>Subject<th>From<th>To<th>Octets</tr>{rows}</table></html>"""
ROW = '<tr><td><a href="/messages/{}">{}</a><td>{}<td>{}<td>{}</tr>'


class Caught(NamedTuple):
    number: int
    sender: str
    recipients: list[str]
    user: str | None
    subject: str
    octets: bytes


class CatchAll:
    app = Klein()

    def __init__(self, keep: int) -> None:
        self.caught: deque[Caught] = deque(maxlen=keep)
        self.numbers = count(1)

    # SMTP

    def onAuth(self, auth: Auth, session: Session) -> str:
        return auth.username

    async def onData(self, stream: MessageStream, session: Session) -> str:
        octets = await stream.read()
        recipients = [str(recipient) for recipient in session.envelope.rcptTo]
        sender = str(session.envelope.mailFrom)
        caught = Caught(next(self.numbers), sender, recipients, session.user, subjectOf(octets), octets)
        self.caught.append(caught)
        log.info("{n} is {subject!r} from {sender}", n=caught.number, subject=caught.subject, sender=sender)
        return f"Caught as {caught.number}"

    # HTTP

    @app.route("/")
    def page(self, request: Any) -> str:
        request.setHeader("Content-Type", "text/html; charset=utf-8")
        return PAGE.format(rows="".join(map(rowOf, reversed(self.caught))))

    @app.route("/messages", methods=["GET"])
    def listed(self, request: Any) -> str:
        request.setHeader("Content-Type", "application/json")
        fields = ["number", "sender", "recipients", "user", "subject"]
        return json.dumps([{name: getattr(caught, name) for name in fields} for caught in self.caught])

    @app.route("/messages", methods=["DELETE"])
    def forget(self, request: Any) -> None:
        self.caught.clear()

    @app.route("/messages/<int:number>")
    def message(self, request: Any, number: int) -> bytes:
        # As text, whatever it is: nothing in a message runs in the browser.
        request.setHeader("Content-Type", "text/plain; charset=utf-8")
        request.setHeader("X-Content-Type-Options", "nosniff")
        for caught in self.caught:
            if caught.number == number:
                return caught.octets
        request.setResponseCode(404)
        return b"There is no such message\n"


def subjectOf(octets: bytes) -> str:
    try:
        return str(message_from_bytes(octets, policy=policy.default).get("Subject", "(none)"))
    except Exception:  # the email package raises all sorts of errors for malformed fields
        return "(not readable)"


def rowOf(caught: Caught) -> str:
    recipients = escape(", ".join(caught.recipients))
    return ROW.format(caught.number, escape(caught.subject), escape(caught.sender), recipients, len(caught.octets))


async def main(reactor: Any) -> None:
    parser = argparse.ArgumentParser(description="Catch all mail, and show it on a page.")
    parser.add_argument("--listen", default="tcp:2525:interface=127.0.0.1", help="an endpoint for SMTP (%(default)s)")
    parser.add_argument("--http", default="tcp:8025:interface=127.0.0.1", help="an endpoint for HTTP (%(default)s)")
    parser.add_argument("--keep", type=int, default=100, help="how many messages to keep (%(default)s)")
    given = parser.parse_args()
    observer: Any = textFileLogObserver(sys.stdout)  # type checkers do not know the interfaces of zope
    globalLogBeginner.beginLoggingTo([observer])
    catchAll = CatchAll(given.keep)
    factory = SMTPServerFactory(
        hooks=catchAll,
        authOptional=True,
        allowInsecureAuth=True,
        hideSTARTTLS=True,  # the certificate would be one that no client trusts
        size=10485760,
    )
    service = SMTPService(given.listen, factory)
    service.startService()
    # SIGTERM stops the service first: idle clients get 421, transactions finish.
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    endpoint: Any = serverFromString(reactor, given.http)
    port = await endpoint.listen(Site(catchAll.app.resource()))
    log.info("listening on {address} for HTTP", address=port.getHost())
    await Deferred[None]()


if __name__ == "__main__":
    react(main)
