"""
Certificates: keys and certificates in options, as text, as bytes or in files, and the self-signed pair.  A wrong one is
an error when the context is made, and no error shows a key.
"""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.certificates import DAY
from tests.tls.handshakes import (
    NAME,
    OTHER,
    SERVER,
    TRUSTED,
    Handshake,
    refusal,
    secure,
)

pytestmark = pytest.mark.filterwarnings("error")


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

    def test_a_certificate_with_a_key_that_is_not_read_is_refused(self) -> None:
        der = SERVER.certificate.public_bytes(serialization.Encoding.DER)
        curve = bytes.fromhex("06082a8648ce3d030107")  # prime256v1
        assert der.count(curve) == 1
        strange = x509.load_der_x509_certificate(der.replace(curve, curve[:-1] + b"\x63"))
        pem = strange.public_bytes(serialization.Encoding.PEM)
        assert "option key is PEM text, it wants the private key of" in refusal(key=SERVER.key, cert=pem)

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
