"""Composition: layers in, the hooks of a factory out; and what can be known to be wrong about layers."""

from __future__ import annotations

from typing import Any

import pytest

from smtphooks import Layer, OptionError, SMTPServerFactory
from smtphooks.connection.chain import Chain, Link
from smtphooks.errors import OptionWarning
from tests.support import connect


class Recipients:
    """A layer."""

    def onRcptTo(self, address: Any, session: Any) -> None: ...
    def onClose(self, session: Any) -> None: ...


class Store:
    """A delivery."""

    def onData(self, stream: Any, session: Any) -> None: ...


class OtherStore(Store):
    """Another one."""


class Filter:
    """A filter."""

    async def filterData(self, stream: Any, session: Any) -> Any:
        yield b""


class Inspector:
    """An inspector."""

    async def inspectData(self, stream: Any, session: Any) -> None: ...


class Both(Inspector, Filter):
    """A layer that inspects, and filters then."""


def note(*arguments: Any) -> None: ...


# --- hooks ---


@pytest.mark.parametrize("hooks", [Recipients(), [Recipients(), Store()]])
def test_a_hook_that_one_layer_has_is_its_own_method(hooks: Any) -> None:
    factory = SMTPServerFactory(hooks=hooks)
    assert factory.onRcptTo == factory.layers[0].hooks.onRcptTo
    assert factory.onHelo is None
    assert factory.passage is None


@pytest.mark.parametrize("given", [{"unless": ["secure"]}, {"hookTimeout": 5}, {"onFault": "pass"}])
def test_a_hook_with_conditions_of_its_own_is_a_chain(given: dict[str, Any]) -> None:
    factory = SMTPServerFactory(hooks=Layer(Recipients(), **given))
    assert isinstance(factory.onRcptTo, Chain)


def test_a_hook_of_several_layers_is_a_chain_of_them_in_order() -> None:
    a, b = Recipients(), Recipients()
    factory = SMTPServerFactory(hooks=[a, Layer(b, name="B", unless=["secure"]), Store()])
    for hook, isConditional in (("onRcptTo", True), ("onClose", False)):
        chain = getattr(factory, hook)
        assert [link.function for link in chain.links] == [getattr(a, hook), getattr(b, hook)]
        assert [link.label for link in chain.links] == [f"{hook} of Recipients", f"{hook} of B"]
        # What a layer is only told of it is told whoever the client is.
        assert [link.exempts is not None for link in chain.links] == [False, isConditional]


# --- what a message goes through ---


def shown(stages: Any) -> list[Any]:
    """Stages by the names of their layers; those of inspectors in a list."""
    return [
        each.label.split()[-1] if isinstance(each, Link) else [link.label.split()[-1] for link in each]
        for each in stages
    ]


@pytest.mark.parametrize(
    "layers, stages",
    [
        ([Filter()], ["Filter"]),
        ([Inspector(), Recipients(), Both()], [["Inspector", "Both"], "Both"]),
        ([Filter(), Inspector(), Filter(), Inspector()], ["Filter", ["Inspector"], "Filter", ["Inspector"]]),
        ([Both(), Both(), Filter(), Both()], [["Both", "Both"], "Both", "Both", "Filter", ["Both"], "Both"]),
    ],
)
def test_neighbouring_inspectors_look_at_once_and_then_filter_in_order(layers: list[Any], stages: list[Any]) -> None:
    for isFirst in (True, False):
        factory = SMTPServerFactory(hooks=[Store(), *layers] if isFirst else [*layers, Store()])
        assert factory.passage is not None
        assert shown(factory.passage.stages) == stages


def test_the_time_limit_of_the_delivery_is_kept_by_the_passage() -> None:
    factory = SMTPServerFactory(hooks=Layer(Store(), hookTimeout=5))
    assert factory.passage is not None
    assert (factory.passage.stages, factory.passage.timeout) == ([], 5)
    assert not isinstance(factory.onData, Chain)


# --- what is wrong ---


