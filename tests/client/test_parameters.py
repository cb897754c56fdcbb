"""Lines of MAIL and RCPT: read by the server they are what was given, and nothing else can be put into them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.client import NotOffered
from smtphooks.client.parameters import mailLine, rcptLine, xtext
from smtphooks.syntax.grammar import maybeXtext, parseForwardPath, parseParameters, parseReversePath, splitPath
from tests.support import connect

ALL = dict.fromkeys(("SIZE", "8BITMIME", "SMTPUTF8", "DSN", "BINARYMIME", "CHUNKING", "AUTH", "REQUIRETLS"), "")

HOSTILE = st.text(st.sampled_from('ab@.<>" \\\r\n\0\t:;,=+[]äß\u202e\u2028\ud800'), max_size=12) | st.text(max_size=12)
ADDRESSES = st.sampled_from(["", "a@b.test", '"a b"@c.test', "postmaster", "ä@ö.test"]) | HOSTILE


def parsed(line: bytes, keyword: str) -> tuple[str, dict[str, str | bool]]:
    """The address and the parameters, as the server reads them."""
    text = line.decode()
    assert re.search(r"[\r\n\0]", text) is None
    found = splitPath(text.split(" ", 1)[1], keyword, False)
    assert found is not None
    parse = parseReversePath if keyword == "FROM" else parseForwardPath
    return parse(found[0], utf8=True, lenient=True).address, parseParameters(found[1], True)


def sameAddress(read: str, given: str) -> bool:
    """The server maps domains beyond ASCII and literals; the local part is what was given."""
    return read.rpartition("@")[0] == given.rpartition("@")[0]


@given(ADDRESSES)
def test_an_address_reaches_the_server_as_it_is_or_not_at_all(address: str) -> None:
    for line, keyword in ((mailLine, "FROM"), (rcptLine, "TO")):
        isUTF8 = {"SMTPUTF8": True} if keyword == "FROM" else {}
        try:
            octets = line(address, isUTF8, ALL, True)
        except ValueError:
            continue
        read, parameters = parsed(octets, keyword)
        assert sameAddress(read, address)
        assert parameters == isUTF8


@pytest.mark.parametrize(
    "address",
    [
        "a@b> SIZE=1",
        "a@b.test>\r\nRCPT TO:<c@d.test",
        "<a@b.test>",
        " a@b.test",
        "a@b.test ",
        " ",
        "@relay.test:a@b.test",
        "a",
        "a@",
        "@b.test",
        "a b@c.test",
        "a\0@b.test",
        "a\x85@b.test",
        "a@b.test\n",
    ],
)
def test_what_is_no_address_is_not_said(address: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        mailLine(address, {}, ALL, True)
    with pytest.raises(ValueError, match="is no address"):
        rcptLine(address, {}, ALL, False)


def test_only_a_sender_may_be_null_and_a_postmaster_has_no_domain() -> None:
    assert mailLine("", {}, ALL, True) == b"MAIL FROM:<>"
    with pytest.raises(ValueError, match="is no address"):
        rcptLine("", {}, ALL, False)
    assert rcptLine("Postmaster", {}, ALL, False) == b"RCPT TO:<Postmaster>"


def test_an_address_beyond_ASCII_needs_SMTPUTF8() -> None:
    with pytest.raises(ValueError, match="without the parameter SMTPUTF8"):
        mailLine("ä@b.test", {}, ALL, True)
    with pytest.raises(ValueError, match="without the parameter SMTPUTF8"):
        rcptLine("ä@b.test", {}, ALL, False)
    assert mailLine("ä@b.test", {"SMTPUTF8": True}, ALL, True) == "MAIL FROM:<ä@b.test> SMTPUTF8".encode()
    assert rcptLine("ä@b.test", {}, ALL, True) == "RCPT TO:<ä@b.test>".encode()


@given(st.text(), st.dictionaries(st.sampled_from(["ENVID", "RET", "AUTH", "SIZE", "X"]), st.text(), max_size=3))
def test_no_parameter_smuggles_another_one(text: str, arguments: dict[str, Any]) -> None:
    arguments["BODY"] = text
    extensions = {**ALL, "X": ""}
    try:
        line = mailLine("a@b.test", arguments, extensions, True)
    except (ValueError, NotOffered):
        return
    _, parameters = parsed(line, "FROM")
    assert list(parameters) == list(arguments)


@pytest.mark.parametrize("value", ["", "a b", "a=b", "a\r\nb", "a\x7f", "a\x85b", "ä", "a\u2028", False, None])
def test_a_value_that_cannot_be_said_is_an_error(value: Any) -> None:
    with pytest.raises(ValueError, match="is no parameter"):
        mailLine("a@b.test", {"SIZE": value}, ALL, True)


@pytest.mark.parametrize("value", ["a\u2028b", "a\x85b", "a\u202eb"])
def test_a_value_beyond_ASCII_is_visible(value: str) -> None:
    with pytest.raises(ValueError, match="is no parameter"):
        mailLine("a@b.test", {"SMTPUTF8": True, "SIZE": value}, ALL, True)


@pytest.mark.parametrize("keyword", ["", "A B", "A=B", "Ä", "A\r\nB", "-A"])
def test_a_keyword_that_cannot_be_said_is_an_error(keyword: str) -> None:
    with pytest.raises(ValueError, match="is no parameter"):
        mailLine("a@b.test", {keyword: True}, {keyword.upper(): ""}, True)


def test_keywords_may_be_in_lower_case() -> None:
    with pytest.raises(NotOffered):
        mailLine("a@b.test", {"body": "8bitmime"}, {}, True)
    assert mailLine("a@b.test", {"size": "5"}, {"SIZE": ""}, True) == b"MAIL FROM:<a@b.test> SIZE=5"


@given(st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"])))
def test_xtext_is_read_as_what_was_written(text: str) -> None:
    assert maybeXtext(xtext(text)) == text.encode()


# --- what a server does not offer ---


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"SMTPUTF8": True}, 550),
        ({"BODY": "8BITMIME"}, 554),
        ({"BODY": "BINARYMIME"}, 554),
        ({"REQUIRETLS": True}, 550),
    ],
)
def test_what_the_message_cannot_do_without_is_refused(arguments: dict[str, str | bool], code: int) -> None:
    with pytest.raises(NotOffered) as caught:
        mailLine("a@b.test", arguments, {}, True)
    assert caught.value.isPermanent
    assert caught.value.asError().responseCode == code


def test_what_only_tells_more_is_left_out() -> None:
    arguments: dict[str, str | bool] = {
        "SIZE": "5",
        "BODY": "7BIT",
        "RET": "HDRS",
        "ENVID": "x",
        "AUTH": "<>",
        "X-Y": True,
    }
    assert mailLine("a@b.test", arguments, {}, False) == b"MAIL FROM:<a@b.test>"
    assert rcptLine("a@b.test", {"NOTIFY": "NEVER", "ORCPT": "rfc822;a@b.test"}, {}, False) == b"RCPT TO:<a@b.test>"


def test_BINARYMIME_needs_CHUNKING() -> None:
    with pytest.raises(NotOffered):
        mailLine("a@b.test", {"BODY": "BINARYMIME"}, {"BINARYMIME": "", "8BITMIME": ""}, True)


def test_REQUIRETLS_needs_a_server_that_is_verified_and_offers_it() -> None:
    with pytest.raises(NotOffered, match="REQUIRETLS"):
        mailLine("a@b.test", {"REQUIRETLS": True}, ALL, False)
    assert mailLine("a@b.test", {"REQUIRETLS": True}, ALL, True) == b"MAIL FROM:<a@b.test> REQUIRETLS"


def test_a_message_larger_than_the_server_takes_is_refused_before_it_is_sent() -> None:
    with pytest.raises(NotOffered, match="more than 100 octets") as caught:
        mailLine("a@b.test", {"SIZE": "101"}, {"SIZE": "100"}, True)
    assert (caught.value.asError().responseCode, caught.value.asError().enhancedCode) == (552, "5.3.4")
    assert mailLine("a@b.test", {"SIZE": "100"}, {"SIZE": "100"}, True).endswith(b"SIZE=100")


@pytest.mark.parametrize("limit", ["", "0", "²", "٣", "-1", "many", "9" * 5000])
def test_a_limit_that_is_none_limits_nothing(limit: str) -> None:
    assert mailLine("a@b.test", {"SIZE": "101"}, {"SIZE": limit}, True).endswith(b"SIZE=101")


# --- delivery status notifications ---


@pytest.mark.parametrize(
    ("value", "isUTF8", "said"),
    [
        ("rfc822;a+b@c.test", False, "rfc822;a+2Bb@c.test"),
        ("rfc822;a b@c.test", False, "rfc822;a+20b@c.test"),
        # RFC 6533 section 3
        ("utf-8;ä@c.test", True, "utf-8;ä@c.test"),
        ("utf-8;ä@c.test", False, r"utf-8;\x{E4}@c.test"),
        ("utf-8;a+b=c\\d@c.test", True, r"utf-8;a\x{2B}b\x{3D}c\x{5C}d@c.test"),
        (r"utf-8;\x{E4}@c.test", False, r"utf-8;\x{E4}@c.test"),
        ("UTF-8;😀@c.test", False, r"UTF-8;\x{1F600}@c.test"),
    ],
)
def test_an_original_recipient_is_encoded_by_its_kind(value: str, isUTF8: bool, said: str) -> None:
    line = rcptLine("x@y.test", {"ORCPT": value}, ALL, isUTF8)
    assert line == f"RCPT TO:<x@y.test> ORCPT={said}".encode()


def test_the_parameters_of_a_message_that_the_server_has_received_are_said_again_as_they_came() -> None:
    client = connect(hideDSN=False)
    client.say("EHLO client.test")
    mail = r"MAIL FROM:<a@b.test> RET=HDRS ENVID=a+2Bb+20c SIZE=5 BODY=8BITMIME SMTPUTF8"
    recipients = [
        "RCPT TO:<c@d.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x+2By@d.test",
        "RCPT TO:<ü@d.test> ORCPT=utf-8;ü@d.test",
        r"RCPT TO:<e@d.test> ORCPT=utf-8;\x{FC}@d.test",
    ]
    assert [line[:3] for line in client.say(mail, *recipients)] == ["250"] * 4
    envelope = client.session.envelope
    extensions = {**ALL}
    assert mailLine(envelope.mailFrom.address, envelope.mailFrom.args, extensions, True) == mail.encode()
    assert [rcptLine(each.address, each.args, extensions, True) for each in envelope.rcptTo] == [
        text.encode() for text in recipients
    ]
