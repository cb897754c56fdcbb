"""
How a client of RFC 5321 reads a dialogue: it matches the octets it has sent with the replies that came, one by one.

This is a second, independent implementation of the rules, as slow and obvious as possible, and imports nothing of
smtphooks.
"""

from __future__ import annotations

import re

_CHUNK = re.compile(r"BDAT +([0-9]{1,20})( +LAST)? *", re.ASCII | re.IGNORECASE)
_LINE = re.compile(r"([2-5]\d\d)([ -])[^\x00-\x1f\x7f-\x9f\u2028\u2029]*")
_HELLOS = ("EHLO", "HELO", "LHLO")


def normalized(octets: bytes) -> bytes:
    """The message with its line ends normalized as Postfix does."""
    return re.sub(rb"\r(?!\n)", b" ", re.sub(rb"(?<!\r)\n", b"\r\n", octets))


def hasBareLineEnd(octets: bytes) -> bool:
    """Whether the octets have a CR without LF, or a LF without CR."""
    return octets != normalized(octets)


class Reading:
    """
    One connection, as its client understands it.

    @ivar isGreeted: the first reply has come.
    @ivar isOver: the server has sent its last reply; nothing may follow.
    @ivar acknowledged: for each message with a 250, the octets that the server must have stored, and the sender's local
        part.
    @ivar replies: how many replies have come.
    """

    def __init__(self, bareNewline: str, lmtp: bool) -> None:
        self._bareNewline = bareNewline
        self._lmtp = lmtp
        self._octets = b""  # sent, and not answered yet
        self._text = b""  # an incomplete reply
        self._due = 0  # pending replies to the message at hand
        self._codes: list[int] = []  # the codes of those that have come
        self._message: bytes | None = None
        self._isResponse = False  # the next line is a response to a challenge
        self._isMessage = False  # the octets that follow are a message
        self.isGreeted = False
        self.isSecuring = False  # STARTTLS got its 220, and the handshake may still be refused
        self.isOver = False
        self.acknowledged: list[tuple[bytes, str]] = []
        self.replies = 0
        self._reset()

    def _reset(self) -> None:
        self._sender = ""
        self._recipients = 0
        self._isBinary = False
        self._chunks = b""

    # --- what the client sends ---

    def sent(self, octets: bytes) -> None:
        """The client has sent these octets."""
        self._octets += octets

    def isAnswered(self) -> bool:
        """Every command has its reply."""
        return self.isGreeted and not self._due and self._next() is None

    def wholeMessage(self) -> bytes | None:
        """The message that was sent whole and has no reply yet."""
        if self._isMessage:
            found = self._nextMessage()
            return None if found is None else self._withoutDots(found)
        request = self._next()
        if request is None or not self._recipients or self._isResponse:
            return None
        chunk = _CHUNK.fullmatch(request[0])
        if chunk is None or not chunk[2]:
            return None
        return self._ofChunks(self._chunks + request[1])

    def _next(self) -> tuple[str, bytes, int] | None:
        """The next complete command: its line, the octets that follow and belong to it, and the length of both."""
        if self._isMessage:
            message = self._nextMessage()
            return None if message is None else (".", message, len(message) + 3)
        end = b"\r\n" if self._bareNewline == "reject" else b"\n"
        line, found, behind = self._octets.partition(end)
        if not found:
            return None
        whole = line + end
        text = re.sub(r"\r?\n\Z", "", whole.decode(errors="replace"))
        chunk = _CHUNK.fullmatch(text)
        if chunk is None or self._isResponse:
            return text, b"", len(whole)
        octets = int(chunk[1])
        if len(behind) < octets:
            return None
        return text, behind[:octets], len(whole) + octets

    def _nextMessage(self) -> bytes | None:
        end = (b"\r\n" + self._octets).find(b"\r\n.\r\n")
        return None if end < 0 else self._octets[:end]

    def _withoutDots(self, message: bytes) -> bytes:
        if self._bareNewline == "normalize":
            message = normalized(message)
        return re.sub(rb"(\A|\r\n)\.", rb"\1", message)

    def _ofChunks(self, octets: bytes) -> bytes:
        return normalized(octets) if self._bareNewline == "normalize" and not self._isBinary else octets

    # --- what the server sends ---

    def came(self, octets: bytes) -> None:
        """The server has sent these octets."""
        assert not (octets and self.isOver), f"after its last reply the server says {octets!r}"
        *lines, self._text = (self._text + octets).split(b"\r\n")
        for line in lines:
            match = _LINE.fullmatch(line.decode())
            assert match is not None, f"no reply: {line!r}"
            assert len(line) <= 510 or match[1] == "334", f"a long reply: {line!r}"
            if match[2] == " ":
                assert not self.isOver, f"after its last reply the server says {line!r}"
                self.replies += 1
                self._reply(int(match[1]), line.decode())
        assert not self._text, f"half a reply: {self._text!r}"

    def _reply(self, code: int, line: str) -> None:
        if self._due:
            self._replyToMessage(code)
            return
        if not self.isGreeted:
            self.isGreeted = True
            self.isOver = code != 220
            return
        request = self._next()
        if request is None:
            # The reply answers no command: the server ends the connection.
            assert code == 421 or (self.isSecuring and code >= 400), f"no command asked for {line!r}"
            self.isOver = True
            return
        text, behind, length = request
        echo = re.search("answers (.+)", line)
        assert echo is None or echo[1].strip() in text, f"to {text!r} came {line!r}"
        self._octets = self._octets[length:]
        self._answered(text, behind, code)
        if code in (221, 421) and not self._due:
            self.isOver = True

    def _answered(self, text: str, behind: bytes, code: int) -> None:
        if self._isMessage:
            self._isMessage = False
            assert code != 250 or self._bareNewline != "reject" or not hasBareLineEnd(behind)
            self._beginReplies(self._withoutDots(behind), code)
            return
        wasResponse, self._isResponse = self._isResponse, code == 334
        if wasResponse or self._isResponse:
            return
        verb = text.partition(" ")[0].upper()
        if verb in (*_HELLOS, "RSET") and code == 250:
            self._reset()
        elif verb in ("STARTTLS", "XCLIENT") and code == 220:
            self._reset()
            self.isSecuring = verb == "STARTTLS"
            assert verb != "STARTTLS" or not self._octets, "something followed STARTTLS in the clear"
        elif verb == "MAIL" and code == 250:
            self._reset()
            self._sender = text.partition("<")[2].partition("@")[0]
            self._isBinary = "BODY=BINARYMIME" in text.upper()
        elif verb == "RCPT" and code == 250:
            self._recipients += 1
        elif verb == "DATA" and code == 354:
            self._isMessage = True
        elif verb == "BDAT" and self._recipients:
            self._chunk(text, behind, code)

    def _chunk(self, text: str, behind: bytes, code: int) -> None:
        chunk = _CHUNK.fullmatch(text)
        if chunk is None:
            assert code >= 400
            self.isOver = True
            return
        self._chunks += behind
        if chunk[2]:
            bare = not self._isBinary and hasBareLineEnd(self._chunks)
            assert code != 250 or self._bareNewline != "reject" or not bare
            self._beginReplies(self._ofChunks(self._chunks), code)
        elif code >= 400:
            self._reset()

    def _beginReplies(self, message: bytes, code: int) -> None:
        self._due = self._recipients if self._lmtp else 1
        self._codes = []
        self._message = message
        self._replyToMessage(code)

    def _replyToMessage(self, code: int) -> None:
        self._due -= 1
        self._codes.append(code)
        if not self._due:
            assert self._message is not None
            if 250 in self._codes:
                self.acknowledged.append((self._message, self._sender))
            self.isOver = 421 in self._codes
            self._reset()
