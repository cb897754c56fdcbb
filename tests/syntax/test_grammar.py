"""Paths, parameters, xtext and host names, by the tables of the RFCs and by properties."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtphooks.replies import SMTPError
from smtphooks.syntax import grammar
from smtphooks.syntax.grammar import (
    MAIL_LINE,
    RCPT_LINE,
    Path,
    decodeXtext,
    parseForwardPath,
    parseHostname,
    parseParameters,
    parseReversePath,
    splitPath,
)

# idna loads its tables on first use, which would exceed the deadline of one Hypothesis example.
calm = settings(deadline=None)

BOTH = pytest.mark.parametrize("parse", [parseReversePath, parseForwardPath])


def refusal(parse: Callable[..., object], *args: object, **options: object) -> SMTPError:
    with pytest.raises(SMTPError) as caught:
        parse(*args, **options)
    return caught.value


def codes(error: SMTPError) -> tuple[int | None, str | None]:
    return error.responseCode, error.enhancedCode


def strict(text: str) -> Path:
    return parseForwardPath(text, utf8=True, lenient=False)


def lenient(text: str) -> Path:
    return parseForwardPath(text, utf8=True, lenient=True)


def commonPath(argument: str, keyword: str) -> tuple[tuple[str, str, str], str] | None:
    """What is read of a line of MAIL or RCPT that has the form of most clients; None of any other line."""
    verb, form = {"FROM": ("MAIL", MAIL_LINE), "TO": ("RCPT", RCPT_LINE)}[keyword]
    match = form.fullmatch(f"{verb} {argument}".encode("utf-8", "surrogatepass"))
    return None if match is None else grammar.commonPath(match)


def domainOf(address: str) -> str:
    return strict(f"<{address}>").domain


# --- splitPath ---


@pytest.mark.parametrize(
    "argument, path, rest",
    [
        ("FROM:<a@b>", "<a@b>", ""),
        ("from:<a@b> SIZE=1 BODY=7BIT", "<a@b>", "SIZE=1 BODY=7BIT"),
        ("FROM:<>   SIZE=1", "<>", "SIZE=1"),
        ("FROM:<@x,@y:a@b> SIZE=1", "<@x,@y:a@b>", "SIZE=1"),
        ('FROM:<"a>b"@c> X', '<"a>b"@c>', "X"),
        (r'FROM:<"a\"> b"@c> X', r'<"a\"> b"@c>', "X"),
        (r'FROM:<"a\\"@c> X="', r'<"a\\"@c>', 'X="'),
        ("FROM:<a b@c>", "<a b@c>", ""),
    ],
)
def test_path_ends_at_the_bracket_outside_of_quotes(argument: str, path: str, rest: str) -> None:
    assert splitPath(argument, "FROM", False) == (path, rest)


@pytest.mark.parametrize("argument", ["TO: <a@b> X", "to:\t <a@b> X"])
def test_whitespace_after_the_colon_is_tolerated(argument: str) -> None:
    assert splitPath(argument, "TO", False) == ("<a@b>", "X")


@pytest.mark.parametrize("leniently", [False, True])
@pytest.mark.parametrize(
    "argument",
    [
        "",
        "FROM",
        "FROM:",
        "FROM: ",
        "FROM <a@b>",
        "FROM :<a@b>",
        "TO:<a@b>",
        "FROM:<a@b",
        "FROM:<a@b>SIZE=1",
        "FROM:<a@b>>",
        'FROM:<"a@b> SIZE=1',
        'FROM:\t<"a@b> SIZE=1',
    ],
)
def test_other_arguments_have_no_path(argument: str, leniently: bool) -> None:
    assert splitPath(argument, "FROM", leniently) is None


@pytest.mark.parametrize(
    "argument, path, rest",
    [
        ("FROM:a@b", "a@b", ""),
        ("FROM: a@b SIZE=1", "a@b", "SIZE=1"),
        ('FROM:"a b"@c SIZE=1', '"a b"@c', "SIZE=1"),
    ],
)
def test_missing_brackets_are_accepted_when_lenient(argument: str, path: str, rest: str) -> None:
    assert splitPath(argument, "FROM", False) is None
    assert splitPath(argument, "FROM", True) == (path, rest)


# --- Paths ---


@BOTH
@pytest.mark.parametrize(
    "text, local, domain",
    [
        ("<user@example.org>", "user", "example.org"),
        ("<User+tag.x@Example.ORG>", "User+tag.x", "Example.ORG"),
        ("<!#$%&'*+-/=?^_`{|}~@host>", "!#$%&'*+-/=?^_`{|}~", "host"),
        ("<a@1.2-3.4>", "a", "1.2-3.4"),
        ("<a@b--c.d>", "a", "b--c.d"),
        ('<"a>@ b"@c>', '"a>@ b"', "c"),
        (r'<"\"\\\a"@c>', r'"\"\\\a"', "c"),
        ('<""@c>', '""', "c"),
    ],
)
def test_mailbox_is_kept_as_written(parse: Callable[..., Path], text: str, local: str, domain: str) -> None:
    for leniently in (False, True):
        assert parse(text, utf8=False, lenient=leniently) == (f"{local}@{domain}", local, domain)


def test_null_reverse_path() -> None:
    assert parseReversePath("<>", utf8=False, lenient=False) == ("", "", "")


@pytest.mark.parametrize("leniently", [False, True])
def test_null_forward_path_is_refused(leniently: bool) -> None:
    assert codes(refusal(parseForwardPath, "<>", utf8=False, lenient=leniently)) == (501, "5.1.3")


@pytest.mark.parametrize("name", ["postmaster", "Postmaster", "POSTMASTER"])
def test_postmaster_needs_no_domain_as_a_recipient(name: str) -> None:
    assert strict(f"<{name}>") == (name, name, "")
    assert codes(refusal(parseReversePath, f"<{name}>", utf8=False, lenient=False)) == (501, "5.1.7")


@BOTH
@pytest.mark.parametrize("text", ["<@a:user@c>", "<@a,@b.example:user@c>", "<@bücher.de,@b:user@c>"])
def test_source_route_is_dropped(parse: Callable[..., Path], text: str) -> None:
    assert parse(text, utf8=True, lenient=False) == ("user@c", "user", "c")


@pytest.mark.parametrize(
    "text",
    ["<@a>", "<@a:>", "<@:a@b>", "<@a,:a@b>", "<@a,b:a@b>", "<@-a:a@b>", "<@a:postmaster>", "<@a:@b:c@d>"],
)
def test_malformed_source_route_is_refused(text: str) -> None:
    assert codes(refusal(strict, text)) == (501, "5.1.3")


MALFORMED = [
    "",
    "<",
    "<a@b",
    "<<a@b>>",
    "<a>",
    "<@>",
    "<a@>",
    "<@b>",
    "<a@b@c>",
    "<a b@c>",
    "<a@b c>",
    "<(x)a@b>",
    "<a@b,c>",
    "<a@-b>",
    "<a@b->",
    "<a@b-.c>",
    "<a@b..c>",
    "<a@.b>",
    "<a@b!>",
    '<"a@b>',
    '<"a"b@c>',
    '<a"b"@c>',
    '<"a"b"@c>',
    '<"a\\"@c>',
    '<"\\ü"@c>',
    "<a@b\n>",
    "<a\t@b>",
    '<"a\tb"@c>',
    '<"a\rb"@c>',
    '<"\\\x00"@c>',
    "<\x7f@c>",
]


@BOTH
@pytest.mark.parametrize("leniently", [False, True])
@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_mailbox_is_refused(parse: Callable[..., Path], text: str, leniently: bool) -> None:
    code = "5.1.7" if parse is parseReversePath else "5.1.3"
    assert codes(refusal(parse, text, utf8=True, lenient=leniently)) == (501, code)


@pytest.mark.parametrize(
    "text, result",
    [
        ("a@b", "a@b"),
        (" a@b ", "a@b"),
        ("<  a@b >", "a@b"),
        ('"a b"@c', '"a b"@c'),
        ("postmaster", "postmaster"),
        ("<a..b@c>", "a..b@c"),
        ("<.a@c>", ".a@c"),
        ("<a.@c>", "a.@c"),
        ("<a@_b.c_d>", "a@_b.c_d"),
        ("<a@_b.bücher.de>", "a@_b.bücher.de"),
        ("<a@b.c.>", "a@b.c"),
        ("<a@bücher。de。>", "a@bücher.de"),
    ],
)
def test_common_faults_are_accepted_when_lenient(text: str, result: str) -> None:
    assert codes(refusal(strict, text)) == (501, "5.1.3")
    assert lenient(text).address == result


@pytest.mark.parametrize("text", ["  ", "<a@.>", "<a@b..>", "<a@xn--_b.c>", "<a@[1.2.3.4].>", "<\ta@b>", "<a @b>"])
def test_leniency_has_bounds(text: str) -> None:
    assert codes(refusal(lenient, text)) == (501, "5.1.3")


# --- Lengths (RFC 5321 section 4.5.3.1) ---

LONG_DOMAIN = ".".join(["d" * 61] * 4)  # 247 octets


@pytest.mark.parametrize(
    "fits, tooLong, what",
    [
        (f"<{'l' * 252}@d>", f"<{'l' * 253}@d>", "path too long, at most 256 octets"),
        (f"<{'ü' * 126}@d>", f"<{'ü' * 127}@d>", "path too long, at most 256 octets"),
        (f'<"{"l" * 250}"@d>', f'<"{"l" * 251}"@d>', "path too long, at most 256 octets"),
        (f"<a@{'d' * 63}.e>", f"<a@{'d' * 64}.e>", "domain label too long, at most 63 octets"),
        (f"<a@{'ü' * 50}>", f"<a@{'ü' * 60}>", "domain label too long, at most 63 octets"),
        # Each "ü." is eight octets of A-label and full stop.
        (f"<a@{'.'.join(['ü'] * 32)}>", f"<a@{'.'.join(['ü'] * 33)}>", "domain too long, at most 255 octets"),
        (f"<{'l' * 6}@{LONG_DOMAIN}>", f"<{'l' * 7}@{LONG_DOMAIN}>", "path too long, at most 256 octets"),
        (f"<{'ü' * 3}@{LONG_DOMAIN}>", f"<{'ü' * 4}@{LONG_DOMAIN}>", "path too long, at most 256 octets"),
        (f"<@{LONG_DOMAIN}:aa@bb>", f"<@{LONG_DOMAIN}:aa@bbb>", "path too long, at most 256 octets"),
        # Mapping turns the three octets of U+3300 into twelve, so the path exceeds its limit.
        (f"<a@{'㌀.' * 16}b>", f"<{'l' * 60}@{'㌀.' * 16}b>", "path too long, at most 256 octets"),
    ],
)
def test_lengths_are_limited(fits: str, tooLong: str, what: str) -> None:
    for parse in (strict, lenient):
        parse(fits)
        error = refusal(parse, tooLong)
        assert codes(error) == (501, "5.1.3")
        assert what in error.message
    sender = refusal(parseReversePath, tooLong, utf8=True, lenient=False)
    assert codes(sender) == (501, "5.1.7")
    assert what in sender.message


LONG_LOCALS = {
    "Gmail forwarding": "someone.long+caf_=another.one=some-quite-long-domain-name.example.org",
    "SendGrid": "bounces+1234567-89ab-user.name=some-quite-long-domain-name.example.org",
    "Mailman VERP": "a-list-with-a-long-name-bounces+user.name=some-quite-long-domain.example.org",
    "GitHub": "reply+" + "AAAA7Z2EXAMPLE" * 6 + "EVBNHHCDEFGH2Q",
    "quoted": '"' + "l" * 100 + '"',
}


@pytest.mark.parametrize("local", LONG_LOCALS.values(), ids=LONG_LOCALS)
def test_a_local_part_has_no_limit_of_its_own(local: str) -> None:
    assert len(local) > 64
    path = Path(f"{local}@b.example", local, "b.example")
    for leniently in (False, True):
        for parse in (parseReversePath, parseForwardPath):
            assert parse(f"<{path.address}>", utf8=False, lenient=leniently) == path
    if local[0] != '"':
        assert commonPath(f"TO:<{path.address}> NOTIFY=NEVER", "TO") == (path, "NOTIFY=NEVER")


def test_the_fast_path_enforces_the_limit_of_a_path_too() -> None:
    local, domain = "l" * 200, "d" * (256 - len("<@>") - 200)
    assert commonPath(f"TO:<{local}@{domain}>", "TO") is not None
    assert commonPath(f"TO:<{local}l@{domain}>", "TO") is None


# --- Address literals ---


@pytest.mark.parametrize(
    "written, normalized",
    [
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[IPv6:2001:DB8:0::1]", "[IPv6:2001:db8::1]"),
        ("[ipv6:2001:db8:0:0:0:0:0:1]", "[IPv6:2001:db8::1]"),
        ("[IPV6:::]", "[IPv6:::]"),
        ("[IPv6:::FFFF:192.0.2.1]", "[IPv6:::ffff:192.0.2.1]"),
        ("[IPv6:::ffff:c000:201]", "[IPv6:::ffff:192.0.2.1]"),
    ],
)
def test_address_literal_is_normalized(written: str, normalized: str) -> None:
    assert domainOf(f"a@{written}") == normalized


@pytest.mark.parametrize(
    "literal",
    [
        "[]",
        "[1.2.3]",
        "[1.2.3.256]",
        "[01.2.3.4]",
        "[1.2.3.4",
        "[1.2.3.4]x",
        "[1.2.3.4/24]",
        "[[1.2.3.4]]",
        "[\u0661.2.3.4]",
        "[2001:db8::1]",
        "[IPv6:]",
        "[IPv6:1.2.3.4]",
        "[IPv6:1::2::3]",
        "[IPv6:fe80::1%eth0]",
        "[IPv6:fe80::1%25eth0]",
        "[x400:something]",
    ],
)
def test_other_literals_are_refused(literal: str) -> None:
    for parse in (strict, lenient):
        assert codes(refusal(parse, f"<a@{literal}>")) == (501, "5.1.3")


# --- Beyond ASCII ---


@BOTH
@pytest.mark.parametrize("text", ["<ü@b>", "<a@ü>", '<"ü"@b>', "<@ü:a@b>", "ü"])
def test_non_ascii_needs_smtputf8(parse: Callable[..., Path], text: str) -> None:
    error = refusal(parse, text, utf8=False, lenient=False)
    assert codes(error) == (553, "5.6.7")
    assert "SMTPUTF8" in error.message


@pytest.mark.parametrize(
    "written, normalized",
    [
        ("bücher.example", "bücher.example"),
        ("BÜCHER.Example", "bücher.example"),
        ("bu\u0308cher.example", "bücher.example"),
        ("例え。テスト", "例え.テスト"),
        ("\uff45\uff58\uff41mple\uff0eorg", "example.org"),
        ("ﬁ.ü", "fi.ü"),
        ("faß.de", "faß.de"),
        ("XN--bcher-kva.ü", "bücher.ü"),
    ],
)
def test_international_domain_is_normalized_to_u_labels(written: str, normalized: str) -> None:
    assert domainOf(f"a@{written}") == normalized


@pytest.mark.parametrize(
    "domain",
    [
        "ü..de",
        "ü.",
        "-ü.de",
        "ü-.de",
        "a_b.ü",
        "☃.net",
        "٣.א",  # a label of a right-to-left script that begins with a digit (RFC 5893)
        "ab--ü",
        "\u0308a.de",
        "a·b.de",
        "xn--a.ü",
        "ü@b",
    ],
)
def test_domains_that_idna_rejects_are_rejected(domain: str) -> None:
    assert codes(refusal(strict, f"<a@{domain}>")) == (501, "5.1.3")


def test_a_label_is_checked_and_kept_as_written() -> None:
    assert parseForwardPath("<a@XN--bcher-KVA.de>", utf8=False, lenient=False).domain == "XN--bcher-KVA.de"


@pytest.mark.parametrize("domain", ["xn--", "xn---", "xn--a", "xn--a.de", "de.XN--A", "xn--9999999999"])
def test_false_a_label_is_refused(domain: str) -> None:
    for parse in (strict, lenient):
        assert codes(refusal(parse, f"<a@{domain}>")) == (501, "5.1.3")


def test_international_local_part_is_kept_as_written() -> None:
    assert strict("<u\u0308Ü.δοκιμή@b>").local == "u\u0308Ü.δοκιμή"
    assert strict('<"ü 例"@b>').local == '"ü 例"'


HIDDEN = {
    "C1 control": "\x85",
    "no-break space": "\xa0",
    "soft hyphen": "\xad",
    "combining grapheme joiner": "\u034f",
    "hangul filler": "\u115f",
    "khmer inherent vowel": "\u17b4",
    "mongolian variation selector": "\u180b",
    "ideographic space": "\u3000",
    "zero width space": "\u200b",
    "zero width joiner": "\u200d",
    "right-to-left override": "\u202e",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "word joiner": "\u2060",
    "hangul filler, letter": "\u3164",
    "variation selector": "\ufe0f",
    "byte order mark": "\ufeff",
    "halfwidth hangul filler": "\uffa0",
    "surrogate": "\udc80",
    "private use": "\ue000",
    "unassigned": "\U000e0fff",
    "tag": "\U000e0041",
    "variation selector supplement": "\U000e0100",
    "noncharacter": "\uffff",
}


@pytest.mark.parametrize("character", HIDDEN.values(), ids=HIDDEN.keys())
def test_invisible_characters_are_refused_everywhere(character: str) -> None:
    for text in (f"<a{character}b@c>", f'<"a{character}b"@c>', f"<a@b{character}c>", f"<@b{character}c:a@b>"):
        for parse in (strict, lenient):
            assert codes(refusal(parse, text)) == (501, "5.1.3")
    assert codes(refusal(parseParameters, f"A=b{character}c", True)) == (501, "5.5.4")


def test_a_label_does_not_smuggle_a_joiner_into_a_u_label() -> None:
    # IDNA allows the joiner after a virama (RFC 5892 appendix A.2), and the A-label hides it.
    hidden = "xn--" + "क्\u200dष".encode("punycode").decode()
    assert domainOf(f"a@{hidden}") == hidden
    assert "invisible" in refusal(strict, f"<a@{hidden}.ü>").message


# --- Parameters ---


@pytest.mark.parametrize(
    "text, result",
    [
        ("", {}),
        ("   ", {}),
        ("size=1000", {"SIZE": "1000"}),
        ("SMTPUTF8  Body=8bitMIME ", {"SMTPUTF8": True, "BODY": "8bitMIME"}),
        ("AUTH=<> X-1=!~ 1A", {"AUTH": "<>", "X-1": "!~", "1A": True}),
    ],
)
def test_parameters_are_keywords_with_or_without_value(text: str, result: dict[str, str | bool]) -> None:
    assert parseParameters(text, False) == result


@pytest.mark.parametrize(
    "text, about",
    [
        ("SIZE=1 BODY=7BIT size=2", "SIZE"),
        ("SMTPUTF8 SMTPUTF8", "SMTPUTF8"),
        ("SIZE=", "SIZE"),
        ("SIZE=1=2", "SIZE"),
        ("SIZE=\x01", "SIZE"),
        ("SIZE=1\t", "SIZE"),
        ("X=ü", "X"),
        ("=1", "Malformed"),
        ("-A=1", "Malformed"),
        ("A_B=1", "Malformed"),
        ("ü=1", "Malformed"),
        ("A\tB", "Malformed"),
    ],
)
def test_malformed_and_repeated_parameters_are_refused(text: str, about: str) -> None:
    error = refusal(parseParameters, text, False)
    assert codes(error) == (501, "5.5.4")
    assert about in error.message


def test_parameter_values_leave_ascii_only_with_smtputf8() -> None:
    assert parseParameters("ORCPT=utf-8;ü@例え", True) == {"ORCPT": "utf-8;ü@例え"}
    assert codes(refusal(parseParameters, "ü=1", True)) == (501, "5.5.4")


# --- xtext ---


@pytest.mark.parametrize(
    "text, decoded",
    [("", ""), ("rfc822;a@b", "rfc822;a@b"), ("a+2Bb+3D+20c", "a+b= c"), ("!*,<>~+7E", "!*,<>~~")],
)
def test_xtext_is_decoded(text: str, decoded: str) -> None:
    assert decodeXtext(text) == decoded


@pytest.mark.parametrize(
    "text",
    ["+", "a+", "a+2", "+2b", "+2G", "++2B", "a=b", "a b", "a\n", "ü", "+0D+0A", "+00", "+7F", "+85", "+FF"],
)
def test_bad_xtext_is_refused(text: str) -> None:
    assert codes(refusal(decodeXtext, text)) == (501, "5.5.4")


# --- Host names ---


@pytest.mark.parametrize("text", ["mx.example.org", "[192.0.2.1]", "[IPv6:::1]", "my_pc", "192.0.2.1", "h" * 255])
def test_any_printable_helo_name_is_accepted(text: str) -> None:
    assert parseHostname(text) == text


@pytest.mark.parametrize("text", ["", "a b", "a\r", "a\n", "\x7f", "ü", "h" * 256])
def test_empty_long_and_unprintable_helo_names_are_rejected(text: str) -> None:
    assert codes(refusal(parseHostname, text)) == (501, "5.5.4")


# --- Properties ---

ATEXT = "abzABZ059!#$%&'*+-/=?^_`{|}~"
LETTERS = "abzABZ059"
atoms = st.text(ATEXT + "üδ例", min_size=1, max_size=8)
dotStrings = st.lists(atoms, min_size=1, max_size=3).map(".".join)
quotedPairs = st.sampled_from([chr(c) for c in range(32, 127)]).map(lambda c: "\\" + c)
qtext = st.sampled_from([chr(c) for c in range(32, 127) if c not in b'"\\'] + ["ü", "例"])
quotedStrings = st.lists(qtext | quotedPairs, max_size=15).map(lambda parts: f'"{"".join(parts)}"')
labels = st.text(LETTERS, min_size=1, max_size=9)
domains = st.lists(labels | st.sampled_from(["bücher", "例え", "a-b", "xn--bcher-kva"]), min_size=1, max_size=5)
keywords = st.builds(str.__add__, st.sampled_from("AZ09"), st.text("AZ09-", max_size=9))
ipv6 = st.ip_addresses(v=6).filter(lambda a: a.ipv4_mapped is None).map(lambda a: f"[IPv6:{a}]")
ipv4 = st.ip_addresses(v=4).map(lambda a: f"[{a}]")
asciiDomains = domains.map(".".join).filter(str.isascii)

# Pieces of addresses: many concatenations of them are valid addresses, or nearly valid ones.
PIECES = r"""
    < > @ , : ; . " \ = + - _ [ ] ( ) a B 9 xn-- XN-- xn--bcher-kva IPv6: ::1 1.2.3.4 postmaster FROM: TO: a@
    @b ü Ü ß ς İ 。 例え א ٣ क् ⅷ ½ · ㌀
