"""Answers of DNS lists: what means a listing, the time limit, sharing, the cache, and what is logged."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, capturedLogs, eventAsText
from twisted.names import dns
from twisted.names.error import AuthoritativeDomainError, DNSQueryRefusedError, DNSServerError, DomainError

from smtphooks.layers import dnsanswers
from smtphooks.layers.dnsanswers import Answer, ListLookups
from tests.conftest import Logged
from tests.layers.nameserver import Lists

pytestmark = pytest.mark.usefixtures("logged")

ZONE = "bl.example.org"
SUBJECT, CONTROL = "7.2.0.192", "1.0.0.127"
NAME = f"{SUBJECT}.{ZONE}"
LISTED = ((127, 0, 0, 2),)


def lookUpsIn(lists: Lists, timeout: float = 4) -> tuple[ListLookups, Clock]:
    clock = Clock()
    return ListLookups(lists, [], clock, timeout), clock


class Result:
    """What a look-up has come to."""

    def __init__(self, lookUp: Deferred[Answer]) -> None:
        self.lookUp = lookUp
        self.answers: list[Answer] = []
        self.failures: list[BaseException] = []
        lookUp.addCallbacks(self.answers.append, lambda failure: self.failures.append(failure.value))

    @property
    def answer(self) -> Answer:
        (answer,) = self.answers
        return answer


def ask(lookUps: ListLookups, subject: str = SUBJECT, zone: str = ZONE, explain: bool = True) -> Result:
    return Result(lookUps.lookUp(subject, zone, CONTROL, explain))


def warnings(lines: list[LogEvent]) -> list[str]:
    return [eventAsText(line, includeTimestamp=False, includeSystem=False) for line in lines if isWarning(line)]


def isWarning(line: LogEvent) -> bool:
    return line["log_level"] is LogLevel.warn  # type: ignore[no-any-return]


# --- what means a listing ---


def test_an_entry_is_a_listing_with_its_text() -> None:
    lists = Lists().has(NAME, "127.0.0.2", "127.0.0.4", text="spam source")
    answer = ask(lookUpsIn(lists)[0]).answer
    assert answer == Answer(((127, 0, 0, 2), (127, 0, 0, 4)), "spam source")
    assert lists.asked == [NAME, f"{CONTROL}.{ZONE}", f"TXT {NAME}"]


def test_a_listing_holds_without_a_text() -> None:
    assert ask(lookUpsIn(Lists().has(NAME, "127.0.0.2"))[0]).answer == Answer(LISTED)
    lists = Lists().has(NAME, "127.0.0.2", text=DNSServerError("broken"))
    assert ask(lookUpsIn(lists)[0]).answer == Answer(LISTED)


def test_a_text_that_nobody_needs_is_not_asked_for() -> None:
    lists = Lists().has(NAME, "127.0.0.2", text="spam source")
    assert ask(lookUpsIn(lists)[0], explain=False).answer == Answer(LISTED)
    assert f"TXT {NAME}" not in lists.asked


def test_a_long_text_of_several_strings_is_cut() -> None:
    lists = Lists().has(NAME, "127.0.0.2", text="x" * 700)
    assert ask(lookUpsIn(lists)[0]).answer.text == "x" * 199 + "…"


def test_a_text_that_is_no_utf8_is_taken_as_far_as_it_is() -> None:
    lists = Lists().has(NAME, "127.0.0.2")
    lists.known[f"TXT {NAME}"] = [dns.RRHeader(NAME, dns.TXT, payload=dns.Record_TXT(b"caf\xe9", b" x"))]
    assert ask(lookUpsIn(lists)[0]).answer.text == "caf\ufffd x"


@pytest.mark.parametrize("error", [None, AuthoritativeDomainError("none"), DomainError("none")])
def test_a_name_that_does_not_exist_is_not_listed(error: Exception | None) -> None:
    lists = Lists()
    if error is not None:
        lists.known[NAME] = error
    with capturedLogs() as lines:
        assert ask(lookUpsIn(lists)[0]).answer == Answer()
    assert not warnings(lines)


def test_a_name_without_addresses_is_not_listed() -> None:
    lists = Lists().has(NAME)
    assert ask(lookUpsIn(lists)[0]).answer == Answer()


def test_a_name_that_is_too_long_is_not_asked_for() -> None:
    lists = Lists()
    assert ask(lookUpsIn(lists)[0], ".".join(["a" * 60] * 4)).answer == Answer()
    assert not lists.asked


def test_an_alias_leads_to_a_listing() -> None:
    lists = Lists().has(NAME, "127.0.0.2")
    lists.known[NAME].insert(0, dns.RRHeader(NAME, dns.CNAME, payload=dns.Record_CNAME("x.example.org")))
    assert ask(lookUpsIn(lists)[0]).answer == Answer(LISTED)


# --- lists that do not say anything ---


@pytest.mark.parametrize(
    "answer, line",
    [
        (DNSServerError("secret"), "DNS list bl.example.org answers SERVFAIL"),
        (DNSQueryRefusedError("secret"), "DNS list bl.example.org answers REFUSED"),
        (OSError("secret"), "DNS list bl.example.org cannot be asked (OSError)"),
        (["127.255.255.254"], "DNS list bl.example.org refuses to answer this server: 127.255.255.254"),
        (["127.0.0.1"], "DNS list bl.example.org refuses to answer this server: 127.0.0.1"),
        (
            ["198.51.100.9"],
            "DNS list bl.example.org answers with addresses outside 127.0.0.0/8, which is ignored: 198.51.100.9",
        ),
    ],
)
def test_what_is_no_answer_lists_nothing_and_is_logged_once_for_a_while(answer: Any, line: str) -> None:
    lists = Lists()
    lookUps, clock = lookUpsIn(lists)
    with capturedLogs() as lines:
        for number in range(4):
            name = f"{number}.2.0.192.{ZONE}"
            lists.has(name, *answer) if isinstance(answer, list) else lists.known.update({name: answer})
            assert ask(lookUps, f"{number}.2.0.192").answer == Answer(isKnown=False)
            clock.advance(250)
    assert warnings(lines) == [line, f"{line} (2 times more since the last such line)"]


def test_what_is_ignored_does_not_hide_a_listing() -> None:
    lists = Lists().has(NAME, "127.255.255.254", "10.0.0.1", "127.0.0.2")
    with capturedLogs():
        assert ask(lookUpsIn(lists)[0]).answer == Answer(LISTED)


def test_a_list_that_lists_everything_is_ignored_and_logged() -> None:
    lists = Lists().has(NAME, "127.0.0.2", text="all").has(f"{CONTROL}.{ZONE}", "127.0.0.2")
    with capturedLogs() as lines:
        assert ask(lookUpsIn(lists)[0]).answer == Answer(isKnown=False)
    assert warnings(lines) == ["DNS list bl.example.org lists 127.0.0.1, so it lists everything, and is ignored"]


def test_a_key_of_a_customer_is_not_logged() -> None:
    key, lists = "abcdefghijklmnopqrstuvwxyz", Lists()
    zone = f"{key}.bl.example.org"
    lists.known[f"{SUBJECT}.{zone}"] = DNSServerError(f"{SUBJECT}.{zone}")
    lists.has(f"8.2.0.192.{zone}", "127.0.0.2", text=DNSServerError(f"{SUBJECT}.{zone}"))
    lookUps, _ = lookUpsIn(lists)
    with capturedLogs() as lines:
        ask(lookUps, zone=zone)
        ask(lookUps, "8.2.0.192", zone=zone)
    assert warnings(lines) == ["DNS list ….bl.example.org answers SERVFAIL"]
    assert not any(key in repr(line) for line in lines)


# --- time ---


def test_a_silent_list_has_listed_nothing_when_time_is_up() -> None:
    lists = Lists()
    lists.isSilentAbout(NAME)
    lookUps, clock = lookUpsIn(lists)
    result = ask(lookUps)
    with capturedLogs() as lines:
        clock.advance(3.9)
        assert not result.answers
        clock.advance(0.1)
    assert result.answer == Answer(isKnown=False)
    assert lists.cancelled == [NAME]
    assert warnings(lines) == ["DNS list bl.example.org does not answer in time"]
    assert not clock.getDelayedCalls()


@pytest.mark.parametrize("late", [f"{CONTROL}.{ZONE}", f"TXT {NAME}"])
def test_a_listing_holds_when_time_is_up_for_what_is_asked_after_it(late: str) -> None:
    lists = Lists().has(NAME, "127.0.0.2")
    lists.isSilentAbout(late)
    lookUps, clock = lookUpsIn(lists)
    result = ask(lookUps)
    clock.advance(4)
    assert result.answer == Answer(LISTED)
    assert not clock.getDelayedCalls()


def test_the_time_limit_holds_for_all_queries_together() -> None:
    lists = Lists()
    first, text = lists.isSilentAbout(NAME), lists.isSilentAbout(f"TXT {NAME}")
    lookUps, clock = lookUpsIn(lists)
    result = ask(lookUps)
    clock.advance(3)
    first.callback((Lists().has(NAME, "127.0.0.2").known[NAME], [], []))
    assert not result.answers
    clock.advance(1)
    assert result.answer == Answer(LISTED)
    assert text.called


# --- sharing ---


def test_look_ups_of_the_same_are_one() -> None:
    lists = Lists()
    pending = lists.isSilentAbout(NAME)
    lookUps, _ = lookUpsIn(lists)
    results = [ask(lookUps) for _ in range(3)]
    pending.callback((Lists().has(NAME, "127.0.0.2").known[NAME], [], []))
    assert [result.answer.codes for result in results] == [LISTED] * 3
    assert lists.asked.count(NAME) == 1


def test_who_leaves_does_not_take_the_answer_from_others() -> None:
    lists = Lists()
    pending = lists.isSilentAbout(NAME)
    lookUps, _ = lookUpsIn(lists)
    leaving, staying = ask(lookUps), ask(lookUps)
    leaving.lookUp.cancel()
    assert isinstance(leaving.failures[0], CancelledError)
    assert not lists.cancelled
    pending.callback((Lists().has(NAME, "127.0.0.2").known[NAME], [], []))
    assert staying.answer.codes == LISTED


def test_a_look_up_that_everyone_has_left_is_cancelled_and_not_remembered() -> None:
    lists = Lists()
    lists.isSilentAbout(NAME)
    lookUps, clock = lookUpsIn(lists)
    with capturedLogs() as lines:
        for result in [ask(lookUps), ask(lookUps)]:
            result.lookUp.cancel()
    assert lists.cancelled == [NAME]
    clock.advance(0)
    assert not clock.getDelayedCalls() and not warnings(lines)
    lists.has(NAME, "127.0.0.2")
    assert ask(lookUps).answer.codes == LISTED


def test_one_who_leaves_because_of_the_answer_of_another_does_no_harm() -> None:
    lists = Lists()
    pending = lists.isSilentAbout(NAME)
    lookUps, _ = lookUpsIn(lists)
    first = lookUps.lookUp(SUBJECT, ZONE, None)
    second = Result(lookUps.lookUp(SUBJECT, ZONE, None))
    first.addCallback(lambda _: second.lookUp.cancel())
    pending.callback((Lists().has(NAME, "127.0.0.2").known[NAME], [], []))
    assert isinstance(second.failures[0], CancelledError)


def test_stopping_cancels_all() -> None:
    lists = Lists()
    lists.isSilentAbout(NAME)
    lists.isSilentAbout(f"8.{ZONE}")
    lookUps, clock = lookUpsIn(lists)
    results = [ask(lookUps), ask(lookUps, "8"), ask(lookUps)]
    lookUps.stop()
    assert sorted(lists.cancelled) == [NAME, f"8.{ZONE}"]
    assert all(result.failures for result in results)
    clock.advance(0)
    assert not clock.getDelayedCalls()


def test_a_query_that_is_cancelled_counts_until_its_socket_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One client can send a thousand commands in one turn of the reactor, each with another name to ask for."""
    monkeypatch.setattr(dnsanswers, "_MAX_QUERIES", 2)
    lists = Lists()
    for number in range(9):
        lists.isSilentAbout(f"{number}.{ZONE}")
    lookUps, clock = lookUpsIn(lists)
    for number in range(8):
        ask(lookUps, str(number)).lookUp.cancel()
    ask(lookUps, "8")
    assert lists.asked == [f"0.{ZONE}", f"1.{ZONE}"]
    clock.advance(0)
    assert lists.asked[2:] == [f"8.{ZONE}"]


