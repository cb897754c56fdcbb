"""The servers of a relay: which of them are tried, in which order, and for how long one is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Coroutine
from random import Random
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from smtphooks import OptionError
from smtphooks.client import ReceivedReply, Refused, Unreachable, routeTo
from smtphooks.stores.upstreams import Group, Upstream, Upstreams, isOfServer

RETRY = 30.0


class Trying:
    """
    Upstreams that are tried.

    @ivar down: those that cannot be used.
    @ivar tried: all attempts.
    """

    def __init__(self, given: Any) -> None:
        self.upstreams = Upstreams(given, routeTo, RETRY)
        self.clock = Clock()
        self.down: set[str] = set()
        self.tried: list[str] = []

    async def attempt(self, upstream: Upstream) -> str:
        name = upstream.route.host
        self.tried.append(name)
        if name in self.down:
            raise Unreachable(f"{name} is down")
        return name

    def first(self, domain: str = "example.org") -> Any:
        """The result for a domain, and what was tried for it."""
        self.tried.clear()
        group = self.upstreams.maybeGroup(domain)
        assert group is not None
        result = resultOf(self.upstreams.firstOf(group, self.clock, self.attempt))
        return result, "".join(self.tried)


def resultOf(coroutine: Coroutine[Any, Any, Any]) -> Any:
    found: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(found.append)
    (result,) = found
    return getattr(result, "value", result)


TWO = [{"to": "a:25", "priority": 1}, {"to": "b:25", "priority": 2}]


def test_the_lowest_priority_is_tried_first() -> None:
    assert Trying(TWO).first() == ("a", "a")
    assert Trying(list(reversed(TWO))).first() == ("a", "a")


def test_one_that_is_down_is_left_out_until_one_transaction_tries_it_again() -> None:
    trying = Trying(TWO)
    trying.down = {"a"}
    assert trying.first() == ("b", "ab")
    trying.clock.advance(RETRY - 1)
    assert trying.first() == ("b", "b")
    trying.clock.advance(1)
    assert trying.first() == ("b", "ab")
    assert trying.first() == ("b", "b")
    trying.down.clear()
    trying.clock.advance(RETRY)
    assert trying.first() == ("a", "a")
    assert trying.first() == ("a", "a")


def test_while_one_transaction_tries_whether_it_is_back_others_do_not() -> None:
    trying = Trying(TWO)
    trying.down = {"a"}
    trying.first()
    trying.clock.advance(RETRY)
    group = trying.upstreams.maybeGroup("")
    assert group is not None
    waiting: Deferred[str] = Deferred()

    async def wait(upstream: Upstream) -> str:
        return await waiting

    probe = Deferred.fromCoroutine(trying.upstreams.firstOf(group, trying.clock, wait))
    assert trying.first() == ("b", "b")
    waiting.callback("a")
    assert probe.called
    trying.down.clear()
    assert trying.first() == ("a", "a")


def test_where_all_are_down_all_are_tried() -> None:
    trying = Trying(TWO)
    trying.down = {"a", "b"}
    for _ in range(3):
        error, tried = trying.first()
        assert str(error) == "b is down"
        assert tried == "ab"
    trying.down = {"a"}
    assert trying.first() == ("b", "ab")
    assert trying.first() == ("b", "b")


def test_a_refusal_of_a_message_is_an_answer_and_the_server_is_up() -> None:
    trying = Trying(TWO)
    refusal = Refused("a refuses MAIL", ReceivedReply("550 no"))

    async def refuse(upstream: Upstream) -> None:
        trying.tried.append(upstream.route.host)
        raise refusal

    group = trying.upstreams.maybeGroup("")
    assert group is not None
    assert resultOf(trying.upstreams.firstOf(group, trying.clock, refuse)) is refusal
    assert trying.tried == ["a"]
    assert trying.first() == ("a", "a")


def test_a_refusal_of_one_client_leaves_the_server_to_others() -> None:
    trying = Trying(TWO)
    refusal = Refused("a refuses XCLIENT", ReceivedReply("554 5.7.1 192.0.2.66 is on a list"))
    refusal.isOpening = refusal.isOfIdentity = True

    async def refuse(upstream: Upstream) -> None:
        trying.tried.append(upstream.route.host)
        raise refusal

    group = trying.upstreams.maybeGroup("")
    assert group is not None
    assert resultOf(trying.upstreams.firstOf(group, trying.clock, refuse)) is refusal
    assert trying.tried == ["a"], "the other server would be asked the same"
    assert trying.first() == ("a", "a")


@pytest.mark.parametrize(
    "error, isOpening, isOf",
    [
        (Unreachable("gone"), False, True),
        (Refused("no", ReceivedReply("550 no")), False, False),
        (Refused("no", ReceivedReply("450 no")), False, False),
        (Refused("no", ReceivedReply("421 bye")), False, True),
        (Refused("no", ReceivedReply("530 5.7.0 Must issue a STARTTLS command first")), False, True),
        (Refused("no", ReceivedReply("554 no")), True, True),
    ],
)
def test_what_is_about_the_server(error: Any, isOpening: bool, isOf: bool) -> None:
    error.isOpening = isOpening
    assert isOfServer(error) is isOf


def test_weights_say_how_often_each_is_first() -> None:
    group = Group([Upstream(routeTo("a:25"), weight=3), Upstream(routeTo("b:25")), Upstream(routeTo("c:25"), 1, 9)])
    chance = Random(1)
    orders = Counter("".join(each.route.host for each in group.inOrder(0, chance.random)) for _ in range(4000))
    assert orders.keys() == {"abc", "bac"}
    assert 2900 < orders["abc"] < 3100


def test_domains_have_their_servers() -> None:
    trying = Trying({"example.org": "a:25", ".example.org": "b:25", "sub.example.org": ["c:25"], "*": "d:25"})
    domains = ["example.org", "EXAMPLE.ORG", "x.example.org", "x.y.example.org", "sub.example.org", "x.sub.example.org"]
    assert [trying.first(domain)[0] for domain in domains] == ["a", "a", "b", "b", "c", "b"]
    assert [trying.first(domain)[0] for domain in ("example.net", "notexample.org", "org", "")] == ["d"] * 4


def test_a_domain_is_the_same_in_any_spelling() -> None:
    """RFC 5890 section 2.3.2.1: U-labels and A-labels; and a dot at the end, as in DNS."""
    trying = Trying({"bücher.example": "a:25", ".xn--bcher-kva.example": "b:25", "Example.org.": "c:25", "*": "d:25"})
    assert [trying.first(each)[0] for each in ("bücher.example", "BÜCHER.example", "xn--Bcher-kva.example")] == [
        "a"
    ] * 3
    assert trying.first("x.bücher.example")[0] == "b"
    assert [trying.first(each)[0] for each in ("example.org", "EXAMPLE.org.", "\ud800.example")] == ["c", "c", "d"]


@pytest.mark.parametrize("other", ["Example.org", "example.org."])
def test_a_domain_is_there_once(other: str) -> None:
    with pytest.raises(OptionError, match="twice"):
        Upstreams({"example.org": "a:25", other: "b:25"}, routeTo, RETRY)


def test_without_a_default_a_domain_may_have_none() -> None:
    upstreams = Upstreams({"example.org": "a:25"}, routeTo, RETRY)
    assert upstreams.maybeGroup("example.net") is None
    assert upstreams.isSplit


def test_domains_with_the_same_servers_are_one_group() -> None:
    upstreams = Upstreams({"example.org": ["a:25", "b:25"], "*": ["a:25", "b:25"]}, routeTo, RETRY)
    assert len(upstreams.groups) == 1
    assert not upstreams.isSplit


@pytest.mark.parametrize("given", ["a", "a:25", "/run/lmtp", "[::1]:24", ["a:25", "b:25"], {"to": "a:25", "weight": 2}])
def test_one_or_several_are_for_all(given: Any) -> None:
    assert not Upstreams(given, routeTo, RETRY).isSplit


@pytest.mark.parametrize(
    "given",
    [
        *(None, 25, "", [], {}, [25], [[]], "a:x", "a b:25", {"": "a:25"}, {"x y": "a:25"}, {"example.org": []}),
        *({"to": 25}, {"to": "a:25", "weight": True}, {"to": "a:25", "priority": -1}, {"to": "a:25", "x": 1}, "::1:25"),
    ],
)
def test_other_values_are_errors_that_name_the_option(given: Any) -> None:
    with pytest.raises(OptionError, match="option upstream") as caught:
        Upstreams(given, routeTo, RETRY)
    assert caught.value.options == ("upstream",)
