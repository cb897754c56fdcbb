"""The dialogue without transport or hooks: sessions as transcripts, every state with every command, any octets."""

from __future__ import annotations

import re
from base64 import b64encode
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.dialogue import commands
from smtphooks.dialogue.commands import COMMANDS
from smtphooks.dialogue.context import Flavour
from smtphooks.dialogue.steps import Ask, Challenge, DiscardChunk, ReceiveMessage, State, Verdict
from smtphooks.extension import Extension
from smtphooks.replies import Reply, SMTPError
from smtphooks.syntax.wire import LineFault
from tests.talk import MAIL, RCPT, TRANSCRIPTS, Talk, checkSanity, makeDialogue, play

# --- Transcripts ---


@pytest.mark.parametrize("transcript", sorted(TRANSCRIPTS.glob("*.txt")), ids=lambda path: path.stem)
def test_transcript_comes_true(transcript: Path) -> None:
    play(transcript.read_text().splitlines())


@pytest.mark.parametrize(
    "falsified, complaint",
    [
        (["S: 220 other.example ESMTP"], "it asks"),
        (["? onConnect -> ok", "S: 220 other.example ESMTP"], "the server said: S: 220 mx.example.org ESMTP"),
        (["? onConnect -> ok"], "the server said"),
        (["? onConnect -> ok", "S. 220 mx.example.org ESMTP"], "the server said: S:"),
        (["? onConnect -> ok", "C: NOOP"], "the server said"),
        (["? onHelo x -> ok"], "it asks: onConnect"),
        (["C: NOOP"], "it asks: onConnect"),
        (["? onConnect -> ok", "S: 220 mx.example.org ESMTP", "? onHelo x -> ok"], "nothing is asked"),
        (["? onConnect -> ok", "S: 220 mx.example.org ESMTP", '= state: "mail"'], "it is 'greeted'"),
    ],
)
def test_false_transcript_fails(falsified: list[str], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint.replace(".", r"\.")):
        play(falsified)


# --- Every state and every command ---

STAIRS: dict[State, list[str]] = {
    State.GREETED: [],
    State.IDENTIFIED: ["HELLO"],
    State.MAIL: ["HELLO", MAIL],
    State.RECIPIENTS: ["HELLO", MAIL, RCPT],
    State.CHUNKS: ["HELLO", MAIL, RCPT, "BDAT 3"],
}

# Reply code and state after it, by the state before it: an equals sign is "as before", its initial letter another one.
MATRIX = {
    #                         greeted  identified  mail    recipients  chunks
    "HELO client.example":   "250 I    250 I       250 I   250 I       250 I",
    "EHLO client.example":   "250 I    250 I       250 I   250 I       250 I",
    "LHLO client.example":   "500 =    500 =       500 =   500 =       500 =",
    MAIL:                    "503 =    250 M       503 =   503 =       503 =",
    RCPT:                    "503 =    503 =       250 R   250 R       503 =",
    "DATA":                  "503 =    503 =       554 =   250 I       503 =",
    "BDAT 3":                "503 =    503 =       554 =   250 C       250 C",
    "BDAT 3 LAST":           "503 =    503 =       554 =   250 I       250 I",
    "RSET":                  "250 =    250 =       250 I   250 I       250 I",
    "NOOP":                  "250 =    250 =       250 =   250 =       250 =",
    "VRFY joe":              "252 =    252 =       252 =   252 =       252 =",
    "HELP":                  "214 =    214 =       214 =   214 =       214 =",
    "QUIT":                  "221 X    221 X       221 X   221 X       221 X",
    "EXPN staff":            "502 =    502 =       502 =   502 =       502 =",
    "TURN":                  "502 =    502 =       502 =   502 =       502 =",
    "SEND FROM:<a@b>":       "502 =    502 =       502 =   502 =       502 =",
    "SOML FROM:<a@b>":       "502 =    502 =       502 =   502 =       502 =",
    "SAML FROM:<a@b>":       "502 =    502 =       502 =   502 =       502 =",
    "HALLO":                 "500 =    500 =       500 =   500 =       500 =",
    "STARTTLS":              "220 G    220 G       220 G   220 G       220 G",
    "AUTH PLAIN AGEAYg==":   "503 =    538 =       503 =   503 =       503 =",
    "XCLIENT ADDR=192.0.2.9": "502 =   502 =       502 =   502 =       502 =",
    "XFORWARD IDENT=1":      "502 =    502 =       502 =   502 =       502 =",
}  # fmt: skip

