"""Merging: the numbers of all workers are those of one server, whatever becomes of a worker."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Metric, Summary, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openMetricsOf
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parseOpenMetrics
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred

from smtphooks.metrics.families import FAMILIES, WORKER_FAMILIES
from smtphooks.metrics.merging import MergedMetrics
from smtphooks.metrics.snapshot import Snapshot, familyOf, snapshot
from tests.metrics.scrape import LISTENER, Scrape, observed
from tests.metrics.test_families import Hooking
from tests.real.programs import requires, run
from tests.support import ENVELOPE, Client, makeFactory


class Shown(Collector):
    """Metrics as they are."""

    def __init__(self, merged: MergedMetrics) -> None:
        self._merged = merged

    def collect(self) -> list[Metric]:
        return self._merged.merged()


def registryOf(merged: MergedMetrics) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Shown(merged))
    return registry


def text(merged: MergedMetrics) -> str:
    return generate_latest(registryOf(merged)).decode()


def scrape(merged: MergedMetrics) -> Scrape:
    return Scrape(text(merged))


def sent(plain: Snapshot) -> Snapshot:
    """A snapshot as it comes out of a channel."""
    taken: Snapshot = json.loads(json.dumps(plain, allow_nan=False))
    return taken


class Worker:
    """A worker with metrics of its own, by C{prometheus_client} alone."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def snapshot(self) -> Snapshot:
        return sent([familyOf(metric) for metric in self.registry.collect()])

    def counter(self, value: float, name: str = "mine", **labels: str) -> Counter:
        counter = Counter(name, "Help.", [*labels], registry=self.registry)
        (counter.labels(**labels) if labels else counter).inc(value)
        return counter

    def gauge(self, value: float, name: str = "mine") -> Gauge:
        gauge = Gauge(name, "Help.", registry=self.registry)
        gauge.set(value)
        return gauge


def mergedOf(*workers: Worker) -> MergedMetrics:
    merged = MergedMetrics()
    for number, worker in enumerate(workers):
        merged.update(number, worker.snapshot())
    return merged


def merge(*make: Callable[[Worker], Any]) -> MergedMetrics:
    """The metrics of several workers, each made by one of these; the last is the newest."""
    workers = []
    for each in make:
        workers.append(Worker())
        each(workers[-1])
    return mergedOf(*workers)


# --- servers ---


def server(messages: int) -> Any:
    """The metrics of a worker that has taken some messages, and has one connection."""
    factory = makeFactory(hooks=Hooking(), maxClients=10)
    metrics = observed(factory)
    for _ in range(messages):
        client = Client(factory)
        client.say(*ENVELOPE, "DATA", "text", ".", "QUIT")
        client.lose()
    Client(factory)
    return metrics


