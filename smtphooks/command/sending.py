"""
C{smtphooks send}: a small client for trying a server out, which shows the dialogue.

The flags and a target in, a dialogue on stdout and an exit status out: 0 if the server took the message for every
recipient, else 1.  What can be wrong with a flag is said before there is a connection.
This module knows nothing of the server that is in this package, and leaves the dialogue to C{client}.
"""

from __future__ import annotations

import getpass
import os
import re
import smtplib
import socket
import ssl
import sys
import warnings
from collections.abc import Sequence
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid
from getopt import GetoptError, gnu_getopt
from itertools import chain
from typing import Any

from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from smtphooks.command.client import TIMEOUT, Client, Refused, printable
from smtphooks.command.versions import printVersions
from smtphooks.netaddress import maybeIP, unmapped
from smtphooks.service.settings import ConfigError, cause
from smtphooks.service.tap import explained, oneSentence

DEFAULT_TARGET = "127.0.0.1:2525"
_PASSWORD = "SMTPHOOKS_PASSWORD"
_TLS = ("auto", "no", "starttls", "implicit")


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
        ["subject", "s", "A message of smtphooks send", "The subject."],
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

    def opt_version(self) -> None:
        """Print the versions, and exit."""
        printVersions()

    def parseArgs(self, target: str = DEFAULT_TARGET) -> None:
        """The server."""
        self.target = target

    def postOptions(self) -> None:
        """Check what can be checked without a server."""
        if not self.recipients:
            raise UsageError("there is no recipient, give --to ADDRESS")
        if self["tls"] not in _TLS:
            raise UsageError(f"--tls is {self['tls']}, it wants one of {', '.join(_TLS)}")
        if not self["subject"].isprintable():
            raise UsageError(f"--subject is {printable(self['subject'])}, it wants one line of text")
        if self["helo"] is not None and not (self["helo"].isascii() and self["helo"].isprintable()):
            raise UsageError(f"--helo is {printable(self['helo'])}, it wants a name in ASCII such as mx.example.org")
        if not all(self.recipients):
            raise UsageError("--to is empty, it wants an address such as ann@example.org")
        for flag, address in [("--from", self.sender), *(("--to", address) for address in self.recipients)]:
            if not address.isprintable() or any(character in " <>" for character in address):
                raise UsageError(f"{flag} is {printable(address)}, it wants an address such as ann@example.org")

    @property
    def sender(self) -> str:
        """The reverse-path, without angle brackets."""
        if self["from"] is None:
            try:
                user = getpass.getuser()
            except (KeyError, OSError):  # a container may run as a number that nobody has given a name
                user = f"uid{os.getuid()}"
            return f"{user}@{socket.gethostname()}"
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
        except (OSError, smtplib.SMTPException) as error:
            raise ConfigError(_whatFailed(printable(options.target), error)) from error
        except KeyboardInterrupt:
            print("smtphooks: interrupted, the message may not have been sent", file=sys.stderr)
            raise SystemExit(130) from None  # as shells have it: 128, and the number of SIGINT
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


def _whatFailed(target: str, error: Exception) -> str:
    if isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError):
        return (
            f"{target} has not answered within {TIMEOUT:.0f} seconds; one that wants TLS from the beginning, as on port"
            " 465, needs --tls implicit"
        )
    if isinstance(error, smtplib.SMTPServerDisconnected):
        return f"{target} has ended the connection"
    if isinstance(error, ssl.SSLCertVerificationError):
        what = error.verify_message.rstrip(".")
        return f"the certificate of {target} is not trusted ({what}), give --ca FILE, or --insecure to take any"
    if isinstance(error, ssl.SSLError):
        what = (error.reason or "the connection has ended").replace("_", " ").lower()
        return f"{target}: TLS fails ({what}); one that has no TLS from the beginning needs another --tls"
    if isinstance(error, OSError) and error.strerror:
        return f"{target}: {error.strerror}"
    return f"{target}: {printable(str(error))}"


def send(options: Options) -> bool:
    """Send it; true if every recipient and the message were taken."""
    target = _addressOf(options.target)
    host = "localhost" if isinstance(target, str) else target[0]
    content, password = _content(options), _password(options)
    tls = options["tls"]
    client = Client(options["helo"], bool(options["lmtp"]))
    try:
        client.open(target, host, _context(options) if tls == "implicit" else None)
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
    except Refused:
        return False
    except KeyboardInterrupt:
        client.close()  # without QUIT, whose reply may be what is waited for
        raise
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
        what = cause(error) if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(f"--ca {options['ca']} cannot be read ({what}), name a PEM file") from error
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


def _content(options: Options) -> bytes:
    path = options["file"]
    if path is not None:
        try:
            if path == "-" and sys.stdin is None:
                raise ConfigError("--file - reads stdin, which is closed")
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
    # Only with SMTPUTF8 can such an address be sent at all, and encoded words would be another (RFC 6532 section 3.2).
    isUTF8 = not all(address.isascii() for address in [options.sender, *options.recipients])
    return message.as_bytes(policy=SMTP.clone(utf8=isUTF8))


def _withLineEnds(octets: bytes) -> bytes:
    """The line ends of a file as those of a message: CRLF, and no other (RFC 5321 section 2.3.8)."""
    return re.sub(rb"\r\n|\r|\n", b"\r\n", octets)


def _password(options: Options) -> str:
    """Asked for before there is a connection, which would not wait for long."""
    if options["user"] is None:
        return ""
    given = os.environ.get(_PASSWORD)
    if given is not None:
        return given
    try:
        with warnings.catch_warnings():
            # It would read stdin, which may be the message, and a terminal would show what is typed.
            warnings.simplefilter("error", getpass.GetPassWarning)
            return getpass.getpass(f"password of {printable(options['user'])}: ")
    except (getpass.GetPassWarning, EOFError, OSError) as error:
        raise ConfigError(f"there is no terminal to ask for the password of --user on, set {_PASSWORD}") from error


def _addressOf(target: str) -> tuple[str, int] | str:
    """A host and a port, or the path of a UNIX socket."""
    if target.startswith("/"):
        return target
    host, _, port = target.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        host.encode("idna")  # what the socket and TLS do with it
        number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
    except UnicodeError:
        number = 0
    if not host or not 0 < number < 65536:
        raise ConfigError(f"the target is {printable(target)}, it wants HOST:PORT, or the path of a socket")
    return host, number
