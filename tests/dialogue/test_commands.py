"""The commands outside a transaction: greeting, hello, VRFY, HELP, QUIT, and which commands a client may use."""

from __future__ import annotations

from typing import Any

import pytest

from smtphooks.dialogue.commands import COMMANDS
from smtphooks.dialogue.steps import Ask, State
from smtphooks.replies import SMTPError
from tests.talk import Talk

HELLOS = ["HELO", "EHLO", "LHLO"]


def hooksOf(talk: Talk) -> list[Any]:
    return talk.hooks()[1:]


# --- The greeting ---


@pytest.mark.parametrize(
    "options, greeting",
    [
        ({}, "220 mx.example.org ESMTP"),
        ({"lmtp": True}, "220 mx.example.org LMTP"),
        ({"banner": "ready when you are"}, "220 mx.example.org ESMTP ready when you are"),
    ],
)
def test_greeting_names_the_server_and_the_protocol(options: dict[str, Any], greeting: str) -> None:
    # RFC 5321 section 4.3.1; no enhanced code (RFC 2034 section 4).
    assert Talk(**options).greeting == greeting


def test_result_of_on_connect_is_ignored() -> None:
    assert Talk({"onConnect": "Hi there"}).greeting == "220 mx.example.org ESMTP"


@pytest.mark.parametrize(
    "code, said", [(None, "554 5.7.1"), (421, "421 4.3.2"), (450, "450 4.7.1"), (550, "550 5.7.1")]
)
def test_refused_connection_is_closed(code: int | None, said: str) -> None:
    talk = Talk({"onConnect": SMTPError("No", code)})
    assert talk.greeting == f"{said} No"
    assert talk.state is State.CLOSED


# --- Hello ---


@pytest.mark.parametrize("verb", HELLOS)
def test_hello_wants_a_host_name(verb: str) -> None:
    talk = Talk(lmtp=verb == "LHLO")
    assert talk.say(verb) == "501 5.5.4 Syntax: the command, then your host name or address literal"
    assert talk.say(f"{verb} a b").startswith("501 5.5.4 ")
    assert talk.say(f"{verb} {'x' * 256}").startswith("501 5.5.4 ")
    assert talk.state is State.GREETED
    assert talk.session.openingCommand is None
    assert hooksOf(talk) == []


@pytest.mark.parametrize("verb", HELLOS)
def test_hello_tells_the_session(verb: str) -> None:
    talk = Talk(lmtp=verb == "LHLO")
    seen = []
    talk.answers["onHelo"] = lambda question: seen.append(
        (question.arguments[0], talk.session.openingCommand, talk.session.hostNameAppearsAs)
    )
    talk.say(f"{verb.lower()}  [IPv6:2001:db8::1] ")
    # The hook may ask the session already.
    assert seen == [("[IPv6:2001:db8::1]", verb, "[IPv6:2001:db8::1]")]
    assert talk.state is State.IDENTIFIED


@pytest.mark.parametrize("answer", [None, "", True, 5])
def test_hello_without_a_text_gets_that_of_the_options(answer: object) -> None:
    talk = Talk({"onHelo": answer}, heloResponse="Hello from %s")
    assert talk.say("HELO client.example") == "250 Hello from mx.example.org"


def test_hello_names_the_client_by_its_host_name_or_as_it_names_itself() -> None:
    talk = Talk()
    assert talk.say("HELO client.example") == "250 mx.example.org Nice to meet you, [192.0.2.1]"
    talk.session.clientHostname = ""
    assert talk.say("HELO client.example") == "250 mx.example.org Nice to meet you, client.example"


def test_hello_names_the_client_as_it_names_itself_whatever_a_proxy_says() -> None:
    """The hook gets the name that XCLIENT gives; the reply is for who speaks here."""
    talk = Talk(session={"clientHostname": "", "xClient": {"HELO": "other.example"}})
    for line in ("HELO client.example", "HELO  client.example "):
        assert talk.say(line) == "250 mx.example.org Nice to meet you, client.example"
        (question,) = [asked for asked in talk.asked if isinstance(asked, Ask) and asked.hook == "onHelo"]
        assert question.arguments[0] == talk.session.hostNameAppearsAs == "other.example"
        talk.asked.clear()


def test_client_that_leaves_while_its_hello_is_decided_has_said_it() -> None:
    """The log and C{onClose} tell what the client was; only a refusal takes it back."""
    talk = Talk()
    assert isinstance(talk.dialogue.receiveLine(b"EHLO client.example"), Ask)
    talk.dialogue.close()
    assert (talk.session.openingCommand, talk.session.hostNameAppearsAs) == ("EHLO", "client.example")


@pytest.mark.parametrize("code", [None, 421, 450, 451, 550])
def test_refused_hello_leaves_the_session_as_it_was(code: int | None) -> None:
    talk = Talk()
    talk.sayAll("HELO first.example", "MAIL FROM:<a@b>", "RCPT TO:<c@d>")
    envelope = talk.session.envelope
    talk.answers["onHelo"] = SMTPError("No", code)
    assert talk.say("EHLO second.example").startswith(str(code or 550))
    assert (talk.session.openingCommand, talk.session.hostNameAppearsAs) == ("HELO", "first.example")
    assert talk.session.envelope is envelope
    assert "onReset" not in talk.hooks()
    assert talk.state is (State.CLOSED if code == 421 else State.RECIPIENTS)


def test_hello_ends_a_transaction_only_if_there_is_one() -> None:
    talk = Talk()
    talk.sayAll("EHLO x", "EHLO x")
    assert hooksOf(talk) == ["onHelo", "onHelo"]
    talk.sayAll("MAIL FROM:<>", "EHLO x")
    assert hooksOf(talk)[2:] == ["onMailFrom", "onHelo", "onReset"]
    assert talk.session.transaction == 2


