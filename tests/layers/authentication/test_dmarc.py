"""DMARC: records, the tree walk, alignment and policies, with the examples of RFC 9989."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.layers.authentication.dkimcheck import DKIMResult
from smtphooks.layers.authentication.dmarc import (
    DMARCRecord,
    DMARCResult,
    checkDMARC,
    namesOf,
    organizationOf,
    parseRecord,
)
from smtphooks.layers.authentication.questions import EXISTS, Answers, TemporaryFailure


class Zone(Answers):
    """
    All answers of the DNS: those of a dict, and that there is nothing else.

    @ivar asked: the questions.
    """

    def __init__(self, records: dict[str, Any], existing: Sequence[str] = ()) -> None:
        super().__init__()
        self.asked: list[tuple[str, str]] = []
        for domain, found in records.items():
            octets = found if isinstance(found, TemporaryFailure) else [found] if isinstance(found, bytes) else found
            self.learn(f"_dmarc.{domain}", "TXT", octets)
        for name in existing:
            self.learn(name, EXISTS, [True])

    def lookUp(self, name: str, kind: str) -> list[Any]:
        if (name, kind) not in self.asked:
            self.asked.append((name, kind))
        try:
            return super().lookUp(name, kind)
        except TemporaryFailure:
            raise
        except Exception:
            self.missing.clear()
            return []


@attrs.frozen
class SPF:
    result: str
    domain: str


def dkim(domain: str, result: str = "pass", **more: Any) -> DKIMResult:
    return DKIMResult(result, domain=domain, **more)


def check(author: str, zone: dict[str, Any] | Zone, *signatures: DKIMResult, spf: SPF | None = None) -> DMARCResult:
    answers = zone if isinstance(zone, Zone) else Zone(zone)
    return checkDMARC([f" x@{author}".encode()], spf, signatures, answers)


# --- Records ---

DEFAULTS = DMARCRecord("a.example", "none")


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"v=DMARC1; p=none", DEFAULTS),
        (b"v=DMARC1;p=none;", DEFAULTS),
        (b"V = DMARC1 ; p = NONE ; ", DEFAULTS),
        (b"v=DMARC1; p=quarantine", attrs.evolve(DEFAULTS, policy="quarantine")),
        (b"v=DMARC1; rua=mailto:x@a.example; p=reject", attrs.evolve(DEFAULTS, policy="reject")),
        (
            b"v=DMARC1; p=reject; sp=quarantine; np=none",
            DMARCRecord("a.example", "reject", "quarantine", "none"),
        ),
        (b"v=DMARC1; p=none; psd=y", attrs.evolve(DEFAULTS, isSuffix=True)),
        (b"v=DMARC1; p=none; psd=n", attrs.evolve(DEFAULTS, isSuffix=False)),
        (b"v=DMARC1; p=none; psd=u", DEFAULTS),
        (b"v=DMARC1; p=none; psd=?", DEFAULTS),
        (b"v=DMARC1; p=none; t=y", attrs.evolve(DEFAULTS, isTest=True)),
        (b"v=DMARC1; p=none; t=n; t=y", DEFAULTS),
        (b"v=DMARC1; p=none; adkim=s; aspf=S", attrs.evolve(DEFAULTS, isStrictForDKIM=True, isStrictForSPF=True)),
        (b"v=DMARC1; p=none; adkim=r; aspf=x", DEFAULTS),
        (b"v=DMARC1; p=none; pct=0; ri=1; rf=afrf; new=1; fo=1:d; !; =; \xff=\xff; ;;", DEFAULTS),
        # RFC 9989 section 4.10.1
        (b"v=DMARC1", attrs.evolve(DEFAULTS, policy=None)),
        (b"v=DMARC1; psd=y", attrs.evolve(DEFAULTS, policy=None, isSuffix=True)),
        (b"v=DMARC1; rua=mailto:x@a.example", DEFAULTS),
        (b"v=DMARC1; p=rejekt; rua=mailto:x@a.example", DEFAULTS),
        (b"v=DMARC1; p=reject; sp=x; np=reject; rua=oops,mailto:x@a.example!10m", DEFAULTS),
        (b"v=DMARC1; p=reject; np=; rua=https://a.example/", DEFAULTS),
        (b"v=DMARC1; p=reject; sp=x", attrs.evolve(DEFAULTS, policy=None)),
        (b"v=DMARC1; p=reject; sp=x; rua=x@a.example", attrs.evolve(DEFAULTS, policy=None)),
        # no record
        (b"", None),
        (b"v=spf1 -all", None),
        (b"p=none; v=DMARC1", None),
        (b"v=DMARC2; p=none", None),
        (b"v=DMARC1 p=none", None),
        (b"v=dmarc1; p=none", None),
        (b"v=DMARC11; p=none", None),
        (b" v=DMARC1; p=none", None),
    ],
)
def test_records_are_read_as_the_rfc_says(octets: bytes, expected: DMARCRecord | None) -> None:
    assert parseRecord(octets, "a.example") == expected


POLICIES = st.sampled_from(["none", "quarantine", "reject"])
SPACES = st.sampled_from(["", " ", "\t "])
NAMES = ["v", "p", "sp", "np", "psd", "t", "adkim", "aspf", "rua", "ruf", "fo", "pct", "=", ";", " ", "DMARC1", "none"]


@given(st.lists(st.sampled_from([*NAMES, "reject", "y", "s", "mailto:a@b", "\0"])).map("".join) | st.text())
def test_any_record_has_a_policy_or_none(text: str) -> None:
    for octets in (text.encode("utf-8", "replace"), b"v=DMARC1;" + text.encode("utf-8", "replace")):
        record = parseRecord(octets)
        if record is not None:
            assert record.policy in ("none", "quarantine", "reject", None)
            for policy in (record.subdomainPolicy, record.nonexistentPolicy):
                assert policy in ("none", "quarantine", "reject", None)


@given(POLICIES, st.none() | POLICIES, st.none() | POLICIES, st.booleans(), st.booleans(), SPACES, st.randoms())
def test_a_well_formed_record_is_read_in_any_order_of_its_tags(
    policy: str, sp: str | None, np: str | None, isTest: bool, isStrict: bool, space: str, random: Any
) -> None:
    tags = {"p": policy, "sp": sp, "np": np, "t": "y" if isTest else "n", "adkim": "s" if isStrict else None}
    written = [f"{name}{space}={space}{value}" for name, value in tags.items() if value is not None]
    random.shuffle(written)
    octets = f"{space};{space}".join(["v=DMARC1", *written]).encode()
    assert parseRecord(octets) == DMARCRecord("", policy, sp, np, None, isTest, isStrict)


# --- The tree walk ---


def test_the_walk_jumps_to_seven_labels_and_asks_at_most_eight_times() -> None:
    # RFC 9989 section 4.10
    assert namesOf("a.b.c.d.e.f.g.h.i.j.mail.example.com") == [
        "a.b.c.d.e.f.g.h.i.j.mail.example.com",
        "g.h.i.j.mail.example.com",
        "h.i.j.mail.example.com",
        "i.j.mail.example.com",
        "j.mail.example.com",
        "mail.example.com",
        "example.com",
        "com",
    ]
    assert namesOf("com") == ["com"]
    assert namesOf("a.mail.example.com") == ["a.mail.example.com", "mail.example.com", "example.com", "com"]
    for labels, second in ((7, 6), (8, 7), (9, 7), (100, 7)):
        names = namesOf(".".join(map(str, range(labels))))
        assert [name.count(".") + 1 for name in names] == [labels, *range(second, 0, -1)]
        assert len(names) <= 8


def organization(start: str, **records: str) -> str:
    """The organizational domain; records are named by their domains, with "_" for a dot."""
    found = []
    for name in namesOf(start):
        tags = records.get(name.replace(".", "_"))
        if tags is not None:
            record = parseRecord(f"v=DMARC1; {tags}".encode(), name)
            assert record is not None
            found.append(record)
            if record.isSuffix is not None:
                break
    return organizationOf(start, found)


@pytest.mark.parametrize(
    ("start", "records", "expected"),
    [
        # RFC 9989 section 4.10.2
        ("a.mail.example.com", {"mail_example_com": "", "example_com": ""}, "example.com"),
        ("a.mail.example.com", {"mail_example_com": "psd=n", "example_com": ""}, "mail.example.com"),
        ("a.mail.example.com", {"com": "psd=y"}, "example.com"),
        ("a.mail.example.com", {"example_com": "psd=y"}, "mail.example.com"),
        # without records, and with the first one
        ("a.mail.example.com", {}, "a.mail.example.com"),
        ("a.mail.example.com", {"a_mail_example_com": ""}, "a.mail.example.com"),
        ("a.mail.example.com", {"a_mail_example_com": "psd=n", "example_com": ""}, "a.mail.example.com"),
        ("a.mail.example.com", {"a_mail_example_com": "psd=y", "example_com": ""}, "a.mail.example.com"),
        ("a.mail.example.com", {"a_mail_example_com": "psd=u", "example_com": "psd=u"}, "example.com"),
        ("a.mail.example.com", {"example_com": "psd=n", "com": "psd=y"}, "example.com"),
        ("a.mail.example.com", {"example_com": "", "com": ""}, "com"),
        ("com", {"com": "psd=y"}, "com"),
        # the name below a public suffix that the walk has jumped over
        ("i.h.g.f.e.d.c.b.a", {"g_f_e_d_c_b_a": "psd=y"}, "h.g.f.e.d.c.b.a"),
    ],
)
def test_the_organizational_domain_is_found(start: str, records: dict[str, str], expected: str) -> None:
    assert organization(start, **records) == expected


LABELS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=12)


@given(LABELS, st.lists(st.sampled_from(["", "", "psd=y", "psd=n", None]), min_size=8, max_size=8))
def test_the_organizational_domain_is_the_domain_or_above_it(labels: list[str], tags: list[str | None]) -> None:
    start = ".".join(labels)
    records = {name.replace(".", "_"): tag for name, tag in zip(namesOf(start), tags, strict=False) if tag is not None}
    assert f".{start}".endswith(f".{organization(start, **records)}")


def test_the_walk_asks_for_all_names_above_the_first_at_once() -> None:
    answers = Answers()
    checkDMARC([b" x@a.b.example"], None, [dkim("b.example")], answers)
    assert list(answers.missing) == [("_dmarc.a.b.example", "TXT")]
    answers.learn("_dmarc.a.b.example", "TXT", [RELAXED])
    answers.missing.clear()
    checkDMARC([b" x@a.b.example"], None, [dkim("b.example")], answers)
    assert list(answers.missing) == [("_dmarc.b.example", "TXT"), ("_dmarc.example", "TXT")]


def test_an_identifier_that_is_the_author_s_domain_needs_one_answer() -> None:
    zone = Zone({"a.b.example": RELAXED, "b.example": RELAXED})
    assert check("a.b.example", zone, dkim("a.b.example")) == DMARCResult(
        "pass", "a.b.example", "reject", "a.b.example", "a.b.example"
    )
    assert zone.asked == [("_dmarc.a.b.example", "TXT")]


# --- Alignment ---

RELAXED, STRICT = b"v=DMARC1; p=reject", b"v=DMARC1; p=reject; adkim=s; aspf=s"


@pytest.mark.parametrize(
    ("identifier", "author", "isRelaxed", "isStrict"),
    [
        # RFC 9989 section 4.4, table 1
        ("foo.example.com", "news.example.com", True, False),
        ("news.example.com", "news.example.com", True, True),
        ("foo.example.net", "news.example.com", False, False),
        # and others
        ("example.com", "example.com", True, True),
        ("example.com", "news.example.com", True, False),
        ("news.example.com", "example.com", True, False),
        ("a.b.c.d.e.f.g.h.i.example.com", "example.com", True, False),
        ("EXAMPLE.com", "Example.COM", True, True),
        ("com", "example.com", False, False),
        ("badexample.com", "example.com", False, False),
        ("example.com.evil.example", "example.com", False, False),
        ("other.com", "example.com", False, False),
        ("", "example.com", False, False),
    ],
)
def test_identifiers_are_aligned_or_not(identifier: str, author: str, isRelaxed: bool, isStrict: bool) -> None:
    for record, isAligned in ((RELAXED, isRelaxed), (STRICT, isStrict)):
        zone = {"example.com": record}
        expected = "pass" if isAligned else "fail"
        assert check(author, zone, dkim(identifier.lower())).result == expected
        assert check(author, zone, spf=SPF("pass", identifier)).result == expected
        for result in ("fail", "none", "neutral", "softfail", "permerror"):
            assert check(author, zone, dkim(identifier, result), spf=SPF(result, identifier)).result == "fail"


def test_strictness_is_chosen_for_each_mechanism() -> None:
    zone = {"example.com": b"v=DMARC1; p=reject; adkim=s"}
    assert check("example.com", zone, dkim("a.example.com")).result == "fail"
    assert check("example.com", zone, spf=SPF("pass", "a.example.com")).result == "pass"
    zone = {"example.com": b"v=DMARC1; p=reject; aspf=s"}
    assert check("example.com", zone, dkim("a.example.com")).result == "pass"
    assert check("example.com", zone, spf=SPF("pass", "a.example.com")).result == "fail"


def test_one_of_several_signatures_is_enough() -> None:
    assert check("a.example", {"a.example": RELAXED}, dkim("b.example"), dkim("a.example")).result == "pass"
    assert check("a.example", {"a.example": RELAXED}, dkim("b.example"), dkim("a.example", "fail")).result == "fail"


def test_a_signature_of_a_part_of_the_body_is_not_enough() -> None:
    assert check("a.example", {"a.example": RELAXED}, dkim("a.example", coversBody=False)).result == "fail"


def test_tenants_of_a_public_suffix_are_not_aligned() -> None:
    zone = {"host.example": b"v=DMARC1; p=none; psd=y", "one.host.example": RELAXED, "two.host.example": RELAXED}
    assert check("one.host.example", zone, dkim("two.host.example")).result == "fail"
    assert check("one.host.example", zone, dkim("host.example")).result == "fail"
    assert check("one.host.example", zone, dkim("a.one.host.example")).result == "pass"


def test_a_part_of_an_organization_may_be_one_of_its_own() -> None:
    zone = {"example.com": RELAXED, "lab.example.com": b"v=DMARC1; p=reject; psd=n"}
    assert check("example.com", zone, dkim("lab.example.com")).result == "fail"
    assert check("lab.example.com", zone, dkim("example.com")).result == "fail"
    assert check("lab.example.com", zone, dkim("a.lab.example.com")).result == "pass"


def test_domains_that_cannot_be_aligned_cost_no_query() -> None:
    zone = Zone({"example.com": RELAXED})
    signatures = [dkim(f"a.b.c.d.e.f.g{number}.evil.example") for number in range(10)]
    assert check("example.com", zone, *signatures, spf=SPF("pass", "a.b.c.d.evil.example")).result == "fail"
    assert len(zone.asked) == 2


# --- Policies ---


@pytest.mark.parametrize(
    ("author", "records", "policy", "policyDomain"),
    [
        ("example.com", {"example.com": b"v=DMARC1; p=reject; sp=none; np=quarantine"}, "reject", "example.com"),
        ("a.example.com", {"example.com": b"v=DMARC1; p=reject"}, "reject", "example.com"),
        ("a.example.com", {"example.com": b"v=DMARC1; p=reject; sp=none"}, "none", "example.com"),
        ("a.example.com", {"example.com": b"v=DMARC1; p=none; sp=none; np=reject"}, "none", "example.com"),
        ("no.example.com", {"example.com": b"v=DMARC1; p=none; sp=none; np=reject"}, "reject", "example.com"),
        ("no.example.com", {"example.com": b"v=DMARC1; p=none; sp=quarantine"}, "quarantine", "example.com"),
        ("no.example.com", {"example.com": b"v=DMARC1; p=quarantine"}, "quarantine", "example.com"),
        # the author's own record comes first, but not one between
        ("a.example.com", {"a.example.com": b"v=DMARC1; p=none", "example.com": RELAXED}, "none", "a.example.com"),
        ("a.b.example.com", {"b.example.com": b"v=DMARC1; p=none", "example.com": RELAXED}, "reject", "example.com"),
        # a public suffix, if the organization has none
        ("a.example.com", {"com": b"v=DMARC1; p=none; sp=quarantine; psd=y"}, "quarantine", "com"),
        ("no.example.com", {"com": b"v=DMARC1; p=none; np=reject; psd=y"}, "reject", "com"),
        ("a.example.com", {"com": RELAXED + b"; psd=y", "example.com": b"v=DMARC1; p=none"}, "none", "example.com"),
        ("com", {"com": b"v=DMARC1; p=reject; sp=none; psd=y"}, "reject", "com"),
        # tests
        ("example.com", {"example.com": b"v=DMARC1; p=reject; t=y"}, "quarantine", "example.com"),
        ("example.com", {"example.com": b"v=DMARC1; p=quarantine; t=y"}, "none", "example.com"),
        ("example.com", {"example.com": b"v=DMARC1; p=none; t=y"}, "none", "example.com"),
        ("no.example.com", {"example.com": b"v=DMARC1; p=none; np=reject; t=y"}, "quarantine", "example.com"),
        # several records are none, unless only one is of DMARC
        ("a.example.com", {"a.example.com": [RELAXED] * 2, "example.com": b"v=DMARC1; p=none"}, "none", "example.com"),
        ("example.com", {"example.com": [b"v=spf1 -all", RELAXED, b""]}, "reject", "example.com"),
    ],
)  # fmt: skip
def test_the_policy_that_applies_is_found(author: str, records: dict[str, Any], policy: str, policyDomain: str) -> None:
    result = check(author, Zone(records, existing=["a.example.com"]))
    assert (result.result, result.policy, result.policyDomain) == ("fail", policy, policyDomain)
    assert result.domain == author
    assert check(author, Zone(records), dkim(author)).result == "pass"


@pytest.mark.parametrize(
    "records",
    [
        {},
        {"example.com": [RELAXED, RELAXED]},
        {"example.com": b"v=DMARC1"},
        {"example.com": b"v=DMARC1; p=x"},
        {"other.com": RELAXED},
    ],
)
def test_without_a_policy_dmarc_does_not_apply(records: dict[str, Any]) -> None:
    assert check("example.com", records, dkim("example.com")).result == "none"
    assert check("example.com", records).policy == "none"


def test_whether_the_name_exists_is_asked_only_where_it_matters() -> None:
    zone = Zone({"example.com": b"v=DMARC1; p=none; np=reject"})
    check("example.com", zone)
    assert not [name for name, kind in zone.asked if kind == EXISTS]
    check("no.example.com", zone)
    assert [name for name, kind in zone.asked if kind == EXISTS] == ["no.example.com"]


@pytest.mark.parametrize(("psd", "organization"), [(b"y", "a.b.example"), (b"n", "a.b.example"), (b"u", "b.example")])
def test_the_walk_ends_where_a_record_says_so(psd: bytes, organization: str) -> None:
    zone = {"a.b.example": b"v=DMARC1; p=none; psd=" + psd, "b.example": RELAXED}
    assert check("a.b.example", zone).organization == organization


def test_the_result_tells_the_organization() -> None:
    assert check("a.b.example.com", {"example.com": RELAXED}, dkim("example.com")) == DMARCResult(
        "pass", "a.b.example.com", "reject", "example.com", "example.com"
    )


# --- Authors ---


def checkFrom(*values: bytes, signed: str, zone: dict[str, Any]) -> DMARCResult:
    return checkDMARC(values, None, [dkim(signed)], Zone(zone))


TWO = {"bank.example": RELAXED, "shop.example": b"v=DMARC1; p=quarantine", "own.example": RELAXED}


@pytest.mark.parametrize(
    ("values", "result", "domain", "policy"),
    [
        ([b" a@own.example"], "pass", "own.example", "reject"),
        ([b" a@own.example, b@own.example"], "pass", "own.example", "reject"),
        ([b" a@own.example", b" b@own.example"], "pass", "own.example", "reject"),
        ([b" a@own.example, b@bank.example"], "fail", "bank.example", "reject"),
        ([b" a@bank.example, b@own.example"], "fail", "bank.example", "reject"),
        ([b" a@own.example", b" b@bank.example"], "fail", "bank.example", "reject"),
        ([b" a@bank.example <b@own.example>"], "fail", "bank.example", "reject"),
        ([b" a@shop.example, b@bank.example, c@own.example"], "fail", "bank.example", "reject"),
        ([b" a@own.example, b@none.example"], "none", "none.example", "none"),
        ([b" a@b\xc3\xbccher.example"], "none", "xn--bcher-kva.example", "none"),
        ([], "permerror", "", "none"),
        ([b" "], "permerror", "", "none"),
        ([b" a@[192.0.2.1]"], "permerror", "", "none"),
        ([b" " + b",".join(b"a@a%d.example" % number for number in range(5))], "permerror", "", "none"),
    ],
)
def test_each_author_is_checked_and_the_worst_result_counts(
    values: list[bytes], result: str, domain: str, policy: str
) -> None:
    found = checkFrom(*values, signed="own.example", zone=TWO)
    assert (found.result, found.domain, found.policy) == (result, domain, policy)
    assert bool(found.reason) == (result == "permerror")


# --- Failures of the DNS ---

BROKEN = TemporaryFailure("no answer")


@pytest.mark.parametrize(
    ("records", "signatures", "result"),
    [
        ({"a.example": BROKEN}, [dkim("a.example")], "temperror"),
        ({"a.example": RELAXED, "example": BROKEN}, [dkim("a.example")], "pass"),
        ({"a.example": RELAXED, "example": BROKEN}, [dkim("b.a.example")], "temperror"),
        ({"a.example": b"v=DMARC1; p=reject; psd=n", "example": BROKEN}, [dkim("a.example")], "pass"),
        ({"a.example": RELAXED}, [dkim("a.example", "temperror")], "temperror"),
        ({"a.example": RELAXED}, [dkim("b.a.example", "temperror")], "temperror"),
        ({"a.example": RELAXED}, [dkim("a.example", "temperror"), dkim("a.example")], "pass"),
        ({"a.example": RELAXED, "b.a.example": BROKEN}, [dkim("b.a.example")], "temperror"),
        # of others
        ({"a.example": RELAXED}, [dkim("evil.example", "temperror")], "fail"),
        ({"a.example": RELAXED, "evil.example": BROKEN}, [dkim("evil.example")], "fail"),
    ],
)
def test_a_failure_of_the_dns_is_temporary_if_it_matters(
    records: dict[str, Any], signatures: list[DKIMResult], result: str
) -> None:
    found = check("a.example", records, *signatures)
    assert found.result == result
    assert bool(found.reason) == (result == "temperror")


def test_a_temporary_error_of_spf_is_temporary_if_it_is_aligned() -> None:
    zone = {"a.example": RELAXED}
    assert check("a.example", zone, spf=SPF("temperror", "b.a.example")).result == "temperror"
    assert check("a.example", zone, spf=SPF("temperror", "evil.example")).result == "fail"
    assert check("a.example", zone, dkim("a.example"), spf=SPF("temperror", "a.example")).result == "pass"


def test_a_long_name_is_not_asked_for() -> None:
    author = ".".join(["a" * 60] * 4) + ".example"
    answers = Answers()
    checkDMARC([f" x@{author}".encode()], None, [], answers)
    assert all(len(name) <= 253 for name, _ in answers.missing)


@given(
    st.lists(st.binary(max_size=20) | st.sampled_from([b" a@a.example", b" b@b.a.example, c@a.example"]), max_size=3),
    st.dictionaries(
        st.sampled_from(["a.example", "b.a.example", "example"]),
        st.sampled_from([RELAXED, STRICT, b"v=DMARC1; p=none; psd=y", b"v=DMARC1; psd=n; sp=reject", BROKEN, []]),
    ),
    st.lists(
        st.builds(dkim, st.sampled_from(["a.example", "c.b.a.example", ""]), st.sampled_from(["pass", "temperror"]))
    ),
)
def test_whatever_it_is_there_is_one_result(
    values: list[bytes], records: dict[str, Any], signatures: list[DKIMResult]
) -> None:
    result = checkDMARC(values, None, signatures, Zone(records))
    assert result.result in ("pass", "fail", "none", "temperror", "permerror")
    assert result.policy in ("none", "quarantine", "reject")
    if result.result == "pass":
        assert any(signature.authenticates for signature in signatures)
