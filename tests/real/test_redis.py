"""Redis beside the layers: counts and memories that several servers share, and what becomes of them without it."""

from __future__ import annotations

import os
import smtplib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from math import inf
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.logger import LogEvent, capturedLogs, eventAsText

from smtphooks import Address, Envelope, Session, SMTPError
from smtphooks.layers import Greylist, RedisCounts, RedisTriplets
from smtphooks.layers.counts import Limit, MemoryCounts, Verdict
from smtphooks.layers.redis import counts, triplets
from smtphooks.layers.triplets import Triplets, prepare
from smtphooks.sharedtable import Table, useTable
from tests.real.programs import HOOKS, PATIENCE, Certificates, Service, eventually, freePort, tcp, toml
from tests.real.redis import MASTER, Caller, Redis, StartRedis, clusterOf, needsRedis, sentinelSettings
from tests.real.workers import Files, Supervised
from tests.secrets import PASSWORD, WRONG_PASSWORD, plain, secretsIn
from tests.workers import said, workers

pytest.importorskip("txredisapi", reason="txredisapi is not installed")
pytestmark = [needsRedis, pytest.mark.usefixtures("logged")]

KEY = "messages client 192.0.2.7"
THREE = Limit(3, 3600, 3, "three")
MANY = Limit(1000, 3600, 1000, "many")


@asynccontextmanager
async def started(*urls: str, **options: Any) -> AsyncIterator[RedisCounts]:
    """Counts as a layer has them, with time enough for a slow machine."""
    made = RedisCounts(urls, **{"timeout": 5.0, **options})
    await made.onStart(None)
    try:
        yield made
    finally:
        await made.onStop(None)


def isUp(made: RedisCounts) -> bool:
    """All servers of it can be used, as the metrics say."""
    values = [value for name, _, value in made.metricValues() if name == "smtphooks_redis_up"]
    return min(values) == 1


def fallbacks(made: RedisCounts) -> float:
    """How often the counts of the machine have decided."""
    (value,) = [value for name, _, value in made.metricValues() if name == "smtphooks_redis_fallbacks_total"]
    return value


async def until(condition: Callable[[], Awaitable[object]], what: str) -> None:
    """Wait, while the reactor runs, until a condition holds."""
    deadline = reactor.seconds() + PATIENCE  # type: ignore[attr-defined]
    while not await condition():
        assert reactor.seconds() < deadline, f"it does not become so: {what}"  # type: ignore[attr-defined]
        await deferLater(reactor, 0.02)  # type: ignore[arg-type]


async def untilUp(made: RedisCounts, wanted: bool = True) -> None:
    """Wait until it is so, as a client after the other is counted."""

    async def asked() -> bool:
        await made.check(KEY, 1, (MANY,))
        return isUp(made) is wanted

    await until(asked, f"up {wanted}")


async def taken(made: RedisCounts, most: int = 10, key: str = KEY, limit: Limit = THREE) -> int:
    """How many single units are taken before the first refusal."""
    for number in range(most):
        if (await made.increment(key, 1, (limit,))).limit:
            return number
    return most


@contextmanager
def log() -> Iterator[list[str]]:
    """The lines about Redis that are logged in the block, in the list when it has ended."""
    lines: list[str] = []
    with capturedLogs() as events:
        yield lines
    lines += [text for text in map(_textOf, events) if "Redis" in text]


def _textOf(event: LogEvent) -> str:
    return eventAsText(event, includeTimestamp=False, includeSystem=False)


# --- Counting ---


@pytest_twisted.ensureDeferred
async def test_two_counts_on_one_redis_are_one(redis: Redis) -> None:
    async with started(redis.url) as first, started(redis.url) as second:
        assert [(await each.increment(KEY, 1, (THREE,))).limit for each in (first, second, first)] == [None] * 3
        verdict = await second.increment(KEY, 1, (THREE,))
        assert verdict.limit == THREE and 1190 < verdict.wait <= 1200
        assert (await first.check(KEY, 1, (THREE,))).limit == THREE
        assert (await first.check("another", 3, (THREE,))).limit is None


@pytest_twisted.ensureDeferred
async def test_all_limits_are_taken_from_or_none(redis: Redis) -> None:
    one = Limit(1, 3600, 1)
    async with started(redis.url) as made:
        assert (await made.increment(KEY, 1, (THREE, one))).limit is None
        before = redis.cli("GET", redis.keys()[0])
        assert (await made.increment(KEY, 1, (THREE, one))).limit == one
        assert redis.cli("GET", redis.keys()[0]) == before


@pytest_twisted.ensureDeferred
async def test_what_is_forced_is_taken_and_must_be_waited_for(redis: Redis) -> None:
    async with started(redis.url) as made:
        verdicts = [await made.increment(KEY, 2, (THREE,), force=True) for _ in range(2)]
        assert [verdict.limit for verdict in verdicts] == [None, THREE]
        assert 2300 < (await made.check(KEY, 1, (THREE,))).wait <= 2400