@pytest.mark.parametrize(
    "given, sentence",
    [
        ({"hooks": []}, "no layer with onData"),
        ({"hooks": [Recipients()]}, "no layer with onData, it wants one, last"),
        ({"hooks": [Store(), OtherStore()]}, "2 layers with onData, Store and OtherStore, it wants one of them"),
        ({"hooks": Layer(Store(), unless=["secure"])}, "layer Store has onData and unless, leave that out"),
        ({"hooks": [Layer(Store(), onFault="pass")]}, 'layer Store has onData and onFault = "pass", leave that out'),
        (
            {"hooks": [Recipients(), Store()], "onRcptTo": note},
            "layer Recipients has onRcptTo, put the function",
        ),
        ({"hooks": [Store()], "onData": note}, "layer Store has onData, put the function into a layer of its own"),
        ({"hooks": [Store(), object()]}, "it wants an object with a method such as onRcptTo or onData"),
        ({"hooks": [Store(), Recipients]}, "it wants an instance of it"),
        ({"hooks": [[Store()]]}, "it wants an object with a method such as onRcptTo or onData"),
    ],
)
def test_what_is_wrong_is_one_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError) as caught:
        SMTPServerFactory(**given)
    assert sentence in str(caught.value)
    assert caught.value.options == ("hooks",)


def test_a_function_may_be_the_delivery_of_layers_and_replaces_a_hook_of_a_single_object() -> None:
    assert SMTPServerFactory(hooks=[Recipients()], onData=note).onData is note
    assert SMTPServerFactory(hooks=Recipients(), onRcptTo=note).onRcptTo is note


@pytest.mark.parametrize("hooks", [Recipients(), [Recipients(), Store()]])
def test_a_hook_that_is_given_as_None_silences_no_layer(hooks: Any) -> None:
    assert SMTPServerFactory(hooks=hooks, onRcptTo=None).onRcptTo is not None


# --- what layers say of themselves ---


class Passing(Store):
    """A delivery that passes on what it accepts before the message comes."""

    wantsToBeLast = True
    advertisedLimits = {"RCPTDOMAINMAX": 1}

    def onRcptTo(self, address: Any, session: Any) -> None: ...


class Sender:
    """A layer."""

    def onMailFrom(self, address: Any, session: Any) -> None: ...


@pytest.mark.parametrize("behind", [Recipients(), Sender()])
def test_a_layer_behind_one_that_wants_to_be_last_is_a_doubt(behind: Any) -> None:
    name = type(behind).__name__
    with pytest.warns(OptionWarning, match=f"layer {name} stands behind layer Passing, which passes on"):
        SMTPServerFactory(hooks=[Passing(), behind])


@pytest.mark.parametrize("hooks", [[Recipients(), Sender(), Passing()], [Passing(), Inspector(), Filter()]])
def test_a_layer_in_front_of_it_or_one_that_refuses_no_command_is_none(
    hooks: Any, recwarn: pytest.WarningsRecorder
) -> None:
    SMTPServerFactory(hooks=hooks)
    assert not recwarn.list


def test_limits_of_layers_are_advertised_the_least_of_each() -> None:
    class Less(Recipients):
        advertisedLimits = {"RCPTMAX": 7, "RCPTDOMAINMAX": 3}

    client = connect(hooks=[Less(), Passing()], hideLIMITS=False, maxRecipients=10)
    assert "250 LIMITS RCPTMAX=7 RCPTDOMAINMAX=1" in client.say("EHLO client.test")
    client = connect(hooks=[Less(), Passing()], hideLIMITS=False, maxRecipients=5)
    assert "250 LIMITS RCPTMAX=5 RCPTDOMAINMAX=1" in client.say("EHLO client.test")
    client = connect(hooks=[Less(), Passing()])
    assert not [line for line in client.say("EHLO client.test") if "LIMITS" in line]


def test_an_attribute_that_is_no_mapping_is_no_limit() -> None:
    class Other(Store):
        advertisedLimits = 5
        wantsToBeLast = "no"

    client = connect(hooks=[Other(), Recipients()], hideLIMITS=False)
    assert "250 LIMITS RCPTMAX=1000" in client.say("EHLO client.test")
