"""
systemd: readiness and shutdown, reported to the service manager as sd_notify(3) describes.

The protocol is one datagram to the socket that C{NOTIFY_SOCKET} names; without that variable nothing is sent.
This module knows neither SMTP nor the configuration; sockets that systemd hands over are endpoints of Twisted's.
"""

from __future__ import annotations

import os
import socket
import time

from twisted.logger import Logger

log: Logger = Logger()

# Seconds that sending may block: the socket's buffer may be full.
_TIMEOUT = 1.0


def reloading() -> str:
    """The state of a service that reloads, for units with C{Type=notify-reload}; C{"READY=1"} ends it."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


def notify(state: str) -> None:
    """
    Report a state, such as C{"READY=1"} or C{"STOPPING=1"}.

    A service manager that cannot be reached is logged; the service goes on.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # an abstract socket, unix(7)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.settimeout(_TIMEOUT)
            manager.connect(address)
            manager.sendall(state.encode())
    except OSError as error:
        log.warn("the service manager cannot be told {state}: {error}", state=state, error=str(error))
