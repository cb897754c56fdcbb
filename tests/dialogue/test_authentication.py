"""AUTH (RFC 4954) and STARTTLS (RFC 3207) as commands: which clients may use them, when, and what a failure costs."""

from __future__ import annotations

import itertools
from base64 import b64decode, b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramClient, ScramMechanism
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, eventAsText

from smtphooks import replies
from smtphooks.dialogue.authentication import AUTH_LINE_LENGTH
from smtphooks.dialogue.steps import Ask, AuthFailed, StartTLS, State, Verdict, Wait
from smtphooks.replies import SMTPError
from smtphooks.sasl.auth import Auth, AuthResponse, Exchange
from smtphooks.sasl.mechanisms import MECHANISM_NAMES
from smtphooks.session import Session
from smtphooks.syntax.wire import LineFault
from tests.conftest import Logged
from tests.secrets import PASSWORD, SCRAM_PASSWORD, TOKEN, UNICODE_PASSWORD, WRONG_PASSWORD, encoded, plain
from tests.support import ENVELOPE, HELLO, MAIL, RCPT, Client, Pending, connect, makeFactory
from tests.talk import Talk

ANN = {"onAuth": "ann"}
SUCCESS = "235 2.7.0 Authentication successful"
FAILURE = "535 5.7.8 Authentication credentials invalid"
CANCELLED = "501 5.7.0 Authentication cancelled"
NO_BASE64 = "501 5.5.2 Cannot decode the response"
MALFORMED = "501 5.5.2 Malformed authentication data"
AUTH_PLAIN = f"AUTH PLAIN {plain()}"
GUESS = f"AUTH PLAIN {plain(password=WRONG_PASSWORD)}"


def begun(answers: Any = None, **given: Any) -> Talk:
    """A talk over TLS, past hello."""
    talk = Talk(answers, **{"secured": True, **given})
    talk.say("LHLO client.example" if given.get("lmtp") else "EHLO client.example")
    talk.asked.clear()
    return talk


def attempts(talk: Talk) -> list[Auth]:
    """What the hook was asked."""
    return [question.arguments[0] for question in talk.asked if isinstance(question, Ask) and question.hook == "onAuth"]


# --- The exchange (RFC 4954 section 4) ---


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("line", ["AUTH PLAIN {}", "auth plain {}", "Auth Plain {} "])
def test_initial_response_stands_in_the_command(line: str, lmtp: bool) -> None:
    talk = begun(ANN, lmtp=lmtp)
    assert talk.say(line.format(plain(authorizationId="joe"))) == SUCCESS
    assert attempts(talk) == [Auth(method="PLAIN", username="ann", password=PASSWORD, authorizationId="joe")]
    assert talk.asked[-1].arguments[1] is talk.session  # type: ignore[union-attr]
    assert talk.session.user == "ann"
    assert talk.state is State.IDENTIFIED


def test_without_initial_response_the_challenge_is_empty() -> None:
    talk = begun(ANN)
    assert talk.say("AUTH PLAIN") == "334 "
    assert talk.say(plain()) == SUCCESS
    assert attempts(talk) == [Auth(method="PLAIN", username="ann", password=PASSWORD)]


def test_empty_initial_response_is_an_equals_sign() -> None:
    talk = begun(ANN, session={"peerIdentity": "ann@a.example"}, authMethods=["EXTERNAL", "PLAIN"])
    assert talk.say("AUTH EXTERNAL =") == SUCCESS
    assert attempts(talk) == [Auth(method="EXTERNAL", username="ann@a.example")]
    talk = begun(ANN)
    assert talk.say("AUTH PLAIN =") == MALFORMED
    assert talk.say("AUTH LOGIN =") == "334 UGFzc3dvcmQ6"  # "Password:"
    assert talk.say(encoded(PASSWORD)) == MALFORMED


def test_empty_response_is_an_empty_line() -> None:
    talk = begun(ANN, session={"peerIdentity": "ann@a.example"}, authMethods=["EXTERNAL"])
    assert talk.say("AUTH EXTERNAL") == "334 "
    assert talk.say("") == SUCCESS
    assert attempts(talk)[0].authorizationId == ""
    # An equals sign has no meaning there.
    talk = begun(ANN, session={"peerIdentity": "ann@a.example"}, authMethods=["EXTERNAL"])
    talk.say("AUTH EXTERNAL")
    assert talk.say("=") == NO_BASE64


@pytest.mark.parametrize("username, password", [("ann", PASSWORD), ("\u00e4nn", UNICODE_PASSWORD)])
def test_LOGIN_asks_twice_or_once(username: str, password: str) -> None:
    for isInitial in (False, True):
        talk = begun(ANN)
        if isInitial:
            assert talk.say(f"AUTH LOGIN {encoded(username)}") == "334 UGFzc3dvcmQ6"
        else:
            assert talk.say("AUTH LOGIN") == "334 VXNlcm5hbWU6"
            assert talk.say(encoded(username)) == "334 UGFzc3dvcmQ6"
        assert talk.say(encoded(password)) == SUCCESS
        assert attempts(talk) == [Auth(method="LOGIN", username=username, password=password)]


@pytest.mark.parametrize("before", [(), (encoded("ann"),)])
def test_client_may_cancel(before: tuple[str, ...]) -> None:
    talk = begun(ANN)
    talk.sayAll("AUTH LOGIN", *before)
    assert talk.say("*") == CANCELLED
    assert attempts(talk) == []
    assert talk.waits() == []
    assert talk.say("NOOP") == "250 2.0.0 OK"
    assert talk.say(AUTH_PLAIN) == SUCCESS


def test_asterisk_in_the_command_is_not_base64() -> None:
    assert begun(ANN).say("AUTH PLAIN *") == NO_BASE64


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "AGFubgB4=",
        "AGFubgB",
        "AGFub gB4",
        "AGFubgB4!",
        "AGFub-_4",
        "=AGFubgB4",
        "\u00e9",
        "**",
        "* ",
        "====",
        "AAAA AAAA",
    ],
)
def test_response_that_is_not_base64_is_refused(text: str) -> None:
    talk = begun(ANN)
    assert talk.say(f"AUTH PLAIN {text}") in (NO_BASE64, MALFORMED)
    talk.say("AUTH PLAIN")
    assert talk.say(text) == NO_BASE64
    talk.say("AUTH PLAIN")
    assert talk.say(text.encode() + b"\xff") == NO_BASE64
    assert attempts(talk) == []
    assert talk.say("NOOP") == "250 2.0.0 OK"


