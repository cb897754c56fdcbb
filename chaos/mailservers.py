"""
The other sides of Relay that are not smtphooks: Postfix over SMTP, Dovecot over LMTP, as the tests start them.

They listen on this side of the network, which is not broken for them.
This module knows no faults but what these servers themselves can do.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import ClassVar

from chaos.deliveries import Arrived, ToServer, maildirArrived
from tests.real.mta.contained import whyNot
from tests.real.mta.dovecot import Dovecot
from tests.real.mta.postfix import PostfixServer


class _Postfix(PostfixServer):
    @property
    def maildir(self) -> Path:
        return self._maildir


class _Dovecot(Dovecot):
    @property
    def maildir(self) -> Path:
        return self._maildir


class _ToMailServer(ToServer):
    parts = frozenset({"receiver", "other"})
    kind: ClassVar[type[_Postfix | _Dovecot]]
    _server: _Postfix | _Dovecot | None = None

    @classmethod
    def missing(cls) -> str | None:
        # In namespaces that a user may have, root is no other user; these servers become several.
        _, _, users = Path("/proc/self/uid_map").read_text().splitlines()[0].split()
        if users == "1":
            return "only root can start it"
        return whyNot(*cls.kind.programs) or None

    @property
    def server(self) -> _Postfix | _Dovecot:
        assert self._server is not None
        return self._server

    @property
    def upstream(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def startOther(self) -> None:
        if self._server is None:
            self._server = self.kind()
        else:
            self._server.start()

    def killOther(self) -> None:
        self.server.kill()

    def stopOther(self) -> None:
        self.server.terminate()

    def signalOther(self, number: int) -> None:
        if number == signal.SIGSTOP:
            self.server.pause()
        else:
            self.server.resume()

    def arrived(self) -> Arrived:
        return maildirArrived(self.server.maildir)

    def close(self) -> None:
        self.receiver.kill()
        self.server.stop()


class ToPostfix(_ToMailServer):
    """Postfix, which has a queue between its 250 and its Maildir."""

    name = "Relay to Postfix"
    kind = _Postfix
    settling = 60


class ToDovecot(_ToMailServer):
    """Dovecot, which has a reply for each recipient."""

    name = "Relay to Dovecot"
    kind = _Dovecot
    lmtp = True
    tls = "none"
