"""Mailboxes: one form for all spellings of a mailbox, and lists as operators write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks import Address
from smtphooks.layers.mailboxes import (
    Listing,
    canonicalAddress,
    canonicalDomain,
    canonicalLocal,
    listingOf,
    parseEntry,
    readListing,
)
from smtphooks.syntax.grammar import parseForwardPath

# --- One form ---


@pytest.mark.parametrize(
    "local, canonical",
    [
        ("ann", "ann"),
        ("Ann", "ann"),
        ('"ann"', "ann"),
        ('"A\\nn"', "ann"),
        ('"ann smith"', "ann smith"),
        ('"a@b"', "a@b"),
        ('"a\\"b"', 'a"b'),
        ("GÄNSE", "gänse"),
        ("ga\u0308nse", "gänse"),
        ("straße", "strasse"),
        ('""', ""),
    ],
)
def test_spellings_of_one_local_part_have_one_form(local: str, canonical: str) -> None:
    assert canonicalLocal(local) == canonical


@pytest.mark.parametrize(
    "domain, canonical",
    [
        ("Example.ORG", "example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.Example", "xn--bcher-kva.example"),
        ("bücher\u3002example", "xn--bcher-kva.example"),
        ("a_b.example", "a_b.example"),
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[IPv6:2001:DB8:0::1]", "[ipv6:2001:db8::1]"),
    ],
)
def test_spellings_of_one_domain_have_one_form(domain: str, canonical: str) -> None:
    assert canonicalDomain(domain) == canonical


@pytest.mark.parametrize(
    "domain", ["", ".", "a..b", "-a.example", "a b", "a" * 64, "a.example.", "[192.0.2]", "[a", "bü cher", "x" * 300]
)
def test_what_is_no_domain_is_an_error(domain: str) -> None:
    with pytest.raises(ValueError, match=r"domain|literal"):
        canonicalDomain(domain)


def test_the_null_reverse_path_and_the_bare_postmaster_are_addresses_of_their_own() -> None:
    assert canonicalAddress(Address("")) == ""
    assert canonicalAddress(Address("Postmaster", "Postmaster")) == "postmaster@"


def test_an_address_with_a_domain_that_cannot_be_read_is_compared_in_lower_case() -> None:
    assert canonicalAddress(Address("A@B..C", "A", "B..C")) == "a@b..c"


# --- Entries ---


@pytest.mark.parametrize(
    "text, entry",
    [
        ("Ann@Example.org", ("ann", "example.org")),
        ("@Example.org", ("", "example.org")),
        ("Postmaster", ("postmaster", "")),
        ('"ann smith"@example.org', ("ann smith", "example.org")),
        ('"a@b"@example.org', ("a@b", "example.org")),
        ("ann#1@example.org", ("ann#1", "example.org")),
        ("jörg@bücher.example", ("jörg", "xn--bcher-kva.example")),
    ],
)
def test_an_entry_is_a_mailbox_or_all_of_a_domain(text: str, entry: tuple[str, str]) -> None:
    assert parseEntry(text) == entry


@pytest.mark.parametrize(
    "text",
    ["ann", "", "@", "ann@", "ann smith@example.org", '""@example.org', '"ann@example.org', "a@b@c", "<a@b>", "a,b@c"],
)
def test_what_is_no_address_is_an_error_that_shows_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"no address|domain is missing"):
        parseEntry(text)


@given(st.text())
def test_any_text_is_an_entry_or_an_error(text: str) -> None:
    try:
        local, domain = parseEntry(text)
    except ValueError:
        return
    assert local or domain
    assert domain == "" or canonicalDomain(domain) == domain


ATOM = st.text("abcXYZ019.+-_äß", min_size=1).filter(lambda text: "@" not in text)
DOMAIN = st.lists(st.text("abcXYZ019äß", min_size=1, max_size=9), min_size=1, max_size=3).map(".".join)


@given(ATOM, DOMAIN)
def test_a_listed_address_is_found_as_the_server_reads_it_from_a_client(local: str, domain: str) -> None:
    try:
        path = parseForwardPath(f"<{local}@{domain}>", utf8=True, lenient=True)
    except Exception:
        return  # no address of the wire
    listing = listingOf([f"{local}@{domain}"])
    assert listing.has(canonicalLocal(path.local), canonicalDomain(path.domain))
    assert not listing.has(canonicalLocal("other" + path.local), canonicalDomain(path.domain))


# --- Lists ---


def test_a_list_knows_its_mailboxes_and_their_domains() -> None:
    listing = listingOf(["ann@example.org", "@Example.net", "postmaster"])
    assert listing.domains == {"example.org", "example.net"}
    assert listing.has("ann", "example.org")
    assert not listing.has("bob", "example.org")
    assert listing.has("bob", "example.net")
    assert listing.has("postmaster", "")
    assert not listing.has("bob", "")


def test_an_empty_quoted_local_part_is_not_all_of_the_domain() -> None:
    assert not listingOf(["ann@example.org"]).has(canonicalLocal('""'), "example.org")


def test_an_entry_of_another_domain_is_an_error_if_the_domains_are_given() -> None:
    assert listingOf(["ann@example.org", "postmaster"], frozenset({"example.org"})).has("ann", "example.org")
    with pytest.raises(ValueError, match=r"ann@exmaple\.org is in none of the domains"):
        listingOf(["ann@exmaple.org"], frozenset({"example.org"}))


# --- Files ---

FILE = b"""\xef\xbb\xbf# Our people
Ann@example.org   # the boss
   bob@example.org\r

"carl # smith"@example.org
d#e@example.org
@example.net
"""


def test_a_file_has_one_entry_a_line_and_comments() -> None:
    assert readListing(FILE) == Listing(
        frozenset(
            {
                "ann@example.org",
                "bob@example.org",
                "carl # smith@example.org",
                "d#e@example.org",
                "@example.net",
            }
        ),
        frozenset({"example.org", "example.net"}),
    )


@pytest.mark.parametrize(
    "octets, problem",
    [
        (b"ann@example.org\n\nbob\n", "^line 3: bob is no address"),
        (b"ann@example.org\n\xff@example.org\n", "^line 2: it is not written in UTF-8"),
        (b"ann@example..org", "^line 1: example..org is no domain"),
        (b"# ann@example.org\n\n", "^it has no address"),
        (b"", "^it has no address"),
    ],
)
def test_a_malformed_file_is_an_error_that_names_the_line(octets: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        readListing(octets)


@given(st.binary())
def test_any_file_is_a_list_or_an_error(octets: bytes) -> None:
    try:
        listing = readListing(octets)
    except ValueError:
        return
    assert listing.entries


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_the_line_that_an_error_names_is_the_first_that_is_wrong(lines: list[bytes]) -> None:
    lines = [line.replace(b"\n", b"") for line in lines]
    try:
        readListing(b"\n".join([*lines, b"ann@example.org"]))
    except ValueError as error:
        number = int(str(error).split(":")[0].removeprefix("line "))
        with pytest.raises(ValueError, match=r"^line 1: "):
            readListing(lines[number - 1])
        readListing(b"\n".join([*lines[: number - 1], b"ann@example.org"]))