@pytest_twisted.ensureDeferred
async def test_a_cost_above_the_burst_has_no_end_of_waiting(redis: Redis) -> None:
    async with started(redis.url) as made:
        assert await made.increment(KEY, 4, (THREE,)) == Verdict(THREE, inf)
        assert redis.keys() == []
        assert await made.increment(KEY, 4, (THREE,), force=True) == Verdict(THREE, inf)
        assert (await made.check(KEY, 1, (THREE,))).limit == THREE


@pytest_twisted.ensureDeferred
async def test_a_key_goes_away_when_its_units_have_come_back(redis: Redis) -> None:
    async with started(redis.url) as made:
        await made.increment(KEY, 1, (THREE, Limit(1, 60, 1)))
        (key,) = redis.keys()
        assert key.startswith("smtphooks:") and key.endswith(f":{KEY}")
        assert 1_190_000 < int(redis.cli("PTTL", key)) <= 1_200_001


@pytest_twisted.ensureDeferred
async def test_keys_begin_with_the_prefix_and_are_of_bounded_length(redis: Redis) -> None:
    async with started(redis.url, prefix="mx") as made:
        long = "messages sender " + "\u00e4{\ud800" * 1000
        assert [await taken(made, key=long), await taken(made, key=long + "x")] == [3, 3]
        keys = redis.keys()
        assert len(keys) == 2
        assert all(key.startswith("mx:") and len(key) < 64 for key in keys)


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    server = Redis(tmp_path_factory.mktemp("redis"))
    server.start()
    client = Caller(server.port)
    yield client
    client.close()
    server.close()


limits = st.builds(
    Limit, st.integers(1, 10**9), st.sampled_from([1, 3, 7, 60, 86400, 30 * 86400]), st.integers(1, 10**9)
)
small = st.builds(Limit, st.integers(1, 50), st.sampled_from([1, 3, 7, 60, 3600]), st.integers(1, 60))
events = st.lists(
    st.tuples(st.integers(0, 400), st.integers(1, 60), st.sampled_from(["check", "take", "force"])), max_size=40
)


@given(st.lists(small, min_size=1, max_size=3, unique=True) | st.lists(limits, min_size=1, max_size=2), events)
def test_the_script_decides_as_the_counts_in_memory(caller: Caller, of: list[Limit], happening: Any) -> None:
    script = counts.SCRIPT.replace(b"redis.call('TIME')", b"{KEYS[2], KEYS[3]}")
    assert script != counts.SCRIPT
    memory, clock = MemoryCounts(), Clock()
    clock.rightNow = 1_800_000_000.0
    memory.clock = clock  # type: ignore[assignment]
    memory.check(KEY, 1, tuple(of))  # its time begins
    caller.call("FLUSHALL")
    for eighths, cost, mode in happening:
        clock.advance(eighths / 8)
        seconds, microseconds = divmod(round(clock.seconds() * 10**6), 10**6)
        answer = caller.call(
            "EVAL", script, 3, "key", seconds, microseconds, mode, *counts._argumentsOf(cost, tuple(of))
        )
        if mode == "check":
            verdict = memory.check(KEY, cost, tuple(of))
        else:
            verdict = memory.increment(KEY, cost, tuple(of), mode == "force")
        assert isinstance(answer, list)
        worst, wait = answer
        assert (worst == 0) == (verdict.limit is None)
        if verdict.wait < inf:
            assert wait / 10**6 == pytest.approx(verdict.wait, abs=2e-6)


def decided(caller: Caller, limit: Limit, microseconds: int, mode: str = "take") -> Any:
    """What the script says of one unit, so many microseconds after a certain time."""
    script = counts.SCRIPT.replace(b"redis.call('TIME')", b"{KEYS[2], KEYS[3]}")
    return caller.call("EVAL", script, 3, "key", 1_800_000_000, microseconds, mode, *counts._argumentsOf(1, (limit,)))


def test_nothing_drifts_where_an_interval_is_no_whole_number_of_microseconds(caller: Caller) -> None:
    caller.call("FLUSHALL")
    for _ in range(7 * 3):
        decided(caller, Limit(7, 1, 7), 0, "force")
    assert caller.call("GET", "key") == b"1800000003000000 0"


def test_a_part_of_a_microsecond_is_waited_for(caller: Caller) -> None:
    caller.call("FLUSHALL")
    limit = Limit(7, 1, 1)  # 142857 microseconds and a seventh of one
    assert [decided(caller, limit, time) for time in (0, 142_856, 142_857, 142_858)] == [[0, 0], [1, 2], [1, 1], [0, 0]]


# --- Without an answer ---


