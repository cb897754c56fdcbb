"""
Machines: namespaces of Linux, each with a network of its own, all at one switch, which is a bridge.

In: names and addresses.  Out: machines in which programs run, and whose cables can be pulled.
The process itself is in namespaces of its own already (C{chaos.network.isolate}), and is the switch: what is made here
is not seen by the host, and goes when the process ends, however it ends.
This module knows no mail, no daemon and no load.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.real.programs import Program

# The name of the switch, and its own address, with which what is behind the balancer is looked at.
_SWITCH, _OURS = "switch", "10.77.0.254/24"
_NAMES = Path("/run/netns")


class Switch:
    """The network behind the balancer."""

    def __init__(self) -> None:
        """
        @raise CalledProcessError: if the kernel cannot do it.
        """
        # For the names of namespaces, and for sockets: /run of the host is not touched.
        _run("mount", "-t", "tmpfs", "tmpfs", "/run")
        _NAMES.mkdir()
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", _SWITCH, "type", "bridge")
        _run("ip", "address", "add", _OURS, "dev", _SWITCH)
        _run("ip", "link", "set", _SWITCH, "up")

    def connect(self, machine: Machine, address: str) -> None:
        """Lead a cable from the switch to a machine, which has this address then."""
        _lead(f"{machine.name}0", machine, "inside", f"{address}/24")
        _run("ip", "link", "set", f"{machine.name}0", "master", _SWITCH)


def connectOutside(machine: Machine, address: str, clients: Sequence[str]) -> None:
    """Lead a cable from us to a machine, past the switch; at our end are the addresses of clients."""
    _lead("outside0", machine, "outside", f"{address}/24")
    for client in clients:
        _run("ip", "address", "add", f"{client}/24", "dev", "outside0")


class Machine:
    """
    One machine.

    @ivar folder: its files.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        _run("ip", "netns", "add", name)
        _run(*self._inside("ip", "link", "set", "lo", "up"))

    def _inside(self, *command: str) -> list[str]:
        # Unlike "ip netns exec" this leaves the mounts alone, and the program has the process id that is known here.
        return ["nsenter", f"--net={_NAMES / self.name}", *command]

    def configure(self, *command: str) -> None:
        """Run a command to its end."""
        _run(*self._inside(*command))

    def run(self, *command: str, environment: Mapping[str, str]) -> Program:
        """Start a program."""
        return Program(self._inside(*command), environment, self.folder)

    def boot(self, *command: str, environment: Mapping[str, str]) -> Program:
        """Start a program as the first process of the machine: when it is killed, so are all that it has started."""
        first = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        return self.run(*first, *command, environment=environment)

    def cut(self) -> None:
        """Pull its cable at the switch: what is sent is lost, and no connection is told."""
        _run("ip", "link", "set", f"{self.name}0", "down")

    def join(self) -> None:
        """Plug it in again."""
        _run("ip", "link", "set", f"{self.name}0", "up")


def _lead(here: str, machine: Machine, there: str, address: str) -> None:
    """A cable, whose end here is the device of this name."""
    _run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", machine.name)
    _run("ip", "link", "set", here, "up")
    machine.configure("ip", "address", "add", address, "dev", there)
    machine.configure("ip", "link", "set", there, "up")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
