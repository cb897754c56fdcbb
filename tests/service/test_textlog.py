"""The text log: every line is the one that twistd itself would write, and a plain event costs Twisted nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from math import inf, nan, nextafter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.logger import (
    LogEvent,
    Logger,
    LogLevel,
    LogPublisher,
    eventAsText,
    formatEventAsClassicLogText,
    globalLogPublisher,
    textFileLogObserver,
)
from twisted.python import log
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile

from smtphooks.service import textlog
from smtphooks.service.textlog import lineOfText, lineOfWorker, plainText, textObserver
from tests.support import ENVELOPE, connect

PLAIN: LogEvent = {
    "log_format": "{x} of {y}",
    "log_time": 1.5,
    "log_level": LogLevel.info,
    "log_namespace": "smtphooks.test",
    "x": "one\n",
    "y": 2,
}


def outcome(function: Callable[[LogEvent], Any], event: LogEvent) -> object:
    """What a function makes of an event, or the error that it raises."""
    try:
        return function(event)
    except Exception as error:
        return type(error), str(error)


def isTwisteds(event: LogEvent) -> bool:
    """The line of an event is the one that Twisted makes."""
    return outcome(lineOfText, event) == outcome(formatEventAsClassicLogText, event)


class Odd:
    """A value that cannot be formatted, or only by its own ways."""

    name = "odd\n"
    items = ("first",)

    def __init__(self, error: BaseException | None = None) -> None:
        self._error = error

    def __call__(self) -> str:
        return "called"

    def __repr__(self) -> str:
        return "Odd()"

    def __format__(self, spec: str) -> str:
        if self._error is not None:
            raise self._error
        return f"formatted {spec}"


def failure() -> Failure:
    try:
        raise RuntimeError("odd\n")
    except RuntimeError:
        return Failure()


class Untold(Failure):
    """A failure that has no traceback."""

    def getTraceback(self, *arguments: Any, **others: Any) -> str:
        """Fail."""
        raise RuntimeError("no traceback")


VALUES = (
    st.text(st.characters())
    | st.integers()
    | st.floats()
    | st.none()
    | st.booleans()
    | st.binary()
    | st.lists(st.text())
    | st.builds(Odd, st.sampled_from([None, RuntimeError("x"), SystemExit()]))
)
PIECES = ["{", "}", "x", "y", ".", "()", "!r", "!", ":", ">5", "0", "[", "]", "\n", " ", "name", "\u00e9"]
FORMATS = (
    st.lists(st.sampled_from(PIECES)).map("".join)
    | st.sampled_from(
        [
            "",
            "{}",
            "{0}",
            "{x}",
            "{missing}",
            "{x()}",
            "{x.name}",
            "{x.__class__}",
            "{x[0]}",
            "{x!r} {y!s:>5}",
            "{x:{y}}",
            "{{x}} {y}",
            "\n{x}\n\n{y}",
            "{x y}",
            "{log_level} {log_level.name}",
        ]
    )
    | st.text(st.characters())
    | st.binary()
    | st.none()
    | st.just(["{x}"])
)
# Around the last microsecond of a second, before the calendar and after it, and what is no time.
TIMES = (
    st.floats(0, 4e9)
    | st.floats()
    | st.sampled_from([None, 0.0, -0.0, -1e-9, -1.5, 1e300, nan, inf, -inf, 7, True, "soon", Decimal(5), 10**40])
    | st.builds(lambda second, rest: second + rest, st.integers(-100, 2**32), st.floats(0.99999, 1))
)
LEVELS = st.sampled_from([*LogLevel.iterconstants(), None, "info", 20, Odd()])
NAMESPACES = st.text(st.characters()) | st.sampled_from(["-", None, b"x", Odd(), Odd(RuntimeError())])
SYSTEMS = st.sampled_from(["-", "HTTP,1\n", "", None, 5, Odd(RuntimeError())])
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "log_format": FORMATS,
        "log_time": TIMES,
        "log_level": LEVELS,
        "log_namespace": NAMESPACES,
        "log_system": SYSTEMS,
        "log_failure": st.sampled_from([failure(), Untold(RuntimeError()), None, "none"]),
        "log_flattened": st.sampled_from([{}, {"x!:": "flat"}]),
        "x": VALUES,
        "y": VALUES,
    },
)


# --- the same lines ---


@given(EVENTS)
def test_a_line_is_the_one_that_Twisted_makes(event: LogEvent) -> None:
    """Whatever the event holds; where Twisted raises an error, it is the same."""
    assert isTwisteds(event)


@given(FORMATS, VALUES, VALUES, TIMES)
@example("{x}", "", "", 1.5)
@example("{x}", "a\nb", "", 0.9999995)
@example("{x}", Odd(SystemExit()), "", 1.5)
@example("{x.__class__}", 5, "", 1.5)
@example("{x:{y.__class__}}", Odd(), 5, 1.5)
@example("{x!r:>9} {y:5}", 5, 7, 1.5)
def test_so_it_is_for_odd_formats_fields_and_times_of_ordinary_events(template: Any, x: Any, y: Any, when: Any) -> None:
    """These come further than arbitrary events do."""
    assert isTwisteds({**PLAIN, "log_format": template, "log_time": when, "x": x, "y": y})


@given(NAMESPACES, LEVELS)
def test_so_it_is_for_their_namespaces_and_levels(namespace: Any, level: Any) -> None:
    """Twisted writes whatever they are."""
    assert isTwisteds({**PLAIN, "log_namespace": namespace, "log_level": level})


@given(EVENTS)
def test_a_plain_text_is_the_one_that_Twisted_makes(event: LogEvent) -> None:
    """Without time and system, as the JSON log has it."""
    text = plainText(event)
    assert text is None or text == eventAsText(event, includeTimestamp=False, includeSystem=False)


@pytest.mark.parametrize("key", ["log_time", "log_level", "log_namespace", "log_format", "x"])
def test_an_event_that_lacks_a_field_is_Twisteds(key: str) -> None:
    """The publisher of Twisted hands on any dictionary."""
    event = {**PLAIN}
    del event[key]
    assert isTwisteds(event)


def test_a_flattened_event_shows_what_it_held_when_it_was_flattened() -> None:
    """Twisted keeps the values of an event that it has loaded from a file beside the event."""
    assert isTwisteds({**PLAIN, "log_format": "{x}", "x": "later", "log_flattened": {"x!:": "before"}})


def test_the_lines_of_a_life_are_those_of_Twisteds_observer(tmp_path: Path) -> None:
    """The event log, the old log with its systems and failures, and a traceback."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    observer = textObserver({"nodaemon": True, "logfile": str(ours)})
    assert observer is not None
    both = LogPublisher(textFileLogObserver(LogFile.fromFullPath(str(theirs))), observer)  # type: ignore[arg-type]
    globalLogPublisher.addObserver(both)
    try:
        client = connect(onVrfy=lambda text, session: 1 / 0)
        client.say(*ENVELOPE, "DATA", "text", ".", "VRFY x", "NONSENSE")
        client.lose()
        log.msg("one", "two", system="old\nsystem")
        log.msg(format="%(x)s", x="\u00e9")
        log.msg("")
    finally:
        globalLogPublisher.removeObserver(both)
    publisher = log.LogPublisher(publishPublisher=both)
    publisher.msg(failure=failure(), why="why", isError=1)
    Logger("smtphooks.test", observer=both).failure("hook {hook} crashed", failure(), hook="onData")
    assert ours.read_text() == theirs.read_text()
    for part in (
        "message from <sender@",
        "connection of ",
        "[old\n\tsystem] one two",
        "#critical] hook onData crashed\n\t",
    ):
        assert part in ours.read_text()


