"""The client's side of SASL: against the server's own mechanisms, and against servers that cheat."""

from __future__ import annotations

import base64
import builtins
from typing import Any

import pytest
from scramp import ScramMechanism

from smtphooks.client import ClientError, ReceivedReply, Refused, Route, Unreachable
from smtphooks.client import mechanisms as module
from smtphooks.client.mechanisms import Unproven, mechanismsFor
from smtphooks.client.opening import Opened, Say, opening
from smtphooks.client.route import MECHANISMS
from smtphooks.testing.users import Users
from tests.secrets import CRAM_DIGEST, CRAM_PASSWORD, PASSWORD, TOKEN, UNICODE_PASSWORD, WRONG_PASSWORD, secretsIn
from tests.support import Client, Mailbox, connect

USERS = {"ann": PASSWORD, "tim": CRAM_PASSWORD, "zoë": UNICODE_PASSWORD, "tok": TOKEN}


def routeFor(user: str = "ann", **given: Any) -> Route:
    return Route(host="mx.test", name="client.test", tls="none", user=user, allowInsecureAuth=True, **given)


def serverWith(*mechanisms: str, **given: Any) -> Client:
    return connect(
        hooks=[Users(USERS), Mailbox()],
        authMethods=list(mechanisms),
        allowInsecureAuth=True,
        authOptional=False,
        **given,
    )


def replyTo(line: str, server: Client) -> ReceivedReply:
    lines = server.say(line)
    if not lines:  # a refusal takes its time
        server.clock.advance(30)
        lines = server.replies()
    return ReceivedReply(*lines)


def openWith(route: Route, server: Client, isPrivate: bool = False) -> list[Say]:
    """Let the opening talk to the server, and return what it has said."""
    steps, said = opening(route, Opened(isPrivate=isPrivate)), []
    step = next(steps)
    reply = ReceivedReply(*server.replies())
    while True:
        try:
            step = steps.send(reply)
        except StopIteration:
            return said
        assert isinstance(step, Say)
        said.append(step)
        reply = replyTo(step.line.decode(), server)


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN"])
@pytest.mark.parametrize(("user", "password"), [("ann", PASSWORD), ("tim", CRAM_PASSWORD)])
def test_each_mechanism_is_understood_by_the_server(mechanism: str, user: str, password: str) -> None:
    server = serverWith(mechanism)
    openWith(routeFor(user, password=password), server)
    assert server.session.user == user


@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "PLAIN", "LOGIN"])
def test_names_and_passwords_may_be_beyond_ASCII(mechanism: str) -> None:
    server = serverWith(mechanism)
    openWith(routeFor("zoë", password=UNICODE_PASSWORD), server)
    assert server.session.user == "zoë"


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN"])
def test_a_wrong_password_is_refused(mechanism: str) -> None:
    server = serverWith(mechanism)
    with pytest.raises(ClientError, match=f"mx.test:25 refuses AUTH {mechanism} for user ann: 535") as caught:
        openWith(routeFor(password=WRONG_PASSWORD), server)
    assert isinstance(caught.value, Refused)
    assert server.session.user is None
    assert not secretsIn(f"{caught.value} {caught.value!r}")


def test_a_token_goes_with_XOAUTH2() -> None:
    server = serverWith("XOAUTH2", "PLAIN")
    openWith(routeFor("tok", token=TOKEN), server)
    assert server.session.user == "tok"


def test_a_wrong_token_is_refused_when_the_challenge_with_the_reason_is_answered() -> None:
    server = serverWith("XOAUTH2")
    with pytest.raises(Refused, match="535"):
        openWith(routeFor("tok", token=WRONG_PASSWORD.replace(",", "")), server)


def test_the_example_of_RFC_2195() -> None:
    route = routeFor("tim", password=CRAM_PASSWORD)
    exchange = mechanismsFor(route, True)["CRAM-MD5"](route)
    assert next(exchange) is None
    challenge = b"<1896.697170952@postoffice.reston.mci.net>"
    assert exchange.send(challenge) == f"tim {CRAM_DIGEST}".encode()


# --- which one ---


