"""
Replies: L{Reply}, every reply that smtphooks itself sends, and L{SMTPError}, the refusal that hooks raise.

In: a code, an enhanced status code and a text.  Out: bytes for the wire.
Rules kept here for every caller: a reply never holds a control character (its text cannot split it in two, RFC 5321
section 4.2), no line is longer than 512 octets (section 4.5.3.1.5), and the class of an enhanced code is the first
digit of its reply code (RFC 2034 section 4).
This module knows neither sessions nor transports.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# RFC 5321 section 4.5.3.1.5 allows 512 octets with code and CRLF.  "250-5.7.999 " takes its share of them, and a round
# number leaves room for an enhanced code of any length that RFC 3463 allows.
_LINE_OCTETS = 490

_ENHANCED_CODE = re.compile(r"([245])\.[0-9]{1,3}\.[0-9]{1,3}")


class SMTPError(Exception):
    """
    A refusal.  A hook (or the validator of a parameter) raises it, and it becomes the reply to the current command.

    @param message: the text of the reply; control characters in it are replaced.
    @type message: C{str}
    @param responseCode: 400 to 599; 421 closes the connection after the reply.  None: the default of the hook.
    @type responseCode: C{int} or None
    @param enhancedCode: an RFC 3463 code such as C{"5.1.1"}, of the same class as the reply code.
    @type enhancedCode: C{str} or None
    @raise ValueError: if a code is malformed or refuses nothing, or if the two codes are of different classes.
    """

    # For a subclass whose __init__ does not call this one.
    _message = ""
    _responseCode: int | None = None
    _enhancedCode: str | None = None

    def __init__(self, message: str, responseCode: int | None = None, enhancedCode: str | None = None) -> None:
        super().__init__(message)
        if responseCode is not None and not (type(responseCode) is int and 400 <= responseCode <= 599):
            raise ValueError(f"responseCode is {responseCode!r}: a refusal has a number from 400 to 599")
        if enhancedCode is not None:
            _checkEnhancedCode(enhancedCode, responseCode)
            if enhancedCode[0] == "2":
                raise ValueError(f"enhancedCode is {enhancedCode!r}: a refusal is of class 4 or 5")
        self._message = str(message)
        self._responseCode = responseCode
        self._enhancedCode = enhancedCode

    # Read-only: after its check, a refusal must not become an acknowledgement.

    @property
    def message(self) -> str:
        """The text of the reply."""
        return self._message

    @property
    def responseCode(self) -> int | None:
        """The reply code, None for the default of the hook."""
        return self._responseCode

    @property
    def enhancedCode(self) -> str | None:
        """The enhanced code, None for the one that goes with the reply code."""
        return self._enhancedCode

    def asReply(self, situation: Situation) -> Reply:
        """This refusal as a L{Reply}; codes that it does not name follow from the situation."""
        code = self._responseCode
        if code is None:
            code = situation.code
            if self._enhancedCode is not None and int(self._enhancedCode[0]) != code // 100:
                # The hook named only an enhanced code.  Its class decides between temporary and permanent.
                code = 450 if self._enhancedCode[0] == "4" else 550
        enhancedCode = self._enhancedCode or situation.enhancedCodes.get(code) or _BY_CODE.get(code)
        return Reply(code, self._message or "Refused", enhancedCode or f"{code // 100}.0.0", situation.closes)


class Situation(NamedTuple):
    """
    Where a refusal happens.

    @ivar code: of the reply, if the refusal names none.
    @ivar enhancedCodes: the enhanced code that goes with each reply code there.
    @ivar closes: the connection is closed after the reply.
    """

    code: int
    enhancedCodes: Mapping[int, str]
    closes: bool = False


def _checkEnhancedCode(enhancedCode: str, code: int | None) -> None:
    if not isinstance(enhancedCode, str) or not _ENHANCED_CODE.fullmatch(enhancedCode):
        raise ValueError(f"enhancedCode is {enhancedCode!r}: it is written like '5.1.1' (RFC 3463 section 2)")
    if code is not None and int(enhancedCode[0]) != code // 100:
        raise ValueError(f"enhancedCode {enhancedCode} does not fit reply code {code}: their classes differ")


class Reply:
    """
    One reply of one or more lines (RFC 5321 section 4.2.1).

    @ivar code: the three-digit reply code.
    @ivar enhancedCode: the RFC 3463 code, or None where RFC 2034 section 4 forbids one (greeting, EHLO, 3xx).
    @ivar lines: the text by lines; spaces replace control characters.
    @ivar closes: the server closes the connection after this reply.
    @ivar octets: the reply with its enhanced code, in ASCII; see L{encode}.
    @ivar isASCII: the text is ASCII, so that a client which asked for SMTPUTF8 gets no other octets.
    @ivar goesOn: it neither refuses anything nor closes the connection.
    """

    __slots__ = ("closes", "code", "enhancedCode", "goesOn", "isASCII", "lines", "octets")

    def __init__(
        self, code: int, text: str | Sequence[str], enhancedCode: str | None = None, closes: bool = False
    ) -> None:
        if enhancedCode is not None:
            _checkEnhancedCode(enhancedCode, code)
        self.code: int = code
        self.enhancedCode: str | None = enhancedCode
        lines = (text,) if isinstance(text, str) else tuple(text)
        self.lines: tuple[str, ...] = lines if "".join(lines).isprintable() else tuple(_scrub(line) for line in lines)
        self.closes: bool = closes or code == 421
        self.goesOn: bool = code < 400 and not self.closes
        self.octets: bytes = self._encode(True, "ascii")
        self.isASCII: bool = all(map(str.isascii, self.lines))

    def behind(self, text: str) -> Reply:
        """
        A reply of the same codes with this line, and behind it the lines of this reply.

        It takes what is known of the latter, and costs far less than to make a new one of all lines.
        """
        whole = Reply(self.code, text, self.enhancedCode, self.closes)
        whole.lines += self.lines
        whole.isASCII = whole.isASCII and self.isASCII
        first = whole.octets
        last = first.rfind(b"\n", 0, -1) + 1  # a long text takes several lines
        whole.octets = b"%b%d-%b%b" % (first[:last], self.code, first[last + 4 :], self.octets)
        return whole

    def oneLine(self) -> str:
        """The reply in one line, with its codes once."""
        return " ".join(filter(None, (str(self.code), self.enhancedCode, *self.lines)))

    def closing(self) -> Reply:
        """The same reply, closing the connection."""
        return Reply(self.code, self.lines, self.enhancedCode, closes=True)

    def asError(self) -> SMTPError:
        """The refusal whose reply this is."""
        return SMTPError(" ".join(self.lines), self.code, self.enhancedCode)

    def encode(self, enhanced: bool = True, utf8: bool = False) -> bytes:
        """
        The reply's octets.

        @param enhanced: with the enhanced code (RFC 2034).
        @param utf8: the client asked for SMTPUTF8, so the text may leave ASCII (RFC 6531 section 3.7.4).
        """
        if enhanced and (self.isASCII or not utf8):
            return self.octets
        return self._encode(enhanced, "utf-8" if utf8 else "ascii")

    def _encode(self, enhanced: bool, charset: str) -> bytes:
        prefix = f"{self.enhancedCode} ".encode() if enhanced and self.enhancedCode else b""
        if len(self.lines) == 1 and len(self.lines[0]) <= _LINE_OCTETS // 4:  # UTF-8 has four octets at most
            return b"%d %b%b\r\n" % (self.code, prefix, self.lines[0].encode(charset, "replace"))
        lines = [line.encode(charset, "replace") for line in self.lines]
        if max(map(len, lines)) > _LINE_OCTETS:
            lines = [piece for line in lines for piece in _wrap(line)]
        last = lines.pop()
        return b"".join([b"%d-%b%b\r\n" % (self.code, prefix, line) for line in lines]) + (
            b"%d %b%b\r\n" % (self.code, prefix, last)
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reply):
            return NotImplemented
        return (self.encode(utf8=True), self.closes) == (other.encode(utf8=True), other.closes)

    def __hash__(self) -> int:
        return hash(self.encode(utf8=True))

    def __str__(self) -> str:
        return self.encode(utf8=True).decode().rstrip("\r\n")

    def __repr__(self) -> str:
        return f"<Reply {self}{' (closes)' if self.closes else ''}>"


def _scrub(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " for c in text).encode("utf-8", "replace").decode()


def _wrap(line: bytes) -> list[bytes]:
    """Cut a text that is too long for one line, at spaces if it has any, else inside a word."""
    pieces = []
    while len(line) > _LINE_OCTETS:
        cut = line.rfind(b" ", 0, _LINE_OCTETS) + 1 or _LINE_OCTETS
        while cut < len(line) and 0x80 <= line[cut] <= 0xBF:  # never inside a UTF-8 sequence
            cut -= 1
        pieces.append(line[:cut].rstrip(b" "))
        line = line[cut:]
    pieces.append(line)
    return pieces


# Refusals outside of hooks: by a command of an extension, and of a parameter or argument.
COMMAND_SITUATION = Situation(550, {})
PARAMETER_SITUATION = Situation(501, {552: "5.3.4"})

# Where the situation names no enhanced code for a reply code (RFC 3463, and the registry of RFC 5248).
_BY_CODE = {
    421: "4.3.2",
    450: "4.2.0",
    451: "4.3.0",
    452: "4.3.1",
    454: "4.7.0",
    455: "4.5.4",
    500: "5.5.2",
    501: "5.5.4",
    502: "5.5.1",
    503: "5.5.1",
    504: "5.5.4",
    521: "5.3.2",
    530: "5.7.0",
    534: "5.7.9",
    535: "5.7.8",
    538: "5.7.11",
    550: "5.7.1",
    551: "5.1.6",
    552: "5.3.4",
    553: "5.1.3",
    554: "5.7.1",
    555: "5.5.4",
    556: "5.1.10",
}

# --- The server's own replies, each named after its situation ---

START_MESSAGE = Reply(354, "End data with <CR><LF>.<CR><LF>")
OK = Reply(250, "OK", "2.0.0")
SENDER_OK = Reply(250, "Sender OK", "2.1.0")
RECIPIENT_OK = Reply(250, "Recipient OK", "2.1.5")
MESSAGE_OK = Reply(250, "Message accepted", "2.0.0")
RESET = Reply(250, "Flushed", "2.0.0")
CANNOT_VERIFY = Reply(252, "Try to send something, no promises though", "2.1.5")
BYE = Reply(221, "Bye", "2.0.0", closes=True)

READY_FOR_TLS = Reply(220, "Ready to start TLS", "2.0.0")

SHUTTING_DOWN = Reply(421, "Server is shutting down", "4.3.2")
HOOK_FAILED = Reply(451, "Temporary server error, please try again later", "4.3.0")

LINE_TOO_LONG = Reply(500, "Line too long", "5.5.2")
BARE_LINE_END = Reply(500, "A line ends with <CR><LF>, bare <CR> or <LF> received", "5.5.2")
NOT_RECOGNIZED = Reply(500, "Command not recognized", "5.5.2")
NOT_PRINTABLE = Reply(500, "Control or invalid characters in command", "5.5.2")
NOT_IMPLEMENTED = Reply(502, "Command not implemented", "5.5.1")
NO_ARGUMENT_ALLOWED = Reply(501, "No argument allowed", "5.5.4")
HOSTNAME_WANTED = Reply(501, "Syntax: the command, then your host name or address literal", "5.5.4")
MAIL_SYNTAX = Reply(501, "Syntax: MAIL FROM:<address> [parameters]", "5.5.4")
RCPT_SYNTAX = Reply(501, "Syntax: RCPT TO:<address> [parameters]", "5.5.4")
# Without its length, the octets of a chunk cannot be told from commands: the connection ends here.
BDAT_SYNTAX = Reply(501, "Syntax: BDAT size [LAST]", "5.5.4", closes=True)
AUTH_SYNTAX = Reply(501, "Syntax: AUTH mechanism [initial-response]", "5.5.4")
VRFY_SYNTAX = Reply(501, "Syntax: VRFY text", "5.5.4")

HELLO_FIRST = Reply(503, "Say hello first", "5.5.1")
NOT_NOW = Reply(503, "Bad sequence of commands", "5.5.1")
MAIL_FIRST = Reply(503, "Need MAIL before RCPT", "5.5.1")
NESTED_MAIL = Reply(503, "Sender already given", "5.5.1")
RCPT_FIRST = Reply(503, "Need MAIL and RCPT before the message", "5.5.1")
ALREADY_SECURE = Reply(503, "TLS is already in use", "5.5.1")
ALREADY_AUTHENTICATED = Reply(503, "Already authenticated", "5.5.1")
NOT_IN_TRANSACTION = Reply(503, "Not within a mail transaction", "5.5.1")
STARTTLS_FIRST = Reply(530, "Must issue a STARTTLS command first", "5.7.0")
ENCRYPTION_REQUIRED = Reply(538, "Encryption required for authentication", "5.7.11")
UNKNOWN_MECHANISM = Reply(504, "Unrecognized authentication mechanism", "5.5.4")
# RFC 3207 section 4.2 and invariant 4: commands in the clear behind STARTTLS may be an attacker's.
TALKED_BEFORE_TLS = Reply(554, "Nothing may follow STARTTLS before TLS", "5.5.1", closes=True)
NO_RECIPIENTS = Reply(554, "No valid recipients", "5.5.1")
BINARY_NEEDS_BDAT = Reply(503, "A BINARYMIME message is sent with BDAT", "5.5.1")
NOT_WITHIN_CHUNKS = Reply(503, "A message begun with BDAT goes on with BDAT", "5.5.1")

TOO_MANY_RECIPIENTS = Reply(452, "Too many recipients", "4.5.3")
TOO_MANY_REFUSED_RECIPIENTS = Reply(421, "Too many recipients", "4.5.3")
TOO_MANY_JUNK_COMMANDS = Reply(421, "Too many commands without a message", "4.7.0")
TOO_MANY_TRANSACTIONS = Reply(421, "Too many transactions on this connection", "4.7.0")
TOO_MANY_CLIENTS = Reply(421, "Too many connections, try again later", "4.7.0")
TOO_MANY_CLIENTS_HERE = Reply(421, "Too many connections from your address, try again later", "4.7.0")
TOO_MANY_AUTH_FAILURES = Reply(421, "Too many failed authentications from your address, try again later", "4.7.0")
TOO_MANY_UNRECOGNIZED = Reply(421, "Too many unrecognized commands", "4.7.0")
TOO_MANY_UNAUTHENTICATED = Reply(421, "Too many commands without authentication", "4.7.0")
EARLY_TALKER = Reply(554, "You talked before my greeting", "5.5.1", closes=True)
HTTP_REFUSED = Reply(554, "This is no HTTP server", "5.5.1", closes=True)
HOOK_TIMED_OUT = Reply(451, "Temporary server error, please try again later", "4.3.0")
MESSAGE_TIMED_OUT = Reply(421, "Message takes too long, closing connection", "4.4.2")
TIMED_OUT = Reply(421, "Timeout, closing connection", "4.4.2")
NO_TLS_HERE = Reply(454, "TLS is not available on this connection", "4.7.0", closes=True)
TOO_MANY_ERRORS = Reply(421, "Too many errors", "4.7.0")
TOO_LARGE = Reply(552, "Message exceeds the fixed maximum size", "5.3.4")
HEADER_TOO_LARGE = Reply(552, "Message header exceeds the fixed maximum size", "5.3.4")
BARE_NEWLINE = Reply(550, "Bare <CR> or <LF> in message, only <CR><LF> ends a line", "5.6.11")


# The peer broke the protocol; onError is told of these.
BROKEN_PROTOCOL = frozenset({BARE_LINE_END, BARE_NEWLINE, EARLY_TALKER, HTTP_REFUSED, TALKED_BEFORE_TLS, BDAT_SYNTAX})

# The server's own refusals of a message, whatever the hook answers.
FAULTS = frozenset({TOO_LARGE, BARE_NEWLINE})


def ok(text: object, default: Reply) -> Reply:
    """The 250 reply with a hook's text, or the default if the hook gave none."""
    if isinstance(text, str) and text:
        return Reply(default.code, text, default.enhancedCode)
    return default
