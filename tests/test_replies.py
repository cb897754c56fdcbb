"""Replies: any text makes one well-formed reply, and the codes of any refusal agree."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtphooks import hooks, replies
from smtphooks.replies import COMMAND_SITUATION, PARAMETER_SITUATION, Reply, Situation, SMTPError

SITUATIONS = {**hooks.SITUATIONS, "command": COMMAND_SITUATION, "parameter": PARAMETER_SITUATION}

STANDARD = {name: value for name, value in vars(replies).items() if isinstance(value, Reply)}

CLOSING = {"BYE", "BDAT_SYNTAX", "EARLY_TALKER", "HTTP_REFUSED", "NO_TLS_HERE", "TALKED_BEFORE_TLS"}

_CODES = st.integers(200, 599).filter(lambda code: code // 100 != 3)


def enhancedCodes(code: int) -> st.SearchStrategy[str | None]:
    parts = st.integers(0, 999)
    return st.none() | st.builds(lambda subject, detail: f"{code // 100}.{subject}.{detail}", parts, parts)


# --- The octets ---


@given(st.data(), _CODES, st.text() | st.lists(st.text(), min_size=1), st.booleans(), st.booleans())
def test_any_text_makes_one_well_formed_reply(
    data: st.DataObject, code: int, text: str | list[str], enhanced: bool, utf8: bool
) -> None:
    enhancedCode = data.draw(enhancedCodes(code))
    reply = Reply(code, text, enhancedCode)
    octets = reply.encode(enhanced, utf8)
    assert octets.endswith(b"\r\n")
    prefix = f"{enhancedCode} " if enhanced and enhancedCode else ""
    lines = octets.decode("utf-8" if utf8 else "ascii").removesuffix("\r\n").split("\r\n")
    for line in lines:
        assert len(line.encode()) <= 510
        assert line.isprintable()
        assert line.startswith(f"{code} {prefix}" if line is lines[-1] else f"{code}-{prefix}")


@given(st.text(st.characters(codec="utf-8"), min_size=480, max_size=2000))
def test_wrapping_loses_nothing_but_spaces_at_the_cuts(text: str) -> None:
    reply = Reply(250, text)
    said = [line[4:] for line in reply.encode(utf8=True).decode().removesuffix("\r\n").split("\r\n")]
    assert "".join(said).replace(" ", "") == reply.lines[0].replace(" ", "")


@pytest.mark.parametrize(
    "text, lines",
    [
        ("x" * 490, ["x" * 490]),
        ("x" * 491, ["x" * 490, "x"]),
        ("x" * 300 + " " + "y" * 300, ["x" * 300, "y" * 300]),
        ("x" * 489 + " y", ["x" * 489, "y"]),
        ("x" * 490 + " y", ["x" * 490, " y"]),
        ("ü" * 300, ["ü" * 245, "ü" * 55]),
        ("x" + "ü" * 300, ["x" + "ü" * 244, "ü" * 56]),
        ("€" * 200, ["€" * 163, "€" * 37]),
    ],
)
def test_long_text_is_cut_at_a_space_or_inside_a_word_but_never_inside_a_character(text: str, lines: list[str]) -> None:
    octets = Reply(250, text).encode(utf8=True).decode()
    assert [line[4:] for line in octets.removesuffix("\r\n").split("\r\n")] == lines


@pytest.mark.parametrize(
    "text",
    ["a\r\nb", "a\nb", "a\rb", "a\0b", "a\tb", "a\x7fb", "a\x85b", "a\u2028b", "a\u202eb", "a\ud800b", "a\u00a0b"],
)
def test_control_characters_become_spaces(text: str) -> None:
    reply = Reply(250, text)
    assert reply.lines == ("a b".replace(" ", " " * (len(text) - 2)),)
    assert reply.encode(utf8=True).count(b"\r\n") == 1


def test_replies_of_several_lines_have_their_codes_on_each() -> None:
    reply = Reply(550, ["No", "Never"], "5.1.1")
    assert reply.encode() == b"550-5.1.1 No\r\n550 5.1.1 Never\r\n"
    assert reply.encode(enhanced=False) == b"550-No\r\n550 Never\r\n"


def test_encoding_twice_gives_the_same() -> None:
    reply = Reply(250, "Grüße", "2.0.0")
    for _ in range(2):
        assert reply.encode() == b"250 2.0.0 Gr??e\r\n"
        assert reply.encode(enhanced=False) == b"250 Gr??e\r\n"
        assert reply.encode(utf8=True) == "250 2.0.0 Grüße\r\n".encode()
        assert reply.encode(enhanced=False, utf8=True) == "250 Grüße\r\n".encode()


def test_reply_is_a_value() -> None:
    reply = Reply(550, "No", "5.1.1")
    assert reply == Reply(550, "No", "5.1.1")
    assert reply != Reply(550, "No", "5.1.2")
    assert reply != Reply(550, "No", "5.1.1", closes=True)
    assert reply != "550 5.1.1 No"
    assert str(reply) == "550 5.1.1 No"
    assert repr(reply) == "<Reply 550 5.1.1 No>"
    assert repr(replies.BYE) == "<Reply 221 2.0.0 Bye (closes)>"


@pytest.mark.parametrize(
    "one, other",
    [
        (Reply(550, "No", "5.1.1"), Reply(550, "No", "5.1.1")),
        (Reply(250, "x" * 491), Reply(250, ["x" * 490, "x"])),
        (Reply(250, "OK", "2.0.0"), Reply(250, "2.0.0 OK")),
    ],
)
def test_equal_replies_have_equal_hashes(one: Reply, other: Reply) -> None:
    assert one == other
    assert hash(one) == hash(other)


@given(
    st.text(max_size=1100), st.lists(st.text(max_size=600), min_size=1, max_size=4), st.sampled_from([None, "2.1.0"])
)
@example("x" * 491, ["y"], None)
@example("\r\n\N{GRINNING FACE}" * 123, ["\n"], "2.1.0")
def test_reply_behind_a_line_is_that_of_all_lines(text: str, lines: list[str], code: str | None) -> None:
    """Its octets are joined rather than made anew."""
    joined, whole = Reply(250, lines, code).behind(text), Reply(250, [text, *lines], code)
    assert joined == whole
    assert (joined.octets, joined.lines, joined.goesOn) == (whole.octets, whole.lines, True)
    assert joined.encode(enhanced=False) == whole.encode(enhanced=False)
    assert joined.encode(utf8=True) == whole.encode(utf8=True)


def test_421_always_closes_and_any_reply_can_be_made_to() -> None:
    assert Reply(421, "Bye").closes
    reply = Reply(550, ["No", "Never"], "5.1.1")
    assert not reply.closes
    assert reply.closing().closes
    assert reply.closing().encode() == reply.encode()


@pytest.mark.parametrize("enhancedCode", ["5.1", "5.1.1.1", "6.1.1", "5.1.1000", "5.1.x", "5.1.\u0661", "", 5])
def test_reply_refuses_an_enhanced_code_that_is_none(enhancedCode: Any) -> None:
    with pytest.raises(ValueError, match="enhancedCode is "):
        Reply(550, "No", enhancedCode)


def test_reply_refuses_an_enhanced_code_of_another_class() -> None:
    with pytest.raises(ValueError, match=r"enhancedCode 4\.1\.1 does not fit reply code 550"):
        Reply(550, "No", "4.1.1")


# --- The server's own replies ---


@pytest.mark.parametrize("name", STANDARD)
def test_standard_reply_has_an_enhanced_code_of_its_class_unless_it_is_intermediate(name: str) -> None:
    reply = STANDARD[name]
    if reply.code // 100 == 3:  # RFC 2034 section 4
        assert reply.enhancedCode is None
    else:
        assert reply.enhancedCode is not None
        assert int(reply.enhancedCode[0]) == reply.code // 100


@pytest.mark.parametrize("name", STANDARD)
def test_standard_reply_is_one_ASCII_line(name: str) -> None:
    reply = STANDARD[name]
    assert len(reply.lines) == 1
    assert reply.encode() == reply.encode(utf8=True)
    assert reply.encode().count(b"\r\n") == 1


def test_only_these_standard_replies_close_beside_421() -> None:
    assert {name for name, reply in STANDARD.items() if reply.closes and reply.code != 421} == CLOSING


@pytest.mark.parametrize(
    "answer, text", [("Queued as 1", "Queued as 1"), (None, "OK"), ("", "OK"), (True, "OK"), (7, "OK"), (b"x", "OK")]
)
def test_ok_takes_the_text_of_a_hook_and_nothing_else(answer: object, text: str) -> None:
    assert replies.ok(answer, replies.OK) == Reply(250, text, "2.0.0")


# --- Refusals ---


@pytest.mark.parametrize("code", [200, 250, 354, 399, 600, 0, -1, True, "550", 550.0, None])
def test_refusal_has_a_code_from_400_to_599(code: Any) -> None:
    if code is None:
        assert SMTPError("No", code).responseCode is None
        return
    with pytest.raises(ValueError, match=r"responseCode is .*: a refusal has a number from 400 to 599"):
        SMTPError("No", code)


@pytest.mark.parametrize("code, enhancedCode", [(550, "4.1.1"), (450, "5.1.1"), (421, "5.3.2")])
def test_codes_of_a_refusal_are_of_one_class(code: int, enhancedCode: str) -> None:
    with pytest.raises(ValueError, match="their classes differ"):
        SMTPError("No", code, enhancedCode)


@pytest.mark.parametrize("enhancedCode", ["5.1", "no", "5.1.1 ", "5.1.1\n", "\u0665.1.1", 5.1])
def test_refusal_refuses_an_enhanced_code_that_is_none(enhancedCode: Any) -> None:
    with pytest.raises(ValueError, match=r"it is written like '5\.1\.1'"):
        SMTPError("No", None, enhancedCode)


def test_refusal_is_no_success() -> None:
    with pytest.raises(ValueError, match="a refusal is of class 4 or 5"):
        SMTPError("No", None, "2.0.0")


def test_refusal_is_an_exception_with_its_text() -> None:
    error = SMTPError("No such user", 550, "5.1.1")
    assert str(error) == error.message == "No such user"
    assert (error.responseCode, error.enhancedCode) == (550, "5.1.1")


@pytest.mark.parametrize(
    "error, situation, said",
    [
        (SMTPError("No"), "onRcptTo", "550 5.1.1 No"),
        (SMTPError("No"), "onMailFrom", "550 5.7.1 No"),
        (SMTPError("No"), "onData", "450 4.3.0 No"),
        (SMTPError("No"), "onConnect", "554 5.7.1 No"),
        (SMTPError("No"), "onAuth", "535 5.7.8 No"),
        (SMTPError("No"), "onHelo", "550 5.7.1 No"),
        (SMTPError("No"), "onVrfy", "550 5.1.1 No"),
        (SMTPError("No"), "onSecure", "554 5.7.5 No"),
        (SMTPError("No"), "command", "550 5.7.1 No"),
        (SMTPError("No"), "parameter", "501 5.5.4 No"),
        # One code, two meanings (RFC 5321 section 4.2.2).
        (SMTPError("No", 552), "onRcptTo", "552 5.2.2 No"),
        (SMTPError("No", 552), "onData", "552 5.3.4 No"),
        (SMTPError("Mailbox full", 452), "onRcptTo", "452 4.2.2 Mailbox full"),
        (SMTPError("No", 452), "onMailFrom", "452 4.3.1 No"),
        (SMTPError("No", 552), "onMailFrom", "552 5.3.4 No"),
        (SMTPError("No", 452), "onData", "452 4.3.1 No"),
        # A code that the situation does not list: by the code alone, then by its class.
        (SMTPError("No", 451), "onRcptTo", "451 4.3.0 No"),
        (SMTPError("No", 421), "onRcptTo", "421 4.3.2 No"),
        (SMTPError("No", 599), "onRcptTo", "599 5.0.0 No"),
        (SMTPError("No", 499), "onRcptTo", "499 4.0.0 No"),
        # Codes that the hook names.
        (SMTPError("No", 550, "5.7.26"), "onRcptTo", "550 5.7.26 No"),
        (SMTPError("No", None, "5.2.1"), "onRcptTo", "550 5.2.1 No"),
        (SMTPError("No", None, "4.2.1"), "onRcptTo", "450 4.2.1 No"),
        (SMTPError("No", None, "5.6.0"), "onData", "550 5.6.0 No"),
        (SMTPError(""), "onRcptTo", "550 5.1.1 Refused"),
    ],
)
def test_what_a_refusal_does_not_say_follows_from_the_situation(error: SMTPError, situation: str, said: str) -> None:
    assert str(error.asReply(SITUATIONS[situation])) == said


@pytest.mark.parametrize("name", SITUATIONS)
def test_enhanced_codes_of_a_situation_fit_their_codes(name: str) -> None:
    situation = SITUATIONS[name]
    assert 400 <= situation.code <= 599
    for code, enhancedCode in situation.enhancedCodes.items():
        assert SMTPError("No", code).asReply(situation) == Reply(code, "No", enhancedCode, situation.closes)


def test_a_refusal_before_the_greeting_or_after_a_handshake_closes() -> None:
    assert {name for name, situation in SITUATIONS.items() if situation.closes} == {"onConnect", "onSecure"}


@given(
    st.sampled_from(sorted(SITUATIONS)), st.none() | st.integers(400, 599), st.sampled_from([None, "4.9.9", "5.9.9"])
)
def test_every_refusal_that_can_be_made_has_a_reply(name: str, code: int | None, enhancedCode: str | None) -> None:
    if code is not None and enhancedCode is not None and int(enhancedCode[0]) != code // 100:
        return
    reply = SMTPError("No", code, enhancedCode).asReply(SITUATIONS[name])
    assert code in (None, reply.code)
    assert enhancedCode in (None, reply.enhancedCode)
    assert reply.enhancedCode is not None
    assert int(reply.enhancedCode[0]) == reply.code // 100


def test_situation_without_any_table_still_has_codes() -> None:
    assert str(SMTPError("No").asReply(Situation(560, {}))) == "560 5.0.0 No"


@pytest.mark.parametrize(("name", "value"), [("responseCode", 250), ("enhancedCode", "2.0.0"), ("message", "Took it")])
def test_a_refusal_cannot_be_changed_afterwards(name: str, value: object) -> None:
    error = SMTPError("No such user", 550, "5.1.1")
    with pytest.raises(AttributeError):
        setattr(error, name, value)
    assert str(error.asReply(SITUATIONS["onData"])) == "550 5.1.1 No such user"


def test_a_refusal_survives_being_copied() -> None:
    for made in (copy.copy, lambda error: pickle.loads(pickle.dumps(error))):
        error = made(SMTPError("No such user", 550, "5.1.1"))
        assert (error.message, error.responseCode, error.enhancedCode) == ("No such user", 550, "5.1.1")


def test_a_class_of_refusals_cannot_acknowledge() -> None:
    class Mine(SMTPError):
        responseCode = 250  # type: ignore[assignment]

    assert str(Mine("No", 551).asReply(SITUATIONS["onRcptTo"])) == "551 5.1.6 No"


def test_a_reply_makes_the_refusal_that_makes_it() -> None:
    for reply in (replies.TOO_LARGE, replies.HOOK_FAILED, replies.BARE_NEWLINE):
        assert reply.asError().asReply(SITUATIONS["onData"]) == reply
