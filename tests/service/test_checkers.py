"""Checkers of twisted.cred: all are asked in order, and no sentence shows the argument of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.cred.checkers import AllowAnonymousAccess, ICredentialsChecker
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.strcred import findCheckerFactories
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from zope.interface import implementer

from smtphooks import Session
from smtphooks.sasl.auth import Auth
from smtphooks.sasl.portal import canCheck, onAuthOf
from smtphooks.service.checkers import makePortal
from smtphooks.service.settings import AuthSettings, ConfigError
from tests.conftest import Logged


@implementer(ICredentialsChecker)
class Checker:
    """A checker with a prepared answer, which counts its calls."""

    def __init__(self, answer: Any, *interfaces: Any) -> None:
        self.answer = answer
        self.credentialInterfaces = interfaces or (IUsernamePassword,)
        self.asked = 0

    def requestAvatarId(self, credentials: Any) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@attrs.frozen
class Maker:
    """A third-party plugin."""

    made: Any
    authType: str = "third"

    def generateChecker(self, argument: str) -> Any:
        if isinstance(self.made, Exception):
            raise self.made
        return self.made


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Plugins by name, in addition to those of Twisted."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(
        "smtphooks.service.checkers.findCheckerFactories",
        lambda: [*findCheckerFactories(), *(Maker(made, name) for name, made in found.items())],
    )
    yield found


def user(*checkers: str, **given: Any) -> Any:
    """The result of a login at a portal with these checkers; a L{Failure} if it fails."""
    portal = makePortal(AuthSettings("--auth", checkers))
    auth = Auth(**{"method": "PLAIN", "username": "joe", "password": "pencil", **given})
    results: list[Any] = []
    onAuthOf(portal)(auth, Session()).addBoth(results.append)
    (result,) = results
    return result if isinstance(result, Failure) else result.user


def refusal(*checkers: str) -> str:
    with pytest.raises(ConfigError) as caught:
        makePortal(AuthSettings("--auth", checkers))
    return str(caught.value)


@pytest.mark.parametrize(
    ("attempt", "name"),
    [
        ({}, "joe"),
        ({"password": "wrong"}, None),
        ({"username": "nobody"}, None),
        ({"username": "\u00e4nn", "password": "\u00e4"}, "\u00e4nn"),
    ],
)
def test_users_in_memory_are_known(attempt: dict[str, str], name: str | None) -> None:
    assert user("memory:joe:pencil:\u00e4nn:\u00e4", **attempt) == name


def test_users_in_a_file_are_known(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("joe:pencil\n")
    assert user(f"file:{tmp_path}/passwd") == "joe"
    assert user(f"file:{tmp_path}/passwd", password="wrong") is None


def test_they_check_responses_to_challenges_too() -> None:
    """The response of CRAM-MD5 (RFC 2195 section 2)."""
    known = {
        "method": "CRAM-MD5",
        "username": "tim",
        "password": None,
        "challenge": "<1896.697170952@postoffice.reston.mci.net>",
    }
    right = "b913a602c7eda7a495b4e6e7334d3890"
    checkers = ["memory:joe:pencil", "memory:tim:tanstaaftanstaaf"]
    assert user(*checkers, challengeResponse=right, **known) == "tim"
    assert user(*checkers, challengeResponse="0" * 32, **known) is None


def test_they_are_asked_in_order_until_one_accepts(plugins: dict[str, Any]) -> None:
    checkers = [Checker(UnauthorizedLogin()), Checker(fail(UnauthorizedLogin())), Checker(b"joe"), Checker(b"late")]
    plugins.update(zip("abcd", checkers, strict=True))
    assert user(*"abcd") == "joe"
    assert [checker.asked for checker in checkers] == [1, 1, 1, 0]


def test_a_slow_checker_is_awaited(plugins: dict[str, Any]) -> None:
    decision: Deferred[bytes] = Deferred()
    plugins.update(slow=Checker(decision))
    portal = makePortal(AuthSettings("--auth", ["memory:a:b", "slow"]))
    login = onAuthOf(portal)(Auth(method="PLAIN", username="joe", password="pencil"), Session())
    assert not login.called
    decision.callback(b"joe")
    assert login.result.user == "joe"  # type: ignore[union-attr]


def test_a_checker_is_asked_only_for_its_credential_interfaces(plugins: dict[str, Any]) -> None:
    plugins.update(hashed=Checker(b"joe", IUsernameHashedPassword))
    portal = makePortal(AuthSettings("--auth", ["hashed"]))
    assert canCheck(portal, "CRAM-MD5") and not canCheck(portal, "PLAIN")
    assert user("hashed", "memory:a:b") is None
    assert plugins["hashed"].asked == 0


def test_after_an_error_no_other_checker_is_asked(plugins: dict[str, Any], logged: Logged) -> None:
    """Otherwise a user whom the first database rejects could log in while it is down."""
    plugins.update(broken=Checker(OSError("away")), other=Checker(b"joe"))
    result = user("broken", "other")
    assert isinstance(result, Failure) and result.check(OSError)
    assert plugins["other"].asked == 0


@pytest.mark.parametrize(
    ("checker", "sentence"),
    [
        ("nothing:pencil", "--auth: checker 1 is of no known kind, known are "),
        ("pencil", "--auth: checker 1 is of no known kind, known are "),
        ("file:/none/at/all", "--auth: checker 1 is file:/none/at/all, which is no file, name another one"),
        ("file:", "--auth: checker 1 cannot be made, correct it: ValueError: 'file' requires a filename"),
        ("memory:pencil", "--auth: checker 1 cannot be made, correct it: InvalidAuthArgumentString: argstring must be"),
        ("broken:pencil", "--auth: checker 1 cannot be made, correct it: ValueError: bad (not shown)"),
        ("anonymous:pencil", "--auth: checker 1 (anonymous) checks no passwords, name another one"),
    ],
)
def test_each_mistake_has_its_sentence_without_the_argument(
    plugins: dict[str, Any], checker: str, sentence: str
) -> None:
    plugins.update(broken=ValueError("bad pencil"), anonymous=AllowAnonymousAccess())
    said = refusal(checker)
    assert said.startswith(sentence)
    assert "pencil" not in said


def test_the_sentence_has_the_number_of_the_checker() -> None:
    assert refusal("memory:a:b", "nothing").startswith("--auth: checker 2 is of no known kind")
