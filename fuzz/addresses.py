"""
Any text for the parsers of addresses, parameters and names: they return clean values or raise L{SMTPError}, and an
accepted value is accepted again, unchanged.

C{make fuzz} runs it; arguments are those of libFuzzer, such as C{-max_total_time=60} and folders of inputs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import atheris

with atheris.instrument_imports(include=["smtphooks"]):
    from smtphooks import SMTPError
    from smtphooks.syntax import grammar, xclient
    from smtphooks.syntax.grammar import Path


def maybe(parse: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """The result of the parser, None if it rejects the input."""
    try:
        return parse(*arguments, **named)
    except SMTPError as refusal:
        assert 500 <= (refusal.responseCode or 0) <= 555
        return None


def checkPath(path: Path, parse: Callable[..., Any], **how: bool) -> None:
    """An address is short and clean, and is parsed to itself."""
    address, local, domain = path
    assert address.isprintable()
    assert len(f"<{address}>".encode()) <= 256
    assert len(domain.encode()) <= 255
    assert address == (f"{local}@{domain}" if domain else local)
    assert how["utf8"] or address.isascii()
    assert not set(domain) & set('<>@ "\\')
    assert local.startswith('"') or not set(local) & set('<>@ "\\')
    assert maybe(parse, f"<{address}>", **how) == path, address


def checkArgument(argument: str, keyword: str, utf8: bool, lenient: bool) -> None:
    """Parse the argument of MAIL or RCPT as the dialogue does."""
    parts = grammar.splitPath(argument, keyword, lenient)
    if parts is None:
        return
    text, parameters = parts
    parse = grammar.parseReversePath if keyword == "FROM" else grammar.parseForwardPath
    path = maybe(parse, text, utf8=utf8, lenient=lenient)
    if path is not None:
        checkPath(path, parse, utf8=utf8, lenient=lenient)
    verb, form = ("MAIL", grammar.MAIL_LINE) if keyword == "FROM" else ("RCPT", grammar.RCPT_LINE)
    match = form.fullmatch(f"{verb} {argument.strip(' ')}".encode())
    assert match is None or grammar.commonPath(match) == (path, parameters.rstrip(" "))
    for name, value in (maybe(grammar.parseParameters, parameters, utf8=utf8) or {}).items():
        assert name.isascii() and name.isprintable() and name == name.upper() and " " not in name
        assert value is True or (value.isprintable() and " " not in value)


def test(data: bytes) -> None:
    """One input."""
    given = atheris.FuzzedDataProvider(data)
    choice = given.ConsumeIntInRange(0, 15)
    text = given.ConsumeBytes(given.remaining_bytes()).decode(errors="replace")
    utf8, lenient, keyword = bool(choice & 1), bool(choice & 2), "FROM" if choice & 4 else "TO"
    # The dialogue rejects other lines before it parses them.
    if text.isprintable():
        checkArgument(text if choice & 8 else f"{keyword}:<{text}>", keyword, utf8, lenient)
    for parse in (grammar.decodeXtext, grammar.parseHostname):
        found = maybe(parse, text)
        assert found is None or (found.isascii() and found.isprintable())
    for parseAttributes in (xclient.parseXClient, xclient.parseXForward):
        for value in (maybe(parseAttributes, text) or {}).values():
            assert value is None or value.isprintable()


if __name__ == "__main__":
    atheris.Setup(sys.argv, test)
    atheris.Fuzz()
