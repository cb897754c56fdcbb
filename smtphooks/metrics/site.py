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
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import INTERNAL_SERVER_ERROR, OK, SERVICE_UNAVAILABLE, Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from smtphooks.metrics.snapshot import withRegistered

_log = Logger()


class Metered(Protocol):
    """What the site needs to know of metrics."""

    isReady: Callable[[], bool]

    def collect(self) -> Iterable[Metric] | Deferred[list[Metric]]: ...


def resourceOf(metrics: Metered, isWhole: bool = False) -> Resource:
    """
    C{/metrics}, C{/healthz} and C{/readyz}.

    @param isWhole: these are all metrics, and what is registered with C{prometheus_client} is left out.
    """
    root = Resource()
    root.putChild(b"metrics", _Scrape(metrics, isWhole))
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

    def __init__(self, metrics: Metered, isWhole: bool) -> None:
        Resource.__init__(self)
        self._metrics = metrics
        self._isWhole = isWhole

    def render_GET(self, request: Request) -> bytes | int:
        collected = self._metrics.collect()
        if not isinstance(collected, Deferred):
            return self._answer(request, collected)
        waiting = _Waiting(request, collected)
        collected.addCallback(lambda metrics: self._answer(request, metrics))
        collected.addCallbacks(waiting.finish, waiting.fail)
        return NOT_DONE_YET

    def _answer(self, request: Request, metrics: Iterable[Metric]) -> bytes:
        registry = CollectorRegistry()
        registry.register(_Taken([*metrics], self._isWhole))
        encode, kind = choose_encoder(request.getHeader("accept") or "")
        request.setHeader("content-type", kind)
        return encode(registry)


class _Waiting:
    """A request that waits for the metrics of other processes."""

    def __init__(self, request: Request, collected: Deferred[Any]) -> None:
        self._request = request
        self._collected = collected
        self._hasLeft = False
        request.notifyFinish().addErrback(self._leave)

    def _leave(self, reason: Failure) -> None:
        """The client has left: it is answered no more, and nobody is waited for."""
        self._hasLeft = True
        self._collected.cancel()

    def finish(self, text: bytes) -> None:
        if not self._hasLeft:
            self._request.setHeader(b"content-length", b"%d" % len(text))
            self._request.write(text)
            self._request.finish()

    def fail(self, failure: Failure) -> None:
        if not self._hasLeft:
            _log.failure("metrics cannot be collected", failure=failure)
            self._request.setResponseCode(INTERNAL_SERVER_ERROR)
            self._request.finish()


class _Taken(Collector):
    """Metrics as they were at one moment, and unless they are whole those that C{prometheus_client} has registered."""

    def __init__(self, metrics: list[Metric], isWhole: bool = False) -> None:
        self._metrics = metrics
        self._isWhole = isWhole

    def collect(self) -> Iterable[Metric]:
        return self._metrics if self._isWhole else withRegistered(self._metrics)


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
