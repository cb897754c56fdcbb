"""twisted.cred: the checkers of Twisted decide, avatars become users, and each is logged out at the end."""

from __future__ import annotations

import hmac
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from twisted.cred.checkers import FilePasswordDB, ICredentialsChecker, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from twisted.cred.error import LoginFailed, UnauthorizedLogin, UnhandledCredentials
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer
from zope.interface.verify import verifyObject

from smtphooks import SMTPServerFactory
from smtphooks.errors import OptionError
from smtphooks.sasl import portal as cred
from smtphooks.sasl.auth import Auth, AuthResponse
from smtphooks.sasl.portal import ISMTPUser, UserNameRealm, canCheck, onAuthOf
from smtphooks.session import Session
from tests.conftest import Logged
from tests.secrets import CRAM_DIGEST, PASSWORD, UNICODE_PASSWORD, WRONG_PASSWORD, encoded, plain
from tests.support import HELLO, Client, connect

METHODS = ["PLAIN", "LOGIN", "CRAM-MD5"]


def memory(**users: str) -> Any:
    users = users or {"ann": PASSWORD, "joe": UNICODE_PASSWORD}
    return InMemoryUsernamePasswordDatabaseDontUse(**{name: password.encode() for name, password in users.items()})


def passwordFile(folder: Path, **given: Any) -> Any:
    path = folder / "passwd"
    path.write_text(f"ann:{PASSWORD}\njoe:{UNICODE_PASSWORD}\n")
    return FilePasswordDB(str(path), **given)


class Reversed(FilePasswordDB):
    """A file of hashed passwords; no real file should use this hash."""

    def __init__(self, folder: Path) -> None:
        path = folder / "hashed"
        path.write_text(f"ann:{PASSWORD[::-1]}\n")
        super().__init__(str(path), hash=lambda name, password, entry: password[::-1])


@implementer(IRealm)
class Realm:
    """
    A realm that notes logins and logouts.

    @ivar asked: what it was asked for.
    @ivar left: the users that were logged out.
    """

    def __init__(self, avatar: Any = None) -> None:
        self.avatar = avatar
        self.asked: list[Any] = []
        self.left: list[Any] = []

    def requestAvatar(self, avatarId: Any, mind: object, *interfaces: Any) -> Any:
        self.asked.append((avatarId, mind, interfaces))
        avatar = avatarId.decode() if self.avatar is None else self.avatar
        return interfaces[0], avatar, lambda: self.left.append(avatar)


def portalOf(checker: Any, realm: Any = None) -> Portal:
    return Portal(realm or UserNameRealm(), [checker])


def client(portal: Portal, *methods: str, **given: Any) -> Client:
    """A client that said hello to a server that asks this portal."""
    options = {"allowInsecureAuth": True, "authMethods": methods or METHODS}
    one = connect(portal=portal, **{**options, **given})
    one.replies()
    one.say(HELLO)
    return one


def authenticate(one: Client, method: str, username: str = "ann", password: str = PASSWORD) -> list[str]:
    """Go through an exchange; the replies to its last line, once the server gives them."""
    if method == "PLAIN":
        said = one.say(f"AUTH PLAIN {plain(username, password)}")
    elif method == "LOGIN":
        one.say("AUTH LOGIN", encoded(username))
        said = one.say(encoded(password))
    else:
        challenge = b64decode(one.last("AUTH CRAM-MD5")[4:])
        digest = hmac.new(password.encode(), challenge, "md5").hexdigest()
        said = one.say(encoded(f"{username} {digest}"))
    one.clock.advance(16)
    return said + one.replies()


SUCCESS = ["235 2.7.0 Authentication successful"]
FAILURE = ["535 5.7.8 Authentication credentials invalid"]