class TestServers:
    def test_what_is_counted_is_summed(self) -> None:
        merged = MergedMetrics()
        for number, messages in enumerate((1, 2, 5)):
            merged.update(number, sent(snapshot(server(messages))))
        seen = scrape(merged)
        assert seen.of("smtphooks_messages_total", "listener", "result") == {(LISTENER, "accepted"): 8}
        assert seen.of("smtphooks_connections_total") == {(): 11}
        assert seen.of("smtphooks_open_connections") == {(): 3}
        assert seen.of("smtphooks_hook_seconds_count", "hook", "layer") == {("onData", "Hooking"): 8}
        assert seen.one("smtphooks_final_dot_to_reply_seconds_count") == 8
        buckets = seen.of("smtphooks_final_dot_to_reply_seconds_bucket", "le")
        assert buckets[("+Inf",)] == 8

    def test_what_has_no_sum_is_not_summed(self) -> None:
        merged, servers = MergedMetrics(), [server(1), server(1)]
        Client(servers[1]._counts[LISTENER].factory)
        for number, metrics in enumerate(servers):
            merged.update(number, sent(snapshot(metrics)))
        seen = scrape(merged)
        assert seen.one("smtphooks_build_info") == 1
        assert seen.one("smtphooks_connection_limit_used_ratio") == 0.2
        assert seen.one("python_info") == 1
        own = {family["name"]: family["samples"] for family in snapshot(servers[0])}
        for name in ("process_start_time_seconds", "process_max_fds"):
            assert seen.one(name) == own[name][0][2], "of two workers that are this process"
        assert seen.one("process_open_fds") > own["process_open_fds"][0][2] * 1.5

    def test_a_server_is_up_if_it_answers_all_workers(self) -> None:
        merged = MergedMetrics()
        labels = {"use": "counts", "server": "127.0.0.1:6379"}
        for number, isUp in enumerate((1, 0, 1)):
            sample = ["smtphooks_redis_up", labels, isUp]
            merged.update(number, [family("gauge", sample, name="smtphooks_redis_up")])
        assert scrape(merged).one("smtphooks_redis_up") == 0

    def test_all_metrics_of_a_worker_are_there_with_their_kind_labels_and_help(self) -> None:
        metrics = server(1)
        merged = MergedMetrics()
        merged.update(1, sent(snapshot(metrics)))
        shown = {metric.name: metric for metric in merged.merged()}
        for family in snapshot(metrics):
            metric = shown[family["name"]]
            assert (metric.type, metric.documentation) == (family["type"], family["help"])
            labels = {tuple(sorted(labels)) for _, labels, _ in family["samples"]}
            assert {tuple(sorted(sample.labels)) for sample in metric.samples} == labels

    @requires("promtool")
    def test_prometheus_has_nothing_to_say_against_them(self) -> None:
        merged = MergedMetrics()
        for number in range(2):
            merged.update(number, sent(snapshot(server(number))))
        merged.forget(0)
        shown = text(merged)
        # It finds fault with names of prometheus_client's own.
        lines = [line for line in shown.splitlines(keepends=True) if "smtphooks_" in line]
        assert run("promtool", "check", "metrics", stdin="".join(lines).encode()).stdout == b""

    def test_openmetrics_takes_them_as_well(self) -> None:
        merged = MergedMetrics()
        for number in range(2):
            merged.update(number, sent(snapshot(server(number))))
        families = {family.name for family in parseOpenMetrics(openMetricsOf(registryOf(merged)).decode())}
        assert {name.removesuffix("_total") for name in (*FAMILIES, *WORKER_FAMILIES)} < families


# --- workers that end ---


class TestEnd:
    def test_counts_stay_and_gauges_go(self) -> None:
        def make(worker: Worker) -> None:
            worker.counter(2)
            worker.gauge(3, "level")
            histogram = Histogram("took", "Help.", registry=worker.registry, buckets=[1, 2])
            histogram.observe(1.5)
            Summary("size", "Help.", registry=worker.registry).observe(7)

        merged = merge(make, make)
        merged.forget(0)
        seen = scrape(merged)
        assert seen.one("mine_total") == 4
        assert seen.one("level") == 3
        assert seen.of("took_bucket", "le") == {("2.0",): 2, ("+Inf",): 2}
        assert (seen.one("took_sum"), seen.one("took_count")) == (3, 2)
        assert (seen.one("size_sum"), seen.one("size_count")) == (14, 2)

    def test_counts_are_there_while_no_worker_runs(self) -> None:
        merged = merge(lambda worker: worker.counter(2), lambda worker: worker.gauge(2, "level"))
        merged.forget(0)
        merged.forget(1)
        seen = scrape(merged)
        assert seen.one("mine_total") == 2
        assert "level" not in seen.kinds

    def test_one_that_was_never_asked_leaves_nothing(self) -> None:
        merged = MergedMetrics()
        merged.forget("unknown")
        assert merged.ended() == []

    def test_one_that_does_not_answer_has_its_last_numbers(self) -> None:
        slow, quick = Worker(), Worker()
        slow.counter(2)
        counter = quick.counter(1)
        merged = mergedOf(slow, quick)
        counter.inc(4)
        merged.update(1, quick.snapshot())
        assert scrape(merged).one("mine_total") == 7

    def test_they_began_when_the_first_began(self) -> None:
        workers = Worker(), Worker()
        for worker in workers:
            worker.counter(1)
        first, second = (worker.snapshot() for worker in workers)
        for each, created in ((first, 100.0), (second, 200.0)):
            (sample,) = [sample for sample in each[0]["samples"] if sample[0] == "mine_created"]
            sample[2] = created
        merged = MergedMetrics()
        merged.update(1, first)
        merged.update(2, second)
        for _ in range(2):
            assert scrape(merged).one("mine_created") == 100
            merged.forget(1)

    def test_the_next_supervisor_goes_on_with_the_counts(self) -> None:
        merged = merge(lambda worker: worker.counter(0.1), lambda worker: worker.counter(0.2))
        before = text(merged)
        merged.forget(0)
        merged.forget(1)
        taken = MergedMetrics(sent(merged.ended()))
        assert text(taken) == before
        assert taken.ended() == merged.ended()