@pytest.mark.parametrize("line", ["NOOP", "QUIT", "RSET", "EHLO x"])
def test_line_is_a_response_and_no_command_within_an_exchange(line: str) -> None:
    talk = begun(ANN)
    talk.say("AUTH PLAIN")
    assert talk.say(line) in (NO_BASE64, MALFORMED)
    assert talk.state is State.IDENTIFIED


@pytest.mark.parametrize("fault", LineFault)
def test_line_fault_ends_the_exchange(fault: LineFault) -> None:
    talk = begun(ANN)
    talk.say("AUTH PLAIN")
    assert talk.say(fault) == "500 5.5.6 Authentication exchange line is too long or has a bare line end"
    assert talk.say(AUTH_PLAIN) == SUCCESS


@pytest.mark.parametrize(
    "line", [f"AUTH PLAIN {encoded('ann')}", "AUTH PLAIN " + encoded(b"\0\xff\0x"), f"AUTH CRAM-MD5 {encoded('ann')}"]
)
def test_malformed_response_is_refused_and_costs_no_time(line: str) -> None:
    talk = begun(ANN, authMethods=["PLAIN", "CRAM-MD5"])
    assert talk.say(line) == MALFORMED
    assert attempts(talk) == []
    assert talk.waits() == []


def test_what_is_known_of_an_attempt_is_forgotten_with_the_next_command() -> None:
    talk = begun({"onAuth": False})
    talk.say(GUESS)
    dialogue = talk.dialogue
    assert dialogue.attempt == Auth(method="PLAIN", username="ann", password=WRONG_PASSWORD)
    assert (dialogue.verb, dialogue.hasFailed) == ("AUTH", True)
    talk.say("NOOP")
    assert (dialogue.verb, dialogue.hasFailed, dialogue.attempt) == ("NOOP", False, None)


@pytest.mark.parametrize("answer", [AuthResponse(responseCode=454), SMTPError("Later", 454)], ids=repr)
def test_with_too_many_errors_it_is_the_server_that_refuses(answer: object) -> None:
    talk = begun({"onAuth": answer}, maxErrors=1)
    talk.say(AUTH_PLAIN)
    assert talk.dialogue.refuser == "onAuth"
    assert talk.say(AUTH_PLAIN) == "421 4.7.0 Too many errors"
    assert talk.dialogue.refuser == ""


# --- Which mechanism, and when ---


@pytest.mark.parametrize(
    "name", ["NTLM", "CRAM-MD5", "PLAINX", "PLA\u0131N", "=", "*", "EXTERNAL", "SCRAM-SHA-256-PLUS"]
)
def test_mechanism_that_is_not_offered_is_unknown(name: str) -> None:
    # EXTERNAL without a certificate, PLUS without a binding.
    talk = begun(ANN, authMethods=["PLAIN", "EXTERNAL", "SCRAM-SHA-256-PLUS"])
    assert talk.say(f"AUTH {name} AGFubgB4") == "504 5.5.4 Unrecognized authentication mechanism"
    assert talk.state is State.IDENTIFIED


def test_AUTH_names_its_mechanism() -> None:
    assert begun(ANN).say("AUTH") == "501 5.5.4 Syntax: AUTH mechanism [initial-response]"
    assert begun(ANN).say("AUTH  ") == "501 5.5.4 Syntax: AUTH mechanism [initial-response]"


def test_AUTH_comes_after_hello() -> None:
    assert Talk(ANN, secured=True).say(AUTH_PLAIN) == "503 5.5.1 Say hello first"


def test_AUTH_comes_after_HELO_too() -> None:
    talk = Talk(ANN, secured=True)
    talk.say("HELO x")
    assert talk.say(AUTH_PLAIN) == SUCCESS


def test_AUTH_comes_once() -> None:
    talk = begun(ANN)
    assert talk.sayAll(AUTH_PLAIN, AUTH_PLAIN) == "503 5.5.1 Already authenticated"
    assert len(attempts(talk)) == 1
    assert talk.sayAll("RSET", "EHLO x", AUTH_PLAIN) == "503 5.5.1 Already authenticated"


@pytest.mark.parametrize("lines", [[MAIL], [MAIL, RCPT], [MAIL, RCPT, "BDAT 1"]])
def test_AUTH_comes_outside_of_a_transaction(lines: list[str]) -> None:
    talk = begun(ANN)
    talk.sayAll(*lines)
    state = talk.state
    assert talk.say(AUTH_PLAIN) == "503 5.5.1 Not within a mail transaction"
    assert talk.state is state
    assert attempts(talk) == []
    assert talk.sayAll("RSET", AUTH_PLAIN) == SUCCESS


@pytest.mark.parametrize("command", [AUTH_PLAIN, "AUTH PLAIN", "AUTH NTLM"])
def test_AUTH_in_the_clear_needs_encryption(command: str) -> None:
    talk = begun(ANN, secured=False)
    assert talk.say(command) == "538 5.7.11 Encryption required for authentication"
    assert attempts(talk) == []
    assert talk.sayAll("STARTTLS", "EHLO x", AUTH_PLAIN) == SUCCESS


def test_AUTH_in_the_clear_may_be_allowed() -> None:
    assert begun(ANN, secured=False, allowInsecureAuth=True).say(AUTH_PLAIN) == SUCCESS


def test_client_with_a_user_from_elsewhere_is_authenticated() -> None:
    talk = begun(ANN, session={"user": "joe"})
    assert talk.say(AUTH_PLAIN) == "503 5.5.1 Already authenticated"


@pytest.mark.parametrize("options", [{"hasHook": False}, {"disabledCommands": ["auth"]}], ids=repr)
def test_AUTH_is_not_implemented_without_a_hook_or_where_it_is_disabled(options: dict[str, Any]) -> None:
    talk = begun(ANN, **options)
    assert talk.say(AUTH_PLAIN) == "502 5.5.1 Command not implemented"
    assert "AUTH" not in talk.say("EHLO x")
    assert "AUTH" not in talk.say("HELP")
    assert talk.say(f"{MAIL} AUTH=<>").startswith("555 5.5.4 ")