# --- Twisted's checkers ---


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["memory", "file", "cached file"])
@pytest.mark.parametrize("username, password", [("ann", PASSWORD), ("joe", UNICODE_PASSWORD)])
def test_right_password_makes_a_user(tmp_path: Path, method: str, kind: str, username: str, password: str) -> None:
    checker = memory() if kind == "memory" else passwordFile(tmp_path, cache=kind == "cached file")
    one = client(portalOf(checker))
    assert authenticate(one, method, username, password) == SUCCESS
    assert one.session.user == username


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["memory", "file"])
@pytest.mark.parametrize("username", ["ann", "nobody", "", "\u00e4nn"])
def test_wrong_password_and_unknown_user_get_the_same_words(
    tmp_path: Path, method: str, kind: str, username: str
) -> None:
    one = client(portalOf(memory() if kind == "memory" else passwordFile(tmp_path)))
    wanted = FAILURE if username else ["501 5.5.2 Malformed authentication data"]
    assert authenticate(one, method, username, WRONG_PASSWORD) == wanted
    assert one.session.user is None
    assert one.session.logout is None
    assert authenticate(one, method) == SUCCESS


@pytest.mark.parametrize("method", ["PLAIN", "LOGIN"])
def test_passwords_may_be_hashed(tmp_path: Path, method: str) -> None:
    one = client(portalOf(Reversed(tmp_path)), "PLAIN", "LOGIN")
    assert authenticate(one, method, "ann", WRONG_PASSWORD) == FAILURE
    assert authenticate(one, method, "ann", PASSWORD[::-1]) == FAILURE
    assert authenticate(one, method) == SUCCESS


def test_passwords_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append({one, other})
        return True

    monkeypatch.setattr(cred.hmac, "compare_digest", compare)
    assert authenticate(client(portalOf(memory())), "PLAIN", "ann", WRONG_PASSWORD) == SUCCESS
    assert compared == [{PASSWORD.encode(), WRONG_PASSWORD.encode()}]


@implementer(ICredentialsChecker)
class Checker:
    """A checker from elsewhere, which answers as the test says."""

    credentialInterfaces = (IUsernamePassword, IUsernameHashedPassword)

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.seen: list[Any] = []

    def requestAvatarId(self, credentials: Any) -> Any:
        self.seen.append(credentials)
        return self.answer(credentials) if callable(self.answer) else self.answer


@pytest.mark.parametrize("method", METHODS)
def test_credentials_are_those_that_checkers_know(method: str) -> None:
    checker = Checker(b"ann")
    authenticate(client(portalOf(checker)), method)
    (credentials,) = checker.seen
    verifyObject(IUsernameHashedPassword if method == "CRAM-MD5" else IUsernamePassword, credentials)
    assert credentials.username == b"ann"
    assert credentials.checkPassword(PASSWORD.encode())
    assert not credentials.checkPassword(WRONG_PASSWORD.encode())
    assert PASSWORD not in repr(credentials)
    if method != "CRAM-MD5":
        assert credentials.password == PASSWORD.encode()


@pytest.mark.parametrize("error", [UnauthorizedLogin, LoginFailed, UnhandledCredentials])
@pytest.mark.parametrize("how", ["raised", "failed"])
def test_checker_refuses_in_every_way_that_there_is(error: type[Exception], how: str) -> None:
    def refuse(credentials: Any) -> Any:
        if how == "raised":
            raise error("no")
        return fail(error("no"))

    assert authenticate(client(portalOf(Checker(refuse))), "PLAIN") == FAILURE


def test_checker_that_crashes_is_a_fault_of_the_servers(logged: Logged) -> None:
    one = client(portalOf(Checker(lambda credentials: 1 / 0)))
    assert authenticate(one, "PLAIN") == ["451 4.3.0 Temporary server error, please try again later"]
    assert len(logged.takeFailures(ZeroDivisionError)) == 1


def test_checker_may_decide_later() -> None:
    decision: Deferred[Any] = Deferred()
    one = client(portalOf(Checker(decision)))
    assert one.say(f"AUTH PLAIN {plain()}", "NOOP") == []
    decision.callback(b"ann")
    assert one.codes() == [235, 250]
    assert one.session.user == "ann"


