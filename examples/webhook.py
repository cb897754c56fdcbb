"""
Mail to a webhook: each message is the body of a POST, streamed while it arrives.

    python webhook.py http://127.0.0.1:8000/mail

The envelope is in X-Envelope-From and in X-Envelope-To, a field for each recipient.  The message is held nowhere: the
client sends as fast as the webhook reads, and the 2xx of the webhook is what acknowledges the message.  It is a start
for a delivery of one's own over HTTP; smtphooks.stores.Webhook is the ready-made one.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import treq
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.web.http_headers import Headers

from smtphooks import MessageStream, Session, SMTPError, SMTPServerFactory, SMTPService, Unavailable

# What the webhook says with its status.  Any other status is a 451 and the client tries again: a wrong token or path
# (401, 404) is a mistake of the operator, and must not bounce mail.
REFUSALS = {
    413: SMTPError("Message too large", 552),
    422: SMTPError("Message refused", 554),
    507: SMTPError("No room for this message now", 452),
}


class Webhook:
    def __init__(self, url: str, token: str | None) -> None:
        self.url = url
        self.token = token

    async def onData(self, stream: MessageStream, session: Session) -> str:
        headers = Headers()
        headers.addRawHeader("Content-Type", "message/rfc822")
        headers.addRawHeader("X-Client-Address", session.remoteAddress)
        headers.addRawHeader("X-Envelope-From", str(session.envelope.mailFrom))
        for recipient in session.envelope.rcptTo:
            headers.addRawHeader("X-Envelope-To", str(recipient))
        if self.token:
            headers.addRawHeader("Authorization", f"Bearer {self.token}")
        body: Any = stream  # an IBodyProducer, but type checkers do not know the interfaces of zope
        try:
            # Not persistent: if the webhook has just closed a connection that was kept, a body that is gone cannot be
            # sent again.  A redirection would need that too.
            response: Any = await treq.post(
                self.url, data=body, headers=headers, persistent=False, allow_redirects=False
            )
            await treq.collect(response, lambda octets: None)
        except Exception as error:
            if stream.failure is not None:
                stream.failure.raiseException()  # the client has left: the webhook saw its request end early
            if stream.sizeExceeded:
                raise SMTPError("Message too large", 552) from error
            raise Unavailable(f"the webhook does not answer: {error}") from error
        if 200 <= response.code <= 299:
            return "Delivered"
        if response.code in REFUSALS:
            raise REFUSALS[response.code]
        raise Unavailable(f"the webhook answers {response.code}")


async def main(reactor: Any) -> None:
    parser = argparse.ArgumentParser(description="Hand mail to a webhook; WEBHOOK_TOKEN is sent as a bearer token.")
    parser.add_argument("url", help="where to POST messages to")
    parser.add_argument("--listen", default="tcp:2525:interface=127.0.0.1", help="an endpoint (%(default)s)")
    parser.add_argument("--size", type=int, default=26214400, help="largest message in octets (%(default)s)")
    given = parser.parse_args()
    observer: Any = textFileLogObserver(sys.stdout)  # type checkers do not know the interfaces of zope
    globalLogBeginner.beginLoggingTo([observer])
    factory = SMTPServerFactory(
        hooks=Webhook(given.url, os.environ.get("WEBHOOK_TOKEN")),
        authOptional=True,
        size=given.size,
        hookTimeout=300,  # a webhook that hangs is a 451 as well
    )
    service = SMTPService(given.listen, factory)
    service.startService()
    # SIGTERM stops the service first: idle clients get 421, transactions finish.
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    await Deferred[None]()


if __name__ == "__main__":
    react(main)