def test_without_mechanisms_every_name_is_unknown() -> None:
    talk = begun(ANN, authMethods=[])
    assert talk.say(AUTH_PLAIN) == "504 5.5.4 Unrecognized authentication mechanism"
    assert "AUTH" not in talk.say("EHLO x")


def test_session_may_disable_AUTH() -> None:
    talk = begun(ANN)
    talk.session.disabledCommands = ["auth"]
    assert "AUTH" not in talk.say("EHLO x")
    assert talk.say(AUTH_PLAIN) == "502 5.5.1 Command not implemented"


# --- What EHLO says ---


def offered(talk: Talk, hello: str = "EHLO x") -> list[str]:
    return [line[4:] for line in talk.say(hello).splitlines() if line[4:].startswith("AUTH")]


def test_AUTH_is_advertised_once_with_its_mechanisms_in_order() -> None:
    methods = ["CRAM-MD5", "plain", "SCRAM-SHA-256", "EXTERNAL"]
    assert offered(begun(authMethods=methods)) == ["AUTH CRAM-MD5 PLAIN SCRAM-SHA-256"]
    assert offered(begun(authMethods=methods, lmtp=True), "LHLO x") == ["AUTH CRAM-MD5 PLAIN SCRAM-SHA-256"]
    session = {"peerIdentity": "ann", "channelBinding": b"x"}
    assert offered(begun(authMethods=MECHANISM_NAMES, session=session)) == ["AUTH " + " ".join(MECHANISM_NAMES)]


@pytest.mark.parametrize(
    "options, isOffered",
    [
        ({"secured": True}, True),
        ({"secure": True, "secured": False}, True),
        ({"secured": False}, False),
        ({"secured": False, "allowInsecureAuth": True}, True),
        ({"secured": False, "allowInsecureAuth": True, "needsUpgrade": True}, False),
        ({"secured": True, "needsUpgrade": True}, True),
        ({"authMethods": ["EXTERNAL"]}, False),
    ],
    ids=repr,
)
def test_AUTH_is_advertised_where_it_would_be_accepted(options: dict[str, Any], isOffered: bool) -> None:
    talk = begun(ANN, **options)
    assert bool(offered(talk)) is isOffered
    assert (talk.say(AUTH_PLAIN) == SUCCESS) is isOffered
    assert offered(talk) == []


# --- needsUpgrade and authOptional ---


@pytest.mark.parametrize("line", [AUTH_PLAIN, "AUTH", MAIL])
def test_with_needs_upgrade_nothing_that_counts_is_done_in_the_clear(line: str) -> None:
    talk = begun(ANN, secured=False, needsUpgrade=True, allowInsecureAuth=True)
    assert talk.say(line) == "530 5.7.0 Must issue a STARTTLS command first"
    assert talk.asked == []
    assert talk.say("VRFY x").startswith("252")
    assert talk.sayAll("STARTTLS", "EHLO x", AUTH_PLAIN, MAIL) == "250 2.1.0 Sender OK"


def test_without_auth_optional_MAIL_needs_a_user() -> None:
    talk = begun(ANN, authOptional=False, authRequiredMessage="Who are you?")
    assert talk.say(MAIL) == "530 5.7.0 Who are you?"
    assert talk.sayAll(AUTH_PLAIN, MAIL) == "250 2.1.0 Sender OK"
    assert talk.session.transmissionType == "ESMTPSA"


def test_failed_attempt_makes_no_user() -> None:
    talk = begun(authOptional=False)
    assert talk.sayAll(GUESS, MAIL) == "530 5.7.0 Authentication required"


# --- The parameter of MAIL (RFC 4954 section 5) ---


@pytest.mark.parametrize(
    "value, submitter",
    [
        ("<>", "<>"),
        ("ann@a.example", "ann@a.example"),
        ("e+3Dmc2@a.example", "e=mc2@a.example"),
        ("x" * 500, "x" * 500),
    ],
)
def test_MAIL_names_the_submitter(value: str, submitter: str) -> None:
    for talk in (begun(), begun(ANN), begun(secured=False, allowInsecureAuth=True)):
        if talk.answers:
            assert talk.say(AUTH_PLAIN) == SUCCESS  # AUTH is no longer advertised, but its parameter is accepted
        assert talk.say(f"{MAIL} auth={value}") == "250 2.1.0 Sender OK"
        assert talk.session.envelope.mailFrom is not None
        assert talk.session.envelope.mailFrom.args == {"AUTH": submitter}


@pytest.mark.parametrize(
    "parameter", ["AUTH", "AUTH=", "AUTH=a+b", "AUTH=a+0D+0A", f"AUTH={'x' * 501}", "AUTH=a AUTH=b"]
)
def test_submitter_of_another_form_is_refused(parameter: str) -> None:
    assert begun().say(f"{MAIL} {parameter}").startswith("501 5.5.4 ")


def test_submitter_is_a_parameter_only_where_AUTH_is() -> None:
    refusal = "555 5.5.4 Parameter AUTH not recognized or not implemented"
    assert begun(secured=False).say(f"{MAIL} AUTH=<>") == refusal
    talk = begun()
    talk.say(MAIL)
    assert talk.say(f"{RCPT} AUTH=<>") == refusal


# --- Lengths ---


def test_line_of_AUTH_may_have_12288_octets() -> None:
    # RFC 4954 section 4: CRLF included.
    talk = begun(ANN)
    assert talk.dialogue.lineLimit == AUTH_LINE_LENGTH == 12288
    long = "AUTH PLAIN "
    response = plain(password="x" * 9150)
    line = long + response
    assert 12200 < len(line) + 2 <= 12288
    assert talk.say(line) == SUCCESS
    assert attempts(talk)[0].password == "x" * 9150


