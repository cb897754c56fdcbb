"""
Extensions of SMTP (RFC 5321 section 2.2): the object that defines one, and the built-in ones written with it.

An extension says what EHLO shows, which parameters of MAIL and RCPT it defines and which commands it adds.  The
dialogue asks L{Extensions} and knows none of them by name.
This module knows options as values; it knows neither the dialogue nor hooks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from smtphooks.extension import KEYWORD, Extension, Handler, Validator
from smtphooks.options import Options
from smtphooks.replies import SMTPError
from smtphooks.sasl.mechanisms import NO_MECHANISMS, Mechanisms
from smtphooks.session import Session
from smtphooks.syntax import grammar, xclient


class _Authentication(Extension):
    """AUTH is not shown any more to who is authenticated, but its parameter is his to use (RFC 4954 section 5)."""

    def takesParameters(self, session: Session) -> bool:
        return session.user is not None or super().takesParameters(session)


def _line(extension: Extension, parameters: object) -> str | None:
    return None if parameters is None else f"{extension.keyword} {parameters}".rstrip()


def _saysTheSame(extension: Extension) -> bool:
    """To every client; a subclass may have its own way to tell."""
    return isinstance(extension.parameters, str) and type(extension).parametersFor is Extension.parametersFor


class Extensions:
    """
    The extensions of one server, looked up by what a client may use of them.

    @ivar commandLength: octets that they add to the length of a command line.
    """

    def __init__(self, extensions: Sequence[Extension]) -> None:
        # In all of these the first to define a name keeps it: built-in rules are not replaced from outside.
        # What EHLO shows, where it is the same for every client.
        self._shown = [(each, _line(each, each.parameters) if _saysTheSame(each) else None) for each in extensions]
        self._byKeyword = {extension.keyword: extension for extension in reversed(extensions)}
        self._mail = self._index(extensions, "mailParameters")
        self._rcpt = self._index(extensions, "rcptParameters")
        self._commands = self._index(extensions, "commands")
        self.commandLength = sum(extension.commandLength for extension in extensions)

    @staticmethod
    def _index(extensions: Sequence[Extension], field: str) -> dict[str, tuple[Extension, Any]]:
        index: dict[str, tuple[Extension, Any]] = {}
        for extension in extensions:
            for name, value in getattr(extension, field).items():
                index.setdefault(name, (extension, value))
        return index

    def ehloLines(self, session: Session) -> list[str]:
        """The lines of the EHLO reply that follow the first."""
        lines = []
        for extension, shown in self._shown:
            line = shown or _line(extension, extension.parametersFor(session))
            if line is not None:
                lines.append(line)
        return lines

    def inForce(self, keyword: str, session: Session) -> bool:
        """Is this extension offered to this client?"""
        extension = self._byKeyword.get(keyword)
        return extension is not None and extension.parametersFor(session) is not None

    def mailArguments(self, given: Mapping[str, str | bool], session: Session) -> dict[str, str | bool]:
        """
        Check the parameters of a MAIL command.

        @raise SMTPError: 555 for a parameter that no extension in force defines (RFC 5321 section 4.1.1.11), or what
            its validator refuses it with.
        """
        return self._arguments(self._mail, given, session)

    def rcptArguments(self, given: Mapping[str, str | bool], session: Session) -> dict[str, str | bool]:
        """The same for RCPT."""
        return self._arguments(self._rcpt, given, session)

    @staticmethod
    def _arguments(
        known: Mapping[str, tuple[Extension, Validator]], given: Mapping[str, str | bool], session: Session
    ) -> dict[str, str | bool]:
        arguments = {}
        for keyword, value in given.items():
            extension, validate = known.get(keyword, (None, None))
            if extension is None or validate is None or not extension.takesParameters(session):
                raise SMTPError(f"Parameter {keyword} not recognized or not implemented", 555, "5.5.4")
            arguments[keyword] = validate(value)
        return arguments

    def command(self, verb: str, session: Session) -> Handler | None:
        """The handler of a command that an extension in force adds."""
        extension, handler = self._commands.get(verb, (None, None))
        if extension is None or extension.parametersFor(session) is None:
            return None
        return handler

    def adds(self, verb: str) -> bool:
        """An extension adds this command, in force or not."""
        return verb in self._commands

    def verbs(self, session: Session) -> list[str]:
        """All commands that extensions in force add."""
        return [verb for verb in self._commands if self.command(verb, session)]


# --- Validators ---


def _invalid(keyword: str) -> SMTPError:
    return SMTPError(f"Invalid value of parameter {keyword}", 501, "5.5.4")


def _size(limit: int) -> Validator:
    def validate(value: Any) -> str:
        # RFC 1870 section 4: size-value is 1*20DIGIT.
        if value is True or not re.fullmatch(r"[0-9]{1,20}", value):
            raise _invalid("SIZE")
        if limit and int(value) > limit:
            raise SMTPError("Message exceeds the fixed maximum size", 552, "5.3.4")
        return str(value)

    return validate


def _oneOf(keyword: str, values: Iterable[str]) -> Validator:
    def validate(value: Any) -> str:
        if value is True or value.upper() not in values:
            raise _invalid(keyword)
        return str(value.upper())

    return validate


def _noValue(keyword: str) -> Validator:
    def validate(value: Any) -> bool:
        if value is not True:
            raise SMTPError(f"Parameter {keyword} takes no value", 501, "5.5.4")
        return True

    return validate


def _envelopeID(value: Any) -> str:
    # RFC 3461 section 4.4: xtext of at most 100 octets.
    if value is True or len(value) > 100:
        raise _invalid("ENVID")
    return grammar.decodeXtext(value)


def _notify(value: Any) -> str:
    # RFC 3461 section 4.1: NEVER alone, or a list of the others.
    wanted = [] if value is True else value.upper().split(",")
    if wanted != ["NEVER"] and not (wanted and set(wanted) <= {"SUCCESS", "FAILURE", "DELAY"}):
        raise _invalid("NOTIFY")
    return ",".join(dict.fromkeys(wanted))


def _originalRecipient(value: Any) -> str:
    # RFC 3461 section 4.2: addr-type ";" xtext, at most 500 octets.
    kind, semicolon, address = ("", "", "") if value is True else value.partition(";")
    if not semicolon or not KEYWORD.fullmatch(kind) or not address or len(value) > 500:
        raise _invalid("ORCPT")
    # RFC 6533 section 3: an internationalized address stands as it is, and only where SMTPUTF8 was asked for.
    isText = kind.lower() == "utf-8" and not address.isascii()
    return f"{kind.lower()};{address if isText else grammar.decodeXtext(address)}"


# --- The built-in extensions ---


def isDisabled(verb: str, options: Options, session: Session) -> bool:
    """May this client not use the command?  A session's own list counts instead of the server's."""
    own = session.disabledCommands
    return verb in options.disabledCommands if own is None else verb in (name.upper() for name in own)


def _limits(options: Options) -> str | None:
    # RFC 9422 section 4.
    limits = {"MAILMAX": options.maxTransactions, "RCPTMAX": options.maxRecipients}
    return " ".join(f"{name}={value}" for name, value in limits.items() if value) or None


def _submitter(value: Any) -> str:
    # RFC 4954 section 5: the identity that the message was submitted by, as xtext, or "<>".
    if value is True or len(value) > 500:
        raise _invalid("AUTH")
    return "<>" if value == "<>" else grammar.decodeXtext(value)


def builtInExtensions(options: Options, mechanisms: Mechanisms = NO_MECHANISMS) -> list[Extension]:
    """The extensions that the options put in force, in the order in which EHLO shows them."""
    bodies = ["7BIT", "8BITMIME"]
    # BINARYMIME is a value of 8BITMIME's parameter, sent with CHUNKING's command (RFC 3030 section 3).
    hasBinary = not (options.hideCHUNKING or options.hide8BITMIME or "BDAT" in options.disabledCommands)
    if hasBinary:
        bodies.append("BINARYMIME")

    def chunking(session: Session) -> str | None:
        return None if isDisabled("BDAT", options, session) else ""

    def startTLS(session: Session) -> str | None:
        return None if session.secure or isDisabled("STARTTLS", options, session) else ""

    def auth(session: Session) -> str | None:
        # RFC 4954 section 4: not offered to who is authenticated already, nor where it would be refused.
        isOpen = session.secure or (options.allowInsecureAuth and not options.needsUpgrade)
        if not isOpen or session.user is not None:
            return None
        if not mechanisms.isJudged() or isDisabled("AUTH", options, session):
            return None
        return " ".join(mechanisms.namesFor(session)) or None

    # RFC 1870 section 6.1 adds 26 octets, RFC 6152 section 3 17, RFC 6531 section 3.4 10, RFC 3461 section 5.4 500 to
    # RCPT.
    size = Extension(
        "SIZE",
        str(options.size or ""),
        mailParameters={"SIZE": _size(options.size if options.rejectOversized else 0)},
        commandLength=26,
    )
    eightBit = Extension("8BITMIME", mailParameters={"BODY": _oneOf("BODY", bodies)}, commandLength=17)
    utf8 = Extension("SMTPUTF8", mailParameters={"SMTPUTF8": _noValue("SMTPUTF8")}, commandLength=10)
    dsn = Extension(
        "DSN",
        mailParameters={"RET": _oneOf("RET", ["FULL", "HDRS"]), "ENVID": _envelopeID},
        rcptParameters={"NOTIFY": _notify, "ORCPT": _originalRecipient},
        commandLength=500,
    )
    # RFC 8689 section 2: worth something over TLS only.
    requireTLS = Extension(
        "REQUIRETLS",
        lambda session: "" if session.secure else None,
        mailParameters={"REQUIRETLS": _noValue("REQUIRETLS")},
        commandLength=11,
    )
    # RFC 4954 section 3 (6): 500 octets more.
    authentication = _Authentication("AUTH", auth, mailParameters={"AUTH": _submitter}, commandLength=500)

    def proxyCommand(verb: str, attributes: str) -> Extension:
        def isTrusted(session: Session) -> str | None:
            return attributes if verb in session.proxies and not isDisabled(verb, options, session) else None

        return Extension(verb, isTrusted)

    offered = [
        (not options.hidePIPELINING, Extension("PIPELINING")),
        (not options.hideSize, size),
        (not options.hide8BITMIME, eightBit),
        (not options.hideSMTPUTF8, utf8),
        (not options.hideSTARTTLS, Extension("STARTTLS", startTLS)),
        (bool(mechanisms), authentication),
        (not options.hideREQUIRETLS, requireTLS),
        (not options.hideENHANCEDSTATUSCODES, Extension("ENHANCEDSTATUSCODES")),
        (not options.hideDSN, dsn),
        (not options.hideCHUNKING, Extension("CHUNKING", chunking)),
        (hasBinary, Extension("BINARYMIME", chunking)),
        (True, proxyCommand("XCLIENT", xclient.xClientKeywords)),
        (True, proxyCommand("XFORWARD", xclient.xForwardKeywords)),
        (not options.hideLIMITS, Extension("LIMITS", _limits(options))),
    ]
    return [extension for isOffered, extension in offered if isOffered] + list(options.extensions)