# What is otherwise with LMTP (RFC 2033 sections 4.1 and 4.2).
LMTP_MATRIX = MATRIX | {
    "HELO client.example":   "500 =    500 =       500 =   500 =       500 =",
    "EHLO client.example":   "500 =    500 =       500 =   500 =       500 =",
    "LHLO client.example":   "250 I    250 I       250 I   250 I       250 I",
    "DATA":                  "503 =    503 =       503 =   250 I       503 =",
    "BDAT 3":                "503 =    503 =       503 =   250 C       250 C",
    "BDAT 3 LAST":           "503 =    503 =       503 =   250 I       250 I",
}  # fmt: skip

# What is otherwise over TLS.
SECURE_MATRIX = MATRIX | {
    "STARTTLS":              "503 =    503 =       503 =   503 =       503 =",
    "AUTH PLAIN AGEAYg==":   "503 =    235 =       503 =   503 =       503 =",
}  # fmt: skip

# What is otherwise for a trusted proxy.
PROXY_MATRIX = MATRIX | {
    "XCLIENT ADDR=192.0.2.9": "220 G   220 G       503 =   503 =       503 =",
    "XFORWARD IDENT=1":      "250 =    250 =       503 =   503 =       503 =",
}  # fmt: skip
PROXY = {"useXClient": True, "useXForward": True}

LETTERS = {
    "G": State.GREETED,
    "I": State.IDENTIFIED,
    "M": State.MAIL,
    "R": State.RECIPIENTS,
    "C": State.CHUNKS,
    "X": State.CLOSED,
}


def talkAt(state: State, lmtp: bool = False, **given: Any) -> Talk:
    """A talk that has come to this state."""
    talk = Talk(lmtp=lmtp, **given)
    for line in STAIRS[state]:
        reply = talk.say(line.replace("HELLO", "LHLO c.example" if lmtp else "EHLO c.example"))
        assert reply.startswith("250")
    assert talk.state is state
    talk.asked.clear()
    return talk


@pytest.mark.parametrize(
    "matrix, options",
    [
        (MATRIX, {}),
        (LMTP_MATRIX, {"lmtp": True}),
        (SECURE_MATRIX, {"secured": True}),
        (PROXY_MATRIX, PROXY),
    ],
    ids=["SMTP", "LMTP", "SMTPS", "proxy"],
)
@pytest.mark.parametrize("line", MATRIX)
def test_every_command_is_answered_rightly_in_every_state(
    line: str, matrix: dict[str, str], options: dict[str, Any]
) -> None:
    cells = matrix[line].split()
    for state, code, letter in zip(STAIRS, cells[::2], cells[1::2], strict=True):
        talk = talkAt(state, answers={"onAuth": "ann"}, **options)
        before = talk.session.openingCommand, talk.session.envelope, talk.session.transaction
        last = talk.say(line).splitlines()[-1]
        assert (state, last[:4]) == (state, f"{code} ")
        assert (state, talk.state) == (state, LETTERS.get(letter, state))
        if code[0] == "5":
            assert before == (talk.session.openingCommand, talk.session.envelope, talk.session.transaction)
            assert talk.session.error == last


def test_matrix_has_every_command() -> None:
    assert {line.split()[0] for line in MATRIX} - {"HALLO"} == set(COMMANDS) | commands.NOT_IMPLEMENTED


def test_states_in_which_no_command_is_read_stand_nowhere() -> None:
    unread = {State.CONNECTED, State.MESSAGE, State.CLOSED}
    assert set(STAIRS) == set(State) - unread
    for command in COMMANDS.values():
        assert not unread & set(command.refusals)


@pytest.mark.parametrize("line", [*MATRIX, "", "BDAT x"])
@pytest.mark.parametrize("state", STAIRS)
def test_only_refused_chunks_are_discarded(state: State, line: str) -> None:
    talk = talkAt(state)
    reply = talk.say(line)
    isRefusedChunk = line.startswith("BDAT 3") and reply[0] == "5"
    assert [type(question) for question in talk.asked if not isinstance(question, Ask)].count(DiscardChunk) == (
        1 if isRefusedChunk else 0
    )


# --- Standing still ---


def test_dialogue_stands_still_while_a_question_is_open() -> None:
    dialogue = makeDialogue()
    assert isinstance(dialogue.open(), Ask)
    assert dialogue.state is State.CONNECTED
    with pytest.raises(AssertionError, match="stands still"):
        dialogue.receiveLine(b"EHLO x")
    assert isinstance(dialogue.answer(None), Reply)