def test_those_come_first_that_do_not_hand_the_password_to_the_server() -> None:
    route = routeFor(password=PASSWORD)
    assert [*mechanismsFor(route, True)] == ["SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN"]
    assert [*mechanismsFor(routeFor(token=TOKEN), True)] == ["XOAUTH2"]


def test_in_the_clear_no_password_is_shown_unless_the_route_allows_it() -> None:
    route = Route(host="mx.test", user="ann", password=PASSWORD)
    assert [*mechanismsFor(route, False)] == ["SCRAM-SHA-256", "CRAM-MD5"]
    assert [*mechanismsFor(Route(host="mx.test", user="ann", token=TOKEN), False)] == []
    server = serverWith("PLAIN", "LOGIN")
    with pytest.raises(Unreachable, match="none that does not show a password in the clear"):
        openWith(route, server)
    assert server.session.user is None


def test_the_route_names_the_mechanisms_and_their_order() -> None:
    assert [*mechanismsFor(routeFor(password=PASSWORD, authMethods=["login", "PLAIN"]), True)] == ["LOGIN", "PLAIN"]
    with pytest.raises(Unreachable, match="offers LOGIN for AUTH, and no mechanism for user ann"):
        openWith(routeFor(password=PASSWORD, authMethods=["PLAIN"]), serverWith("LOGIN"))


def test_a_server_without_AUTH_is_not_used_without_it() -> None:
    with pytest.raises(Unreachable, match="offers nothing for AUTH"):
        openWith(routeFor(password=PASSWORD), connect())


def test_the_route_knows_each_mechanism() -> None:
    assert {*module._WITH_PASSWORD, *module._WITH_TOKEN} == {*MECHANISMS}


def test_without_scramp_another_mechanism_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert [*mechanismsFor(routeFor(password=PASSWORD), True)] == ["CRAM-MD5", "PLAIN", "LOGIN"]


# --- secrets ---


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN", "XOAUTH2"])
def test_what_holds_a_secret_is_said_to_be_secret(mechanism: str) -> None:
    route = routeFor("tok", token=TOKEN) if mechanism == "XOAUTH2" else routeFor(password=PASSWORD)
    said = openWith(route, serverWith(mechanism))
    auth = [each for each in said if not each.line.startswith((b"EHLO", b"RSET"))]
    shown = [each for each in auth if not each.isSecret]
    assert [each.line for each in shown] in ([], [f"AUTH {mechanism}".encode()])
    for each in auth:
        assert not secretsIn(each.label)


# --- servers that cheat ---


class Cheat:
    """A server of SCRAM, which does as its test says."""

    def __init__(self, **given: Any) -> None:
        self.route = routeFor(password=PASSWORD)
        self.exchange = mechanismsFor(self.route, True)["SCRAM-SHA-256"](self.route)
        first = next(self.exchange)
        assert first is not None
        self.first = first.decode()
        self.mechanism = ScramMechanism("SCRAM-SHA-256")
        info = self.mechanism.make_auth_info(PASSWORD, iteration_count=4096)
        self.server = self.mechanism.make_server(lambda user: info)
        self.server.set_client_first(self.first)

    def challenge(self, old: str = "", new: str = "") -> bytes:
        text = self.server.get_server_first()
        return str(text.replace(old, new)).encode()


def test_a_server_that_knows_the_password_is_believed() -> None:
    cheat = Cheat()
    final = cheat.exchange.send(cheat.challenge())
    assert final is not None
    cheat.server.set_client_final(final.decode())
    assert cheat.exchange.send(cheat.server.get_server_final().encode()) == b""
    with pytest.raises(StopIteration):
        cheat.exchange.send(b"")


@pytest.mark.parametrize(
    "challenge",
    [
        b"",
        b"\xff",
        b"r=x,s=eA==,i=4096",
        b"e=other-error",
        b"r=,s=,i=",
        b"i=1",
        b"r=x",
        b"=,=,=",
        b"a,b,c",
        b"r=x,s=!,i=1",
    ],
)
def test_what_is_no_challenge_ends_the_exchange(challenge: bytes) -> None:
    with pytest.raises(Unproven):
        Cheat().exchange.send(challenge)


