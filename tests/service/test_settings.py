"""Settings: what their errors show, and what they leave out."""

from __future__ import annotations

import os

import pytest

from smtphooks.service.settings import ConfigError, WorkerSettings, cause, withoutKeys, workersFrom
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


# --- workers ---


def test_auto_is_the_number_of_cores_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    assert WorkerSettings("auto").number == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(500), raising=False)
    assert WorkerSettings("auto").number == 64
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert WorkerSettings("auto").number == 4
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert WorkerSettings("auto").number == 1


def test_a_number_of_workers_is_itself() -> None:
    assert [WorkerSettings(number).number for number in (None, 1, 64)] == [0, 1, 64]


@pytest.mark.parametrize("value", [0, 65, True, False, 1.0, "1", "AUTO", "", None])
def test_what_is_no_number_of_workers_is_a_sentence(value: object) -> None:
    with pytest.raises(ConfigError, match=r'^--workers is .*, it wants a number from 1 to 64, or "auto"$'):
        workersFrom("--workers", value)


def test_a_number_of_workers_is_taken_as_it_is() -> None:
    assert [workersFrom("workers", value) for value in (1, 64, "auto")] == [1, 64, "auto"]
