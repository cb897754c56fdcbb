"""Secrets among the options of the operator's classes: what is hidden, and what is shown."""

from __future__ import annotations

from typing import Any

import pytest

from smtphooks.service.hiding import saysSecret, scrubbed, withoutSecrets


@pytest.mark.parametrize(
    "name",
    ["password", "dbPassword", "passwd", "passphrase", "PWD", "secret", "apiToken", "credentials", "api_key", "apiKey"],
)
def test_a_name_may_say_that_its_value_is_a_secret(name: str) -> None:
    assert saysSecret(name)
    assert withoutSecrets({name: "pencil"}) == {name: "(not shown)"}


@pytest.mark.parametrize("name", ["path", "user", "key", "routingKey", "passwordFile", "token_path", "secretsFolder"])
def test_other_names_and_those_of_files_say_nothing_of_the_kind(name: str) -> None:
    assert withoutSecrets({name: "pencil"}) == {name: "pencil"}


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"a": {"password": "x", "b": 1}}, {"a": {"password": "(not shown)", "b": 1}}),
        ({"a": [{"token": ["x", "y"]}, 2]}, {"a": [{"token": "(not shown)"}, 2]}),
        ({"needsPassword": True, "pwd": 1234}, {"needsPassword": True, "pwd": "(not shown)"}),
        ({"url": "amqp://ann:x@mq.example:5672/v"}, {"url": "amqp://ann:(not shown)@mq.example:5672/v"}),
        ({"url": "redis://:p@s@mq.example"}, {"url": "redis://:(not shown)@mq.example"}),
        ({"url": "https://mx.example:8080/a@b"}, {"url": "https://mx.example:8080/a@b"}),
        ({"args": ["host=db password='a b' user=ann"]}, {"args": ["host=db password=(not shown) user=ann"]}),
        ({"url": "https://h.example/?token=abc&x=1"}, {"url": "https://h.example/?token=(not shown)&x=1"}),
    ],
)
def test_secrets_are_hidden_wherever_they_stand(given: dict[str, Any], shown: dict[str, Any]) -> None:
    assert withoutSecrets(given) == shown


def test_what_is_known_of_a_table_counts_for_its_own_options_alone() -> None:
    given = {"word": "x", "token": "./file", "nested": {"token": "y"}}
    assert withoutSecrets(given, {"word"}) == {
        "word": "(not shown)",
        "token": "./file",
        "nested": {"token": "(not shown)"},
    }


@pytest.mark.parametrize(
    ("options", "secrets", "sentence", "shown"),
    [
        ({"password": "pencil"}, None, "cannot log in with 'pencil'", "cannot log in with '(not shown)'"),
        ({"word": ["one", "two"]}, {"word"}, "neither two nor one", "neither (not shown) nor (not shown)"),
        ({"token": 'a"b'}, None, 'it is "a\\"b" here', 'it is "(not shown)" here'),
        ({"a": {"token": 12345}}, None, "12345 is no token", "(not shown) is no token"),
        (
            {"database": {"module": "pg", "password": "x5"}},
            {"database"},
            "no module pg: x5",
            "no module pg: (not shown)",
        ),
        ({"credentials": {"user": "ann"}}, None, "no ann", "no (not shown)"),
        ({"user": "ann"}, None, "no ann at amqp://ann:x@mq", "no ann at amqp://ann:(not shown)@mq"),
        ({"password": ""}, None, "it is empty", "it is empty"),
        ({"token": "ab", "secret": "abc"}, None, "abc, ab", "(not shown), (not shown)"),
    ],
)
def test_a_sentence_shows_none_of_them(
    options: dict[str, Any], secrets: set[str] | None, sentence: str, shown: str
) -> None:
    assert scrubbed(sentence, options, secrets) == shown
