"""
Metering: the HTTP endpoint of a service's metrics.

It listens before the listeners start, and until they have stopped, so that C{/readyz} can say how far the service has
come.  The extra C{metrics} is imported only where the configuration asks for metrics.
This module knows neither flags nor configuration files, and not what is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks.factory import SMTPServerFactory
from smtphooks.service.settings import ConfigError

if TYPE_CHECKING:
    from smtphooks.metrics.merging import MergedMetrics
    from smtphooks.metrics.metrics import Metrics

_log = Logger()


def requireExtra(where: str) -> None:
    """
    Check that the extra is installed.

    @param where: the file that has the key C{metrics}.
    @raise ConfigError: if it is not.
    """
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"{where}: metrics wants prometheus_client, which is not installed: pip install 'smtphooks[metrics]', or"
            " leave metrics out"
        ) from None


def metricsOf(factories: Sequence[tuple[str, SMTPServerFactory]], isReady: Callable[[], bool]) -> Metrics:
    """
    Metrics that count what factories do.

    @param factories: each with the description of its listener's endpoint.
    @param isReady: what C{/readyz} says.
    """
    from smtphooks.metrics.metrics import Metrics

    metrics = Metrics()
    metrics.isReady = isReady
    names: list[str] = []
    for name, factory in factories:
        names.append(name)
        # Several listeners may have port 0, which stands for any free port.
        metrics.observe(factory, name if names.count(name) == 1 else f"{name} ({names.count(name)})")
    return metrics


class Metering:
    """
    Metrics, and the endpoint that serves them.

    @ivar endpointName: the description of the endpoint, as configured.
    @ivar metrics: what is served.
    """

    def __init__(self, endpointName: str, endpoint: IStreamServerEndpoint, metrics: Metrics | MergedMetrics) -> None:
        from smtphooks.metrics.site import QuietSite

        self.metrics = metrics
        self.endpointName = endpointName
        self._endpoint = endpoint
        self._site = QuietSite(self.metrics.resource())  # type: ignore[no-untyped-call]
        self._listening: Deferred[IListeningPort | None] | None = None

    def start(self, failed: Callable[[Failure], object]) -> None:
        """
        Listen.

        @param failed: called with the failure if the endpoint fails later.
        @raise Exception: if it fails at once.
        """
        if self._listening is not None:
            return
        failures: list[Failure] = []
        isLate = False

        def cannot(failure: Failure) -> None:
            if not isLate:
                failures.append(failure)
            elif self._listening is listening:  # not if it was stopped meanwhile
                failed(failure)

        listening: Deferred[Any] = maybeDeferred(self._endpoint.listen, self._site)
        listening.addCallbacks(self._hold, cannot)
        if failures:
            failures[0].raiseException()
        isLate, self._listening = True, listening

    def _hold(self, port: IListeningPort) -> IListeningPort:
        _log.info("metrics are served on {endpoint}", endpoint=self.endpointName)
        return port

    def stop(self) -> Deferred[Any]:
        """Stop listening; fires when that is done."""
        listening, self._listening = self._listening, None
        if listening is None:
            return succeed(None)
        listening.cancel()
        return listening.addCallback(lambda port: None if port is None else maybeDeferred(port.stopListening))
