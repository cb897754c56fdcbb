"""
Endpoints: descriptions of Twisted's server endpoints, as far as the configuration must understand them.

In: a description such as C{"tcp:25:interface=127.0.0.1"}.  Out: its kind, and who can connect to it.
This module knows no reactor, and makes no endpoint.
"""

from __future__ import annotations

import re

from smtphooks.netaddress import maybeIP, unmapped

# A part of a description: escaped characters, and all but the colon that ends it.
_PART = re.compile(r"((?:\\.|[^:\\])*)(?::|$)", re.DOTALL)
_KEYWORD = re.compile(r"((?:\\.|[^=\\])*)=(.*)", re.DOTALL)

# Processes of this host alone can connect to these.
_LOCAL = ("unix", "stdio")


def kindOf(endpoint: str) -> str:
    """The part before the first colon, as Twisted reads it: in any case, and with escapes."""
    prefix = re.match(r"(?:\\.|[^:=\\])*", endpoint, re.DOTALL)
    return _unescaped(prefix[0] if prefix else "").lower()


def isBeyondLoopback(endpoint: str) -> bool:
    """May other hosts connect to it, as far as its description tells?"""
    kind = kindOf(endpoint)
    positional, named = _argumentsOf(endpoint)
    domain = named.get("domain", positional[0] if kind == "systemd" and positional else "")
    if kind in _LOCAL or domain.upper() == "UNIX":
        return False
    # Their second argument may be the interface.
    behind = positional[1] if kind in ("tcp", "tcp6") and len(positional) > 1 else ""
    return not _isLoopback(named.get("interface", behind))


def _argumentsOf(endpoint: str) -> tuple[list[str], dict[str, str]]:
    """What stands behind the kind."""
    positional: list[str] = []
    named: dict[str, str] = {}
    for part in _PART.findall(endpoint)[1:]:
        keyword = _KEYWORD.fullmatch(part)
        if keyword is not None:
            named[_unescaped(keyword[1])] = _unescaped(keyword[2])
        else:
            positional.append(_unescaped(part))
    return positional, named


def _isLoopback(interface: str) -> bool:
    ip = maybeIP(interface)
    return interface == "localhost" if ip is None else unmapped(ip).is_loopback


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
