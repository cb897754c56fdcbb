"""What is told of a dialogue to whoever wants to see it, and what is not."""

from __future__ import annotations

from smtphooks.client.transcript import Redaction


def redacted(heard: str, *secrets: str | None) -> list[tuple[str, str]]:
    told: list[tuple[str, str]] = []
    redaction = Redaction(lambda direction, line: told.append((direction, line)), *secrets)
    redaction.heard(heard)
    return told


def test_a_reply_is_told_line_by_line_without_secrets() -> None:
    assert redacted("535-no geheim\n535 geheimnis", "geheim", "geheimnis") == [("<", "535-no …"), ("<", "535 …")]


def test_what_is_too_short_to_be_a_secret_leaves_other_texts_as_they_are() -> None:
    assert redacted("250 a=b", "=", "a", "", None) == [("<", "250 a=b")]


def test_a_secret_may_become_known_later_and_nobody_need_listen() -> None:
    redaction = Redaction(None)
    redaction.add("geheim")
    assert redaction.withoutSecrets("ein geheim") == "ein …"
    redaction.said("AUTH PLAIN …")
    redaction.heard("250 ok")
