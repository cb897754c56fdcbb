"""Answers about recipients: they are kept for a time, and not without bound."""

from __future__ import annotations

from smtphooks.stores import webhookrecipients
from smtphooks.stores.webhookrecipients import RecipientAnswers
from smtphooks.stores.webhookreplies import Answer

YES, NO = Answer(200, "", True), Answer(404, "", True)


def test_an_answer_is_kept_for_its_time():
    answers = RecipientAnswers(10)
    answers.keep("a@x", YES, 100)
    answers.keep("b@x", NO, 105)
    assert answers.maybeAnswer("a@x", 109.9) is YES
    assert answers.maybeAnswer("a@x", 110) is None
    assert answers.maybeAnswer("b@x", 110) is NO
    assert answers.maybeAnswer("c@x", 110) is None


def test_without_a_time_none_is_kept():
    answers = RecipientAnswers(0)
    answers.keep("a@x", YES, 100)
    assert answers.maybeAnswer("a@x", 100) is None


def test_what_was_asked_for_least_recently_goes(monkeypatch):
    monkeypatch.setattr(webhookrecipients, "_MOST", 2)
    answers = RecipientAnswers(10)
    answers.keep("a@x", YES, 0)
    answers.keep("b@x", YES, 0)
    assert answers.maybeAnswer("a@x", 1) is YES
    answers.keep("c@x", NO, 1)
    assert [answers.maybeAnswer(each, 2) for each in ("a@x", "b@x", "c@x")] == [YES, None, NO]
