"""
C{smtphooks send}: a small client for trying a server out, which shows the dialogue.

The flags and a target in, a dialogue on stdout and an exit status out: 0 if the server took the message for every
recipient, else 1.  What can be wrong with a flag is said before there is a connection.
This module knows nothing of the server that is in this package, and leaves the dialogue to C{client}.
"""

from __future__ import annotations

import getpass
import os
import socket
import sys
import warnings
from collections.abc import Sequence
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from smtphooks.client.content import withLineEnds
from smtphooks.client.errors import ClientError, NoMechanism, NotOffered, TLSFailed, Unreachable
from smtphooks.client.parameters import mailLine
from smtphooks.client.reply import NoReply
from smtphooks.client.route import IMPLICIT, NONE, OPPORTUNISTIC, REQUIRED, Route
from smtphooks.client.tls import encryptionFor
from smtphooks.command import client
from smtphooks.command.client import TIMEOUT, printable
from smtphooks.command.flags import flagsFirst
from smtphooks.command.versions import printVersions
from smtphooks.errors import OptionError
from smtphooks.service.settings import ConfigError, cause
from smtphooks.service.tap import explained, oneSentence

DEFAULT_TARGET = "127.0.0.1:2525"
_PASSWORD = "SMTPHOOKS_PASSWORD"
_TLS = {"auto": OPPORTUNISTIC, "no": NONE, "starttls": REQUIRED, "implicit": IMPLICIT}


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
        if self["helo"] is not None and not _isName(self["helo"]):
            raise UsageError(f"--helo is {printable(self['helo'])}, it wants a name in ASCII such as mx.example.org")
        if not all(self.recipients):
            raise UsageError("--to is empty, it wants an address such as ann@example.org")
        for flag, address in [("--from", self.sender), *(("--to", address) for address in self.recipients)]:
            if not address.isprintable() or any(character in " <>" for character in address):
                raise UsageError(f"{flag} is {printable(address)}, it wants an address such as ann@example.org")
        try:
            mailLine(self.sender, {"SMTPUTF8": True}, {"SMTPUTF8": ""}, False)
        except ValueError:
            sender = printable(self.sender)
            raise UsageError(f"--from is {sender}, it wants an address such as ann@example.org") from None

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


def _isName(text: str) -> bool:
    return text.isascii() and text.isprintable() and text != "" and " " not in text


def main(arguments: Sequence[str]) -> None:
    """
    Send a message.

    @raise SystemExit: always, with 1 if a recipient or the message was refused, or a sentence if it cannot be sent.
    """
    options = Options()
    with oneSentence(lambda: bool(options["traceback"])):
        try:
            options.parseOptions(flagsFirst(options, arguments))  # type: ignore[no-untyped-call]
        except UsageError as error:
            raise UsageError(explained(options.command, options.synonyms, error)) from None
        try:
            isTaken = send(options)
        except KeyboardInterrupt:
            print("smtphooks: interrupted, the message may not have been sent", file=sys.stderr)
            raise SystemExit(130) from None  # as shells have it: 128, and the number of SIGINT
    raise SystemExit(0 if isTaken else 1)


def _whatFailed(target: str, error: ClientError) -> str:
    why = error.__cause__
    if isinstance(error, TLSFailed) and error.isUntrusted:
        what = error.why.replace("its certificate", "it", 1)
        return f"the certificate of {target} is not trusted ({what}), give --ca FILE, or --insecure to take any"
    if isinstance(error, TLSFailed):
        return f"{target}: TLS fails ({error.why}); one that has no TLS from the beginning needs another --tls"
    if isinstance(error, NoMechanism) and error.isInTheClear:
        return "a password would be sent in the clear, have the server offer STARTTLS, or give --insecure"
    if isinstance(error, NotOffered) and error.asError().enhancedCode == "5.6.7":
        return "the server takes no address that is not ASCII, for it offers no SMTPUTF8"
    if isinstance(why, TimeoutError):
        return (
            f"{target} has not answered within {TIMEOUT:.0f} seconds; one that wants TLS from the beginning, as on port"
            " 465, needs --tls implicit"
        )
    if isinstance(why, NoReply):
        return f"{target}: it speaks no SMTP, for {printable(str(why))}"
    if isinstance(why, OSError) and why.strerror:
        return f"{target}: {why.strerror}"
    if isinstance(why, (ConnectionDone, ConnectionLost)):
        return f"{target} has ended the connection"
    text = printable(str(error))
    return text if text.startswith(target) else f"{target}: {text[:1].lower()}{text[1:]}"


def send(options: Options) -> bool:
    """Send it; true if every recipient and the message were taken."""
    content, route = _content(options), _route(options)
    try:
        return client.send(route, options.sender, options.recipients, content)
    except ClientError as error:
        raise ConfigError(_whatFailed(printable(options.target), error)) from error


def _route(options: Options) -> Route:
    """
    Where the message goes, and what TLS must be.

    Without --ca and without a password the certificate is not checked where TLS is only taken because it is there, as
    MTAs do (RFC 7435): a server that nobody has certified yet is what this command tries out.
    """
    ca, user, name = options["ca"], options["user"], options["helo"]
    isChecked = options["tls"] != "auto" or ca is not None or user is not None
    try:
        route = Route(
            **_addressOf(options.target),
            lmtp=bool(options["lmtp"]),
            tls=_TLS[options["tls"]],
            verify=isChecked and not options["insecure"],
            ca=ca,
            user=user,
            password=_password(options),
            allowInsecureAuth=bool(options["insecure"]),
            **({} if name is None else {"name": name}),
        )
    except OptionError as error:
        raise ConfigError(printable(str(error))) from error
    if ca is not None:
        try:
            encryptionFor(route)
        except Unreachable as error:
            what = cause(error.__cause__) if error.__cause__ is not None else error
            raise ConfigError(f"--ca {printable(ca)} cannot be read ({what}), name a PEM file") from error
    return route


def _content(options: Options) -> bytes:
    path = options["file"]
    if path is not None:
        try:
            if path == "-" and sys.stdin is None:
                raise ConfigError("--file - reads stdin, which is closed")
            if path == "-":
                return withLineEnds(sys.stdin.buffer.read())
            with open(path, "rb") as file:
                return withLineEnds(file.read())
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


def _password(options: Options) -> str | None:
    """Asked for before there is a connection, which would not wait for long."""
    if options["user"] is None:
        return None
    password = os.environ.get(_PASSWORD)
    if password is None:
        password = _askedPassword(options["user"])
    if not password:  # RFC 4616 section 2 has none of these
        raise ConfigError(f"the password of --user is empty, set {_PASSWORD}")
    return password


def _askedPassword(user: str) -> str:
    try:
        with warnings.catch_warnings():
            # It would read stdin, which may be the message, and a terminal would show what is typed.
            warnings.simplefilter("error", getpass.GetPassWarning)
            return getpass.getpass(f"password of {printable(user)}: ")
    except (getpass.GetPassWarning, EOFError, OSError) as error:
        raise ConfigError(f"there is no terminal to ask for the password of --user on, set {_PASSWORD}") from error


def _addressOf(target: str) -> dict[str, Any]:
    """A host and a port, or the path of a UNIX socket, whose certificate is that of this machine."""
    if target.startswith("/"):
        return {"path": target, "servername": "localhost"}
    host, _, port = target.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        host.encode("idna")  # what the socket and TLS do with it
        number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
    except UnicodeError:
        number = 0
    if not host or " " in host or not 0 < number < 65536:
        raise ConfigError(f"the target is {printable(target)}, it wants HOST:PORT, or the path of a socket")
    return {"host": host, "port": number}
