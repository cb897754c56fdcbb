"""
smtphooks as an operator runs it, with workers: the program, a configuration file, and a log in a file.

The hooks are either one that computes for each message, so that neither the load nor the dialogue is the limit, or the
Maildir store.  This program writes the configuration, and then becomes the service.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

from benchmarks.servers.smtphooks_service import become, configuration
from smtphooks import MessageStream

# About 12 ms of CPU, in a few hundred octets: cores share neither memory nor its bandwidth for it.
_HASHES = 40_000


class Hashing:
    """Reads the message, and computes, always as much."""

    async def onData(self, stream: MessageStream, session: Any) -> None:
        async for _ in stream:
            pass
        hashlib.pbkdf2_hmac("sha256", b"message", b"salt", _HASHES)


def configurationOf(port: str, mode: str, folder: str, variant: str) -> str:
    """The configuration; a C{variant} is the name of the hooks and the number of workers, 0 for no key of this name."""
    kind, _, number = variant.partition("-")
    top: dict[str, Any] = {}
    if int(number):
        # All servers of a run have the same folder.
        top = {"workers": int(number), "control": f"{variant}.control"}
    if kind == "hashing":
        return configuration(
            port, mode, folder, {"hooks": f"benchmarks.servers.smtphooks_workers:{Hashing.__name__}", **top}
        )
    store = ["[[layer]]", 'use = "smtphooks.stores:Maildir"', f"path = {json.dumps(f'{folder}/{variant}')}", ""]
    return configuration(port, mode, folder, top) + "\n".join(store)


def main(port: str, mode: str, folder: str, variant: str) -> None:
    become(folder, variant, configurationOf(port, mode, folder, variant))


if __name__ == "__main__":
    main(*sys.argv[1:])
