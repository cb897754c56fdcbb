"""The JSON log: every event is one line that can be parsed, and goes where twistd would log."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, LogPublisher, eventAsText
from twisted.python import log
from twisted.python.failure import Failure

from smtphooks.service import jsonlog
from smtphooks.service.jsonlog import jsonObserver, lineOfJSON
from smtphooks.service.settings import ConfigError


@pytest.fixture
def rotation() -> Iterator[None]:
    """Restore the handler of the signal after the test."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGUSR1, before)


def logTo(observer: ILogObserver, text: str, **fields: object) -> None:
    Logger(namespace="smtphooks.test", observer=observer).info(text, **fields)


def linesOf(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The lines that an observer has written, parsed."""
    return [json.loads(line, parse_constant=pytest.fail) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("twistd", [{"nodaemon": True}, {"nodaemon": True, "logfile": "-"}, {}])
def test_an_event_is_a_line_and_its_own_fields_follow(
    capsys: pytest.CaptureFixture[str], twistd: dict[str, Any]
) -> None:
    logTo(jsonObserver(twistd), "one {peer}\n{code}", peer="\u00e4\ud800\x00", code=250, rest={"a": [1.5, None, True]})
    (event,) = linesOf(capsys)
    assert list(event) == ["time", "level", "namespace", "text", "peer", "code", "rest"]
    assert (event["level"], event["namespace"]) == ("info", "smtphooks.test")
    assert event["text"] == "one \u00e4\ud800\x00\n250"
    assert (event["peer"], event["code"], event["rest"]) == ("\u00e4\ud800\x00", 250, {"a": [1.5, None, True]})


def test_the_time_is_that_of_RFC_3339(capsys: pytest.CaptureFixture[str]) -> None:
    observer = jsonObserver({})
    for time in (0.0, 1767323045.5, None, float("nan"), 1e300, "soon"):
        observer({"log_format": "x", "log_time": time})
    times = [event["time"] for event in linesOf(capsys)]
    assert times[:2] == ["1970-01-01T00:00:00.000000Z", "2026-01-02T03:04:05.500000Z"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", time) for time in times)


@pytest.mark.parametrize("second", [0, 1767323045, -4])
def test_the_time_is_rounded_to_microseconds_as_datetime_rounds(second: int) -> None:
    """The last ones of a second may belong to the next."""
    for rest in (0.0, 0.0000005, 0.0000015, 0.000003, 0.0000065, 0.5, 0.9999994, 0.9999996, 0.99999999):
        moment = datetime.fromtimestamp(second + rest, timezone.utc).replace(tzinfo=None)
        line = json.loads(lineOfJSON({"log_format": "x", "log_time": second + rest}))
        assert line["time"] == moment.isoformat(timespec="microseconds") + "Z"


def test_what_is_no_time_is_now_even_if_it_equals_one() -> None:
    """A second that was seen before is remembered."""
    times = [json.loads(lineOfJSON({"log_format": "x", "log_time": time}))["time"] for time in (5.0, Decimal(5), 5)]
    assert times[0] == times[2] == "1970-01-01T00:00:05.000000Z"
    assert times[1] > "2026"


def test_a_field_cannot_replace_a_standard_one_of_the_same_name(capsys: pytest.CaptureFixture[str]) -> None:
    ours = dict.fromkeys(["time", "level", "namespace", "text", "log_mine"], "mine")
    jsonObserver({})({"log_format": "one", "log_time": 0.0, **ours})
    assert "mine" not in capsys.readouterr().out


def test_an_event_of_the_old_log_has_no_extra_fields(capsys: pytest.CaptureFixture[str]) -> None:
    publisher = log.LogPublisher(publishPublisher=LogPublisher(jsonObserver({})))
    publisher.msg("one", "two", code=250)
    publisher.msg(format="%(code)d", code=251)
    try:
        raise RuntimeError("odd")
    except RuntimeError:
        publisher.msg(failure=Failure(), why="why", isError=1)
    one, two, three = linesOf(capsys)
    assert list(one) == list(two) == ["time", "level", "namespace", "text", "code"]
    assert (one["text"], two["text"], one["level"]) == ("one two", "251", "info")
    assert list(three) == ["time", "level", "namespace", "text"]
    assert three["level"] == "critical" and "RuntimeError: odd" in three["text"]


class Odd:
    """An object whose str() raises, or returns no text."""

    def __init__(self, error: BaseException | None = None, text: object = "odd") -> None:
        self._error = error
        self._text = text

    def __str__(self) -> str:
        if self._error is not None:
            raise self._error
        return self._text  # type: ignore[return-value]


class OddMapping(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError


def cycle() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def deep() -> list[Any]:
    found: list[Any] = []
    for _ in range(100_000):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("make", "written"),
    [
        (lambda: b"user\xff", "user\\xff"),
        (lambda: [b"x", (1, 2)], ["x", [1, 2]]),
        (lambda: float("nan"), "nan"),
        (lambda: {"x": float("inf")}, "{'x': inf}"),
        (lambda: {1: 2}, {"1": 2}),
        (lambda: {(1, 2): 3}, "{(1, 2): 3}"),
        (lambda: {1}, "{1}"),
        (lambda: Path("/x"), "/x"),
        (cycle, "[[...]]"),
        (Odd, "odd"),
        (lambda: [Odd()], ["odd"]),
        (lambda: Odd(text=5), None),
        (lambda: Odd(RuntimeError()), None),
        (lambda: [Odd(RecursionError())], None),
        (lambda: OddMapping(a=1), None),
        (lambda: 10**5000, None),
        (deep, None),
    ],
)
def test_values_that_JSON_cannot_represent_are_text(
    capsys: pytest.CaptureFixture[str], make: Callable[[], object], written: object
) -> None:
    logTo(jsonObserver({}), "text", value=make(), after=1)
    (event,) = linesOf(capsys)
    assert (event["text"], event["after"]) == ("text", 1)
    if written is None:
        assert isinstance(event["value"], str)
    else:
        assert event["value"] == written


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda items: st.lists(items) | st.tuples(items) | st.dictionaries(st.text() | st.integers() | st.binary(), items),
)


@given(
    st.dictionaries(
        st.text(st.characters()) | st.sampled_from(["log_format", "log_time", "log_level", "log_failure", "log_text"]),
        ANYTHING,
    )
)
def test_whatever_an_event_holds_it_is_one_line(event: dict[str, Any]) -> None:
    line = lineOfJSON(event)
    assert line.index("\n") == len(line) - 1
    assert list(json.loads(line, parse_constant=pytest.fail))[:4] == ["time", "level", "namespace", "text"]


def carefully(event: LogEvent, now: str) -> str:
    """The line of an event, each value by itself and the text by Twisted; a time that is none is now."""
    try:
        moment = datetime.fromtimestamp(event.get("log_time"), timezone.utc)  # type: ignore[arg-type]
        now = moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    except (TypeError, ValueError, OverflowError, OSError):
        pass
    level, namespace = event.get("log_level"), event.get("log_namespace")
    line = {
        "time": now,
        "level": getattr(level, "name", level),
        "namespace": namespace,
        "text": eventAsText(event, includeTimestamp=False, includeSystem=False),
    }
    legacy = ("message", "format", "system", "isError", "failure", "why") if namespace == "log_legacy" else ()
    for name, value in event.items():
        if not name.startswith("log_") and name not in legacy:
            line.setdefault(name, value)
    return "{" + ", ".join(f"{json.dumps(name)}: {jsonlog._inJSON(value)}" for name, value in line.items()) + "}\n"


NAMES = st.sampled_from(["x", "y", "time", "text", "message", "why", "log_system", "log_failure", "log_mine"])
TIMES = (
    st.floats()
    | st.floats(-10, 4e9)
    | st.builds(lambda second, half: second + half / 2e6, st.integers(-9, 2**31), st.integers(0, 2_000_000))
    | st.sampled_from([None, 5, True, "soon"])
)


@given(
    st.dictionaries(
        st.text(st.characters()) | NAMES, ANYTHING | st.builds(Odd) | st.just(Odd(RuntimeError())) | st.just(cycle())
    ),
    st.sampled_from(["{x} {y}", "{x!r:>5}", "{x.__class__} {y()}", "", None, b"{x}", "\u00e4\ud800\x00{x}"]),
    TIMES,
    st.sampled_from([*LogLevel.iterconstants(), None, "odd"]),
    st.sampled_from(["smtphooks.eventlog", "log_legacy", None, 5]),
)
def test_a_line_has_the_same_octets_as_if_each_value_were_encoded_by_itself(
    fields: dict[str, Any], template: Any, when: Any, level: Any, namespace: Any
) -> None:
    """The way of most events is another one than the careful way, and must not show."""
    event = {**fields, "log_format": template, "log_time": when, "log_level": level, "log_namespace": namespace}
    line = lineOfJSON(event)
    assert line == carefully(event, line[10:37])


def test_one_value_that_JSON_cannot_represent_leaves_the_others_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """They do not become texts with it."""
    logTo(jsonObserver({}), "text", number=1, none=float("nan"), items=[1, {"a": None}])
    (event,) = linesOf(capsys)
    assert (event["number"], event["none"], event["items"]) == (1, "nan", [1, {"a": None}])


def test_an_ordinary_event_is_encoded_at_once_and_its_fields_are_sorted_out_once_for_all_of_its_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each line of the event log takes this way."""
    for name in ("_inJSON", "eventAsText"):
        monkeypatch.setattr(jsonlog, name, lambda *_, **__: pytest.fail("not the way of an ordinary event"))
    jsonlog._ownFields.cache_clear()
    jsonlog._second.cache_clear()
    for step in range(6):
        line = lineOfJSON({"log_format": "one {peer}", "log_time": 7 + step / 4, "peer": "\u00e4", "code": step})
        assert (json.loads(line)["code"], json.loads(line)["text"]) == (step, "one \u00e4")
    assert jsonlog._ownFields.cache_info().misses == 1
    assert jsonlog._second.cache_info().misses == 2


def test_a_failure_has_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise RuntimeError("odd")
    except RuntimeError:
        Logger(observer=jsonObserver({})).failure("hook {hook} crashed", Failure(), hook="onData")
    (event,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert event["hook"] == "onData"
    assert event["text"].startswith("hook onData crashed\nTraceback (most recent call last):\n")
    assert event["text"].rstrip().endswith("RuntimeError: odd")


def test_the_event_itself_is_not_changed() -> None:
    event: LogEvent = {"log_format": "x", "log_time": 0.0}
    jsonObserver({})(event)
    assert "text" not in event


@pytest.mark.usefixtures("rotation")
@pytest.mark.parametrize(
    ("twistd", "name"), [({"logfile": "log.json", "nodaemon": True}, "log.json"), ({"nodaemon": False}, "twistd.log")]
)
def test_the_log_goes_where_twistd_would_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twistd: dict[str, Any], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    observer = jsonObserver(twistd)
    monkeypatch.chdir("/")
    logTo(observer, "one")
    logTo(observer, "two")
    lines = (tmp_path / name).read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["one", "two"]


@pytest.mark.usefixtures("rotation")
def test_a_file_is_rotated_by_size_and_by_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As twistd does with its own log; without a handler the signal would end the process."""
    monkeypatch.setattr("twisted.internet.reactor.callFromThread", lambda function: function())
    path = tmp_path / "log.json"
    observer = jsonObserver({"logfile": str(path)})
    logTo(observer, "one")
    signal.raise_signal(signal.SIGUSR1)
    logTo(observer, "x" * 1_000_000)
    logTo(observer, "two")
    assert json.loads(path.read_text())["text"] == "two"
    assert json.loads((tmp_path / "log.json.2").read_text())["text"] == "one"


def test_a_handler_of_the_process_for_the_signal_stays(tmp_path: Path) -> None:
    mine: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: mine.append(1))
    try:
        jsonObserver({"logfile": str(tmp_path / "log")})
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert mine == [1]


@pytest.mark.parametrize(
    ("twistd", "sentence"),
    [
        ({"syslog": True}, "--log-format=json and --syslog both say how to log, leave one out"),
        ({"logger": len}, "--log-format=json and --logger both say how to log, leave one out"),
        ({"logfile": "-", "nodaemon": False}, "--log-format=json to stdout needs -n, a daemon has none"),
        (
            {"logfile": "/nowhere/log"},
            "--logfile /nowhere/log cannot be written (No such file or directory), name another",
        ),
    ],
)
def test_flags_that_exclude_each_other_have_their_sentence(twistd: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        jsonObserver(twistd)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("twistd", [{}, {"logfile": "/nowhere/log"}, {"nodaemon": False}, {"nodaemon": True}])
def test_a_worker_writes_its_number_into_each_line_on_its_stdout(
    capsys: pytest.CaptureFixture[str], twistd: dict[str, Any]
) -> None:
    """Its supervisor takes the lines on to the place of the log; an event may not say that it is another's."""
    observer = jsonObserver(twistd, worker=2)
    logTo(observer, "one {worker}", worker=7, code=250)
    logTo(observer, "two", value=float("nan"))
    one, two = linesOf(capsys)
    assert list(one) == ["time", "level", "namespace", "worker", "text", "code"]
    assert (one["worker"], one["text"]) == (2, "one 7")
    assert list(two) == ["time", "level", "namespace", "worker", "text", "value"]
    assert two["worker"] == 2


def test_the_supervisor_may_speak_of_a_worker_in_a_field_of_this_name() -> None:
    assert json.loads(lineOfJSON({"log_format": "x", "worker": 7}))["worker"] == 7


def test_a_worker_refuses_flags_that_exclude_each_other_as_well() -> None:
    with pytest.raises(ConfigError):
        jsonObserver({"logger": len}, worker=2)
