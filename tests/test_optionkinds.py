"""Kinds of options: what a value of each kind looks like; the options themselves are tried in C{test_options.py}."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.errors import OptionError
from smtphooks.layer import Layer
from smtphooks.layers import ClamAV, Rspamd, SenderAuthentication
from smtphooks.optionkinds import (
    NotShown,
    doubtsOf,
    fillHeloResponse,
    isPEMPath,
    isSecret,
    isSecretPath,
    shownPEM,
    within,
)
from smtphooks.options import Options
from smtphooks.service.toml import toTOML

# --- The template ---


@pytest.mark.parametrize(
    "template, text",
    [
        ("%s Nice to meet you, %s", "mx Nice to meet you, c"),
        ("%s says hello", "mx says hello"),
        ("Hello", "Hello"),
        ("", ""),
        ("%s 100%% sure, %s", "mx 100% sure, c"),
        ("%%s", "%s"),
        ("%%%s", "%mx"),
        ("%s%s", "mxc"),
    ],
)
def test_template_may_name_both_the_server_alone_or_neither(template: str, text: str) -> None:
    assert fillHeloResponse(template, "mx", "c") == text


def test_names_in_a_template_are_taken_as_they_are() -> None:
    assert fillHeloResponse("%s %s", "%s%d", "%(x)s") == "%s%d %(x)s"


@given(st.text())
def test_template_that_is_accepted_can_be_filled(template: str) -> None:
    try:
        options = Options(heloResponse=template)
    except OptionError:
        return
    assert isinstance(fillHeloResponse(options.heloResponse, "mx", "c"), str)


# --- Numbers ---


@pytest.mark.parametrize(
    ("value", "fits"), [(7, False), (8, True), (10, True), (11, False), (9.0, False), (True, False), ("9", False)]
)
def test_a_number_is_whole_and_within_its_bounds(value: Any, fits: bool) -> None:
    assert within(8, 10)(value) is fits
    assert within(0)(10**30)


# --- Files and secrets ---

BARE = "MC4CAQAwBQYDK2VwBCIEIA" * 2


@pytest.mark.parametrize("text", ["k.pem", "/etc/ssl/private/server.key", "MX", "M" * 39, "a b"])
def test_what_may_be_a_path_is_shown(text: str) -> None:
    assert isPEMPath(text)
    assert shownPEM(text) == text
    assert shownPEM(text.encode()) == text.encode()


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("-----BEGIN CERTIFICATE-----", "PEM text"),
        (f"key\n{BARE}", "text that is no PEM"),
        (BARE, "text that is no PEM"),
    ],
)
def test_what_may_be_a_key_is_described_wherever_it_stands(text: str, description: str) -> None:
    assert not isPEMPath(text)
    for value in (text, text.encode()):
        assert shownPEM(value) == NotShown(description)
        assert shownPEM({"a": {"key": value}, "b": [value, 5]}) == {
            "a": {"key": NotShown(description)},
            "b": [NotShown(description), 5],
        }


@pytest.mark.parametrize(
    "convert", [bytearray, lambda pem: (pem,), lambda pem: {pem}, lambda pem: [("a", {"key": pem})]]
)
def test_key_of_a_wrong_type_is_not_shown(convert: Callable[[bytes], object]) -> None:
    key = convert(b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw\n-----END PRIVATE KEY-----\n")
    for name in ("key", "sniOptions"):
        with pytest.raises(OptionError) as caught:
            Options(**{name: key})
        assert "PEM text" in str(caught.value)
        assert "MC4C" not in str(caught.value)


def test_what_is_not_shown_is_described_in_every_notation() -> None:
    assert repr(NotShown("PEM text")) == toTOML(NotShown("PEM text")) == "PEM text"


@pytest.mark.parametrize(
    ("text", "path"), [("/etc/secret", True), ("./secret", True), ("../secret", True), ("secret", False), ("", False)]
)
def test_the_path_of_a_secret_begins_as_one(text: str, path: bool) -> None:
    assert isSecretPath(text) is path


def test_a_secret_has_sixteen_octets() -> None:
    assert isSecret(bytes(16))
    assert not isSecret(bytes(15))


# --- Seconds that can only be milliseconds ---


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"socketTimeout": 60000}, "option socketTimeout is 60000 seconds, which is 16.7 hours, did you mean 60?"),
        ({"socketTimeout": 60000.0}, "option socketTimeout is 60000.0 seconds, which is 16.7 hours, did you mean 60?"),
        ({"dataTimeout": 600000}, "option dataTimeout is 600000 seconds, which is 6.94 days, did you mean 600?"),
        ({"hookTimeout": 7500}, "option hookTimeout is 7500 seconds, which is 2.08 hours, did you mean 7.5?"),
        ({"closeTimeout": 30000}, "option closeTimeout is 30000 seconds, which is 8.33 hours, did you mean 30?"),
        ({"greetDelay": 1000}, "option greetDelay is 1000 seconds, which is 16.7 minutes, did you mean 1?"),
        ({"slowHook": 500}, "option slowHook is 500 seconds, which is 8.33 minutes, did you mean 0.5?"),
    ],
)
def test_a_number_of_seconds_that_can_only_be_milliseconds_is_doubted(given: dict[str, Any], sentence: str) -> None:
    assert list(doubtsOf(Options(**given))) == [sentence]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"socketTimeout": 0, "dataTimeout": 0, "hookTimeout": 0, "closeTimeout": 0, "greetDelay": 0, "slowHook": 0},
        {"socketTimeout": 3600, "hookTimeout": 3600, "closeTimeout": 3600, "greetDelay": 300, "slowHook": 120},
        {"dataTimeout": 86400},
        {"dataTimeout": 172800},
        {"size": 26214400, "maxErrors": 100000},
    ],
)
def test_what_a_person_may_mean_in_seconds_is_not_doubted(given: dict[str, Any]) -> None:
    assert list(doubtsOf(Options(**given))) == []


def test_every_option_of_seconds_may_be_doubted() -> None:
    timed = {
        field.name: field.metadata["mostSeconds"]
        for kind in (Options, Layer, Rspamd, ClamAV, SenderAuthentication)
        for field in attrs.fields(kind)
        if field.name in ("greetDelay", "slowHook") or field.name.lower().endswith("timeout")
    }
    assert {name for name, most in timed.items() if most >= 120} == {
        *("socketTimeout", "dataTimeout", "hookTimeout", "closeTimeout", "greetDelay", "slowHook", "timeout")
    }


def test_of_an_object_that_declares_no_options_nothing_is_doubted() -> None:
    class Hooks:
        socketTimeout = 60000

    assert list(doubtsOf(Hooks())) == list(doubtsOf(None)) == []
