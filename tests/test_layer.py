"""Layers: the conditions that exempt clients, and what is wrong with a layer."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from smtphooks import Layer, OptionError, Session, SMTPServerFactory
from smtphooks.layer import labelOf
from smtphooks.stores import Discard


class Recipients:
    """A layer."""

    def onRcptTo(self, address: Any, session: Any) -> None: ...


@pytest.mark.parametrize(
    "unless, session, isExempt",
    [
        (["authenticated"], Session(user="ann"), True),
        (["authenticated"], Session(), False),
        (["secure"], Session(secure=True), True),
        (["secure"], Session(), False),
        (["192.0.2.0/24"], Session(remoteAddress="192.0.2.9"), True),
        (["192.0.2.0/24"], Session(remoteAddress="::ffff:192.0.2.9"), True),
        (["192.0.2.0/24"], Session(remoteAddress="198.51.100.1"), False),
        (["192.0.2.0/24"], Session(remoteAddress="/run/a.sock"), False),
        ([lambda session: session.lmtp], Session(lmtp=True), True),
        (["authenticated", "secure", "192.0.2.1"], Session(remoteAddress="192.0.2.1"), True),
        (["authenticated", "secure", "192.0.2.1"], Session(remoteAddress="192.0.2.2"), False),
    ],
)
def test_a_client_is_exempt_if_one_condition_holds(unless: Any, session: Session, isExempt: bool) -> None:
    exempts = Layer(Recipients(), unless=unless).exempts
    assert exempts is not None
    assert bool(exempts(session)) is isExempt


@pytest.mark.parametrize("unless", [[], ["secure"]])
def test_a_condition_that_has_to_be_waited_for_exempts_nobody(unless: list[Any]) -> None:
    """A coroutine and a Deferred are never false: every client would be exempt."""

    async def isKnown(session: Session) -> bool:
        return False

    for condition in (isKnown, lambda session: Deferred()):
        exempts = Layer(Recipients(), unless=[*unless, condition]).exempts
        assert exempts is not None
        with pytest.raises(TypeError, match="it has to answer at once"):
            exempts(Session())


def test_the_log_names_the_layer_of_any_kind_of_function() -> None:
    class Plain:
        onRcptTo = staticmethod(lambda address, session: None)

    factory = SMTPServerFactory(hooks=[Plain(), Discard()])
    assert labelOf(factory, "onRcptTo") == "onRcptTo of Plain"
    assert labelOf(factory, "onMailFrom") == "onMailFrom"


def test_without_conditions_nobody_is_exempt() -> None:
    assert Layer(Recipients()).exempts is None


def test_a_layer_is_called_by_the_name_of_its_class_unless_it_has_another() -> None:
    assert Layer(Recipients()).name == "Recipients"
    assert Layer(Recipients(), name="local").name == "local"


@pytest.mark.parametrize(
    "given, sentence",
    [
        ({"unless": "authenticated"}, "option unless is 'authenticated', it wants a list of"),
        ({"unless": ["authentic"]}, "option unless is wrong: 'authentic' is neither an address"),
        ({"unless": [5]}, "option unless is (5,), it wants a list of"),
        ({"hookTimeout": -1}, "option hookTimeout is -1, it wants a number of seconds"),
        ({"onFault": "accept"}, 'option onFault is \'accept\', it wants "tempfail" or "pass"'),
    ],
)
def test_a_wrong_value_is_one_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError) as caught:
        Layer(Recipients(), **given)
    assert sentence in str(caught.value)
