"""
The matrix: all deliveries, in the order of the table.

This module combines the others and does nothing else.
"""

from __future__ import annotations

from chaos.broker import ToBroker, ToBrokerByClaims
from chaos.deliveries import (
    Delivery,
    ToBoth,
    ToEndpoint,
    ToLMTPServer,
    ToMaildir,
    ToProgram,
    ToServer,
    ToSignedEndpoint,
)
from chaos.mailservers import ToDovecot, ToPostfix

DELIVERIES: list[type[Delivery]] = [
    *(ToMaildir, ToServer, ToLMTPServer, ToPostfix, ToDovecot),
    *(ToEndpoint, ToSignedEndpoint, ToBroker, ToBrokerByClaims, ToProgram, ToBoth),
]
