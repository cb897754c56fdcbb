"""
C{smtphooks send}: a small client for trying a server out, which shows the dialogue.

The flags and a target in, a dialogue on stdout and an exit status out: 0 if the server took the message for every
recipient, else 1.  The standard library's client does the work; what it lacks, the replies of LMTP, is added here.
This module knows nothing of the server that is in this package.
"""

from __future__ import annotations

import getpass
import os
import re
import smtplib
import socket
import ssl
import sys
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from getopt import GetoptError, gnu_getopt
from itertools import chain
from typing import Any

from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from smtphooks.netaddress import maybeIP, unmapped
from smtphooks.service.settings import ConfigError, cause
from smtphooks.service.tap import explained, oneSentence

DEFAULT_TARGET = "127.0.0.1:2525"
_PASSWORD = "SMTPHOOKS_PASSWORD"
_TLS = ("auto", "no", "starttls", "implicit")
# Seconds for each step; RFC 5321 section 4.5.3.2 has minutes, for a client that nobody waits for.
_TIMEOUT = 60.0


class Options(UsageOptions):
    """The flags of C{smtphooks send}."""

    command = "smtphooks send"
    synopsis = "Usage: smtphooks send --to ADDRESS [flags] [HOST:PORT or /path/of/socket]"
    longdesc: str = (
        f"Sends a message, and shows the dialogue.  Without a target it is sent to {DEFAULT_TARGET}.  The password of"
        f" --user is asked for, or taken from the environment variable {_PASSWORD}."
    )
    optParameters: list[list[Any]] = [
        ["from", "f", None, "The reverse-path; <> for the null one. [default: you at this host]"],
        ["subject", "s", "A message of smtphooks send", "The subject of the message."],
        ["file", None, None, "Send this file as it is, - for stdin, and not a short text."],
        ["tls", None, "auto", "TLS: auto (STARTTLS if offered), no, starttls, or implicit."],
        ["ca", None, None, "Trust the certificates in this PEM file."],
        ["user", "u", None, "Authenticate as this user."],
        ["helo", None, None, "The name for EHLO. [default: this host's]"],
    ]
    optFlags: list[list[str | None]] = [
        ["lmtp", None, "Speak LMTP."],
        ["insecure", None, "Take any certificate, and give a password to anyone."],
        ["traceback", None, "Show a traceback of what went wrong."],
    ]

    def __init__(self) -> None:
        UsageOptions.__init__(self)
        self.recipients: list[str] = []
        self.target: str = DEFAULT_TARGET

    def opt_to(self, address: str) -> None:
        """A recipient; may be given several times."""
        self.recipients.append(address)

    opt_t = opt_to

    def parseArgs(self, target: str = DEFAULT_TARGET) -> None:
        """The server."""
        self.target = target

    def postOptions(self) -> None:
        """Check what can be checked without a server."""
        if not self.recipients:
            raise UsageError("there is no recipient, give --to ADDRESS")
        if self["tls"] not in _TLS:
            raise UsageError(f"--tls is {self['tls']}, it wants one of {', '.join(_TLS)}")
        for flag, address in [("--from", self.sender), *(("--to", address) for address in self.recipients)]:
            if any(ord(character) <= 32 or character in "<>" for character in address):
                raise UsageError(f"{flag} is {address}, it wants an address such as ann@example.org")

    @property
    def sender(self) -> str:
        """The reverse-path, without angle brackets."""
        if self["from"] is None:
            return f"{getpass.getuser()}@{socket.gethostname()}"
        return str(self["from"]).removeprefix("<").removesuffix(">")


