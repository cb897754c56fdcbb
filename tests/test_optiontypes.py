"""The types of options given by name: those of C{Options}, and what each option takes, neither more nor less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

import attrs
import pytest
from twisted.cred.portal import Portal

from smtphooks.errors import OptionError
from smtphooks.hooktypes import HooksByName
from smtphooks.options import HOST_OPTIONS, OPTION_NAMES, TLS_OPTIONS, Options, checkOption
from smtphooks.optiontypes import FactoryOptions, HostOptions, Resolver, ServerOptions, Several, TLSOptions

DECLARED = get_type_hints(Options)
GIVEN = get_type_hints(ServerOptions)

# Where a type checker can know more than the annotation of the field says.
NARROWER = {
    "portal": Portal | None,
    "resolver": Resolver | None,
    "sniOptions": Mapping[str, HostOptions],
}


def asGiven(declared: Any) -> Any:
    """The type of what may be given for a field of this type: any kind of list in place of a sequence."""
    if get_origin(declared) is Sequence:
        return Several[get_args(declared)]  # type: ignore[misc]
    if len(parts := get_args(declared)) > 1 and get_origin(declared) is not Mapping:
        union: Any = asGiven(parts[0])
        for part in parts[1:]:
            union |= asGiven(part)
        return union
    return declared


def widened(given: Any) -> Any:
    """A type with the type of words in place of a few words."""
    if get_origin(given) is Literal:
        return str
    if type(None) in get_args(given) and Literal in map(get_origin, get_args(given)):
        return str | None
    return given


def test_every_option_has_a_type_and_nothing_else_has() -> None:
    assert set(GIVEN) == {*OPTION_NAMES}
    assert set(get_type_hints(TLSOptions)) == {*TLS_OPTIONS}
    assert set(get_type_hints(HostOptions)) == {*HOST_OPTIONS}
    assert get_type_hints(FactoryOptions) == {**GIVEN, **get_type_hints(HooksByName)}


@pytest.mark.parametrize("kind", [HostOptions, TLSOptions, ServerOptions, HooksByName, FactoryOptions])
def test_every_option_may_be_left_out(kind: Any) -> None:
    assert not kind.__required_keys__


@pytest.mark.parametrize("name", OPTION_NAMES)
def test_an_option_takes_what_its_declaration_says(name: str) -> None:
    assert widened(GIVEN[name]) == NARROWER.get(name, asGiven(DECLARED[name]))


def wordsOf(given: Any) -> tuple[object, ...]:
    return (
        get_args(given) if get_origin(given) is Literal else tuple(w for part in get_args(given) for w in wordsOf(part))
    )


@pytest.mark.parametrize("name", [name for name in OPTION_NAMES if wordsOf(GIVEN[name])])
def test_an_option_of_a_few_words_names_them_all(name: str) -> None:
    words = wordsOf(GIVEN[name])
    for word in words:
        checkOption(name, word)
    wants = attrs.fields_dict(Options)[name].metadata["wants"]
    assert all(str(word) in wants for word in words)
    assert len(words) == wants.count(",") + (" or " in wants) + 1


# --- and every value of these types is of a kind that the option takes ---

SAMPLES: dict[type, tuple[object, ...]] = {
    bool: (True, False),
    int: (9000, 16),
    float: (0.5,),
    str: ("", "TLSv1.3", "reject", "127.0.0.1", "/x"),
    bytes: (b"sixteen octets or more",),
    type(None): (None,),
    list: ([], ["127.0.0.1"], ["VRFY"], ["PLAIN"]),
    dict: ({},),
}


def kindsOf(given: Any) -> set[type]:
    """The types of values that a type checker lets pass, as far as the samples have them."""
    origin = get_origin(given)
    if origin is Literal:
        return {type(word) for word in get_args(given)}
    if origin in (Several, Mapping):
        return {list if origin is Several else dict}
    if given in (Portal, Resolver):
        return set()
    if given is float:
        return {int, float}
    return {kind for part in get_args(given) for kind in kindsOf(part)} or {given}


def takes(name: str, value: object) -> bool:
    try:
        checkOption(name, value)
    except OptionError:
        return False
    return True


@pytest.mark.parametrize("name", OPTION_NAMES)
def test_the_types_of_an_option_are_those_of_the_values_that_it_takes(name: str) -> None:
    taken = {kind for kind, values in SAMPLES.items() if any(takes(name, value) for value in values)}
    assert taken == kindsOf(GIVEN[name])
