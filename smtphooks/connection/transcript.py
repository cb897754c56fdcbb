"""
The transcript: the dialogue of a client in the log, both ways (option C{debugPeers}).

It holds no secrets: not the initial response of AUTH, no challenge and no response, and nothing of a line that is not a
known command, for that may be a password gone astray.  Of a message only the octets are counted.
This module knows lines and octets, and of commands only where AUTH has a secret.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from smtphooks.session import Session
from smtphooks.syntax.networks import TrustedPeers
from smtphooks.syntax.wire import LineFault

_log = Logger()


class Transcript:
    """The dialogue of one connection, both ways."""

    __slots__ = ("_hasMechanism", "_isKnown", "_peers", "_session")

    def __init__(
        self,
        session: Session,
        peers: TrustedPeers,
        isKnown: Callable[[str], bool],
        hasMechanism: Callable[[str], bool],
    ) -> None:
        """
        @param peers: the peers whose dialogue is logged; XCLIENT may change the peer of this one.
        @param isKnown: may the argument of this verb be shown?
        @param hasMechanism: is this the name of a mechanism?
        """
        self._session = session
        self._peers = peers
        self._isKnown = isKnown
        self._hasMechanism = hasMechanism

    def command(self, line: bytes | LineFault) -> None:
        """The client has sent a line."""
        if isinstance(line, LineFault):
            self._write("C", f"({line.value})")
            return
        text = line.decode("utf-8", "replace")
        verb, _, argument = text.partition(" ")
        if verb.upper() == "AUTH":
            mechanism, _, rest = argument.partition(" ")
            if not self._hasMechanism(mechanism):
                # A client may have sent a password in its place.
                mechanism, rest = "", argument
            self._write("C", " ".join(filter(None, (verb, mechanism, "(not shown)" if rest else ""))))
        elif self._isKnown(verb.upper()):
            self._write("C", text)
        else:
            self._write("C", f"(no known command, {len(line)} octets)")

    def response(self, line: bytes | LineFault) -> None:
        """The client has answered a challenge."""
        self._write("C", f"({line.value})" if isinstance(line, LineFault) else f"(response, {len(line)} octets)")

    def content(self, octets: int) -> None:
        """So much of a message has come."""
        self._write("C", f"({octets} octets of a message)")

    def reply(self, octets: bytes) -> None:
        """The server says something."""
        for line in octets.decode("utf-8", "replace").splitlines():
            self._write("S", line)

    def challenge(self) -> None:
        """The server challenges the client."""
        self._write("S", "334 (challenge)")

    def secured(self) -> None:
        """TLS is in force."""
        options = self._session.tlsOptions
        self._write("-", f"TLS has begun ({options.version}, {options.name})" if options else "TLS has begun")

    def _write(self, side: str, line: str) -> None:
        session, peer = self._session.id, self._session.remoteAddress
        if self._peers.trusts(peer):
            if not line.isprintable():
                line = "".join(c if c.isprintable() else "?" for c in line)
            _log.info("{peer} {side}: {line} [{session}]", session=session, peer=peer, side=side, line=line)
