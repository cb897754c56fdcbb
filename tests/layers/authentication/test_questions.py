"""Questions to the DNS for functions that cannot wait, asked of resolvers that answer, fail or are silent."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.names import dns, error

from smtphooks.layers.authentication.questions import Answers, TemporaryFailure, Unknown, isName, settled, together
from tests.layers.authentication.zones import Silent, Zone, now

pytestmark = pytest.mark.usefixtures("logged")


def resultOf(
    function: Callable[[Answers], Any], resolver: Any, answers: Answers | None = None, **limits: Any
) -> Deferred[Any]:
    limits.setdefault("clock", Clock())
    return Deferred.fromCoroutine(settled(function, answers or Answers(), resolver, **limits))


def lookUp(name: str, kind: str = "TXT") -> Callable[[Answers], list[Any]]:
    return lambda answers: answers.lookUp(name, kind)


def test_a_function_is_run_until_no_answer_is_missing() -> None:
    zone = Zone({"a.example": [dns.Record_TXT(b"b.", b"example")], "b.example": [dns.Record_A("192.0.2.1")]})
    runs = []

    def function(answers: Answers) -> list[Any]:
        runs.append(1)
        (octets,) = answers.lookUp("A.example.", "TXT")
        return answers.lookUp(octets.decode(), "A")

    assert now(resultOf(function, zone)) == ["192.0.2.1"]
    assert zone.asked == [("a.example", dns.TXT), ("b.example", dns.A)]
    assert len(runs) == 3


def test_a_function_that_swallows_exceptions_still_gets_its_answers() -> None:
    def function(answers: Answers) -> list[Any]:
        try:
            return answers.lookUp("a.example", "TXT")
        except Exception:
            return [b"wrong"]

    assert now(resultOf(function, Zone({"a.example": [dns.Record_TXT(b"right")]}))) == [b"right"]


def test_a_function_that_hides_an_exception_behind_its_own_still_gets_its_answers() -> None:
    def function(answers: Answers) -> list[Any]:
        try:
            return answers.lookUp("a.example", "TXT")
        except Unknown:
            raise KeyError from None

    assert now(resultOf(function, Zone({"a.example": [dns.Record_TXT(b"right")]}))) == [b"right"]


def test_what_a_function_raises_with_all_answers_is_raised() -> None:
    def function(answers: Answers) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        now(resultOf(function, Zone({})))


def test_the_questions_of_several_functions_are_asked_at_once() -> None:
    silent = Silent()
    waiting = resultOf(together(lookUp("a.example"), lookUp("b.example")), silent)
    assert set(silent.queries) == {"a.example", "b.example"}
    for query in silent.queries.values():
        query.errback(error.DNSNameError())
    assert now(waiting) == [[], []]


@pytest.mark.parametrize(
    "kind, record, value",
    [
        ("TXT", dns.Record_TXT(b"one ", b"two"), b"one two"),
        ("SPF", dns.Record_SPF(b"v=spf1"), b"v=spf1"),
        ("A", dns.Record_A("192.0.2.1"), "192.0.2.1"),
        ("AAAA", dns.Record_AAAA("2001:db8::1"), "2001:db8::1"),
        ("MX", dns.Record_MX(10, "MX.Example"), (10, "mx.example")),
        ("PTR", dns.Record_PTR("Host.Example"), "host.example"),
    ],
)
def test_records_become_plain_values(kind: str, record: Any, value: Any) -> None:
    assert now(resultOf(lookUp("a.example", kind), Zone({"a.example": [record]}))) == [value]


def test_records_of_other_kinds_and_owners_are_no_answer() -> None:
    answer = [
        dns.RRHeader("other.example", dns.A, payload=dns.Record_A("192.0.2.1")),
        dns.RRHeader("a.example", dns.AAAA, payload=dns.Record_AAAA("::1")),
        dns.RRHeader("a.example", dns.A, cls=dns.CH, payload=dns.Record_A("192.0.2.2")),
        dns.RRHeader("a.example", dns.A, payload=dns.UnknownRecord(b"x")),
        dns.RRHeader("a.example", dns.A),
        dns.RRHeader("A.EXAMPLE", dns.A, payload=dns.Record_A("192.0.2.3")),
    ]
    silent = Silent()
    waiting = resultOf(lookUp("a.example", "A"), silent)
    silent.queries["a.example"].callback((answer, [], []))
    assert now(waiting) == ["192.0.2.3"]


@pytest.mark.parametrize(
    "answer, exists",
    [
        (([], [], []), True),
        (([dns.RRHeader("a.example", dns.A, payload=dns.Record_A("192.0.2.1"))], [], []), True),
        (([dns.RRHeader("a.example", dns.CNAME, payload=dns.Record_CNAME("b.example"))], [], []), True),
        (error.DNSNameError(), False),
        (error.AuthoritativeDomainError(), False),
    ],
)
def test_a_name_exists_unless_the_dns_says_that_there_is_no_such_name(answer: Any, exists: bool) -> None:
    silent = Silent()
    waiting = resultOf(lambda answers: answers.exists("A.example."), silent)
    query = silent.queries["a.example"]
    if isinstance(answer, Exception):
        query.errback(answer)
    else:
        query.callback(answer)
    assert now(waiting) is exists


def test_whether_a_name_exists_may_not_be_known() -> None:
    silent = Silent()
    waiting = resultOf(lambda answers: answers.exists("a.example"), silent)
    silent.queries["a.example"].errback(error.DNSServerError())
    with pytest.raises(TemporaryFailure, match=r"a\.example"):
        now(waiting)


def test_aliases_are_followed_in_one_answer_and_over_several() -> None:
    zone = Zone(
        {
            "a.example": [dns.Record_CNAME("B.example")],
            "b.example": [dns.Record_CNAME("c.example")],
            "c.example": [dns.Record_TXT(b"found")],
        }
    )
    assert now(resultOf(lookUp("a.example"), zone)) == [b"found"]
    silent = Silent()
    waiting = resultOf(lookUp("a.example"), silent)
    silent.queries["a.example"].callback(
        (
            [
                dns.RRHeader("a.example", dns.CNAME, payload=dns.Record_CNAME("b.example")),
                dns.RRHeader("b.example", dns.TXT, payload=dns.Record_TXT(b"found")),
            ],
            [],
            [],
        )
    )
    assert now(waiting) == [b"found"]
    assert list(silent.queries) == ["a.example"]


@pytest.mark.parametrize(
    "aliases",
    [
        {"a.example": "a.example"},
        {"a.example": "b.example", "b.example": "a.example"},
        {"a.example": "x.example"},
        {"a.example": "x..example"},
        {"a.example": "x." * 126 + "example"},
        {f"{'a' * i}.example": f"{'a' * (i + 1)}.example" for i in range(1, 100)},
    ],
)
def test_aliases_that_lead_nowhere_are_no_answer(aliases: dict[str, str]) -> None:
    zone = Zone({name: [dns.Record_CNAME(alias.encode())] for name, alias in aliases.items()})
    assert now(resultOf(lookUp("a.example"), zone)) == []
    assert len(zone.asked) < 10


@pytest.mark.parametrize("name", ["", ".", "a..example", ".example", "a" * 64, "a." * 127 + "aa", "ü.example", "a\n.b"])
def test_what_cannot_be_a_name_has_no_answer_and_is_not_asked_for(name: str) -> None:
    assert not isName(name)
    zone = Zone({})
    assert now(resultOf(lookUp(name), zone)) == []
    assert zone.asked == []


@pytest.mark.parametrize("name", ["a", "a" * 63, "a." * 126 + "a", "_dmarc.example.com", "a b.example"])
def test_what_can_be_a_name_is_asked_for(name: str) -> None:
    assert isName(name)


@pytest.mark.parametrize(
    "reason",
    [
        error.DNSServerError(),
        error.DNSQueryRefusedError(),
        error.DNSQueryTimeoutError(1),
        error.ResolverError(),
        CancelledError(),
        OSError("no socket"),
        RuntimeError("a bug"),
    ],
)
def test_a_resolver_that_fails_is_a_temporary_failure(reason: Exception) -> None:
    silent = Silent()
    waiting = resultOf(lookUp("a.example"), silent)
    silent.queries["a.example"].errback(reason)
    with pytest.raises(TemporaryFailure, match=type(reason).__name__):
        now(waiting)


def test_a_resolver_that_raises_is_a_temporary_failure() -> None:
    class Broken:
        def query(self, query: dns.Query, timeout: Any = None) -> Deferred[Any]:
            raise OSError("no file descriptors")

    with pytest.raises(TemporaryFailure, match="no file descriptors"):
        now(resultOf(lookUp("a.example"), Broken()))


def test_a_function_may_go_on_after_a_temporary_failure() -> None:
    def function(answers: Answers) -> str:
        try:
            answers.lookUp("a.example", "TXT")
        except TemporaryFailure:
            return "later"
        return "now"

    silent = Silent()
    waiting = resultOf(function, silent)
    silent.queries["a.example"].errback(error.DNSServerError())
    assert now(waiting) == "later"


def oneByOne(answers: Answers) -> list[str]:
    """The addresses of three names, or why they are not known; each is asked for when the one before is answered."""
    results = []
    for name in ("a.example", "b.example", "c.example"):
        try:
            results.append(str(answers.lookUp(name, "A")))
        except TemporaryFailure as failure:
            results.append(str(failure))
    return results


LATE = [f"no answer in time about A of {name}.example" for name in "abc"]


def test_all_questions_together_have_one_deadline_and_none_takes_all_of_the_time() -> None:
    clock, silent = Clock(), Silent()
    waiting = resultOf(oneByOne, silent, clock=clock, timeout=10)
    clock.advance(4)
    silent.queries["a.example"].errback(error.DNSNameError())
    clock.advance(2.9)
    assert list(silent.queries) == ["a.example", "b.example"]
    clock.advance(0.1)
    assert list(silent.queries) == ["a.example", "b.example", "c.example"]
    clock.advance(1.4)
    assert not waiting.called
    clock.advance(0.1)
    assert now(waiting) == ["[]", *LATE[1:]]
    assert [sum(timeouts) for timeouts in silent.timeouts] == pytest.approx([5, 3, 1.5])


def test_when_the_time_is_over_nothing_more_is_asked() -> None:
    clock, silent = Clock(), Silent()
    waiting = resultOf(oneByOne, silent, clock=clock, timeout=10)
    clock.advance(10)
    assert now(waiting) == LATE
    assert list(silent.queries) == ["a.example"]


def test_an_answer_after_the_deadline_changes_nothing() -> None:
    clock, silent = Clock(), Silent()
    waiting = resultOf(lookUp("a.example"), silent, clock=clock, timeout=10)
    clock.advance(10)
    with pytest.raises(TemporaryFailure):
        now(waiting)
    silent.queries["a.example"].errback(error.DNSServerError())
    assert clock.getDelayedCalls() == []


def test_a_cancelled_caller_leaves_the_query_to_others_that_wait_for_it() -> None:
    clock, silent = Clock(), Silent()
    cancelled = resultOf(together(lookUp("a.example"), lookUp("b.example")), silent, clock=clock)
    cancelled.cancel()
    with pytest.raises(CancelledError):
        now(cancelled)
    assert not silent.queries["a.example"].called
    assert clock.getDelayedCalls() == []
    silent.queries["a.example"].callback(([], [], []))
    del cancelled
    gc.collect()  # an error that no Deferred handles is logged when the Deferred goes


def test_a_task_of_asyncio_can_wait_for_the_answers() -> None:
    silent = Silent()

    async def run() -> Any:
        task = asyncio.ensure_future(settled(lookUp("a.example", "A"), Answers(), silent, Clock()))
        await asyncio.sleep(0)
        answer = [dns.RRHeader("a.example", dns.A, payload=dns.Record_A("192.0.2.1"))]
        silent.queries["a.example"].callback((answer, [], []))
        cancelled = asyncio.ensure_future(settled(lookUp("b.example", "A"), Answers(), silent, Clock()))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        return await task

    assert asyncio.run(run()) == ["192.0.2.1"]


def test_too_many_questions_are_a_temporary_failure() -> None:
    zone = Zone({})

    def function(answers: Answers) -> None:
        for i in range(1000):
            answers.lookUp(f"{i}.example", "A")

    with pytest.raises(TemporaryFailure, match="too many questions"):
        now(resultOf(function, zone, limit=30))
    assert len(zone.asked) == 30


def test_not_more_than_a_few_questions_are_asked_at_once() -> None:
    silent = Silent()
    names = [f"{i}.example" for i in range(40)]
    waiting = resultOf(together(*map(lookUp, names)), silent)
    for most in (16, 32, 40):
        assert list(silent.queries) == names[:most]
        for query in list(silent.queries.values()):
            if not query.called:
                query.callback(([], [], []))
    assert now(waiting) == [[]] * 40


def test_what_a_hostile_zone_answers_is_bounded() -> None:
    zone = Zone(
        {
            "mx.example": [dns.Record_MX(1, f"{i}.example") for i in range(1000)],
            "long.example": [dns.Record_TXT(*[b"x" * 255] * 17), dns.Record_TXT(*[b"x" * 255] * 16)],
            "many.example": [dns.Record_TXT(*[b"x" * 255] * 16)] * 100,
        }
    )
    assert len(now(resultOf(lookUp("mx.example", "MX"), zone))) == 100
    assert now(resultOf(lookUp("long.example"), zone)) == [b"x" * 255 * 16]
    assert sum(map(len, now(resultOf(lookUp("many.example"), zone)))) < 16384


def test_what_was_learnt_is_not_asked_for_again() -> None:
    zone, answers = Zone({"a.example": [dns.Record_TXT(b"text")]}), Answers()
    answers.learn("b.example", "TXT", [b"mine"])
    assert now(resultOf(together(lookUp("a.example"), lookUp("B.example.")), zone, answers)) == [[b"text"], [b"mine"]]
    assert now(resultOf(lookUp("a.example"), zone, answers)) == [b"text"]
    assert zone.asked == [("a.example", dns.TXT)]
