"""The types of hooks: those of the table, and the same wherever a hook is named."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pytest

from smtphooks import Hooks, SMTPServerFactory, hooktypes
from smtphooks.hooks import HookAttributes
from smtphooks.hooktable import ARGUMENTS, HOOK_NAMES
from smtphooks.hooktypes import HooksByName, ObjectOfHooks

MEMBERS = {name: member for member in get_args(ObjectOfHooks) for name in vars(member) if name in ARGUMENTS}


def protocolOf(name: str) -> Any:
    return getattr(hooktypes, name[0].upper() + name[1:])


def typesOf(function: Callable[..., Any]) -> list[Any]:
    """Those of the arguments, in order, and of the result."""
    return list(get_type_hints(function).values())


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_hook_has_a_protocol_with_the_arguments_of_the_table(name: str) -> None:
    parameters = inspect.signature(protocolOf(name).__call__).parameters
    assert tuple(parameters) == ("self", *ARGUMENTS[name])
    # The server gives arguments by position, so a hook may name them as it likes.
    assert {parameter.kind for parameter in parameters.values()} == {inspect.Parameter.POSITIONAL_ONLY}
    assert "return" in get_type_hints(protocolOf(name).__call__)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_base_class_has_the_types_of_the_protocol(name: str) -> None:
    types = typesOf(protocolOf(name).__call__)
    assert typesOf(getattr(Hooks, name)) == types


def test_an_object_of_hooks_is_one_that_has_any_of_them() -> None:
    assert set(MEMBERS) == set(ARGUMENTS)
    assert len(get_args(ObjectOfHooks)) == len(ARGUMENTS)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_member_of_an_object_of_hooks_has_the_type_of_its_hook(name: str) -> None:
    assert get_type_hints(vars(MEMBERS[name])[name].fget) == {"return": protocolOf(name)}


def test_hooks_by_name_and_attributes_of_a_factory_have_the_types_of_their_hooks() -> None:
    types = {name: protocolOf(name) | None for name in HOOK_NAMES}
    assert get_type_hints(HooksByName) == types
    assert get_type_hints(HookAttributes) == types
    assert not HooksByName.__required_keys__
    assert issubclass(SMTPServerFactory, HookAttributes)