"""
ODD = [*" \t\r\n\x00\x7f\uff0e\uff21\u0308\U0001d41a", "x" * 60, *HIDDEN.values()]
pieces = st.sampled_from(PIECES.split() + ODD)
hostile = st.lists(pieces | st.characters(), max_size=12).map("".join)
# Domains of any letters: mapping and IDNA are the error-prone part.
letters = st.text(st.characters(categories=("L", "M", "N")), min_size=1, max_size=3)
foreign = st.lists(letters | labels | pieces, min_size=1, max_size=3).map(".".join)
paths = st.builds("<{}@{}>".format, dotStrings | quotedStrings, domains.map(".".join) | foreign | ipv4 | ipv6)
nearPaths = st.builds(lambda t, at, p: t[: at % len(t)] + p + t[at % len(t) :], paths, st.integers(0, 99), pieces)
hostilePaths = paths | nearPaths | hostile | hostile.map(lambda t: f"<{t}>")


@calm
@given(dotStrings | quotedStrings, asciiDomains | ipv4 | ipv6)
def test_every_valid_mailbox_is_parsed_from_a_command_unchanged(local: str, domain: str) -> None:
    argument = f"TO:<{local}@{domain}> NOTIFY=NEVER"
    split = splitPath(argument, "TO", False)
    assert split == (f"<{local}@{domain}>", "NOTIFY=NEVER")
    for leniently in (False, True):
        path = parseForwardPath(split[0], utf8=True, lenient=leniently)
        assert path == (f"{local}@{domain}", local, domain)
        assert parseReversePath(split[0], utf8=True, lenient=leniently) == path


@calm
@given(domains.map(".".join))
def test_u_label_and_a_label_name_one_domain(domain: str) -> None:
    aLabels = domain.encode("idna").decode()
    assert domainOf(f"a@{aLabels}.ü") == domainOf(f"a@{domain}.ü")


@calm
@given(
    st.sampled_from(["FROM", "from", "To", "TO"]),
    st.sampled_from(["", " "]),
    hostilePaths | st.builds("<{}@{}>".format, dotStrings, asciiDomains),
    st.sampled_from(["", " ", "  X=1", " X=ü Y", "X"]),
    st.booleans(),
    st.booleans(),
)
def test_the_fast_path_and_the_full_grammar_agree(
    keyword: str, space: str, text: str, parameters: str, utf8: bool, leniently: bool
) -> None:
    argument = f"{keyword}:{space}{text}{parameters}"
    for wanted, parse in (("FROM", parseReversePath), ("TO", parseForwardPath)):
        common = commonPath(argument, wanted)
        if common is not None:
            split = splitPath(argument, wanted, leniently)
            assert split is not None
            assert common == (parse(split[0], utf8=utf8, lenient=leniently), split[1])


def test_the_fast_path_takes_usual_paths() -> None:
    assert commonPath("FROM:<user+tag@mx-1.example.org>", "FROM") is not None
    assert commonPath("to:<a.b@c> NOTIFY=NEVER", "TO") == (Path("a.b@c", "a.b", "c"), "NOTIFY=NEVER")
    for unusual in ("FROM:<>", "FROM:<a@xn--a>", "FROM:<a@b.c.>", f"FROM:<{'a' * 253}@b>", f"FROM:<a@{'b' * 64}>"):
        assert commonPath(unusual, "FROM") is None


@calm
@given(hostilePaths, st.booleans(), st.booleans())
def test_accepted_paths_are_visible_and_parse_to_themselves(text: str, utf8: bool, leniently: bool) -> None:
    for parse in (parseReversePath, parseForwardPath):
        try:
            path = parse(text, utf8=utf8, lenient=leniently)
        except SMTPError as error:
            assert codes(error) in [(501, "5.1.7"), (501, "5.1.3"), (553, "5.6.7")]
            continue
        for character in path.address:
            assert character == " " or unicodedata.category(character)[0] not in "CZ"
            assert character not in HIDDEN.values()
        assert utf8 or path.address.isascii()
        assert len(path.address.encode()) <= 254
        assert parse(f"<{path.address}>", utf8=utf8, lenient=leniently) == path


@calm
@given(hostile | hostile.map("FROM:".__add__), st.booleans())
def test_a_split_argument_is_whole(argument: str, leniently: bool) -> None:
    split = splitPath(argument, "FROM", leniently)
    if split is not None:
        path, rest = split
        assert leniently or (path[0] == "<" and path[-1] == ">")
        assert re.fullmatch(r"FROM:[ \t]*" + re.escape(path) + "( +" + re.escape(rest) + ")?", argument, re.I)


@calm
@given(st.dictionaries(keywords, st.just(True) | st.text("!<>~aü", min_size=1)))
def test_parameters_round_trip(parameters: dict[str, str | bool]) -> None:
    text = "  ".join(keyword if value is True else f"{keyword}={value}" for keyword, value in parameters.items())
    assert parseParameters(text, True) == parameters


@calm
@given(hostile, st.booleans())
def test_accepted_parameters_hold_visible_values(text: str, utf8: bool) -> None:
    try:
        parameters = parseParameters(text, utf8)
    except SMTPError as error:
        assert codes(error) == (501, "5.5.4")
    else:
        for value in parameters.values():
            assert value is True or (str(value).isprintable() and " " not in str(value) and value)


@given(st.text([chr(c) for c in range(32, 127)]))
def test_xtext_round_trips(text: str) -> None:
    # RFC 3461 section 4: "+", "=" and characters that are not printable must be encoded, others may be.
    encoded = "".join(c if "!" <= c <= "~" and c not in "+=" else f"+{ord(c):02X}" for c in text)
    assert decodeXtext(encoded) == text
    assert decodeXtext("".join(f"+{ord(c):02X}" for c in text)) == text


@given(hostile | st.text("+=0123456789ABCDEFabc\n", max_size=9))
def test_decoded_xtext_and_host_names_are_printable_ascii(text: str) -> None:
    for parse in (decodeXtext, parseHostname):
        try:
            result = parse(text)
        except SMTPError as error:
            assert codes(error) == (501, "5.5.4")
        else:
            assert result.isascii()
            assert result.isprintable()


@pytest.mark.parametrize(
    "piece", [*'a-"<>[ü \t', "a.", "a-", '"a"', '\\"', '"\\', "@a,", "@a:", "ü.", "xn--", "+41", "a=b ", "a "]
)
@pytest.mark.parametrize(
    "prefix, suffix", [("", ""), ("<a@", ">"), ("<", "@b>"), ('<"', '"@b>'), ("FROM:<", "!"), ("FROM:", '"')]
)
def test_long_hostile_text_is_parsed_in_one_pass(piece: str, prefix: str, suffix: str) -> None:
    # A pattern that backtracks would not finish on any of these.
    text = prefix + piece * (100_000 // len(piece)) + suffix
    for keyword in ("FROM", "TO"):
        commonPath(text, keyword)
        for leniently in (False, True):
            splitPath(text, keyword, leniently)
    for leniently in (False, True):
        assert codes(refusal(parseReversePath, text, utf8=True, lenient=leniently)) == (501, "5.1.7")
        assert codes(refusal(parseForwardPath, text, utf8=True, lenient=leniently)) == (501, "5.1.3")
    for parse in (decodeXtext, parseHostname, lambda t: parseParameters(t, True)):
        try:
            parse(text)
        except SMTPError as error:
            assert codes(error) == (501, "5.5.4")
