"""
The assignment of sockets to workers: which worker accepts from which of the sockets of a listener.

In: the workers that are ready, and how many sockets there are.  Out: the sockets of each worker.
Rules kept here: socket and worker of one number belong together; every socket has a worker as long as there is any, and
every worker has a socket.
This module knows no process and no socket, but their numbers alone.
"""

from __future__ import annotations

from collections.abc import Collection


def assigned(ready: Collection[int], workers: int, sockets: int) -> dict[int, list[int]]:
    """
    The sockets of each worker.

    The socket of a worker that is not there is served by the next one.  Where there are more workers than sockets,
    several serve the same; where there are more sockets, as there were more workers before, some serve several.

    @param ready: numbers of workers, from 1 on.
    @param workers: how many there shall be.
    @param sockets: how many sockets there are, which are numbered from 0 on.
    """
    if not ready:
        return {}
    inOrder = sorted(ready)
    serving: dict[int, set[int]] = {number: set() for number in inOrder}
    for place in range(max(workers, sockets)):
        number = place % workers + 1
        if number not in serving:
            number = next((each for each in inOrder if each > number), inOrder[0])
        serving[number].add(place % sockets)
    return {number: sorted(each) for number, each in serving.items()}
