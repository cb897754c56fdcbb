"""Flags and an argument in any order."""

from __future__ import annotations

import pytest

from smtphooks.command.draining import Options
from smtphooks.command.flags import flagsFirst


@pytest.mark.parametrize(
    ("given", "ordered"),
    [
        (["2", "--resume"], ["--resume", "--", "2"]),
        (["--control", "7", "2", "--wait"], ["--control", "7", "--wait", "--", "2"]),
        (["--control=7"], ["--control", "7", "--"]),
        (["2", "--unknown"], ["2", "--unknown"]),
    ],
)
def test_flags_stand_before_the_argument_that_twisted_takes_no_flag_behind(
    given: list[str], ordered: list[str]
) -> None:
    options = Options()
    assert flagsFirst(options, given) == ordered
