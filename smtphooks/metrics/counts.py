"""
Counts: what the connections of one factory have done so far, as plain numbers.

A connection tells of an event, which costs an addition; numbers that a factory knows anyway are looked up at a scrape.
This module knows nothing of Prometheus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from smtphooks.factory import SMTPServerFactory
from smtphooks.metrics.histogram import Histogram

ACCEPTED, REFUSED, ABANDONED, UNANSWERED = ("accepted",), ("refused",), ("abandoned",), ("unanswered",)

Labels = tuple[str, ...]


class Counts:
    """
    The counts of one factory, as the C{Observer} of its connections.

    @ivar factory: that factory.
    """

    def __init__(self, factory: SMTPServerFactory) -> None:
        self.factory = factory
        self._connections = self._received = self._sent = self._octets = self._recipients = 0
        # Labels that are known beforehand begin at 0: Prometheus sees no increase in a series that begins at 1.
        self._turnedAway: Counter[Labels] = Counter({("maxClients",): 0, ("maxClientsPerAddress",): 0})
        self._transactions: Counter[Labels] = Counter(dict.fromkeys((ACCEPTED, REFUSED, ABANDONED), 0))
        self._messages: Counter[Labels] = Counter(dict.fromkeys((ACCEPTED, REFUSED, UNANSWERED), 0))
        self._replies: dict[tuple[str, int], int] = {}
        self._refusals: Counter[Labels] = Counter()
        self._attempts: Counter[Labels] = Counter()
        self._handshakes: Counter[Labels] = Counter()
        self._faults: Counter[Labels] = Counter()
        self._hooks: dict[Labels, Histogram] = {}
        self._decisions = Histogram()

    # --- what happens ---

    def connectionMade(self) -> None:
        """C{Observer}"""
        self._connections += 1

    def turnedAway(self, option: str) -> None:
        """C{Observer}"""
        self._turnedAway[option,] += 1

    def received(self, octets: int) -> None:
        """C{Observer}"""
        self._received += octets

    def sent(self, octets: int) -> None:
        """C{Observer}"""
        self._sent += octets

    def replied(self, verb: str, code: int) -> None:
        """C{Observer}"""
        key = verb, code
        self._replies[key] = self._replies.get(key, 0) + 1

    def refused(self, by: str, verb: str) -> None:
        """C{Observer}"""
        self._refusals[by, verb] += 1

    def authenticated(self, method: str, code: int) -> None:
        """C{Observer}"""
        result = "success" if code < 400 else "tempfail" if code < 500 else "failure"
        self._attempts[method, result] += 1

    def secured(self, version: str) -> None:
        """C{Observer}"""
        self._handshakes[version,] += 1

    def messageEnded(self, octets: int, recipients: int, code: int, seconds: float | None) -> None:
        """C{Observer}"""
        result = REFUSED if code >= 400 else ACCEPTED if code else UNANSWERED
        self._messages[result] += 1
        self._transactions[result if code else ABANDONED] += 1
        if result is ACCEPTED:
            self._octets += octets
            self._recipients += recipients
        if seconds is not None and code:
            self._decisions.observe(seconds)

    def transactionAbandoned(self) -> None:
        """C{Observer}"""
        self._transactions[ABANDONED] += 1

    def hookEnded(self, hook: str, layer: str, seconds: float, isFault: bool) -> None:
        """C{Observer}"""
        key = hook, layer
        histogram = self._hooks.get(key)
        if histogram is None:
            histogram = self._hooks[key] = Histogram()
            self._faults[key] = 0
        histogram.observe(seconds)
        if isFault:
            self._faults[key] += 1

    # --- what a scrape sees ---

    def values(self) -> Iterator[tuple[str, Mapping[Labels, float]]]:
        """For each counter and gauge its values by labels, that of the listener left out."""
        factory = self.factory
        # Octets may be taken, and connections may end, but for the copy.
        buffered = sum(connection.buffered for connection in tuple(factory.connections))
        yield "smtphooks_connections_total", {(): self._connections}
        yield "smtphooks_connections_refused_total", self._turnedAway
        yield "smtphooks_open_connections", {(): len(factory.connections)}
        yield "smtphooks_connection_limit_used_ratio", {(): factory.server.admission.fullness}
        yield "smtphooks_buffered_bytes", {(): buffered}
        yield "smtphooks_received_bytes_total", {(): self._received}
        yield "smtphooks_sent_bytes_total", {(): self._sent}
        yield "smtphooks_tls_handshakes_total", self._handshakes
        yield "smtphooks_auth_attempts_total", self._attempts
        yield "smtphooks_replies_total", {(verb, str(code)): count for (verb, code), count in self._replies.items()}
        yield "smtphooks_refusals_total", self._refusals
        yield "smtphooks_transactions_total", self._transactions
        yield "smtphooks_messages_total", self._messages
        yield "smtphooks_message_bytes_total", {(): self._octets}
        yield "smtphooks_message_recipients_total", {(): self._recipients}
        yield "smtphooks_hook_faults_total", self._faults

    def histograms(self) -> Iterator[tuple[str, Mapping[Labels, Histogram]]]:
        """For each histogram that of each set of labels."""
        yield "smtphooks_final_dot_to_reply_seconds", {(): self._decisions}
        yield "smtphooks_hook_seconds", self._hooks
