"""Routes: values that say where a message goes, and show no secret."""

from __future__ import annotations

import re
from typing import Any

import attrs
import pytest

from smtphooks.client import Route, routeTo
from smtphooks.errors import OptionError
from tests.secrets import PASSWORD, TOKEN, secretsIn


@pytest.mark.parametrize(
    ("text", "host", "port", "path"),
    [
        ("mx.test", "mx.test", 25, None),
        ("mx.test:2525", "mx.test", 2525, None),
        ("192.0.2.1:24", "192.0.2.1", 24, None),
        ("[2001:db8::25]:24", "2001:db8::25", 24, None),
        ("[2001:db8::25]", "2001:db8::25", 25, None),
        ("/run/lmtp", "", 25, "/run/lmtp"),
    ],
)
def test_a_text_says_where_the_server_is(text: str, host: str, port: int, path: str | None) -> None:
    route = routeTo(text, lmtp=True)
    assert (route.host, route.port, route.path, route.lmtp) == (host, port, path, True)
    assert str(route) == {"[2001:db8::25]": "[2001:db8::25]:25", "mx.test": "mx.test:25"}.get(text, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":25",
        "mx.test:",
        "mx.test:0",
        "mx.test:65536",
        "mx.test:²",
        "mx test:25",
        "::1",
        "::1:25",
        "a:b:25",
        "smtp://mx.test",
        "smtp://mx.test:25",
        "[]:25",
    ],
)
def test_another_text_is_an_error(text: str) -> None:
    with pytest.raises(OptionError, match="the server is"):
        routeTo(text)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"host": "mx.test", "path": "/x"},
        {"host": "mx.test", "port": 0},
        {"host": "mx.test", "port": True},
        {"host": "mx test"},
        {"host": "mx.test\r\n"},
        {"host": "mx.test", "tls": "maybe"},
        {"host": "mx.test", "verify": "no"},
        {"host": "mx.test", "user": "ann"},
        {"host": "mx.test", "password": "x"},
        {"host": "mx.test", "user": "ann\0root", "password": "x"},
        {"host": "mx.test", "user": "ann", "password": "x\0y"},
        {"host": "mx.test", "user": "ann", "token": "x\1y"},
        {"host": "mx.test", "user": "ann", "password": ""},
        {"host": "mx.test", "key": "/key"},
        {"host": "mx.test", "name": "a b"},
        {"host": "mx.test", "name": "ä"},
        {"host": "mx.test", "name": "a\r\nMAIL"},
        {"host": "mx.test", "xClient": [("NAME", "a\r\nb")]},
        {"host": "mx.test", "xClient": ["NAME"]},
    ],
)
def test_a_wrong_value_is_an_error(given: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        Route(**given)


def test_a_route_is_a_value_and_every_field_of_it_counts() -> None:
    fields: dict[str, Any] = {
        "host": "other.test",
        "port": 26,
        "lmtp": True,
        "tls": "required",
        "verify": True,
        "ca": "/ca",
        "servername": "x.test",
        "authMethods": ("PLAIN",),
        "allowInsecureAuth": True,
        "xClient": (("NAME", "x"),),
        "name": "other.test",
    }
    base = {"host": "mx.test", "name": "client.test"}
    assert Route(**base) == Route(**base)
    assert hash(Route(**base)) == hash(Route(**base))
    variants = [{name: value} for name, value in fields.items()]
    variants += [{"key": "/k", "cert": "/c"}, {"user": "a", "password": "b"}, {"user": "a", "token": "b"}]
    routes = {Route(**{**base, **given}) for given in variants}
    assert len({*routes, Route(**base)}) == len(variants) + 1
    named = {field.name for field in attrs.fields(Route)}
    assert named == {*fields, "path", "key", "cert", "user", "password", "token"}


def test_no_secret_is_shown() -> None:
    for given in ({"password": PASSWORD}, {"token": TOKEN}):
        route = Route(host="mx.test", user="ann", **given)  # type: ignore[arg-type]
        assert not secretsIn(f"{route} {route!r}")
        assert "(not shown)" in repr(route)
    key = "-----BEGIN PRIVATE KEY-----\nMIIsecret\n-----END PRIVATE KEY-----"
    assert "MIIsecret" not in repr(Route(host="mx.test", key=key, cert="/c"))
    for given in ({"password": f"{PASSWORD}\0"}, {"token": f"{TOKEN}\n"}):
        with pytest.raises(OptionError) as caught:
            Route(host="mx.test", user="ann", **given)  # type: ignore[arg-type]
        assert not secretsIn(str(caught.value))


def test_connections_are_counted_by_the_server_whatever_is_said_to_it() -> None:
    assert Route(host="MX.test", tls="none").peer == Route(host="mx.test", user="a", password="b").peer
    assert Route(host="mx.test", port=24).peer != Route(host="mx.test").peer
    assert Route(path="/a").peer != Route(path="/b").peer


def test_a_certificate_is_verified_where_TLS_must_be() -> None:
    kinds = {
        tls: Route(host="mx.test", tls=tls).mustVerify for tls in ("none", "opportunistic", "required", "implicit")
    }
    assert kinds == {"none": False, "opportunistic": False, "required": True, "implicit": True}
    assert Route(host="mx.test", verify=True).mustVerify
    assert not Route(host="mx.test", tls="required", verify=False).mustVerify


def test_our_own_name_is_that_of_the_host() -> None:
    assert re.fullmatch(r"\S+", Route(host="mx.test").name)