# Another worker of this machine, which has said that Redis is away.
HOLDING = """
from smtphooks.sharedlock import SharedLock
useTable(table)
print(SharedLock(%r).acquire(), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def onTable() -> Iterator[Table]:
    """The table of a worker that is this process."""
    table = Table.create(2)
    useTable(table)
    yield table
    useTable(None)
    os.close(table.fd)


@pytest_twisted.ensureDeferred
async def test_while_redis_is_away_the_machine_counts_on_from_what_it_knows_and_the_log_says_so_once(
    redis: Redis,
) -> None:
    with log() as lines:
        async with started(redis.url) as made:
            assert isUp(made) and await taken(made, 2) == 2
            redis.kill()
            await untilUp(made, False)
            assert await taken(made) == 1  # the third
            assert fallbacks(made) >= 2
            redis.start()
            await untilUp(made)
            assert await taken(made) == 3
    assert len(lines) == 2, lines
    assert lines[0].startswith(f"Redis at 127.0.0.1:{redis.port} is away: ")
    assert lines[0].endswith("; rates are limited by the counts of this machine alone")
    assert lines[1] == f"Redis at 127.0.0.1:{redis.port} is back"


@pytest_twisted.ensureDeferred
async def test_the_worker_that_has_said_that_redis_is_away_may_die_and_another_one_says_that_it_is_back(
    redis: Redis, onTable: Table
) -> None:
    name = f"Redis at 127.0.0.1:{redis.port}; rates are limited by the counts of this machine alone"
    with workers(onTable, HOLDING % name, 1) as (other,), log() as lines:
        assert said(other) == "True"
        async with started(redis.url) as made:
            redis.kill()
            await untilUp(made, False)
            assert not lines
            other.kill()
            (node,) = made._servers._nodes.values()

            async def speaks() -> bool:
                return node._speaks

            await until(speaks, "this worker has the word")
            assert not lines
            redis.start()
            await untilUp(made)
    assert lines == [f"Redis at 127.0.0.1:{redis.port} is back"]


@pytest_twisted.ensureDeferred
async def test_a_redis_that_was_never_there_delays_no_start_and_is_used_when_it_comes(redis: Redis) -> None:
    redis.kill()
    with log() as lines:
        async with started(redis.url) as made:
            assert not isUp(made) and await taken(made) == 3
            redis.start()
            await untilUp(made)
            assert await taken(made) == 3
    assert len(lines) == 2, lines


@pytest_twisted.ensureDeferred
async def test_a_redis_that_hangs_is_waited_for_a_few_times_and_no_more(redis: Redis) -> None:
    with log() as lines:
        async with started(redis.url, timeout=0.2) as made:
            assert isUp(made)
            redis.pause()
            waited = []
            for _ in range(20):
                before = reactor.seconds()  # type: ignore[attr-defined]
                assert (await made.increment(KEY, 1, (MANY,))).limit is None
                waited.append(reactor.seconds() - before >= 0.19)  # type: ignore[attr-defined]
            assert waited == [True] * 3 + [False] * 17
            assert not isUp(made) and fallbacks(made) == 20
            redis.resume()
            await untilUp(made)
    assert [line.partition(": ")[2] for line in lines] == [
        "it does not answer within 0.2 seconds; rates are limited by the counts of this machine alone",
        "",
    ]


@pytest_twisted.ensureDeferred
async def test_a_redis_that_hangs_from_the_beginning_is_away(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtphooks.layers.redis.node._CONNECT_SECONDS", 0.3)
    redis.pause()
    with log() as lines:
        async with started(redis.url) as made:
            assert not isUp(made) and await taken(made) == 3
            redis.resume()
            await untilUp(made)
    assert len(lines) == 2 and "it does not answer within 0.3 seconds" in lines[0], lines


@pytest_twisted.ensureDeferred
async def test_a_hanging_redis_has_a_bounded_number_of_calls(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtphooks.layers.redis.link._MOST_CALLS", 5)
    async with started(redis.url, timeout=0.5) as made:
        redis.pause()
        calls: list[Any] = [made.increment(KEY, 1, (MANY,)) for _ in range(20)]
        assert sum(call.called for call in calls) == 15
        await gatherResults(calls)
        redis.resume()


@pytest_twisted.ensureDeferred
async def test_errors_of_redis_make_it_away_until_a_call_succeeds(redis: Redis) -> None:
    redis.cli("CONFIG", "SET", "maxmemory", 1)
    with log() as lines:
        async with started(redis.url) as made:
            assert await taken(made) == 3
            await untilUp(made, False)
            for _ in range(20):
                await made.increment(KEY, 1, (MANY,))
            redis.cli("CONFIG", "SET", "maxmemory", 0)
            await until(lambda: _increments(made), "back")
            assert await taken(made, key="other") == 3
    assert len(lines) == 2 and "OOM" in lines[0], lines


@pytest_twisted.ensureDeferred
async def test_the_script_is_sent_again_after_redis_has_forgotten_it(redis: Redis) -> None:
    async with started(redis.url) as made:
        assert await taken(made, 1) == 1
        redis.cli("SCRIPT", "FLUSH")
        assert await taken(made) == 2
        assert fallbacks(made) == 0
        stats = redis.cli("INFO", "commandstats")
        assert "cmdstat_eval:calls=2," in stats and "cmdstat_evalsha:calls=3," in stats


@pytest_twisted.ensureDeferred
async def test_a_connection_that_redis_closes_is_replaced_without_a_word(redis: Redis) -> None:
    with log() as lines:
        async with started(redis.url) as made:
            assert await taken(made, 1) == 1
            redis.cli("CLIENT", "KILL", "TYPE", "normal")
            await untilUp(made)
            assert await taken(made) == 2
    assert lines == []


@pytest_twisted.ensureDeferred
async def test_calls_of_one_moment_share_one_connection(redis: Redis) -> None:
    async with started(redis.url) as made:
        verdicts = await gatherResults([made.increment(KEY, 1, (Limit(50, 3600, 50),)) for _ in range(100)])
        assert [verdict.limit is None for verdict in verdicts] == [True] * 50 + [False] * 50
        assert redis.cli("CLIENT", "LIST", "TYPE", "normal").count("lib-name") <= 2
        assert len(redis.cli("CLIENT", "LIST", "TYPE", "normal").splitlines()) == 2  # and that of redis-cli


@pytest_twisted.ensureDeferred
async def test_it_connects_without_a_service_and_again_after_its_stop(redis: Redis) -> None:
    made = RedisCounts(redis.url, timeout=5.0)
    assert await taken(made, 1) == 1
    await made.onStop(None)
    await until(_returning(lambda: len(redis.cli("CLIENT", "LIST").splitlines()) == 1), "closed")
    assert await taken(made) == 2
    await made.onStop(None)


def _returning(condition: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    async def asked() -> object:
        return condition()

    return asked


@pytest_twisted.ensureDeferred
async def test_counts_of_two_layers_close_with_the_last_of_them(redis: Redis) -> None:
    async with started(redis.url) as made:
        await made.onStart(None)
        assert await taken(made, 1) == 1
        before = connectionsTo(redis)
        await made.onStop(None)
        assert await taken(made, 1) == 1
        assert connectionsTo(redis) == before


def connectionsTo(redis: Redis) -> list[str]:
    """The numbers of the connections that call scripts."""
    return [line.split()[0] for line in redis.cli("CLIENT", "LIST").splitlines() if "cmd=eval" in line]


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_says_nothing_of_redis(redis: Redis) -> None:
    async with started(redis.url) as made:
        redis.pause()
        for _ in range(10):
            waiting: Deferred[Verdict] = made.increment(KEY, 1, (MANY,))
            waiting.addErrback(lambda failure: None)
            waiting.cancel()
        redis.resume()
        assert isUp(made) and fallbacks(made) == 0
        assert await taken(made) == 3


# --- Addresses ---


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates") / "tls")


@pytest_twisted.ensureDeferred
async def test_tls_is_verified_and_may_ask_for_our_certificate(
    startRedis: StartRedis, certificates: Certificates
) -> None:
    server = startRedis("--bind", "127.0.0.1", "127.0.0.2", tls=certificates)
    with log() as lines:
        async with started(server.url, ca=certificates.authority, **certificates.client) as made:
            assert isUp(made) and await taken(made) == 3
        elsewhere = server.url.replace("localhost", "127.0.0.2")
        for url, options in (
            (server.url, {"ca": certificates.authority}),
            (server.url, certificates.client),
            (elsewhere, {"ca": certificates.authority, **certificates.client}),
        ):
            async with started(url, **options) as made:
                assert await taken(made) == 3 and fallbacks(made) == 4
    assert [line.partition(": ")[2].partition(";")[0] for line in lines[1:]] == [
        "its certificate is signed by no authority that is trusted here",
        "its certificate is not for 127.0.0.2",
    ]


@pytest_twisted.ensureDeferred
async def test_a_password_is_told_and_never_shown(startRedis: StartRedis) -> None:
    server = startRedis(password=PASSWORD)
    server.cli(
        "ACL",
        "SETUSER",
        "mail",
        "on",
        f">{WRONG_PASSWORD}",
        "~mx:*",
        "+eval",
        "+evalsha",
        "+get",
        "+set",
        "+time",
        "+ping",
    )
    with log() as lines:
        async with started(server.url) as made:
            assert await taken(made) == 3 and isUp(made)
            assert PASSWORD not in repr(made) and "(not shown)" in repr(made)
        quoted = server.url.partition("@")[2]
        async with started(f"redis://mail:{WRONG_PASSWORD.replace('&', '%26')}@{quoted}", prefix="mx") as made:
            assert await taken(made) == 3 and fallbacks(made) == 0
        async with started(f"redis://:wrong@{quoted}") as made:
            assert not isUp(made)
    assert len(lines) == 1 and "WRONGPASS" in lines[0], lines


class Repeating(Protocol):
    """A server that repeats what it does not know, as Redis does."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        words = data.split(b"\r\n")[2::2]
        self.transport.write(b"-ERR unknown command '%b', with args beginning with: '%b'\r\n" % (words[0], words[1]))


