"""
A service extension (RFC 5321 section 2.2) as a user defines it, and as the built-in ones are defined.

An extension says what EHLO shows, which parameters of MAIL and RCPT it defines and which commands it adds.
This module is a value: it knows neither options nor the dialogue.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from smtphooks.session import Session

Validator = Callable[[Any], "str | bool"]
Handler = Callable[[str, Session], Any]

KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")


def _isKeyword(instance: Extension, attribute: attrs.Attribute[Any], value: Any) -> None:
    names = [value] if isinstance(value, str) else list(value)
    for name in names:
        # RFC 5321 section 4.1.1.1: ehlo-keyword; the esmtp-keyword of section 4.1.2 is the same.
        if not isinstance(name, str) or not KEYWORD.fullmatch(name):
            raise ValueError(f"{attribute.name} of an Extension is {name!r}: letters, digits and hyphens are allowed")


def _upper(value: Any) -> Any:
    if isinstance(value, str):
        return value.upper()
    return {str(name).upper(): item for name, item in dict(value).items()}


@attrs.frozen(eq=False)
class Extension:
    """
    One service extension.

    @ivar keyword: its EHLO keyword.
    @type keyword: C{str}
    @ivar parameters: what follows the keyword in the EHLO line: a text, or a function of the L{Session} that returns
        one.  None hides the extension and takes it out of force for that session.
    @type parameters: C{str}, callable or None
    @ivar mailParameters: parameters of MAIL that it defines: keyword to validator.  A validator gets the text of the
        value (True if there was none), returns what C{address.args} shall hold, or raises L{SMTPError}.
    @ivar rcptParameters: the same for RCPT.
    @ivar commands: commands that it adds: verb to C{handler(argument, session)}, whose result is that of a hook: the
        text of the 250 reply or None, returned as it is, as a Deferred or by C{async def}; it may raise L{SMTPError}.
    @ivar commandLength: octets by which it lengthens a command line (RFC 5321 section 4.5.3.1.4).
    @raise ValueError: if a keyword has other characters than letters, digits and hyphens.
    """

    keyword: str = attrs.field(validator=_isKeyword, converter=_upper)
    parameters: str | Callable[[Session], str | None] | None = ""
    mailParameters: Mapping[str, Validator] = attrs.field(factory=dict, validator=_isKeyword, converter=_upper)
    rcptParameters: Mapping[str, Validator] = attrs.field(factory=dict, validator=_isKeyword, converter=_upper)
    commands: Mapping[str, Handler] = attrs.field(factory=dict, validator=_isKeyword, converter=_upper)
    commandLength: int = 0

    def parametersFor(self, session: Session) -> str | None:
        """What EHLO shows this client behind the keyword; None if the extension is not in force."""
        return self.parameters(session) if callable(self.parameters) else self.parameters

    def takesParameters(self, session: Session) -> bool:
        """May this client use the parameters of MAIL and RCPT that it defines?"""
        return self.parametersFor(session) is not None
