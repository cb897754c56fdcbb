"""DNS zones for the tests of layers: resolvers that answer from a dict, without a network."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.names import dns, error


def text(value: str | bytes) -> dns.Record_TXT:
    """A TXT record of any length."""
    octets = value.encode() if isinstance(value, str) else value
    return dns.Record_TXT(*[octets[i : i + 255] for i in range(0, len(octets), 255)])


class Zone:
    """
    A resolver that answers from a dict of names and payloads; an exception in place of a payload is its failure.

    @ivar asked: the questions, in order.
    """

    def __init__(self, records: dict[str, list[Any]]) -> None:
        self.records = records
        self.asked: list[tuple[str, int]] = []

    def query(self, query: dns.Query, timeout: Any = None) -> Deferred[Any]:
        name = query.name.name.decode()
        self.asked.append((name, query.type))
        if name not in self.records:
            return fail(error.DNSNameError())
        payloads = self.records[name]
        wanted = [payload for payload in payloads if getattr(payload, "TYPE", None) in (query.type, dns.CNAME)]
        failures = [payload for payload in payloads if isinstance(payload, Exception)]
        if failures and not wanted:
            return fail(failures[0])
        return succeed(([dns.RRHeader(name, payload.TYPE, payload=payload) for payload in wanted], [], []))


class Silent:
    """A resolver that answers when the test does."""

    def __init__(self) -> None:
        self.queries: dict[str, Deferred[Any]] = {}
        self.timeouts: list[Any] = []

    def query(self, query: dns.Query, timeout: Any = None) -> Deferred[Any]:
        self.timeouts.append(timeout)
        return self.queries.setdefault(query.name.name.decode(), Deferred())


def now(waiting: Deferred[Any]) -> Any:
    """The result of a Deferred that has fired."""
    results: list[Any] = []
    waiting.addBoth(results.append)
    (result,) = results
    if hasattr(result, "raiseException"):
        result.raiseException()
    return result