@pytest_twisted.ensureDeferred
async def test_no_error_of_a_server_shows_the_password() -> None:
    async with serving(Repeating) as port:
        with log() as lines:
            async with started(f"redis://:{quote(PASSWORD)}@127.0.0.1:{port}") as made:
                assert not isUp(made)
    assert len(lines) == 1 and "it does not take the password: ERR;" in lines[0], lines


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_and_the_number_of_a_database(startRedis: StartRedis, tmp_path: Path) -> None:
    server = startRedis("--unixsocket", str(tmp_path / "redis.sock"))
    async with started(f"unix://{tmp_path}/redis.sock?db=2") as made, started(f"{server.url}/2") as other:
        assert await taken(made, 2) == 2
        assert await taken(other) == 1
    assert server.keys() == [] and server.cli("-n", 2, "DBSIZE") == "1"


# --- Sentinels ---


def contents(redis: Redis) -> list[str]:
    """All keys with their values; a replica has them a moment later than its master."""
    keys = redis.keys()
    return [f"{key} {redis.cli('GET', key)}" for key in keys]


@pytest_twisted.ensureDeferred
async def test_a_failover_of_sentinels_is_followed(startRedis: StartRedis, tmp_path: Path) -> None:
    master = startRedis("--masterauth", PASSWORD, password=PASSWORD)
    replica = startRedis("--replicaof", "127.0.0.1", str(master.port), "--masterauth", PASSWORD, password=PASSWORD)
    sentinel = startRedis(*sentinelSettings(tmp_path, master, PASSWORD))
    url = master.url.replace(f"127.0.0.1:{master.port}", MASTER)
    sentinels = [f"redis://127.0.0.1:{freePort()}", sentinel.url]
    with log() as lines:
        async with started(url, sentinels=sentinels) as made:
            assert await taken(made, 2) == 2 and fallbacks(made) == 0
            assert len(master.keys()) == 1
            await until(_returning(lambda: contents(replica) == contents(master)), "replicated")
            master.kill()
            await untilUp(made, False)
            await untilUp(made)
            assert replica.cli("ROLE").startswith("master")
            assert await taken(made) == 1
            assert fallbacks(made) > 0
    assert len(lines) == 2, lines
    assert all(line.startswith(f"Redis at {MASTER} of the sentinels is") for line in lines)