# --- time ---


@pytest.fixture
def zone() -> Iterator[Callable[[str], None]]:
    """Set the time zone; the one from before is back after the test."""
    before = os.environ.get("TZ")

    def use(name: str | None) -> None:
        os.environ.pop("TZ", None)
        if name is not None:
            os.environ["TZ"] = name
        time.tzset()
        textlog._stamp.cache_clear()

    yield use
    use(before)


# 2026-10-25T01:00:00Z, when Berlin leaves summer time, and 2026-03-29T01:00:00Z, when it begins.
AUTUMN, SPRING = 1792890000, 1774746000


@pytest.mark.parametrize("change", [AUTUMN, SPRING])
@pytest.mark.parametrize("name", ["CET-1CEST,M3.5.0,M10.5.0/3", "NST3:30NDT,M3.2.0,M11.1.0", "UTC0"])
def test_the_offset_changes_when_that_of_the_zone_does(change: int, name: str, zone: Callable[[str], None]) -> None:
    """In autumn the same hour comes twice, with another offset."""
    zone(name)
    moments = [change + step / 4 for step in range(-8, 8)]
    assert all(isTwisteds({**PLAIN, "log_time": moment}) for moment in moments)
    if name.startswith("CET"):
        stamps = [str(lineOfText({**PLAIN, "log_time": moment})).split()[0] for moment in (change - 0.25, change + 0.0)]
        assert [stamp[-5:] for stamp in stamps] == (["+0200", "+0100"] if change == AUTUMN else ["+0100", "+0200"])


