"""One DNS list: how it is written, what it is asked, which answers count."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.errors import OptionError
from smtphooks.layers.dnslist import DNSList, domainOf, nameIn, parseList, reversedAddress, shown

TWO = ((127, 127), (0, 0), (0, 0), (2, 2))
FOUR_TO_SEVEN = ((127, 127), (0, 0), (0, 0), (4, 7))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("zen.example.org", DNSList("zen.example.org")),
        ("Zen.Example.org.", DNSList("zen.example.org")),
        ("bl.example.org*3", DNSList("bl.example.org", score=3)),
        ("wl.example.org*-2", DNSList("wl.example.org", score=-2)),
        ("bl.example.org=127.0.0.2", DNSList("bl.example.org", (TWO,))),
        ("bl.example.org=127.0.0.2,127.0.0.4-7", DNSList("bl.example.org", (TWO, FOUR_TO_SEVEN))),
        (" bl.example.org = 127.0.0.2, 127.0.0.4-7 * 5", DNSList("bl.example.org", (TWO, FOUR_TO_SEVEN), 5)),
        ("bl.ex-ample_.org=127.0-255.0.2", DNSList("bl.ex-ample_.org", (((127, 127), (0, 255), (0, 0), (2, 2)),))),
        ("bl.bücher.example", DNSList("bl.xn--bcher-kva.example")),
    ],
)
def test_a_list_is_its_domain_with_codes_and_a_score(text: str, expected: DNSList) -> None:
    assert parseList("clients", text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "zen", "zen example org=", "zen.example.org=", "zen.example.org*", "zen.example.org*x", "a..b", "192.0.2.1"],
)
def test_what_is_no_list_is_one_sentence(text: str) -> None:
    with pytest.raises(OptionError) as caught:
        parseList("helos", text)
    assert str(caught.value).startswith(f'option helos has {text!r}, it wants lists such as "zen.example.org"')
    assert caught.value.options == ("helos",)


@pytest.mark.parametrize(
    "code", ["127.0.0", "127.0.0.2.3", "127.0.0.256", "127.0.0.7-4", "10.0.0.2", "126-127.0.0.2", "127.0.0.2,", "x"]
)
def test_what_is_no_code_is_one_sentence(code: str) -> None:
    with pytest.raises(OptionError, match=r"its codes must be like 127\.0\.0\.2, 127\.0\.0\.4-7 or"):
        parseList("clients", f"bl.example.org={code}")


@pytest.mark.parametrize(
    "text, answer, counts",
    [
        ("bl.example.org", (127, 0, 0, 9), True),
        ("bl.example.org=127.0.0.2,127.0.0.4-7", (127, 0, 0, 2), True),
        ("bl.example.org=127.0.0.2,127.0.0.4-7", (127, 0, 0, 3), False),
        ("bl.example.org=127.0.0.2,127.0.0.4-7", (127, 0, 0, 7), True),
        ("bl.example.org=127.0.0.2,127.0.0.4-7", (127, 0, 1, 7), False),
        ("bl.example.org=127.0.0-255.2", (127, 0, 99, 2), True),
    ],
)
def test_answers_count_by_their_code(text: str, answer: tuple[int, ...], counts: bool) -> None:
    each = parseList("clients", text)
    assert each.counts([answer]) is counts
    assert each.counts([(127, 9, 9, 9), answer]) is counts or not each.codes
    assert not each.counts([])


@pytest.mark.parametrize(
    "address, name",
    [
        ("192.0.2.99", "99.2.0.192"),
        ("::ffff:192.0.2.99", "99.2.0.192"),
        (
            "2001:db8:1:2:3:4:567:89ab",
            "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2",
        ),
    ],
)
def test_addresses_are_reversed_by_octets_or_nibbles(address: str, name: str) -> None:
    assert reversedAddress(ipaddress.ip_address(address)) == name


@pytest.mark.parametrize(
    "text, domain",
    [
        ("Mail.Example.org", "mail.example.org"),
        ("example.org.", "example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("_spf.example.org", "_spf.example.org"),
        ("localhost", None),
        ("", None),
        (".", None),
        ("a..b", None),
        ("-a.example", None),
        ("[192.0.2.1]", None),
        ("192.0.2.1", None),
        ("[IPv6:2001:db8::1]", None),
        ("2001:db8::1", None),
        ("a" * 64 + ".example", None),
        ("é" * 64 + ".example", None),
        (".".join(["a" * 60] * 5), None),
        ("a b.example", None),
        ("a\x00b.example", None),
    ],
)
def test_only_what_can_be_a_domain_is_looked_up(text: str, domain: str | None) -> None:
    assert domainOf(text) == domain


@given(st.text())
def test_whatever_a_client_says_is_a_domain_or_none(text: str) -> None:
    domain = domainOf(text)
    assert domain is None or (domain.isascii() and domain == domainOf(domain))


def test_a_name_beyond_the_length_of_dns_is_not_looked_up() -> None:
    assert nameIn("bl.example.org", ".".join(["a" * 59] * 4)) is None
    assert nameIn("bl.example.org", "test") == "test.bl.example.org"


def test_the_key_of_a_customer_is_not_shown() -> None:
    assert shown("abcdefghijklmnopqrstuvwxyz.zen.dq.example.net") == "….zen.dq.example.net"
    assert DNSList("bl.spameatingmonkey.net").shown == "bl.spameatingmonkey.net"