@pytest_twisted.ensureDeferred
async def test_a_failover_by_an_operator_is_followed_and_a_sentinel_that_hangs_is_passed_over(
    startRedis: StartRedis, tmp_path: Path
) -> None:
    master = startRedis()
    replica = startRedis("--replicaof", "127.0.0.1", str(master.port))
    sentinel = startRedis(*sentinelSettings(tmp_path, master))
    hanging = startRedis()
    hanging.pause()
    async with started(f"redis://{MASTER}", sentinels=[hanging.url] * 5 + [sentinel.url]) as made:
        await untilUp(made)
        assert await taken(made, 2) == 2
        await until(_returning(lambda: contents(replica) == contents(master)), "replicated")
        sentinel.cli("SENTINEL", "FAILOVER", MASTER)
        sentinel.waitForLine("+switch-master")
        demoted = _returning(lambda: "connected_slaves:1" in replica.cli("INFO", "replication"))
        await until(demoted, "the old master is a replica of the new one")
        await until(lambda: _increments(made), "up")
        before = fallbacks(made)
        assert await taken(made) == 1 and fallbacks(made) == before
        assert replica.cli("ROLE").startswith("master")
    hanging.resume()


@pytest_twisted.ensureDeferred
async def test_sentinels_that_do_not_know_the_name_are_told_of(startRedis: StartRedis, tmp_path: Path) -> None:
    master = startRedis()
    startRedis("--replicaof", "127.0.0.1", str(master.port))
    sentinel = startRedis(*sentinelSettings(tmp_path, master))
    with log() as lines:
        async with started(f"redis://{MASTER.lower()}", sentinels=[sentinel.url]) as made:
            assert not isUp(made)
    assert f"it knows no master of the name {MASTER.lower()}" in lines[0]


@pytest_twisted.ensureDeferred
async def test_a_replica_is_not_counted_on(startRedis: StartRedis) -> None:
    master = startRedis()
    replica = startRedis("--replicaof", "127.0.0.1", str(master.port))
    await until(_returning(lambda: "master_link_status:up" in replica.cli("INFO", "replication")), "a replica")
    with log() as lines:
        async with started(replica.url) as made:
            assert await taken(made) == 3
            assert not isUp(made)
            replica.cli("REPLICAOF", "NO", "ONE")
            await until(lambda: _increments(made), "up")
    assert len(lines) == 2 and "READONLY" in lines[0], lines


async def _increments(made: RedisCounts) -> bool:
    """A call has succeeded, of a key that no test looks at."""
    before = fallbacks(made)
    await made.increment("new", 1, (MANY,))
    return isUp(made) and fallbacks(made) == before


# --- Clusters ---