def test_message_is_a_question_too() -> None:
    talk = talkAt(State.RECIPIENTS)
    step = talk.dialogue.receiveLine(b"DATA")
    assert isinstance(step, ReceiveMessage)
    assert talk.state is State.MESSAGE
    with pytest.raises(AssertionError, match="stands still"):
        talk.dialogue.receiveLine(b"QUIT")
    assert talk.dialogue.answer(Verdict((None,), None)) == Reply(250, "Message accepted", "2.0.0")


def test_answer_without_question_is_a_mistake_of_the_caller() -> None:
    talk = Talk()
    with pytest.raises(AssertionError, match="no question"):
        talk.dialogue.answer(None)
    with pytest.raises(AssertionError, match="no question"):
        talk.dialogue.refuse(SMTPError("no"))


@pytest.mark.parametrize("line", ["EHLO x", MAIL, "VRFY x"])
def test_connection_lost_behind_a_question_closes_the_dialogue(line: str) -> None:
    talk = talkAt(State.IDENTIFIED)
    assert isinstance(talk.dialogue.receiveLine(line.encode()), Ask)
    talk.dialogue.close()
    assert talk.state is State.CLOSED
    assert talk.session.envelope.mailFrom is None


def test_connection_lost_between_commands_closes_the_dialogue() -> None:
    talk = talkAt(State.IDENTIFIED)
    talk.dialogue.close()
    assert talk.state is State.CLOSED


# --- Lines ---


@pytest.mark.parametrize("line", ["R\u017fET", "r\u017fet", "\ufb01NOOP", "qu\u0131t", "\uff2eOOP"])
def test_verb_is_ASCII(line: str) -> None:
    # The upper case of some letters beyond ASCII is ASCII: no command may pass a filter of commands in this form.
    talk = talkAt(State.IDENTIFIED)
    assert talk.say(line) == "500 5.5.2 Command not recognized"


def test_keyword_LAST_is_ASCII() -> None:
    assert talkAt(State.RECIPIENTS).say("BDAT 3 LA\u017fT").startswith("501 ")


@pytest.mark.parametrize("line", ["noop", "nOoP", "NOOP ", "NOOP  anything at all"])
def test_verb_is_taken_in_any_case_and_with_spaces_behind_it(line: str) -> None:
    assert Talk().say(line) == "250 2.0.0 OK"


def test_line_limit_is_that_of_the_RFC_and_of_the_extensions_in_force() -> None:
    def lineLimit(**options: Any) -> int:
        return makeDialogue(authMethods=[], **options).lineLimit

    assert lineLimit(hideSize=True, hide8BITMIME=True, hideSMTPUTF8=True) == 512
    assert lineLimit() == 512 + 26 + 17 + 10
    assert lineLimit(hideDSN=False) == 512 + 26 + 17 + 10 + 500
    assert lineLimit(extensions=[Extension("X", commandLength=7)]) == 512 + 26 + 17 + 10 + 7
    assert lineLimit(maxCommandLength=2000) == 2000


@pytest.mark.parametrize(
    "options, limit",
    [
        ({}, 512 + 26 + 17 + 10 + 500),  # with AUTH, whose parameter of MAIL needs as much (RFC 4954 section 3)
        ({"authMethods": []}, 512 + 26 + 17 + 10),
        ({"maxCommandLength": 512}, 512),
        ({"maxCommandLength": 20000}, 20000),
    ],
    ids=repr,
)
def test_line_of_any_command_but_AUTH_is_refused_beyond_its_limit(options: dict[str, Any], limit: int) -> None:
    talk = talkAt(State.IDENTIFIED, **options)
    fits = f"NOOP {'x' * (limit - 7)}"
    assert talk.say(fits) == "250 2.0.0 OK"
    if talk.dialogue.lineLimit > limit:
        for line in (fits + "x", fits + "x" * 5000, f"AUTHX {fits}", " " + "AUTH " + fits):
            assert talk.say(line) == "500 5.5.2 Line too long"
    else:
        assert talk.dialogue.lineLimit == limit


def test_error_is_the_last_refusal_and_stays_when_all_is_well() -> None:
    talk = Talk()
    assert talk.session.error is None
    talk.say("FOO")
    talk.say("NOOP")
    assert talk.session.error == "500 5.5.2 Command not recognized"
    talk.say(RCPT)
    assert talk.session.error == "503 5.5.1 Say hello first"


# --- The form of most clients, and the careful grammar ---

