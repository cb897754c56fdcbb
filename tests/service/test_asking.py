"""What each hook of a listener asks, in words, and the warning for a listener that takes mail for any recipient."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal

from smtphooks import Layer, SMTPServerFactory, layers
from smtphooks.sasl.portal import UserNameRealm
from smtphooks.service.asking import maybeWarning, questions


class Picky:
    def onConnect(self, session: Any) -> None: ...
    def onRcptTo(self, address: Any, session: Any) -> None: ...
    def onClose(self, session: Any) -> None: ...


class Store:
    def onStart(self, service: Any) -> None: ...
    def onStop(self, service: Any) -> None: ...
    def onData(self, stream: Any, session: Any) -> None: ...


class Scanner:
    def onStart(self, service: Any) -> None: ...
    def onStop(self, service: Any) -> None: ...
    async def inspectData(self, stream: Any, session: Any) -> None: ...
    async def filterData(self, stream: Any, session: Any) -> Any:
        yield b""


class Users:
    def onAuth(self, auth: Any, session: Any) -> None: ...


def asked(*hooks: Any, **options: Any) -> list[str]:
    """The lines for a factory of these layers."""
    return list(questions(SMTPServerFactory(hooks=list(hooks), authOptional=True, **options)))


def test_hooks_stand_in_the_order_of_a_connections_life_and_layers_in_theirs() -> None:
    assert asked(Picky(), Scanner(), Picky(), Users(), Store()) == [
        "onStart: Scanner, Store",
        "onConnect: Picky, Picky",
        "onAuth: Users",
        "onRcptTo: Picky, Picky",
        "inspectData: Scanner",
        "filterData: Scanner",
        "onData: Store",
        "onClose: Picky, Picky",
        "onStop: Store, Scanner",
    ]


class Tagging:
    async def filterData(self, stream: Any, session: Any) -> Any:
        yield b""


class Looking:
    async def inspectData(self, stream: Any, session: Any) -> None: ...


def test_inspectors_that_look_at_a_message_at_once_share_a_line_which_says_so() -> None:
    assert asked(Looking(), Picky(), Layer(Scanner(), hookTimeout=3), Tagging(), Store())[3:-2] == [
        "inspectData, all at once: Looking, Scanner (at most 3 s)",
        "filterData: Scanner (at most 3 s), Tagging",
        "onData: Store",
    ]


def test_an_inspector_behind_a_filter_looks_at_what_comes_out_of_it() -> None:
    assert asked(Looking(), Tagging(), Looking(), Store())[1:-1] == [
        "onRcptTo: no layer, every recipient is accepted",
        "inspectData: Looking",
        "filterData: Tagging",
        "inspectData: Looking",
        "onData: Store",
    ]


class Refusing:
    authenticates = False

    def onAuth(self, auth: Any, session: Any) -> None: ...


def test_checkers_are_asked_behind_layers_that_only_refuse() -> None:
    portal = Portal(UserNameRealm(), [InMemoryUsernamePasswordDatabaseDontUse()])
    assert asked(Refusing(), Store(), portal=portal, authMethods=["PLAIN"])[1] == "onAuth: Refusing, the checkers"
    assert asked(Refusing(), Users(), Store())[1] == "onAuth: Refusing, Users"
    assert not any("onAuth" in line for line in asked(Refusing(), Store()))


def test_conditions_timeouts_and_faults_stand_behind_the_layer() -> None:
    layer = Layer(Picky(), unless=["authenticated", "192.0.2.0/24"], hookTimeout=2.5, onFault="pass")
    assert asked(layer, Store())[1:3] == [
        f"{name}: Picky (unless authenticated or 192.0.2.0/24; at most 2.5 s; a fault passes)"
        for name in ("onConnect", "onRcptTo")
    ]


def test_what_is_only_told_is_told_of_every_client_and_its_faults_change_nothing() -> None:
    layer = Layer(Picky(), unless=["secure"], hookTimeout=3, onFault="pass")
    assert "onClose: Picky (at most 3 s)" in asked(layer, Store())


def test_a_filter_that_fails_fails_the_message_whatever_its_layer_says() -> None:
    lines = asked(Layer(Scanner(), unless=["secure"], onFault="pass"), Store())
    assert lines[2:4] == ["inspectData: Scanner (unless secure; a fault passes)", "filterData: Scanner (unless secure)"]


def test_life_has_no_conditions() -> None:
    lines = asked(Layer(Scanner(), unless=["secure"], hookTimeout=3), Store())
    assert (lines[0], lines[-1]) == ("onStart: Scanner, Store", "onStop: Store, Scanner")


@pytest.mark.parametrize(("common", "shown"), [(0, "5"), (3, "3"), (9, "5")])
def test_the_shorter_one_of_two_timeouts_is_in_force(common: float, shown: str) -> None:
    line = asked(Layer(Picky(), hookTimeout=5), Store(), hookTimeout=common)[1]
    assert line == f"onConnect: Picky (at most {shown} s)"


def test_layers_have_the_name_that_they_were_given() -> None:
    assert asked(Layer(Picky(), name="first"), Store())[1] == "onConnect: first"


def test_it_is_said_what_becomes_of_recipients_and_messages_that_no_layer_decides_on() -> None:
    factory = SMTPServerFactory(hooks=Users())
    assert list(questions(factory)) == [
        "onAuth: Users",
        "onRcptTo: no layer, every recipient is accepted",
        "onData: no layer, every message is accepted and dropped",
    ]


class TestWarning:
    OPEN = (
        "no layer decides on recipients: any client may send to any address, add a layer with onRcptTo such as"
        " smtphooks.layers:Recipients"
    )

    def test_a_listener_for_other_hosts_where_no_layer_decides_on_recipients_has_one(self) -> None:
        factory = SMTPServerFactory(hooks=Store(), authOptional=True)
        assert maybeWarning("tcp:25", factory) == self.OPEN

    def test_it_says_so_if_only_users_are_let_in(self) -> None:
        factory = SMTPServerFactory(hooks=[Users(), Store()])
        assert maybeWarning("tcp:25", factory) == self.OPEN.replace("client", "client that has authenticated")

    def test_a_listener_on_loopback_has_none(self) -> None:
        factory = SMTPServerFactory(hooks=Store(), authOptional=True)
        assert maybeWarning("tcp:25:interface=127.0.0.1", factory) is None

    def test_a_layer_that_decides_with_conditions_decides(self) -> None:
        hooks = [Layer(Picky(), unless=["authenticated"], onFault="pass"), Store()]
        assert maybeWarning("tcp:25", SMTPServerFactory(hooks=hooks, authOptional=True)) is None


class Limiting:
    choosesRecipients = False

    def onRcptTo(self, address: Any, session: Any) -> None: ...


def test_a_layer_that_does_not_look_for_the_recipient_silences_no_warning() -> None:
    def warning(*hooks: Any, **named: Any) -> str | None:
        return maybeWarning("tcp:25", SMTPServerFactory(hooks=[*hooks, Store()], authOptional=True, **named))

    assert "any client may send to any address" in (warning(Limiting()) or "")
    assert warning(Limiting(), Picky()) is None
    assert warning(onRcptTo=lambda address, session: None) is None


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("RateLimit", {"limits": ["9 messages per hour per client"]}),
        ("DNSLists", {"clients": ["bl.example"]}),
        ("Greylist", {"path": "greylist.db", "only": ["no-reverse-name"]}),
        ("Recipients", {"recipients": ["ann@mx.example"]}),
    ],
)
def test_of_the_ready_made_layers_those_that_know_recipients_silence_it(name: str, options: dict[str, Any]) -> None:
    layer = getattr(layers, name)(**options)
    warning = maybeWarning("tcp:25", SMTPServerFactory(hooks=[layer, Store()], authOptional=True))
    assert (warning is None) == (name == "Recipients")
