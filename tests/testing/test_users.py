"""Users of a server in a thread, by every mechanism that has passwords."""

from __future__ import annotations

import base64
import smtplib
from typing import Any

import pytest
from scramp import ScramClient

from smtphooks import AuthResponse, Hooks, OptionError
from smtphooks.testing import SMTPServerThread

USERS = {"ann": "secret"}


@pytest.fixture(autouse=True)
def withoutDelay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtphooks.dialogue.authentication._FIRST_DELAY", 0)


def test_mail_needs_a_user_if_there_are_users() -> None:
    with SMTPServerThread(users=USERS) as server, smtplib.SMTP(server.host, server.port, timeout=10) as client:
        with pytest.raises(smtplib.SMTPSenderRefused, match="530"):
            client.sendmail("ann@example.org", ["bob@example.org"], "")
        client.login("ann", "secret")
        client.sendmail("ann@example.org", ["bob@example.org"], "")
        assert server.messages[0].session.user == "ann"


def test_mail_needs_none_if_the_test_says_so() -> None:
    with SMTPServerThread(users=USERS, authOptional=True) as server:
        with smtplib.SMTP(server.host, server.port, timeout=10) as client:
            client.sendmail("ann@example.org", ["bob@example.org"], "")
        assert server.messages[0].session.user is None


@pytest.mark.parametrize("method", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("name, password, isRight", [("ann", "secret", 1), ("ann", "Secret", 0), ("bob", "secret", 0)])
def test_the_password_decides(method: str, name: str, password: str, isRight: int) -> None:
    with (
        SMTPServerThread(users=USERS, authMethods=[method]) as server,
        smtplib.SMTP(server.host, server.port, timeout=10) as client,
    ):
        if isRight:
            client.login(name, password)
        else:
            with pytest.raises(smtplib.SMTPAuthenticationError, match="535"):
                client.login(name, password)


@pytest.mark.parametrize("name, password, code", [("ann", "secret", 235), ("ann", "x", 535), ("bob", "secret", 535)])
def test_scram_does_so_too(name: str, password: str, code: int) -> None:
    with (
        SMTPServerThread(users=USERS, authMethods=["SCRAM-SHA-256"]) as server,
        smtplib.SMTP(server.host, server.port, timeout=10) as client,
    ):
        client.ehlo()
        scram = ScramClient(["SCRAM-SHA-256"], name, password)
        first = base64.b64encode(scram.get_client_first().encode()).decode()
        _, challenge = client.docmd("AUTH", f"SCRAM-SHA-256 {first}")
        scram.set_server_first(base64.b64decode(challenge).decode())
        answer, final = client.docmd(base64.b64encode(scram.get_client_final().encode()).decode())
        if answer == 334:
            scram.set_server_final(base64.b64decode(final).decode())
            answer, _ = client.docmd("")
        assert answer == code


def test_the_token_decides_for_mechanisms_that_have_one() -> None:
    with (
        SMTPServerThread(users=USERS, authMethods=["XOAUTH2"]) as server,
        smtplib.SMTP(server.host, server.port, timeout=10) as client,
    ):
        client.ehlo()
        for token, code in (("wrong", 535), ("secret", 235)):
            response = base64.b64encode(f"user=ann\1auth=Bearer {token}\1\1".encode()).decode()
            assert client.docmd("AUTH", f"XOAUTH2 {response}")[0] == code


def test_nobody_acts_as_another() -> None:
    with SMTPServerThread(users=USERS) as server, smtplib.SMTP(server.host, server.port, timeout=10) as client:
        client.ehlo()
        response = base64.b64encode(b"bob\0ann\0secret").decode()
        assert client.docmd("AUTH", f"PLAIN {response}")[0] == 535


def test_a_password_in_the_clear_can_be_refused() -> None:
    with (
        SMTPServerThread(users=USERS, allowInsecureAuth=False) as server,
        smtplib.SMTP(server.host, server.port, timeout=10) as client,
        pytest.raises(smtplib.SMTPNotSupportedError),
    ):
        client.login("ann", "secret")


class _Refusing(Hooks):
    authenticates = False

    def onAuth(self, auth: Any, session: Any) -> Any:
        return AuthResponse() if auth.username == "carl" else None


def test_layers_that_only_refuse_are_asked_first() -> None:
    with (
        SMTPServerThread([_Refusing()], users={"ann": "secret", "carl": "secret"}) as server,
        smtplib.SMTP(server.host, server.port, timeout=10) as client,
    ):
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("carl", "secret")
        client.login("ann", "secret")


class _Asking(Hooks):
    def onAuth(self, auth: Any, session: Any) -> Any: ...


@pytest.mark.parametrize("given", [{"onAuth": lambda auth, session: None}, {"hooks": _Asking()}])
def test_users_are_the_only_ones_to_ask(given: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="option users is given beside a portal or an onAuth hook"):
        SMTPServerThread(users=USERS, **given)


@pytest.mark.parametrize("users", [["ann"], {"ann": None}, "ann"])
def test_users_that_are_none_are_an_error_that_shows_no_password(users: Any) -> None:
    with pytest.raises(OptionError, match=r"option users is a (list|dict|str), it wants passwords by name"):
        SMTPServerThread(users=users)
