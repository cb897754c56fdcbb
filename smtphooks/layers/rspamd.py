"""
The layer C{Rspamd}: each message is inspected by rspamd, refused or delayed as that advises, and its header changed.

In: the stream and the session of C{inspectData} and C{filterData}.  Out: a refusal, a fault, or nothing; the verdict in
the layer's state; the message with the changes to its header.  rspamd gets a message when it has arrived: it begins no
sooner, and gives its client a minute for the whole of it, which many a client of SMTP does not keep.
This module knows no transport, no JSON, and not what becomes of a fault.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, urlsplit

import attrs
import idna
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger

from smtphooks.currentreactor import currentReactor
from smtphooks.errors import OptionError
from smtphooks.header import HEADER_OCTETS, HeaderEnd
from smtphooks.layers.exchange import Answer, Request, ScannerFault, ask
from smtphooks.layers.fields import Addition, HeaderChanges, isFieldName
from smtphooks.layers.rspamdanswer import RspamdVerdict, readVerdict
from smtphooks.netaddress import maybeIP
from smtphooks.optionkinds import NotShown, count, isLine, isSecretPath, oneOf, option, seconds, withOptions
from smtphooks.replies import HEADER_TOO_LARGE, SMTPError
from smtphooks.session import Address, Session
from smtphooks.stream import MessageStream

log: Logger = Logger()

_ANSWER_OCTETS = 1024 * 1024
_PORT = 11333

# rspamd closes the connection without a word if all header lines of a request have more than 80 KiB; it takes 1024
# recipients by default.
_RECIPIENTS_OCTETS = 60_000

_NOT_PRINTABLE = re.compile(r"[^ -~]")

TEMPFAIL, PASS = "tempfail", "pass"

# Quarantine and discard are refused as well: nothing here could keep the message for somebody to look at, and none is
# dropped behind its sender's back.
_REFUSED = SMTPError("Message refused as spam", 554, "5.7.1")
_REFUSALS = {
    "reject": _REFUSED,
    "quarantine": _REFUSED,
    "discard": _REFUSED,
    "soft reject": SMTPError("Message delayed, please try again later", 451, "4.7.1"),
    "greylist": SMTPError("Greylisted, please try again later", 451, "4.7.1"),
}
_PASSES = ("no action", "add header", "rewrite subject")


@attrs.define
class RspamdState:
    """
    What rspamd said of the current message.

    @ivar verdict: all of it, or None.
    @ivar changes: the changes to the header.
    @ivar transaction: the number of the transaction whose message it is.
    """

    verdict: RspamdVerdict | None = None
    changes: HeaderChanges = attrs.field(factory=HeaderChanges)
    transaction: int = 0

    @property
    def summary(self) -> dict[str, Any] | None:
        """For L{Session.verdicts}."""
        verdict = self.verdict
        if verdict is None:
            return None
        return {
            "action": verdict.action,
            "score": verdict.score,
            "requiredScore": verdict.requiredScore,
            "symbols": dict(verdict.symbols),
        }


def _isURL(value: object) -> bool:
    if not isinstance(value, str) or not value.isprintable() or not value.isascii() or " " in value:
        return False
    if value.startswith("unix:"):
        return value.startswith("unix:/")
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError:
        return False
    return bool(
        url.scheme == "http" and url.hostname and port != 0 and not (url.query or url.fragment or "@" in url.netloc)
    )


def _isPassword(value: object) -> bool:
    return isLine(value) and isinstance(value, str) and bool(value) and value.isascii()


def _shownPassword(value: object) -> object:
    return None if value is None else NotShown("(not shown)")


@withOptions
class Rspamd:
    """
    A layer that has rspamd inspect each message.

    @ivar url: where a worker of rspamd listens: C{http://host:port}, or C{unix:/path} of its socket.
    @ivar password: what the worker asks for, or the path of a file that holds it; None for none.
    @ivar greylist: what the action "greylist" does: C{"tempfail"}, 451 for the client, or C{"pass"}.
    @ivar sizeLimit: a message of more octets passes without inspection, 0 for no limit.
    @ivar spamHeader: the field that the action "add header" adds.
    @ivar timeout: seconds that rspamd may take to accept the connection, to read on, and to answer at the end.
    @raise OptionError: for a wrong value, or a file that cannot be read.
    """

    url: str = option("http://127.0.0.1:11333", '"http://host:port" or "unix:/path"', _isURL)
    password: str | None = option(
        None,
        "ASCII characters, or the path of a file that holds them: a path begins with / or ./",
        _isPassword,
        show=_shownPassword,
        isPath=isSecretPath,
        isSecret=True,
    )
    greylist: str = oneOf(TEMPFAIL, '"tempfail" or "pass"', (TEMPFAIL, PASS))
    sizeLimit: int = count(52428800, "octets")
    spamHeader: str = option("X-Spam", "the name of a header field", isFieldName)
    timeout: float = seconds(60)
    clock: Any = attrs.field(default=None, init=False, repr=False)
    _secret: str | None = attrs.field(default=None, init=False, repr=False)
    _address: SplitResult = attrs.field(init=False, repr=False)

    State = RspamdState

    def __attrs_post_init__(self) -> None:
        self._address = urlsplit(self.url)
        self._secret = self.password
        if self.password is not None and isSecretPath(self.password):
            try:
                with open(self.password, encoding="latin-1") as file:
                    self._secret = file.read().strip()
            except OSError as error:
                raise OptionError(f"option password cannot be read: {error.strerror}", options=["password"]) from None
            if not _isPassword(self._secret):
                raise OptionError("the file of option password holds no ASCII characters", options=["password"])

    async def inspectData(self, stream: MessageStream, session: Session) -> None:
        """
        Have the message inspected.

        @raise SMTPError: 554 or 451, if rspamd advises that.
        @raise ScannerFault: if rspamd gives no verdict.
        @raise Exception: of the stream.
        """
        state = session.of(self)
        # Changes for the message before must not be made to this one.
        state.verdict, state.changes, state.transaction = None, HeaderChanges(), session.transaction
        spool = await stream.spool()
        try:
            if 0 < self.sizeLimit < spool.length:
                self._logTooLarge(spool.length, session)
                return
            answer = await self._ask(spool.open(), spool.length, session)
        finally:
            spool.close()
        try:
            verdict = readVerdict(answer.octets)
        except ScannerFault as fault:
            raise ScannerFault(f"{self._name} {fault}") from None
        refusal = self._maybeRefusal(verdict)
        if refusal is None and not answer.isOnAll:
            raise ScannerFault(f"{self._name} answers before it has the whole message")
        state.verdict = verdict
        self._log(verdict, session)
        if refusal is not None:
            raise refusal
        state.changes = self._changes(verdict)

    async def filterData(self, stream: MessageStream, session: Session) -> AsyncIterator[bytes]:
        """
        Change the header of the message as rspamd wants it.

        @raise SMTPError: 552 if the header is too large to be changed.
        """
        changes = session.of(self).changes
        if changes:
            header, rest = await _cutHeader(stream)
            yield changes.appliedTo(header)
            if rest:
                yield rest
        async for chunk in stream:
            yield chunk

    # --- the request ---

    @property
    def _name(self) -> str:
        return f"rspamd at {self.url}"

    async def _ask(self, stream: MessageStream, octets: int, session: Session) -> Answer:
        reactor = currentReactor()
        request = Request(
            opening=self._opening(octets, session),
            before=lambda octets: b"",
            behind=b"",
            closing=b"",
            octets=0,
            answerEnd=b"",
            answerOctets=_ANSWER_OCTETS,
        )
        clock = self.clock or reactor
        return await ask(
            self._endpoint(reactor), request, stream, scanner=self._name, timeout=self.timeout, clock=clock
        )

    def _endpoint(self, reactor: Any) -> IStreamClientEndpoint:
        if self._address.scheme == "unix":
            return UNIXClientEndpoint(reactor, self._address.path)
        assert self._address.hostname is not None
        return HostnameEndpoint(reactor, self._address.hostname.encode(), self._address.port or _PORT)

    def _opening(self, octets: int, session: Session) -> bytes:
        """The request for a message of this length, up to its body."""
        lines = [f"{name}: {_NOT_PRINTABLE.sub('?', value)}" for name, value in self._fields(session)]
        path = "" if self._address.scheme == "unix" else self._address.path.rstrip("/")
        start = f"POST {path}/checkv2 HTTP/1.1"
        return "\r\n".join([start, f"Content-Length: {octets}", *lines, "", ""]).encode()

    def _fields(self, session: Session) -> Iterator[tuple[str, str]]:
        """The header of the request: what rspamd is told of the client and of the envelope."""
        envelope = session.envelope
        yield "Host", self._address.netloc or "localhost"
        yield "Connection", "close"
        yield "MTA-Name", session.localName
        yield "Queue-Id", f"{session.id}.{session.transaction}"
        if maybeIP(session.remoteAddress) is not None:
            yield "IP", session.remoteAddress
        if session.clientHostname and not session.clientHostname.startswith("["):
            yield "Hostname", session.clientHostname
        if session.hostNameAppearsAs:
            yield "Helo", session.hostNameAppearsAs
        if session.user is not None:
            # Whatever object it is, rspamd must know that the client is authenticated.
            yield "User", session.user if isinstance(session.user, str) and session.user else "authenticated"
        if session.tlsOptions is not None:
            yield "TLS-Cipher", session.tlsOptions.name
            yield "TLS-Version", session.tlsOptions.version
        if self._secret is not None:
            yield "Password", self._secret
        if envelope.mailFrom is not None:
            yield "From", _path(envelope.mailFrom)
        octets = 0
        for recipient in map(_path, envelope.rcptTo):
            octets += len(recipient) + len("Rcpt: \r\n")
            if octets > _RECIPIENTS_OCTETS:
                break
            yield "Rcpt", recipient

    # --- the verdict ---

    def _maybeRefusal(self, verdict: RspamdVerdict) -> SMTPError | None:
        action = verdict.action
        isPass = action in _PASSES or verdict.isNoAction or (action == "greylist" and self.greylist == PASS)
        if isPass:
            return None
        refusal = _REFUSALS.get(action)
        if refusal is None:
            raise ScannerFault(f"{self._name} advises {action[:100]!r}, which this layer does not know")
        message = (verdict.message or "").strip() or refusal.message
        return SMTPError(message, refusal.responseCode, refusal.enhancedCode)

    def _changes(self, verdict: RspamdVerdict) -> HeaderChanges:
        removals, additions = list(verdict.removals), list(verdict.additions)
        replacements = []
        if verdict.isNoAction:
            additions.append(Addition("X-Rspamd-Action", verdict.action))
        elif verdict.action == "add header":
            removals.append((self.spamHeader, 0))  # what the sender says of it is of no interest
            additions.append(Addition(self.spamHeader, "Yes"))
        elif verdict.action == "rewrite subject" and verdict.subject is not None:
            replacements.append(("Subject", verdict.subject))
        return HeaderChanges(removals, replacements, additions)

    def _logTooLarge(self, octets: int, session: Session) -> None:
        log.warn(
            "rspamd: a message of {octets} octets passes without inspection, option sizeLimit is {limit} [{session}]",
            session=session.id,
            peer=session.remoteAddress,
            octets=octets,
            limit=self.sizeLimit,
        )

    def _log(self, verdict: RspamdVerdict, session: Session) -> None:
        log.info(
            "rspamd: {action}, score {score:.2f} of {requiredScore}, {symbols} [{session}]",
            session=session.id,
            peer=session.remoteAddress,
            action=verdict.action,
            score=verdict.score,
            requiredScore=verdict.requiredScore,
            symbols=", ".join(verdict.symbols) or "no symbols",
        )
        if verdict.notApplied:
            log.warn(
                "rspamd asks for {changes}, which this layer cannot do [{session}]",
                session=session.id,
                peer=session.remoteAddress,
                changes=", ".join(verdict.notApplied),
            )


def _path(address: Address) -> str:
    """An address as rspamd reads it: without other characters than ASCII."""
    domain = address.domain
    if not domain.isascii():
        with suppress(idna.IDNAError):
            domain = idna.encode(domain, uts46=True).decode()
        return f"<{address.local}@{domain}>"
    return f"<{address.address}>"


async def _cutHeader(stream: MessageStream) -> tuple[bytes, bytes]:
    """The header of a message, its empty line included, and the octets behind it that came together with it."""
    pieces: list[bytes] = []
    search = HeaderEnd()
    async for chunk in stream:
        pieces.append(chunk)
        search.scan(chunk)
        if search.end is not None or search.octets > HEADER_OCTETS:
            break
    if (search.end or search.octets) > HEADER_OCTETS:
        raise HEADER_TOO_LARGE.asError()
    octets = b"".join(pieces)
    return octets[: search.end], octets[search.end :] if search.end is not None else b""