@pytest_twisted.ensureDeferred
async def test_a_cluster_has_each_key_on_the_node_of_its_slot(startRedis: StartRedis) -> None:
    nodes = clusterOf(startRedis)
    with log() as lines:
        async with started(nodes[0].url) as made, started(*[node.url for node in nodes]) as other:
            for number in range(30):
                assert await taken(made, 2, key=f"{{{number}}} {number}") == 2
                assert await taken(other, key=f"{{{number}}} {number}") == 1
            assert fallbacks(made) == fallbacks(other) == 0
            assert {name for name, *_ in made._servers.nodes()} == {f"127.0.0.1:{node.port}" for node in nodes}
    assert all(node.keys() for node in nodes)
    assert lines == []


@pytest_twisted.ensureDeferred
async def test_a_slot_that_is_being_moved_is_followed(startRedis: StartRedis) -> None:
    nodes = clusterOf(startRedis)
    async with started(*[node.url for node in nodes]) as made:
        assert await taken(made, 1) == 1
        (source,) = [node for node in nodes if node.keys()]
        (key,) = source.keys()
        slot = int(source.cli("CLUSTER", "KEYSLOT", key))
        target = next(node for node in nodes if node is not source)
        ids = {node.port: node.cli("CLUSTER", "MYID") for node in nodes}
        target.cli("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
        source.cli("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
        source.cli("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
        assert await taken(made, 1) == 1  # ASK
        known = made._servers._slots.get(slot)
        assert known is None or known.name == f"127.0.0.1:{source.port}"
        for node in (target, source):
            node.cli("CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])
        assert await taken(made) == 1  # MOVED
        assert fallbacks(made) == 0


@pytest_twisted.ensureDeferred
async def test_of_a_cluster_with_a_dead_node_the_others_count_on(startRedis: StartRedis) -> None:
    nodes = clusterOf(startRedis)
    for node in nodes:
        node.cli("CONFIG", "SET", "cluster-require-full-coverage", "no")
    with log() as lines:
        async with started(*[node.url for node in nodes]) as made:
            for number in range(30):
                assert await taken(made, 1, key=str(number)) == 1
            lost = len(nodes[0].keys())
            nodes[0].kill()
            await until(lambda: _failsOnOne(made), "away")
            before = fallbacks(made)
            for number in range(30):
                await made.increment(str(number), 1, (MANY,))
            assert fallbacks(made) - before == lost
    assert len(lines) == 1, lines


async def _failsOnOne(made: RedisCounts) -> bool:
    for number in range(30):
        await made.check(str(number), 1, (THREE,))
    return sum(not up for _, up in made._servers.nodes()) == 1


@pytest_twisted.ensureDeferred
async def test_a_node_that_has_left_the_cluster_is_given_up(
    startRedis: StartRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = clusterOf(startRedis)
    async with started(nodes[0].url) as made:
        for number in range(30):
            await taken(made, 1, key=str(number))
        assert len(list(made._servers.nodes())) == 3
        monkeypatch.setattr("smtphooks.layers.redis.node._GIVE_UP_SECONDS", 0.0)
        for node in nodes[:2]:
            node.kill()
        await until(_returning(lambda: len(list(made._servers.nodes())) == 2), "given up")
        assert [name for name, up in made._servers.nodes() if not up] == [f"127.0.0.1:{nodes[0].port}"]


# --- Wrong answers ---


@asynccontextmanager
async def serving(protocol: type[Protocol]) -> AsyncIterator[int]:
    """A server in this process; its port."""
    factory = Factory.forProtocol(protocol)
    factory.noisy = False
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
    try:
        yield port.getHost().port
    finally:
        await port.stopListening()


class Liar(Protocol):
    """A server that answers each command with these octets, but for those that a connection begins with."""

    octets = b""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(b"+PONG\r\n" if b"PING" in data else self.octets)


@pytest.mark.parametrize(
    "octets",
    [
        *(b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff\xfe\r\n", b"*x\r\n", b"$x\r\n", b":x\r\n", b"\r\n" * 9),
        *(b"*0\r\n", b"*-1\r\n", b"$2\r\nhi\r\n", b"+OK\r\n", b":1\r\n", b"*2\r\n:0\r\n+x\r\n", b"*1\r\n*1\r\n:0\r\n"),
        *(b"*2\r\n:9\r\n:0\r\n", b"-\r\n", b"-MOVED\r\n", b"-MOVED 1 nowhere\r\n", b"-MOVED 99999 a:1\r\n"),
        *(b"-MOVED 1 :\r\n", b"-ASK 1 127.0.0.1:0\r\n", b"-NOSCRIPT no\r\n", b"x" * 20_000, b"-\x1b[31m\x07\r\n"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_wrong_answer_is_none(octets: bytes) -> None:
    async with serving(type("Wrong", (Liar,), {"octets": octets})) as port:
        with log() as lines:
            async with started(f"redis://127.0.0.1:{port}", timeout=0.2) as made:
                assert await taken(made, 8) == 3
        assert all(line.isprintable() for line in lines)
        assert fallbacks(made) == 4


@pytest_twisted.ensureDeferred
async def test_an_answer_to_no_call_is_taken_for_none_of_the_next() -> None:
    answers = iter([b"*2\r\n:0\r\n:0\r\n*2\r\n:1\r\n:7\r\n", *[b"*2\r\n:0\r\n:0\r\n"] * 9])

    class Doubling(Liar):
        def dataReceived(self, data: bytes) -> None:
            self.octets = b"" if b"PING" in data else next(answers)
            super().dataReceived(data)

    async with serving(Doubling) as port, started(f"redis://127.0.0.1:{port}") as made:
        assert await taken(made, 2) == 2


@pytest_twisted.ensureDeferred
async def test_a_server_that_closes_each_connection_is_away() -> None:
    class Closing(Liar):
        def dataReceived(self, data: bytes) -> None:
            assert self.transport is not None
            super().dataReceived(data)
            if b"PING" not in data:
                self.transport.loseConnection()

    async with serving(Closing) as port:
        with log() as lines:
            async with started(f"redis://127.0.0.1:{port}") as made:
                for _ in range(20):
                    await made.increment(KEY, 1, (MANY,))
                    await deferLater(reactor, 0)  # type: ignore[arg-type]
                assert not isUp(made)
    assert len(lines) == 1, lines


@pytest_twisted.ensureDeferred
async def test_nodes_that_send_to_one_another_are_asked_a_few_times() -> None:
    asked: list[bytes] = []

    class Sender(Liar):
        def dataReceived(self, data: bytes) -> None:
            asked.append(data)
            assert self.transport is not None
            self.octets = b"-MOVED 1 127.0.0.1:%d\r\n" % self.transport.getHost().port
            super().dataReceived(data)

    async with serving(Sender) as port, started(f"redis://127.0.0.1:{port}") as made:
        assert await taken(made, 1) == 1 and fallbacks(made) == 1
        assert 2 < len(asked) < 8


# --- Greylisting ---

NETWORK, OTHER = "192.0.2.0/24", "198.51.100.0/24"


@pytest_twisted.ensureDeferred
async def test_two_memories_on_one_redis_are_one(redis: Redis) -> None:
    times = (0.2, 60, 120)
    first, second = (RedisTriplets(redis.url, timeout=5.0) for _ in range(2))
    assert await first.decide(NETWORK, b"mail", *times) == 0.2
    left = await second.decide(NETWORK, b"mail", *times)
    assert left is not None and 0 < left < 0.2
    await deferLater(reactor, 0.25)  # type: ignore[arg-type] # the delay of a greylist, which Redis measures
    assert await second.decide(NETWORK, b"mail", *times) == 0
    assert await first.decide(NETWORK, b"other", *times) == 0
    assert await first.decide(OTHER, b"mail", *times) == 0.2
    assert redis.keys() == [
        "smtphooks:greylist:{192.0.2.0/24}:known",
        "smtphooks:greylist:{198.51.100.0/24}:waiting",
    ]
    assert 119_000 < int(redis.cli("PTTL", redis.keys()[0])) <= 120_000
    assert 59_000 < int(redis.cli("PTTL", redis.keys()[1])) <= 60_001
    for each in (first, second):
        await each.onStop(None)


@pytest_twisted.ensureDeferred
async def test_a_cluster_remembers_each_network_on_one_node(startRedis: StartRedis) -> None:
    nodes = clusterOf(startRedis)
    memory = RedisTriplets(nodes[0].url, timeout=5.0)
    for number in range(12):
        assert await memory.decide(f"192.0.{number}.0/24", b"mail", 300, 3600, 7200) == 300
    assert sum(len(node.keys()) for node in nodes) == 12 and all(node.keys() for node in nodes)
    await memory.onStop(None)


@pytest.mark.parametrize("share", [1, 3])
def test_one_network_has_a_bounded_share_and_its_oldest_mails_make_room(caller: Caller, share: int) -> None:
    caller.call("FLUSHALL")
    for number in range(10):
        caller.call("EVAL", triplets.SCRIPT, 2, "{n}known", "{n}waiting", number, 1000, 10**9, 10**6, share)
    mails = caller.call("ZRANGE", "{n}waiting", 0, -1)
    assert mails == [b"%d" % number for number in range(10 - share, 10)]


asking = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 100, 299, 300, 301, 3599, 3600, 3601, 7300]), st.integers(0, 1), st.integers(0, 2)
    ),
    max_size=30,
)


@given(asking)
def test_the_script_decides_as_the_triplets_in_a_file(caller: Caller, happening: Any) -> None:
    script = triplets.SCRIPT.replace(b"redis.call('TIME')", b"{KEYS[3], 0}")
    assert script != triplets.SCRIPT
    table = sqlite3.connect(":memory:", isolation_level=None)
    prepare(table)
    kept = Triplets(300, 3600, 10**9, 0)
    caller.call("FLUSHALL")
    now = 1_800_000_000
    with closing(table):
        for seconds, network, mail in happening:
            now += seconds
            expected = kept.decide(table.cursor(), str(network), b"%d" % mail, now)
            table.commit()
            keys = (f"known{network}", f"waiting{network}", now)
            answer = caller.call("EVAL", script, 3, *keys, mail, 300 * 10**6, 3600 * 10**6, 10**9, 2000)
            assert answer == [round(expected * 10**6)]


def session(address: str = "192.0.2.7") -> Session:
    sender = Address("bob@client.example", "bob", "client.example")
    return Session(remoteAddress=address, clientHostname=f"[{address}]", envelope=Envelope(sender))


ANN = Address("ann@example.org", "ann", "example.org")


@pytest_twisted.ensureDeferred
async def test_a_greylist_puts_off_by_the_memory_and_passes_without_it(redis: Redis) -> None:
    layer: Any = Greylist(only=["no-reverse-name"], memory=RedisTriplets(redis.url, timeout=5.0))
    with log() as lines:
        await layer.onStart(None)
        client = session()
        with pytest.raises(SMTPError, match="Greylisted, please try again in 300 seconds"):
            await layer.onRcptTo(ANN, client)
        redis.kill()
        for _ in range(3):
            await layer.onRcptTo(ANN, client)
        redis.start()

        async def putsOff() -> bool:
            try:
                await layer.onRcptTo(ANN, client)
            except SMTPError:
                return True
            return False

        await until(putsOff, "back")  # what had passed is known of no client
        await layer.onStop(None)
    assert len(lines) == 2 and lines[0].endswith("; greylisting puts off nothing"), lines
    values = {(name, labels[0]): value for name, labels, value in layer.metricValues()}
    assert values["smtphooks_redis_fallbacks_total", "greylist"] >= 3


# --- Services ---


def configuration(*urls: str, **options: object) -> str:
    url = toml(list(urls)) if len(urls) > 1 else toml(urls[0])
    return f"""\
[options]
authOptional = true
allowInsecureAuth = true

[[layer]]
use = "smtphooks.layers:RateLimit"
limits = ["5 messages per hour per client", "3 auth failures per 10 minutes per client"]
counts = {{use = "smtphooks.layers:RedisCounts", url = {url}, timeout = 5}}

[[layer]]
use = "{HOOKS}:KnownUsers"
path = "maildir"

[[listener]]
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Callable[[str], tuple[Service, int]]]:
    services = []

    def start(text: str) -> tuple[Service, int]:
        port = freePort()
        config = tmp_path / f"smtphooks{len(services)}.toml"
        config.write_text(f'{text}endpoint = "{tcp(port)}"\n')
        services.append(Service(tmp_path, ["--config", str(config)], [tcp(port)]))
        return services[-1], port

    yield start
    for each in services:
        assert each.terminate() == 0, each.output
        assert not secretsIn(each.output), each.output


def send(port: int) -> int:
    """Send a message; the code of the reply to RCPT."""
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
        client.ehlo("client.example")
        client.mail("bob@client.example")
        code, _ = client.rcpt("ann@example.org")
        return code


def authenticate(port: int) -> int:
    """Fail to authenticate; the code of the reply."""
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
        client.ehlo("client.example")
        code, _ = client.docmd("AUTH", f"PLAIN {plain(password=WRONG_PASSWORD)}")
        return code


@pytest.mark.parametrize("password", ["", PASSWORD])
def test_limits_hold_over_two_services(
    startRedis: StartRedis, service: Callable[[str], tuple[Service, int]], password: str
) -> None:
    server = startRedis(password=password)
    ports = [service(configuration(server.url))[1] for _ in range(2)]
    assert [send(ports[number % 2]) for number in range(7)] == [250] * 5 + [450] * 2
    assert [authenticate(port) for port in (*ports, *ports)] == [535] * 3 + [421]


def test_a_service_counts_on_by_itself_while_redis_is_away(
    redis: Redis, service: Callable[[str], tuple[Service, int]]
) -> None:
    first, port = service(configuration(redis.url))
    assert [send(port) for _ in range(2)] == [250] * 2
    redis.kill()
    assert [send(port) for _ in range(4)] == [250] * 3 + [450]
    assert first.output.count("is away: ") == 1
    redis.start()
    first.waitForLine("Redis at", "is back")
    assert send(port) == 250
    assert first.terminate() == 0
    assert first.output.count("is away: ") == first.output.count("is back") == 1


def test_of_several_workers_one_says_that_redis_is_away_and_one_that_it_is_back(redis: Redis, tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.write(3)
    port = freePort()
    files.config.write_text(f'workers = 3\n{configuration(redis.url)}endpoint = "{tcp(port)}"\n')
    with Supervised(files) as service:
        service.waitUntilReady()
        redis.kill()
        # A worker learns it with its next message.  Each has a socket of its own, and gets some of so many.
        eventually(lambda: send(port) and service.lines("is away: "), "a worker says that Redis is away")
        for _ in range(30):
            send(port)
        assert len(service.lines("is away: ")) == 1
        redis.start()
        # A worker whose connection had served nothing finds it back with the first call that succeeds.
        eventually(lambda: send(port) and service.lines("is back"), "a worker says that Redis is back")
        for _ in range(30):
            send(port)
        assert service.terminate() == 0
        assert len(service.lines("is away: ")) == len(service.lines("is back")) == 1