@pytest.mark.parametrize("iterations", ["1000001", "99999999999999999999", "-1", "0", "x", "²", "9" * 6000])
def test_a_server_cannot_keep_the_client_busy(iterations: str) -> None:
    cheat = Cheat()
    with pytest.raises(Unproven, match=r"SCRAM-SHA-256 fails: the server wants .* iterations"):
        cheat.exchange.send(cheat.challenge("i=4096", f"i={iterations}"))


def test_a_server_that_does_not_know_the_password_is_not_believed() -> None:
    cheat = Cheat()
    cheat.exchange.send(cheat.challenge())
    with pytest.raises(Unproven):
        cheat.exchange.send(b"v=" + base64.b64encode(bytes(32)))


def openByScript(route: Route, *replies: str) -> tuple[list[str], BaseException | None]:
    """What is said to a server that replies so, and how it ends."""
    steps, said, left = opening(route, Opened(isPrivate=True)), [], [*replies]
    step = next(steps)
    try:
        while True:
            step = steps.send(ReceivedReply(*left.pop(0).split("\n")))
            said.append(step.line.decode())
    except StopIteration:
        return said, None
    except ClientError as error:
        return said, error


GREETING = ("220 mx.test", "250-mx.test\n250 AUTH SCRAM-SHA-256 PLAIN LOGIN CRAM-MD5")


def test_a_server_that_says_yes_without_a_proof_is_not_believed() -> None:
    _, error = openByScript(routeFor(password=PASSWORD), *GREETING, "235 2.7.0 welcome")
    assert str(error) == "mx.test:25: the server ends SCRAM-SHA-256 without a proof that it knows the password"


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN"])
def test_a_challenge_that_is_no_base64_ends_the_exchange_and_is_told(mechanism: str) -> None:
    route = routeFor(password=PASSWORD, authMethods=[mechanism])
    said, error = openByScript(route, *GREETING, "334 !!", "501 5.5.2 cancelled")
    assert said[-1] == "*"
    assert "is no challenge in base64" in str(error)


def test_a_server_that_asks_on_and_on_is_left() -> None:
    route = routeFor(password=PASSWORD, authMethods=["LOGIN"])
    said, error = openByScript(route, *GREETING, *["334 VXNlcm5hbWU6"] * 3, "501 cancelled")
    assert said[-1] == "*"
    assert "does not end where it should" in str(error)


def test_a_long_response_goes_on_a_line_of_its_own() -> None:
    token = TOKEN * 300
    route = routeFor("tok", token=token)
    said, error = openByScript(route, "220 mx.test", "250-mx.test\n250 AUTH XOAUTH2", "334 ", "235 ok")
    assert error is None
    assert said[1] == "AUTH XOAUTH2"
    assert base64.b64decode(said[2]).decode() == f"user=tok\1auth=Bearer {token}\1\1"


def test_a_mechanism_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from smtphooks.client import route as routes
    from smtphooks.errors import OptionError

    monkeypatch.setattr(routes, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"smtphooks\[scram\]"):
        routeFor(password=PASSWORD, authMethods=["SCRAM-SHA-256"])
    assert builtins.isinstance(routeFor(password=PASSWORD), Route)


# --- more than one mechanism ---


@pytest.mark.parametrize(
    ("refusal", "tried"),
    [
        ("504 5.5.4 Unrecognized", ["AUTH CRAM-MD5", "AUTH PLAIN"]),
        ("534 5.7.9 Too weak", ["AUTH CRAM-MD5", "AUTH PLAIN"]),
        ("535 5.7.8 Wrong", ["AUTH CRAM-MD5"]),
        ("454 4.7.0 Later", ["AUTH CRAM-MD5"]),
    ],
)
def test_another_mechanism_is_tried_where_the_server_does_not_take_this_one(refusal: str, tried: list[str]) -> None:
    """But not where the password is wrong: a server may count attempts."""
    said, error = openByScript(
        routeFor(password=PASSWORD), "220 x", "250-x\n250 AUTH CRAM-MD5 PLAIN", refusal, "535 5.7.8 Wrong"
    )
    assert [" ".join(each.split(" ")[:2]) for each in said if each.startswith("AUTH")] == tried
    assert isinstance(error, Refused) and not secretsIn(str(error))
