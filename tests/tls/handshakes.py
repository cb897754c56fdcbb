"""Handshakes in memory between an OpenSSL client and what L{SecureContext} makes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from OpenSSL import SSL

from smtphooks.errors import OptionError
from smtphooks.options import Options
from smtphooks.tls.context import SecureContext
from smtphooks.tls.failure import explainHandshakeFailure
from tests.certificates import Authority, Pair

NAME = "mx.example.org"
TRUSTED = Authority()
FOREIGN = Authority("Foreign authority")
SERVER = TRUSTED.server(NAME)
OTHER = TRUSTED.server("other.example.org")
ALICE = TRUSTED.client("alice")


def secure(pair: Pair | None = SERVER, **given: Any) -> SecureContext:
    own = {} if pair is None else {"key": pair.key, "cert": pair.cert}
    return SecureContext(Options(**{"name": NAME, **own, **given}))


def clientContext(
    pair: Pair | None = None,
    lowest: int = 0,
    highest: int = 0,
    ciphers: bytes = b"DEFAULT:@SECLEVEL=0",
    suites: bytes | None = None,
    trust: Authority | None = None,
    alpn: list[bytes] | None = None,
) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(lowest)
    context.set_max_proto_version(highest)
    if pair is not None:
        context.use_certificate(pair.certificate)
        context.use_privatekey(pair.privateKey)
        for issuer in pair.issuers:
            context.add_extra_chain_cert(issuer)
    if trust is not None:
        store = context.get_cert_store()
        assert store is not None
        store.add_cert(SSL.X509.from_cryptography(trust.certificate))
        context.set_verify(SSL.VERIFY_PEER)
    if alpn:
        context.set_alpn_protos(alpn)
    if suites:
        context.set_tls13_ciphersuites(suites)
    context.set_cipher_list(ciphers)
    return context


class Handshake:
    """
    A server and a client that talk until neither has anything to say.

    @ivar error: what the server failed with, or None; C{clientError} the client's.
    """

    def __init__(self, server: SecureContext, name: bytes = b"", context: SSL.Context | None = None, **given: Any):
        self.server = server.serverConnectionForTLS(None)  # type: ignore[arg-type]
        self.server.set_accept_state()
        self.client = SSL.Connection(context or clientContext(**given), None)
        if name:
            self.client.set_tlsext_host_name(name)
        self.client.set_connect_state()
        self.error: SSL.Error | None = None
        self.clientError: SSL.Error | None = None
        for _ in range(6):
            self.clientError = self.clientError or advance(self.client)
            move(self.client, self.server)
            self.error = self.error or advance(self.server)
            move(self.server, self.client)
        # In TLS 1.3 the client is done before the server has verified its certificate.
        self.clientError = self.clientError or advance(self.client, lambda: self.client.recv(1))

    @property
    def explanation(self) -> str:
        assert self.error is not None
        return explainHandshakeFailure(self.error, self.server)

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate that the server sent."""
        assert self.error is None
        found = self.client.get_peer_certificate(as_cryptography=True)
        assert found is not None
        return found


def advance(connection: SSL.Connection, step: Callable[[], Any] | None = None) -> SSL.Error | None:
    try:
        (step or connection.do_handshake)()
    except SSL.WantReadError:
        return None
    except SSL.Error as error:
        return error.with_traceback(None)
    return None


def move(source: SSL.Connection, target: SSL.Connection) -> None:
    with contextlib.suppress(SSL.WantReadError):
        target.bio_write(source.bio_read(1 << 20))


def refusal(**given: Any) -> str:
    with pytest.raises(OptionError) as caught:
        SecureContext(Options(**{"name": NAME, **given}))
    return str(caught.value)