# What happens to workers: one counts, has observed a time, is asked, ends and is replaced.
SECONDS = st.floats(0, 1e9, allow_subnormal=True)
EVENTS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["count", "scrape", "end"]), SECONDS), min_size=1, max_size=40
)


@given(EVENTS)
def test_no_count_ever_drops(events: list[tuple[int, str, float]]) -> None:
    """Not even by the last bit of a float, for which Prometheus would count all of it again."""
    merged = MergedMetrics()
    counts: dict[int, float] = {}
    last: dict[str, float] = {}
    for worker, event, seconds in events:
        if event == "count":
            counts[worker] = counts.get(worker, 0.0) + seconds
        elif event == "end":
            merged.forget(worker)
            counts.pop(worker, None)
        else:
            for number, value in counts.items():
                merged.update(number, sent([family("counter", ["mine_total", {}, value])]))
        now = {sample.name: sample.value for metric in merged.merged() for sample in metric.samples}
        assert now.get("mine_total", 0) >= last.get("mine_total", 0)
        last = now


@given(st.lists(st.tuples(SECONDS, st.booleans()), min_size=1, max_size=12), st.booleans())
def test_the_sum_is_exact_however_many_have_ended(workers: list[tuple[float, bool]], isHandedOver: bool) -> None:
    merged = MergedMetrics()
    running = {number: [family("counter", ["mine_total", {}, value])] for number, (value, _) in enumerate(workers)}
    for number, each in running.items():
        merged.update(number, each)
    for number, (_, hasEnded) in enumerate(workers):
        if hasEnded:
            merged.forget(number)
            del running[number]
    if isHandedOver:
        merged = MergedMetrics(sent(merged.ended()))
        for number, each in running.items():
            merged.update(number, each)
    assert scrape(merged).one("mine_total") == math.fsum(value for value, _ in workers)


def family(kind: str, *samples: list[Any], name: str = "mine") -> dict[str, Any]:
    return {"name": name, "type": kind, "help": "Help.", "unit": "", "samples": list(samples)}


# --- metrics of users ---


