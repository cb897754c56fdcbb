"""The site, over HTTP: metrics as Prometheus asks for them, and the probes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import REGISTRY, Counter
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET
from twisted.web.test.requesthelper import DummyRequest

from smtphooks.metrics import Metrics
from smtphooks.metrics.merging import MergedMetrics
from smtphooks.metrics.site import _Taken
from tests.conftest import Logged
from tests.support import makeFactory


def ask(metrics: Metrics, path: str, accept: bytes = b"*/*") -> Any:
    """The request for a path, once it has been answered: at once, without another thread."""
    request = DummyRequest([path.encode()])
    request.requestHeaders.setRawHeaders(b"accept", [accept])
    resource: Any = metrics.resource()
    child = resource.getChildWithDefault(path.encode(), request)
    result = child.render(request)
    assert result is not NOT_DONE_YET
    request.write(result)
    return request


@pytest.mark.parametrize(
    "accept, kind, last",
    [
        (b"*/*", "text/plain; version=0.0.4; charset=utf-8", "\n"),
        (b"application/openmetrics-text;version=1.0.0", "application/openmetrics-text; version=1.0.0", "\n# EOF\n"),
    ],
)
def test_a_scrape_waits_for_no_thread_that_hooks_may_hold(accept: bytes, kind: str, last: str) -> None:
    metrics = Metrics()
    metrics.observe(makeFactory(), "tcp:25")
    request = ask(metrics, "metrics", accept)
    (text,) = request.written
    assert 'smtphooks_connections_total{listener="tcp:25"} 0.0' in text.decode()
    assert text.decode().endswith(last)
    assert request.responseHeaders.getRawHeaders("content-type")[0].startswith(kind)


def test_health_is_that_of_the_process() -> None:
    request = ask(Metrics(), "healthz")
    assert (request.responseCode, request.written) == (200, [b"ok\n"])


@pytest.mark.parametrize("isReady, code, text", [(True, 200, b"ok\n"), (False, 503, b"not ready\n")])
def test_readiness_is_what_the_metrics_say(isReady: bool, code: int, text: bytes) -> None:
    metrics = Metrics()
    metrics.isReady = lambda: isReady
    request = ask(metrics, "readyz")
    assert (request.responseCode, request.written) == (code, [text])
    assert request.responseHeaders.getRawHeaders(b"cache-control") == [b"no-store"]


def test_any_other_path_is_not_found() -> None:
    assert ask(Metrics(), "else").responseCode == 404


def test_what_an_application_has_registered_is_there_too_but_nothing_twice() -> None:
    metrics = Metrics()
    metrics.observe(makeFactory(), "tcp:25")
    own = Counter("tests_of_the_site", "A counter of an application.")
    REGISTRY.register(metrics)
    try:
        names = [metric.name for metric in _Taken(list(metrics.collect())).collect()]
    finally:
        REGISTRY.unregister(metrics)
        REGISTRY.unregister(own)
    assert "tests_of_the_site" in names
    assert "smtphooks_connections" in names
    assert len(names) == len(set(names))


class Slow:
    """The metrics of workers that have not answered yet."""

    def __init__(self, cancelled: Callable[[Deferred[None]], object] | None = None) -> None:
        self.asked: Deferred[None] = Deferred(cancelled or self._cancelled)
        self.isCancelled = False
        self.metrics = MergedMetrics()
        self.metrics.ask = lambda: self.asked
        resource: Any = self.metrics.resource()
        self.request = DummyRequest([b"metrics"])
        self.result = resource.getChildWithDefault(b"metrics", self.request).render(self.request)

    def _cancelled(self, asked: Deferred[None]) -> None:
        self.isCancelled = True


class TestWorkers:
    def test_a_scrape_is_answered_when_the_workers_have_answered(self) -> None:
        slow = Slow()
        assert slow.result is NOT_DONE_YET
        assert slow.request.written == []
        slow.metrics.numbers = lambda: {"smtphooks_workers": {"ready": 2}}
        slow.asked.callback(None)
        text = b"".join(slow.request.written)
        assert b'smtphooks_workers{state="ready"} 2.0\n' in text
        assert slow.request.finished == 1
        headers = slow.request.responseHeaders
        assert headers.getRawHeaders("content-length") == [str(len(text))]
        assert headers.getRawHeaders("content-type")[0].startswith("text/plain; version=0.0.4")

    def test_the_process_of_the_supervisor_is_not_mixed_in(self) -> None:
        """It is no worker, and its memory is not that of a server."""
        slow = Slow()
        slow.asked.callback(None)
        assert b"process_" not in b"".join(slow.request.written)
        assert b"python_" not in b"".join(slow.request.written)

    def test_a_client_that_leaves_is_not_answered_any_more_and_nobody_is_waited_for(self) -> None:
        slow = Slow()
        slow.request.processingFailed(Failure(ConnectionDone()))
        assert slow.isCancelled
        assert (slow.request.written, slow.request.finished) == ([], 0)

    def test_so_it_is_if_the_workers_are_asked_nevertheless(self) -> None:
        slow = Slow(lambda asked: asked.callback(None))
        slow.request.processingFailed(Failure(ConnectionDone()))
        assert (slow.request.written, slow.request.finished) == ([], 0)

    def test_a_failure_is_logged_and_answered(self, logged: Logged) -> None:
        slow = Slow()
        slow.asked.errback(ZeroDivisionError())
        assert len(logged.takeFailures(ZeroDivisionError)) == 1
        assert (slow.request.responseCode, slow.request.finished) == (500, 1)

    def test_a_failure_after_the_client_has_left_is_not_logged(self, logged: Logged) -> None:
        slow = Slow(lambda asked: asked.errback(ZeroDivisionError()))
        slow.request.processingFailed(Failure(ConnectionDone()))
        assert logged.takeFailures(ZeroDivisionError) == []
