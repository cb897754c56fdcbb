"""What the end of a program means for its message."""

from __future__ import annotations

import pytest

from smtphooks import SMTPError, Unavailable
from smtphooks.stores.sysexits import Outcome


def test_only_0_is_success() -> None:
    assert [status for status in range(256) if Outcome(f"exit {status}").isSuccess] == [0]
    assert not any(Outcome(status).isSuccess for status in ("", "unread", "signal 9", "failed x"))


def test_every_other_end_is_a_refusal_or_a_fault() -> None:
    refused = set()
    for status in ["", "unread", "signal 9", "failed no", *(f"exit {number}" for number in range(1, 256))]:
        try:
            error = Outcome(status).refusal("cat")
        except Unavailable as fault:
            assert str(fault).startswith("cat ")
        else:
            assert isinstance(error, SMTPError) and str(error)
            refused.add(status)
    assert refused == {f"exit {number}" for number in range(64, 79)}


@pytest.mark.parametrize(
    "outcome, text",
    [
        (Outcome("exit 0"), "cat exited with 0"),
        (Outcome("exit 67", b"no such user\nmore"), "cat exited with 67 (EX_NOUSER): no such user"),
        (Outcome("exit 3", b"", b"\n oops"), "cat exited with 3: oops"),
        (Outcome("signal 11"), "cat was ended by signal 11"),
        (Outcome("unread"), "cat exited with 0 before it had read the whole message"),
        (Outcome("failed [Errno 2] No such file"), "cat cannot be run: [Errno 2] No such file"),
        (Outcome(""), "cat ended, and nobody knows how"),
    ],
)
def test_the_log_says_what_happened(outcome: Outcome, text: str) -> None:
    assert outcome.described("cat") == text


def test_octets_that_are_no_text_harm_nothing() -> None:
    assert str(Outcome("exit 67", b"\xff\x00\x1b[31m\r\n").refusal("cat")) == "\N{REPLACEMENT CHARACTER}  [31m"
