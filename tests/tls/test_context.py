"""
TLS: handshakes in memory between an OpenSSL client and what L{SecureContext} makes, for every option; what is wrong
is said when the context is made, and names the option.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import shutil
import subprocess
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel, globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from smtphooks.errors import OptionError
from smtphooks.options import Options
from smtphooks.tls.certificates import selfSigned
from smtphooks.tls.context import (
    SecureContext,
    describe,
    explainHandshakeFailure,
    exporter,
    identityOf,
    serverName,
    verifiedCertificate,
)
from smtphooks.tls.handshake import standardName
from tests.certificates import DAY, Authority, Pair, rsaKey

pytestmark = pytest.mark.filterwarnings("error")

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
        # With TLS 1.3 the client believes itself done before the server has judged it.
        self.clientError = self.clientError or advance(self.client, lambda: self.client.recv(1))

    @property
    def explanation(self) -> str:
        assert self.error is not None
        return explainHandshakeFailure(self.error, self.server)

    @property
    def certificate(self) -> x509.Certificate:
        """The one that the client was given."""
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


@pytest.fixture
def warnings() -> Any:
    """What is logged as a warning."""
    events: list[str] = []

    def observe(event: Any) -> None:
        if event["log_level"] is LogLevel.warn:
            events.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(observe)
    selfSigned.cache_clear()
    yield events
    globalLogPublisher.removeObserver(observe)


class TestFiles:
    def test_key_and_cert_may_be_text_or_bytes_or_paths(self, tmp_path: Path) -> None:
        files = SERVER.writeTo(tmp_path)
        for given in (
            {"key": SERVER.key, "cert": SERVER.cert},
            {"key": SERVER.key.encode(), "cert": SERVER.cert.encode()},
            files,
            {option: path.encode() for option, path in files.items()},
        ):
            assert Handshake(secure(None, **given)).certificate == SERVER.certificate

    def test_the_whole_chain_is_sent(self) -> None:
        middle = Authority("Intermediate", TRUSTED)
        shaken = Handshake(secure(middle.server(NAME)), trust=TRUSTED)
        assert shaken.error is None
        assert shaken.clientError is None
        assert len(shaken.client.get_peer_cert_chain() or ()) == 2

    def test_key_and_certificates_may_stand_in_one_file(self, tmp_path: Path) -> None:
        path = tmp_path / "both.pem"
        path.write_text(SERVER.cert + SERVER.key)
        assert Handshake(secure(None, key=str(path), cert=str(path))).certificate == SERVER.certificate

    def test_a_key_of_openssl_with_its_parameters_is_read(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        traditional = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
        pair = TRUSTED.server(NAME, key=key)
        context = secure(None, key=parameters + traditional, cert=pair.cert)
        assert Handshake(context).certificate == pair.certificate

    def test_an_rsa_key_serves_too(self) -> None:
        pair = TRUSTED.server(NAME, key=rsaKey())
        shaken = Handshake(secure(pair), highest=SSL.TLS1_2_VERSION)
        assert shaken.certificate == pair.certificate
        assert describe(shaken.server) == (
            "ECDHE-RSA-AES256-GCM-SHA384",
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            "TLSv1.2",
        )

    @pytest.mark.parametrize("option", ["key", "cert", "ca"])
    def test_a_missing_file_is_named_with_its_option(self, option: str) -> None:
        given = {"key": SERVER.key, "cert": SERVER.cert, option: "/nowhere/file.pem"}
        assert refusal(**given) == (
            f"option {option} is '/nowhere/file.pem' (No such file or directory),"
            " it wants PEM text or the path of a PEM file"
        )

    def test_a_path_that_can_be_none_is_refused(self) -> None:
        assert "option key is 'a\\x00b' (no path)" in refusal(key="a\0b", cert=SERVER.cert)

    def test_a_file_without_what_it_should_hold_is_refused(self, tmp_path: Path) -> None:
        files = SERVER.writeTo(tmp_path)
        swapped = {"key": files["cert"], "cert": files["key"]}
        assert refusal(**swapped).startswith(f"option key is '{files['cert']}' (no private key in it), it wants PEM")
        assert refusal(key=SERVER.key, cert=files["key"]).startswith(
            f"option cert is '{files['key']}' (no readable certificate in it), it wants PEM"
        )
        assert "option ca is PEM text (no readable" in refusal(key=SERVER.key, cert=SERVER.cert, ca=SERVER.key)

    def test_a_damaged_key_is_refused(self) -> None:
        lines = SERVER.key.splitlines()
        damaged = "\n".join([lines[0], lines[1][:40], *lines[2:]])
        assert refusal(key=damaged, cert=SERVER.cert).startswith("option key is PEM text (damaged, or of an unknown")

    def test_an_encrypted_key_is_refused_with_a_clear_sentence(self, tmp_path: Path) -> None:
        path = tmp_path / "locked.key"
        path.write_bytes(SERVER.keyPEM(b"secret"))
        assert refusal(key=str(path), cert=SERVER.cert) == (
            f"option key is '{path}' (encrypted), it wants a key without a passphrase"
        )

    def test_a_key_of_another_certificate_is_refused(self, tmp_path: Path) -> None:
        files = SERVER.writeTo(tmp_path)
        assert refusal(key=OTHER.key, cert=files["cert"]) == (
            "option key is PEM text, it wants the private key of the first certificate in option cert"
            f" ('{files['cert']}')"
        )

    def test_a_key_that_cannot_sign_is_refused(self) -> None:
        pair = TRUSTED.server(NAME, key=x25519.X25519PrivateKey.generate())
        assert refusal(key=pair.key, cert=pair.cert).startswith("option cert is refused by OpenSSL (unknown cert")

    def test_a_key_of_a_kind_that_pyopenssl_does_not_take_is_refused(self) -> None:
        mldsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.mldsa")
        pair = TRUSTED.server(NAME, key=mldsa.MLDSA65PrivateKey.generate())
        assert "option cert is refused by OpenSSL (a key of an unknown kind)" in refusal(key=pair.key, cert=pair.cert)

    def test_a_certificate_with_a_key_that_is_not_read_is_refused(self) -> None:
        der = SERVER.certificate.public_bytes(serialization.Encoding.DER)
        curve = bytes.fromhex("06082a8648ce3d030107")  # prime256v1
        assert der.count(curve) == 1
        strange = x509.load_der_x509_certificate(der.replace(curve, curve[:-1] + b"\x63"))
        pem = strange.public_bytes(serialization.Encoding.PEM)
        assert "option key is PEM text, it wants the private key of" in refusal(key=SERVER.key, cert=pem)

    def test_a_key_too_weak_for_openssl_is_refused(self) -> None:
        pair = TRUSTED.server(NAME, key=rsaKey(1024))
        assert "option cert is refused by OpenSSL (ee key too small)" in refusal(key=pair.key, cert=pair.cert)

    def test_no_error_shows_a_key(self) -> None:
        der = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        bare = "".join(
            line
            for line in TRUSTED.server(NAME, key=serialization.load_der_private_key(der, None)).key.splitlines()[1:-1]
        )
        for key in (bare, bare.encode(), bare[:50] + "\n" + bare[50:], f"PRIVATE {bare}\n"):
            text = refusal(key=key, cert=SERVER.cert)
            assert text.startswith("option key is text that is no PEM")
            assert bare[:20] not in text


class TestSelfSigned:
    def test_without_a_certificate_one_is_made_on_first_use_with_one_warning(self, warnings: list[str]) -> None:
        first, second = secure(None), secure(None)
        assert warnings == []
        certificate = Handshake(first).certificate
        assert Handshake(first).certificate == Handshake(second).certificate == certificate
        assert warnings == [
            f"no certificate for {NAME}: TLS uses a self-signed one that no client can verify;"
            " set the options key and cert"
        ]

    def test_it_bears_the_name_and_is_valid_from_an_hour_ago_for_a_year(self, warnings: list[str]) -> None:
        certificate = Handshake(secure(None)).certificate
        now = datetime.datetime.now(datetime.timezone.utc)
        age = now - certificate.not_valid_before_utc
        assert datetime.timedelta(minutes=59) < age < datetime.timedelta(minutes=62)
        assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == 365 * DAY
        assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == NAME
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [NAME, "localhost"]
        assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp256r1"

    def test_any_name_that_the_option_takes_will_do(self, warnings: list[str]) -> None:
        for name in ("localhost", "[192.0.2.1]", "a" * 200 + ".example.org", "under_score"):
            assert Handshake(secure(None, name=name)).error is None
        assert len(warnings) == 4

    def test_a_real_pair_makes_none(self, warnings: list[str]) -> None:
        context = secure(None)
        context.update(key=SERVER.key, cert=SERVER.cert)
        assert Handshake(context).certificate == SERVER.certificate
        assert warnings == []

    def test_other_options_are_checked_before_it_is_made(self, warnings: list[str]) -> None:
        assert "option ciphers" in refusal(ciphers="NONSENSE")
        assert warnings == []


class TestVersionsAndCiphers:
    @pytest.mark.parametrize(
        ("given", "highest", "version"),
        [
            ({}, SSL.TLS1_3_VERSION, "TLSv1.3"),
            ({}, SSL.TLS1_2_VERSION, "TLSv1.2"),
            ({}, SSL.TLS1_1_VERSION, None),
            ({"minVersion": "TLSv1.3"}, SSL.TLS1_2_VERSION, None),
            ({"minVersion": "TLSv1.3"}, SSL.TLS1_3_VERSION, "TLSv1.3"),
            ({"minVersion": "TLSv1.1"}, SSL.TLS1_1_VERSION, "TLSv1.1"),
            ({"minVersion": "TLSv1.1"}, SSL.TLS1_VERSION, None),
            ({"minVersion": "TLSv1"}, SSL.TLS1_VERSION, "TLSv1"),
            ({"minVersion": "TLSv1", "maxVersion": "TLSv1.1"}, SSL.TLS1_3_VERSION, "TLSv1.1"),
            ({"maxVersion": "TLSv1.2"}, SSL.TLS1_3_VERSION, "TLSv1.2"),
            ({"maxVersion": "TLSv1.3"}, SSL.TLS1_3_VERSION, "TLSv1.3"),
        ],
    )
    def test_versions_from_min_version_to_max_version_are_spoken(
        self, given: dict[str, str], highest: int, version: str | None
    ) -> None:
        shaken = Handshake(secure(**given), lowest=SSL.TLS1_VERSION, highest=highest)
        if version is None:
            assert shaken.explanation == "no version of TLS in common with the client (unsupported protocol)"
        else:
            assert shaken.error is None
            assert describe(shaken.server).version == version

    def test_only_the_given_ciphers_are_spoken(self) -> None:
        context = secure(ciphers="ECDHE-ECDSA-CHACHA20-POLY1305")
        shaken = Handshake(context, highest=SSL.TLS1_2_VERSION)
        assert describe(shaken.server) == (
            "ECDHE-ECDSA-CHACHA20-POLY1305",
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            "TLSv1.2",
        )
        other = Handshake(context, highest=SSL.TLS1_2_VERSION, ciphers=b"ECDHE-ECDSA-AES256-GCM-SHA384")
        assert other.explanation == "no cipher in common with the client (no shared cipher)"

    def test_the_servers_order_of_ciphers_counts(self) -> None:
        mine = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384"
        theirs = b"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256"
        shaken = Handshake(secure(ciphers=mine), highest=SSL.TLS1_2_VERSION, ciphers=theirs)
        assert describe(shaken.server).name == "ECDHE-ECDSA-AES128-GCM-SHA256"

    def test_suites_of_TLSv1_3_are_chosen_by_their_names(self) -> None:
        context = secure(ciphers="TLS_CHACHA20_POLY1305_SHA256, ECDHE+AESGCM")
        assert describe(Handshake(context).server).name == "TLS_CHACHA20_POLY1305_SHA256"
        assert describe(Handshake(context, highest=SSL.TLS1_2_VERSION).server).version == "TLSv1.2"
        assert Handshake(context, lowest=SSL.TLS1_3_VERSION, suites=b"TLS_AES_256_GCM_SHA384").error is not None
        only = secure(ciphers="TLS_AES_128_GCM_SHA256", minVersion="TLSv1.3")
        assert describe(Handshake(only).server).name == "TLS_AES_128_GCM_SHA256"

    def test_suites_of_TLSv1_3_alone_leave_TLSv1_2_without_a_cipher(self) -> None:
        assert refusal(ciphers="TLS_AES_128_GCM_SHA256") == (
            "option ciphers is 'TLS_AES_128_GCM_SHA256',"
            " it wants a cipher for TLSv1.2 too, or minVersion TLSv1.3 with it"
        )

    def test_the_security_level_of_openssl_is_kept(self) -> None:
        assert Handshake(secure(ciphers="@SECLEVEL=2")).error is None
        strict = secure(ciphers="ALL:@SECLEVEL=5")  # asks for more than the 256 bits of an elliptic curve's key
        assert Handshake(strict, highest=SSL.TLS1_2_VERSION).error is not None

    @pytest.mark.parametrize("ciphers", ["NONSENSE", "ALL:@SECLEVEL=x", "TLS_NONSENSE:ALL", "ALL:é", "!ALL"])
    def test_ciphers_that_openssl_does_not_know_are_refused(self, ciphers: str) -> None:
        for given in ({}, {"key": SERVER.key, "cert": SERVER.cert}):
            assert refusal(ciphers=ciphers, **given) == (
                f"option ciphers is {ciphers!r}, it wants a list of ciphers that OpenSSL knows"
            )

    def test_an_offer_of_ALPN_is_ignored(self) -> None:
        shaken = Handshake(secure(), alpn=[b"smtp", b"http/1.1"])
        assert shaken.error is None
        assert shaken.client.get_alpn_proto_negotiated() == b""

    def test_renegotiation_is_refused(self) -> None:
        shaken = Handshake(secure(), highest=SSL.TLS1_2_VERSION)
        shaken.client.renegotiate()
        advance(shaken.client)
        move(shaken.client, shaken.server)
        finished = shaken.server.get_finished()
        advance(shaken.server, lambda: shaken.server.recv(1))
        move(shaken.server, shaken.client)
        error = advance(shaken.client)
        assert error is not None
        assert "no renegotiation" in repr(error)
        assert shaken.server.get_finished() == finished


class TestClientCertificates:
    def ask(self, pair: Pair | None, **given: Any) -> Handshake:
        return Handshake(secure(**{"requestCert": True, "ca": TRUSTED.pem, **given}), pair=pair)

    def test_none_is_asked_for_without_request_cert(self) -> None:
        shaken = Handshake(secure(ca=TRUSTED.pem), pair=ALICE)
        assert shaken.error is None
        assert shaken.server.get_peer_certificate() is None
        assert verifiedCertificate(shaken.server) is None

    @pytest.mark.parametrize("highest", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
    @pytest.mark.parametrize("rejectUnauthorized", [True, False])
    def test_one_signed_by_ca_is_verified(self, rejectUnauthorized: bool, highest: int) -> None:
        context = secure(requestCert=True, ca=TRUSTED.pem, rejectUnauthorized=rejectUnauthorized)
        shaken = Handshake(context, pair=ALICE, highest=highest)
        assert shaken.error is None
        assert verifiedCertificate(shaken.server) == ALICE.certificate

    def test_one_signed_through_an_intermediate_is_verified(self) -> None:
        pair = Authority("Intermediate", TRUSTED).client("alice")
        assert verifiedCertificate(self.ask(pair).server) == pair.certificate

    def test_ca_may_hold_several(self) -> None:
        pair = FOREIGN.client("bob")
        assert verifiedCertificate(self.ask(pair, ca=TRUSTED.pem + FOREIGN.pem).server) == pair.certificate

    def test_the_client_is_told_the_names_of_the_authorities(self) -> None:
        shaken = self.ask(ALICE)
        try:
            sent = [name.rfc4514_string() for name in shaken.client.get_client_ca_list(as_cryptography=True)]
        except TypeError:  # pyOpenSSL before 26
            sent = [f"CN={name.CN}" for name in shaken.client.get_client_ca_list()]
        assert sent == ["CN=Test authority"]

    @pytest.mark.parametrize(
        ("pair", "why"),
        [
            (None, "the client gave no certificate (peer did not return a certificate)"),
            (
                FOREIGN.client("mallory"),
                "the client's certificate is not accepted (unable to get issuer certificate locally)",
            ),
            (TRUSTED.client("old", end=-DAY / 2), "the client's certificate is not accepted (certificate has expired)"),
            (
                TRUSTED.client("early", begin=DAY),
                "the client's certificate is not accepted (certificate not yet valid)",
            ),
            (SERVER, "the client's certificate is not accepted (invalid purpose)"),
        ],
        ids=["none", "foreign", "expired", "not yet valid", "a server's"],
    )
    def test_any_other_fails_the_handshake_unless_reject_unauthorized_is_off(self, pair: Pair | None, why: str) -> None:
        shaken = self.ask(pair)
        assert shaken.explanation == why
        assert shaken.clientError is not None
        assert verifiedCertificate(shaken.server) is None
        lenient = self.ask(pair, rejectUnauthorized=False)
        assert lenient.error is lenient.clientError is None
        assert verifiedCertificate(lenient.server) is None
        given = lenient.server.get_peer_certificate(as_cryptography=True)
        assert given == (pair and pair.certificate)

    def test_without_ca_the_systems_trust_roots_count(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "roots.pem"
        path.write_text(TRUSTED.pem)
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        assert verifiedCertificate(self.ask(ALICE, ca=None).server) == ALICE.certificate
        assert "locally" in self.ask(FOREIGN.client("mallory"), ca=None).explanation
        assert self.ask(FOREIGN.client("mallory"), ca=None, rejectUnauthorized=False).error is None

    @pytest.mark.parametrize("highest", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
    def test_a_session_is_never_resumed_so_that_every_client_is_verified(self, highest: int) -> None:
        secured = secure(requestCert=True, ca=TRUSTED.pem)
        context = clientContext(ALICE, highest=highest)
        first = Handshake(secured, context=context)
        session = first.client.get_session()
        assert session is not None
        again = SSL.Connection(context, None)
        again.set_session(session)
        again.set_connect_state()
        server = secured.serverConnectionForTLS(None)  # type: ignore[arg-type]
        server.set_accept_state()
        for _ in range(4):
            assert advance(again) is None
            move(again, server)
            assert advance(server) is None
            move(server, again)
        assert verifiedCertificate(server) == ALICE.certificate
        assert server.master_key() != first.server.master_key()

    def test_a_certificate_that_openssl_reads_and_cryptography_does_not_is_none(self) -> None:
        class Strange(SSL.Connection):
            def get_peer_certificate(self, **given: Any) -> Any:
                raise ValueError("not for cryptography")

        shaken = self.ask(ALICE)
        shaken.server.__class__ = Strange
        assert verifiedCertificate(shaken.server) is None


class TestServerNames:
    def hosts(self, **own: Any) -> SecureContext:
        wildcard = TRUSTED.server("*.example.org")
        self.wildcard = wildcard.certificate
        return secure(
            sniOptions={
                "Other.Example.Org": {"key": OTHER.key, "cert": OTHER.cert, **own},
                "*.example.org.": {"key": wildcard.key, "cert": wildcard.cert},
            }
        )

    @pytest.mark.parametrize("highest", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
    def test_the_exact_name_wins_then_the_wildcard_then_the_main_certificate(self, highest: int) -> None:
        context = self.hosts()
        expected = {
            b"other.example.org": OTHER.certificate,
            b"OTHER.EXAMPLE.ORG": OTHER.certificate,
            b"any.example.org": self.wildcard,
            b"two.labels.example.org": SERVER.certificate,
            b"example.org": SERVER.certificate,
            b".example.org": SERVER.certificate,
            b"*.example.org": SERVER.certificate,
            b"": SERVER.certificate,
            b"localhost": SERVER.certificate,
        }
        for name, certificate in expected.items():
            assert Handshake(context, name, highest=highest).certificate == certificate, name

    def test_the_name_that_the_client_asked_for_is_known(self) -> None:
        context = self.hosts()
        assert serverName(Handshake(context, b"Any.Example.Org").server) == "any.example.org"
        assert serverName(Handshake(context, b"unknown.example.net").server) == "unknown.example.net"
        assert serverName(Handshake(context).server) is None

    @pytest.mark.parametrize(
        "name", [b"a\r\nb", b"a b", b"\xff\xfe", "bücher.example".encode(), b"a\x1b[31m", b"*.example.org", b"-." * 127]
    )
    def test_a_hostile_name_is_none(self, name: bytes) -> None:
        shaken = Handshake(self.hosts(), name)
        assert shaken.certificate == SERVER.certificate
        assert serverName(shaken.server) is None

    def test_with_no_main_certificate_names_still_have_theirs(self, warnings: list[str]) -> None:
        context = secure(None, sniOptions={"other.example.org": {"key": OTHER.key, "cert": OTHER.cert}})
        assert Handshake(context, b"other.example.org").certificate == OTHER.certificate
        assert Handshake(context).certificate.subject == Handshake(context).certificate.issuer

    def test_a_name_may_ask_for_client_certificates_of_its_own(self) -> None:
        context = self.hosts(requestCert=True, ca=FOREIGN.pem)
        bob = FOREIGN.client("bob")
        assert verifiedCertificate(Handshake(context, b"other.example.org", pair=bob).server) == bob.certificate
        assert "locally" in Handshake(context, b"other.example.org", pair=ALICE).explanation
        assert Handshake(context, b"any.example.org", pair=bob).server.get_peer_certificate() is None

    def test_a_name_may_ask_for_none_where_the_main_options_do(self) -> None:
        own = {"key": OTHER.key, "cert": OTHER.cert}
        context = secure(
            requestCert=True, ca=TRUSTED.pem, sniOptions={"a.test": {**own, "requestCert": False}, "b.test": own}
        )
        assert Handshake(context).error is not None
        assert Handshake(context, b"a.test").error is None
        assert Handshake(context, b"b.test").error is not None
        assert verifiedCertificate(Handshake(context, b"b.test", pair=ALICE).server) == ALICE.certificate

    def test_a_name_may_have_ciphers_of_its_own(self) -> None:
        context = self.hosts(ciphers="ECDHE-ECDSA-AES128-GCM-SHA256")
        narrow = Handshake(context, b"other.example.org", highest=SSL.TLS1_2_VERSION)
        assert describe(narrow.server).name == "ECDHE-ECDSA-AES128-GCM-SHA256"
        main = Handshake(context, highest=SSL.TLS1_2_VERSION)
        assert describe(main.server).name == "ECDHE-ECDSA-AES256-GCM-SHA384"

    def test_a_name_may_want_a_later_version(self) -> None:
        context = self.hosts(minVersion="TLSv1.3")
        refused = Handshake(context, b"other.example.org", highest=SSL.TLS1_2_VERSION)
        assert refused.error is not None
        assert "handshake failure" in repr(refused.clientError)
        assert Handshake(context, b"other.example.org").certificate == OTHER.certificate
        assert Handshake(context, highest=SSL.TLS1_2_VERSION).certificate == SERVER.certificate

    @pytest.mark.parametrize(
        ("name", "own", "text"),
        [
            ("a.test", {"kye": ""}, "in sniOptions of a.test: unknown option kye, did you mean key?"),
            ("a.test", {"name": "x"}, "in sniOptions of a.test: unknown option name"),
            ("a.test", {"key": None}, "in sniOptions of a.test: option key is missing, it wants to be given for each"),
            ("a.test", {"cert": None}, "in sniOptions of a.test: option cert is missing"),
            ("a.test", {"key": "/no"}, "in sniOptions of a.test: option key is '/no' (No such file or directory)"),
            (
                "a.test",
                {"key": SERVER.key},
                "in sniOptions of a.test: option key is PEM text, it wants the private key",
            ),
            (
                "a.test",
                {"requestCert": "yes"},
                "in sniOptions of a.test: option requestCert is 'yes', it wants True or",
            ),
            (
                "a.test",
                {"minVersion": "TLSv1.1"},
                "in sniOptions of a.test: option minVersion is TLSv1.1, it wants the main TLSv1.2 or more: TLS agrees",
            ),
            (
                "a.test",
                {"maxVersion": "TLSv1.2"},
                "in sniOptions of a.test: option maxVersion is TLSv1.2, it wants the main None: TLS agrees",
            ),
            (
                "a.test",
                {"ciphers": "ALL:TLS_AES_128_GCM_SHA256"},
                "in sniOptions of a.test: option ciphers is 'ALL:TLS_AES_128_GCM_SHA256', it wants ciphers of TLSv1.2",
            ),
            ("a b", {}, "in sniOptions of a b: the name is 'a b', it wants a host name such as"),
            ("a.*.test", {}, "in sniOptions of a.*.test: the name is 'a.*.test', it wants"),
            ("*", {}, "in sniOptions of *: the name is '*', it wants"),
            ("FIRST.test", {}, "in sniOptions of FIRST.test: the name is 'FIRST.test', it wants a host name such as"),
        ],
    )
    def test_what_is_wrong_in_sni_options_is_named_with_the_host(self, name: str, own: Any, text: str) -> None:
        pair = {"key": OTHER.key, "cert": OTHER.cert}
        assert refusal(sniOptions={"first.test": pair, name: {**pair, **own}}).startswith(text)


class TestUpdate:
    def test_new_handshakes_use_the_new_certificate_and_connections_go_on(self) -> None:
        context = secure()
        before = Handshake(context)
        context.update(key=OTHER.key, cert=OTHER.cert)
        assert Handshake(context).certificate == OTHER.certificate
        assert context.options.cert == OTHER.cert
        before.client.send(b"still here")
        move(before.client, before.server)
        assert before.server.recv(100) == b"still here"

    def test_without_arguments_the_files_are_read_again(self, tmp_path: Path) -> None:
        context = secure(None, **SERVER.writeTo(tmp_path), sniOptions={"other.test": OTHER.writeTo(tmp_path, "other")})
        renewed, renewedOther = TRUSTED.server(NAME), TRUSTED.server("other.test")
        renewed.writeTo(tmp_path)
        renewedOther.writeTo(tmp_path, "other")
        assert Handshake(context).certificate == SERVER.certificate
        context.update()
        assert Handshake(context).certificate == renewed.certificate
        assert Handshake(context, b"other.test").certificate == renewedOther.certificate

    def test_a_broken_new_file_leaves_the_old_in_force(self, tmp_path: Path) -> None:
        files = SERVER.writeTo(tmp_path)
        context = secure(None, **files)
        Path(files["cert"]).write_text("half a certifi")
        with pytest.raises(OptionError, match="no readable certificate"):
            context.update()
        assert Handshake(context).certificate == SERVER.certificate

    @pytest.mark.parametrize(
        ("given", "text"),
        [
            ({"cert": OTHER.cert}, "the private key of"),
            ({"key": None}, "option cert is given without key"),
            ({"key": OTHER.key, "cert": OTHER.cert, "ca": "/no/such"}, "option ca is '/no/such'"),
            ({"sniOptions": {"a.test": {}}}, "in sniOptions of a.test: option key is missing"),
            ({"minVersion": "TLSv9"}, "option minVersion is 'TLSv9'"),
            ({"ciphers": "NONSENSE"}, "option ciphers is 'NONSENSE'"),
            ({"size": 3}, "unknown TLS option size"),
            ({"certs": OTHER.cert}, "unknown TLS option certs, did you mean cert?"),
        ],
    )
    def test_a_wrong_update_leaves_all_as_it_was(self, given: dict[str, Any], text: str) -> None:
        context = secure()
        options = context.options
        with pytest.raises(OptionError) as caught:
            context.update(**given)
        assert text in str(caught.value)
        assert context.options is options
        assert Handshake(context).certificate == SERVER.certificate

    def test_every_option_of_TLS_may_be_updated(self) -> None:
        context = secure()
        context.update(
            key=OTHER.key,
            cert=OTHER.cert,
            ca=TRUSTED.pem,
            requestCert=True,
            rejectUnauthorized=False,
            minVersion="TLSv1.2",
            maxVersion="TLSv1.2",
            ciphers="ECDHE-ECDSA-AES128-GCM-SHA256",
            sniOptions={"a.test": {"key": SERVER.key, "cert": SERVER.cert}},
        )
        shaken = Handshake(context, b"a.test", pair=ALICE)
        assert shaken.certificate == SERVER.certificate
        assert verifiedCertificate(shaken.server) == ALICE.certificate
        assert describe(shaken.server)[::2] == ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLSv1.2")


class TestMemory:
    def test_two_hundred_handshakes_leave_no_connection_alive(self) -> None:
        own = {"key": OTHER.key, "cert": OTHER.cert, "minVersion": "TLSv1.3"}
        context = secure(requestCert=True, rejectUnauthorized=False, ca=TRUSTED.pem, sniOptions={"a.test": own})
        shape = clientContext(ALICE)
        old = clientContext(highest=SSL.TLS1_2_VERSION)
        gc.disable()  # nothing may hang on a cycle either
        try:
            alive = [
                weakref.ref(Handshake(context, name, context=client).server)
                for client in (shape, old)
                for name in (b"a.test", b"") * 50
            ]
            assert [reference for reference in alive if reference() is not None] == []
        finally:
            gc.enable()

    def test_what_an_update_replaced_is_freed_when_its_last_connection_is(self) -> None:
        context = secure(sniOptions={"a.test": {"key": OTHER.key, "cert": OTHER.cert}})
        shaken = Handshake(context, b"a.test")
        old = weakref.ref(shaken.server.get_context())
        context.update()
        gc.collect()
        assert old() is not None
        del shaken
        gc.collect()
        assert old() is None


class Echo(Protocol):
    """Sends back what it gets, and keeps the reason of its end."""

    reason: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.reason = reason


class TestWithTwisted:
    def begin(self, context: SecureContext) -> tuple[Any, StringTransport, Clock]:
        clock = Clock()
        factory = TLSMemoryBIOFactory(context, False, ServerFactory.forProtocol(Echo), clock)
        wrapper = factory.buildProtocol(None)  # type: ignore[arg-type]
        transport = StringTransport()
        wrapper.makeConnection(transport)
        return wrapper, transport, clock

    def test_it_is_what_twisted_wants_to_begin_TLS_with(self) -> None:
        assert verifyObject(IOpenSSLServerConnectionCreator, secure())

    def test_twisteds_TLS_layer_speaks_through_it(self) -> None:
        context = secure(sniOptions={"a.test": {"key": OTHER.key, "cert": OTHER.cert}})
        wrapper, transport, clock = self.begin(context)
        client = SSL.Connection(clientContext(alpn=[b"smtp"]), None)
        client.set_tlsext_host_name(b"a.test")
        client.set_connect_state()
        for _ in range(3):
            advance(client)
            with contextlib.suppress(SSL.WantReadError):
                wrapper.dataReceived(client.bio_read(1 << 20))
            if transport.value():
                client.bio_write(transport.value())
                transport.clear()
        client.send(b"hello")
        wrapper.dataReceived(client.bio_read(1 << 20))
        clock.advance(0)
        client.bio_write(transport.value())
        assert client.recv(100) == b"hello"
        assert serverName(wrapper.getHandle()) == "a.test"
        assert client.get_peer_certificate(as_cryptography=True) == OTHER.certificate

    def test_plain_SMTP_on_a_TLS_port_ends_with_an_explanation(self) -> None:
        wrapper, transport, _ = self.begin(secure())
        echo = wrapper.wrappedProtocol
        wrapper.dataReceived(b"EHLO client.example.org\r\n")
        assert transport.disconnecting
        wrapper.connectionLost(Failure(ConnectionDone()))
        assert explainHandshakeFailure(echo.reason) == (
            "the client did not speak TLS (plain SMTP on a TLS port?) (wrong version number)"
        )


class TestQuestions:
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
    def test_a_certificate_stands_for_its_one_mail_address_else_its_one_common_name(
        self, certificate: Pair, identity: str | None
    ) -> None:
        assert identityOf(certificate.certificate) == identity

    def test_a_certificate_with_broken_names_stands_for_nobody(self) -> None:
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
    def test_IAN_as_names(self, name: str, standard: str) -> None:
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
        # That OpenSSL need not be the program's; what both have is the rule's, and no name of it comes out twice.
        assert len({standardName(name) for name in here}) == len(here)


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
