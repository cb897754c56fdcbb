"""Sockets that a supervisor opens: real ones, on loopback and in a folder."""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.error import CannotListenError

from smtphooks.service.sockets import ListeningSockets, open_

LOOPBACK = "interface=127.0.0.1"
spreads = pytest.mark.skipif(sys.platform != "linux", reason="SO_REUSEPORT spreads connections on Linux alone")


class Openings:
    """Opens sockets, and closes them at the end."""

    def __init__(self) -> None:
        self.opened: list[ListeningSockets] = []

    def __call__(self, description: str, number: int = 1, position: int = 0) -> ListeningSockets:
        sockets = open_(description, position, number, self.opened)
        if all(sockets is not one for one in self.opened):
            self.opened.append(sockets)
        return sockets


@pytest.fixture
def opening() -> Iterator[Openings]:
    before = descriptors()
    openings = Openings()
    yield openings
    for each in openings.opened:
        each.close()
    assert descriptors() <= before


def descriptors() -> set[str]:
    """The file descriptors of this process, where the system shows them."""
    return {*os.listdir("/proc/self/fd")} if os.path.isdir("/proc/self/fd") else set()


def portOf(sockets: ListeningSockets) -> int:
    return int(sockets.getHost().port)


def anyPort() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def acceptedBy(sockets: ListeningSockets) -> list[int]:
    """How many connections wait in each socket; they are taken out."""
    counts = []
    for descriptor in sockets.descriptors:
        with socket.socket(fileno=os.dup(descriptor)) as listening:
            count = 0
            try:
                while True:
                    listening.accept()[0].close()
                    count += 1
            except OSError:  # none waits, or it does not listen
                counts.append(count)
    return counts


def connect(port: int, times: int) -> None:
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(times)]
    for client in clients:
        client.close()


# --- TCP ---


@spreads
def test_each_worker_has_a_socket_and_the_kernel_spreads_connections(opening: Openings) -> None:
    sockets = opening(f"tcp:0:{LOOPBACK}", 2)
    assert (sockets.family, sockets.isShared, len(sockets.descriptors)) == (socket.AF_INET, False, 2)
    connect(portOf(sockets), 60)
    counts = acceptedBy(sockets)
    assert sum(counts) == 60
    assert all(counts)


@spreads
def test_a_second_opener_is_refused_although_ports_are_shared(opening: Openings) -> None:
    port = portOf(opening(f"tcp:0:{LOOPBACK}", 2))
    for description in (f"tcp:{port}:{LOOPBACK}", f"tcp:{port}"):
        with pytest.raises(CannotListenError) as caught:
            open_(description, 0, 2, [])
        assert "in use" in str(caught.value)


