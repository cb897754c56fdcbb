"""XCLIENT and XFORWARD: every attribute, every error in one, and the forms that Postfix sends."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtphooks.replies import SMTPError
from smtphooks.syntax.xclient import TEMPORARILY_UNKNOWN, parseXClient, parseXForward, xClientKeywords, xForwardKeywords

Parse = Callable[[str], dict[str, str | None]]
BOTH = pytest.mark.parametrize("parse", [parseXClient, parseXForward])


def refusal(parse: Parse, argument: str) -> str:
    with pytest.raises(SMTPError) as caught:
        parse(argument)
    assert (caught.value.responseCode, caught.value.enhancedCode) == (501, "5.5.4")
    return caught.value.message


def test_keywords_are_those_of_postfix() -> None:
    assert xClientKeywords == "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"
    assert xForwardKeywords == "NAME ADDR PORT PROTO HELO IDENT SOURCE"


def test_x_client_as_the_readme_shows_it() -> None:
    assert parseXClient("NAME=spike.porcupine.org ADDR=168.100.189.2") == {
        "NAME": "spike.porcupine.org",
        "ADDR": "168.100.189.2",
    }


def test_x_forward_as_the_readme_shows_it() -> None:
    assert parseXForward("NAME=spike.porcupine.org ADDR=168.100.189.2 PROTO=ESMTP") == {
        "NAME": "spike.porcupine.org",
        "ADDR": "168.100.189.2",
        "PROTO": "ESMTP",
    }
    assert parseXForward("HELO=spike.porcupine.org IDENT=4Tz1X20sYzw SOURCE=LOCAL PORT=[UNAVAILABLE]") == {
        "HELO": "spike.porcupine.org",
        "IDENT": "4Tz1X20sYzw",
        "SOURCE": "LOCAL",
        "PORT": None,
    }


@pytest.mark.parametrize(
    "argument, name, value",
    [
        ("NAME=mx_1.Example.org", "NAME", "mx_1.Example.org"),
        ("NAME=example.org.", "NAME", "example.org"),
        ("NAME=localhost", "NAME", "localhost"),
        ("name=a", "NAME", "a"),
        ("NAME=[UNAVAILABLE]", "NAME", None),
        ("NAME=[unavailable]", "NAME", None),
        ("NAME=+5BUNAVAILABLE+5D", "NAME", None),
        ("NAME=[TEMPUNAVAIL]", "NAME", TEMPORARILY_UNKNOWN),
        ("NAME=[TempUnavail]", "NAME", TEMPORARILY_UNKNOWN),
        ("ADDR=[UNAVAILABLE]", "ADDR", None),
        ("ADDR=[TEMPUNAVAIL]", "ADDR", None),
        ("ADDR=IPV6:2001:DB8::1", "ADDR", "2001:db8::1"),
        ("addr=ipv6:2001:db8::1", "ADDR", "2001:db8::1"),
        ("ADDR=2001:db8::1", "ADDR", "2001:db8::1"),
        ("ADDR=IPv6:::ffff:192.0.2.1", "ADDR", "192.0.2.1"),
        ("DESTADDR=192.0.2.1", "DESTADDR", "192.0.2.1"),
        ("DESTADDR=[UNAVAILABLE]", "DESTADDR", None),
        ("PORT=1", "PORT", "1"),
        ("PORT=65535", "PORT", "65535"),
        ("PORT=0", "PORT", None),
        ("DESTPORT=25", "DESTPORT", "25"),
        ("PROTO=SMTP", "PROTO", "SMTP"),
        ("PROTO=esmtp", "PROTO", "ESMTP"),
        ("HELO=a.example", "HELO", "a.example"),
        ("HELO=[192.0.2.1]", "HELO", "[192.0.2.1]"),
        ("HELO=with_(odd)", "HELO", "with_(odd)"),
        ("HELO=" + "a" * 255, "HELO", "a" * 255),
        ("HELO=0", "HELO", "0"),
        ("HELO=[UNAVAILABLE]", "HELO", None),
        ("LOGIN=user+2Btag+40example.org", "LOGIN", "user+tag@example.org"),
        ("LOGIN=user+2btag", "LOGIN", "user+tag"),
        ("LOGIN=J+C3+BCrgen+20M", "LOGIN", "Jürgen M"),
        ("LOGIN=[UNAVAILABLE]", "LOGIN", None),
        ("LOGIN=0", "LOGIN", "0"),
    ],
)
def test_x_client_attribute_is_accepted(argument: str, name: str, value: str | None) -> None:
    assert parseXClient(argument) == {name: value}


@pytest.mark.parametrize(
    "argument, name, value",
    [
        ("NAME=not_in_(DNS)", "NAME", "not_in_(DNS)"),
        ("NAME=[TEMPUNAVAIL]", "NAME", TEMPORARILY_UNKNOWN),
        ("ADDR=IPv6:::1", "ADDR", "::1"),
        ("PORT=0", "PORT", None),
        ("PROTO=qmqp", "PROTO", "QMQP"),
        ("PROTO=" + "X" * 64, "PROTO", "X" * 64),
        ("PROTO=[UNAVAILABLE]", "PROTO", None),
        ("SOURCE=remote", "SOURCE", "REMOTE"),
        ("SOURCE=[UNAVAILABLE]", "SOURCE", None),
        ("IDENT=[UNAVAILABLE]", "IDENT", None),
    ],
)
def test_x_forward_attribute_is_accepted(argument: str, name: str, value: str | None) -> None:
    assert parseXForward(argument) == {name: value}


@BOTH
@pytest.mark.parametrize(
    "argument", ["", " ", "NAME", "=x", "NAME=a ADDR", "NA-ME=a", "NÄME=a", "X" * 33 + "=1", "\0=1"]
)
def test_malformed_attribute_is_refused(parse: Parse, argument: str) -> None:
    assert refusal(parse, argument) == "Syntax: attribute=value"


def test_unknown_attribute_is_named_and_those_of_the_other_command_are_unknown() -> None:
    assert refusal(parseXClient, "ADDR=192.0.2.1 ident=1") == f"Attribute IDENT is unknown, known are {xClientKeywords}"
    assert refusal(parseXForward, "LOGIN=a") == f"Attribute LOGIN is unknown, known are {xForwardKeywords}"


@BOTH
def test_attribute_given_twice_is_refused(parse: Parse) -> None:
    assert refusal(parse, "ADDR=192.0.2.1 addr=192.0.2.1") == "Attribute ADDR given twice"


@BOTH
@pytest.mark.parametrize(
    "value", ["", "+", "+4", "+G0", "a=b", "a+", "\x7f", "Ä", "a\tb", "a\r\nb", "+FF", "+C3", "\ud800"]
)
def test_malformed_xtext_is_refused(parse: Parse, value: str) -> None:
    assert refusal(parse, f"HELO={value}") == "Value of attribute HELO is empty or no xtext (RFC 3461 section 4)"


@pytest.mark.parametrize(
    "argument",
    [
        "NAME=192.0.2.1",
        "NAME=::1",
        "NAME=a..b",
        "NAME=.",
        "NAME=-a.example",
        "NAME=a-.example",
        "NAME=" + "a" * 64 + ".example",
        "NAME=" + "a." * 127 + "ab",
        "NAME=[192.0.2.1]",
        "NAME=a+20b",
        "NAME=a+0D+0Ab",
        "NAME=a+C3+BC",
        "NAME=a,b",
        "ADDR=192.0.2.256",
        "ADDR=192.0.2.01",
        "ADDR=192.0.2.1+20",
        "ADDR=[192.0.2.1]",
        "ADDR=IPV6:192.0.2.1",
        "ADDR=IPV6:",
        "ADDR=fe80::1%eth0",
        "ADDR=IPV6:fe80::1%eth0",
        "ADDR=a.example",
        "DESTADDR=x",
        "PORT=65536",
        "PORT=100000",
        "PORT=-1",
        "PORT=+2B1",
        "PORT=025",
        "PORT=1_0",
        "PORT=smtp",
        "PORT=+D9+A1",
        "DESTPORT=x",
        "PROTO=LMTP",
        "HELO=a+20b",
        "HELO=a+00b",
        "HELO=a+0Ab",
        "HELO=a+C3+BC",
        "HELO=" + "a" * 256,
        "LOGIN=a+00",
        "LOGIN=a+0D+0A",
        "LOGIN=a+7F",
        "LOGIN=a+E2+80+AE",
        "LOGIN=" + "+C3+BC" * 128,
    ],
)
def test_x_client_with_a_bad_value_is_refused_wholly(argument: str) -> None:
    name = argument.partition("=")[0]
    other = "PROTO=SMTP" if name != "PROTO" else "HELO=a"
    assert refusal(parseXClient, f"{other} {argument}") == f"Bad value of attribute {name}"


@pytest.mark.parametrize(
    "argument",
    [
        "NAME=a+20b",
        "NAME=a+0Ab",
        "NAME=" + "a" * 256,
        "ADDR=elsewhere",
        "PORT=x",
        "PROTO=" + "X" * 65,
        "PROTO=a+20b",
        "IDENT=a+0Ab",
        "SOURCE=ELSEWHERE",
    ],
)
def test_x_forward_with_a_bad_value_is_refused_wholly(argument: str) -> None:
    assert refusal(parseXForward, argument) == f"Bad value of attribute {argument.partition('=')[0]}"


values = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["[UNAVAILABLE]", "[TEMPUNAVAIL]", "192.0.2.1", "IPV6:::1", "25", "0", "ESMTP", "LOCAL", "a.b", "+0A"]
    ),
    st.binary(max_size=20).map(lambda octets: "".join(f"+{octet:02X}" for octet in octets)),
)
arguments = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.builds(
            lambda name, value: f"{name}={value}",
            st.sampled_from(f"{xClientKeywords} {xForwardKeywords} REVERSE_NAME login".split()),
            values,
        ),
        max_size=4,
    ).map(" ".join),
)


@given(st.sampled_from([parseXClient, parseXForward]), arguments)
@example(parseXClient, "ADDR=IPV6:::FFFF:1.2.3.4")
def test_any_argument_gives_clean_attributes_or_a_refusal_and_nothing_else(parse: Parse, argument: str) -> None:
    try:
        attributes = parse(argument)
    except SMTPError as error:
        assert (error.responseCode, error.enhancedCode) == (501, "5.5.4")
        return
    assert attributes
    for name, value in attributes.items():
        assert name == name.upper()
        if value is None:
            continue
        assert value
        assert value.isprintable()
        assert name == "LOGIN" or (value.isascii() and " " not in value)
        if name in ("ADDR", "DESTADDR"):
            assert str(ipaddress.ip_address(value)) == value
        if name in ("PORT", "DESTPORT"):
            assert 1 <= int(value) <= 65535
