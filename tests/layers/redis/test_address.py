"""Addresses of Redis: what a URL says, what is none, and what is shown of it."""

from __future__ import annotations

import pytest

from smtphooks.layers.redis.address import SENTINEL_PORT, RedisAddress, addressOf, isURL, shownURLs
from smtphooks.optionkinds import NotShown
from tests.secrets import PASSWORD


@pytest.mark.parametrize(
    "url, address",
    [
        ("redis://redis.example", RedisAddress("redis.example", 6379)),
        ("redis://10.0.0.1:7000/3", RedisAddress("10.0.0.1", 7000, database=3)),
        ("redis://[2001:db8::1]:7000", RedisAddress("2001:db8::1", 7000)),
        ("rediss://ann:p%40ss@redis.example/", RedisAddress("redis.example", 6379, "", True, "ann", "p@ss")),
        ("redis://:word@MyMaster/0", RedisAddress("MyMaster", 6379, password="word")),
        ("unix:///run/redis.sock", RedisAddress("", 6379, "/run/redis.sock")),
        ("unix://:word@/run/redis.sock?db=2", RedisAddress("", 6379, "/run/redis.sock", False, "", "word", 2)),
    ],
)
def test_a_url_says_where_and_who(url: str, address: RedisAddress) -> None:
    assert addressOf(url) == address


@pytest.mark.parametrize(
    "url",
    [
        *("", "redis.example", "http://redis.example", "redis://", "redis://:6379", "redis://a:0", "redis://a:99999"),
        *("redis://a/b", "redis://a?db=1", "redis://a#f", "redis://a b", "redis://a/\u0663", "unix://run/redis.sock"),
        *("unix://", "unix:///a?x=1", "redis://[::1", None, 6379, b"redis://a"),
    ],
)
def test_anything_else_is_no_url(url: object) -> None:
    assert not isURL(url)


def test_sentinels_have_a_port_of_their_own() -> None:
    assert addressOf("redis://10.0.0.1", SENTINEL_PORT).port == 26379


def test_no_password_is_shown() -> None:
    secret = f"redis://ann:{PASSWORD}@redis.example/1"
    assert shownURLs((secret,)) == "redis://ann:(not shown)@redis.example/1"
    assert shownURLs((secret, "redis://a")) == ("redis://ann:(not shown)@redis.example/1", "redis://a")
    assert isinstance(shownURLs(PASSWORD), NotShown) and PASSWORD not in repr(shownURLs((PASSWORD, 7)))
    assert repr(addressOf(secret)) == "<RedisAddress redis.example:6379>"