@pytest.mark.parametrize("second", [0, 1, 1767323045])
def test_the_last_microsecond_of_a_second_belongs_to_the_next_if_Twisted_rounds_it_up(second: int) -> None:
    """datetime rounds to microseconds; the half is where it decides."""
    assert isTwisteds({**PLAIN, "log_time": second + 0.5})
    for moment in (second + 0.9999989, second + 0.9999994, second + 0.9999996, nextafter(second + 1, 0)):
        assert isTwisteds({**PLAIN, "log_time": moment})
    assert isTwisteds({**PLAIN, "log_time": second + 1.0})


# --- the cost ---


def test_a_plain_event_is_formatted_without_Twisted_and_a_second_has_one_time_stamp(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This is what the module is for."""
    stamps: list[float] = []
    textlog._stamp.cache_clear()
    monkeypatch.setattr(textlog, "formatEventAsClassicLogText", lambda event: pytest.fail("formatted by Twisted"))
    monkeypatch.setattr(textlog, "formatTime", lambda second: stamps.append(second) or f"T{second:g}")
    lines = [lineOfText({**PLAIN, "log_time": 7 + step / 4, "x": step}) for step in range(6)]
    assert lines == [f"T{7 + step // 4} [smtphooks.test#info] {step} of 2\n" for step in range(6)]
    assert stamps == [7, 8]
    textlog._stamp.cache_clear()


def test_the_event_log_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line that a client causes is cheap."""
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    try:
        client = connect()
        client.say(*ENVELOPE, "DATA", "text", ".", "NONSENSE")
        client.lose()
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert len(events) == 3
    monkeypatch.setattr(textlog, "formatEventAsClassicLogText", lambda event: pytest.fail("formatted by Twisted"))
    assert all(map(lineOfText, events))


def test_formats_are_not_kept_for_ever() -> None:
    """Code that puts its values into the format makes a new one for each event."""
    for number in range(1000):
        assert isTwisteds({**PLAIN, "log_format": f"number {number}"})
    assert textlog._isPlain.cache_info().currsize <= 256


# --- whose log it is ---


@pytest.mark.parametrize(
    "twistd",
    [
        {},
        {"logfile": "/nowhere/log"},
        {"logger": len, "nodaemon": True},
        {"syslog": True, "nodaemon": True},
        {"debug": True, "nodaemon": True},
        {"logfile": "-", "nodaemon": False},
    ],
)
def test_twistd_makes_its_own_log_where_this_one_would_go_elsewhere(twistd: dict[str, Any]) -> None:
    """Where it refuses to, that is for twistd to say; other programs, such as Twisted's C{twist}, log by themselves."""
    assert textObserver(twistd) is None


# --- the lines of a worker ---


def test_a_worker_writes_its_number_into_the_bracket_of_the_system() -> None:
    assert lineOfWorker({**PLAIN, "x": "one"}, 2) == lineOfText({**PLAIN, "x": "[-] [one"}).replace(  # type: ignore[union-attr]
        "[smtphooks.test#info] [-] [one", "[worker 2 smtphooks.test#info] one"
    )


def test_so_it_is_where_Twisted_formats_and_each_line_of_a_traceback_has_it() -> None:
    """Lines of other workers may come between these."""
    event = {**PLAIN, "log_system": "HTTP [1", "log_failure": failure(), "log_time": None}
    first, *further = str(lineOfWorker(event, 12)).splitlines()
    assert first == "- [worker 12 HTTP [1] one"
    assert len(further) > 4
    assert all(line.startswith("\t[worker 12] ") for line in further)
    assert lineOfWorker({}, 12) is None


@given(EVENTS)
def test_without_the_number_the_lines_of_a_worker_are_those_of_Twisted(event: LogEvent) -> None:
    def ofWorker(event: LogEvent) -> str | None:
        line = lineOfWorker(event, 3)
        return line and "\n".join(
            line.replace("\t[worker 3] ", "\t", 1) if number else line.replace("worker 3 ", "", 1)
            for number, line in enumerate(line.split("\n"))
        )

    assert outcome(ofWorker, event) == outcome(formatEventAsClassicLogText, event)


@pytest.mark.parametrize("twistd", [{}, {"logfile": "/nowhere/log"}, {"nodaemon": False}, {"nodaemon": True}])
def test_a_worker_writes_to_its_stdout_wherever_the_log_is(
    twistd: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its supervisor takes the lines on to there."""
    observer = textObserver(twistd, worker=2)
    assert observer is not None
    observer({**PLAIN, "x": "one"})
    assert capsys.readouterr().out.endswith(" [worker 2 smtphooks.test#info] one of 2\n")


def test_with_a_logger_of_the_operator_a_worker_logs_by_itself() -> None:
    assert textObserver({"logger": len, "nodaemon": True}, worker=2) is None
