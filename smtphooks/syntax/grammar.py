"""
Grammar: the arguments of commands, as RFC 5321 sections 4.1.2 and 4.1.3 and RFC 6531 section 3.3 define them.

In: the text of an argument.  Out: paths, parameters, host names; or the rejection, an L{SMTPError}.
Rules kept here: L{SMTPError} is the only exception, whatever the text; the work is linear in its length; an accepted
value has no control character and no invisible one.
This module knows syntax alone: not which parameters exist, not the session, not what a hook decides.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import idna

from smtphooks.netaddress import addressLiteral, canonical, maybeTaggedIP
from smtphooks.replies import SMTPError

# RFC 5321 section 4.5.3.1, in octets; the path is counted with its brackets.  The section's limit on local parts is not
# enforced, as it advises: forwarders and mailing lists put a whole address into theirs.
_DOMAIN_OCTETS = 255
_PATH_OCTETS = 256
_LABEL_OCTETS = 63  # RFC 1035 section 2.3.4

# In all patterns below, a repeated piece begins with a character that the piece before it cannot contain.  So a text
# can be divided in one way only, and a mismatch is found in one pass.
_ASCII_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
_NON_ASCII = r"\x80-\U0010ffff"
_ATOM = f"[{_ASCII_ATEXT}{_NON_ASCII}]+"
# RFC 6531 section 3.3 adds non-ASCII characters to qtextSMTP, but not to quoted-pairSMTP.
_QTEXT = rf"[ !#-\[\]-~{_NON_ASCII}]*"
_QUOTED = rf'"{_QTEXT}(?:\\[ -~]{_QTEXT})*"'
_ANY_QUOTED = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_LDH = "[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*"

# The lines that clients really send, whole and as octets; all others take the way through the parsers below, which read
# these lines alike.  "xn--", or any two hyphens in a row, does not match: such a domain is parsed in full.
_COMMON_PATH = (
    rf"<(?=[^>]{{1,{_PATH_OCTETS - 2}}}>)"
    rf"([{_ASCII_ATEXT}]+(?:\.[{_ASCII_ATEXT}]+)*@(?=[^>]{{1,{_LABEL_OCTETS}}}>)([A-Za-z0-9]+(?:[.-][A-Za-z0-9]+)*))>"
)


def _line(text: str) -> re.Pattern[bytes]:
    return re.compile(f"(?i:{text}) *".encode())


_COMMON_PARAMETERS = "(?: +([!-~]+(?: +[!-~]+)*))?"
MAIL_LINE = _line(f"MAIL FROM:{_COMMON_PATH}{_COMMON_PARAMETERS}")
RCPT_LINE = _line(f"RCPT TO:{_COMMON_PATH}{_COMMON_PARAMETERS}")
HELLO_LINE = _line("[A-Z]{4} ([!-~]{1,255})")
CHUNK_LINE = _line("BDAT ([0-9]{1,20})( +LAST)?")

_BRACKETED = re.compile(rf'[ \t]*(<[^">]*(?:{_ANY_QUOTED}[^">]*)*>)(?: |\Z)', re.DOTALL)
_BARE = re.compile(rf'[ \t]*(?![< \t]|\Z)([^" ]*(?:{_ANY_QUOTED}[^" ]*)*)(?: |\Z)', re.DOTALL)

_MAILBOX = re.compile(rf"({_ATOM}(?:\.{_ATOM})*|{_QUOTED})@(.*)", re.DOTALL)
_LENIENT_MAILBOX = re.compile(rf"([.{_ASCII_ATEXT}{_NON_ASCII}]+|{_QUOTED})@(.*)", re.DOTALL)
_LABEL = re.compile(_LDH)
_LENIENT_LABEL = re.compile(_LDH.replace("A-Z", "_A-Z"))

_KEYWORD = re.compile("[A-Za-z0-9][A-Za-z0-9-]*")
_VALUE = re.compile("[!-<>-~]+")
_UTF8_VALUE = re.compile(f"[!-<>-~{_NON_ASCII}]+")
_XTEXT = re.compile(r"[!-*,-<>-~]*(?:\+[0-9A-F]{2}[!-*,-<>-~]*)*")
_LENIENT_XTEXT = re.compile(_XTEXT.pattern.replace("A-F", "A-Fa-f"))
_HEXCHAR = re.compile(rb"\+(..)")
_HOSTNAME = re.compile("[!-~]{1,255}")

# The part of Unicode's Default_Ignorable_Code_Point that str.isprintable() counts as printable: fillers, inherent
# vowels, variation selectors.  They are invisible, so with them different addresses look the same.
_IGNORABLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]")


class Path(NamedTuple):
    """
    A reverse-path or forward-path without brackets and source route; the null path has three empty fields.

    @ivar address: the mailbox.
    @ivar local: its local-part as written, quotes included.
    @ivar domain: its domain or address literal; C{""} for a bare C{postmaster}.
    """

    address: str
    local: str
    domain: str


_NULL_PATH = Path("", "", "")


class _Fault(Exception):
    """What is wrong with a path; the code of the reply depends on whether it is the sender's or a recipient's."""


def _isVisible(text: str) -> bool:
    return text.isprintable() and (text.isascii() or _IGNORABLE.search(text) is None)


def _limit(what: str, text: str, octets: int) -> None:
    # Octets are those of UTF-8, as on the wire; the first test avoids encoding a hostile text.
    if len(text) > octets or len(text.encode("utf-8", "replace")) > octets:
        raise _Fault(f"{what} too long, at most {octets} octets")


def bareLine(verb: str) -> re.Pattern[bytes]:
    """The line of a command without an argument."""
    return _line(verb)


def commonPath(line: re.Match[bytes]) -> tuple[tuple[str, str, str], str]:
    """
    What L{splitPath} and then L{parseReversePath} or L{parseForwardPath} return, for a line as most clients send it.

    @param line: its match with L{MAIL_LINE} or L{RCPT_LINE}.
    @return: the fields of the path, and the text of the parameters.
    """
    octets, within, parameters = line.groups()
    address, domain = octets.decode(), within.decode()
    return (address, address[: ~len(domain)], domain), parameters.decode() if parameters else ""


def splitPath(argument: str, keyword: str, lenient: bool) -> tuple[str, str] | None:
    """
    Split the argument of MAIL or RCPT into its path and its parameters.

    Whitespace after the colon, which RFC 5321 section 3.3 forbids, is too common to reject.

    @param argument: such as C{"FROM:<user@example.org> SIZE=1"}.
    @param keyword: C{"FROM"} or C{"TO"}.
    @param lenient: the brackets may be missing.
    @return: the path as written, and the text of the parameters; None if the argument does not have this form.
    """
    start = len(keyword) + 1
    if argument[:start].upper() != keyword.upper() + ":":
        return None
    match = _BRACKETED.match(argument, start)
    if match is None and lenient:
        match = _BARE.match(argument, start)
    if match is None:
        return None
    return match[1], argument[match.end() :].lstrip(" ")


def parseReversePath(text: str, *, utf8: bool, lenient: bool) -> Path:
    """
    The path of MAIL (RFC 5321 section 4.1.2): a mailbox, or the null path C{<>}.

    @param text: the path as L{splitPath} returns it.
    @param utf8: the client has requested SMTPUTF8 for the transaction.
    @param lenient: option C{lenientAddressParsing}.
    """
    try:
        inner = _unwrap(text, utf8, lenient)
        return _mailbox(inner, lenient) if inner else _NULL_PATH
    except _Fault as fault:
        raise SMTPError(f"Bad sender address: {fault}", 501, "5.1.7") from None


def parseForwardPath(text: str, *, utf8: bool, lenient: bool) -> Path:
    """
    The path of RCPT (RFC 5321 section 4.1.1.3): a mailbox, or C{<postmaster>} without domain (section 4.5.1).

    The parameters are those of L{parseReversePath}.
    """
    try:
        inner = _unwrap(text, utf8, lenient)
        if not inner:
            raise _Fault("it is empty")
        if inner.lower() == "postmaster":
            return Path(inner, inner, "")
        return _mailbox(inner, lenient)
    except _Fault as fault:
        raise SMTPError(f"Bad recipient address: {fault}", 501, "5.1.3") from None


def _unwrap(text: str, utf8: bool, lenient: bool) -> str:
    """The text between the brackets; its length, visibility and character set are checked."""
    if not utf8 and not text.isascii():
        raise SMTPError("An address beyond ASCII needs SMTPUTF8 (RFC 6531)", 553, "5.6.7")
    if text.startswith("<") and text.endswith(">"):
        inner = text[1:-1]
    elif lenient and text.strip(" "):
        inner = text
    else:
        raise _Fault("it is not in angle brackets")
    if lenient:
        inner = inner.strip(" ")
    _limit("path", f"<{inner}>", _PATH_OCTETS)
    if not _isVisible(inner):
        raise _Fault("control or invisible character")
    return inner


def _mailbox(inner: str, lenient: bool) -> Path:
    if inner.startswith("@"):
        # RFC 5321 section 4.1.1.3 and appendix C: source routes must be accepted and should be ignored.
        route, _, inner = inner.partition(":")
        for hop in route.split(","):
            if not hop.startswith("@"):
                raise _Fault("malformed source route")
            _domain(hop[1:], lenient)
    match = (_LENIENT_MAILBOX if lenient else _MAILBOX).fullmatch(inner)
    if match is None:
        raise _Fault("it is not of the form local-part@domain")
    local, domain = match.groups()
    domain = _addressLiteral(domain) if domain.startswith("[") else _domain(domain, lenient)
    address = f"{local}@{domain}"
    _limit("path", f"<{address}>", _PATH_OCTETS)  # again, as the mapping of a domain can lengthen it
    return Path(address, local, domain)


def _addressLiteral(literal: str) -> str:
    """RFC 5321 section 4.1.3, without General-address-literal: IANA has registered no tag but IPv6."""
    ip = maybeTaggedIP(literal[1:-1]) if literal.endswith("]") else None
    if ip is None:
        raise _Fault("malformed address literal")
    return addressLiteral(canonical(ip))


def _domain(domain: str, lenient: bool) -> str:
    """
    Check a domain name: ASCII labels by RFC 5321, internationalized ones by IDNA 2008 (RFC 5891).

    @return: an ASCII domain as written; an internationalized one mapped by UTS #46 (case, width, full stops) and in
        U-labels.
    """
    international = not domain.isascii()
    try:
        # Without STD 3 rules: ASCII is checked by the label patterns, one of which is lenient.
        mapped = idna.uts46_remap(domain, std3_rules=False) if international else domain
        if lenient:
            mapped = mapped.removesuffix(".")
        labels = mapped.split(".")
        # The limits are those of DNS, so they apply to A-labels.
        aLabels = [x if x.isascii() else f"xn--{x.encode('punycode').decode('ascii')}" for x in labels]
        for label in aLabels:
            _limit("domain label", label, _LABEL_OCTETS)
        _limit("domain", ".".join(aLabels), _DOMAIN_OCTETS)
        uLabels = [_label(label, lenient) for label in labels]
    except ValueError:  # the base class of idna's errors
        raise _Fault("malformed domain") from None
    if not international:
        return mapped
    domain = ".".join(uLabels)
    if not _isVisible(domain):
        # An A-label among U-labels can encode a joiner, which IDNA allows in some words.
        raise _Fault("control or invisible character")
    return domain


def _label(label: str, lenient: bool) -> str:
    if label.isascii() and not label.lower().startswith("xn--"):
        if (_LENIENT_LABEL if lenient else _LABEL).fullmatch(label) is None:
            raise _Fault("malformed domain")
        return label
    return idna.ulabel(label)


def parseParameters(text: str, utf8: bool) -> dict[str, str | bool]:
    """
    The parameters of MAIL or RCPT (RFC 5321 section 4.1.2): upper-case keyword to value, True without a value.

    @param utf8: values may have non-ASCII characters (RFC 6531).
    """
    parameters: dict[str, str | bool] = {}
    for parameter in text.split(" "):
        if not parameter:
            continue
        keyword, equals, value = parameter.partition("=")
        if _KEYWORD.fullmatch(keyword) is None:
            raise SMTPError("Malformed parameter", 501, "5.5.4")
        keyword = keyword.upper()
        if keyword in parameters:
            raise SMTPError(f"Parameter {keyword} given twice", 501, "5.5.4")
        if equals and ((_UTF8_VALUE if utf8 else _VALUE).fullmatch(value) is None or not _isVisible(value)):
            raise SMTPError(f"Malformed value of parameter {keyword}", 501, "5.5.4")
        parameters[keyword] = value if equals else True
    return parameters


def maybeXtext(text: str, *, lenient: bool = False) -> bytes | None:
    """
    The octets that an xtext encodes (RFC 3461 section 4), None if it is malformed.

    @param lenient: hexadecimal digits may be lower-case, as Postfix accepts them with XCLIENT.
    """
    if (_LENIENT_XTEXT if lenient else _XTEXT).fullmatch(text) is None:
        return None
    return _HEXCHAR.sub(lambda match: bytes([int(match[1], 16)]), text.encode("ascii"))


def decodeXtext(text: str) -> str:
    """
    Decode the xtext of ORCPT or ENVID.

    RFC 3461 sections 4.2 and 4.4 restrict it to printable ASCII, so no line end gets into a header field or a log.
    """
    octets = maybeXtext(text)
    if octets is None:
        raise SMTPError("Malformed xtext (RFC 3461 section 4)", 501, "5.5.4")
    decoded = octets.decode("latin-1")
    if not (decoded.isascii() and decoded.isprintable()):
        raise SMTPError("Only printable ASCII may be encoded as xtext here", 501, "5.5.4")
    return decoded


def parseHostname(text: str) -> str:
    """
    The host name that a client sends with HELO, EHLO or LHLO.

    RFC 5321 section 4.1.4 forbids rejecting mail because the name is not the client's, and real clients send invalid
    names (underscores, bare addresses): any printable ASCII is accepted.
    """
    if _HOSTNAME.fullmatch(text) is None:
        raise SMTPError("Host name or address literal wanted, at most 255 printable ASCII characters", 501, "5.5.4")
    return text
