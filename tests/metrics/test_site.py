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


def ask(metrics: Metrics, path: str) -> Any:
    """The request for a path, once it has been answered; not for C{/metrics}, which needs a reactor."""
    request = DummyRequest([path.encode()])
    resource: Any = metrics.resource()
    child = resource.getChildWithDefault(path.encode(), request)
    result = child.render(request)
    assert result is not NOT_DONE_YET
    request.write(result)
    return request


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
