"""
Waits: what a connection waits for, in words for the operator.

It is found out when somebody asks, from what the connection knows anyway; nothing is noted for it beforehand.
This module knows neither the registry of connections nor where the words are shown.
"""

from __future__ import annotations

from smtphooks.connection.pacing import Turn, turnOf
from smtphooks.connection.pump import Pump
from smtphooks.connection.state import Phase, Want

COMMAND = "a command"
MESSAGE = "a message"
CHUNK = "a chunk of a message"
RESPONSE = "a response to AUTH"
HANDSHAKE = "a TLS handshake"
DELAY = "a delay"
READ = "the client to read a reply"
CLOSE = "the client to close"
PROXY = "a PROXY header"
NAME = "the name of the client"
NOTHING = "nothing"

_WORDS = {
    Want.LINE: COMMAND,
    Want.RESPONSE: RESPONSE,
    Want.MESSAGE: MESSAGE,
    Want.HANDSHAKE: HANDSHAKE,
    Want.TIMER: DELAY,
}


def waitOf(pump: Pump) -> str:
    """What the connection of this pump waits for; a hook is called as the log calls it."""
    state = pump.state
    if state.phase is Phase.CLOSING:
        return CLOSE
    if state.phase is Phase.OPEN and pump.writer.isChoked:
        return READ
    turn = turnOf(state, pump.wire, pump.message)
    if turn is Turn.CHUNK:
        return CHUNK
    return _hookOf(pump) if turn is Turn.HOOK else _WORDS[state.want]


def _hookOf(pump: Pump) -> str:
    hook = pump.driver.pendingHook
    if hook is None:
        hook = pump.message.pendingHook
    return NOTHING if hook is None else pump.message.nameOf(hook)
