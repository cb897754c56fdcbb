"""
Families: every metric that there is, with its kind, its labels and its meaning.

The names are those that Prometheus asks for: base units, and C{_total} for what only grows.  No label holds anything
that a client can make up: verbs are those that the server knows, codes have three digits.
This module knows no factory, and not how a metric is counted.
"""

from __future__ import annotations

import attrs

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"


@attrs.frozen
class Family:
    """
    A metric.

    @ivar name: as it is scraped; of a histogram without C{_bucket}, C{_sum} and C{_count}.
    @ivar kind: C{"counter"}, C{"gauge"} or C{"histogram"}.
    @ivar labels: their names, C{listener} included where there is one of each listener.
    @ivar meaning: its help text.
    @ivar values: of a single label those that are there from the start, at 0.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str
    values: tuple[str, ...] = ()


FAMILIES = {
    family.name: family
    for family in (
        Family("smtphooks_build_info", GAUGE, ("version",), "Always 1; the version of smtphooks is a label."),
        Family("smtphooks_ready", GAUGE, (), "1 while all listeners listen, 0 while they start or drain."),
        Family("smtphooks_connections_total", COUNTER, ("listener",), "Connections that clients have opened."),
        Family(
            "smtphooks_connections_refused_total",
            COUNTER,
            ("listener", "option"),
            "Connections that were refused before the greeting, by the option that says so, or by drain.",
        ),
        Family("smtphooks_open_connections", GAUGE, ("listener",), "Connections that are open now."),
        Family(
            "smtphooks_connection_limit_used_ratio",
            GAUGE,
            ("listener",),
            "Share of option maxClients that is in use, 1 for all of it; 0 without that limit.",
        ),
        Family(
            "smtphooks_buffered_bytes",
            GAUGE,
            ("listener",),
            "Octets of clients in memory that no hook has taken yet, which is what back-pressure holds back.",
        ),
        Family("smtphooks_received_bytes_total", COUNTER, ("listener",), "Octets from clients, without those of TLS."),
        Family("smtphooks_sent_bytes_total", COUNTER, ("listener",), "Octets to clients, without those of TLS."),
        Family(
            "smtphooks_tls_handshakes_total",
            COUNTER,
            ("listener", "version"),
            "TLS handshakes that were completed, by version of the protocol.",
        ),
        Family(
            "smtphooks_auth_attempts_total",
            COUNTER,
            ("listener", "method", "result"),
            "Attempts of AUTH by mechanism; the result is success, failure, or tempfail for a reply of 4xx.",
        ),
        Family(
            "smtphooks_replies_total",
            COUNTER,
            ("listener", "verb", "code"),
            "Replies by command and code; the verb is empty for an unknown command and where there was none.",
        ),
        Family(
            "smtphooks_refusals_total",
            COUNTER,
            ("listener", "by", "verb"),
            "Refusals by who gave them, as in the log: a hook, a hook of a layer, or the server.",
        ),
        Family(
            "smtphooks_transactions_total",
            COUNTER,
            ("listener", "result"),
            "Transactions that have ended: accepted, refused, or abandoned by the client.",
        ),
        Family(
            "smtphooks_messages_total",
            COUNTER,
            ("listener", "result"),
            "Messages that were decided: accepted, refused, or unanswered as the client had left.",
        ),
        Family("smtphooks_message_bytes_total", COUNTER, ("listener",), "Octets of accepted messages."),
        Family("smtphooks_message_recipients_total", COUNTER, ("listener",), "Recipients of accepted messages."),
        Family(
            "smtphooks_final_dot_to_reply_seconds",
            HISTOGRAM,
            ("listener",),
            "Time from the last octet of a message to the reply.",
        ),
        Family(
            "smtphooks_hook_seconds",
            HISTOGRAM,
            ("listener", "hook", "layer"),
            "Time from the call of a hook to its answer, waiting included.",
        ),
        Family(
            "smtphooks_hook_faults_total",
            COUNTER,
            ("listener", "hook", "layer"),
            "Calls of a hook that raised what is no refusal.",
        ),
        Family(
            "smtphooks_redis_up",
            GAUGE,
            ("use", "server"),
            "1 while a Redis server answers to a layer, 0 while it is away; by what it is used for.",
        ),
        Family(
            "smtphooks_redis_fallbacks_total",
            COUNTER,
            ("use",),
            "Decisions of layers without an answer of Redis, by what it is used for: counts or greylist.",
        ),
    )
}

# Of the supervisor, which only a service with workers has.
WORKER_FAMILIES = {
    family.name: family
    for family in (
        Family(
            "smtphooks_workers",
            GAUGE,
            ("state",),
            "Workers that run: starting, ready, or draining after a reload or on command.",
            ("starting", "ready", "draining"),
        ),
        Family(
            "smtphooks_worker_restarts_total",
            COUNTER,
            ("reason",),
            "Workers that were replaced as they had died, or were killed as they hung.",
            ("died", "hung"),
        ),
        Family(
            "smtphooks_reloads_total",
            COUNTER,
            ("result",),
            "Reloads of the configuration: done, or refused as it was wrong.",
            ("done", "refused"),
        ),
    )
}
