"""
The built-in service extensions: what each one shows in EHLO, and the validators of its parameters.

To add an ESMTP parameter, write its validator and its extension here, and give it a row in L{builtInExtensions}.
This module knows options as values; it knows neither the state of the dialogue nor hooks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from smtphooks.dialogue import xclient
from smtphooks.dialogue.extensions import isDisabled
from smtphooks.extension import KEYWORD, Extension, Validator
from smtphooks.options import Options
from smtphooks.replies import SMTPError
from smtphooks.sasl.mechanisms import NO_MECHANISMS, Mechanisms
from smtphooks.session import Session
from smtphooks.syntax import grammar


def builtInExtensions(
    options: Options, mechanisms: Mechanisms = NO_MECHANISMS, limits: Mapping[str, int] | None = None
) -> list[Extension]:
    """
    The extensions that the options put in force, in the order in which EHLO shows them, and the user's own.

    @param limits: for LIMITS, beside those of the options: name to number.
    """
    offered = [
        (not options.hidePIPELINING, Extension("PIPELINING")),
        (not options.hideSize, _size(options)),
        (not options.hide8BITMIME, _eightBitMIME(options)),
        (not options.hideSMTPUTF8, _SMTPUTF8),
        (not options.hideSTARTTLS, _startTLS(options)),
        (bool(mechanisms), _authentication(options, mechanisms)),
        (not options.hideREQUIRETLS, _REQUIRETLS),
        (not options.hideENHANCEDSTATUSCODES, Extension("ENHANCEDSTATUSCODES")),
        (not options.hideDSN, _DSN),
        (not options.hideCHUNKING, _chunking("CHUNKING", options)),
        (_hasBinary(options), _chunking("BINARYMIME", options)),
        *((True, extension) for extension in xclient.extensionsOf(options)),
        (not options.hideLIMITS, Extension("LIMITS", _limits(options, limits or {}))),
    ]
    return [extension for isOffered, extension in offered if isOffered] + list(options.extensions)


def _invalid(keyword: str) -> SMTPError:
    return SMTPError(f"Invalid value of parameter {keyword}", 501, "5.5.4")


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


# --- SIZE (RFC 1870) ---


def _size(options: Options) -> Extension:
    limit = options.size if options.rejectOversized else 0

    def validate(value: Any) -> str:
        # Section 4: size-value is 1*20DIGIT.
        if value is True or not re.fullmatch(r"[0-9]{1,20}", value):
            raise _invalid("SIZE")
        if limit and int(value) > limit:
            raise SMTPError("Message exceeds the fixed maximum size", 552, "5.3.4")
        return str(value)

    # The length is that of section 6.1.
    return Extension("SIZE", str(options.size or ""), mailParameters={"SIZE": validate}, commandLength=26)


# --- 8BITMIME (RFC 6152), CHUNKING and BINARYMIME (RFC 3030) ---


def _hasBinary(options: Options) -> bool:
    # RFC 3030 section 3: BINARYMIME is a value of 8BITMIME's parameter, sent with CHUNKING's command.
    return not (options.hideCHUNKING or options.hide8BITMIME or "BDAT" in options.disabledCommands)


def _eightBitMIME(options: Options) -> Extension:
    bodies = ["7BIT", "8BITMIME", *["BINARYMIME"] * _hasBinary(options)]
    # The length is that of RFC 6152 section 3.
    return Extension("8BITMIME", mailParameters={"BODY": _oneOf("BODY", bodies)}, commandLength=17)


def _chunking(keyword: str, options: Options) -> Extension:
    return Extension(keyword, lambda session: None if isDisabled("BDAT", options, session) else "")


# --- SMTPUTF8 (RFC 6531); the length is that of section 3.4 ---

_SMTPUTF8 = Extension("SMTPUTF8", mailParameters={"SMTPUTF8": _noValue("SMTPUTF8")}, commandLength=10)


# --- STARTTLS (RFC 3207) ---


def _startTLS(options: Options) -> Extension:
    def parametersFor(session: Session) -> str | None:
        return None if session.secure or isDisabled("STARTTLS", options, session) else ""

    return Extension("STARTTLS", parametersFor)


# --- REQUIRETLS (RFC 8689): section 2 gives it a meaning over TLS only ---

_REQUIRETLS = Extension(
    "REQUIRETLS",
    lambda session: "" if session.secure else None,
    mailParameters={"REQUIRETLS": _noValue("REQUIRETLS")},
    commandLength=11,
)


# --- AUTH (RFC 4954) ---


class _Authentication(Extension):
    """No longer advertised after authentication; the AUTH= parameter remains valid (section 5)."""

    def takesParameters(self, session: Session) -> bool:
        return session.user is not None or super().takesParameters(session)


def _submitter(value: Any) -> str:
    # Section 5: the identity that submitted the message, as xtext, or "<>".
    if value is True or len(value) > 500:
        raise _invalid("AUTH")
    return "<>" if value == "<>" else grammar.decodeXtext(value)


def _authentication(options: Options, mechanisms: Mechanisms) -> Extension:
    def parametersFor(session: Session) -> str | None:
        # Section 4: not advertised after authentication, nor where AUTH would be refused.
        mayAuthenticate = session.secure or (options.allowInsecureAuth and not options.needsUpgrade)
        if not mayAuthenticate or session.user is not None:
            return None
        if not mechanisms.hasHook() or isDisabled("AUTH", options, session):
            return None
        return " ".join(mechanisms.namesFor(session)) or None

    # The length is that of section 3 (6).
    return _Authentication("AUTH", parametersFor, mailParameters={"AUTH": _submitter}, commandLength=500)


# --- DSN (RFC 3461); the length is that of section 5.4 ---


def _envelopeID(value: Any) -> str:
    # Section 4.4: xtext of at most 100 octets.
    if value is True or len(value) > 100:
        raise _invalid("ENVID")
    return grammar.decodeXtext(value)


def _notify(value: Any) -> str:
    # Section 4.1: NEVER alone, or a list of the others.
    wanted = [] if value is True else value.upper().split(",")
    if wanted != ["NEVER"] and not (wanted and set(wanted) <= {"SUCCESS", "FAILURE", "DELAY"}):
        raise _invalid("NOTIFY")
    return ",".join(dict.fromkeys(wanted))


def _originalRecipient(value: Any) -> str:
    # Section 4.2: addr-type ";" xtext, at most 500 octets.
    kind, semicolon, address = ("", "", "") if value is True else value.partition(";")
    if not semicolon or not KEYWORD.fullmatch(kind) or not address or len(value) > 500:
        raise _invalid("ORCPT")
    # RFC 6533 section 3: an internationalized address is not encoded, and needs SMTPUTF8.
    isText = kind.lower() == "utf-8" and not address.isascii()
    return f"{kind.lower()};{address if isText else grammar.decodeXtext(address)}"


_DSN = Extension(
    "DSN",
    mailParameters={"RET": _oneOf("RET", ["FULL", "HDRS"]), "ENVID": _envelopeID},
    rcptParameters={"NOTIFY": _notify, "ORCPT": _originalRecipient},
    commandLength=500,
)


# --- LIMITS (RFC 9422) ---


def _limits(options: Options, others: Mapping[str, int]) -> str | None:
    # Section 4.
    limits = {"MAILMAX": options.maxTransactions, "RCPTMAX": options.maxRecipients}
    for name, value in others.items():
        limits[name] = min(value, limits.get(name) or value)
    return " ".join(f"{name}={value}" for name, value in limits.items() if value) or None