@pytest.mark.parametrize("isResponse", [False, True])
def test_line_of_the_protocol_ends_at_12288_octets(isResponse: bool) -> None:
    def sent(length: int) -> list[str]:
        passwords: list[str] = []
        one = connect(
            allowInsecureAuth=True,
            authMethods=["XOAUTH2"],
            onAuth=lambda auth, session: passwords.append(auth.accessToken) or "ann",
        )
        one.say(HELLO, *["AUTH XOAUTH2"] * isResponse)
        before = "" if isResponse else "AUTH XOAUTH2 "
        message = "user=ann\1auth=Bearer "
        room = length - 2 - len(before)
        token = "x" * (room // 4 * 3 - len(message) - 2)
        line = before + b64encode(f"{message}{token}\1\1".encode()).decode()
        # The rest, which base64 cannot fill, is filled with spaces behind the command.
        line = line.ljust(length - 2) if not isResponse else line
        one.say(line)
        return passwords

    assert len(sent(AUTH_LINE_LENGTH)) == 1
    assert sent(AUTH_LINE_LENGTH + 4) == []


def test_other_commands_keep_their_own_limit() -> None:
    one = connect(allowInsecureAuth=True, onAuth=print)
    limit = 512 + 26 + 17 + 10 + 500
    assert one.say(HELLO, "NOOP " + "x" * (limit - 7))[-1] == "250 2.0.0 OK"
    assert one.say("NOOP " + "x" * (limit - 6)) == ["500 5.5.2 Line too long"]
    assert one.say("NOOP " + "x" * 12000) == ["500 5.5.2 Line too long"]
    assert one.say("NOOP") == ["250 2.0.0 OK"]


# --- What the hook answers ---


@pytest.mark.parametrize(
    "answer, reply, user",
    [
        ("ann", SUCCESS, "ann"),
        (5, SUCCESS, 5),
        ({"id": 5}, SUCCESS, {"id": 5}),
        (True, SUCCESS, True),
        (AuthResponse(user="ann"), SUCCESS, "ann"),
        (AuthResponse("ann", message="Hello Ann"), "235 2.7.0 Hello Ann", "ann"),
        (AuthResponse("ann", message="a\r\n250 b"), "235 2.7.0 a  250 b", "ann"),
        (AuthResponse("ann", responseCode=454), SUCCESS, "ann"),
        (AuthResponse("ann", responseCode=235), SUCCESS, "ann"),
        *[(AuthResponse(user), SUCCESS, user) for user in ({}, "", 0, [], ())],
        *[(nobody, FAILURE, None) for nobody in (None, False, "", 0, {}, [], AuthResponse())],
        (AuthResponse(user=False), FAILURE, None),
        (AuthResponse(message="Wrong"), "535 5.7.8 Wrong", None),
        (AuthResponse(message="a\r\n235 b"), "535 5.7.8 a  235 b", None),
        (AuthResponse(responseCode=454), "454 4.7.0 Authentication credentials invalid", None),
        (AuthResponse(message="Too weak", responseCode=534), "534 5.7.9 Too weak", None),
        (AuthResponse(responseCode=421, message="Go"), "421 4.3.2 Go", None),
        (AuthResponse(data={"status": "401"}), FAILURE, None),  # nothing for PLAIN
        (SMTPError("No"), "535 5.7.8 No", None),
        (SMTPError("Later", 454), "454 4.7.0 Later", None),
        (SMTPError("No", 550), "550 5.7.8 No", None),
        (SMTPError("No", enhancedCode="5.7.13"), "535 5.7.13 No", None),
        (SMTPError("Go", 421), "421 4.3.2 Go", None),
    ],
    ids=repr,
)
def test_answer_of_the_hook_makes_the_reply(answer: Any, reply: str, user: Any) -> None:
    talk = begun({"onAuth": answer})
    assert talk.say(AUTH_PLAIN) == reply
    assert talk.session.user == user
    assert talk.session.error == (None if reply.startswith("235") else reply)
    assert talk.state is (State.CLOSED if reply.startswith("421") else State.IDENTIFIED)


@pytest.mark.parametrize("user", [{}, "", 0, False])
def test_false_user_is_authenticated_everywhere(user: Any) -> None:
    # Be it from AUTH, from XCLIENT or set by a hook.
    talk = begun({"onAuth": AuthResponse(user)}, authOptional=False)
    talk.session.user = user
    assert "AUTH" not in talk.say("EHLO x")
    assert talk.say(AUTH_PLAIN) == "503 5.5.1 Already authenticated"
    assert talk.session.transmissionType == "ESMTPSA"
    assert talk.say(f"{MAIL} AUTH=<>") == "250 2.1.0 Sender OK"
    assert talk.session.user == user


ERROR = '{"status":"invalid_token"}'


@pytest.mark.parametrize(
    "method, response",
    [
        ("XOAUTH2", f"user=ann\1auth=Bearer {TOKEN}\1\1"),
        ("OAUTHBEARER", f"n,a=ann,\1auth=Bearer {TOKEN}\1\1"),
    ],
)
@pytest.mark.parametrize("dummy", ["AQ==", "", "*", "no base64", LineFault.TOO_LONG])
def test_refused_token_gets_its_reason_then_the_reply(method: str, response: str, dummy: Any) -> None:
    answered = AuthResponse(message="Token expired", data={"status": "invalid_token"})
    talk = begun({"onAuth": answered}, authMethods=["XOAUTH2", "OAUTHBEARER"])
    challenge = talk.say(f"AUTH {method} {encoded(response)}")
    assert challenge == f"334 {b64encode(ERROR.encode()).decode()}"
    # A client that leaves in the middle must not learn sooner that the guess was wrong.
    assert talk.say(dummy) == "535 5.7.8 Token expired"
    assert talk.waits() == [1]
    assert attempts(talk)[0].accessToken == TOKEN


# --- Failures cost time ---


def test_failures_cost_more_and_more_time() -> None:
    talk = begun()
    for _ in range(7):
        assert talk.say(GUESS) == FAILURE
    assert talk.waits() == [1, 2, 4, 8, 16, 16, 16]


def test_time_is_spent_before_the_reply_and_behind_the_hook() -> None:
    talk = begun()
    step: Any = talk.dialogue.receiveLine(GUESS.encode())
    assert isinstance(step, Ask)
    step = talk.dialogue.answer(None)
    assert isinstance(step, AuthFailed)  # for the log, which does not wait
    assert step.reply.code == 535
    step = talk.dialogue.answer(None)
    assert step == Wait(1)
    assert talk.dialogue.answer(None).code == 535  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "answer, waits",
    [
        (None, [1]),
        (AuthResponse(responseCode=454), []),  # not the client's fault
        (AuthResponse(responseCode=421), []),
        (AuthResponse(responseCode=550), [1]),
        (SMTPError("No"), [1]),
        (SMTPError("No", 550), [1]),
        (SMTPError("No", enhancedCode="5.7.8"), [1]),
        (SMTPError("Later", 454), []),
        (SMTPError("Later", enhancedCode="4.7.0"), []),
        ("ann", []),
    ],
    ids=repr,
)
def test_failure_of_the_client_costs_time(answer: Any, waits: list[float]) -> None:
    talk = begun({"onAuth": answer})
    talk.say(GUESS)
    assert talk.waits() == waits