def test_a_flood_waits_for_a_query_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dnsanswers, "_MAX_QUERIES", 2)
    lists = Lists()
    pending = [lists.isSilentAbout(f"{number}.{ZONE}") for number in range(3)]
    lookUps, clock = lookUpsIn(lists)
    results = [ask(lookUps, str(number)) for number in range(3)]
    assert lists.asked == [f"0.{ZONE}", f"1.{ZONE}"]
    pending[0].callback(([], [], []))
    assert lists.asked[-1] == f"2.{ZONE}"
    clock.advance(4)
    assert [result.answer.isKnown for result in results] == [True, False, False]
    assert ask(lookUps, "3").answer == Answer()


def test_a_fault_is_logged_and_lists_nothing(logged: Logged) -> None:
    lists = Lists()
    lists.known[NAME] = [None]
    assert ask(lookUpsIn(lists)[0]).answer == Answer(isKnown=False)
    assert logged.takeFailures(AttributeError)


# --- the cache ---


@pytest.mark.parametrize("ttl, kept", [(300, 300), (0, 1), (99999, 3600)])
def test_a_listing_is_remembered_for_its_ttl_within_bounds(ttl: int, kept: int) -> None:
    lists = Lists().has(NAME, "127.0.0.2", ttl=ttl)
    lookUps, clock = lookUpsIn(lists)
    ask(lookUps)
    lists.has(NAME, "127.0.0.3")
    clock.advance(kept - 0.5)
    assert ask(lookUps).answer.codes == LISTED
    clock.advance(0.5)
    assert ask(lookUps).answer.codes == ((127, 0, 0, 3),)


@pytest.mark.parametrize("error", [None, DNSServerError("broken")])
def test_everything_else_is_remembered_for_a_minute(error: Exception | None) -> None:
    lists = Lists()
    if error is not None:
        lists.known[NAME] = error
    lookUps, clock = lookUpsIn(lists)
    with capturedLogs():
        ask(lookUps)
        clock.advance(59)
        ask(lookUps)
        assert lists.asked == [NAME]
        clock.advance(1)
        ask(lookUps)
    assert lists.asked == [NAME] * 2


def test_the_cache_is_bounded_and_keeps_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dnsanswers, "_MAX_REMEMBERED", 3)
    lists = Lists()
    lookUps, _ = lookUpsIn(lists)
    for subject in ("1", "2", "3", "1", "4"):
        ask(lookUps, subject)
    assert list(lookUps._known) == [f"{subject}.{ZONE}" for subject in ("3", "1", "4")]
