"""
Kinds of options: how an option is declared, and what a value of each kind looks like.

A kind is a function that declares a field of C{Options}: its default, the words for what it wants, and the check of a
value.  A declaration may add facts, which C{Options} lists.
This module knows no option by name.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any, TypeVar

import attrs
from typing_extensions import dataclass_transform

from smtphooks.errors import OptionError, unknownName

Check = Callable[[Any], bool]

_T = TypeVar("_T")


def option(
    default: Any,
    wants: str,
    fits: Check,
    converter: Callable[[Any], Any] | None = None,
    show: Callable[[Any], object] | None = None,
    **facts: Any,
) -> Any:
    """
    Declare an option that is the only one of its kind.

    @param default: if it is None, None fits as well; if it is a function, it makes the default; if it is
        C{attrs.NOTHING}, the option must be given.
    @param wants: completes "the option wants …" in the error for a value that does not fit.  C{{true!r}} and
        C{{false!r}} are written as Python or TOML writes them.
    @param show: makes what errors and the repr of the options show of a value.
    @param facts: metadata of the field.
    """

    def check(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not (default is None and value is None) and not fits(value):
            shown = value if show is None else show(value)
            raise OptionError(f"option {attribute.name} is {{!r}}, it wants {wants}", shown, options=[attribute.name])

    factory = default if callable(default) else None
    return attrs.field(
        default=attrs.NOTHING if factory else default,
        factory=factory,
        validator=check,
        converter=converter,
        repr=True if show is None else lambda value: repr(show(value)),
        metadata={"wants": wants, **facts},
    )


@dataclass_transform(kw_only_default=True, field_specifiers=(attrs.field,))
def withOptions(cls: type[_T]) -> type[_T]:
    """
    Make a class whose constructor takes options by name: its fields, each declared by its kind.

    Those that must be given may be given by position as well, in their order, and so may those with the fact
    C{byPosition}.  What is not declared so keeps out of the
    constructor with C{attrs.field(init=False)}.  Two objects are equal only if they are the same.
    """
    made: Any = attrs.define(kw_only=True, eq=False, slots=False)(cls)
    make = made.__init__

    @functools.wraps(make)
    def construct(self: object, *positional: object, **given: object) -> None:
        known = [field.alias for field in attrs.fields(made) if field.init]
        for name in given:
            if name not in known:
                raise OptionError(unknownName("option", name, known), options=[name])
        required = [field.alias for field in attrs.fields(made) if field.init and field.default is attrs.NOTHING]
        placed = [
            field.alias
            for field in attrs.fields(made)
            if field.init and (field.default is attrs.NOTHING or field.metadata.get("byPosition"))
        ]
        if len(positional) <= len(placed):
            byPosition = dict(zip(placed, positional, strict=False))
            if byPosition.keys().isdisjoint(given):
                given, positional = {**byPosition, **given}, ()
        for name in required:
            if name not in given:
                wants = attrs.fields_dict(made)[name].metadata.get("wants", "a value")
                raise OptionError(f"option {name} is missing, it wants {wants}", options=[name])
        make(self, *positional, **given)

    made.__init__ = construct
    return made  # type: ignore[no-any-return]


# --- Flags and numbers ---


def flag(default: bool, **facts: Any) -> Any:
    """True or False."""
    return option(default, "{true!r} or {false!r}", lambda value: isinstance(value, bool), **facts)


def within(least: int, most: float = float("inf")) -> Check:
    """The check for a whole number."""
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


_isCount = within(0)


def count(default: int, unit: str, **facts: Any) -> Any:
    """A whole number."""
    return option(default, f"a whole number of {unit}, 0 for no limit", _isCount, **facts)


_HOUR, _DAY = 3600, 86400


def seconds(default: float, most: float = _HOUR) -> Any:
    """
    A duration.

    @param most: the greatest number that is meant in seconds.  A greater one is taken as given, and L{doubtsOf} says
        that it was probably meant in milliseconds, as those of Node's libraries are.  An hour, the default, is more
        than any timeout of a single answer needs, and less than four seconds are in milliseconds.
    """
    infinity = float("inf")
    return option(
        default,
        "a number of seconds, 0 for no limit",
        lambda value: _isCount(value) or (isinstance(value, float) and 0 <= value < infinity),
        mostSeconds=most,
    )


def doubtsOf(checked: object) -> Iterator[str]:
    """
    What was probably not meant, though it may be so: a sentence for each option whose seconds can only be milliseconds.

    @param checked: options, a layer, or another object whose options are declared by their kinds; of others nothing is
        known.
    """
    kind: Any = type(checked)
    for field in attrs.fields(kind) if attrs.has(kind) else ():
        most = field.metadata.get("mostSeconds")
        value = getattr(checked, field.name, None) if most is not None else None
        if value is not None and value > most:
            yield f"option {field.name} is {value} seconds, which is {_duration(value)}, did you mean {value / 1000:g}?"


def _duration(seconds: float) -> str:
    """A duration in the greatest unit of which it has several."""
    units = ((_DAY, "days"), (_HOUR, "hours"), (60, "minutes"))
    size, unit = next((each for each in units if seconds >= 2 * each[0]), (1, "seconds"))
    return f"{seconds / size:.3g} {unit}"


# --- Texts ---


def isLine(value: Any) -> bool:
    """Is it a text without control characters?"""
    return isinstance(value, str) and (not value or value.isprintable())


def line(default: str) -> Any:
    """A text that becomes part of a reply."""
    return option(default, "one line of text without control characters", isLine)


def hostname(default: Callable[[], str]) -> Any:
    """A host name for the greeting."""
    return option(
        default,
        "a host name",
        lambda value: isLine(value) and 0 < len(value) <= 255 and value.isascii() and " " not in value,
    )


def heloTemplate(default: str) -> Any:
    """The text of the reply to HELO; L{fillHeloResponse} fills it."""

    def fits(value: Any) -> bool:
        try:
            return isLine(value) and isinstance(fillHeloResponse(value, "", ""), str)
        except (TypeError, ValueError):
            return False

    return option(default, "one line of text with at most two %s (server name, client name)", fits)


def fillHeloResponse(template: str, name: str, client: str) -> str:
    """The text of the reply to HELO; the template may name both, the server alone, or neither."""
    return template % (name, client)[: _namesIn(template)]


@lru_cache(maxsize=16)
def _namesIn(template: str) -> int:
    return template.replace("%%", "").count("%s")


def oneOf(default: str | None, wants: str, values: tuple[str, ...], **facts: Any) -> Any:
    """One of a few words."""
    return option(default, wants, lambda value: isinstance(value, str) and value in values, **facts)


# --- Lists and objects ---


def _toTuple(value: Any, convert: Callable[[Any], Any] = lambda item: item) -> Any:
    """Any kind of list as a tuple; other values unchanged, for the check to reject."""
    isList = isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))
    return tuple(map(convert, value)) if isList else value


def listOf(default: tuple[Any, ...], wants: str, fits: Check, convert: Callable[[Any], Any] = lambda item: item) -> Any:
    """
    Several values.

    @param fits: checks each value after its conversion.
    @param convert: converts each value; it must accept values of any type.
    """
    return option(
        default,
        wants,
        lambda value: isinstance(value, tuple) and all(map(fits, value)),
        partial(_toTuple, convert=convert),
    )


def toUpper(item: Any) -> Any:
    """A text in upper case; other values unchanged."""
    return item.upper() if isinstance(item, str) else item


def isText(item: Any) -> bool:
    """Is it a text?"""
    return isinstance(item, str)


def peers(default: bool | tuple[str, ...]) -> Any:
    """Peers by their addresses; True for all peers."""
    return option(
        default,
        "{true!r}, {false!r}, or a list of addresses and networks such as 10.0.0.0/8",
        lambda value: isinstance(value, bool) or (isinstance(value, tuple) and all(map(isText, value))),
        _toTuple,
    )


def objectWith(method: str, wants: str) -> Any:
    """An object with a method of that name, or None."""
    return option(None, wants, lambda value: callable(getattr(value, method, None)))


# --- Files and secrets ---


@attrs.frozen(repr=False)
class NotShown:
    """Takes the place, in every notation, of a value that is or might be a secret."""

    description: str

    def __repr__(self) -> str:
        return self.description


_BARE_BASE64 = re.compile(r"M[A-Za-z0-9+/=\s]{39,}")  # a key without its PEM lines


def isPEMPath(text: str) -> bool:
    """May this be the path of a file, and neither PEM nor a key without its PEM lines?"""
    return not ("-----BEGIN" in text or "\n" in text or _BARE_BASE64.fullmatch(text))


def shownPEM(value: Any) -> object:
    """A value for errors and logs: paths in it stay, and whatever is or might be a key is described."""
    if isinstance(value, Mapping):
        return {name: shownPEM(item) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(shownPEM, value))
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    if not isinstance(text, str):
        text = repr(value)  # A value of a wrong type, such as a bytearray or a set, may hold a key as well.
    if isPEMPath(text):
        return value
    return NotShown("PEM text" if "-----BEGIN" in text else "text that is no PEM")


def pem(**facts: Any) -> Any:
    """A key or certificates, or the path of a file that holds them."""
    return option(
        None,
        "PEM text or the path of a PEM file",
        lambda value: isinstance(value, (str, bytes)) and bool(value),
        show=shownPEM,
        isPath=isPEMPath,
        **facts,
    )


_SECRET_OCTETS = 16


def isSecret(octets: bytes) -> bool:
    """Are these octets too many to be guessed?"""
    return len(octets) >= _SECRET_OCTETS


def isSecretPath(text: str) -> bool:
    """Is this text the path of a file that holds a secret, and not the secret itself?"""
    return text.startswith(("/", "."))


def secret(**facts: Any) -> Any:
    """A secret, or the path of a file that holds it.  Neither is shown: a secret may look like a path."""

    def fits(value: Any) -> bool:
        if isinstance(value, str):
            return isSecretPath(value) or isSecret(value.encode(errors="replace"))
        return isinstance(value, bytes) and isSecret(value)

    def show(value: Any) -> NotShown | None:
        if value is None or fits(value):
            return None if value is None else NotShown("(not shown)")
        return NotShown("too short" if isinstance(value, (str, bytes)) else f"of type {type(value).__name__}")

    wants = f"{_SECRET_OCTETS} octets or more, or the path of a file that has them: a path begins with / or ./"
    return option(None, wants, fits, show=show, isPath=isSecretPath, isSecret=True, **facts)


def serverNames() -> Any:
    """A table of options for each of several server names."""

    def fits(value: Any) -> bool:
        return isinstance(value, Mapping) and all(
            isinstance(name, str) and name and isinstance(own, Mapping) for name, own in value.items()
        )

    return option(dict, "a table of host names, each with its own key and cert", fits, show=shownPEM)
