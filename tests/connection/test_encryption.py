"""Where TLS begins on a connection, when its handshake is done, and what it has brought."""

from __future__ import annotations

from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.interfaces import ISSLTransport, ITLSTransport
from twisted.python.failure import Failure
from zope.interface import alsoProvides

from smtphooks.connection.encryption import Encryption
from smtphooks.session import Session
from tests.support import Transport
from tests.tls.handshakes import ALICE, FOREIGN, NAME, TRUSTED, Handshake, secure

pytestmark = pytest.mark.filterwarnings("error")


class Secured(Transport):
    """A transport with a connection of OpenSSL, which provides the interfaces that it is given."""

    def __init__(self, handle: Any, *interfaces: Any) -> None:
        super().__init__()
        self.handle = handle
        alsoProvides(self, *interfaces)

    def getHandle(self) -> Any:
        return self.handle


def fresh() -> SSL.Connection:
    """The server's side of a handshake that has yet to come."""
    return secure().serverConnectionForTLS(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("interface", [None, ISSLTransport, ITLSTransport])
def test_TLS_has_begun_below_only_where_the_transport_is_TLS(interface: Any) -> None:
    """A transport that can begin TLS has not begun it."""
    encryption = Encryption(Secured(fresh(), *filter(None, [interface])))
    assert encryption.beganBelow is (interface is ISSLTransport)


@pytest.mark.parametrize("interface", [None, ISSLTransport, ITLSTransport])
def test_TLS_can_begin_only_where_the_transport_can_begin_it(interface: Any) -> None:
    encryption = Encryption(Secured(fresh(), *filter(None, [interface])))
    assert encryption.canBegin is (interface is ITLSTransport)


def test_a_handshake_is_done_when_the_client_has_finished_it() -> None:
    transport = Secured(fresh())
    encryption = Encryption(transport)
    assert not encryption.isHandshakeDone
    transport.handle = Handshake(secure()).server
    assert encryption.isHandshakeDone


def test_without_TLS_no_handshake_is_done() -> None:
    assert not Encryption(Secured(object())).isHandshakeDone


def test_a_handshake_below_may_be_done_before_the_connection_is_made() -> None:
    """The endpoint, or a wrapper, makes the connection when it likes."""
    assert Encryption(Secured(Handshake(secure()).server, ISSLTransport)).isDone
    assert not Encryption(Secured(fresh(), ISSLTransport)).isDone


def test_a_transport_that_can_begin_TLS_is_not_asked_for_its_handshake() -> None:
    """One in the clear, as a test or a tunnel has it, may know no handle at all."""
    assert not Encryption(Transport()).isDone
    assert not Encryption(Secured(Handshake(secure()).server, ITLSTransport)).isDone


def test_the_session_says_what_the_handshake_has_brought() -> None:
    shaken = Handshake(secure(requestCert=True, ca=TRUSTED.pem), name=NAME.encode(), pair=ALICE)
    session = Session("mx.test")
    Encryption(Secured(shaken.server)).record(session)
    assert session.secure
    assert session.tlsOptions is not None
    assert (session.tlsOptions.version, session.servername) == ("TLSv1.3", NAME)
    assert session.peerCertificate == ALICE.certificate


def test_a_handshake_that_failed_is_explained_with_what_is_wrong_with_the_certificate() -> None:
    shaken = Handshake(secure(requestCert=True, ca=TRUSTED.pem), pair=FOREIGN.client("mallory"))
    assert shaken.error is not None
    said = Encryption(Secured(shaken.server)).explain(Failure(shaken.error))
    assert said == "the client's certificate is not accepted (unable to get issuer certificate locally)"