def main(arguments: Sequence[str]) -> None:
    """
    Send a message.

    @raise SystemExit: always, with 1 if a recipient or the message was refused, or a sentence if it cannot be sent.
    """
    options = Options()
    with oneSentence(lambda: bool(options["traceback"])):
        try:
            options.parseOptions(_flagsFirst(options, arguments))  # type: ignore[no-untyped-call]
        except UsageError as error:
            raise UsageError(explained(options.command, options.synonyms, error)) from None
        try:
            isTaken = send(options)
        except smtplib.SMTPServerDisconnected as error:
            raise ConfigError(f"{options.target} has ended the connection") from error
        except ssl.SSLCertVerificationError as error:
            raise ConfigError(
                f"the certificate of {options.target} is not trusted ({error.verify_message}), give --ca FILE, or"
                " --insecure to take any"
            ) from error
        except (OSError, smtplib.SMTPException) as error:
            raise ConfigError(f"{options.target}: {_reason(error)}") from error
    raise SystemExit(0 if isTaken else 1)


def _flagsFirst(options: Options, arguments: Sequence[str]) -> list[str]:
    """The arguments with the target at their end: Twisted takes no flag behind it."""
    try:
        flags, targets = gnu_getopt([*arguments], options.shortOpt, options.longOpt)
    except GetoptError:
        return [*arguments]  # Twisted will say so
    takers = [name for name in options.longOpt if name.endswith("=")]
    words = [[name, value] if f"{name.lstrip('-')}=" in takers or value else [name] for name, value in flags]
    return [*chain.from_iterable(words), "--", *targets]


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return cause(error)


def send(options: Options) -> bool:
    """Send it; true if every recipient and the message were taken."""
    content, password = _content(options), _password(options)
    host = "localhost" if options.target.startswith("/") else _addressOf(options.target)[0]
    tls = options["tls"]
    client = _Client(options["helo"])
    if options["lmtp"]:
        client.ehlo_msg = "lhlo"
    try:
        client.open(options.target, host, _context(options) if tls == "implicit" else None)
        client.hello()
        if tls == "starttls" or (tls == "auto" and client.has_extn("starttls")):
            client.secure(_context(options), host)
        if options["user"] is not None:
            if not (isinstance(client.sock, ssl.SSLSocket) or options["insecure"] or _isLocal(client.sock)):
                raise ConfigError(
                    "a password would be sent in the clear, have the server offer STARTTLS, or give --insecure"
                )
            client.logIn(options["user"], password)
        return client.transact(options.sender, options.recipients, content)
    except _Refused:
        return False
    finally:
        client.leave()


def _context(options: Options) -> ssl.SSLContext:
    """
    What TLS must be.

    Without --ca and without a password the certificate is not checked where TLS is only taken because it is there, as
    MTAs do (RFC 7435): a server that nobody has certified yet is what this command tries out.
    """
    try:
        context = ssl.create_default_context(cafile=options["ca"])
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"--ca {options['ca']} cannot be read ({cause(error)}), name a PEM file") from error
    isChecked = options["tls"] != "auto" or options["ca"] is not None or options["user"] is not None
    if options["insecure"] or not isChecked:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _isLocal(sock: Any) -> bool:
    """Does nothing that is said leave the machine?"""
    if sock.family == socket.AF_UNIX:
        return True
    ip = maybeIP(sock.getpeername()[0])
    return ip is not None and unmapped(ip).is_loopback


class _Refused(Exception):
    """The server refuses; its reply has been shown."""


def _content(options: Options) -> bytes:
    path = options["file"]
    if path is not None:
        try:
            if path == "-":
                return _withLineEnds(sys.stdin.buffer.read())
            with open(path, "rb") as file:
                return _withLineEnds(file.read())
        except OSError as error:
            raise ConfigError(f"--file {path} cannot be read ({error.strerror}), name another") from error
    message = EmailMessage()
    message["From"] = options.sender or "postmaster@localhost"
    message["To"] = ", ".join(options.recipients)
    message["Subject"] = options["subject"]
    message["Date"] = formatdate(localtime=True)
    message["Message-ID"] = make_msgid(domain="smtphooks.invalid")
    message.set_content("This message was sent with smtphooks send.\n")
    return message.as_bytes(policy=message.policy.clone(linesep="\r\n"))


def _withLineEnds(octets: bytes) -> bytes:
    """The line ends of a file as those of a message: CRLF, and no other (RFC 5321 section 2.3.8)."""
    return re.sub(rb"\r\n|\r|\n", b"\r\n", octets)