def test_syntax_error_of_the_hook_is_a_failure() -> None:
    talk = begun({"onAuth": SMTPError("No", 501)})
    assert talk.say(GUESS) == "501 5.5.4 No"
    assert talk.waits() == [1]


def test_temporary_refusal_does_not_lengthen_the_next_delay() -> None:
    talk = begun({"onAuth": AuthResponse(responseCode=454)})
    talk.sayAll(GUESS, GUESS)
    talk.answers.clear()
    talk.say(GUESS)
    assert talk.waits() == [1]


def test_SCRAM_costs_the_same_for_unknown_users_and_wrong_passwords() -> None:
    stored = ScramMechanism("SCRAM-SHA-256").make_auth_info(SCRAM_PASSWORD)
    said = []
    for answered in (None, stored, SMTPError("No such user"), AuthResponse(message="No such user")):
        talk = begun({"onAuth": answered}, authMethods=["SCRAM-SHA-256"])
        client = ScramClient(["SCRAM-SHA-256"], "ann", WRONG_PASSWORD)
        challenge = talk.say(f"AUTH SCRAM-SHA-256 {encoded(client.get_client_first())}")
        client.set_server_first(b64decode(challenge[4:]).decode())
        assert talk.waits() == []
        said.append((challenge[:4], talk.say(encoded(client.get_client_final())), talk.waits()))
    assert said == [("334 ", FAILURE, [1])] * 4


def test_SCRAM_ends_with_the_proof_of_the_server() -> None:
    stored = ScramMechanism("SCRAM-SHA-256").make_auth_info(SCRAM_PASSWORD)
    talk = begun({"onAuth": AuthResponse(user="ann", data=stored)}, authMethods=["SCRAM-SHA-256"])
    client = ScramClient(["SCRAM-SHA-256"], "ann", SCRAM_PASSWORD)
    assert talk.say("AUTH SCRAM-SHA-256") == "334 "
    client.set_server_first(b64decode(talk.say(encoded(client.get_client_first()))[4:]).decode())
    client.set_server_final(b64decode(talk.say(encoded(client.get_client_final()))[4:]).decode())
    assert talk.session.user is None
    assert talk.say("") == SUCCESS
    assert talk.session.user == "ann"


def test_success_forgets_the_failures() -> None:
    talk = begun(secured=False, allowInsecureAuth=True)
    talk.sayAll(GUESS, GUESS)
    talk.answers.update(ANN)
    assert talk.say(AUTH_PLAIN) == SUCCESS
    talk.answers.clear()
    talk.sayAll("STARTTLS", "EHLO x", GUESS)
    assert talk.waits() == [1, 2, 1]


def test_TLS_forgets_no_failure() -> None:
    talk = begun(secured=False, allowInsecureAuth=True)
    talk.sayAll(GUESS, GUESS, "STARTTLS", "EHLO x", GUESS)
    assert talk.waits() == [1, 2, 4]


# --- maxErrors ---


def until421(talk: Talk, line: str) -> int:
    """How often a line is answered before the connection ends."""
    for number in itertools.count():
        if talk.say(line) == "421 4.7.0 Too many errors":
            assert talk.state is State.CLOSED
            return number
        assert number < 100
    raise AssertionError


def test_error_beyond_the_limit_ends_the_connection() -> None:
    for line in ("FOO", GUESS, "AUTH PLAIN x", "AUTH NTLM", RCPT, "MAIL FROM:x"):
        assert until421(begun(maxErrors=3), line) == 3
    assert until421(begun(), GUESS) == 20


def test_errors_of_all_kinds_count_together() -> None:
    talk = begun(maxErrors=3)
    talk.sayAll("FOO", GUESS, "NOOP", MAIL, "DATA")
    assert talk.say("FOO") == "421 4.7.0 Too many errors"


def test_refusal_of_authentication_by_the_hook_counts() -> None:
    assert until421(begun({"onAuth": SMTPError("No", 550)}, maxErrors=3), GUESS) == 3


@pytest.mark.parametrize("hook, line", [("onRcptTo", RCPT), ("onVrfy", "VRFY x"), ("onHelo", "EHLO x")])
def test_refusals_by_other_hooks_do_not_count(hook: str, line: str) -> None:
    talk = begun(maxErrors=3)
    talk.say(MAIL)
    talk.answers[hook] = SMTPError("No")
    for _ in range(10):
        assert talk.say(line).startswith("550 ")
    assert until421(talk, "FOO") == 3


@pytest.mark.parametrize("lmtp", [False, True])
def test_refused_messages_do_not_count(lmtp: bool) -> None:
    talk = begun({"message": SMTPError("No", 550)}, maxErrors=3, lmtp=lmtp)
    for _ in range(10):
        assert talk.sayAll(MAIL, RCPT, RCPT, "DATA").splitlines()[1:] == ["550 5.7.1 No"] * (2 if lmtp else 1)
    assert until421(talk, "FOO") == 3


def test_every_recipient_of_a_message_has_its_reply_beyond_the_limit_too() -> None:
    talk = begun({"message": Verdict((None, None), replies.TOO_LARGE)}, maxErrors=1, lmtp=True)
    talk.say("FOO")
    assert [line[:3] for line in talk.sayAll(MAIL, RCPT, RCPT, "DATA").splitlines()] == ["354", "552", "552"]
    assert talk.say("NOOP") == "250 2.0.0 OK"
    assert talk.say("FOO") == "421 4.7.0 Too many errors"


def test_zero_is_no_limit_of_errors() -> None:
    talk = begun(maxErrors=0)
    for _ in range(100):
        assert talk.say("DATA").startswith("503 ")


# --- A user's own mechanism ---


class Twice:
    """Asks for the name twice, and accepts the same answer."""

    name = "x-twice"

    def isAvailable(self, session: Session) -> bool:
        return session.secure

    def exchange(self, initial: bytes | None, session: Session) -> Exchange:
        first = initial if initial is not None else (yield b"Who?")
        second = yield b"Who " + b"\xff" * 9000  # base64 is never wrapped
        if first != second:
            raise SMTPError("Make up your mind")
        response: AuthResponse = yield Auth(method="X-TWICE", username=first.decode())
        return response