_LOCALS = ["ann", "A.b+c=d", ".a", "a.", "a..b", '"a b"', "a<", "", "x" * 193, "x" * 194, "x" * 250, "\u00e9"]
_DOMAINS = [
    "mx.example",
    "a",
    "A-1.b",
    "a--b.c",
    "xn--a.b",
    "-a.b",
    "a-.b",
    "a.b.",
    "a_b",
    ".a",
    "[192.0.2.1]",
    "\u00e9.b",
]
_DOMAINS += ["y" * 61 + ".z", "y" * 62 + ".z", "y" * 64]
_PATHS = [f"<{local}@{domain}>" for local in _LOCALS for domain in _DOMAINS]
_PATHS += ["<>", "<postmaster>", "a@b", "<a@b", "a@b>", "<@x:a@b>", "<a@b@c>", "<a>@b>", "<a@b>x"]
_TAILS = ["", " ", " " * 500, " SIZE=1", "  SIZE=1  BODY=7BIT ", " SMTPUTF8", " X=\u00fc", " X=\x7f", "\t"]
_TAILS += [" NOTIFY=NEVER", " NOTIFY", "SIZE=1"]
_OTHERS = [
    "EHLO mx.example",
    "ehlo  mx",
    "helo mx ",
    "LHLO x y",
    "EHLO",
    "EHLO \u00e9",
    "EHLO a\x00",
    f"EHLO {'x' * 255}",
]
_OTHERS += [
    f"EHLO {'x' * 256}",
    "DATA",
    "data ",
    "DATA x",
    "DATAX",
    " DATA",
    "RSET",
    "RSET  x",
    "Noop",
    "NOOP x",
    "QUIT",
    "QUIT x",
]
_OTHERS += [
    "BDAT 3",
    "bdat  3 last ",
    "BDAT 3LAST",
    "BDAT",
    f"BDAT {'9' * 20}",
    f"BDAT {'9' * 21}",
    "BDAT 3 LAST x",
    "BDAT -1",
]
_LINES = {
    State.GREETED: [*_OTHERS, "MAIL FROM:<a@b>", "RCPT TO:<a@b>"],
    State.IDENTIFIED: [
        *[f"{verb}{path}" for verb in ("MAIL FROM:", "mail from: ") for path in _PATHS],
        *[f"MAIL FROM:<a@b>{tail}" for tail in _TAILS],
        *_OTHERS,
        "MAIL TO:<a@b>",
        "MAIL  FROM:<a@b>",
    ],
    State.MAIL: [
        *[f"{verb}{path}" for verb in ("RCPT TO:", "rcpt To: ") for path in _PATHS],
        *[f"RCPT TO:<a@b>{tail}" for tail in _TAILS],
        *_OTHERS,
        "MAIL FROM:<a@b>",
    ],
    State.RECIPIENTS: _OTHERS,
    State.CHUNKS: _OTHERS,
}


def _formless(flavour: Flavour) -> Flavour:
    """The same, but that no line has the form of most clients."""
    rows = {verb: attrs.evolve(row, form=None) for verb, row in flavour.commands.items()}
    return Flavour(flavour.protocol, rows, flavour.noRecipients)


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("state", _LINES)
def test_a_line_in_the_form_of_most_clients_is_read_as_the_grammar_reads_it(state: State, lmtp: bool) -> None:
    for line in _LINES[state]:
        talks = [talkAt(state, lmtp, hideDSN=False, maxCommandLength=512) for _ in range(2)]
        careful = talks[1].dialogue.context
        careful.flavour = _formless(careful.flavour)
        assert not careful.flavour.forms
        said, wanted = (talk.say(line) for talk in talks)
        assert (line, said) == (line, wanted)
        first, second = ([_plain(each) for each in talk.asked] for talk in talks)
        assert first == second
        (envelope, before), (other, _) = ((talk.session.envelope, talk.state) for talk in talks)
        assert (line, envelope, before) == (line, other, talks[1].state)
        for one, two in zip([envelope.mailFrom, *envelope.rcptTo], [other.mailFrom, *other.rcptTo], strict=True):
            assert getattr(one, "args", None) == getattr(two, "args", None)


def _plain(question: Any) -> Any:
    """What is asked, without the session, which is another one."""
    return (question.hook, question.arguments[:-1]) if isinstance(question, Ask) else question


# --- Anything at all ---

