"""twisted.mail.smtp, which has no LMTP."""

from __future__ import annotations

import sys
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.portal import IRealm, Portal
from twisted.internet import endpoints, reactor, ssl
from twisted.internet.defer import Deferred, succeed
from twisted.logger import globalLogBeginner
from twisted.mail import smtp
from twisted.mail.imap4 import PLAINCredentials
from zope.interface import implementer


@implementer(smtp.IMessage)
class Message:
    """Drops its lines."""

    def lineReceived(self, line: bytes) -> None: ...

    def eomReceived(self) -> Deferred[None]:
        return succeed(None)

    def connectionLost(self) -> None: ...


@implementer(smtp.IMessageDelivery)
class Delivery:
    """Accepts everything."""

    def receivedHeader(self, helo: Any, origin: Any, recipients: Any) -> bytes:
        return b""

    def validateFrom(self, helo: Any, origin: Any) -> Any:
        return origin

    def validateTo(self, user: Any) -> Any:
        return Message


@implementer(IRealm, ICredentialsChecker)
class Anyone:
    """Realm and checker that accept every user."""

    credentialInterfaces = (IUsernamePassword,)

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        return succeed(credentials.username)

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Any:
        return smtp.IMessageDelivery, Delivery(), lambda: None


class Factory(smtp.SMTPFactory):
    """Makes the protocols."""

    noisy = False
    domain = b"mx.example"

    def __init__(self, folder: str) -> None:
        anyone = Anyone()
        super().__init__(Portal(anyone, [anyone]))  # type: ignore[no-untyped-call]
        self._tls = ssl.DefaultOpenSSLContextFactory(f"{folder}/key.pem", f"{folder}/cert.pem")

    def protocol(self) -> smtp.ESMTP:  # type: ignore[override]
        made = smtp.ESMTP({b"PLAIN": PLAINCredentials}, self._tls)
        made.delivery = Delivery()
        return made


def main(port: str, mode: str, folder: str) -> None:
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False)
    endpoint = endpoints.serverFromString(reactor, f"tcp:{port}:interface=127.0.0.1:backlog=4096")
    endpoint.listen(Factory(folder))
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
