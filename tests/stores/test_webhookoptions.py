"""The options of Webhook: what is wrong is said where the object is made, and no secret with it."""

from __future__ import annotations

import sys

import pytest

from smtphooks.errors import OptionError
from smtphooks.stores import Webhook
from tests.certificates import Authority
from tests.secrets import PASSWORD, SCRAM_SECRET, TOKEN, secretsIn

URL = "https://hooks.example.org/mail"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/",
        "example.org",
        "http://",
        "http://example.org:0/",
        "http://example.org:port/",
        "http://[::1/",
        "http://example.org/a b",
        "http://example.org/\r\nX: y",
        "http://exämple.org/",
        "http://a_name/",
        "http://[fe80::1%eth0]/",
        "http://example.org/#fragment",
        "",
        5,
        f"https://user:{PASSWORD}@example.org/",
    ],
)
def test_a_url_that_cannot_be_asked_is_an_error(url):
    with pytest.raises(OptionError, match=r"option url is .*, it wants") as caught:
        Webhook(url)
    assert not secretsIn(str(caught.value))
    with pytest.raises(OptionError, match="option recipientURL is"):
        Webhook(URL, recipientURL=url)


@pytest.mark.parametrize("url", ["http://h", "https://[::1]:8443/x?y=z", "http://127.0.0.1:8080/a%20b"])
def test_the_url_may_be_given_by_position_and_by_name(url):
    assert Webhook(url).url == Webhook(url=url).url == url


@pytest.mark.parametrize("token", ["", "a b", "a\r\nb", "ä", 5, b"token"])
def test_a_token_is_ASCII_without_spaces(token):
    with pytest.raises(OptionError, match="option token is"):
        Webhook(URL, token=token)


def test_no_secret_is_shown():
    hidden = Webhook(f"{URL}?key={TOKEN}", token=TOKEN, secret=SCRAM_SECRET, recipientURL=f"{URL}/{TOKEN}")
    assert not secretsIn(repr(hidden)) and not secretsIn(str(vars(hidden)["_breakers"].values()))
    with pytest.raises(OptionError) as caught:
        Webhook(URL, token=f"{TOKEN} {PASSWORD}")
    assert not secretsIn(str(caught.value))


def test_secrets_may_be_in_files(tmp_path):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "secret").write_text(f"{SCRAM_SECRET}\n")
    store = Webhook(URL, token=str(tmp_path / "token"), secret=str(tmp_path / "secret"))
    assert store._common["Authorization"] == f"Bearer {TOKEN}"
    assert store._secret == SCRAM_SECRET.encode()


@pytest.mark.parametrize("option", ["token", "secret"])
def test_a_file_that_is_missing_or_has_too_little_is_an_error(tmp_path, option):
    with pytest.raises(OptionError, match=f"the file of option {option} cannot be read: No such file"):
        Webhook(URL, **{option: str(tmp_path / "missing")})
    (tmp_path / "file").write_text(" ")
    with pytest.raises(OptionError, match=f"the file of option {option} h"):
        Webhook(URL, **{option: str(tmp_path / "file")})


@pytest.mark.parametrize("secret", ["short", b"short", 5])
def test_a_secret_has_sixteen_octets(secret):
    with pytest.raises(OptionError, match="option secret is"):
        Webhook(URL, secret=secret)


def test_authorities_are_read_from_a_file_or_a_text(tmp_path):
    pem = Authority().pem + Authority("Another").pem
    (tmp_path / "ca.pem").write_text(pem)
    assert Webhook(URL, ca=pem)._trustRoot is not None
    assert Webhook(URL, ca=str(tmp_path / "ca.pem"))._trustRoot is not None
    with pytest.raises(OptionError, match="option ca is given, and no URL that begins with https:"):
        Webhook("http://127.0.0.1/", ca=pem)
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(OptionError, match=r"option ca is .*no readable certificate in it"):
        Webhook(URL, ca=str(tmp_path / "empty.pem"))
    with pytest.raises(OptionError, match=r"option ca is .*No such file"):
        Webhook(URL, ca=str(tmp_path / "missing.pem"))


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": -1},
        {"connectTimeout": "5"},
        {"recipientCacheTime": -1},
        {"recipientCacheTime": True},
        {"breakerPause": float("inf")},
        {"breakerFailures": -1},
        {"spool": 1},
    ],
)
def test_numbers_are_checked(options):
    (name,) = options
    with pytest.raises(OptionError, match=f"option {name} is"):
        Webhook(URL, **options)


def test_a_missing_library_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "smtphooks.stores.webhooklinks", None)
    with pytest.raises(OptionError, match=r"Webhook needs a library .*: install smtphooks\[webhook\]$"):
        Webhook(URL)
