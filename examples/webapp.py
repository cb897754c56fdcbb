"""
HTTP and SMTP in one process: a web application whose users receive mail, on one reactor.

    python webapp.py maildir

    curl -d address=ann@example.org http://127.0.0.1:8080/recipients
    curl http://127.0.0.1:8080/messages

Both sides share plain objects, as there are no threads: an address that was just added over HTTP is known to the next
RCPT.  The recipients are in a file; messages go to the Maildir, which acknowledges them when they are on the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from email import message_from_binary_file
from pathlib import Path
from typing import Any

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import react
from twisted.internet.threads import deferToThread
from twisted.logger import Logger, globalLogBeginner, textFileLogObserver
from twisted.web.server import Site

from smtphooks import Address, Session, SMTPError, SMTPServerFactory, SMTPService
from smtphooks.stores import Maildir

log = Logger()


class WebApp:
    """The application: what HTTP and SMTP do to its recipients and messages."""

    app = Klein()

    def __init__(self, maildir: Path) -> None:
        self.maildir = maildir
        self.file = maildir.with_name(f"{maildir.name}.recipients")
        self.recipients = set(self.file.read_text().split()) if self.file.exists() else set()

    # SMTP

    def onRcptTo(self, address: Address, session: Session) -> None:
        if address.address.lower() not in self.recipients:
            raise SMTPError("No such user here", 550, "5.1.1")

    # HTTP

    @app.route("/recipients", methods=["GET"])
    def known(self, request: Any) -> str:
        return asJSON(request, sorted(self.recipients))

    @app.route("/recipients", methods=["POST"])
    def add(self, request: Any) -> str:
        address = request.args.get(b"address", [b""])[0].decode(errors="replace").lower()
        if address.count("@") != 1 or not address.isprintable() or " " in address:
            return asJSON(request, "address is missing, or is none", 400)
        recipients = self.recipients | {address}
        # First the file, then the answer; and never half of a file.
        temporary = self.file.with_name(f"{self.file.name}.new")
        temporary.write_text("".join(f"{each}\n" for each in sorted(recipients)))
        os.replace(temporary, self.file)
        self.recipients = recipients
        return asJSON(request, address, 201)

    @app.route("/messages")
    async def messages(self, request: Any) -> str:
        # Files are read in a thread, so that SMTP goes on meanwhile.
        return asJSON(request, await deferToThread(self.readMessages))

    def readMessages(self) -> list[dict[str, str | None]]:
        found = []
        for path in sorted(self.maildir.glob("new/*")):
            with path.open("rb") as file:
                message = message_from_binary_file(file)
            found.append({name: message[name] for name in ("Delivered-To", "From", "Subject")})
        return found


def asJSON(request: Any, value: object, status: int = 200) -> str:
    request.setHeader("Content-Type", "application/json")
    request.setResponseCode(status)
    return json.dumps(value) + "\n"


async def main(reactor: Any) -> None:
    parser = argparse.ArgumentParser(description="A web application whose users receive mail.")
    parser.add_argument("maildir", type=Path, help="the Maildir that messages are stored in")
    parser.add_argument("--listen", default="tcp:2525:interface=127.0.0.1", help="an endpoint for SMTP (%(default)s)")
    parser.add_argument("--http", default="tcp:8080:interface=127.0.0.1", help="an endpoint for HTTP (%(default)s)")
    given = parser.parse_args()
    observer: Any = textFileLogObserver(sys.stdout)  # type checkers do not know the interfaces of zope
    globalLogBeginner.beginLoggingTo([observer])
    webApp = WebApp(given.maildir)
    # Two objects of hooks: the application decides on recipients, the Maildir stores.
    factory = SMTPServerFactory(hooks=[webApp, Maildir(given.maildir)], authOptional=True, size=26214400)
    service = SMTPService(given.listen, factory)
    service.startService()
    # SIGTERM stops the service first: idle clients get 421, transactions finish.
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    endpoint: Any = serverFromString(reactor, given.http)
    port = await endpoint.listen(Site(webApp.app.resource()))
    log.info("listening on {address} for HTTP", address=port.getHost())
    await Deferred[None]()


if __name__ == "__main__":
    react(main)
