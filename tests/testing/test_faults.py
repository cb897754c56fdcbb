"""Faults as a test writes them, and the script of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from smtphooks import OptionError
from smtphooks.testing import Drop, Fail, Garble, SMTPServerThread, Stall
from smtphooks.testing.faults import Faults, verbsOf


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda: Fail("RCPT", 250), "code of Fail is 250, it wants a whole number from 400 to 599"),
        (lambda: Fail("RCPT", "450"), "code of Fail is '450'"),
        (lambda: Fail("RCPT", 450, times=0), "times of Fail is 0, it wants a whole number, 1 or more, or None"),
        (lambda: Fail("MAIL", 450, recipient="a@example.org"), "with MAIL, it wants RCPT or DATA"),
        (lambda: Fail("RCPT", 450, recipient="<a@example.org>"), "it wants an address without angle brackets"),
        (lambda: Fail("RCPT", 450, text="a\r\nb"), "it wants one line of text"),
        (lambda: Fail(None, 450), "verb of Fail is None, it wants the name of a command"),
        (lambda: Drop("MAIL", times=True), "times of Drop is True"),
        (lambda: Stall("MAIL", seconds=-1), "seconds of Stall is -1, it wants a number of seconds"),
        (lambda: Stall("MAIL", seconds=float("inf")), "or None for no reply at all"),
        (lambda: Garble("MAIL", "250"), "octets of Garble is '250', it wants octets"),
    ],
)
def test_a_wrong_fault_is_an_error_that_says_what_fits(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        make()


@pytest.mark.parametrize("verb", ["RCTP", "LHLO", "EXPN", ""])
def test_a_command_that_the_server_does_not_have_is_an_error_that_names_all_that_it_has(verb: str) -> None:
    with pytest.raises(OptionError, match=r"unknown command .*one of CONNECT, HELO, EHLO, STARTTLS, AUTH, MAIL, RCPT"):
        SMTPServerThread().drop(after=verb)


def test_a_near_name_is_suggested() -> None:
    with pytest.raises(OptionError, match="unknown command RCTP, did you mean RCPT"):
        SMTPServerThread(faults=[Fail("RCTP", 450)])


def test_an_lmtp_server_has_its_own_greeting() -> None:
    SMTPServerThread(lmtp=True).fail("LHLO", 450)
    with pytest.raises(OptionError, match="did you mean LHLO"):
        SMTPServerThread(lmtp=True).fail("HELO", 450)


def test_what_is_no_fault_is_an_error() -> None:
    with pytest.raises(OptionError, match="a fault is 'MAIL', it wants a Fail, Drop, Stall or Garble"):
        SMTPServerThread(faults=["MAIL"])  # type: ignore[list-item]


def test_commands_are_known_in_any_case_and_a_message_by_both_of_its_commands() -> None:
    assert Fail("rcpt", 450).verb == "RCPT"
    assert Drop("bdat").verb == Stall("Data").verb == "DATA"


def test_a_fault_is_used_up_and_the_next_one_counts() -> None:
    faults = Faults(verbsOf(lmtp=False), [Fail("MAIL", 450, times=2), Fail("MAIL", 550, times=1), Drop("MAIL")])
    taken = [faults.maybeFail("MAIL") for _ in range(4)]
    assert [fault and fault.code for fault in taken] == [450, 450, 550, None]
    assert [type(faults.maybeOther("MAIL")) for _ in range(2)] == [Drop, Drop]
    assert faults.maybeOther("RCPT") is None
    faults.clear()
    assert faults.maybeOther("MAIL") is None


def test_a_fault_of_a_recipient_waits_for_that_recipient() -> None:
    faults = Faults(verbsOf(lmtp=True), [Fail("DATA", 452, recipient="b@EXAMPLE.org")])
    assert faults.maybeFail("DATA") is None
    assert faults.maybeFail("DATA", ["a@example.org"]) is None
    assert faults.maybeFailOnly("DATA", "a@example.org") is None
    assert faults.maybeFailOnly("DATA", "b@example.org") is not None
    assert faults.maybeFail("DATA", ["a@example.org", "b@example.org"]) is not None
