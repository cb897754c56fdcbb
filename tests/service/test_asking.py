"""What each hook of a listener asks, in words, and the warning for a listener that takes mail for any recipient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smtphooks import Layer, SMTPServerFactory
from smtphooks.layers import DNSLists, Greylist, RateLimit, Recipients
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

    @pytest.mark.parametrize("name", ["RateLimit", "DNSLists", "Greylist"])
    def test_a_layer_that_judges_clients_at_RCPT_does_not_decide_on_recipients(self, name: str, tmp_path: Path) -> None:
        client: Any = {
            "RateLimit": lambda: RateLimit(limits=["1 messages per hour per client"]),
            "DNSLists": lambda: DNSLists(clients=["zen.example.org"]),
            "Greylist": lambda: Greylist(path=str(tmp_path / "greylist.db"), only=["no-reverse-name"]),
        }[name]()
        assert maybeWarning("tcp:25", SMTPServerFactory(hooks=[client, Store()], authOptional=True)) == self.OPEN
        for decides in (Picky(), Recipients(recipients=["ann@example.org"])):
            hooks = [client, decides, Store()]
            assert maybeWarning("tcp:25", SMTPServerFactory(hooks=hooks, authOptional=True)) is None

    def test_a_function_given_by_name_decides(self) -> None:
        factory = SMTPServerFactory(hooks=Store(), authOptional=True, onRcptTo=Picky().onRcptTo)
        assert maybeWarning("tcp:25", factory) is None
