"""
Submission: users log in with SCRAM-SHA-256 over TLS, and their mail goes on through the Postfix of this machine.

    python submission.py users.txt --add ann@example.org    (asks for her password, once)
    python submission.py users.txt --key key.pem --cert chain.pem --upstream 127.0.0.1:25

The file of users holds no password and nothing that one could log in with (RFC 5802 section 9).  What Postfix says of a
message is what the client is told; nothing is kept here, so there is nothing to lose.
"""

from __future__ import annotations

import argparse
import getpass
import hashlib
import hmac
import os
import sys
import unicodedata
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.logger import globalLogBeginner, textFileLogObserver

from smtphooks import (
    Address,
    Auth,
    AuthResponse,
    Envelope,
    MessageStream,
    Session,
    SMTPError,
    SMTPServerFactory,
    SMTPService,
    Unavailable,
)
from smtphooks.client import ClientError, ReceivedReply, SMTPClient, Unreachable, errorOf, routeTo

ITERATIONS, SALT_OCTETS = 100_000, 16


def lineOf(user: str, password: str) -> str:
    """The line of the file for a user: name, salt, StoredKey, ServerKey and iterations (RFC 5802 section 3)."""
    salt = os.urandom(SALT_OCTETS)
    # Clients prepare the password by SASLprep (RFC 4013), of which NFKC is all that matters for printable text.
    octets = unicodedata.normalize("NFKC", password).encode()
    salted = hashlib.pbkdf2_hmac("sha256", octets, salt, ITERATIONS)
    clientKey, serverKey = (hmac.digest(salted, name, "sha256") for name in (b"Client Key", b"Server Key"))
    values = [b64encode(octets).decode() for octets in (salt, hashlib.sha256(clientKey).digest(), serverKey)]
    return " ".join([user.lower(), *values, str(ITERATIONS)]) + "\n"


class Submission:
    def __init__(self, users: Path, upstream: str) -> None:
        self.users = users
        self.route = routeTo(upstream)
        self.client = SMTPClient()

    async def onStop(self, service: Any) -> None:
        await self.client.close()

    def onAuth(self, auth: Auth, session: Session) -> AuthResponse | None:
        try:
            lines = self.users.read_text().splitlines()  # each time, so that a new user needs no restart
        except OSError as error:
            raise Unavailable(f"the users cannot be read: {error}") from error
        for line in reversed(lines):  # the last one wins: --add appends
            if line.split()[:1] == [auth.username.lower()]:
                user, *values, iterations = line.split()
                # The server checks the proof of the client against these; a wrong one is refused with 535.
                return AuthResponse(user=user, data=(*map(b64decode, values), int(iterations)))
        return None

    def onMailFrom(self, address: Address, session: Session) -> None:
        if address.address.lower() != session.user:
            raise SMTPError("You may send as yourself only", 553, "5.7.1")

    async def onData(self, stream: MessageStream, session: Session) -> str:
        stream.prepend(session.receivedHeader().encode(errors="replace"))
        try:
            reply = await self.handOn(stream, session.envelope)
        except Unreachable as error:
            raise Unavailable(f"the upstream server cannot be used: {error}") from error
        except ClientError as error:
            raise error.asError() from error  # what Postfix says, or what it does not offer
        if reply.code != 250:
            raise errorOf(reply)
        return reply.text

    async def handOn(self, stream: MessageStream, envelope: Envelope) -> ReceivedReply:
        """Hand a message to Postfix; its reply to the message, or the first that refuses a recipient."""
        sender: Any = envelope.mailFrom
        transaction = await self.client.begin(self.route, sender.address, sender.args)
        try:
            for recipient in envelope.rcptTo:
                reply = await transaction.rcpt(recipient.address, recipient.args)
                if reply.code not in (250, 251):
                    return reply  # all recipients or none: the client gets one reply for all
            (reply,) = await transaction.data(stream)
            return reply
        finally:
            transaction.abandon()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Take mail of users, and hand it on to a Postfix.")
    parser.add_argument("users", type=Path, help="the file of users")
    parser.add_argument("--add", metavar="ADDRESS", help="add a user, or change the password of one, and end")
    parser.add_argument("--upstream", default="127.0.0.1:25", help="where Postfix listens (%(default)s)")
    parser.add_argument("--listen", default="tcp:2587:interface=127.0.0.1", help="an endpoint (%(default)s)")
    parser.add_argument("--key", help="a PEM file; without it, a certificate is made that no client trusts")
    parser.add_argument("--cert", help="a PEM file")
    parser.add_argument("--secret", help="a file of random octets, so that unknown users look the same after a restart")
    return parser.parse_args()


def addUser(users: Path, name: str) -> None:
    password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    users.touch(mode=0o600)
    with users.open("a") as file:
        file.write(lineOf(name, password))


async def main(reactor: Any, given: argparse.Namespace) -> None:
    observer: Any = textFileLogObserver(sys.stdout)  # type checkers do not know the interfaces of zope
    globalLogBeginner.beginLoggingTo([observer])
    factory = SMTPServerFactory(
        hooks=Submission(given.users, given.upstream),
        authMethods=["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"],
        needsUpgrade=True,
        key=given.key,
        cert=given.cert,
        scramSecret=given.secret and os.path.abspath(given.secret),
        scramIterations=ITERATIONS,
        scramSaltLength=SALT_OCTETS,
        size=26214400,
        hideCHUNKING=True,  # or else BINARYMIME is offered, and Postfix takes no such message
    )
    service = SMTPService(given.listen, factory)
    service.startService()
    # SIGTERM stops the service first: idle clients get 421, transactions finish.
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    await Deferred[None]()


if __name__ == "__main__":
    given = parse()
    if given.add:
        addUser(given.users, given.add)
    else:
        react(main, [given])
