"""The site, over HTTP: metrics as Prometheus asks for them, and the probes."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import REGISTRY, Counter
from twisted.web.server import NOT_DONE_YET
from twisted.web.test.requesthelper import DummyRequest

from smtphooks.metrics import Metrics
from smtphooks.metrics.site import _Taken
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
