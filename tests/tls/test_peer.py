"""Peers: names, certificate, identity, channel binding and cipher after a handshake."""

from __future__ import annotations

import shutil
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL

from smtphooks.session import Session
from smtphooks.tls.peer import (
    allowInvalid,
    describe,
    exporter,
    identityOf,
    record,
    requireValid,
    serverName,
    standardName,
    verifiedCertificate,
    verifyErrorOf,
)
from tests.certificates import Pair
from tests.tls.handshakes import (
    ALICE,
    SERVER,
    TRUSTED,
    Handshake,
    secure,
)

pytestmark = pytest.mark.filterwarnings("error")


class TestVerification:
    """The callbacks as OpenSSL calls them: for each error, and for each certificate from the root to the client's."""

    OK = SSL.X509VerificationCodes.OK
    EXPIRED = SSL.X509VerificationCodes.ERR_CERT_HAS_EXPIRED
    FOREIGN = SSL.X509VerificationCodes.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY

    @pytest.mark.parametrize(
        ("calls", "error", "isValid"),
        [
            ([], None, True),
            ([(OK, 1, 1)], None, True),
            ([(OK, 1, 1), (OK, 0, 1)], OK, True),
            ([(EXPIRED, 0, 0)], EXPIRED, False),
            ([(FOREIGN, 0, 0), (EXPIRED, 0, 0), (OK, 0, 1)], FOREIGN, False),
            ([(OK, 1, 1), (EXPIRED, 0, 0), (OK, 0, 1)], EXPIRED, False),
        ],
    )
    def test_the_first_error_is_kept_and_an_invalid_certificate_is_refused_or_allowed(
        self, calls: list[tuple[int, int, int]], error: int | None, isValid: bool
    ) -> None:
        for callback in (requireValid, allowInvalid):
            connection = secure().serverConnectionForTLS(None)  # type: ignore[arg-type]
            goOn = [callback(connection, None, *call) for call in calls]  # type: ignore[arg-type]
            assert verifyErrorOf(connection) == error
            assert all(goOn) is (isValid or callback is allowInvalid)

    def test_a_certificate_that_another_context_has_verified_is_not_believed(self) -> None:
        """An endpoint such as ssl: has a context of its own, whose callback may accept any certificate."""
        for callback in (lambda *verified: bool(verified[-1]), lambda *verified: True):
            theirs = SSL.Context(SSL.TLS_SERVER_METHOD)
            theirs.use_privatekey(SERVER.privateKey)
            theirs.use_certificate(SERVER.certificate)
            store = theirs.get_cert_store()
            assert store is not None
            store.add_cert(SSL.X509.from_cryptography(TRUSTED.certificate))
            theirs.set_verify(SSL.VERIFY_PEER, callback)
            endpoint = SimpleNamespace(serverConnectionForTLS=lambda protocol: SSL.Connection(theirs, None))  # noqa: B023
            shaken = Handshake(endpoint, pair=ALICE)  # type: ignore[arg-type]
            assert shaken.error is None
            assert shaken.server.get_peer_certificate(as_cryptography=True) == ALICE.certificate
            assert verifyErrorOf(shaken.server) is None
            assert verifiedCertificate(shaken.server) is None


class TestRecord:
    def test_a_session_says_all_that_the_handshake_showed(self) -> None:
        shaken = Handshake(secure(requestCert=True, ca=TRUSTED.pem), b"mail.example.org", pair=ALICE)
        session = Session("mx.test")
        record(shaken.server, session)
        assert session.secure
        assert session.tlsOptions == describe(shaken.server)
        assert session.servername == "mail.example.org"
        assert session.channelBinding is not None
        assert session.channelBinding == exporter(shaken.server)
        assert (session.peerCertificate, session.peerIdentity) == (ALICE.certificate, "alice")

    def test_a_client_without_a_certificate_has_no_identity(self) -> None:
        session = Session("mx.test", peerCertificate=ALICE.certificate, peerIdentity="alice")
        record(Handshake(secure()).server, session)
        assert (session.servername, session.peerCertificate, session.peerIdentity) == (None, None, None)


