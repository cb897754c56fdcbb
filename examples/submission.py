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
import smtplib
import sys
import unicodedata
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread
from twisted.logger import Logger, globalLogBeginner, textFileLogObserver

from smtphooks import Address, Auth, AuthResponse, Envelope, MessageStream, Session, SMTPError, SMTPServerFactory
from smtphooks import SMTPService, Unavailable

log = Logger()

ITERATIONS = 600_000


def lineOf(user: str, password: str) -> str:
    """The line of the file for a user: name, salt, StoredKey, ServerKey and iterations (RFC 5802 section 3)."""
    salt = os.urandom(16)
    # Clients prepare the password by SASLprep (RFC 4013), of which NFKC is all that matters for printable text.
    octets = unicodedata.normalize("NFKC", password).encode()
    salted = hashlib.pbkdf2_hmac("sha256", octets, salt, ITERATIONS)
    clientKey, serverKey = (hmac.digest(salted, name, "sha256") for name in (b"Client Key", b"Server Key"))
    values = [b64encode(octets).decode() for octets in (salt, hashlib.sha256(clientKey).digest(), serverKey)]
    return " ".join([user.lower(), *values, str(ITERATIONS)]) + "\n"


class Submission:
    def __init__(self, users: Path, upstream: str) -> None:
        self.users = users
        self.host, _, self.port = upstream.rpartition(":")

    def onAuth(self, auth: Auth, session: Session) -> AuthResponse | None:
        try:
            lines = self.users.read_text().splitlines()  # each time, so that a new user needs no restart
        except OSError as error:
            raise Unavailable(f"the users cannot be read: {error}") from error
        for line in lines:
            user, *values, iterations = line.split()
            if user == auth.username.lower():
                # The server checks the proof of the client against these; a wrong one is refused with 535.
                return AuthResponse(user=user, data=(*map(b64decode, values), int(iterations)))
        return None

    def onMailFrom(self, address: Address, session: Session) -> None:
        if address.address.lower() != session.user:
            raise SMTPError("You may send as yourself only", 553, "5.7.1")

    async def onData(self, stream: MessageStream, session: Session) -> str:
        stream.prepend(session.receivedHeader().encode(errors="replace"))
        message = await stream.read()
        # smtplib blocks, so it runs in a thread.
        code, text = await deferToThread(self.handOn, message, session.envelope)
        if code != 250:
            raise SMTPError(text, code if 400 <= code <= 599 else 451)
        return text

    def handOn(self, message: bytes, envelope: Envelope) -> tuple[int, str]:
        """Hand a message to Postfix; its reply to the message, or the first that refuses the sender or a recipient."""
        options = ["BODY=8BITMIME"] * (envelope.bodyType == "8bitmime") + ["SMTPUTF8"] * envelope.smtpUtf8
        try:
            with smtplib.SMTP(self.host, int(self.port), timeout=60) as client:
                client.ehlo_or_helo_if_needed()
                client.command_encoding = "utf-8"
                code, text = client.mail(str(envelope.mailFrom), options)
                for recipient in envelope.rcptTo if code == 250 else []:
                    code, text = client.rcpt(str(recipient))
                    if code not in (250, 251):
                        break  # all or none: one reply can say nothing else
                else:
                    if code in (250, 251):
                        code, text = client.data(message)
                return code, text.decode(errors="replace")
        except (OSError, smtplib.SMTPException) as error:
            raise Unavailable(f"the upstream server cannot be used: {error}") from error


class Listening(SMTPService):
    def listeningStarted(self, port: Any) -> None:
        log.info("listening on {address}", address=port.getHost())