def test_user_may_add_a_mechanism() -> None:
    talk = begun(ANN, authMethods=["PLAIN", Twice()])
    assert offered(talk) == ["AUTH PLAIN X-TWICE"]
    assert talk.say("AUTH X-Twice") == f"334 {encoded('Who?')}"
    challenge = talk.say(encoded("ann"))
    assert b64decode(challenge[4:], validate=True) == b"Who " + b"\xff" * 9000
    assert talk.say(encoded("joe")) == "501 5.5.4 Make up your mind"
    assert talk.sayAll(f"AUTH x-twice {encoded('ann')}", encoded("ann")) == SUCCESS
    assert attempts(talk) == [Auth(method="X-TWICE", username="ann")]
    assert begun(ANN, secured=False, allowInsecureAuth=True, authMethods=[Twice()]).say("AUTH X-TWICE")[:3] == "504"


class Strict(Twice):
    """Refuses after the hook has accepted, or before it is asked."""

    def __init__(self, refusal: SMTPError, isAsked: bool) -> None:
        self._refusal, self._isAsked = refusal, isAsked

    def exchange(self, initial: bytes | None, session: Session) -> Exchange:
        if self._isAsked:
            yield Auth(method="X-TWICE", username="ann")
        raise self._refusal
        yield b""


@pytest.mark.parametrize(
    "refusal, isAsked, waits",
    [
        (SMTPError("Wrong", 535), False, [1]),
        (SMTPError("Wrong", 535), True, [1]),
        (SMTPError("Wrong"), True, [1]),
        (SMTPError("Malformed"), False, []),
        (SMTPError("Malformed", 501), True, []),
        (SMTPError("Later", 454), True, []),
    ],
)
def test_refusal_by_the_mechanism_costs_time_unless_it_is_one_of_syntax(
    refusal: SMTPError, isAsked: bool, waits: list[float]
) -> None:
    talk = begun(ANN, authMethods=[Strict(refusal, isAsked)])
    assert talk.say("AUTH X-TWICE")[4:].endswith(refusal.message)
    assert talk.waits() == waits
    assert talk.session.user is None


# --- STARTTLS (RFC 3207) ---


@pytest.mark.parametrize(
    "lines", [[], ["EHLO x"], ["EHLO x", MAIL], ["EHLO x", MAIL, RCPT], ["EHLO x", MAIL, RCPT, "BDAT 1"]]
)
def test_session_begins_anew_with_TLS(lines: list[str]) -> None:
    talk = Talk(ANN)
    talk.session.state["mine"] = 1
    if lines:
        talk.sayAll(*lines)
    talk.session.user = "ann"
    session, identity = talk.session, talk.session.id
    begunMail, number = session.envelope.mailFrom is not None, session.transaction
    talk.asked.clear()
    assert talk.say("STARTTLS") == "220 2.0.0 Ready to start TLS"
    # onReset sees the envelope that is dropped; no other hook is asked before the handshake.
    kinds = [question.hook if isinstance(question, Ask) else type(question).__name__ for question in talk.asked]
    assert [kind for kind in kinds if kind != "AbandonMessage"] == ["onReset"] * begunMail + ["StartTLS", "onSecure"]
    assert talk.session is session
    assert (session.id, session.state) == (identity, {"mine": 1})
    assert (session.openingCommand, session.hostNameAppearsAs, session.user) == (None, "", None)
    assert (session.envelope.mailFrom, session.envelope.rcptTo) == (None, [])
    assert session.transaction == number + begunMail
    assert talk.state is State.GREETED
    assert talk.say(MAIL) == "503 5.5.1 Say hello first"
    assert talk.say("STARTTLS") == "503 5.5.1 TLS is already in use"


def test_nothing_is_sent_in_the_clear_after_the_reply_to_STARTTLS() -> None:
    talk = Talk()
    step = talk.dialogue.receiveLine(b"starttls")
    assert isinstance(step, StartTLS)
    assert step.reply is not None
    assert step.reply.code == 220
    with pytest.raises(AssertionError, match="stands still"):
        talk.dialogue.receiveLine(b"NOOP")


def test_hook_gets_the_transport() -> None:
    transport = object()
    talk = Talk({"starttls": transport})
    talk.say("STARTTLS")
    assert talk.asked[-1] == Ask("onSecure", (transport, talk.session))


@pytest.mark.parametrize(
    "error, reply",
    [
        (SMTPError("No certificate"), "554 5.7.5 No certificate"),
        (SMTPError("No", 550), "550 5.7.5 No"),
        (SMTPError("Later", 421), "421 4.3.2 Later"),
        (SMTPError("Later", 450), "450 4.7.1 Later"),
    ],
    ids=str,
)
def test_refused_TLS_ends_the_connection(error: SMTPError, reply: str) -> None:
    talk = Talk({"onSecure": error})
    assert talk.say("STARTTLS").splitlines()[-1] == reply
    assert talk.state is State.CLOSED
    talk = Talk({"onSecure": error}, secure=True)
    assert talk.greeting == reply
    assert talk.state is State.CLOSED
    assert talk.hooks() == ["onSecure"]


@pytest.mark.parametrize("answer", [None, False, "text"])
def test_result_of_on_secure_is_ignored(answer: Any) -> None:
    assert Talk({"onSecure": answer}).say("STARTTLS") == "220 2.0.0 Ready to start TLS"


def test_with_implicit_TLS_the_greeting_comes_behind_the_handshake() -> None:
    talk = Talk(secure=True)
    assert [type(question).__name__ for question in talk.asked] == ["StartTLS", "Ask", "Ask"]
    assert talk.asked[0] == StartTLS(None)
    assert talk.hooks() == ["onSecure", "onConnect"]
    assert talk.greeting == "220 mx.example.org ESMTP"
    assert talk.say("STARTTLS") == "503 5.5.1 TLS is already in use"


def test_STARTTLS_is_disabled_as_any_command() -> None:
    for talk in (Talk(disabledCommands=["starttls"]), Talk(session={"disabledCommands": ["STARTTLS"]})):
        assert "STARTTLS" not in talk.say("EHLO x")
        assert talk.say("STARTTLS") == "502 5.5.1 Command not implemented"


