"""
The site: what is served over HTTP, to Prometheus and to health checks.

C{/metrics} has what is registered with C{prometheus_client} as well: the process, Python, and metrics of hooks.
All of it is made on the reactor's thread.  Twisted's WSGI, by which C{prometheus_client} serves it, needs a thread of
the reactor's pool: while hooks that block hold all of these nobody could see why, and a request at the end of the
process could wait for a reactor that has stopped.
This module knows no factory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
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

    def render_GET(self, request: Request) -> bytes:
        registry = CollectorRegistry()
        registry.register(_Taken(list(self._metrics.collect())))
        encode, kind = choose_encoder(request.getHeader("accept") or "")
        request.setHeader("content-type", kind)
        return encode(registry)


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
