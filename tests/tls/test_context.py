"""
Contexts: what L{SecureContext} makes of every option of TLS, tried in handshakes.  A wrong value is an error when the
context is made, and the error names the option.
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import x25519
from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from smtphooks.errors import OptionError
from smtphooks.tls.context import SecureContext
from smtphooks.tls.failure import explainHandshakeFailure
from smtphooks.tls.peer import describe, serverName, verifiedCertificate
from tests.certificates import DAY, Authority, Pair, rsaKey
from tests.tls.handshakes import (
    ALICE,
    FOREIGN,
    NAME,
    OTHER,
    SERVER,
    TRUSTED,
    Handshake,
    advance,
    clientContext,
    move,
    refusal,
    secure,
)

pytestmark = pytest.mark.filterwarnings("error")


class TestCertificates:
    def test_the_whole_chain_is_sent(self) -> None:
        middle = Authority("Intermediate", TRUSTED)
        shaken = Handshake(secure(middle.server(NAME)), trust=TRUSTED)
        assert shaken.error is None
        assert shaken.clientError is None
        assert len(shaken.client.get_peer_cert_chain() or ()) == 2

    def test_an_rsa_key_serves_too(self) -> None:
        pair = TRUSTED.server(NAME, key=rsaKey())
        shaken = Handshake(secure(pair), highest=SSL.TLS1_2_VERSION)
        assert shaken.certificate == pair.certificate
        assert describe(shaken.server) == (
            "ECDHE-RSA-AES256-GCM-SHA384",
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            "TLSv1.2",
        )

    def test_a_key_that_cannot_sign_is_refused(self) -> None:
        pair = TRUSTED.server(NAME, key=x25519.X25519PrivateKey.generate())
        assert refusal(key=pair.key, cert=pair.cert).startswith("option cert is refused by OpenSSL (unknown cert")

    def test_a_key_of_a_kind_that_pyopenssl_does_not_take_is_refused(self) -> None:
        mldsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.mldsa")
        pair = TRUSTED.server(NAME, key=mldsa.MLDSA65PrivateKey.generate())
        assert "option cert is refused by OpenSSL (a key of an unknown kind)" in refusal(key=pair.key, cert=pair.cert)

    def test_a_key_too_weak_for_openssl_is_refused(self) -> None:
        pair = TRUSTED.server(NAME, key=rsaKey(1024))
        assert "option cert is refused by OpenSSL (ee key too small)" in refusal(key=pair.key, cert=pair.cert)


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
        strict = secure(ciphers="ALL:@SECLEVEL=5")  # wants more than 256 bits of an elliptic curve
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
        gc.disable()  # a cycle would keep connections until the next collection
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
    """Sends back what it receives, and keeps the reason of its end."""

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