def _password(options: Options) -> str:
    """Asked for before there is a connection, which would not wait for long."""
    if options["user"] is None:
        return ""
    given = os.environ.get(_PASSWORD)
    return getpass.getpass(f"password of {options['user']}: ") if given is None else given


class _Client(smtplib.SMTP):
    """
    The standard library's client, which prints what it says and hears, except for what belongs to AUTH.

    @ivar isLoggingIn: what is said is a secret.
    """

    isLoggingIn = False

    def __init__(self, name: str | None) -> None:
        super().__init__(local_hostname=name, timeout=_TIMEOUT)

    # --- what the library calls for each command ---

    def putcmd(self, cmd: str, args: str = "") -> None:
        """Say a command."""
        if self.isLoggingIn:
            print(f"> AUTH {args.split()[0]} …" if cmd.upper() == "AUTH" else "> …")
        else:
            print(f"> {cmd.upper()} {args}".rstrip())
        super().putcmd(cmd, args)

    def getreply(self) -> tuple[int, bytes]:
        """Hear a reply."""
        code, text = super().getreply()
        *others, last = text.decode("utf-8", "replace").split("\n")
        for line in others:
            print(f"< {code}-{line}")
        print(f"< {code} {last}".rstrip())
        return code, text

    # --- the steps ---

    def open(self, target: str, host: str, tls: ssl.SSLContext | None) -> None:
        """Connect, and hear the greeting."""
        if target.startswith("/"):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(_TIMEOUT)
            sock.connect(target)
        else:
            sock = socket.create_connection(_addressOf(target), _TIMEOUT)
        # Before the handshake, so that it is closed if that fails.
        self._use(sock)
        if tls is not None:
            self._use(tls.wrap_socket(sock, server_hostname=host))
        self._mustBe(220, self.getreply())

    def hello(self) -> None:
        """EHLO or LHLO; HELO to a server that knows no EHLO."""
        code, _ = self.ehlo()
        if code != 250:
            if self.ehlo_msg == "lhlo":
                raise _Refused
            self._mustBe(250, self.helo())

    def secure(self, tls: ssl.SSLContext, host: str) -> None:
        """STARTTLS, after which all is asked anew (RFC 3207 section 4.2)."""
        self._mustBe(220, self.docmd("STARTTLS"))
        self._use(tls.wrap_socket(self.sock, server_hostname=host))
        self.hello()

    def logIn(self, user: str, password: str) -> None:
        """AUTH, with what the server offers and the library knows."""
        self.isLoggingIn = True
        try:
            self.login(user, password)
        except smtplib.SMTPAuthenticationError:
            raise _Refused from None
        except smtplib.SMTPNotSupportedError as error:
            offered = self.esmtp_features.get("auth", "").strip() or "nothing"
            raise ConfigError(f"the server offers no AUTH that --user could use, it offers {offered}") from error
        finally:
            self.isLoggingIn = False

    def transact(self, sender: str, recipients: Sequence[str], content: bytes) -> bool:
        """MAIL, RCPT and DATA; true if all of it was taken."""
        self._mustBe(250, self.mail(sender, self._parameters([sender, *recipients], content)))
        taken = [address for address in recipients if self.rcpt(address)[0] in (250, 251)]
        if not taken:
            return False
        try:
            codes = [self.data(content)[0]]
        except smtplib.SMTPDataError:
            return False
        if self.ehlo_msg == "lhlo":  # a reply for each recipient (RFC 2033 section 4.2)
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

    def _use(self, sock: socket.socket) -> None:
        self.sock: Any = sock
        self.file: Any = None  # made for the new socket when it is read first

    def _mustBe(self, wanted: int, reply: tuple[int, bytes]) -> None:
        if reply[0] != wanted:
            raise _Refused


def _addressOf(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"the target is {target}, it wants HOST:PORT, or the path of a socket")
    return host.strip("[]"), int(port)
