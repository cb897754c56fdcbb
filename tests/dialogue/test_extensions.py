"""Extensions, built-in and a user's own: what EHLO shows, which parameters are taken, which commands are added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.dialogue.extensions import ClientExtensions, Extensions
from smtphooks.dialogue.steps import Ask, State
from smtphooks.extension import Extension
from smtphooks.replies import Reply, SMTPError
from smtphooks.session import Session
from tests.talk import Talk

HELLO = "EHLO client.example"
MAIL = "MAIL FROM:<ann@a.example>"
RCPT = "RCPT TO:<joe@b.example>"


def shown(**options: Any) -> list[str]:
    """The lines of the EHLO reply behind the first."""
    return [line[4:] for line in Talk(**options).say(HELLO).splitlines()[1:]]


def mail(parameters: str, **options: Any) -> Talk:
    """A talk in which this MAIL command was accepted."""
    talk = Talk(**options)
    talk.say(HELLO)
    assert talk.say(f"{MAIL} {parameters}") == "250 2.1.0 Sender OK"
    return talk


def mailRefused(parameters: str, **options: Any) -> str:
    talk = Talk(**options)
    talk.say(HELLO)
    reply = talk.say(f"{MAIL} {parameters}")
    assert talk.state is State.IDENTIFIED
    assert "onMailFrom" not in talk.hooks()
    return reply


# --- What EHLO shows ---

ALL = ["PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "STARTTLS", "ENHANCEDSTATUSCODES", "CHUNKING", "BINARYMIME"]

SECURE = [line for line in ALL if line != "STARTTLS"]


@pytest.mark.parametrize(
    "options, lines",
    [
        ({}, ALL),
        ({"hidePIPELINING": True}, [line for line in ALL if line != "PIPELINING"]),
        ({"hideSize": True}, [line for line in ALL if line != "SIZE"]),
        ({"hideSMTPUTF8": True}, [line for line in ALL if line != "SMTPUTF8"]),
        ({"hideENHANCEDSTATUSCODES": True}, [line for line in ALL if line != "ENHANCEDSTATUSCODES"]),
        # BINARYMIME is nothing without both of the others (RFC 3030 section 3).
        ({"hide8BITMIME": True}, [line for line in ALL if line not in ("8BITMIME", "BINARYMIME")]),
        ({"hideCHUNKING": True}, ALL[:6]),
        ({"disabledCommands": ["bdat"]}, ALL[:6]),
        ({"hideDSN": False}, [*ALL[:6], "DSN", *ALL[6:]]),
        ({"hideSTARTTLS": True}, SECURE),
        ({"disabledCommands": ["starttls"]}, SECURE),
        ({"secured": True, "hasHook": False}, SECURE),
        ({"secured": True, "authMethods": []}, SECURE),
        ({"secured": True, "disabledCommands": ["auth"]}, SECURE),
        ({"secured": True}, [*SECURE[:4], "AUTH PLAIN LOGIN", *SECURE[4:]]),
        ({"secured": True, "hideREQUIRETLS": False, "authMethods": []}, [*SECURE[:4], "REQUIRETLS", *SECURE[4:]]),
        ({"hideREQUIRETLS": False}, ALL),
        ({"allowInsecureAuth": True}, [*ALL[:5], "AUTH PLAIN LOGIN", *ALL[5:]]),
        ({"allowInsecureAuth": True, "needsUpgrade": True}, ALL),
        ({"size": 26214400}, [line.replace("SIZE", "SIZE 26214400") for line in ALL]),
        ({"hideLIMITS": False}, [*ALL, "LIMITS RCPTMAX=1000"]),
        ({"hideLIMITS": False, "maxRecipients": 0}, ALL),
        ({"hideLIMITS": False, "maxRecipients": 5}, [*ALL, "LIMITS RCPTMAX=5"]),
        ({"hideLIMITS": False, "maxTransactions": 3, "maxRecipients": 0}, [*ALL, "LIMITS MAILMAX=3"]),
        ({"hideLIMITS": False, "maxTransactions": 3, "maxRecipients": 5}, [*ALL, "LIMITS MAILMAX=3 RCPTMAX=5"]),
        ({"maxRecipients": 5}, ALL),
    ],
    ids=repr,
)
def test_EHLO_shows_what_the_options_put_in_force(options: dict[str, Any], lines: list[str]) -> None:
    assert shown(**options) == lines


def test_HELO_shows_no_extension() -> None:
    assert Talk().say("HELO client.example") == "250 mx.example.org Nice to meet you, [192.0.2.1]"


def test_LHLO_shows_them_too() -> None:
    assert [line[4:] for line in Talk(lmtp=True).say("LHLO client.example").splitlines()[1:]] == ALL


# --- Parameters of MAIL ---


@pytest.mark.parametrize(
    "parameters, options, args",
    [
        ("SIZE=0", {}, {"SIZE": "0"}),
        ("size=99999999999999999999", {}, {"SIZE": "99999999999999999999"}),
        ("SIZE=1000", {"size": 1000}, {"SIZE": "1000"}),
        ("SIZE=1001", {"size": 1000, "rejectOversized": False}, {"SIZE": "1001"}),
        ("BODY=7BIT", {}, {"BODY": "7BIT"}),
        ("body=8bitmime", {}, {"BODY": "8BITMIME"}),
        ("BODY=BinaryMIME", {}, {"BODY": "BINARYMIME"}),
        ("SMTPUTF8", {}, {"SMTPUTF8": True}),
        ("RET=full", {"hideDSN": False}, {"RET": "FULL"}),
        ("ENVID=a+20b", {"hideDSN": False}, {"ENVID": "a b"}),
        (f"ENVID={'x' * 100}", {"hideDSN": False}, {"ENVID": "x" * 100}),
        ("SIZE=5 BODY=8BITMIME SMTPUTF8", {}, {"SIZE": "5", "BODY": "8BITMIME", "SMTPUTF8": True}),
    ],
    ids=repr,
)
def test_parameter_of_MAIL_is_checked_and_kept(parameters: str, options: dict[str, Any], args: dict[str, Any]) -> None:
    address = mail(parameters, **options).session.envelope.mailFrom
    assert address is not None
    assert address.args == args


@pytest.mark.parametrize(
    "parameters, options, reply",
    [
        ("SIZE=1001", {"size": 1000}, "552 5.3.4 Message exceeds the fixed maximum size"),
        ("SIZE", {}, "501 5.5.4 Invalid value of parameter SIZE"),
        ("SIZE=x", {}, "501 5.5.4 Invalid value of parameter SIZE"),
        ("SIZE=-1", {}, "501 5.5.4 Invalid value of parameter SIZE"),
        (f"SIZE={'1' * 21}", {}, "501 5.5.4 Invalid value of parameter SIZE"),
        ("SIZE=", {}, "501 5.5.4 Malformed value of parameter SIZE"),
        ("SIZE=1 SIZE=1", {}, "501 5.5.4 Parameter SIZE given twice"),
        ("SIZE=\u0661 SMTPUTF8", {}, "501 5.5.4 Invalid value of parameter SIZE"),
        ("BODY", {}, "501 5.5.4 Invalid value of parameter BODY"),
        ("BODY=9BIT", {}, "501 5.5.4 Invalid value of parameter BODY"),
        ("BODY=BINARYMIME", {"hideCHUNKING": True}, "501 5.5.4 Invalid value of parameter BODY"),
        ("BODY=BINARYMIME", {"disabledCommands": ["BDAT"]}, "501 5.5.4 Invalid value of parameter BODY"),
        ("SMTPUTF8=1", {}, "501 5.5.4 Parameter SMTPUTF8 takes no value"),
        ("RET=ALL", {"hideDSN": False}, "501 5.5.4 Invalid value of parameter RET"),
        ("RET", {"hideDSN": False}, "501 5.5.4 Invalid value of parameter RET"),
        ("ENVID", {"hideDSN": False}, "501 5.5.4 Invalid value of parameter ENVID"),
        (f"ENVID={'x' * 101}", {"hideDSN": False}, "501 5.5.4 Invalid value of parameter ENVID"),
        ("ENVID=a+0D+0Ab", {"hideDSN": False}, "501 5.5.4 Only printable ASCII may be encoded as xtext here"),
        ("ENVID=a+b", {"hideDSN": False}, "501 5.5.4 Malformed xtext (RFC 3461 section 4)"),
        # Of RCPT, not of MAIL.
        ("NOTIFY=NEVER", {"hideDSN": False}, "555 5.5.4 Parameter NOTIFY not recognized or not implemented"),
        ("X-FOO=1", {}, "555 5.5.4 Parameter X-FOO not recognized or not implemented"),
        ("x-foo", {}, "555 5.5.4 Parameter X-FOO not recognized or not implemented"),
        # Hidden is not there (RFC 5321 section 4.1.1.11).
        ("SIZE=1", {"hideSize": True}, "555 5.5.4 Parameter SIZE not recognized or not implemented"),
        ("BODY=7BIT", {"hide8BITMIME": True}, "555 5.5.4 Parameter BODY not recognized or not implemented"),
        ("SMTPUTF8", {"hideSMTPUTF8": True}, "555 5.5.4 Parameter SMTPUTF8 not recognized or not implemented"),
        ("RET=FULL", {}, "555 5.5.4 Parameter RET not recognized or not implemented"),
        ("ENVID=x", {}, "555 5.5.4 Parameter ENVID not recognized or not implemented"),
        ("=x", {}, "501 5.5.4 Malformed parameter"),
    ],
    ids=repr,
)
def test_parameter_of_MAIL_is_refused(parameters: str, options: dict[str, Any], reply: str) -> None:
    assert mailRefused(parameters, **options) == reply


def test_value_beyond_ASCII_needs_SMTP_utf8() -> None:
    extension = Extension("X", mailParameters={"X": lambda value: value}, rcptParameters={"X": lambda value: value})
    options: dict[str, Any] = {"extensions": [extension]}
    refusal = "501 5.5.4 Parameters outside of ASCII need SMTPUTF8"
    assert mailRefused("X=\u00fc", **options) == refusal
    talk = mail("X=u", **options)
    assert talk.say(f"{RCPT} X=\u00fc") == refusal
    assert talk.state is State.MAIL
    talk = mail("X=\u00fc SMTPUTF8", **options)
    assert talk.say(f"{RCPT} X=\u00fc") == "250 2.1.5 Recipient OK"
    assert talk.session.envelope.rcptTo[0].args == {"X": "\u00fc"}


# --- Parameters of RCPT ---


@pytest.mark.parametrize(
    "parameters, args",
    [
        ("NOTIFY=NEVER", {"NOTIFY": "NEVER"}),
        ("notify=never", {"NOTIFY": "NEVER"}),
        ("NOTIFY=DELAY,SUCCESS,FAILURE", {"NOTIFY": "DELAY,SUCCESS,FAILURE"}),
        ("NOTIFY=DELAY,DELAY", {"NOTIFY": "DELAY"}),
        ("ORCPT=RFC822;joe+2Bx@b.example", {"ORCPT": "rfc822;joe+x@b.example"}),
        (f"ORCPT=rfc822;{'x' * 493}", {"ORCPT": f"rfc822;{'x' * 493}"}),
    ],
)
def test_parameter_of_RCPT_is_checked_and_kept(parameters: str, args: dict[str, Any]) -> None:
    talk = mail("", hideDSN=False)
    assert talk.say(f"{RCPT} {parameters}") == "250 2.1.5 Recipient OK"
    assert talk.session.envelope.rcptTo[0].args == args


@pytest.mark.parametrize(
    "parameters, options, reply",
    [
        ("NOTIFY", {}, "501 5.5.4 Invalid value of parameter NOTIFY"),
        ("NOTIFY=", {}, "501 5.5.4 Malformed value of parameter NOTIFY"),
        ("NOTIFY=NEVER,SUCCESS", {}, "501 5.5.4 Invalid value of parameter NOTIFY"),
        ("NOTIFY=NEVER,NEVER", {}, "501 5.5.4 Invalid value of parameter NOTIFY"),
        ("NOTIFY=SOMETIMES", {}, "501 5.5.4 Invalid value of parameter NOTIFY"),
        ("NOTIFY=DELAY,", {}, "501 5.5.4 Invalid value of parameter NOTIFY"),
        ("ORCPT", {}, "501 5.5.4 Invalid value of parameter ORCPT"),
        ("ORCPT=joe@b.example", {}, "501 5.5.4 Invalid value of parameter ORCPT"),
        ("ORCPT=;joe@b.example", {}, "501 5.5.4 Invalid value of parameter ORCPT"),
        ("ORCPT=rfc822;", {}, "501 5.5.4 Invalid value of parameter ORCPT"),
        ("ORCPT=rfc_822;x", {}, "501 5.5.4 Invalid value of parameter ORCPT"),
        (f"ORCPT=rfc822;{'x' * 494}", {}, "501 5.5.4 Invalid value of parameter ORCPT"),
        ("ORCPT=rfc822;a+0Ab", {}, "501 5.5.4 Only printable ASCII may be encoded as xtext here"),
        ("SIZE=1", {}, "555 5.5.4 Parameter SIZE not recognized or not implemented"),
        ("X", {}, "555 5.5.4 Parameter X not recognized or not implemented"),
        ("NOTIFY=NEVER", {"hideDSN": True}, "555 5.5.4 Parameter NOTIFY not recognized or not implemented"),
        ("ORCPT=rfc822;x", {"hideDSN": True}, "555 5.5.4 Parameter ORCPT not recognized or not implemented"),
    ],
    ids=repr,
)
def test_parameter_of_RCPT_is_refused(parameters: str, options: dict[str, Any], reply: str) -> None:
    talk = mail("", **{"hideDSN": False, **options})
    assert talk.say(f"{RCPT} {parameters}") == reply
    assert talk.state is State.MAIL
    assert "onRcptTo" not in talk.hooks()


@given(st.text(st.characters(codec="ascii", min_codepoint=33, max_codepoint=126), max_size=60))
def test_any_value_of_a_built_in_parameter_is_taken_or_refused(value: str) -> None:
    talk = Talk(hideDSN=False, size=1000)
    talk.say(HELLO)
    for keyword in ("SIZE", "BODY", "SMTPUTF8", "RET", "ENVID"):
        assert talk.say(f"{MAIL} {keyword}={value}")[:3] in ("250", "501", "552")
        talk.say("RSET")
    talk.say(MAIL)
    for keyword in ("NOTIFY", "ORCPT"):
        assert talk.say(f"{RCPT} {keyword}={value}")[:3] in ("250", "501")


# --- A user's own ---


def test_extension_shows_its_keyword_and_a_text() -> None:
    assert shown(extensions=[Extension("x-plain"), Extension("X-TEXT", "a b")])[-2:] == ["X-PLAIN", "X-TEXT a b"]


def test_extension_shows_a_function_of_the_session() -> None:
    extension = Extension("X-WHO", lambda session: session.hostNameAppearsAs)
    assert shown(extensions=[extension])[-1] == "X-WHO client.example"


def test_text_of_an_extension_cannot_split_the_reply() -> None:
    assert shown(extensions=[Extension("X", lambda session: "a\r\n250 b")])[-1] == "X a  250 b"


def noteFor(session: Session) -> str | None:
    return "here" if session.user else None


def test_extension_is_in_force_only_for_the_sessions_it_shows_itself_to() -> None:
    extension = Extension(
        "X-NOTE",
        noteFor,
        mailParameters={"NOTE": lambda value: value},
        rcptParameters={"NOTE": lambda value: value},
        commands={"XNOTE": lambda argument, session: "noted"},
    )
    talk = Talk(extensions=[extension])
    assert "X-NOTE" not in talk.say(HELLO)
    assert "XNOTE" not in talk.say("HELP")
    assert talk.say("XNOTE") == "500 5.5.2 Command not recognized"
    assert talk.say(f"{MAIL} NOTE=x").startswith("555 ")
    talk.session.user = "ann"
    assert talk.say(HELLO).endswith("250 X-NOTE here")
    assert talk.say("HELP").endswith(" XNOTE")
    talk.answers[extension.commands["XNOTE"]] = "noted"
    assert talk.say("XNOTE") == "250 2.0.0 noted"
    assert talk.say(f"{MAIL} NOTE=x") == "250 2.1.0 Sender OK"
    assert talk.say(f"{RCPT} NOTE=y") == "250 2.1.5 Recipient OK"
    assert talk.session.envelope.rcptTo[0].args == {"NOTE": "y"}


def test_extension_hidden_with_none_is_in_force_for_nobody() -> None:
    extension = Extension("X", None, mailParameters={"X": lambda value: value}, commands={"XX": print})
    assert mailRefused("X=1", extensions=[extension]).startswith("555 ")
    assert Talk(extensions=[extension]).say("XX").startswith("500 ")


def test_validator_says_what_the_address_holds() -> None:
    extension = Extension("X", mailParameters={"x-rate": lambda value: f"<{value}>", "FLAG": lambda value: value})
    address = mail("X-Rate=5 flag", extensions=[extension]).session.envelope.mailFrom
    assert address is not None
    assert address.args == {"X-RATE": "<5>", "FLAG": True}


@pytest.mark.parametrize(
    "error, reply",
    [
        (SMTPError("Not that"), "501 5.5.4 Not that"),
        (SMTPError("Not now", 451), "451 4.3.0 Not now"),
        (SMTPError("Too much", 552), "552 5.3.4 Too much"),
        (SMTPError("No", 550, "5.7.1"), "550 5.7.1 No"),
        (SMTPError("Go", 421), "421 4.3.2 Go"),
    ],
    ids=str,
)
def test_validator_refuses_with_its_own_words(error: SMTPError, reply: str) -> None:
    def refuse(value: Any) -> str:
        raise error

    extension = Extension("X", mailParameters={"X": refuse}, rcptParameters={"X": refuse})
    talk = mail("", extensions=[extension])
    assert talk.say(f"{RCPT} X=1") == reply
    talk = Talk(extensions=[extension])
    talk.say(HELLO)
    assert talk.say(f"{MAIL} X=1") == reply


def handle(argument: str, session: Session) -> None:
    raise AssertionError("the dialogue calls no handler, it asks for its result")


@pytest.mark.parametrize(
    "answer, reply",
    [
        ("done", "250 2.0.0 done"),
        (None, "250 2.0.0 OK"),
        (True, "250 2.0.0 OK"),
        (SMTPError("No"), "550 5.7.1 No"),
        (SMTPError("Later", 451), "451 4.3.0 Later"),
        (SMTPError("Go", 421), "421 4.3.2 Go"),
    ],
    ids=repr,
)
def test_command_of_an_extension_is_answered_by_its_handler(answer: object, reply: str) -> None:
    talk = Talk({handle: answer}, extensions=[Extension("X", commands={"xdo": handle})])
    assert talk.say("XDO this and  that ") == reply
    assert talk.asked[-1] == Ask(handle, ("this and  that", talk.session))


def test_command_of_an_extension_may_be_answered_later() -> None:
    talk = Talk(extensions=[Extension("X", commands={"XDO": handle})])
    assert talk.dialogue.receive(b"xDo it") == Ask(handle, ("it", talk.session))
    with pytest.raises(AssertionError, match="stands still"):
        talk.dialogue.receive(b"NOOP")
    assert talk.dialogue.answer("done at last") == Reply(250, "done at last", "2.0.0")
    assert talk.say("NOOP") == "250 2.0.0 OK"


@pytest.mark.parametrize("verb", ["EXPN", "TURN", "SAML"])
def test_extension_may_add_a_command_that_the_server_does_not_have(verb: str) -> None:
    talk = Talk({handle: "done"}, extensions=[Extension("X", commands={verb: handle})])
    assert talk.say(verb) == "250 2.0.0 done"


def test_extension_may_add_the_hello_of_the_other_flavour() -> None:
    talk = Talk({handle: "done"}, extensions=[Extension("X", commands={"LHLO": handle})])
    assert talk.say("LHLO x") == "250 2.0.0 done"
    assert talk.state is State.GREETED


def test_built_in_rules_are_not_replaced_from_outside() -> None:
    anything: Callable[[Any], str] = lambda value: "anything"  # noqa: E731
    own = Extension("SIZE", mailParameters={"SIZE": anything}, commands={"NOOP": handle})
    assert mailRefused("SIZE=x", extensions=[own]).startswith("501 ")
    assert Talk(extensions=[own]).say("NOOP") == "250 2.0.0 OK"
    chunking = Extension("CHUNKING", None)
    talk = Talk(extensions=[chunking])
    assert "CHUNKING" in talk.say(HELLO)
    assert talk.sayAll(MAIL, RCPT, "BDAT 1 LAST") == "250 2.0.0 Message accepted"


def test_help_names_each_command_once() -> None:
    own = Extension("X", commands={"NOOP": handle, "XDO": handle})
    verbs = Talk(extensions=[own]).say("HELP").split(": ")[1].split()
    assert len(verbs) == len(set(verbs))
    assert verbs[-1] == "XDO"


@pytest.mark.parametrize("name", ["", "A B", "X_Y", "-X", "X\r\nY", "\u00dc", "X="])
@pytest.mark.parametrize("field", ["keyword", "mailParameters", "rcptParameters", "commands"])
def test_names_of_an_extension_are_keywords(field: str, name: str) -> None:
    given = {"keyword": "X"} | {field: name if field == "keyword" else {name: handle}}
    with pytest.raises(ValueError, match=f"{field} of an Extension is "):
        Extension(**given)  # type: ignore[arg-type]


def test_length_of_commands_adds_up() -> None:
    extensions = Extensions([Extension("X", commandLength=5), Extension("Y"), Extension("Z", commandLength=7)])
    assert extensions.commandLength == 12
    assert Extensions([]).commandLength == 0


class _Own(Extension):
    def parametersFor(self, session: Session) -> str | None:
        return "TO-YOU" if session.secure else None


def test_a_subclass_may_have_its_own_way_to_tell_its_parameters() -> None:
    extensions = Extensions([_Own("XOWN"), Extension("XSAME", "A B"), Extension("XNONE", None), Extension("XBARE")])
    assert ClientExtensions(extensions, Session(secure=True)).ehloLines() == ["XOWN TO-YOU", "XSAME A B", "XBARE"]
    assert ClientExtensions(extensions, Session()).ehloLines() == ["XSAME A B", "XBARE"]


def test_parameters_are_shown_as_text_whatever_they_are() -> None:
    extensions = Extensions([Extension("XCOUNT", lambda session: 100), Extension("XSPACE", lambda session: "a ")])  # type: ignore[arg-type, return-value]
    assert ClientExtensions(extensions, Session()).ehloLines() == ["XCOUNT 100", "XSPACE a"]
