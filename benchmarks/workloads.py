"""
Workloads: the table of what is measured, each workload with its turns in every round.

A new workload is one more entry here.
This module knows no statistics and starts no server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from benchmarks.load import CHUNKED, PIPELINED, SEQUENTIAL, Dialogue, Load, SmtpSource
from benchmarks.peers import (
    ALL_HOOKS,
    ASYNCIO,
    CANNED,
    FEW_IDLE,
    HASHING,
    LAYERS,
    MAILBOX,
    MAILDIR,
    MANY_IDLE,
    NO_HOOKS,
    PEERS,
    SERVICE,
    SERVICE_JSON,
    SMTP_SERVER,
    SMTPHOOKS,
    STORING,
    TWISTED_REACTOR,
    UVLOOP,
    Peer,
)


@dataclass(frozen=True)
class Burst:
    """
    CPU time for each unit of a burst.

    @ivar each: units in a message.
    """

    load: Load
    each: int = 1


@dataclass(frozen=True)
class Capacity:
    """Units per second, of a server that is the limit."""

    load: Load


@dataclass(frozen=True)
class Latency:
    """The time of each reply at a fixed load."""

    rate: float = 200.0
    seconds: float = 1.5


@dataclass(frozen=True)
class Memory:
    """Memory for each idle connection."""

    connections: int = 5000


Job = Burst | Capacity | Latency | Memory


@dataclass(frozen=True)
class Turn:
    """
    One server's turn in a round.

    @ivar label: the name of its figures.
    """

    label: str
    peer: Peer
    job: Job


@dataclass(frozen=True)
class Workload:
    """
    @ivar unit: the unit that CPU time is divided by.
    @ivar base: the label that the others are compared with.
    @ivar needs: the extension that a server must advertise to be measured.
    @ivar steps: for a cost that grows with an amount: that amount, by label.
    @ivar most: the maximum number of rounds.
    """

    name: str
    title: str
    turns: tuple[Turn, ...]
    unit: str = "message"
    base: str = SMTPHOOKS.name
    mode: str = "smtp"
    needs: str = ""
    steps: dict[str, float] = field(default_factory=dict, hash=False)
    most: int = 1000

    @property
    def fresh(self) -> bool:
        """Whether each round needs new processes, because a process does not return its memory."""
        return any(isinstance(turn.job, Memory) for turn in self.turns)

    @property
    def usesSmtpSource(self) -> bool:
        return any(
            isinstance(turn.job, (Burst, Capacity)) and isinstance(turn.job.load, SmtpSource) for turn in self.turns
        )

    def only(self, labels: Sequence[str]) -> Workload:
        return replace(self, turns=tuple(turn for turn in self.turns if turn.label in labels))


def _among(peers: Sequence[Peer], job: Job) -> tuple[Turn, ...]:
    return tuple(Turn(peer.name, peer, job) for peer in peers)


def _connecting(peers: Sequence[Peer], load: SmtpSource) -> tuple[Turn, ...]:
    """smtp-server waits a tenth of a second before each greeting: it needs more sessions to be busy."""
    wide = replace(load, sessions=100)
    return tuple(Turn(peer.name, peer, Burst(wide if peer is SMTP_SERVER else load)) for peer in peers)


def _workers(peers: Mapping[int, Peer], messages: int, sessions: int, kept: bool = True) -> tuple[Turn, ...]:
    """A turn for each number of workers, with messages and sessions for each: all turns take about as long."""
    return tuple(
        Turn(
            peer.name,
            peer,
            Capacity(SmtpSource(messages * peer.cores, 1024, kept=kept, sessions=sessions * peer.cores)),
        )
        for peer in peers.values()
    )


_SERVERS = (SMTPHOOKS, *PEERS)
_HOOKS = (NO_HOOKS, ALL_HOOKS)
_REACTORS = (TWISTED_REACTOR, UVLOOP, ASYNCIO)
_SERVICES = (SMTPHOOKS, SERVICE, SERVICE_JSON)
_PLAIN_SERVERS = (*_SERVERS, CANNED, *_HOOKS)
_LMTP_SERVERS = tuple(peer for peer in _SERVERS if peer.lmtp)
_KEPT = SmtpSource(1500, 1024)
_CONNECTIONS = SmtpSource(600, 1024, kept=False)
# Messages for each number of recipients.
_RECIPIENTS = {1: 1200, 10: 600, 100: 100, 1000: 12}
# Up to 100 KB the kernel hands over an octet for half of what it costs beyond: from 10 KB on, the cost of a unit grows
# by 2.3 even for canned replies.
_SIZES = {"100 KB": 100_000, "1 MB": 1_000_000, "10 MB": 10_000_000}

# The kernel spreads the connections over the workers at random, and smtp-source has a session send the next message as
# soon as one is through: with this many sessions each worker is busy until the last messages.
_WORKERS = Workload(
    "workers",
    "workers with a hook of 12 ms of CPU",
    _workers(HASHING, 160, sessions=16),
    base=HASHING[1].name,
)

WORKLOADS = (
    Workload("1k", "1 KB, kept connections", _among([*_PLAIN_SERVERS, *_REACTORS], Burst(_KEPT))),
    Workload("50k", "50 KB, kept connections", _among(_PLAIN_SERVERS, Burst(SmtpSource(500, 51200)))),
    Workload(
        "recipients",
        "10 recipients, 1 KB, kept",
        _among(_PLAIN_SERVERS, Burst(SmtpSource(500, 1024, recipients=10))),
    ),
    Workload(
        "connections",
        "a connection per message, 1 KB",
        _connecting([*_PLAIN_SERVERS, *_REACTORS], _CONNECTIONS),
    ),
    Workload("service", "the service and its log, 1 KB, kept", _among(_SERVICES, Burst(_KEPT))),
    Workload(
        "service-connections",
        "the service and its log, a connection per message",
        _among(_SERVICES, Burst(_CONNECTIONS)),
    ),
    Workload("25m", "25 MB", _among(_SERVERS, Burst(SmtpSource(2, 25_000_000, sessions=2), each=25)), unit="MB"),
    Workload(
        "pipelined",
        "1 KB, pipelined envelope",
        _among(_SERVERS, Burst(Dialogue(2000, PIPELINED))),
        needs="PIPELINING",
    ),
    Workload("bdat", "1 KB with BDAT", _among(_SERVERS, Burst(Dialogue(2000, CHUNKED))), needs="CHUNKING"),
    Workload(
        "handshakes",
        "STARTTLS and QUIT",
        _among(_SERVERS, Burst(Dialogue(120, kept=False, tls=True))),
        unit="connection",
        needs="STARTTLS",
    ),
    Workload(
        "tls",
        "1 KB, kept TLS connections",
        _among([*_SERVERS, *_REACTORS], Burst(Dialogue(1000, SEQUENTIAL, tls=True))),
        needs="STARTTLS",
    ),
    Workload(
        "submission",
        "STARTTLS, AUTH, 1 KB",
        _among(_SERVERS, Burst(Dialogue(120, SEQUENTIAL, kept=False, tls=True, auth=True))),
        needs="STARTTLS",
    ),
    Workload(
        "lmtp",
        "LMTP, 1 KB, kept connections",
        _among(_LMTP_SERVERS, Burst(SmtpSource(1500, 1024, lmtp=True))),
        mode="lmtp",
    ),
    Workload(
        "maildir",
        "1 KB into a Maildir",
        _among([MAILDIR, MAILBOX], Burst(SmtpSource(200, 1024))),
        base=MAILDIR.name,
    ),
    Workload(
        "size",
        "message size",
        tuple(
            Turn(label, SMTPHOOKS, Burst(SmtpSource(max(4, min(1000, 40_000_000 // size)), size)))
            for label, size in _SIZES.items()
        ),
        base="100 KB",
        steps={label: size / 1_000_000 for label, size in _SIZES.items()},
    ),
    Workload(
        "recipient-count",
        "number of recipients",
        tuple(
            Turn(str(number), SMTPHOOKS, Burst(SmtpSource(count, 1024, recipients=number)))
            for number, count in _RECIPIENTS.items()
        ),
        base="1",
        steps={str(number): number for number in _RECIPIENTS},
    ),
    Workload(
        "layers",
        "layers asked for each recipient",
        _among(list(LAYERS.values()), Burst(SmtpSource(100, 1024, recipients=100), each=100)),
        unit="recipient",
        base=LAYERS[0].name,
    ),
    Workload("idle", "1 KB beside idle connections", _among([FEW_IDLE, MANY_IDLE], Burst(_KEPT)), base=FEW_IDLE.name),
    Workload("latency", "time of a reply, 200 messages a second", _among(_SERVERS, Latency())),
    Workload("memory", "memory per idle connection", _among(_SERVERS, Memory()), most=3),
    _WORKERS,
)

# How much a machine carries with the service as it is run; the load takes its part of the same cores.
MACHINE = (
    _WORKERS,
    Workload(
        "workers-maildir",
        "workers, 1 KB into a Maildir, kept",
        _workers(STORING, 1500, sessions=20),
        base=STORING[1].name,
        most=5,
    ),
    Workload(
        "workers-connections",
        "workers, a connection per message, Maildir",
        _workers(STORING, 1000, sessions=20, kept=False),
        base=STORING[1].name,
        most=5,
    ),
    Workload(
        "workers-memory",
        "workers, memory per idle connection",
        _among(list(STORING.values()), Memory()),
        base=STORING[1].name,
        most=2,
    ),
)
