"""Settings: what their errors show, and what they leave out."""

from __future__ import annotations

import pytest

from smtphooks.service.settings import ConfigError, cause, withoutKeys
from tests.service.configurations import PAIRS


@pytest.mark.parametrize("end", ["", "\n-----END RSA PRIVATE KEY-----"])
def test_a_private_key_is_left_out_even_if_it_is_cut_short(end: str) -> None:
    key = f"-----BEGIN RSA PRIVATE KEY-----\nMIIE\nx{end}"
    assert withoutKeys(f"option key is {key}") == "option key is (not shown)"
    assert str(ConfigError(f"{key}, {key}" if end else key)) == ("(not shown), (not shown)" if end else "(not shown)")


def test_a_certificate_is_shown() -> None:
    assert withoutKeys(PAIRS["main"].cert) == PAIRS["main"].cert


def test_a_cause_is_one_line() -> None:
    assert cause(ValueError("bad\n  is bad")) == "ValueError: bad is bad"
