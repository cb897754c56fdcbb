"""
An application of twistd: SMTP for the network and LMTP for the machine, as services within a MultiService.

    twistd -ny application.tac

SMTP_ENDPOINT, LMTP_ENDPOINT, MAILDIR and DOMAIN in the environment change what stands here.  Other services of your
application become children of the same MultiService; twistd starts and stops all of them together.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.application.service import Application, MultiService, Service
from twisted.logger import Logger

from smtphooks import Address, Session, SMTPError, SMTPServerFactory, SMTPService
from smtphooks.stores import Maildir

log = Logger("mail")


class Mail(Maildir):
    """A Maildir for one domain."""

    def onRcptTo(self, address: Address, session: Session) -> None:
        if address.domain.lower() != os.environ.get("DOMAIN", "example.org"):
            raise SMTPError("We take no mail for that domain", 550, "5.7.1")


class Listening(SMTPService):
    def listeningStarted(self, port: Any) -> None:
        log.info("listening on {address}", address=port.getHost())


mail = Mail(os.environ.get("MAILDIR", "maildir"))
smtp = SMTPServerFactory(hooks=mail, authOptional=True, size=26214400)
lmtp = SMTPServerFactory(hooks=mail, authOptional=True, lmtp=True)

services = MultiService()
# When twistd stops it waits for both: idle clients get 421, transactions finish.
for endpoint, factory in [
    (os.environ.get("SMTP_ENDPOINT", "tcp:2525:interface=127.0.0.1"), smtp),
    (os.environ.get("LMTP_ENDPOINT", "unix:lmtp.sock:mode=660"), lmtp),
]:
    service: Service = Listening(endpoint, factory)
    service.setServiceParent(services)

application = Application("mail")
services.setServiceParent(application)
