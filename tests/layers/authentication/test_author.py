"""The domains of authors: all forms of From, and those that cannot be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.layers.authentication.author import AuthorFault, authorDomains


@pytest.mark.parametrize(
    ("value", "domains"),
    [
        (b" joe@example.com\r\n", ["example.com"]),
        (b" Joe <joe@Example.COM>\r\n", ["example.com"]),
        (b" <joe@example.com.>", ["example.com"]),
        (b' "Joe Q. Public" <john.q.public@example.com>', ["example.com"]),
        (b' "Joe \\"the @ one\\" <x@bad.example>" <joe@example.com>', ["example.com"]),
        (b" =?utf-8?q?ceo=40bank.example?= <joe@example.com>", ["example.com"]),
        (b" J\xc3\xb6 <joe@example.com>", ["example.com"]),
        (b" J\xf6 <joe@example.com>", ["example.com"]),
        (b" joe@b\xc3\xbccher.example", ["xn--bcher-kva.example"]),
        (b" joe@B\xc3\x9cCHER.example", ["xn--bcher-kva.example"]),
        (b" joe@xn--bcher-kva.example", ["xn--bcher-kva.example"]),
        (b" j\xc3\xb6@example.com", ["example.com"]),
        ("joe@例子。測試".encode(), ["xn--fsqu00a.xn--g6w251d"]),
        # RFC 5322 appendices A.1 to A.6
        (b" Mary Smith <mary@x.test>, jdoe@example.org, Who? <one@y.test>", ["x.test", "example.org", "y.test"]),
        (b' "Giant; \\"Big\\" Box" <sysservices@example.net>', ["example.net"]),
        (b" A Group:Ed Jones <joe@where.test>,joe@where.test,John <jdoe@one.test>;", ["where.test", "one.test"]),
        (b" (Empty list)(start)Hidden recipients  :(nobody(that I know))  ; a@b.example", ["b.example"]),
        (b" Pete(A nice \\) chap) <pete(his account)@silly.test(his host)>", ["silly.test"]),
        (
            b" Mary Smith <@node.test,@other.test:mary@example.net>, , jdoe@test  . example",
            ["example.net", "test.example"],
        ),
        (b" joe @ example . (comment) com", ["example.com"]),
        (b' "joe smith"@example.com', ["example.com"]),
        (b" joe@example.com,\r\n\tjane@example.com", ["example.com"]),
        # names that should be quoted
        (b" Public, Joe <joe@example.com>", ["example.com"]),
        (b" joe@example.com <joe@example.com>", ["example.com"]),
        (b" ceo@bank.example <joe@example.com>", ["example.com", "bank.example"]),
        (b" ceo@bank.example: joe@example.com;", ["bank.example", "example.com"]),
        (b" user@localhost", ["localhost"]),
    ],
)
def test_the_domains_of_the_authors_are_found(value: bytes, domains: list[str]) -> None:
    assert authorDomains([value]) == domains


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "there is no author in From"),
        (b" ", "there is no author in From"),
        (b" <>", "there is no author in From"),
        (b" root", "there is no author in From"),
        (b" undisclosed:;", "there is no author in From"),
        (b' "joe@example.com"', "there is no author in From"),
        (b" (joe@example.com)", "there is no author in From"),
        (b" joe@[192.0.2.1]", "an address in From has no domain name"),
        (b" joe@[IPv6:2001:db8::1]", "an address in From has no domain name"),
        (b" joe@", "an address in From has no domain name"),
        (b" joe@example..com", "an address in From has no domain name"),
        (b" joe@.example", "an address in From has no domain name"),
        (b" joe@example com", "an address in From has no domain name"),
        (b' joe@"example.com"', "an address in From has no domain name"),
        (b" joe@ex\xf6mple.com", "an address in From has no domain name"),
        (b" joe@=?utf-8?q?example.com?=", "an address in From has no domain name"),
        (b" joe@" + b"a." * 200 + b"example", "an address in From has no domain name"),
        (b"joe@" + "ö".encode() * 300, "an address in From has no domain name"),
        (b" @example.com", "an address in From is malformed"),
        (b" joe@bank.example@example.com", "an address in From is malformed"),
        (b" <joe@bank.example,jane@example.com>", "an address in From is malformed"),
        (b" joe <joe@example.com", "From is malformed"),
        (b" joe@example.com>", "From is malformed"),
        (b" <joe@bank.example> <joe@example.com>", "From is malformed"),
        (b" <joe@bank.example> joe@example.com", "From is malformed"),
        (b" <<joe@example.com>>", "From is malformed"),
        (b" <jane <joe@example.com>", "From is malformed"),
        (b' "joe <joe@example.com>', "From is malformed"),
        (b" (joe <joe@example.com>", "From is malformed"),
        (b" (joe\\", "From is malformed"),
        (b" joe\\@example.com", "From is malformed"),
        (b" joe@[192.0.2.1", "From is malformed"),
        (b" <joe@bank.example>:, joe@example.com", "From is malformed"),
        (b" <joe@bank.example>: joe@example.com;", "From is malformed"),
        (b" <joe@bank.example:joe@example.com>", "an address in From is malformed"),
        (b" <joe@bank.example,:joe@example.com>", "an address in From is malformed"),
        (b" joe@example.com, " * 1000, "From is too long"),
    ],
)
def test_what_cannot_be_read_is_told(value: bytes, reason: str) -> None:
    with pytest.raises(AuthorFault, match=f"^{reason}$"):
        authorDomains([value])


def test_several_fields_count_as_one() -> None:
    assert authorDomains([b" a@one.example", b" b@two.example", b" c@one.example"]) == ["one.example", "two.example"]
    with pytest.raises(AuthorFault, match="there is no author"):
        authorDomains([])
    with pytest.raises(AuthorFault, match="malformed"):
        authorDomains([b" a@one.example", b" <"])
    with pytest.raises(AuthorFault, match="too long"):
        authorDomains([b" a@one.example," * 500] * 3)


PARTS = [
    "joe",
    "@",
    "example.com",
    ".",
    ",",
    ";",
    ":",
    "<",
    ">",
    '"',
    "\\",
    "(",
    ")",
    "[",
    "]",
    " ",
    "\r\n ",
    "ö",
    "\0",
]


@given(st.lists(st.sampled_from(PARTS)).map("".join) | st.text(max_size=20))
def test_whatever_it_is_there_are_domains_or_a_fault(text: str) -> None:
    try:
        domains = authorDomains([text.encode("utf-8", "replace")])
    except AuthorFault:
        return
    assert domains
    assert all(domain.isascii() and domain == domain.lower() and domain for domain in domains)


ATOMS = st.text("abcxyz019-", min_size=1, max_size=8).filter(lambda text: text[0] != "-" and text[-1] != "-")
DOMAINS = st.lists(ATOMS, min_size=1, max_size=3).map(".".join)
SPACE = st.sampled_from(["", " ", "\r\n\t", "(x)", " (a (b) \\) c) "])
NAMES = st.sampled_from(["", "Joe ", '"a, <b@c>: ;" ', "=?utf-8?q?a=40b?= ", "J\u00f6 Q "])


@given(st.lists(st.tuples(NAMES, ATOMS, DOMAINS, SPACE, SPACE, st.booleans()), min_size=1, max_size=3))
def test_every_well_formed_list_is_read(mailboxes: list[tuple[str, str, str, str, str, bool]]) -> None:
    written, domains = [], []
    for name, local, domain, before, behind, isAngled in mailboxes:
        address = f"{before}{local}{behind}@{before}{domain.replace('.', behind + '.' + before)}{behind}"
        written.append(f"{name}{before}<{address}>{behind}" if isAngled or name else address)
        domains.append(domain)
    assert authorDomains([",".join(written).encode()]) == list(dict.fromkeys(domains))
