"""SPF: the suite of RFC 7208, and what it does not have: hostile zones, limits, international names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import spf
import yaml
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.names import dns, error

from smtphooks.layers.authentication.questions import Answers, settled
from smtphooks.layers.authentication.spf import SPFResult, checkHelo, checkMailFrom
from tests.layers.authentication.zones import Silent, Zone, now, text

SUITE = Path(__file__).parent / "data" / "rfc7208-tests.yml"


def payloadsOf(kind: str, value: Any) -> Iterator[Any]:
    if value == "TIMEOUT":
        return
    if kind in ("TXT", "SPF"):
        strings = [value] if isinstance(value, str) else value
        yield dns.Record_TXT(*[text.encode() for text in strings])
    elif kind == "MX":
        yield dns.Record_MX(value[0], value[1].encode())
    else:
        record = getattr(dns, f"Record_{kind}")
        yield record(value.encode() if kind in ("PTR", "CNAME") else value)


def zoneOf(zonedata: dict[str, list[Any]]) -> Zone:
    """The zone of a scenario: records of kind SPF are served as TXT, unless the name has TXT of its own."""
    records: dict[str, list[Any]] = {}
    for name, entries in zonedata.items():
        payloads = records.setdefault(name.lower(), [])
        pairs = [pair for entry in entries if entry != "TIMEOUT" for pair in entry.items()]
        hasText = any(kind == "TXT" for kind, _ in pairs)
        for kind, value in pairs:
            if value != "NONE" and not (kind == "SPF" and hasText):
                payloads += payloadsOf(kind, value)
            if value == "TIMEOUT":
                payloads.append(error.DNSQueryTimeoutError(1))
        if "TIMEOUT" in entries:
            payloads.append(error.DNSQueryTimeoutError(1))
    return Zone(records)


def suite() -> list[Any]:
    with SUITE.open("rb") as file:
        return [
            pytest.param(scenario["zonedata"], case, id=name)
            for scenario in yaml.safe_load_all(file)
            for name, case in scenario["tests"].items()
        ]


def resultOf(function: Callable[[Answers], SPFResult], resolver: Any) -> SPFResult:
    result = now(Deferred.fromCoroutine(settled(function, Answers(), resolver, Clock())))
    assert isinstance(result, SPFResult)
    return result


def test_the_suite_is_whole() -> None:
    assert len(suite()) == 203


@pytest.mark.parametrize("zonedata, case", suite())
def test_the_suite_of_rfc_7208(zonedata: dict[str, list[Any]], case: dict[str, Any]) -> None:
    local, _, domain = case["mailfrom"].rpartition("@")
    result = resultOf(
        lambda answers: checkMailFrom(answers, case["host"], local, domain, case["helo"]), zoneOf(zonedata)
    )
    assert result.result in ([case["result"]] if isinstance(case["result"], str) else case["result"])
    if "explanation" in case:
        assert (result.explanation or "DEFAULT") == case["explanation"]


def mailFrom(domain: str, client: str = "192.0.2.1", local: str = "user") -> Callable[[Answers], SPFResult]:
    return lambda answers: checkMailFrom(answers, client, local, domain, "host.example")


PASS = {"a.example": [text("v=spf1 ip4:192.0.2.1 ip6:2001:db8::/32 -all")]}


@pytest.mark.parametrize(
    "client, result",
    [
        ("192.0.2.1", "pass"),
        ("::ffff:192.0.2.1", "pass"),
        ("2001:db8::5", "pass"),
        ("2001:db8::5%eth0", "pass"),
        ("192.0.2.2", "fail"),
        ("2001:db9::5", "fail"),
    ],
)
def test_clients_of_both_families_are_checked(client: str, result: str) -> None:
    assert resultOf(mailFrom("a.example", client), Zone(PASS)) == SPFResult(result, "mailfrom", "a.example")


def test_helo_is_an_identity_of_its_own() -> None:
    zone = Zone({"host.example": [text("v=spf1 a -all")], "h.host.example": [], **PASS})
    zone.records["host.example"].append(dns.Record_A("192.0.2.1"))
    result = resultOf(lambda answers: checkHelo(answers, "192.0.2.1", "host.example"), zone)
    assert result == SPFResult("pass", "helo", "host.example")


def test_the_null_reverse_path_stands_for_the_postmaster_of_the_name_in_helo() -> None:
    zone = Zone(
        {
            "host.example": [text("v=spf1 exists:%{l}.%{o}.check.example -all")],
            "postmaster.host.example.check.example": [dns.Record_A("127.0.0.2")],
        }
    )
    assert resultOf(mailFrom("", local=""), zone) == SPFResult("pass", "mailfrom", "host.example")


def test_an_at_sign_in_a_quoted_local_part_does_not_change_the_domain() -> None:
    zone = Zone(PASS)
    assert resultOf(mailFrom("a.example", "192.0.2.9", local='"x@evil.example"'), zone).result == "fail"
    assert zone.asked == [("a.example", dns.TXT)]


@pytest.mark.parametrize("domain", ["[192.0.2.1]", "[IPv6:::1]", "localhost", "com.", "a..example", "-\u200d.example"])
def test_what_is_no_domain_has_no_record_and_is_not_asked_for(domain: str) -> None:
    zone = Zone({})
    assert resultOf(mailFrom(domain), zone).result == "none"
    assert zone.asked == []


def test_an_international_domain_is_looked_up_by_its_a_labels() -> None:
    zone = Zone({"xn--bcher-kva.example": [text("v=spf1 exists:%{d}.%{h}.example -all")]})
    zone.records["xn--bcher-kva.example.host.example.example"] = [dns.Record_A("127.0.0.2")]
    assert resultOf(mailFrom("bücher.example", local="ü"), zone) == SPFResult(
        "pass", "mailfrom", "xn--bcher-kva.example"
    )


def test_an_international_local_part_matches_nothing() -> None:
    zone = Zone({"a.example": [text("v=spf1 exists:%{l}.example.com -all")]})
    assert resultOf(mailFrom("a.example", local="ü"), zone).result == "fail"


def test_a_dns_that_cannot_tell_is_a_temporary_error() -> None:
    result = resultOf(mailFrom("a.example"), Zone({"a.example": [error.DNSServerError()]}))
    assert (result.result, result.problem) == ("temperror", "the DNS cannot tell TXT of a.example: DNSServerError")


def test_the_domain_of_a_failure_may_explain_it() -> None:
    zone = Zone(
        {
            "a.example": [text("v=spf1 -all exp=why.a.example")],
            "why.a.example": [text("%{i} may not use %{d}.  See http://%{d}/why.html?s=%{S}")],
        }
    )
    result = resultOf(mailFrom("a.example"), zone)
    assert result.explanation == "192.0.2.1 may not use a.example.  See http://a.example/why.html?s=user%40a.example"
    zone.records["why.a.example"] = [text("x" * 401)]
    assert resultOf(mailFrom("a.example"), zone) == SPFResult("fail", "mailfrom", "a.example")


def test_the_hosts_of_mx_and_ptr_are_asked_for_at_once() -> None:
    answers, silent = Answers(), Silent()
    answers.learn("a.example", "TXT", [b"v=spf1 mx ptr -all"])
    answers.learn("a.example", "MX", [(i, f"mx{i}.example") for i in range(10)])
    answers.learn("1.2.0.192.in-addr.arpa", "PTR", [f"{i}.a.example" for i in range(11)])
    waiting = Deferred.fromCoroutine(settled(mailFrom("a.example"), answers, silent, Clock()))
    assert set(silent.queries) == {f"mx{i}.example" for i in range(10)}
    host = [dns.RRHeader(f"mx{i}.example", dns.A, payload=dns.Record_A("192.0.2.9")) for i in range(10)]
    for query in list(silent.queries.values()):
        query.callback((host, [], []))
    assert set(silent.queries) == {f"mx{i}.example" for i in range(10)} | {f"{i}.a.example" for i in range(10)}
    silent.queries["0.a.example"].errback(error.DNSServerError())
    for i in range(1, 10):
        header = dns.RRHeader(f"{i}.a.example", dns.A, payload=dns.Record_A("192.0.2.1"))
        silent.queries[f"{i}.a.example"].callback(([header], [], []))
    assert now(waiting).result == "pass"


def test_more_than_ten_mail_exchangers_are_a_permanent_error_and_none_is_asked_for() -> None:
    zone = Zone({"a.example": [text("v=spf1 mx -all"), *[dns.Record_MX(1, f"{i}.example") for i in range(1000)]]})
    assert resultOf(mailFrom("a.example"), zone).result == "permerror"
    assert zone.asked == [("a.example", dns.TXT), ("a.example", dns.MX)]


@pytest.mark.parametrize(
    "policy, asked",
    [
        (" ".join(f"a:{i}.b.example" for i in range(11)), 11),  # ten look-ups, and the record
        (" ".join(f"exists:{i}.none.example" for i in range(4)), 4),  # two without an answer may be, the third is not
        ("redirect=a.example", 1),
    ],
)
def test_the_limits_of_rfc_7208_hold(policy: str, asked: int) -> None:
    zone = Zone({f"{i}.b.example": [dns.Record_A("198.51.100.1")] for i in range(11)})
    zone.records["a.example"] = [text(f"v=spf1 {policy}")]
    assert resultOf(mailFrom("a.example"), zone).result == "permerror"
    assert len(zone.asked) == asked


@pytest.mark.parametrize(
    "terms",
    [
        "a:x." + "a" * 400 + ".-",
        " ".join(["ip4:1.1.1.1"] * 201),
        "exists:" + "%{i}." * 65 + "example",
        " ".join([f"m{i}=" + "%{ir}" * 60 for i in range(8)]),
    ],
)
def test_a_record_that_is_made_to_cost_time_is_a_permanent_error(terms: str) -> None:
    result = resultOf(mailFrom("a.example"), Zone({"a.example": [text(f"v=spf1 {terms} -all")]}))
    assert (result.result, result.problem) == ("permerror", "The record of a.example is too long")


def test_an_explanation_stays_short_whatever_its_macros_are_replaced_by() -> None:
    zone = Zone({"a.example": [text("v=spf1 -all exp=why.example")], "why.example": [text("%{h}" * 99)]})
    result = resultOf(lambda answers: checkHelo(answers, "192.0.2.1", "a.example"), zone)
    assert len(result.explanation) == 400


def test_what_a_hostile_zone_may_cost_is_bounded() -> None:
    addresses = [dns.Record_A(f"198.51.100.{i % 250}") for i in range(1000)]
    zone = Zone({f"{i}-{j}.example": addresses for i in range(10) for j in range(10)})
    zone.records["a.example"] = [text("v=spf1 " + " ".join(f"mx:{i}.example" for i in range(10)) + " -all")]
    zone.records |= {f"{i}.example": [dns.Record_MX(1, f"{i}-{j}.example") for j in range(10)] for i in range(10)}
    runs = []

    def counting(answers: Answers) -> SPFResult:
        runs.append(1)
        return mailFrom("a.example")(answers)

    assert resultOf(counting, zone).result == "fail"
    assert len(runs) == 22  # one for the record, and two for each mx
    assert len(zone.asked) == 111


def test_a_fault_of_pyspf_is_a_permanent_error_of_that_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(spf.query, "check0", crash)
    result = resultOf(mailFrom("a.example"), Zone(PASS))
    assert (result.result, result.problem) == ("permerror", "its record cannot be evaluated")


def test_evaluations_that_wait_at_the_same_time_do_not_disturb_each_other() -> None:
    silent = Silent()
    evaluations = [
        Deferred.fromCoroutine(settled(mailFrom(f"{name}.example"), Answers(), silent, Clock())) for name in "ab"
    ]
    for name, policy in (("b", "v=spf1 -all"), ("a", "v=spf1 +all")):
        header = dns.RRHeader(f"{name}.example", dns.TXT, payload=text(policy))
        silent.queries[f"{name}.example"].callback(([header], [], []))
    assert [now(evaluation).result for evaluation in evaluations] == ["pass", "fail"]
