"""
A delivery agent behind Postfix: LMTP, a Maildir for each mailbox, folders by address extension.

    python lmtpagent.py /var/mail/vhosts

In Postfix: virtual_transport = lmtp:inet:127.0.0.1:2424.  A mailbox exists if its folder does: mail for
ann+lists@example.org goes to the folder .lists of /var/mail/vhosts/example.org/ann, or to that Maildir itself if there
is no such folder.  Each recipient has a reply of its own, so Postfix tries again for those alone that failed.
"""

from __future__ import annotations

import argparse
import copy
import re
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.logger import Logger, globalLogBeginner, textFileLogObserver

from smtphooks import Address, Envelope, MessageStream, Session, SMTPError, SMTPServerFactory, SMTPService
from smtphooks.stores import Maildir

log = Logger()

# What may become the name of a folder: no slash, and no dot in front.
NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]*")


class Agent:
    def __init__(self, root: Path) -> None:
        self.root = root

    def maildirOf(self, address: Address) -> Path | None:
        """The Maildir of a recipient, None if there is none."""
        mailbox, _, folder = address.local.lower().partition("+")
        domain = address.domain.lower()
        if not NAME.fullmatch(mailbox) or not NAME.fullmatch(domain):
            return None
        maildir = self.root / domain / mailbox
        if not maildir.is_dir():
            return None
        # Maildir++: a folder is a Maildir within the Maildir.
        inner = maildir / f".{folder}"
        return inner if NAME.fullmatch(folder) and inner.is_dir() else maildir

    def onRcptTo(self, address: Address, session: Session) -> None:
        if self.maildirOf(address) is None:
            raise SMTPError("No such mailbox", 550, "5.1.1")

    async def onData(self, stream: MessageStream, session: Session) -> list[str | SMTPError]:
        spool = await stream.spool()  # in memory or in a file without a name; read once for each recipient
        return [await self.deliver(spool.open(), session, recipient) for recipient in session.envelope.rcptTo]

    async def deliver(self, stream: MessageStream, session: Session, recipient: Address) -> str | SMTPError:
        """Store the message for one recipient; what fails for one must not fail for the others."""
        one = copy.copy(session)
        one.envelope = Envelope(session.envelope.mailFrom, [recipient])
        maildir = self.maildirOf(recipient)
        if maildir is None:
            return SMTPError("The mailbox has just been removed", 450, "4.2.1")
        try:
            # It returns when the file and its folder are on the disk.
            result = await Maildir(str(maildir)).onData(stream, one)
        except SMTPError as refusal:
            return refusal
        except OSError as error:
            log.error("cannot store in {maildir}: {error}", maildir=str(maildir), error=error)
            return SMTPError("The mailbox cannot be written to now", 451, "4.2.0")
        return result if isinstance(result, str) else result[0]


async def main(reactor: Any) -> None:
    parser = argparse.ArgumentParser(description="Deliver mail from Postfix to Maildirs.")
    parser.add_argument("root", type=Path, help="the folder that has a folder for each domain")
    parser.add_argument("--listen", default="tcp:2424:interface=127.0.0.1", help="an endpoint (%(default)s)")
    given = parser.parse_args()
    observer: Any = textFileLogObserver(sys.stdout)  # type checkers do not know the interfaces of zope
    globalLogBeginner.beginLoggingTo([observer])
    factory = SMTPServerFactory(hooks=Agent(given.root), lmtp=True, authOptional=True)
    service = SMTPService(given.listen, factory)
    service.startService()
    # SIGTERM stops the service first: idle clients get 421, transactions finish.
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    await Deferred[None]()


if __name__ == "__main__":
    react(main)
