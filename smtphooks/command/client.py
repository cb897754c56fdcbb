"""
The client of C{smtphooks send}: the standard library's, which shows the dialogue, with what that lacks.

That is: the replies of LMTP, AUTH with user names and passwords that are not ASCII, addresses as they were given, and
care for what a server says: a reply may echo a password, or hold the control characters of a terminal.
This module knows neither flags nor where a message comes from.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import smtplib
import socket
import ssl
import sys
from collections.abc import Sequence
from typing import Any

from smtphooks.service.settings import ConfigError

# Seconds for each step; RFC 5321 section 4.5.3.2 has minutes, for a client that nobody waits for.
TIMEOUT = 60.0
_MECHANISMS = ("CRAM-MD5", "PLAIN", "LOGIN")


class Refused(Exception):
    """The server refuses; its reply has been shown."""


def printable(text: str) -> str:
    """A text without what could control a terminal, which the other side may have chosen."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _show(line: str) -> None:
    """Print a line of the dialogue; one who has seen enough of it, such as C{head}, does not end the sending."""
    if sys.stdout is None:
        return
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError:
        # What is left in the buffer is written once more when Python ends, which would then fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


class Client(smtplib.SMTP):
    """
    A client which prints what it says and hears, except for what belongs to AUTH.

    @ivar isLoggingIn: what is said is a secret.
    """

    isLoggingIn: bool = False

    def __init__(self, name: str | None, isLMTP: bool) -> None:
        super().__init__(local_hostname=name, timeout=TIMEOUT)
        self._isLMTP = isLMTP
        self._secrets: list[str] = []
        if isLMTP:
            self.ehlo_msg = "lhlo"

    # --- what the library calls for each command ---

    def putcmd(self, cmd: str, args: str = "") -> None:
        """Say a command."""
        if not self.isLoggingIn:
            _show(f"> {cmd.upper()} {args}".rstrip())
        elif args:
            _show(f"> AUTH {args.split()[0]} …")
        else:
            _show("> …")
        super().putcmd(cmd, args)

    def getreply(self) -> tuple[int, bytes]:
        """
        Hear a reply.

        @raise smtplib.SMTPException: if it is none.
        """
        try:
            code, text = super().getreply()
        except smtplib.SMTPResponseException as error:  # the library's own, of a line without an end
            raise smtplib.SMTPException("it speaks no SMTP, for a line of its reply is too long") from error
        *others, last = map(self._heard, text.split(b"\n"))
        if not 200 <= code <= 599:
            raise smtplib.SMTPException("it speaks no SMTP, for its reply has no code from 200 to 599")
        for line in others:
            _show(f"< {code}-{line}")
        _show(f"< {code} {last}".rstrip())
        return code, text

    def _heard(self, line: bytes) -> str:
        text = line.decode("utf-8", "backslashreplace")
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "…")
        return printable(text)

    # --- the steps ---

    def open(self, address: str | tuple[str, int], host: str, tls: ssl.SSLContext | None) -> None:
        """
        Connect, and hear the greeting.

        @param address: a host and a port, or the path of a UNIX socket.
        """
        if isinstance(address, str):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(TIMEOUT)
            try:
                sock.connect(address)
            except OSError:
                sock.close()
                raise
            self._use(sock)
        else:
            self._use(socket.create_connection(address, TIMEOUT))
        if tls is not None:
            self._encrypt(tls, host)
        self._mustBe(220, self.getreply())

    def hello(self) -> None:
        """EHLO or LHLO; HELO to a server that knows no EHLO."""
        code, _ = self.ehlo()
        if code != 250:
            if self._isLMTP:
                raise Refused
            self._mustBe(250, self.helo())

    def secure(self, tls: ssl.SSLContext, host: str) -> None:
        """STARTTLS, after which all is asked anew (RFC 3207 section 4.2)."""
        self._mustBe(220, self.docmd("STARTTLS"))
        self._encrypt(tls, host)
        self.hello()

    def logIn(self, user: str, password: str) -> None:
        """
        AUTH, with each mechanism in turn that the server offers and this client knows.

        The library takes ASCII alone; PLAIN is in UTF-8 (RFC 4616 section 2), and servers take the others as such.
        """
        offered = self.esmtp_features.get("auth", "").upper().split()
        usable = [mechanism for mechanism in _MECHANISMS if mechanism in offered]
        if not usable:
            names = printable(" ".join(offered)) or "nothing"
            raise ConfigError(f"the server offers no AUTH that --user could use, it offers {names}")
        given = [text.encode("utf-8", "surrogateescape") for text in (user, password)]
        self._secrets += [password] if password else []
        self.isLoggingIn = True
        try:
            if not any(self._authenticate(mechanism, *given) for mechanism in usable):
                raise Refused
        finally:
            self.isLoggingIn = False

    def _authenticate(self, mechanism: str, user: bytes, password: bytes) -> bool:
        if mechanism == "CRAM-MD5":
            code, text = self.docmd("AUTH", mechanism)
            responses = [_digest(text, user, password)] if code == 334 else []
        else:
            first, *responses = [b"\0%b\0%b" % (user, password)] if mechanism == "PLAIN" else [user, password]
            # An empty initial response is = (RFC 4954 section 4).
            code, _ = self.docmd("AUTH", f"{mechanism} {self._secret(first) or '='}")
        for response in responses:
            if code == 334:
                code, _ = self.docmd(self._secret(response))
        if code == 334:
            raise smtplib.SMTPException(f"it asks for more than {mechanism} has")
        return code == 235

    def _secret(self, response: bytes) -> str:
        """A response as it is said, which is not shown even if the server repeats it."""
        said = _base64(response)
        self._secrets += [said] if said else []
        return said

    def transact(self, sender: str, recipients: Sequence[str], content: bytes) -> bool:
        """MAIL, RCPT and DATA; true if all of it was taken."""
        parameters = self._parameters([sender, *recipients], content)
        self._mustBe(250, self.docmd("MAIL", " ".join([f"FROM:<{sender}>", *parameters])))
        taken = [address for address in recipients if self.docmd("RCPT", f"TO:<{address}>")[0] in (250, 251)]
        if not taken:
            return False
        try:
            codes = [self.data(content)[0]]
        except smtplib.SMTPDataError:
            return False
        if self._isLMTP:  # a reply for each recipient (RFC 2033 section 4.2)
            codes += [self.getreply()[0] for _ in taken[1:]]
        return taken == [*recipients] and all(code == 250 for code in codes)

    def leave(self) -> None:
        """Say QUIT if there is a connection, and close it."""
        try:
            if self.sock is not None:
                self.quit()
        except (OSError, smtplib.SMTPException):
            pass  # the message has had its reply
        finally:
            self.close()

    def _parameters(self, addresses: Sequence[str], content: bytes) -> list[str]:
        """Those of MAIL, where the server knows them and they are needed."""
        parameters = []
        if self.has_extn("size"):
            parameters.append(f"SIZE={len(content)}")
        if not content.isascii() and self.has_extn("8bitmime"):
            parameters.append("BODY=8BITMIME")
        if not all(address.isascii() for address in addresses):
            if not self.has_extn("smtputf8"):
                raise ConfigError("the server takes no address that is not ASCII, for it offers no SMTPUTF8")
            self.command_encoding = "utf-8"
            parameters.append("SMTPUTF8")
        return parameters

    def _encrypt(self, tls: ssl.SSLContext, host: str) -> None:
        try:
            self._use(tls.wrap_socket(self.sock, server_hostname=host))
        except BaseException:
            self.close()  # nothing can be said on it any more, not even QUIT
            raise

    def _use(self, sock: socket.socket) -> None:
        self.sock: Any = sock
        self.file: Any = None  # made for the new socket when it is read first

    def _mustBe(self, wanted: int, reply: tuple[int, bytes]) -> None:
        if reply[0] != wanted:
            raise Refused


def _digest(challenge: bytes, user: bytes, password: bytes) -> bytes:
    """The response of CRAM-MD5 (RFC 2195 section 2)."""
    try:
        octets = base64.b64decode(challenge)
    except binascii.Error as error:
        raise smtplib.SMTPException("its challenge for CRAM-MD5 is not base64") from error
    return user + b" " + hmac.new(password, octets, "md5").hexdigest().encode()