class TestPeer:
    def test_the_name_that_the_client_asked_for_is_known(self) -> None:
        context = secure()
        assert serverName(Handshake(context, b"Any.Example.Org").server) == "any.example.org"
        assert serverName(Handshake(context, b"unknown.example.net").server) == "unknown.example.net"
        assert serverName(Handshake(context).server) is None

    def test_a_certificate_that_openssl_reads_and_cryptography_does_not_is_none(self) -> None:
        class Strange(SSL.Connection):
            def get_peer_certificate(self, **given: Any) -> Any:
                raise ValueError("not for cryptography")

        shaken = Handshake(secure(requestCert=True, ca=TRUSTED.pem), pair=ALICE)
        assert verifiedCertificate(shaken.server) is not None
        shaken.server.__class__ = Strange
        assert verifiedCertificate(shaken.server) is None

    def test_the_exporter_is_the_clients_and_another_in_each_connection(self) -> None:
        first, second = Handshake(secure()), Handshake(secure())
        value = exporter(first.server)
        assert value is not None
        assert len(value) == 32
        assert value == first.client.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
        assert value == first.client.export_keying_material(b"EXPORTER-Channel-Binding", 32)
        assert value != exporter(second.server)

    def test_there_is_no_exporter_below_TLSv1_3_or_before_the_handshake_is_done(self) -> None:
        assert exporter(Handshake(secure(), highest=SSL.TLS1_2_VERSION).server) is None
        assert exporter(secure().serverConnectionForTLS(None)) is None  # type: ignore[arg-type]

    def test_before_the_handshake_there_is_no_cipher(self) -> None:
        assert describe(secure().serverConnectionForTLS(None))[:2] == ("(NONE)", "(NONE)")  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("certificate", "identity"),
        [
            (TRUSTED.issue("alice"), "alice"),
            (TRUSTED.issue("Alice Ay", emails=["alice@example.org"]), "alice@example.org"),
            (TRUSTED.issue("Alice", names=["host.example.org"]), "Alice"),
            (TRUSTED.issue("alice", emails=["a@example.org", "b@example.org"]), None),
            (TRUSTED.issue(), None),
            (TRUSTED.issue("alice", "root"), None),
            (TRUSTED.issue("alice\nroot"), None),
            (TRUSTED.issue(" alice"), None),
            (TRUSTED.issue(" "), None),
            (TRUSTED.issue("Jürgen"), "Jürgen"),
        ],
    )
    def test_the_identity_is_the_one_mail_address_else_the_one_common_name(
        self, certificate: Pair, identity: str | None
    ) -> None:
        assert identityOf(certificate.certificate) == identity

    def test_a_certificate_with_broken_names_is_no_identity(self) -> None:
        der = TRUSTED.issue("alice", emails=["alice@example.org"]).certificate.public_bytes(serialization.Encoding.DER)
        broken = der.replace(b"alice@example.org", b"alice\xff\xffxample.org")
        assert identityOf(x509.load_der_x509_certificate(broken)) is None

    @pytest.mark.parametrize(
        ("name", "standard"),
        [
            ("TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
            ("ECDHE-RSA-AES128-SHA", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"),
            ("AES256-SHA256", "TLS_RSA_WITH_AES_256_CBC_SHA256"),
            ("ADH-AES256-GCM-SHA384", "TLS_DH_anon_WITH_AES_256_GCM_SHA384"),
            ("DHE-PSK-AES256-CCM8", "TLS_PSK_DHE_WITH_AES_256_CCM_8"),
            ("ECDHE-ARIA256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_ARIA_256_GCM_SHA384"),
        ],
    )
    def test_suites_have_the_names_of_IANA(self, name: str, standard: str) -> None:
        assert standardName(name) == standard

    @pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl")
    def test_IANAs_names_are_those_of_openssl_for_every_cipher(self) -> None:
        command = ["openssl", "ciphers", "-stdname", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        theirs = {line.split()[2]: line.split()[0] for line in listed.splitlines()}
        assert len(theirs) > 100
        assert {name: standardName(name) for name in theirs} == theirs

        context = SSL.Context(SSL.TLS_METHOD)
        context.set_cipher_list(b"ALL:COMPLEMENTOFALL:@SECLEVEL=0")
        here = SSL.Connection(context, None).get_cipher_list()
        # The library may have other ciphers than the program; no two of them may get the same name.
        assert len({standardName(name) for name in here}) == len(here)
