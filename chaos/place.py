"""
Where a delivery runs: its folder, its disk, its side of the network, and how programs are started at either side.

In: a folder, and whether this process is in namespaces of its own.  Out: programs that run, and addresses.
This module knows no store, no load and no faults.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from chaos.network import THERE, Disk, Network
from tests.real.programs import ROOT, Program


class Place:
    """
    One place for all cells of a delivery.

    @ivar folder: for configuration and what programs need besides.
    @ivar kept: for messages; on a small disk of its own, where there are namespaces.
    @ivar there: the address of the other side.
    """

    def __init__(self, folder: Path, network: Network | None) -> None:
        self.folder = folder
        self.kept = folder / "kept"
        self.there = THERE if network else "127.0.0.1"
        self._network = network
        self._disk: Disk | None = None
        if network:
            self._disk = Disk(self.kept)
        else:
            self.kept.mkdir()

    @property
    def network(self) -> Network:
        """The network between both sides; there is one only in namespaces."""
        assert self._network is not None, "there are no namespaces"
        return self._network

    @property
    def disk(self) -> Disk:
        """The disk of L{kept}; it can be filled only in namespaces."""
        assert self._disk is not None, "there are no namespaces"
        return self._disk

    def close(self) -> None:
        """Give the disk back."""
        if self._disk:
            self._disk.close()

    def run(self, *arguments: str, there: bool = False, environment: Mapping[str, str] | None = None) -> Program:
        """
        Start a program, here or at the other side.

        @param environment: that of the program; L{ofPython} unless given.
        """
        command, descriptors = list(arguments), []
        if there and self._network:
            command, descriptors = self._network.there(*arguments), [self._network.descriptor]
        return Program(command, environment or ofPython(), self.folder, descriptors)

    def serve(self, name: str, configuration: str, there: bool = False) -> Program:
        """Start smtphooks, and wait until it listens."""
        path = self.folder / f"{name}.toml"
        path.write_text(configuration)
        program = self.run(sys.executable, "-m", "smtphooks", "--config", str(path), there=there)
        try:
            for line in configuration.splitlines():
                if line.startswith("endpoint = "):
                    program.waitForLine("listening on", line.partition('"')[2].rstrip('"'))
        except AssertionError:
            program.kill()
            raise
        return program


def ofPython() -> dict[str, str]:
    """An environment in which Python finds smtphooks and this package."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
