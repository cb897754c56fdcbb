"""TOML: values are the same when they are read back."""

from __future__ import annotations

import datetime
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.service.toml import pair, table, toTOML

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS | st.dates() | st.times(),
    lambda items: st.lists(items) | st.dictionaries(TEXTS, items),
    max_leaves=8,
)


@given(st.dictionaries(TEXTS, VALUES))
def test_a_table_is_read_as_it_was_written(values: dict[str, Any]) -> None:
    assert tomllib.loads(table("[x]", values)) == {"x": values}


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (True, "true"),
        (5, "5"),
        ("a\n\x7f\u00e4", '"a\\n\\u007f\u00e4"'),
        ((1, "x"), '[1, "x"]'),
        ({"a b": {"c": False}}, '{"a b" = {c = false}}'),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (None, "None"),
        (b"x", "b'x'"),
    ],
)
def test_a_value_is_one_line(value: object, written: str) -> None:
    assert toTOML(value) == written


def test_a_key_has_quotes_where_it_needs_them() -> None:
    assert pair("a-B_1", 1) == "a-B_1 = 1"
    assert pair("a.b", 1) == '"a.b" = 1'
    assert pair("", 1) == '"" = 1'