def test_STARTTLS_takes_no_argument() -> None:
    assert Talk().say("STARTTLS now") == "501 5.5.4 No argument allowed"


def test_REQUIRETLS_is_taken_over_TLS_only() -> None:
    talk = begun(secured=False, hideREQUIRETLS=False)
    assert "REQUIRETLS" not in talk.say("EHLO x")
    assert talk.say(f"{MAIL} REQUIRETLS") == "555 5.5.4 Parameter REQUIRETLS not recognized or not implemented"
    talk.say("STARTTLS")
    assert "250-REQUIRETLS" in talk.say("EHLO x").splitlines()
    assert talk.say(f"{MAIL} REQUIRETLS=x") == "501 5.5.4 Parameter REQUIRETLS takes no value"
    assert talk.say(f"{MAIL} REQUIRETLS") == "250 2.1.0 Sender OK"
    assert talk.session.envelope.requireTLS


# --- On a connection ---


def client(**given: Any) -> Client:
    one = connect(**{"allowInsecureAuth": True, "onAuth": decide, **given})
    one.say(HELLO)
    return one


def decide(auth: Auth, session: Session) -> Any:
    return auth.username if auth.validatePassword(PASSWORD) else None


def test_hook_of_the_factory_decides() -> None:
    one = client()
    assert one.say(AUTH_PLAIN, "NOOP") == [SUCCESS, "250 2.0.0 OK"]
    assert one.session.user == "ann"


def test_hook_set_later_makes_AUTH_available() -> None:
    one = client(onAuth=None)
    assert "AUTH" not in " ".join(one.say(HELLO))
    assert one.say(AUTH_PLAIN) == ["502 5.5.1 Command not implemented"]
    one.factory.onAuth = decide
    assert "250-AUTH PLAIN LOGIN" in one.say(HELLO)
    assert one.say(AUTH_PLAIN) == [SUCCESS]


@pytest.mark.parametrize("cut", [1, 3, 7, 1000])
def test_pipelined_exchange_is_answered_in_order(cut: int) -> None:
    # Not allowed (RFC 4954 section 4), but any cut of the same octets must give the same replies.
    one = client()
    lines = ["NOOP", "AUTH LOGIN", encoded("ann"), encoded(PASSWORD), "NOOP", "AUTH LOGIN"]
    octets = "".join(line + "\r\n" for line in lines).encode()
    for start in range(0, len(octets), cut):
        one.feed(octets[start : start + cut])
    assert one.codes() == [250, 334, 334, 235, 250, 503]


@pytest.mark.parametrize("decision", [AuthResponse(user="ann"), "ann"])
def test_hook_may_decide_later(decision: Any) -> None:
    pending = Pending()
    one = client(onAuth=pending)
    assert one.say(AUTH_PLAIN, "NOOP") == []
    pending.decide(decision)
    assert one.replies() == [SUCCESS, "250 2.0.0 OK"]


def test_hook_may_be_async() -> None:
    async def onAuth(auth: Auth, session: Session) -> Any:
        return AuthResponse(user=auth.username, message="Hello")

    assert client(onAuth=onAuth).say(AUTH_PLAIN) == ["235 2.7.0 Hello"]


def test_hook_that_is_undecided_is_cancelled_with_the_connection() -> None:
    pending = Pending()
    one = client(onAuth=pending)
    one.say(AUTH_PLAIN)
    one.lose()
    assert pending.cancelled == 1
    assert not one.factory.connections


@pytest.mark.parametrize("isLater", [False, True])
def test_hook_that_crashes_is_not_the_clients_fault(logged: Logged, isLater: bool) -> None:
    told: list[Any] = []

    def crash(auth: Auth, session: Session) -> Any:
        raise ZeroDivisionError("boom")

    pending = Pending()
    one = client(onAuth=pending if isLater else crash, onError=lambda failure, session: told.append(failure.value))
    said = one.say(AUTH_PLAIN)
    if isLater:
        pending.decide(ZeroDivisionError("boom"))
        said = one.replies()
    assert said == ["451 4.3.0 Temporary server error, please try again later"]
    assert [type(error) for error in told] == [ZeroDivisionError]
    assert len(logged.takeFailures(ZeroDivisionError)) == 1
    one.factory.onAuth = decide
    assert one.say(AUTH_PLAIN) == [SUCCESS]


def test_response_that_cannot_be_is_a_fault_of_the_hook(logged: Logged) -> None:
    one = client(onAuth=lambda auth, session: AuthResponse(responseCode=235))
    assert one.say(AUTH_PLAIN) == ["451 4.3.0 Temporary server error, please try again later"]
    assert len(logged.takeFailures(ValueError)) == 1
    assert one.say("NOOP") == ["250 2.0.0 OK"]


def test_SCRAM_without_stored_credentials_is_a_fault_of_the_hook(logged: Logged) -> None:
    one = client(onAuth=lambda auth, session: True, authMethods=["SCRAM-SHA-256"])
    first = ScramClient(["SCRAM-SHA-256"], "ann", SCRAM_PASSWORD).get_client_first()
    assert one.say(f"AUTH SCRAM-SHA-256 {encoded(first)}")[0].startswith("451 4.3.0 ")
    assert len(logged.takeFailures(TypeError)) == 1
    assert one.session.user is None


# An attempt with a control character in a name or a secret, for each mechanism: its response, or both of them.
WITH_CONTROL = [
    ("PLAIN", [f"\0ann\b\0{PASSWORD}"]),
    ("PLAIN", [f"\0ann\0{PASSWORD}\b"]),
    ("PLAIN", [f"ann\b\0\0{PASSWORD}"]),
    ("LOGIN", ["ann\b", PASSWORD]),
    ("LOGIN", ["ann", f"{PASSWORD}\b"]),
    ("CRAM-MD5", [f"ann\b {'0' * 32}"]),
    ("XOAUTH2", [f"user=ann\b\1auth=Bearer {TOKEN}\1\1"]),
    ("XOAUTH2", [f"user=ann\1auth=Bearer {TOKEN}\b\1\1"]),
    ("OAUTHBEARER", [f"n,a=ann\b,\1auth=Bearer {TOKEN}\1\1"]),
    ("OAUTHBEARER", [f"n,a=ann,\1auth=Bearer {TOKEN}\b\1\1"]),
    ("SCRAM-SHA-256", ["n,,n=ann\b,r=x"]),
    ("SCRAM-SHA-256-PLUS", ["p=tls-exporter,a=joe\b,n=ann,r=x"]),
    ("EXTERNAL", ["joe\b"]),
    ("X-TWICE", ["ann\b", "ann\b"]),
]


