"""
What all objects on Redis have in common: the options that say where it is, and the life of their connections.

In: options, and C{onStart} and C{onStop} of the layer around.  Out: the answers of scripts, and numbers for metrics.
This module knows no script and no layer.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import attrs

from smtphooks.client.tls import checkTLS
from smtphooks.errors import OptionError
from smtphooks.layers.redis.address import SENTINEL_PORT, addressOf, areURLs, asTuple, shownURLs
from smtphooks.layers.redis.link import Argument, Trust
from smtphooks.layers.redis.node import Fits
from smtphooks.layers.redis.servers import Servers
from smtphooks.optionkinds import isText, option, pem, withOptions

_WANTS = '"redis://host:port/db", "rediss://…" or "unix:///path", with "user:password@" in front of the host'


def _isPrefix(value: Any) -> bool:
    return isText(value) and 0 < len(value) <= 64 and value.isascii() and value.isprintable() and "{" not in value


@withOptions
class OnRedis:
    """
    @ivar url: the URL of the server; a list for some nodes of a cluster; with C{sentinels} its host is the name that
        they have for the master.
    @ivar sentinels: the URLs of Sentinels.
    @ivar prefix: with which all keys begin.
    @ivar timeout: seconds that Redis may take for an answer.
    @ivar ca: what the certificate of a server is verified by, PEM or the path of a file; None for what the system
        trusts.
    @ivar key: the key of our own certificate, C{cert}.
    @raise OptionError: for a wrong value, or if txredisapi is not installed.
    """

    url: tuple[str, ...] = option(
        attrs.NOTHING, f"{_WANTS}, or a list of these", areURLs, converter=asTuple, show=shownURLs
    )
    sentinels: tuple[str, ...] = option(
        (), f"a list of {_WANTS}", lambda value: value == () or areURLs(value), converter=asTuple, show=shownURLs
    )
    prefix: str = option("smtphooks", "a text of 64 ASCII characters at most, without a brace", _isPrefix)
    timeout: float = option(
        0.05,
        "a number of seconds above 0",
        lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf"),
        mostSeconds=10,
    )
    ca: str | bytes | None = pem()
    key: str | bytes | None = pem()
    cert: str | bytes | None = pem()

    _without: ClassVar[str]
    _use: ClassVar[str]
    _servers: Servers = attrs.field(init=False, repr=False)
    _started: int = attrs.field(default=0, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if importlib.util.find_spec("txredisapi") is None:
            name = type(self).__name__
            raise OptionError(f"{name} needs a library that is not installed (txredisapi): install smtphooks[redis]")
        addresses = [addressOf(url) for url in self.url]
        sentinels = [addressOf(url, SENTINEL_PORT) for url in self.sentinels]
        if sentinels and (len(addresses) > 1 or addresses[0].path):
            raise OptionError(
                "option sentinels is given, so option url wants one URL, with the name of the master as its host",
                options=["url", "sentinels"],
            )
        if len(addresses) > 1 and any(address.database for address in addresses):
            raise OptionError("option url has several nodes, and a cluster has database 0 alone", options=["url"])
        self._servers = Servers(addresses, sentinels, self._trust(), self.timeout, self._without)

    def _trust(self) -> Trust:
        trust = Trust(self.ca, self.key, self.cert)
        secure = [address for address in map(addressOf, (*self.url, *self.sentinels)) if address.isSecure]
        given = [name for name in ("ca", "key", "cert") if getattr(self, name) is not None]
        if given and not secure:
            raise OptionError(f"option {given[0]} is given, and no URL that begins with rediss:", options=given)
        if secure:
            checkTLS(trust.routeTo(secure[0]))
        return trust

    async def onStart(self, service: object) -> None:
        """Connect; that Redis cannot be reached now is logged, and keeps nothing from starting."""
        self._started += 1
        await self._servers.start()

    async def onStop(self, service: object) -> None:
        """Close the connections, with the last of the layers that have this object."""
        self._started = max(0, self._started - 1)
        if not self._started:
            await self._servers.stop()

    def metricValues(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        """Names of metrics, their labels, and their values."""
        for name, isUp in self._servers.nodes():
            yield "smtphooks_redis_up", (self._use, name), 1 if isUp else 0
        yield "smtphooks_redis_fallbacks_total", (self._use,), self._servers.withoutAnswer

    async def _run(self, script: bytes, keys: Sequence[bytes], arguments: Sequence[Argument], fits: Fits) -> list[int]:
        return await self._servers.run(script, keys, arguments, fits)
