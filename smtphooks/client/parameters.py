"""
The commands of a transaction: addresses and parameters in, lines out.

Rules: a line holds what was given and nothing else, whatever octets an address has; no parameter goes to a server that
does not offer its extension.  What the message cannot do without is L{NotOffered} then; what only tells the server more
is left out.
This module knows no connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from smtphooks.client.errors import NotOffered
from smtphooks.replies import SMTPError
from smtphooks.syntax.grammar import parseForwardPath, parseReversePath

Arguments = Mapping[str, "str | bool"]

_NOT_XTEXT = re.compile(r"[^!-*,-<>-~]")

# RFC 3461 section 4: these hold xtext, as AUTH does (RFC 4954 section 5).
_XTEXT = frozenset({"ENVID", "AUTH"})
_DSN = frozenset({"RET", "ENVID", "NOTIFY", "ORCPT"})

_PARAMETER = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_VALUE = re.compile(r"[!-<>-~\x80-\U0010ffff]+")

# RFC 6533 section 3: what stands for itself in an internationalized address, and how the rest is written.
_NOT_UNITEXT = re.compile(r"\\(?!x\{[0-9A-Fa-f]+\})|[^!-*,-<>-~\x80-\U0010ffff]")
_NON_ASCII = re.compile(r"[^\x00-\x7f]")

_OCTETS = re.compile("[0-9]{1,20}")
_LINE_OCTETS = 512

_NO_UTF8 = "The next server does not take internationalized mail (SMTPUTF8)"


def xtext(text: str) -> str:
    """A text as xtext (RFC 3461 section 4)."""
    return _NOT_XTEXT.sub(lambda match: "".join(f"+{octet:02X}" for octet in match[0].encode()), text)


def attributeLines(verb: str, attributes: Iterable[tuple[str, str]], offered: str) -> list[bytes]:
    """
    XCLIENT or XFORWARD, in as few commands as lines may be long (RFC 5321 section 4.5.3.1.4).

    @param attributes: names and values; a server is told those that it offers.
    @param offered: what it says behind the keyword.
    """
    known = offered.upper().split()
    lines: list[bytes] = []
    for name, value in attributes:
        if name.upper() in known:
            word = f" {name}={xtext(value)}".encode()
            if lines and len(lines[-1]) + len(word) + len(b"\r\n") <= _LINE_OCTETS:
                lines[-1] += word
            else:
                lines.append(verb.encode() + word)
    return lines


def inUpperCase(arguments: Arguments) -> dict[str, str | bool]:
    """The arguments, their keywords in upper case."""
    return {keyword.upper(): value for keyword, value in arguments.items()}


def mailLine(address: str, arguments: Arguments, extensions: Mapping[str, str], isVerified: bool) -> bytes:
    """
    The command MAIL.

    @param address: the reverse-path without brackets, empty for the null one.
    @param arguments: as C{Address.args} has them.
    @param extensions: what the server offers, by keyword.
    @param isVerified: the connection is encrypted, to a server whose certificate is verified.
    @raise NotOffered: if the server does not offer what the message needs.
    @raise ValueError: if the address or an argument cannot be said.
    """
    arguments = inUpperCase(arguments)
    isUTF8 = "SMTPUTF8" in arguments
    _check(address, isUTF8, isReverse=True)
    _mustOffer(arguments, extensions, isVerified)
    return _line(f"MAIL FROM:<{address}>", arguments, extensions, isUTF8)


def rcptLine(address: str, arguments: Arguments, extensions: Mapping[str, str], isUTF8: bool) -> bytes:
    """
    The command RCPT.

    @param isUTF8: MAIL had the parameter SMTPUTF8.
    @raise ValueError: if the address or an argument cannot be said.
    """
    _check(address, isUTF8, isReverse=False)
    return _line(f"RCPT TO:<{address}>", inUpperCase(arguments), extensions, isUTF8)


def _check(address: str, isUTF8: bool, isReverse: bool) -> None:
    parse = parseReversePath if isReverse else parseForwardPath
    try:
        path = parse(f"<{address}>", utf8=True, lenient=True)
    except SMTPError as error:
        raise ValueError(f"{address!r} is no address: {error.message}") from None
    # Lenient is the parser in what an address may be; a source route, or spaces around it, are none of it.
    if address.startswith("@") or address != address.strip(" ") or (isReverse and bool(path.address) != bool(address)):
        raise ValueError(f"{address!r} is no address")
    if not address.isascii() and not isUTF8:
        raise ValueError(f"{address!r} is not ASCII, and the message is sent without the parameter SMTPUTF8")


def _mustOffer(arguments: Arguments, extensions: Mapping[str, str], isVerified: bool) -> None:
    if "SMTPUTF8" in arguments and "SMTPUTF8" not in extensions:
        raise NotOffered(_NO_UTF8, 550, "5.6.7")  # RFC 6531 section 3.5 and RFC 5248 section 2.4
    body = str(arguments.get("BODY", "7BIT")).upper()
    if body == "8BITMIME" and "8BITMIME" not in extensions:
        raise NotOffered("The next server takes no 8-bit message (8BITMIME)")  # RFC 6152 section 3
    if body == "BINARYMIME" and not {"BINARYMIME", "CHUNKING"} <= extensions.keys():
        raise NotOffered("The next server takes no binary message (BINARYMIME)")  # RFC 3030 section 3
    if "REQUIRETLS" in arguments and not (isVerified and "REQUIRETLS" in extensions):
        # RFC 8689 section 4.2.1
        raise NotOffered("The next server does not promise to keep to TLS (REQUIRETLS)", 550, "5.7.30")
    limit, size = _octets(extensions.get("SIZE")), _octets(arguments.get("SIZE"))
    if 0 < limit < size:
        raise NotOffered(f"The next server takes no message of more than {limit} octets", 552, "5.3.4")


def _octets(text: object) -> int:
    """A number of octets; 0 for what is none."""
    return int(str(text)) if _OCTETS.fullmatch(str(text)) else 0


def _line(command: str, arguments: Arguments, extensions: Mapping[str, str], isUTF8: bool) -> bytes:
    words = [command]
    for keyword, value in arguments.items():
        if not _isOffered(keyword, extensions):
            continue
        word = keyword if value is True else f"{keyword}={_valueFor(keyword, value, isUTF8)}"
        if _PARAMETER.fullmatch(keyword) is None:
            raise ValueError(f"{keyword!r} is no parameter")
        words.append(word)
    return " ".join(words).encode()


def _valueFor(keyword: str, value: str | bool, isUTF8: bool) -> str:
    text = value if isinstance(value, str) else ""
    if keyword == "ORCPT":
        kind, _, address = text.partition(";")
        text = f"{kind};{_unitext(address, isUTF8) if kind.lower() == 'utf-8' else xtext(address)}"
    elif keyword in _XTEXT and text != "<>":
        text = xtext(text)
    if _VALUE.fullmatch(text) is None or not text.isprintable() or not (isUTF8 or text.isascii()):
        raise ValueError(f"{keyword}={value!r} is no parameter")
    return text


def _unitext(address: str, isUTF8: bool) -> str:
    """
    The original recipient of internationalized mail (RFC 6533 section 3).

    Characters that were escaped where it comes from stay escaped.
    """

    def escape(match: re.Match[str]) -> str:
        return f"\\x{{{ord(match[0]):X}}}"

    text = _NOT_UNITEXT.sub(escape, address)
    return text if isUTF8 else _NON_ASCII.sub(escape, text)


def _isOffered(keyword: str, extensions: Mapping[str, str]) -> bool:
    """
    Is this for the server?

    BODY=7BIT says what is so without it, and SIZE and DSN only help; whoever needs more has been told by now.  What is
    of no extension known here goes where the server offers an extension of that name.
    """
    if keyword == "BODY":
        return "8BITMIME" in extensions or "BINARYMIME" in extensions
    return ("DSN" if keyword in _DSN else keyword) in extensions