# --- Avatars ---


def test_realm_is_asked_for_an_SMTP_user() -> None:
    realm = Realm(avatar := object())
    one = client(portalOf(memory(), realm))
    assert authenticate(one, "PLAIN") == SUCCESS
    assert realm.asked == [(b"ann", None, (ISMTPUser,))]
    assert one.session.user is avatar


@pytest.mark.parametrize(
    "avatarId, user", [(b"ann", "ann"), ("\u00e4nn".encode(), "\u00e4nn"), ("ann", "ann"), ((), None)]
)
def test_realm_of_names_gives_the_name(avatarId: Any, user: str | None) -> None:
    realm = UserNameRealm()
    verifyObject(IRealm, realm)
    interface, avatar, logout = realm.requestAvatar(avatarId, None, ISMTPUser)
    assert (interface, avatar, logout()) == (ISMTPUser, user, None)


def test_anonymous_avatar_is_no_user() -> None:
    one = client(portalOf(Checker(())))
    assert authenticate(one, "PLAIN") == FAILURE
    assert one.session.user is None


@pytest.mark.parametrize(
    "authorizationId, wanted", [("", SUCCESS), ("ann", SUCCESS), ("joe", FAILURE), ("Ann", FAILURE)]
)
def test_no_user_acts_as_another(authorizationId: str, wanted: list[str]) -> None:
    checker = Checker(b"ann")
    one = client(portalOf(checker))
    said = one.say(f"AUTH PLAIN {plain(authorizationId=authorizationId)}")
    one.clock.advance(1)
    assert said + one.replies() == wanted
    assert bool(checker.seen) is (wanted is SUCCESS)  # the password is not even tried


# --- Logout ---


@pytest.mark.parametrize("ends", ["QUIT", "lost", "abort"])
def test_user_is_logged_out_once_when_the_connection_ends(ends: str) -> None:
    realm = Realm()
    order: list[str] = []
    one = client(portalOf(memory(), realm), onClose=lambda session: order.append(f"{realm.left} {session.user}"))
    assert authenticate(one, "PLAIN") == SUCCESS
    assert realm.left == []
    if ends == "QUIT":
        one.say("QUIT")
        assert realm.left == []
        one.finish()
    else:
        one.lose()
    assert realm.left == ["ann"]
    assert order == ["['ann'] ann"]


def test_only_a_logged_in_user_is_logged_out() -> None:
    realm = Realm()
    one = client(portalOf(memory(), realm))
    assert authenticate(one, "PLAIN", password=WRONG_PASSWORD) == FAILURE
    one.lose()
    assert realm.left == []


@pytest.mark.parametrize("avatar", ["", {}, 0, False], ids=repr)
def test_false_avatar_is_logged_out_at_once(avatar: Any) -> None:
    realm = Realm(avatar=avatar)
    one = client(portalOf(memory(), realm))
    assert authenticate(one, "PLAIN") == FAILURE
    assert realm.left == [avatar]
    assert one.session.logout is None
    one.lose()
    assert realm.left == [avatar]


def test_user_from_before_TLS_is_logged_out_by_the_next_login() -> None:
    realm = Realm()
    onAuth = onAuthOf(portalOf(memory(), realm))
    session = Session()
    for username, password in (("ann", PASSWORD), ("joe", UNICODE_PASSWORD)):
        onAuth(Auth(method="PLAIN", username=username, password=password), session)
    assert realm.left == ["ann"]
    assert session.logout is not None
    session.logout()
    assert realm.left == ["ann", "joe"]


def test_refused_attempt_does_not_log_out_the_user() -> None:
    realm = Realm()
    onAuth = onAuthOf(portalOf(memory(), realm))
    session = Session()
    onAuth(Auth(method="PLAIN", username="ann", password=PASSWORD), session)
    responses: list[AuthResponse] = []
    onAuth(Auth(method="PLAIN", username="ann", password=WRONG_PASSWORD), session).addCallback(responses.append)
    realm.avatar = ""
    onAuth(Auth(method="PLAIN", username="joe", password=UNICODE_PASSWORD), session).addCallback(responses.append)
    assert [response.accepts for response in responses] == [False, False]
    assert realm.left == [""]
    assert session.logout is not None


