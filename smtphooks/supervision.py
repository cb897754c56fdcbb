"""
Supervision: what a service manager is told, and how the log is written for one that reads it by machine.

systemd's protocol for readiness is one datagram (sd_notify(3)); where nobody asked for it, nothing happens.
This module knows neither SMTP nor the configuration.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Any, TextIO, cast

from twisted.logger import ILogObserver, Logger, jsonFileLogObserver
from twisted.python.logfile import LogFile

log = Logger()


def notify(state: str) -> None:
    """
    Tell the service manager, if there is one, such as C{"READY=1"} or C{"STOPPING=1"}.

    That it cannot be told is logged and harms nobody.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # an abstract one, unix(7)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as told:
            told.connect(address)
            told.sendall(state.encode())
    except OSError as error:
        log.warn("the service manager cannot be told {state}: {error}", state=state, error=str(error))


def jsonObserver(twistd: Any) -> ILogObserver:
    """
    An observer that writes each event as a line of JSON, to where twistd would write its log.

    @param twistd: the flags of twistd itself, a mapping.
    """
    path = twistd.get("logfile") or ("-" if twistd.get("nodaemon") else "twistd.log")
    if path == "-":
        return jsonFileLogObserver(sys.stdout, recordSeparator="")
    file = LogFile.fromFullPath(os.path.abspath(path))
    return jsonFileLogObserver(cast(TextIO, _Text(file)), recordSeparator="")


class _Text:
    """A log file of Twisted's takes octets or text, and must be flushed line by line to be read as it grows."""

    def __init__(self, file: LogFile) -> None:
        self._file = file

    def write(self, text: str) -> None:
        self._file.write(text)

    def flush(self) -> None:
        self._file.flush()
