"""
The servers of one Redis: a single one, the master that Sentinels know, or the nodes of a cluster.

In: a script with keys of one slot.  Out: its answer within the time limit, or L{Away}.
Rules: whatever way a call takes over a cluster, its time limit is one; no more redirections are followed than a cluster
needs that is being changed.
This module knows no mail and nothing of what a script does.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Iterator, Sequence

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, gatherResults
from twisted.logger import Logger

from smtphooks.currentreactor import currentReactor
from smtphooks.hooks import Unavailable
from smtphooks.layers.redis.address import RedisAddress
from smtphooks.layers.redis.link import Argument, Link, Trust, describeError
from smtphooks.layers.redis.node import Away, Fits, Node, Redirected

log: Logger = Logger()

_SLOTS = 16384
_MOST_REDIRECTIONS = 4
# Nodes of a cluster that are kept connected to, and seconds that one Sentinel may take.
_MOST_NODES = 1000
_SENTINEL_SECONDS = 0.5
# Seconds for which a service waits at its start for Redis.
_START_SECONDS = 1.0


class Servers:
    """
    @ivar withoutAnswer: how many calls had no answer.
    """

    def __init__(
        self,
        addresses: Sequence[RedisAddress],
        sentinels: Sequence[RedisAddress],
        trust: Trust,
        timeout: float,
        without: str,
    ) -> None:
        """
        @param addresses: of the server, or of some nodes of a cluster.
        @param sentinels: where to ask for the address of the server; none if that is known.
        @param timeout: seconds for each call.
        @param without: what is done without Redis, for the log.
        """
        self.withoutAnswer: int = 0
        self._seeds = tuple(addresses)
        self._sentinels = list(sentinels)
        self._trust = trust
        self._timeout = timeout
        self._without = without
        self._nodes: dict[str, Node] = {}
        self._slots: dict[int, Node] = {}  # as far as they are known
        self._isCluster = len(addresses) > 1
        for address in addresses:
            self._add(address)

    def _add(self, address: RedisAddress) -> Node:
        name = str(address)
        if name not in self._nodes:
            connect = self._connectToMaster if self._sentinels else self._connectTo(address)
            shown = f"{address.host} of the sentinels" if self._sentinels else name
            # A node that was only learned of may have left the cluster.
            giveUp = None if address in self._seeds else self._forget
            self._nodes[name] = Node(shown, connect, self._without, giveUp)
        return self._nodes[name]

    def _forget(self, node: Node) -> None:
        self._nodes = {name: each for name, each in self._nodes.items() if each is not node}
        self._slots = {slot: each for slot, each in self._slots.items() if each is not node}

    def nodes(self) -> Iterator[tuple[str, bool]]:
        """The name of each server, and whether it can be used."""
        for node in self._nodes.values():
            yield node.name, not node.isAway

    # --- life ---

    async def start(self) -> None:
        """Connect; wait for that for a moment, and not for servers that are away."""
        await gatherResults(
            [Deferred.fromCoroutine(node.attempted(_START_SECONDS)) for node in list(self._nodes.values())]
        )

    async def stop(self) -> None:
        """Close all connections; a further call opens new ones."""
        for node in list(self._nodes.values()):
            await node.stop()

    # --- calls ---

    async def run(self, script: bytes, keys: Sequence[bytes], arguments: Sequence[Argument], fits: Fits) -> list[int]:
        """
        The answer of a script.

        @param keys: they have the same slot.
        @param fits: whether an answer of whole numbers is one of this script.
        @raise Away: if there is none within the time limit.
        """
        try:
            return await self._run(script, keys, arguments, fits)
        except Away:
            self.withoutAnswer += 1
            raise

    async def _run(self, script: bytes, keys: Sequence[bytes], arguments: Sequence[Argument], fits: Fits) -> list[int]:
        reactor = currentReactor()
        deadline = reactor.seconds() + self._timeout
        node, asking = self._nodeFor(keys[0]), False
        for _ in range(_MOST_REDIRECTIONS):
            left = deadline - reactor.seconds()
            if left <= 0:
                break
            try:
                return await node.run(script, keys, arguments, fits, left, asking)
            except Redirected as redirection:
                node, asking = self._follow(redirection, node), redirection.asking
        raise Away("the cluster sends from one node to another")

    def _nodeFor(self, key: bytes) -> Node:
        if not self._isCluster:
            return next(iter(self._nodes.values()))
        slot = slotOf(key)
        node = self._slots.get(slot)
        if node is not None and not node.isAway:
            return node
        # Another node knows where the slot has gone.
        self._slots.pop(slot, None)
        candidates = [each for each in self._nodes.values() if not each.isAway]
        return next((each for each in candidates if each.isConnected), (candidates or list(self._nodes.values()))[0])

    def _follow(self, redirection: Redirected, asked: Node) -> Node:
        self._isCluster = True
        host, _, port = redirection.place.rpartition(":")
        origin = self._addressNamed(asked)
        if not port.isdecimal() or not 0 < int(port) < 65536 or redirection.slot >= _SLOTS:
            raise Away(f"Redis at {asked.name} names no address of another node")
        first = self._seeds[0]
        address = RedisAddress(
            host.strip("[]") or origin,
            int(port),
            isSecure=first.isSecure,
            user=first.user,
            password=first.password,
        )
        if len(self._nodes) >= _MOST_NODES and str(address) not in self._nodes:
            raise Away(f"more than {_MOST_NODES} nodes are named")
        node = self._add(address)
        if not redirection.asking:
            self._slots[redirection.slot] = node
        return node

    def _addressNamed(self, node: Node) -> str:
        return node.name.rpartition(":")[0].strip("[]")

    # --- connecting ---

    def _connectTo(self, address: RedisAddress) -> Callable[[Callable[[Link, str], object]], Deferred[Link]]:
        def connect(whenLost: Callable[[Link, str], object]) -> Deferred[Link]:
            return Deferred.fromCoroutine(self._opened(address, whenLost))

        return connect

    async def _opened(self, address: RedisAddress, whenLost: Callable[[Link, str], object]) -> Link:
        link = Link(address, self._trust, whenLost)
        await link.open()
        return link

    async def _connectToMaster(self, whenLost: Callable[[Link, str], object]) -> Link:
        wanted = self._seeds[0]
        problems = []
        for sentinel in list(self._sentinels):
            try:
                host, port = await Deferred.fromCoroutine(self._askSentinel(sentinel, wanted.host)).addTimeout(
                    _SENTINEL_SECONDS, currentReactor()
                )
            except (Unavailable, TimeoutError) as error:
                why = "no answer" if isinstance(error, TimeoutError) else error
                problems.append(f"sentinel {sentinel}: {why}")
                # Asked last the next time, as there may be no time for all of them.
                self._sentinels.remove(sentinel)
                self._sentinels.append(sentinel)
                continue
            address = RedisAddress(
                host,
                port,
                isSecure=wanted.isSecure,
                user=wanted.user,
                password=wanted.password,
                database=wanted.database,
            )
            link = await self._opened(address, whenLost)
            try:
                role = await link.command("ROLE")
            except BaseException:
                link.close()
                raise
            if isinstance(role, list) and role[:1] == ["master"]:
                return link
            link.close()
            problems.append(f"{address} is no master any more")
        raise Unavailable(", ".join(problems)[:500])

    async def _askSentinel(self, sentinel: RedisAddress, name: str) -> tuple[str, int]:
        link = await self._opened(sentinel, lambda link, why: None)
        try:
            answer = await link.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
        except CancelledError:
            raise
        except Exception as error:
            raise Unavailable(describeError(error)) from error
        finally:
            link.close()
        if not (isinstance(answer, list) and len(answer) == 2 and str(answer[1]).isdecimal()):
            raise Unavailable(f"it knows no master of the name {name}")
        return str(answer[0]), int(answer[1])


def slotOf(key: bytes) -> int:
    """The slot of a key in a cluster: of what is within its first pair of braces, if there is something."""
    begin = key.find(b"{")
    end = key.find(b"}", begin + 1)
    if begin >= 0 and end > begin + 1:
        key = key[begin + 1 : end]
    return binascii.crc_hqx(key, 0) % _SLOTS