_plausible = st.sampled_from(
    [
        line.encode()
        for line in [
            *MATRIX,
            "AUTH LOGIN",
            "AUTH CRAM-MD5",
            "AUTH XOAUTH2",
            "BDAT 0 LAST",
            "MAIL FROM:<> SMTPUTF8",
            "RCPT TO:<é@é.example>",
            "VRFY",
            "XCLIENT NAME=x HELO=y",
            "XCLIENT NAME=x LOGIN=ann",
            "XFORWARD IDENT=\u00e9",
            "",
        ]
    ]
)
_likeCommands = st.builds(
    lambda verb, rest: verb.encode() + b" " + rest, st.sampled_from(sorted(COMMANDS)), st.binary(max_size=60)
)
_lines = st.one_of(_plausible, _likeCommands, st.binary(max_size=80), st.sampled_from(LineFault))
_responses = st.one_of(st.binary(max_size=40).map(b64encode), _lines)
_refusals = st.builds(SMTPError, st.text(max_size=30), st.sampled_from([None, 421, 450, 550]))
_proxies = st.sampled_from([{}, PROXY])
_answers = st.one_of(st.none(), st.text(max_size=700), st.integers(), _refusals)


def checkReply(octets: bytes) -> None:
    """A well-formed reply: lines of one code, each short enough, without control characters."""
    assert octets.endswith(b"\r\n")
    lines = octets[:-2].split(b"\r\n")
    assert all(len(line) <= 510 for line in lines)
    assert [line[3:4] for line in lines] == [b"-"] * (len(lines) - 1) + [b" "]
    assert len({line[:3] for line in lines}) == 1
    for line in lines:
        assert line.decode().isprintable()


@given(st.booleans(), st.lists(_lines, max_size=25), st.data())
def test_any_lines_and_any_answers_give_one_reply_for_each_command(
    lmtp: bool, lines: list[bytes | LineFault], data: st.DataObject
) -> None:
    methods = ["PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER"]
    talk = Talk(lmtp=lmtp, allowInsecureAuth=True, authMethods=methods, **data.draw(_proxies))
    dialogue = talk.dialogue
    for line in [b"LHLO x" if lmtp else b"EHLO x", *lines]:
        if talk.state is State.CLOSED:
            break
        step: Any = dialogue.receiveLine(line)
        questions = 0
        expected = 1
        while not isinstance(step, Reply) and (type(step) is not tuple):
            questions += 1
            answer = data.draw(_answers)
            if isinstance(step, Challenge):
                assert re.fullmatch(rb"334 [A-Za-z0-9+/=]*\r\n", step.octets)
                step = dialogue.answer(data.draw(_responses))
            elif not isinstance(step, Ask):
                ends = isinstance(step, ReceiveMessage) or getattr(step, "last", False)
                expected = len(talk.session.envelope.rcptTo) if lmtp else 1
                result = answer if isinstance(answer, (str, SMTPError)) else None
                step = dialogue.answer(Verdict((result,) * expected, None) if ends else None)
                expected = expected if ends else 1
            elif isinstance(answer, SMTPError) and step.hook != "onReset":
                step = dialogue.refuse(answer)
            else:
                step = dialogue.answer(answer)
        assert questions <= (7 if talk.dialogue.verb == "AUTH" else 3)
        replies = (step,) if isinstance(step, Reply) else step
        # 220 was the reply to STARTTLS; a refusal by onSecure is the only thing that may come behind it.
        assert len(replies) == expected or (talk.dialogue.verb == "STARTTLS" and replies == ())
        for reply in replies:
            checkReply(dialogue.encode(reply))
        checkSanity(dialogue)


@given(st.binary())
def test_any_octets_as_the_first_line_are_answered(line: bytes) -> None:
    talk = Talk()
    assert talk.say(line)[:3] in {"500", "501", "502", "503", "554", "214", "220", "221", "250", "252"}


@given(st.text(), st.booleans())
def test_text_of_hooks_never_yields_control_characters(text: str, utf8: bool) -> None:
    refusal = SMTPError(text, 550)
    for answer in (text, refusal):
        talk = talkAt(State.IDENTIFIED)
        talk.answers = dict.fromkeys(("onHelo", "onVrfy", "onRcptTo", "message"), answer)
        dialogue = talk.dialogue
        for line in (b"VRFY x", MAIL.encode() + b" SMTPUTF8" * utf8, RCPT.encode(), b"EHLO x"):
            step: Any = dialogue.receiveLine(line)
            while isinstance(step, Ask):
                given = talk.answers.get(step.hook)
                step = dialogue.refuse(given) if isinstance(given, SMTPError) else dialogue.answer(given)
            checkReply(dialogue.encode(step))
