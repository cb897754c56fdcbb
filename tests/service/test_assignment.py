"""Which worker serves which sockets, whoever is there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smtphooks.service.assignment import assigned


@st.composite
def crews(draw: st.DrawFn) -> tuple[set[int], int]:
    """Some workers that are ready, and how many there shall be."""
    number = draw(st.integers(1, 12))
    return draw(st.sets(st.integers(1, number), min_size=1)), number


@given(crews(), st.integers(1, 16))
def test_every_socket_is_served_as_long_as_there_is_a_worker(crew: tuple[set[int], int], sockets: int) -> None:
    ready, number = crew
    served = assigned(ready, number, sockets)
    assert {socket for each in served.values() for socket in each} == {*range(sockets)}


@given(crews(), st.integers(1, 16))
def test_every_worker_that_is_ready_serves_and_no_other(crew: tuple[set[int], int], sockets: int) -> None:
    ready, number = crew
    served = assigned(ready, number, sockets)
    assert set(served) == ready
    assert all(served.values())


@given(crews(), st.integers(0, 8))
def test_a_worker_has_the_socket_of_its_number_when_there_is_one(crew: tuple[set[int], int], more: int) -> None:
    ready, number = crew
    for worker, sockets in assigned(ready, number, number + more).items():
        assert worker - 1 in sockets


@given(crews(), st.integers(1, 16))
def test_a_socket_whose_own_worker_is_there_is_served_by_no_other(crew: tuple[set[int], int], sockets: int) -> None:
    ready, number = crew
    served = assigned(ready, number, sockets)
    if sockets >= number:
        for socket in range(number):
            if socket + 1 in ready:
                assert [worker for worker, each in served.items() if socket in each] == [socket + 1]


@given(crews(), st.integers(1, 16))
def test_the_order_in_which_workers_came_does_not_matter(crew: tuple[set[int], int], sockets: int) -> None:
    ready, number = crew
    assert assigned(sorted(ready, reverse=True), number, sockets) == assigned(sorted(ready), number, sockets)


def test_the_sockets_of_workers_that_are_missing_go_to_the_next_ones() -> None:
    assert assigned([1, 2, 3, 4], 4, 4) == {1: [0], 2: [1], 3: [2], 4: [3]}
    assert assigned([1, 3, 4], 4, 4) == {1: [0], 3: [1, 2], 4: [3]}
    assert assigned([1, 2], 4, 4) == {1: [0, 2, 3], 2: [1]}


def test_where_sockets_are_fewer_several_workers_serve_the_same() -> None:
    assert assigned([1, 2, 3, 4], 4, 2) == {1: [0], 2: [1], 3: [0], 4: [1]}
    assert assigned([1, 2], 2, 1) == {1: [0], 2: [0]}


def test_where_sockets_are_more_a_worker_serves_several() -> None:
    assert assigned([1, 2], 2, 4) == {1: [0, 2], 2: [1, 3]}
    assert assigned([1], 1, 3) == {1: [0, 1, 2]}


def test_without_workers_nobody_serves() -> None:
    assert assigned([], 3, 3) == {}
