"""SCRAM-SHA-256: the example of its RFC, an independent client, channel binding, and malformed messages."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramClient, ScramException, ScramMechanism

from smtphooks.replies import SMTPError
from smtphooks.sasl import scram
from smtphooks.sasl.auth import Auth, AuthResponse
from smtphooks.sasl.mechanisms import Mechanisms
from smtphooks.sasl.scram import ScramCredentials, ScramServer, UnknownUsers
from smtphooks.session import Session
from tests.secrets import SCRAM_PASSWORD, UNICODE_PASSWORD, WRONG_PASSWORD

BINDING = bytes(range(32))
CREDENTIALS = ScramCredentials(*ScramMechanism("SCRAM-SHA-256").make_auth_info(SCRAM_PASSWORD))
PLUS, PLAIN = "SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"


def b64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


class Client:
    """
    A client that follows RFC 5802 section 3, with any header and any binding.

    @ivar signature: what the server's last message must be.
    """

    def __init__(
        self, password: str = SCRAM_PASSWORD, username: str = "ann", header: str = "n,,", binding: bytes = b""
    ) -> None:
        self._password = password.encode()
        self._header, self._binding = header, binding
        self._bare = f"n={username},r=fyko+d2lbbFgONRv9qkxdawL"
        self.first = header + self._bare
        self.signature = ""

    def final(self, challenge: str, nonce: str | None = None, suffix: str = "") -> str:
        parts = dict(part.split("=", 1) for part in challenge.split(","))
        channel = b64(self._header.encode() + self._binding)
        message = f"c={channel},r={parts['r'] if nonce is None else nonce}{suffix}"
        salted = hashlib.pbkdf2_hmac("sha256", self._password, base64.b64decode(parts["s"]), int(parts["i"]))
        clientKey = hmac.digest(salted, b"Client Key", "sha256")
        signed = f"{self._bare},{challenge},{message}".encode()
        signature = hmac.digest(hashlib.sha256(clientKey).digest(), signed, "sha256")
        serverKey = hmac.digest(salted, b"Server Key", "sha256")
        self.signature = f"v={b64(hmac.digest(serverKey, signed, 'sha256'))}"
        self.proof = bytes(one ^ other for one, other in zip(clientKey, signature, strict=True))
        return f"{message},p={b64(self.proof)}"


def exchange(
    client: Client,
    binding: bytes | None = None,
    required: bool = False,
    credentials: ScramCredentials = CREDENTIALS,
    change: Callable[[str], str] = lambda final: final,
) -> str | None:
    """The server's last message, None if it refuses the client."""
    server = ScramServer(client.first, binding, required)
    final = server.verify(change(client.final(server.challenge(credentials))))
    assert final in (None, client.signature)
    return final


# --- Against others ---


