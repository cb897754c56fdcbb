"""The built-in extensions: what EHLO shows, and which parameters of MAIL and RCPT are accepted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.dialogue.steps import State
from tests.talk import HELLO, MAIL, RCPT, Talk, mail, mailRefused, shown

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
        # BINARYMIME needs both of the others (RFC 3030 section 3).
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
        # A hidden extension is not in force (RFC 5321 section 4.1.1.11).
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
