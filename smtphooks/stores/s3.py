"""
Claims in a bucket that speaks the protocol of Amazon S3, by signed requests through treq.

In: a message that was spooled.  Out: an object, which the service acknowledges when it has it, after it has compared
the digest of what it got with the one that was signed.
This module knows no queue and no session; what is signed is known to C{s3signature}.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredQueue, TimeoutError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from smtphooks.currentreactor import currentReactor
from smtphooks.errors import OptionError
from smtphooks.hooks import Unavailable
from smtphooks.optionkinds import NotShown, isLine, isSecretPath, option, seconds, withOptions
from smtphooks.spool import Spool
from smtphooks.stores.s3signature import EMPTY, Credentials, escapePath, signedHeaders
from smtphooks.stream import MessageStream

_ERROR_OCTETS = 4096


def _isURL(value: object) -> bool:
    try:
        url = urlsplit(value) if isinstance(value, str) and value.isprintable() else None
        return bool(
            url
            and url.scheme in ("http", "https")
            and url.hostname
            and url.port != 0
            and url.path.strip("/")
            and not (url.query or url.fragment or "@" in url.netloc)
        )
    except ValueError:
        return False


def _isWord(value: object) -> bool:
    return isLine(value) and isinstance(value, str) and bool(value) and value.isascii() and " " not in value


@withOptions
class S3Claims:
    """
    A bucket.

    @ivar url: C{https://host/bucket}, perhaps with a prefix for the names of objects behind it.
    @ivar region: what requests are signed for.
    @ivar accessKey: the id of the key that they are signed with.
    @ivar secretKey: that key, or the path of a file that holds it.
    @ivar timeout: seconds for a whole request, 0 for no limit.
    @raise OptionError: for a wrong value, or a file that cannot be read.
    """

    url: str = option(attrs.NOTHING, '"https://host/bucket", perhaps with a prefix', _isURL)
    region: str = option("us-east-1", "the name of a region", _isWord)
    accessKey: str = option(attrs.NOTHING, "the id of a key", _isWord)
    secretKey: str = option(
        attrs.NOTHING,
        "a key, or the path of a file that holds it: a path begins with / or ./",
        _isWord,
        show=lambda value: NotShown("(not shown)"),
        isPath=isSecretPath,
        isSecret=True,
    )
    timeout: float = seconds(60)
    clock: Any = attrs.field(default=None, init=False, repr=False)
    _credentials: Credentials = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if importlib.util.find_spec("treq") is None:
            raise OptionError("claims in S3 need a library that is not installed (treq): install smtphooks[webhook]")
        key = self.secretKey
        if isSecretPath(key):
            try:
                with open(key, encoding="latin-1") as file:
                    key = file.read().strip()
            except OSError as error:
                raise OptionError(f"option secretKey cannot be read: {error.strerror}", options=["secretKey"]) from None
            if not _isWord(key):
                raise OptionError("the file of option secretKey holds no key", options=["secretKey"])
        self._credentials = Credentials(self.accessKey, key, self.region)

    async def keep(self, name: str, spool: Spool[MessageStream], digest: str) -> str:
        """As C{Claims.keep}."""
        from smtphooks.stores.webhookexchange import Limits, exchange
        from smtphooks.stores.webhooklinks import Links

        url = f"{self.url.rstrip('/')}/{escapePath(name)}.eml"
        reactor = currentReactor()
        links = Links(reactor)
        put = partial(links.post, url, self._signed("PUT", url, digest), method="PUT")
        limits = Limits(self.timeout, self.timeout, reactor)
        try:
            answer = await exchange(put, spool.open(), spool.length, name=self._name, limits=limits)
        finally:
            links.close()
        if answer.code != 200:
            raise Unavailable(self._sentence("PUT", answer.code, answer.octets))
        if not answer.isOnAll:
            raise Unavailable(f"{self._name} answers 200 before it has the whole message")
        return url

    async def drop(self, reference: str) -> None:
        """As C{Claims.drop}."""
        response = await self._send("DELETE", self._ours(reference))
        answer = _Reader(self.timeout)
        response.deliverBody(answer)
        try:
            if response.code not in (200, 204, 404):
                raise Unavailable(self._sentence("DELETE", response.code, await self._beginningOf(answer)))
        finally:
            answer.stop()

    async def read(self, reference: str) -> AsyncIterator[bytes]:
        """As C{Claims.read}."""
        response = await self._send("GET", self._ours(reference))
        body = _Reader(self.timeout)
        response.deliverBody(body)
        try:
            if response.code != 200:
                raise Unavailable(self._sentence("GET", response.code, await self._beginningOf(body)))
            async for chunk in body.chunks():
                yield chunk
        finally:
            body.stop()

    def _ours(self, reference: str) -> str:
        # Whoever can write to the queue must not have us ask other servers, with signatures of ours.
        if not reference.startswith(self.url.rstrip("/") + "/"):
            raise ValueError(f"{reference!r} is no reference to an object of {self.url}")
        return reference

    def _signed(self, method: str, url: str, digest: str) -> dict[str, str]:
        now = datetime.fromtimestamp(self.clock.seconds(), timezone.utc) if self.clock else datetime.now(timezone.utc)
        return signedHeaders(self._credentials, method, url, digest, now)

    async def _send(self, method: str, url: str) -> Any:
        import treq
        from twisted.web.client import HTTPConnectionPool

        def late(result: object, seconds: float) -> None:
            raise Unavailable(f"{self._name} has not answered within {seconds:g} seconds")

        reactor = currentReactor()
        try:
            signed = self._signed(method, url, EMPTY)
            asked = treq.request(
                method,
                url,
                headers=Headers({name: [value] for name, value in signed.items()}),
                allow_redirects=False,
                unbuffered=True,
                pool=HTTPConnectionPool(reactor, persistent=False),
                reactor=reactor,
            )
            if self.timeout:
                asked.addTimeout(self.timeout, reactor, late)
            return await asked
        except (CancelledError, Unavailable):
            raise
        except Exception as error:
            raise Unavailable(f"{self._name} cannot be used: {str(error) or type(error).__name__}") from error

    @property
    def _name(self) -> str:
        return f"S3 at {self.url}"

    async def _beginningOf(self, body: _Reader) -> bytes:
        """What an answer says, as far as it comes in time."""
        octets = bytearray()

        async def read() -> None:
            async for chunk in body.chunks():
                octets.extend(chunk)
                if len(octets) > _ERROR_OCTETS:
                    break

        reading = Deferred.fromCoroutine(read())
        if self.timeout:
            reading.addTimeout(self.timeout, currentReactor())
        with suppress(TimeoutError, Unavailable):
            await reading
        return bytes(octets)

    def _sentence(self, method: str, code: int, octets: bytes) -> str:
        found = re.search(rb"<Code>(\w{1,100})</Code>", octets)
        return f"{self._name} answers {method} with {code}{' ' + found[1].decode() if found else ''}"


class _Reader(Protocol):
    """The body of a response, at the pace of who reads it."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._chunks: DeferredQueue[bytes | None] = DeferredQueue()
        self._hasEnded = False
        self._reason = connectionDone

    def dataReceived(self, data: bytes) -> None:
        """A part of the body."""
        if self.transport is not None:
            self.transport.pauseProducing()  # type: ignore[attr-defined]
        self._chunks.put(data)  # Who waits for it goes on at once, and may want more.

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The body has ended, or was cut."""
        self._hasEnded = True
        self._reason = reason
        self._chunks.put(None)

    async def chunks(self) -> AsyncIterator[bytes]:
        """
        The body.

        @raise Unavailable: if it was cut.
        """
        from twisted.web.client import ResponseDone

        while True:
            if self.transport is not None and not self._hasEnded and not self._chunks.pending:
                self.transport.resumeProducing()  # type: ignore[attr-defined]
            arrival = self._chunks.get()
            if self._timeout:
                arrival.addTimeout(self._timeout, currentReactor())
            try:
                chunk = await arrival
            except TimeoutError as error:
                raise Unavailable(f"S3 has sent nothing for {self._timeout:g} seconds") from error
            if chunk is None:
                if self._reason.check(ResponseDone):
                    return
                raise Unavailable(f"an object of S3 was cut: {self._reason.getErrorMessage()}")
            yield chunk

    def stop(self) -> None:
        """No more of it is wanted."""
        if not self._hasEnded and self.transport is not None:
            self.transport.stopProducing()  # type: ignore[attr-defined]
