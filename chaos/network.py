"""
The network between the receiver and the other side: two namespaces of Linux and a pair of virtual Ethernet devices.

In: what is to be broken.  Out: a network on which that is so.  The process itself is moved into namespaces of its own
first (network, mounts, processes): nothing that is done here is seen by the machine, and nothing outlives it.
This module knows no store, no load and no rounds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

# The addresses of both sides, where there are namespaces.
HERE, THERE = "10.99.0.1", "10.99.0.2"
_HERE_DEVICE, _THERE_DEVICE = "here0", "there0"

_PROGRAMS = ("unshare", "nsenter", "mount", "ip", "tc", "ss")
_INSIDE = "CHAOS_ISOLATED"
_UNSHARE = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]


def isolate(package: str, arguments: Sequence[str]) -> str | None:
    """
    Begin this program once more in namespaces of its own, which takes root, or a kernel that gives users namespaces.

    @param package: what the program is: C{python -m PACKAGE}.
    @return: None inside of the namespaces; a reason where there can be none.
    """
    # These are where not everybody's PATH finds them.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    if os.environ.get(_INSIDE):
        return None
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    for further in ([], ["--user", "--map-root-user"]):
        command = ["unshare", *further, *_UNSHARE]
        tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
        if tried.returncode == 0:
            os.environ[_INSIDE] = "1"
            os.execvp(command[0], [*command, sys.executable, "-m", package, *arguments])
    return tried.stderr.strip()


class Network:
    """Both sides.  The namespace of the other side lasts as long as its descriptor, whatever runs in it."""

    def __init__(self) -> None:
        """
        @raise CalledProcessError: if the kernel cannot do it.
        """
        # The shell says when it is in its namespace, and waits there until that is held by the descriptor.
        holder = ["unshare", "--net", "sh", "-c", "echo; read wait"]
        with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
            assert shell.stdout is not None
            shell.stdout.readline()
            self._fd = os.open(f"/proc/{shell.pid}/ns/net", os.O_RDONLY)
            _run("ip", "link", "set", "lo", "up")
            ends = ["name", _HERE_DEVICE, "type", "veth", "peer", "name", _THERE_DEVICE]
            _run("ip", "link", "add", *ends, "netns", str(shell.pid))
            shell.communicate(b"\n")
        self._there("ip", "link", "set", "lo", "up")
        _run("ip", "address", "add", f"{HERE}/24", "dev", _HERE_DEVICE)
        self._there("ip", "address", "add", f"{THERE}/24", "dev", _THERE_DEVICE)
        self.join()

    @property
    def descriptor(self) -> int:
        """The descriptor of the other side's namespace, which a program inherits that is started L{there}."""
        return self._fd

    def there(self, *command: str) -> list[str]:
        """A command that runs at the other side, with the process id that it is started with."""
        return ["nsenter", f"--net=/proc/self/fd/{self._fd}", *command]

    def _there(self, *command: str) -> None:
        subprocess.run(self.there(*command), pass_fds=[self._fd], check=True, capture_output=True)

    def join(self) -> None:
        """Have both devices up."""
        _run("ip", "link", "set", _HERE_DEVICE, "up")
        self._there("ip", "link", "set", _THERE_DEVICE, "up")

    def cut(self, chooser: Random) -> None:
        """Take down one end: what is sent is lost, and nobody is told; from here, connecting may fail at once."""
        if chooser.random() < 0.5:
            _run("ip", "link", "set", _HERE_DEVICE, "down")
        else:
            self._there("ip", "link", "set", _THERE_DEVICE, "down")

    def delay(self) -> None:
        """Have packets be late, and some lost; a kernel without netem has a bucket that is soon empty do it."""
        device = ["dev", _HERE_DEVICE, "root"]
        try:
            _run("tc", "qdisc", "add", *device, "netem", "delay", "200ms", "150ms", "loss", "3%")
        except subprocess.CalledProcessError:
            _run("tc", "qdisc", "add", *device, "tbf", "rate", "2mbit", "burst", "4kb", "latency", "300ms")

    def hasten(self) -> None:
        """End L{delay}."""
        _run("tc", "qdisc", "del", "dev", _HERE_DEVICE, "root")

    def reset(self) -> None:
        """Reset every connection between both sides; each end is told."""
        _run("ss", "--kill", "--tcp", "dst", THERE)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


class Disk:
    """A small disk in memory, for what deliveries store."""

    def __init__(self, folder: Path, size: int = 512 * 1024 * 1024) -> None:
        self._folder = folder
        self._size = size
        folder.mkdir()
        _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))

    def close(self) -> None:
        """Give its memory back; a program that is being killed may still hold it for a moment."""
        _run("umount", "--lazy", str(self._folder))

    def fill(self) -> None:
        """Make it no larger than what it holds: a few small files may find room, no large one does."""
        while True:
            is_ = os.statvfs(self._folder)
            used = (is_.f_blocks - is_.f_bfree) * is_.f_frsize
            try:
                return self._resize(max(used, is_.f_frsize))
            except subprocess.CalledProcessError:
                continue  # it has become fuller meanwhile, so it cannot be as small

    def widen(self) -> None:
        """Make it as large as before."""
        self._resize(self._size)

    def _resize(self, size: int) -> None:
        _run("mount", "-o", f"remount,size={size}", str(self._folder))
