"""Why a handshake failed: every known way has its line for the operator."""

from __future__ import annotations

import pytest
from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from smtphooks.tls.failure import explainHandshakeFailure
from tests.certificates import DAY
from tests.tls.handshakes import (
    FOREIGN,
    NAME,
    TRUSTED,
    Handshake,
    advance,
    secure,
)

pytestmark = pytest.mark.filterwarnings("error")


class TestExplanations:
    @pytest.mark.parametrize(
        ("sent", "text"),
        [
            (b"EHLO a\r\n", "the client did not speak TLS (plain SMTP on a TLS port?) (wrong version number)"),
            (b"QUIT\r\n", "the client did not speak TLS (plain SMTP on a TLS port?) (wrong version number)"),
            (b"GET / HTTP/1.1\r\n\r\n", "the client spoke HTTP, not TLS (http request)"),
            (b"CONNECT a:25 HTTP/1.1\r\n\r\n", "the client spoke HTTP, not TLS (https proxy request)"),
            (b"\x16\x03\x01\x00\x05hello", "TLS failed (unexpected message)"),
        ],
    )
    def test_what_is_no_TLS_is_told_apart(self, sent: bytes, text: str) -> None:
        server = secure().serverConnectionForTLS(None)  # type: ignore[arg-type]
        server.set_accept_state()
        server.bio_write(sent)
        error = advance(server)
        assert error is not None
        assert explainHandshakeFailure(error) == explainHandshakeFailure(Failure(error), server) == text

    def test_a_client_that_does_not_trust_us_is_told_apart(self) -> None:
        shaken = Handshake(secure(), trust=FOREIGN)
        assert shaken.explanation == "the client does not trust our certificate (tlsv1 alert unknown ca)"
        expired = Handshake(secure(TRUSTED.server(NAME, end=-DAY / 2)), trust=TRUSTED)
        assert expired.explanation.startswith("the client finds our certificate expired (")

    def test_a_refused_client_without_its_connection_is_explained_less(self) -> None:
        context = secure(requestCert=True, ca=TRUSTED.pem)
        error = Handshake(context, pair=FOREIGN.client("mallory")).error
        assert error is not None
        text = "the client's certificate is not accepted (certificate verify failed)"
        assert explainHandshakeFailure(error) == text

    @pytest.mark.parametrize(
        "error",
        [
            ConnectionDone(),
            ConnectionLost(),
            SSL.SysCallError(-1, "Unexpected EOF"),
            SSL.ZeroReturnError(),
            SSL.Error([]),
            SSL.Error([("SSL routines", "", "unexpected eof while reading")]),
        ],
    )
    def test_a_client_that_just_leaves_is_told_apart(self, error: Exception) -> None:
        assert explainHandshakeFailure(Failure(error)) == "the client left within the handshake"

    def test_a_client_that_was_cut_off_is_told_apart(self) -> None:
        assert explainHandshakeFailure(Failure(ConnectionAborted())) == "the client did not finish it in time"

    def test_anything_else_is_named_for_what_it_is(self) -> None:
        assert explainHandshakeFailure(ValueError("secret")) == "TLS failed (ValueError)"
        assert explainHandshakeFailure(SSL.Error([("a", "", "b"), ("c", "", "d")])) == "TLS failed (b: d)"
