"""
What hooks read: the session of a connection, the envelope of a transaction, and the addresses in it.

All of it is plain data; what the parameters of an address mean is derived from them here and stored nowhere twice.
This module knows no octets, no replies and no transport.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from email.utils import formatdate
from itertools import count
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol, TypeVar, overload

import attrs

from smtphooks.netaddress import addressLiteral, bracketed


class TLSInfo(NamedTuple):
    """
    The negotiated cipher of a connection.

    @ivar name: OpenSSL's name of the cipher suite.
    @ivar standardName: IANA's name of it.
    @ivar version: the protocol version, such as C{"TLSv1.3"}.
    """

    name: str
    standardName: str
    version: str


class EnvelopeDSN(NamedTuple):
    """
    What MAIL says about delivery status notifications (RFC 3461 sections 4.3 and 4.4).

    @ivar ret: C{"FULL"}, C{"HDRS"} or None.
    @ivar envid: the envelope identifier, decoded, or None.
    """

    ret: str | None
    envid: str | None


class RecipientDSN(NamedTuple):
    """
    What RCPT says about delivery status notifications (RFC 3461 sections 4.1 and 4.2).

    @ivar notify: upper-case keywords, such as C{("SUCCESS", "DELAY")}; empty if the client did not say.
    @ivar orcpt: the original recipient, decoded, such as C{"rfc822;user@example.org"}, or None.
    """

    notify: tuple[str, ...]
    orcpt: str | None


# HELO takes anything that is printable (RFC 5321 section 4.1.4); in a Received field these characters would begin a
# comment, an address or the date, and so forge the rest of the field.  Postfix neuters them as well.
_NOT_IN_A_NAME = re.compile(r'[^!-~]|[()<>,;@"\\]')


def _text(value: str | bool | None) -> str | None:
    return value if isinstance(value, str) else None


# The classes below are made for every message or connection, so their constructors do without the loops of attrs' own.


@attrs.frozen(init=False)
class Address:
    """
    A reverse-path or forward-path as the client gave it, without source route and angle brackets.

    @ivar address: the mailbox, C{""} for the null reverse-path.
    @ivar local: the local-part as written, quotes included.
    @ivar domain: the domain or address literal, C{""} for a bare C{postmaster} and the null reverse-path.
    @ivar args: ESMTP parameters: upper-case keyword to text, or True for one without a value.
    """

    address: str
    local: str = ""
    domain: str = ""
    args: Mapping[str, str | bool] = attrs.field(factory=dict, eq=False)

    def __init__(
        self, address: str, local: str = "", domain: str = "", args: Mapping[str, str | bool] | None = None
    ) -> None:
        _setAddress(self, address)
        _setLocal(self, local)
        _setDomain(self, domain)
        _setArgs(self, {} if args is None else args)

    @property
    def dsn(self) -> RecipientDSN:
        """The DSN parameters of RCPT."""
        notify = _text(self.args.get("NOTIFY"))
        return RecipientDSN(tuple(notify.split(",")) if notify else (), _text(self.args.get("ORCPT")))

    def __str__(self) -> str:
        return self.address


def _settersOf(kind: type) -> list[Callable[[Any, Any], None]]:
    """What sets each field in a constructor, past the check that attrs makes of each assignment."""
    return [getattr(kind, field.name).__set__ for field in attrs.fields(kind)]


_setAddress, _setLocal, _setDomain, _setArgs = _settersOf(Address)


@attrs.define(init=False)
class Envelope:
    """
    The current mail transaction (RFC 5321 section 3.3).  It holds only what hooks accepted, and the sender that
    C{onMailFrom} is asked about; a reset makes a new one.

    @ivar mailFrom: the reverse-path, None before MAIL.
    @ivar rcptTo: an L{Address} per accepted RCPT, in order, duplicates included.
    """

    mailFrom: Address | None = None
    # A list, whatever iterable a hook sets; any other value fails where the hook sets it.
    rcptTo: list[Address] = attrs.field(factory=list, converter=list)

    def __init__(self, mailFrom: Address | None = None, rcptTo: Iterable[Address] = ()) -> None:
        _setMailFrom(self, mailFrom)
        _setRcptTo(self, list(rcptTo))

    def _argument(self, keyword: str) -> str | bool | None:
        return None if self.mailFrom is None else self.mailFrom.args.get(keyword)

    @property
    def bodyType(self) -> str:
        """C{"7bit"}, C{"8bitmime"} or C{"binarymime"} (RFC 6152 and 3030)."""
        return (_text(self._argument("BODY")) or "7BIT").lower()

    @property
    def smtpUtf8(self) -> bool:
        """The client asked for internationalized mail (RFC 6531)."""
        return self._argument("SMTPUTF8") is not None

    @property
    def requireTLS(self) -> bool:
        """The message may only travel over verified TLS (RFC 8689)."""
        return self._argument("REQUIRETLS") is not None

    @property
    def dsn(self) -> EnvelopeDSN:
        """The DSN parameters of MAIL."""
        return EnvelopeDSN(_text(self._argument("RET")), _text(self._argument("ENVID")))


_setMailFrom, _setRcptTo = _settersOf(Envelope)


_numbers: count[int]


def _newNumbers() -> None:
    """Begin to count sessions at a random number: no other process will come across the same numbers."""
    global _numbers
    # One bit is left free, so that no number that follows has more than ten octets.
    _numbers = count(int.from_bytes(os.urandom(10), "big") >> 1)


_newNumbers()
# A forked process counts anew, or it would give its sessions the numbers of its siblings' sessions.
os.register_at_fork(after_in_child=_newNumbers)


def _newID() -> str:
    return next(_numbers).to_bytes(10, "big").hex()


State = TypeVar("State", covariant=True)


class Stateful(Protocol[State]):
    """A layer with state: a class, or another callable, makes that of a connection."""

    @property
    def State(self) -> Callable[[], State]: ...


@attrs.define(eq=False)
class Session:
    """
    One connection as hooks see it.

    @ivar id: unique text, for logs and C{Received} fields.
    @ivar localName: the server's own name (option C{name}).
    @ivar secure: the connection is encrypted, here or upstream.
    @ivar servername: the name the client asked for in TLS (SNI), or None.
    @ivar localAddress: address the client connected to; C{localPort} its port.
    @ivar remoteAddress: the client's IP address or the path of a UNIX socket; C{remotePort} its port.
    @ivar clientHostname: the client's name in DNS, or its address in brackets.
    @ivar openingCommand: C{"HELO"}, C{"EHLO"}, C{"LHLO"} or None before it.
    @ivar hostNameAppearsAs: the name the client gave with it.
    @ivar tlsOptions: L{TLSInfo} or None.
    @ivar peerCertificate: the client's certificate (C{cryptography.x509.Certificate}) if it was verified, or None.
    @ivar peerIdentity: the mail address or common name in that certificate, or None.
    @ivar channelBinding: octets that only the two ends of this TLS connection know (RFC 9266), or None.
    @ivar user: the user that C{onAuth} gave, or None.
    @ivar logout: the logout function of a Portal, called at the end of the connection, or None.
    @ivar transaction: number of the current transaction, from 1.
    @ivar envelope: current L{Envelope}.
    @ivar xClient: attributes that a trusted proxy gave with XCLIENT; C{xForward} those with XFORWARD.
    @ivar disabledCommands: this session's own list of commands to refuse, or None for the server's.
    @ivar state: a dict for the hooks' own use; it lives as long as the connection.
    @ivar error: text of the last 4xx or 5xx reply, or None.
    """

    localName: str = "localhost"
    lmtp: bool = False
    id: str = attrs.field(factory=_newID)
    secure: bool = False
    servername: str | None = None
    localAddress: str = ""
    localPort: int = 0
    remoteAddress: str = ""
    remotePort: int = 0
    clientHostname: str = ""
    openingCommand: str | None = None
    hostNameAppearsAs: str = ""
    tlsOptions: TLSInfo | None = None
    peerCertificate: Any = None
    peerIdentity: str | None = None
    channelBinding: bytes | None = attrs.field(default=None, repr=False)
    user: Any = None
    logout: Callable[[], Any] | None = None
    transaction: int = 1
    envelope: Envelope = attrs.field(factory=Envelope)
    xClient: dict[str, str] = attrs.field(factory=dict)
    xForward: dict[str, str] = attrs.field(factory=dict)
    disabledCommands: list[str] | None = None
    state: dict[Any, Any] = attrs.field(factory=dict)
    error: str | None = None
    _slots: list[tuple[object, Any]] | None = attrs.field(default=None, init=False, repr=False)

    @overload
    def of(self, layer: Stateful[State]) -> State: ...
    @overload
    def of(self, layer: type) -> Any: ...
    @overload
    def of(self, layer: object) -> Any: ...

    def of(self, layer: Any) -> Any:
        """
        The state that a layer keeps for this connection, and shares with nobody by accident.

        @param layer: the layer, for what its C{State()} has made for this connection, once; without a C{State} that is
            a namespace, which takes any attribute.  Or the class of a layer, to read the state of another one: None if
            no layer of that class has any yet.
        """
        slots = self._slots
        if slots is None:
            slots = self._slots = []
        isClass = isinstance(layer, type)
        for owner, state in slots:
            if owner is layer or (isClass and isinstance(owner, layer)):
                return state
        if isClass:
            return None
        state = getattr(layer, "State", SimpleNamespace)()
        slots.append((layer, state))
        return state

    @property
    def verdicts(self) -> dict[str, Any]:
        """
        What layers found out about the current message, for those who take it on.

        It has, by the name of a layer's class, what the state of the layer has as C{summary}, made of what JSON has.
        Left out are layers without one, or with None, and those whose state names another C{transaction}: a layer that
        exempts the client from now on still has its state of the message before.
        """
        return {
            type(owner).__name__: state.summary
            for owner, state in self._slots or ()
            if getattr(state, "summary", None) is not None
            and getattr(state, "transaction", self.transaction) == self.transaction
        }

    @property
    def transmissionType(self) -> str:
        """The "with" protocol name of this transaction, as registered with IANA (RFC 3848 and RFC 6531 section 4.3)."""
        if self.openingCommand == "HELO" or (self.openingCommand is None and not self.lmtp):
            return "SMTP"
        protocol = "LMTP" if self.lmtp else "ESMTP"
        if self.envelope.smtpUtf8:
            protocol = "UTF8LMTP" if self.lmtp else "UTF8SMTP"
        return protocol + ("S" if self.secure else "") + ("A" if self.user is not None else "")

    def receivedHeader(self, recipient: str | Address | None = None) -> str:
        """
        The C{Received} field of RFC 5321 section 4.4 for the current message, CRLF at its end included.

        A hook that writes it in front of a message must put an empty line between, unless the message begins with a
        header field: another first line could continue this field.  C{stream.prepend} does so.

        @param recipient: named in the "for" clause.  Without it a single recipient is named, and of several none, so
            that blind copies stay blind.
        """
        peer = _neuter(addressLiteral(self.remoteAddress)) if self.remoteAddress else ""
        isAddress = self.clientHostname in (self.remoteAddress, bracketed(self.remoteAddress))
        name = "" if isAddress else _neuter(self.clientHostname)
        tcpInfo = " ".join(filter(None, (name, peer)))
        client = _neuter(self.hostNameAppearsAs) or peer or "unknown"
        lines = [f"Received: from {client}" + (f" ({tcpInfo})" if tcpInfo else "")]
        if self.tlsOptions:
            lines.append(f"(using {self.tlsOptions.version} with cipher {self.tlsOptions.name})")
        lines.append(f"by {self.localName} with {self.transmissionType} id {self.id}.{self.transaction}")
        if recipient is None and len(self.envelope.rcptTo) == 1:
            recipient = self.envelope.rcptTo[0]
        if recipient is not None:
            lines.append(f"for <{recipient}>")
        date = formatdate(time.time(), localtime=True)
        return "\r\n\t".join(_printable(line) for line in lines) + f";\r\n\t{date}\r\n"


def _neuter(name: str) -> str:
    """A name without the characters that have a meaning in a header field."""
    return _NOT_IN_A_NAME.sub("?", name)


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