@pytest.mark.parametrize("isInitial", [True, False], ids=["initial", "challenged"])
@pytest.mark.parametrize("method, responses", WITH_CONTROL, ids=repr)
def test_control_character_reaches_neither_the_hook_nor_the_log(
    method: str, responses: list[str], isInitial: bool
) -> None:
    asked: list[Auth] = []
    one = connect(
        allowInsecureAuth=True, authMethods=[*MECHANISM_NAMES, Twice()], onAuth=lambda auth, session: asked.append(auth)
    )
    one.session.peerIdentity, one.session.channelBinding, one.session.secure = "ann", b"x" * 32, True
    one.say(HELLO)
    said = [encoded(response) for response in responses]
    with capturedLogs() as events:
        if isInitial and method != "CRAM-MD5":  # where the server speaks first
            last = one.last(f"AUTH {method} {said[0]}", *said[1:])
        else:
            last = one.last(f"AUTH {method}", *said)
        assert last == MALFORMED
        assert asked == []
        assert one.last("NOOP") == "250 2.0.0 OK"
    assert not any("\b" in eventAsText(event) for event in events)
    one.factory.onAuth = lambda auth, session: "ann"
    assert one.last(AUTH_PLAIN) == SUCCESS


def test_nothing_is_processed_while_the_client_waits() -> None:
    asked: list[str] = []
    one = client(onVrfy=lambda text, session: asked.append(text))
    # The replies before it are not kept back.
    assert one.say("NOOP", GUESS, "VRFY x", "NOOP") == ["250 2.0.0 OK"]
    one.clock.advance(0.75)
    assert (one.replies(), asked) == ([], [])
    one.clock.advance(0.25)
    assert one.codes() == [535, 252, 250]
    assert asked == ["x"]


def test_wait_grows_from_failure_to_failure() -> None:
    one = client()
    for seconds in (1, 2, 4, 8, 16, 16):
        assert one.say(GUESS) == []
        one.clock.advance(seconds - 0.5)
        assert one.replies() == []
        one.clock.advance(0.5)
        assert one.replies() == [FAILURE]


def test_client_that_waits_is_not_timed_out() -> None:
    one = client(socketTimeout=3)
    one.clock.pump([1] * 2)
    for seconds in (1, 2, 4, 8, 16):
        assert one.say(GUESS) == []
        one.clock.pump([1] * seconds)
        assert one.replies() == [FAILURE]
    assert not one.isClosed
    one.clock.pump([1] * 5)
    assert one.replies() == ["421 4.4.2 Timeout, closing connection"]


def test_other_connections_do_not_wait() -> None:
    factory = makeFactory(allowInsecureAuth=True, onAuth=decide)
    one, other = Client(factory), Client(factory)
    one.say(HELLO)
    other.say(HELLO)
    assert one.say(GUESS) == []
    assert other.say(*ENVELOPE[1:], "RSET", AUTH_PLAIN)[-1] == SUCCESS
    # And the failures of one client delay no other.
    third = Client(factory)
    third.say(HELLO, GUESS)
    factory.clock.advance(1)  # type: ignore[union-attr]
    assert third.replies() == one.replies() == [FAILURE]


def test_wait_ends_with_the_connection() -> None:
    closed: list[Any] = []
    one = client(onClose=closed.append)
    one.say(GUESS)
    one.lose()
    assert closed == [one.session]
    assert not one.factory.connections
    assert one.clock.getDelayedCalls() == []


def test_client_that_waits_is_stopped_before_it_fills_the_memory() -> None:
    one = client(maxJunkCommands=0)
    one.say(GUESS)
    sent = 0
    while one.transport.producerState == "producing":
        one.feed(b"NOOP\r\n" * 500)
        sent += 500
        assert sent < 100000
    one.clock.advance(1)
    assert one.codes() == [535] + [250] * sent
    assert one.transport.producerState == "producing"


def test_connection_that_fails_too_often_is_closed() -> None:
    one = client(maxErrors=2)
    for _ in range(2):
        one.say(GUESS)
        one.clock.advance(16)
        assert one.replies() == [FAILURE]
    one.say(GUESS)
    one.clock.advance(16)
    assert one.replies() == ["421 4.7.0 Too many errors"]
    assert one.isClosed


def test_refused_recipients_do_not_close_the_connection() -> None:
    def onRcptTo(address: Any, session: Session) -> None:
        raise SMTPError("No such user")

    one = client(maxErrors=2, onRcptTo=onRcptTo)
    one.say(MAIL)
    assert [line[:3] for line in one.say(*[RCPT] * 10)] == ["550"] * 10
    assert not one.isClosed


def test_connection_without_TLS_says_so() -> None:
    one = connect()
    assert one.say(HELLO, "STARTTLS")[-1] == "454 4.7.0 TLS is not available on this connection"
    assert one.isClosed


def test_closing_server_lets_the_wait_end() -> None:
    one = client()
    one.say(GUESS)
    gone: Deferred[None] = one.factory.close()
    one.clock.advance(1)
    assert one.replies() == [FAILURE, "421 4.3.2 Server is shutting down"]
    one.finish()
    assert gone.called


# --- Anything at all ---


@given(
    st.sampled_from(MECHANISM_NAMES),
    st.lists(
        st.one_of(st.binary(max_size=40).map(b64encode), st.binary(max_size=40), st.sampled_from(LineFault)), max_size=6
    ),
)
def test_any_responses_are_answered(method: str, lines: list[Any]) -> None:
    talk = begun(session={"peerIdentity": "ann", "channelBinding": b"x" * 32}, authMethods=MECHANISM_NAMES)
    said = talk.say(f"AUTH {method}")
    for line in lines:
        assert said[:4] in ("334 ", "501 ", "500 ", "535 ", "503 ", "502 ", "250 ", "214 ", "421 ", "252 ", "221 ")
        if said.startswith("334 "):
            b64decode(said[4:], validate=True)
        if talk.state is State.CLOSED:
            break
        said = talk.say(line)
    assert talk.session.user is None
