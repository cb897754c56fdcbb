"""
The site: what is served over HTTP, to Prometheus and to health checks.

C{/metrics} has what is registered with C{prometheus_client} as well: the process, Python, and metrics of hooks.  The
numbers of a scrape are read at one moment, on the reactor's thread; another thread makes text of them, so that no
client waits for that.
This module knows no factory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.registry import Collector
from prometheus_client.twisted import MetricsResource
from twisted.web.http import OK, SERVICE_UNAVAILABLE, Request
from twisted.web.resource import Resource
from twisted.web.server import Site


class Metered(Protocol):
    """What the site needs to know of metrics."""

    isReady: Callable[[], bool]

    def collect(self) -> Iterable[Metric]: ...


def resourceOf(metrics: Metered) -> Resource:
    """C{/metrics}, C{/healthz} and C{/readyz}."""
    root = Resource()
    root.putChild(b"metrics", _Scrape(metrics))
    root.putChild(b"healthz", _Probe(lambda: True))
    root.putChild(b"readyz", _Probe(lambda: metrics.isReady()))
    return root


class QuietSite(Site):
    """A site that logs no requests: a scrape comes every few seconds."""

    noisy = False

    def log(self, request: Request) -> None:
        """C{HTTPFactory}"""


class _Scrape(Resource):
    isLeaf = True

    def __init__(self, metrics: Metered) -> None:
        Resource.__init__(self)
        self._metrics = metrics

    def render(self, request: Request) -> int:
        registry = CollectorRegistry()
        registry.register(_Taken(list(self._metrics.collect())))
        response: int = MetricsResource(registry).render(request)  # type: ignore[no-untyped-call]
        return response


class _Taken(Collector):
    """Metrics as they were at one moment, and those that are registered with C{prometheus_client}."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics
        self._names = {metric.name for metric in metrics}

    def collect(self) -> Iterable[Metric]:
        yield from self._metrics
        for metric in REGISTRY.collect():
            # An application may have registered the same metrics.
            if metric.name not in self._names:
                yield metric


class _Probe(Resource):
    isLeaf = True

    def __init__(self, isFine: Callable[[], bool]) -> None:
        Resource.__init__(self)
        self._isFine = isFine

    def render_GET(self, request: Request) -> bytes:
        isFine = self._isFine()
        request.setResponseCode(OK if isFine else SERVICE_UNAVAILABLE)
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        request.setHeader(b"cache-control", b"no-store")
        return b"ok\n" if isFine else b"not ready\n"