def test_example_of_its_RFC_comes_true(monkeypatch: pytest.MonkeyPatch) -> None:
    # RFC 7677 section 3.
    nonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    marker = b"octets of the nonce"
    monkeypatch.setattr(scram.os, "urandom", lambda count: marker)
    monkeypatch.setattr(
        scram, "b64encode", lambda octets: nonce.encode() if octets == marker else base64.b64encode(octets)
    )
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    stored = ScramCredentials(*ScramMechanism("SCRAM-SHA-256").make_auth_info("pencil", 4096, salt))
    server = ScramServer("n,,n=user,r=rOprNGfwEbeRWgbNEkqO", None, required=False)
    assert server.username == "user"
    assert server.challenge(stored) == (
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    assert (
        server.verify(
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        )
        == "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    )


@pytest.mark.parametrize("password", [SCRAM_PASSWORD, UNICODE_PASSWORD.replace("\u00a0", "")])
@pytest.mark.parametrize("username", ["ann", "ann@a.example", "ann,joe=x", "\u00e4nn"])
@pytest.mark.parametrize("iterations", [4096, 8192])
def test_independent_client_and_server_accept_each_other(password: str, username: str, iterations: int) -> None:
    stored = ScramCredentials(*ScramMechanism("SCRAM-SHA-256").make_auth_info(password, iterations))
    client = ScramClient(["SCRAM-SHA-256"], username, password)
    server = ScramServer(client.get_client_first(), None, required=False)
    assert server.username == username
    client.set_server_first(server.challenge(stored))
    final = server.verify(client.get_client_final())
    assert final is not None
    client.set_server_final(final)  # raises if the server does not know the password itself


def test_independent_client_with_a_wrong_password_is_refused() -> None:
    client = ScramClient(["SCRAM-SHA-256"], "ann", WRONG_PASSWORD)
    server = ScramServer(client.get_client_first(), None, required=False)
    client.set_server_first(server.challenge(CREDENTIALS))
    assert server.verify(client.get_client_final()) is None


def test_independent_client_refuses_a_server_without_the_password() -> None:
    client = ScramClient(["SCRAM-SHA-256"], "ann", SCRAM_PASSWORD)
    server = ScramServer(client.get_client_first(), None, required=False)
    client.set_server_first(server.challenge(CREDENTIALS._replace(serverKey=b"x" * 32)))
    final = server.verify(client.get_client_final())
    assert final is not None
    with pytest.raises(ScramException):
        client.set_server_final(final)


# --- Proof, nonce, channel ---


def test_client_of_these_tests_is_accepted() -> None:
    assert exchange(Client()) is not None


def test_wrong_password_is_refused() -> None:
    assert exchange(Client(WRONG_PASSWORD)) is None


def test_nonce_is_never_the_same() -> None:
    servers = [ScramServer(Client().first, None, required=False) for _ in range(50)]
    assert len({server.challenge(CREDENTIALS) for server in servers}) == 50


@pytest.mark.parametrize("nonce", ["fyko+d2lbbFgONRv9qkxdawL", "x", "fyko+d2lbbFgONRv9qkxdawLAAAAAAAAAAAAAAAAAAAAAAAA"])
def test_proof_for_another_nonce_is_refused(nonce: str) -> None:
    # The proof itself is right: an eavesdropper could replay it.
    client = Client()
    server = ScramServer(client.first, None, required=False)
    assert server.verify(client.final(server.challenge(CREDENTIALS), nonce)) is None


@pytest.mark.parametrize("changed", [lambda p: p[:-1], lambda p: p + b"x", lambda p: b"", lambda p: bytes(32)])
def test_proof_of_another_length_or_content_is_refused(changed: Callable[[bytes], bytes]) -> None:
    client = Client()

    def change(final: str) -> str:
        proof = b64(changed(client.proof))
        return f"{final.rpartition(',p=')[0]},p={proof or '=='}"

    if not changed(b"x" * 32):
        with pytest.raises(SMTPError):
            exchange(client, change=change)
    else:
        assert exchange(client, change=change) is None


def test_proof_without_the_zero_at_its_end_is_refused() -> None:
    while True:
        client = Client()
        server = ScramServer(client.first, None, required=False)
        final = client.final(server.challenge(CREDENTIALS))
        if client.proof.endswith(b"\0"):  # one of 256 does
            break
    assert server.verify(f"{final.rpartition(',p=')[0]},p={b64(client.proof[:-1])}") is None


@given(st.integers(0, 255))
def test_no_bit_of_the_proof_may_differ(bit: int) -> None:
    client = Client()
    server = ScramServer(client.first, None, required=False)
    final = client.final(server.challenge(_FAST))
    proof = bytearray(client.proof)
    assert server.verify(final) is None  # other credentials than the client's
    stored = _storedFor(client)
    server = ScramServer(client.first, None, required=False)
    final = client.final(server.challenge(stored))
    proof = bytearray(client.proof)
    proof[bit // 8] ^= 1 << bit % 8
    assert server.verify(f"{final.rpartition(',p=')[0]},p={b64(bytes(proof))}") is None
    assert server.verify(final) == client.signature


_FAST = ScramCredentials(b"salt", b"x" * 32, b"y" * 32, 1)


def _storedFor(client: Client) -> ScramCredentials:
    salted = hashlib.pbkdf2_hmac("sha256", SCRAM_PASSWORD.encode(), b"salt", 1)
    keys = [hmac.digest(salted, name, "sha256") for name in (b"Client Key", b"Server Key")]
    return ScramCredentials(b"salt", hashlib.sha256(keys[0]).digest(), keys[1], 1)


def test_extensions_of_a_message_are_signed_and_otherwise_ignored() -> None:
    client = Client()
    server = ScramServer(client.first, None, required=False)
    assert server.verify(client.final(server.challenge(CREDENTIALS), suffix=",x=y,z=")) == client.signature


def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return False

    monkeypatch.setattr(scram.hmac, "compare_digest", compare)
    assert exchange(Client()) is None
    assert len(compared) == 3  # channel, nonce and proof, even if the first is wrong already


# --- Channel binding ---


@pytest.mark.parametrize("header", ["p=tls-exporter,,", "p=tls-exporter,a=ann,"])
def test_bound_client_is_accepted(header: str) -> None:
    assert exchange(Client(header=header, binding=BINDING), BINDING, required=True) is not None


@pytest.mark.parametrize("binding", [b"", bytes(32), BINDING[:-1], BINDING + b"x"])
def test_client_bound_to_another_channel_is_refused(binding: bytes) -> None:
    # A man in the middle does not know the password, but passes on the messages.
    assert exchange(Client(header="p=tls-exporter,,", binding=binding), BINDING, required=True) is None


@pytest.mark.parametrize("altered", ["n,,", "y,,", "n,a=joe,", "p=tls-exporter,a=joe,"])
def test_header_that_was_altered_in_transit_is_refused(altered: str) -> None:
    required = altered.startswith("p")
    client = Client(header="p=tls-exporter,,", binding=BINDING)
    client.first = client.first.replace("p=tls-exporter,,", altered)
    assert exchange(client, BINDING if required else None, required=required) is None


@pytest.mark.parametrize("header", ["n,,", "n,a=joe,", "y,,"])
def test_client_without_binding_is_accepted_where_none_was_offered(header: str) -> None:
    assert exchange(Client(header=header), None, required=False) is not None


def test_client_that_cannot_bind_is_accepted_where_binding_was_offered() -> None:
    assert exchange(Client(header="n,,"), BINDING, required=False) is not None


def test_client_that_did_not_see_the_offer_is_refused() -> None:
    # RFC 5802 section 6: a man in the middle has removed PLUS from the EHLO reply.
    with pytest.raises(SMTPError) as caught:
        ScramServer(Client(header="y,,").first, BINDING, required=False)
    assert (caught.value.responseCode, caught.value.enhancedCode) == (535, "5.7.8")


@pytest.mark.parametrize(
    "header, required",
    [
        ("p=tls-exporter,,", False),
        ("n,,", True),
        ("y,,", True),
        ("p=tls-unique,,", True),
        ("p=tls-server-end-point,,", True),
        ("p=TLS-exporter,,", True),
    ],
)
def test_binding_and_mechanism_belong_together(header: str, required: bool) -> None:
    with pytest.raises(SMTPError) as caught:
        ScramServer(Client(header=header).first, BINDING, required)
    assert (caught.value.responseCode, caught.value.enhancedCode) == (501, "5.5.4")


# --- Messages ---

NONCE = "r=fyko"


@pytest.mark.parametrize(
    "first, username, authorizationId",
    [
        (f"n,,n=ann,{NONCE}", "ann", ""),
        (f"n,a=joe,n=ann,{NONCE}", "ann", "joe"),
        (f"n,a=j=2Coe=3D,n=a=3Dn=2Cn,{NONCE}", "a=n,n", "j,oe="),
        (f"n,a=,n=ann,{NONCE}", "ann", ""),
        (f"n,,n==3D2C,{NONCE}", "=2C", ""),
        (f"n,,n=\u00e4\nnn,{NONCE},x=y", "\u00e4\nnn", ""),
    ],
)
def test_names_are_unescaped(first: str, username: str, authorizationId: str) -> None:
    server = ScramServer(first, None, required=False)
    assert (server.username, server.authorizationId) == (username, authorizationId)


@pytest.mark.parametrize(
    "first",
    [
        "",
        "n",
        "n,,",
        "n,,n=ann",
        "n,,n=ann,",
        "n,,n=ann,r=",
        "n,,n=,r=x",
        "n,,r=x,n=ann",
        "n,n=ann,r=x",
        "N,,n=ann,r=x",
        "x,,n=ann,r=x",
        "p,,n=ann,r=x",
        "p=,,n=ann,r=x",
        "n,b=joe,n=ann,r=x",
        "n,joe,n=ann,r=x",
        "n,,m=must,n=ann,r=x",  # a mandatory extension: RFC 5802 section 5.1 has it fail
        "n,,n=ann,r=a b",
        "n,,n=ann,r=\u00e4",
        "n,,n=ann,r=x,",
        "n,,n=ann,r=x,y",
        "n,,n=ann,r=x,1=y",
        "n,,n=a=nn,r=x",
        "n,,n=ann=,r=x",
        "n,,n=a=2cnn,r=x",
        "n,,n=a=41nn,r=x",
        "n,a=j=oe,n=ann,r=x",
        "n,,n=a\0nn,r=x",
        "n,a=\0,n=ann,r=x",
        " n,,n=ann,r=x",
        "n,,n=ann,r=x\n",
    ],
)
def test_malformed_first_message_is_refused(first: str) -> None:
    with pytest.raises(SMTPError) as caught:
        ScramServer(first, None, required=False)
    assert (caught.value.responseCode, caught.value.enhancedCode) == (501, "5.5.2")


@pytest.mark.parametrize(
    "final",
    [
        "",
        "c=biws",
        "c=biws,r=x",
        "c=biws,r=x,p=",
        "c=,r=x,p=eA==",
        "r=x,c=biws,p=eA==",
        "c=biws,r=,p=eA==",
        "c=biws,r=a b,p=eA==",
        "c=biws,r=x,p=eA=",
        "c=biws,r=x,p=e",
        "c=biws,r=x,p=eHh4=",
        "c=biws=,r=x,p=eA==",
        "c=biw,r=x,p=eA==",
        "c=biws,r=x,p=eA==,x=y",
        "c=biws,r=x,m,p=eA==",
        "c=biws,r=x,p=\u00e4",
        "c=biws,r=x,p=eA==\n",
    ],
)
def test_malformed_final_message_is_refused(final: str) -> None:
    server = ScramServer(Client().first, None, required=False)
    server.challenge(CREDENTIALS)
    with pytest.raises(SMTPError) as caught:
        server.verify(final)
    assert (caught.value.responseCode, caught.value.enhancedCode) == (501, "5.5.2")


@given(st.text(), st.text(), st.booleans())
def test_any_messages_are_taken_or_refused(first: str, final: str, required: bool) -> None:
    for message in (first, f"n,,n=x,r={first}", f"n,a={first},n={first},r=x", f"p=tls-exporter,,n={first},r=x"):
        try:
            server = ScramServer(message, BINDING, required)
        except SMTPError:
            continue
        server.challenge(CREDENTIALS)
        for answer in (final, f"c={final},r=x,p=eA==", f"c=biws,r=x,p={final}", f"c=biws,r={final},p=eA=="):
            try:
                assert server.verify(answer) is None
            except SMTPError:
                continue


# --- As a mechanism ---


class Exchange:
    """An exchange of the mechanism with a client of our own; the hook answers C{answered}."""

    def __init__(
        self,
        answered: Any,
        client: Client,
        method: str = PLAIN,
        offered: tuple[str, ...] = (PLAIN,),
        mechanisms: Mechanisms | None = None,
    ) -> None:
        session = Session("mx.example.org", secure=True, channelBinding=BINDING)
        mechanism = (mechanisms or Mechanisms(offered, lambda: True)).find(method, session)
        assert mechanism is not None
        run = mechanism.exchange(client.first.encode(), session)
        wanted = next(run)
        assert isinstance(wanted, Auth)
        self.auth = wanted
        self.said: list[bytes] = []
        try:
            challenge = run.throw(answered) if isinstance(answered, SMTPError) else run.send(answered)
            assert isinstance(challenge, bytes)
            self.said.append(challenge)
            proof = run.send(client.final(challenge.decode()).encode())
            assert isinstance(proof, bytes)
            self.said.append(proof)
            run.send(b"")
        except StopIteration as end:
            self.response: AuthResponse = end.value


@pytest.mark.parametrize(
    "answered, user",
    [
        (AuthResponse(user=CREDENTIALS), "ann"),
        (AuthResponse(user=tuple(CREDENTIALS)), "ann"),
        (AuthResponse(user={"id": 5}, data=CREDENTIALS), {"id": 5}),
        (AuthResponse(user={}, data=CREDENTIALS), {}),
        (AuthResponse(user="", data=CREDENTIALS), ""),
        (AuthResponse(user="Ann", message="Hello Ann", data=tuple(CREDENTIALS)), "Ann"),
    ],
)
def test_hook_answers_with_the_stored_credentials(answered: AuthResponse, user: Any) -> None:
    client = Client(header="n,a=joe,")
    done = Exchange(answered, client)
    assert done.auth == Auth(method=PLAIN, username="ann", authorizationId="joe")
    assert done.said[1].decode() == client.signature
    assert done.response == AuthResponse(user=user, message=answered.message)


def test_PLUS_is_bound_to_the_channel_of_the_session() -> None:
    answered = AuthResponse(user="ann", data=CREDENTIALS)
    good = Client(header="p=tls-exporter,,", binding=BINDING)
    assert Exchange(answered, good, PLUS, (PLUS,)).response.user == "ann"
    bad = Client(header="p=tls-exporter,,", binding=bytes(32))
    assert Exchange(answered, bad, PLUS, (PLUS,)).response == AuthResponse()


def test_downgrade_is_seen_where_PLUS_is_offered_only() -> None:
    answered = AuthResponse(user="ann", data=CREDENTIALS)
    assert Exchange(answered, Client(header="y,,"), PLAIN, (PLAIN,)).response.user == "ann"
    with pytest.raises(SMTPError):
        Exchange(answered, Client(header="y,,"), PLAIN, (PLAIN, PLUS))


# What a hook says of a user that it does not know, and gives no other reason for.
UNKNOWN = [
    AuthResponse(),
    AuthResponse(message="No such user"),
    AuthResponse(message="No such user", responseCode=535, data={"status": "401"}),
    SMTPError("No such user"),
    SMTPError("No such user", 535),
    SMTPError("No such user", enhancedCode="5.7.8"),
]


def shapeOf(challenge: bytes) -> list[tuple[str, Any]]:
    """How the server's first message looks: the lengths of nonce and salt, and the number of iterations."""
    parts = dict(part.split("=", 1) for part in challenge.decode().split(","))
    return [("r", len(parts["r"])), ("s", len(base64.b64decode(parts["s"]))), ("i", parts["i"])]


@pytest.mark.parametrize("answered", UNKNOWN, ids=repr)
def test_wrong_password_and_unknown_user_get_the_same_words(answered: Any) -> None:
    known = Exchange(AuthResponse(user="ann", message="Hello", data=CREDENTIALS), Client(WRONG_PASSWORD))
    unknown = Exchange(answered, Client(WRONG_PASSWORD))
    assert known.response == unknown.response == AuthResponse()
    assert len(known.said) == len(unknown.said) == 1
    assert shapeOf(known.said[0]) == shapeOf(unknown.said[0])


def test_wrong_password_and_unknown_user_cost_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    mechanisms = Mechanisms([PLAIN], lambda: True)

    def work(answered: AuthResponse) -> list[str]:
        done: list[str] = []

        def note(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def noted(*arguments: Any) -> Any:
                done.append(name)
                return function(*arguments)

            return noted

        with monkeypatch.context() as patch:
            patch.setattr(scram, "_hmac", note("hmac", scram._hmac))
            patch.setattr(scram.hashlib, "shake_256", note("shake", hashlib.shake_256))
            patch.setattr(scram.hmac, "compare_digest", note("compare", hmac.compare_digest))
            Exchange(answered, Client(WRONG_PASSWORD), mechanisms=mechanisms)
        return done

    assert work(AuthResponse()) == work(AuthResponse(user="ann", data=CREDENTIALS)) != []


def saltOf(username: str, secret: bytes | None) -> str:
    mechanisms = Mechanisms([PLAIN], lambda: True, UnknownUsers(secret))
    challenge = Exchange(AuthResponse(), Client(username=username), mechanisms=mechanisms).said[0].decode()
    return challenge.split(",")[1]


@pytest.mark.parametrize("secret", [None, b"sixteen octets.."])
def test_unknown_user_has_always_the_same_salt_and_no_other_has_it(secret: bytes | None) -> None:
    # Also where another factory answers, such as that of another listener.
    assert saltOf("nobody", secret) == saltOf("nobody", secret)
    assert saltOf("nobody", secret) != saltOf("somebody", secret)
    assert saltOf("nobody", secret) != saltOf("nobody", b"another secret..")


def test_unknown_user_is_like_those_of_scramp_until_one_is_known() -> None:
    salt, _, _, iterations = ScramMechanism("SCRAM-SHA-256").make_auth_info(SCRAM_PASSWORD)
    unknown = UnknownUsers().credentialsOf("nobody")
    assert (len(unknown.salt), unknown.iterations) == (len(salt), iterations)
    assert (len(unknown.storedKey), len(unknown.serverKey)) == (32, 32)


@pytest.mark.parametrize("octets, iterations", [(12, 10000), (16, 4096), (64, 5000)])
def test_unknown_user_is_like_the_last_known_one(octets: int, iterations: int) -> None:
    mechanisms = Mechanisms([PLAIN, PLUS], lambda: True, UnknownUsers(b"sixteen octets.."))
    stored = ScramMechanism("SCRAM-SHA-256").make_auth_info(SCRAM_PASSWORD, iterations, b"s" * octets)
    known = Exchange(AuthResponse(user="ann", data=stored), Client(WRONG_PASSWORD), mechanisms=mechanisms)
    bound = Client(WRONG_PASSWORD, "nobody", "p=tls-exporter,,", BINDING)
    for method, client in ((PLAIN, Client(WRONG_PASSWORD, "nobody")), (PLUS, bound)):
        unknown = Exchange(AuthResponse(), client, method, mechanisms=mechanisms)
        assert shapeOf(unknown.said[0]) == shapeOf(known.said[0])
    # Another server shows what its own users have.
    other = Exchange(AuthResponse(), Client(WRONG_PASSWORD))
    assert shapeOf(other.said[0]) != shapeOf(known.said[0])


@pytest.mark.parametrize("iterations, saltLength", [(10000, 16), (10000, None), (None, 16)])
def test_unknown_user_shows_the_options_not_known_users(iterations: int | None, saltLength: int | None) -> None:
    unknown = UnknownUsers(b"sixteen octets..", iterations, saltLength)

    def shape() -> tuple[int, int]:
        credentials = unknown.credentialsOf("nobody")
        return credentials.iterations, len(credentials.salt)

    assert shape() == (iterations or 4096, saltLength or 32)
    unknown.imitate(ScramCredentials(b"s" * 12, b"", b"", 5000))
    assert shape() == (iterations or 5000, saltLength or 12)


@given(st.text(), st.integers(0, 200), st.integers(1, 10**6))
def test_any_user_can_be_imitated(username: str, octets: int, iterations: int) -> None:
    unknown = UnknownUsers(b"sixteen octets..")
    unknown.imitate(ScramCredentials(b"s" * octets, b"", b"", iterations))
    credentials = unknown.credentialsOf(username)
    assert (len(credentials.salt), credentials.iterations) == (octets, iterations)
    assert len({credentials.salt[:32], credentials.storedKey, credentials.serverKey}) == 3


@pytest.mark.parametrize("answered", [AuthResponse(message="Locked", responseCode=454), AuthResponse(responseCode=534)])
def test_refusal_for_another_reason_is_the_reply_once_the_client_has_answered(answered: AuthResponse) -> None:
    assert Exchange(answered, Client()).response is answered


@pytest.mark.parametrize(
    "refusal",
    [SMTPError("Locked", 454), SMTPError("Locked", 534), SMTPError("Locked", enhancedCode="5.7.13")],
    ids=repr,
)
def test_refusal_for_another_reason_that_was_raised_is_the_reply_at_once(refusal: SMTPError) -> None:
    with pytest.raises(SMTPError) as caught:
        Exchange(refusal, Client())
    assert caught.value is refusal


@pytest.mark.parametrize("stored", ["ann", True, list(CREDENTIALS), CREDENTIALS[:3], {"salt": b""}])
def test_answer_without_stored_credentials_is_a_fault_of_the_hook(stored: Any) -> None:
    for answered in (AuthResponse(user=stored), AuthResponse(user="ann", data=stored)):
        with pytest.raises(TypeError, match="onAuth answers SCRAM with"):
            Exchange(answered, Client())
