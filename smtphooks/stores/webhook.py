"""
The store C{Webhook}: each message is the body of a POST, and the answer to that is the reply to the client.

In: the stream and the session of C{onData}, and the addresses of C{onRcptTo}.  Out: requests, and texts or refusals.
Rule: 250 only after a 2xx on the whole message.  Without a secret the message goes out while it arrives; with one it is
received whole first, as the signature in front of it is over its digest.
This module can be imported without treq.  It knows no connection, and not what a field of a request looks like.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from smtphooks._version import __version__
from smtphooks.currentreactor import currentReactor
from smtphooks.errors import OptionError
from smtphooks.hooks import Unavailable
from smtphooks.optionkinds import count, flag, option, pem, seconds, withOptions
from smtphooks.optionkinds import secret as aSecret
from smtphooks.replies import HOOK_FAILED, SMTPError
from smtphooks.session import Address, Session
from smtphooks.stores.breaker import Breaker
from smtphooks.stores.webhookfields import Part, digestsOf, keyOf, partsOf, signatureFields
from smtphooks.stores.webhookoptions import aToken, aURL, isDuration, originOf, secretOf, tokenOf, trustRootOf
from smtphooks.stores.webhookrecipients import RecipientAnswers
from smtphooks.stores.webhookreplies import (
    MESSAGE_REFUSALS,
    RECIPIENT_REFUSALS,
    Answer,
    StaleConnection,
    WebhookFault,
    checkIsUp,
    textOf,
)
from smtphooks.stream import MessageStream

if TYPE_CHECKING:
    from smtphooks.stores.webhooklinks import Links

log: Logger = Logger()


@withOptions
class Webhook:
    """
    Hooks that post every message to a URL, C{smtphooks.stores.Webhook}; in TOML C{smtphooks.stores:Webhook}.

    @ivar url: where messages are posted to; the one option that may be given without its name.
    @ivar token: is sent as a bearer token; or the path of a file that holds it.
    @ivar secret: what requests are signed with; or the path of a file that holds it.
    @ivar spool: receive a message whole before it is posted, as is done with a secret.
    @ivar ca: the certificates of the authorities that https is verified against; None for those of the system.
    @ivar recipientURL: where each recipient is asked for; None to take all.
    @ivar recipientCacheTime: seconds that an answer about a recipient is kept, 0 to keep none.
    @ivar connectTimeout: seconds that the webhook may take to accept a connection.
    @ivar timeout: seconds that the webhook may take to read a request and to answer.
    @ivar breakerFailures: failures in a row after which requests are refused at once, 0 for never.
    @ivar breakerPause: seconds from one trial to the next then.
    @ivar onRcptTo: the hook, if there is C{recipientURL}.
    @raise OptionError: for a wrong value, a file that cannot be read, or if treq is not installed.
    """

    url: str = aURL(attrs.NOTHING)
    token: str | None = aToken()
    secret: str | bytes | None = aSecret()
    spool: bool = flag(False)
    ca: str | bytes | None = pem()
    recipientURL: str | None = aURL(None)
    recipientCacheTime: float = option(60, "a number of seconds, 0 to keep none", isDuration, mostSeconds=3600)
    connectTimeout: float = seconds(10)
    timeout: float = seconds(120)
    breakerFailures: int = count(5, "failures")
    breakerPause: float = option(10, "a number of seconds", isDuration, mostSeconds=3600)
    onRcptTo: Callable[[Address, Session], Any] | None = attrs.field(default=None, init=False, repr=False)
    clock: Any = attrs.field(default=None, init=False, repr=False)
    _links: Links | None = attrs.field(default=None, init=False, repr=False)
    _secret: bytes | None = attrs.field(default=None, init=False, repr=False)
    _common: dict[str, str] = attrs.field(init=False, repr=False)
    _trustRoot: Any = attrs.field(default=None, init=False, repr=False)
    _breakers: dict[str, Breaker] = attrs.field(init=False, repr=False)
    _recipients: RecipientAnswers = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        try:
            import smtphooks.stores.webhooklinks  # noqa: F401
        except ImportError as missing:
            raise OptionError(
                f"Webhook needs a library that is not installed ({missing}): install smtphooks[webhook]"
            ) from missing
        urls = [url for url in (self.url, self.recipientURL) if url is not None]
        if self.ca is not None:
            if not any(url.startswith("https:") for url in urls):
                raise OptionError("option ca is given, and no URL that begins with https:", options=["ca"])
            self._trustRoot = trustRootOf(self.ca)
        self._common = {"User-Agent": f"smtphooks/{__version__}"}
        if self.token is not None:
            self._common["Authorization"] = f"Bearer {tokenOf(self.token)}"
        if self.secret is not None:
            self._secret = secretOf(self.secret)
        self._breakers = {
            url: Breaker(f"webhook at {originOf(url)}", self.breakerFailures, self.breakerPause) for url in urls
        }
        self._recipients = RecipientAnswers(self.recipientCacheTime)
        if self.recipientURL is not None:
            self.onRcptTo = self._onRcptTo

    def onStop(self, service: object) -> Deferred[Any] | None:
        """Close the connections that are kept."""
        links, self._links = self._links, None
        return None if links is None else links.close()

    async def onData(self, stream: MessageStream, session: Session) -> str | list[str | SMTPError | None] | None:
        """
        Post the message.

        @return: the text of the answer; over LMTP for each recipient, if there are too many for one request.
        @raise SMTPError: if the webhook refuses the message for good.
        @raise Unavailable: if it cannot be reached, or answers anything else.
        @raise Exception: of the stream.
        """
        stream.prepend(session.receivedHeader().encode(errors="replace"))
        parts = partsOf(session)
        if self._secret is not None or self.spool or len(parts) > 1:
            return await self._postSpooled(stream, parts, session)
        (part,) = parts
        fields = {**part.fields, "Idempotency-Key": part.fields["Smtphooks-Id"]}
        answer = await self._post(self.url, lambda: stream, None, fields)
        return self._accepted(answer, stream.byteLength, session)

    async def _postSpooled(
        self, stream: MessageStream, parts: list[Part], session: Session
    ) -> str | list[str | SMTPError | None] | None:
        spool = await stream.spool()
        result: str | None = None
        results: list[str | SMTPError | None] = []
        try:
            digests = await digestsOf(spool.open(), stream.prepended)
            for part in parts:
                sender = session.envelope.mailFrom
                key = keyOf(sender.address if sender is not None else "", part.recipients, digests)
                fields = {**part.fields, "Idempotency-Key": key, **self._signed(key, part.description, digests.body)}
                try:
                    answer = await self._post(self.url, spool.open, spool.length, fields)
                    result = self._accepted(answer, spool.length, session)
                except (SMTPError, Unavailable) as error:
                    if len(parts) == 1 or not session.lmtp:
                        raise
                    results += [_resultOf(error, session)] * len(part.recipients)
                else:
                    results += [result] * len(part.recipients)
        finally:
            spool.close()
        return results if session.lmtp and len(parts) > 1 else result

    async def _onRcptTo(self, address: Address, session: Session) -> str | None:
        """
        Ask for a recipient, unless that was answered a moment ago.

        @return: the text of the answer.
        @raise SMTPError: if the webhook refuses the recipient for good.
        @raise Unavailable: if it cannot be reached, or answers anything else.
        """
        assert self.recipientURL is not None
        url, clock = self.recipientURL, self.clock or currentReactor()
        answer = self._recipients.maybeAnswer(address.address, clock.seconds())
        if answer is None:
            octets = json.dumps({"recipient": address.address}).encode()
            fields = {"Content-Type": "application/json", **self._signed("", "", hashlib.sha256(octets).hexdigest())}
            answer = await self._post(url, partial(_streamOf, octets), len(octets), fields)
            if answer.isYes or answer.code in RECIPIENT_REFUSALS:
                self._recipients.keep(address.address, answer, clock.seconds())
        return textOf(answer, RECIPIENT_REFUSALS, f"webhook at {originOf(url)}")

    # --- requests ---

    def _signed(self, key: str, description: str, body: str) -> dict[str, str]:
        return {} if self._secret is None else signatureFields(self._secret, int(time.time()), key, description, body)

    async def _post(
        self, url: str, opened: Callable[[], MessageStream], length: int | None, fields: dict[str, str]
    ) -> Answer:
        """
        Make one request.

        @param opened: gives the body; if its length is known, as often as it is called.
        """
        from smtphooks.stores.webhookexchange import Limits, exchange
        from smtphooks.stores.webhooklinks import Links

        name, reactor = f"webhook at {originOf(url)}", currentReactor()
        clock = self.clock or reactor
        if self._links is None:
            self._links = Links(reactor, self._trustRoot)
        post = partial(self._links.post, url, {**self._common, **fields})
        limits = Limits(self.connectTimeout, self.timeout, clock)
        with self._breakers[url].attempt(clock, WebhookFault):
            try:
                answer = await exchange(post, opened(), length, name=name, limits=limits)
            except StaleConnection:
                if length is None:
                    raise
                answer = await exchange(post, opened(), length, name=name, limits=limits)
            checkIsUp(answer, name)
        return answer

    def _accepted(self, answer: Answer, octets: int, session: Session) -> str | None:
        """The text of the reply to a message that the webhook has taken."""
        text = textOf(answer, MESSAGE_REFUSALS, f"webhook at {originOf(self.url)}")
        log.info(
            "posted to {origin}, which answers {code}: {octets} octets [{session}]",
            session=session.id,
            peer=session.remoteAddress,
            origin=originOf(self.url),
            code=answer.code,
            octets=octets,
        )
        return text


def _streamOf(octets: bytes) -> MessageStream:
    stream = MessageStream()
    stream.append(octets, isLast=True)
    return stream


def _resultOf(error: SMTPError | Unavailable, session: Session) -> SMTPError:
    """The result for some recipients, where others have another one."""
    if isinstance(error, SMTPError):
        return error
    log.error(
        "hook onData of Webhook cannot decide: {error} [{session}]",
        session=session.id,
        peer=session.remoteAddress,
        error=error,
    )
    return HOOK_FAILED.asError()