class TestUsers:
    def test_labels_may_differ_among_workers(self) -> None:
        merged = merge(
            lambda worker: worker.counter(1, kind="a"),
            lambda worker: worker.counter(2, kind="b"),
            lambda worker: worker.counter(4, tenant="a"),
            lambda worker: worker.counter(8),
        )
        values = {
            tuple(sample.labels.items()): sample.value
            for sample in scrape(merged).samples
            if sample.name == "mine_total"
        }
        assert values == {(("kind", "a"),): 1, (("kind", "b"),): 2, (("tenant", "a"),): 4, (): 8}
        assert list(parseOpenMetrics(openMetricsOf(registryOf(merged)).decode()))

    def test_of_two_types_the_newest_counts(self) -> None:
        merged = merge(
            lambda worker: worker.gauge(5, "mine"), lambda worker: Summary("mine", "x", registry=worker.registry)
        )
        assert scrape(merged).kinds["mine"] == "summary"
        merged.update(2, [family("gauge", ["mine", {}, 7.0])])
        assert (scrape(merged).kinds["mine"], scrape(merged).one("mine")) == ("gauge", 12)
        merged.forget(0)
        merged.forget(2)
        assert scrape(merged).kinds["mine"] == "summary"

    def test_a_name_that_would_stand_for_two_metrics_stands_for_the_newest(self) -> None:
        merged = merge(lambda worker: worker.counter(1), lambda worker: worker.gauge(5, "mine_total"))
        assert scrape(merged).of("mine_total") == {(): 5}
        assert text(merged).count("# TYPE mine_total ") == 1

    def test_a_metric_of_a_user_does_not_replace_one_of_the_supervisor(self) -> None:
        merged = merge(lambda worker: worker.gauge(99, "smtphooks_workers"))
        assert scrape(merged).of("smtphooks_workers") == {}

    def test_a_histogram_with_other_buckets_begins_anew(self) -> None:
        """Counts below different edges have no sum."""

        def make(edges: list[float], times: int) -> Callable[[Worker], None]:
            def observe(worker: Worker) -> None:
                histogram = Histogram("took", "Help.", ["kind"], registry=worker.registry, buckets=edges)
                for _ in range(times):
                    histogram.labels("a").observe(0.5)

            return observe

        merged = merge(make([1, 2], 1), make([1, 3], 2), make([1, 3], 4))
        for _ in range(2):
            assert scrape(merged).of("took_bucket", "le") == {("1.0",): 6, ("3.0",): 6, ("+Inf",): 6}
            merged.forget(0)
        merged.forget(1)
        merged.forget(2)
        assert scrape(merged).of("took_bucket", "le") == {("1.0",): 6, ("3.0",): 6, ("+Inf",): 6}

    def test_of_those_that_have_ended_the_newest_shape_counts(self) -> None:
        def make(edge: float) -> Callable[[Worker], None]:
            return lambda worker: Histogram("took", "Help.", registry=worker.registry, buckets=[edge]).observe(0.5)

        merged = merge(make(1), make(3), make(1))
        for number in range(3):
            merged.forget(number)
        assert scrape(merged).of("took_bucket", "le") == {("1.0",): 2, ("+Inf",): 2}

    def test_labels_have_no_order(self) -> None:
        merged = MergedMetrics()
        for number, labels in enumerate(({"a": "1", "b": "2"}, {"b": "2", "a": "1"})):
            merged.update(number, [family("counter", ["mine_total", labels, 1])])
        assert scrape(merged).one("mine_total") == 2

    def test_a_histogram_that_has_observed_nothing_hides_none_that_has(self) -> None:
        def make(worker: Worker) -> Histogram:
            return Histogram("took", "Help.", ["kind"], registry=worker.registry)

        merged = merge(lambda worker: make(worker).labels("a").observe(1), make)
        assert scrape(merged).one("took_count") == 1
        assert scrape(merge(make)).kinds["took"] == "histogram"

    def test_infos_and_states_are_as_they_are(self) -> None:
        def make(state: str) -> Callable[[Worker], None]:
            def both(worker: Worker) -> None:
                Info("about", "Help.", registry=worker.registry).info({"hooks": "v1"})
                Enum("mode", "Help.", states=["on", "off"], registry=worker.registry).state(state)

            return both

        seen = scrape(merge(make("on"), make("on")))
        assert seen.of("about_info", "hooks") == {("v1",): 1}
        assert seen.of("mode", "mode") == {("on",): 1}

    def test_numbers_that_JSON_has_no_form_for_come_through(self) -> None:
        for value in (math.inf, -math.inf, math.nan):
            seen = scrape(merge(lambda worker, value=value: worker.gauge(value)))  # type: ignore[misc]
            assert repr(seen.one("mine")) == repr(value)

    def test_infinite_sums_do_not_break_the_scrape(self) -> None:
        def make(value: float) -> Callable[[Worker], None]:
            return lambda worker: Summary("mine", "Help.", registry=worker.registry).observe(value)

        merged = merge(*map(make, (math.inf, 1, 2, -math.inf, 1)))
        assert math.isnan(scrape(merged).one("mine_sum"))
        for number, value in enumerate((math.inf, math.inf, math.inf, math.nan)):
            merged.forget(number)
            (ended,) = [sample for sample in merged.ended()[0]["samples"] if sample[0] == "mine_sum"]
            assert repr(ended[2]) == repr(str(value))
        assert math.isnan(scrape(merged).one("mine_sum"))