def test_user_whose_login_ends_after_the_connection_is_not_logged_in() -> None:
    realm = Realm()
    decision: Deferred[Any] = Deferred()
    one = client(portalOf(Checker(decision), realm))
    one.say(f"AUTH PLAIN {plain()}")
    one.lose()
    assert realm.asked == realm.left == []
    assert decision.called  # it was cancelled


def test_logout_that_crashes_is_logged_and_does_no_harm(logged: Logged) -> None:
    realm = Realm()
    closed: list[Any] = []
    one = client(portalOf(memory(), realm), onClose=closed.append)
    authenticate(one, "PLAIN")
    one.session.logout = lambda: 1 / 0
    one.lose()
    assert len(logged.takeFailures(ZeroDivisionError)) == 1
    assert closed == [one.session]
    assert not one.factory.connections


# --- What a portal can check ---


@pytest.mark.parametrize(
    "method, can",
    [
        ("PLAIN", {"memory", "file", "hashed"}),
        ("LOGIN", {"memory", "file", "hashed"}),
        ("CRAM-MD5", {"memory", "file"}),
        ("XOAUTH2", set()),
        ("OAUTHBEARER", set()),
        ("SCRAM-SHA-256", set()),
        ("SCRAM-SHA-256-PLUS", set()),
        ("EXTERNAL", set()),
    ],
)
def test_portal_is_asked_only_for_what_it_can_check(tmp_path: Path, method: str, can: set[str]) -> None:
    portals = {
        "memory": portalOf(memory()),
        "file": portalOf(passwordFile(tmp_path)),
        "hashed": portalOf(Reversed(tmp_path)),
        "none": Portal(UserNameRealm()),
    }
    assert {name for name, portal in portals.items() if canCheck(portal, method)} == can
    for name, portal in portals.items():
        if name in can:
            assert SMTPServerFactory(portal=portal, authMethods=[method]).onAuth is not None
        else:
            with pytest.raises(OptionError) as caught:
                SMTPServerFactory(portal=portal, authMethods=[method])
            assert str(caught.value) == (
                f"option authMethods holds {method}, it wants only mechanisms that option portal has a checker for, or"
                " an onAuth hook"
            )
            # With a hook, the portal is not asked.
            assert SMTPServerFactory(portal=portal, authMethods=[method], onAuth=print).onAuth is print


def test_mechanism_of_a_user_cannot_be_asked_of_a_portal() -> None:
    class Mine:
        name = "X-MINE"

        def isAvailable(self, session: Session) -> bool:
            raise NotImplementedError

        exchange = isAvailable

    with pytest.raises(OptionError, match="option authMethods holds <"):
        SMTPServerFactory(portal=portalOf(memory()), authMethods=[Mine()])


def test_hook_is_asked_rather_than_the_portal() -> None:
    checker = Checker(b"joe")
    one = client(portalOf(checker), onAuth=lambda auth, session: auth.username)
    assert authenticate(one, "PLAIN") == SUCCESS
    assert (one.session.user, checker.seen) == ("ann", [])


def test_digest_is_no_password() -> None:
    # What a client sends with CRAM-MD5 must not open anything when it is sent with PLAIN.
    session = Session()
    users: list[Any] = []
    onAuth = onAuthOf(portalOf(memory(ann=PASSWORD)))
    auth = Auth(method="CRAM-MD5", username="ann", challenge="<x@y>", challengeResponse=CRAM_DIGEST)
    onAuth(auth, session).addCallback(lambda response: users.append(response.user))
    assert users == [None]


def test_checker_may_answer_with_a_deferred() -> None:
    assert authenticate(client(portalOf(Checker(lambda credentials: succeed(b"ann")))), "LOGIN") == SUCCESS