def test_a_port_that_others_have_is_refused_and_nothing_stays_open(opening: Openings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(CannotListenError):
            opening(f"tcp:{other.getsockname()[1]}:{LOOPBACK}", 2)


def test_a_port_is_free_when_its_sockets_are_closed(opening: Openings) -> None:
    port = anyPort()
    first = open_(f"tcp:{port}:{LOOPBACK}", 0, 3, [])
    connect(port, 3)
    first.close()
    first.close()
    assert portOf(opening(f"tcp:{port}:{LOOPBACK}", 3)) == port


def test_IPv6_has_sockets_of_its_own_family(opening: Openings) -> None:
    sockets = opening("tcp6:0:interface=\\:\\:1", 2)
    assert sockets.family == socket.AF_INET6
    assert sockets.getHost().host == "::1"


def test_endpoints_that_differ_in_other_respects_alone_have_the_same_sockets(opening: Openings) -> None:
    port = anyPort()
    sockets = opening(f"tcp:{port}:{LOOPBACK}")
    assert opening(f"tcp:port={port}:{LOOPBACK}:backlog=7") is sockets
    assert len(opening.opened) == 1


def test_any_free_port_belongs_to_its_place_in_the_configuration(opening: Openings) -> None:
    first, second = opening(f"tcp:0:{LOOPBACK}", position=0), opening(f"tcp:0:{LOOPBACK}", position=1)
    assert portOf(first) != portOf(second)
    assert opening(f"tcp:0:{LOOPBACK}", position=1) is second


@spreads
def test_sockets_that_are_added_take_no_connection_before_they_listen(opening: Openings) -> None:
    sockets = opening(f"tcp:0:{LOOPBACK}", 1)
    assert opening(f"tcp:0:{LOOPBACK}", 3) is sockets
    assert (len(sockets.descriptors), sockets.listening) == (3, 1)
    connect(portOf(sockets), 40)
    assert acceptedBy(sockets) == [40, 0, 0]
    sockets.listen()
    assert sockets.listening == 3
    connect(portOf(sockets), 60)
    counts = acceptedBy(sockets)
    assert sum(counts) == 60
    assert all(counts)


@spreads
def test_sockets_that_have_not_come_to_listen_can_be_closed_without_a_loss(opening: Openings) -> None:
    sockets = opening(f"tcp:0:{LOOPBACK}", 2)
    opening(f"tcp:0:{LOOPBACK}", 4)
    connect(portOf(sockets), 20)
    sockets.shrink()
    assert len(sockets.descriptors) == 2
    assert sum(acceptedBy(sockets)) == 20
    sockets.grow(3)
    sockets.listen()
    assert sockets.listening == 3


@spreads
def test_sockets_are_not_closed_when_fewer_are_needed(opening: Openings) -> None:
    opening(f"tcp:0:{LOOPBACK}", 3)
    assert len(opening(f"tcp:0:{LOOPBACK}", 1).descriptors) == 3


@spreads
def test_where_another_socket_cannot_be_opened_those_that_are_there_stay(
    opening: Openings, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets = opening(f"tcp:0:{LOOPBACK}", 2)

    def refuse(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patching:
        patching.setattr(socket.socket, "bind", refuse)
        assert opening(f"tcp:0:{LOOPBACK}", 4) is sockets
    assert (len(sockets.descriptors), sockets.listening) == (2, 2)


@spreads
def test_where_not_all_of_a_new_endpoint_can_be_opened_none_is(
    opening: Openings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind = socket.socket.bind
    bound: list[object] = []

    def bindTwice(self: socket.socket, address: object) -> None:
        bound.append(address)
        if len(bound) > 2:
            raise OSError(24, "Too many open files")
        bind(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "bind", bindTwice)
    with pytest.raises(CannotListenError):
        opening(f"tcp:0:{LOOPBACK}", 4)


def test_where_the_kernel_does_not_spread_connections_workers_share_a_socket(
    opening: Openings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtphooks.service.sockets._SPREADS", False)
    sockets = opening(f"tcp:0:{LOOPBACK}", 4)
    assert (sockets.isShared, len(sockets.descriptors)) == (True, 1)
    opening(f"tcp:0:{LOOPBACK}", 6)
    assert len(sockets.descriptors) == 1


def test_a_description_that_is_wrong_is_an_error() -> None:
    with pytest.raises(ValueError):
        open_("nothing:1", 0, 1, [])


# --- UNIX ---


def test_a_unix_socket_is_shared_and_has_its_mode_and_its_lock(opening: Openings, tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    sockets = opening(f"unix:{path}:mode=660", 4)
    assert (sockets.family, sockets.isShared, len(sockets.descriptors)) == (socket.AF_UNIX, True, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert os.path.lexists(f"{path}.lock")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert acceptedBy(sockets) == [1]
    sockets.close()
    assert os.listdir(tmp_path) == []


def test_a_second_opener_of_a_path_is_refused_and_the_first_goes_on(opening: Openings, tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    sockets = opening(f"unix:{path}")
    with pytest.raises(CannotListenError):
        open_(f"unix:{path}", 0, 1, [])
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert acceptedBy(sockets) == [1]


def test_the_socket_of_a_process_that_has_died_is_replaced(opening: Openings, tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    # The lock of Twisted's is a symbolic link to the number of a process.
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    os.symlink(str(child), f"{path}.lock")
    sockets = opening(f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert acceptedBy(sockets) == [1]


def test_a_path_that_cannot_be_bound_leaves_no_lock(opening: Openings, tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    path.write_text("mine")
    with pytest.raises(CannotListenError):
        opening(f"unix:{path}")
    assert os.listdir(tmp_path) == ["lmtp"]
    assert path.read_text() == "mine"


def test_without_a_lock_there_is_none(opening: Openings, tmp_path: Path) -> None:
    sockets = opening(f"unix:{tmp_path / 'lmtp'}:lockfile=0")
    assert os.listdir(tmp_path) == ["lmtp"]
    sockets.close()
    assert os.listdir(tmp_path) == []


@spreads
def test_an_abstract_socket_has_no_path_to_remove(opening: Openings) -> None:
    sockets = opening(f"unix:\0smtphooks-{os.getpid()}")
    assert sockets.path is None
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"\0smtphooks-{os.getpid()}")
    assert acceptedBy(sockets) == [1]