NAMES = st.sampled_from(["mine", "mine_total", "mine_sum", "mine_created", "smtphooks_ready", "other"])
METRICS = st.lists(
    st.builds(
        lambda name, kind, labels, values: (name, kind, labels, values),
        NAMES,
        st.sampled_from(["counter", "gauge", "histogram", "summary", "info", "stateset", "unknown", "gaugehistogram"]),
        st.lists(st.sampled_from(["a", "b"]), unique=True),
        st.lists(st.floats(), max_size=3),
    ),
    max_size=4,
)
_SUFFIXES = {
    "counter": ["_total", "_created"],
    "histogram": ["_bucket", "_sum", "_count"],
    "summary": ["_sum", "_count"],
}


@given(st.lists(st.tuples(st.integers(0, 2), METRICS | st.none()), max_size=6))
def test_whatever_hooks_have_registered_the_scrape_can_be_read(changes: list[tuple[int, Any]]) -> None:
    merged = MergedMetrics()
    for worker, metrics in changes:
        if metrics is None:
            merged.forget(worker)
            continue
        families = {}
        for name, kind, labels, values in metrics:
            samples = []
            for number, value in enumerate(values):
                its = {label: str(number) for label in labels}
                for suffix in _SUFFIXES.get(kind, [""]):
                    edge = {"le": "+Inf"} if suffix == "_bucket" else {}
                    samples.append([name + suffix, {**its, **edge}, str(value)])
            families[name] = family(kind, *samples, name=name)
        merged.update(worker, list(families.values()))
        shown = text(merged)
        assert Scrape(shown).samples
        types = [line.split()[2] for line in shown.splitlines() if line.startswith("# TYPE ")]
        assert len(types) == len(set(types))
        series = [line.rpartition(" ")[0] for line in shown.splitlines() if not line.startswith("#")]
        assert len(series) == len(set(series))
        assert openMetricsOf(registryOf(merged)).endswith(b"# EOF\n")


# --- the supervisor ---


class TestSupervisor:
    def test_its_numbers_are_there_and_what_may_happen_later_is_there_from_the_start(self) -> None:
        merged = MergedMetrics()
        merged.numbers = lambda: {"smtphooks_workers": {"ready": 2}, "smtphooks_reloads_total": {"refused": 1}}
        samples = {(sample.name, *sample.labels.values()): sample.value for sample in scrape(merged).samples}
        assert samples == {
            ("smtphooks_ready",): 0,
            ("smtphooks_workers", "starting"): 0,
            ("smtphooks_workers", "ready"): 2,
            ("smtphooks_workers", "draining"): 0,
            ("smtphooks_worker_restarts_total", "died"): 0,
            ("smtphooks_worker_restarts_total", "hung"): 0,
            ("smtphooks_reloads_total", "done"): 0,
            ("smtphooks_reloads_total", "refused"): 1,
        }

    def test_they_have_their_kinds(self) -> None:
        kinds = scrape(MergedMetrics()).kinds
        assert {name: kinds[name] for name in WORKER_FAMILIES} == {
            family.name: family.kind for family in WORKER_FAMILIES.values()
        }

    def test_it_is_ready_when_all_workers_are_unless_it_knows_better(self) -> None:
        merged = MergedMetrics()
        assert not merged.isReady()
        for number, ready in enumerate((1.0, 1.0, 0.0)):
            merged.update(number, [family("gauge", ["smtphooks_ready", {}, ready], name="smtphooks_ready")])
            assert merged.isReady() is (ready == 1)
            assert scrape(merged).one("smtphooks_ready") == ready
        merged.isReady = lambda: True
        assert scrape(merged).one("smtphooks_ready") == 1

    def test_a_scrape_waits_until_the_workers_were_asked(self) -> None:
        merged, asked = MergedMetrics(), Deferred[None]()
        merged.ask = lambda: asked
        collected: list[list[Metric]] = []
        merged.collect().addCallback(collected.append)
        assert collected == []
        merged.update(1, [family("counter", ["mine_total", {}, 5])])
        asked.callback(None)
        assert "mine" in {metric.name for metric in collected[0]}


@pytest.mark.parametrize("name", sorted({*FAMILIES, *WORKER_FAMILIES}))
def test_families_of_a_server_and_of_its_supervisor_have_different_names(name: str) -> None:
    assert (name in FAMILIES) != (name in WORKER_FAMILIES)