# --- VRFY, HELP, NOOP, QUIT ---


@pytest.mark.parametrize(
    "answer, reply",
    [
        (None, "252 2.1.5 Try to send something, no promises though"),
        ("", "252 2.1.5 Try to send something, no promises though"),
        (True, "252 2.1.5 Try to send something, no promises though"),
        ("Joe <joe@b.example>", "250 2.1.5 Joe <joe@b.example>"),
        (SMTPError("Who?"), "550 5.1.1 Who?"),
        (SMTPError("Ambiguous", 553), "553 5.1.4 Ambiguous"),
    ],
    ids=repr,
)
def test_VRFY_is_answered_by_its_hook(answer: object, reply: str) -> None:
    talk = Talk({"onVrfy": answer})
    assert talk.say("VRFY Joe Doe") == reply
    assert talk.asked[-1].arguments == ("Joe Doe", talk.session)  # type: ignore[union-attr]


def test_VRFY_is_answered_in_the_clear_where_MAIL_needs_TLS() -> None:
    talk = Talk({"onVrfy": "Joe <joe@b.example>"}, needsUpgrade=True)
    assert talk.sayAll("EHLO x", "VRFY joe") == "250 2.1.5 Joe <joe@b.example>"
    assert talk.say("MAIL FROM:<a@b>") == "530 5.7.0 Must issue a STARTTLS command first"


def test_VRFY_wants_an_argument() -> None:
    talk = Talk()
    assert talk.say("VRFY") == "501 5.5.4 Syntax: VRFY text"
    assert hooksOf(talk) == []


@pytest.mark.parametrize(
    "options, verbs",
    [
        ({}, "HELO EHLO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP STARTTLS QUIT"),
        ({"lmtp": True}, "LHLO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP STARTTLS QUIT"),
        ({"hideCHUNKING": True}, "HELO EHLO MAIL RCPT DATA RSET NOOP VRFY HELP STARTTLS QUIT"),
        ({"disabledCommands": ["StartTLS"]}, "HELO EHLO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT"),
        ({"hideSTARTTLS": True}, "HELO EHLO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT"),
        ({"secured": True}, "HELO EHLO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP AUTH QUIT"),
        ({"secured": True, "authMethods": []}, "HELO EHLO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT"),
        ({"allowInsecureAuth": True}, "HELO EHLO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP STARTTLS AUTH QUIT"),
        ({"disabledCommands": ["VRFY", "bdat"]}, "HELO EHLO MAIL RCPT DATA RSET NOOP HELP STARTTLS QUIT"),
    ],
    ids=repr,
)
def test_HELP_names_the_commands_that_this_client_may_use(options: dict[str, Any], verbs: str) -> None:
    assert Talk(**options).say("HELP me") == f"214 2.0.0 Commands: {verbs}"


@pytest.mark.parametrize("verb", [verb for verb, command in COMMANDS.items() if command.bare])
def test_argument_is_refused_where_the_command_takes_none(verb: str) -> None:
    talk = Talk()
    talk.sayAll("EHLO x", "MAIL FROM:<a@b>", "RCPT TO:<c@d>")
    assert talk.say(f"{verb} now") == "501 5.5.4 No argument allowed"
    assert talk.state is State.RECIPIENTS


def test_QUIT_within_a_transaction_closes_at_once() -> None:
    talk = Talk()
    assert talk.sayAll("EHLO x", "MAIL FROM:<a@b>", "QUIT") == "221 2.0.0 Bye"
    assert talk.state is State.CLOSED


# --- Disabled commands ---


@pytest.mark.parametrize("verb", [verb for verb in COMMANDS if verb not in ("LHLO", "BDAT")])
def test_disabled_command_is_not_implemented(verb: str) -> None:
    talk = Talk(disabledCommands=[verb.lower()])
    assert talk.say(f"{verb} x") == "502 5.5.1 Command not implemented"
    if verb != "HELP":
        assert verb not in talk.say("HELP").split()


@pytest.mark.parametrize("verb", ["VRFY", "HELP", "BDAT"])
def test_session_may_have_a_list_of_its_own(verb: str) -> None:
    talk = Talk()
    talk.session.disabledCommands = [verb.lower()]
    assert talk.sayAll("EHLO x", f"{verb} 0") == "502 5.5.1 Command not implemented"


@pytest.mark.parametrize("line, code", [("VRFY x", "252"), ("HELP", "214"), ("BDAT 1 LAST", "250")])
def test_list_of_the_session_counts_instead_of_the_servers(line: str, code: str) -> None:
    talk = Talk(disabledCommands=["VRFY", "HELP", "BDAT"])
    talk.session.disabledCommands = []
    assert talk.sayAll("EHLO x", "MAIL FROM:<a@b>", "RCPT TO:<c@d>", line).startswith(code)


@pytest.mark.parametrize("name", ["BDAT", "bdat"])
def test_chunking_is_not_shown_to_a_session_that_may_not_use_it(name: str) -> None:
    talk = Talk({"onHelo": lambda question: setattr(question.arguments[1], "disabledCommands", [name])})
    reply = talk.say("EHLO x")
    assert "CHUNKING" not in reply
    assert "BINARYMIME" not in reply
    assert talk.say("BDAT 5") == "502 5.5.1 Command not implemented"
    assert talk.say("BDAT 5 LAST") == "502 5.5.1 Command not implemented"


def test_on_helo_may_disable_commands_for_the_session() -> None:
    talk = Talk({"onHelo": lambda question: setattr(question.arguments[1], "disabledCommands", ["vrfy"])})
    assert talk.say("VRFY x").startswith("252")
    assert talk.sayAll("EHLO x", "VRFY x") == "502 5.5.1 Command not implemented"
