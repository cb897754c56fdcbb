"""
The server, as its connections see it: all that the connections of one factory have in common.

This module knows neither the factory that makes it nor what a connection does with it.
"""

from __future__ import annotations

from contextvars import Context

import attrs
from twisted.python.failure import Failure

from smtphooks.admission.admission import Admission
from smtphooks.connection.eventlog import LineLimits
from smtphooks.connection.parts import Parts
from smtphooks.connection.registry import Live, LiveConnections
from smtphooks.connection.runner import HookRunner
from smtphooks.dialogue.extensions import Extensions
from smtphooks.options import Options
from smtphooks.sasl.failures import AuthFailures
from smtphooks.sasl.mechanisms import Mechanisms
from smtphooks.session import Session
from smtphooks.syntax.networks import TrustedPeers
from smtphooks.tls.context import SecureContext


@attrs.define(eq=False)
class Server:
    """
    @ivar hooks: has every hook as an attribute, None for one that is absent; looked at for each event.
    @ivar authFailures: failed AUTH by network; several servers may share one.
    @ivar lines: limits of the lines in the event log; several servers may share one.
    @ivar debugPeers: the peers whose dialogue is logged, None if there are none.
    @ivar context: the C{contextvars} context that the hooks of each connection begin with a copy of.
    @ivar parts: makes what connections consist of.
    """

    options: Options
    hooks: object
    extensions: Extensions
    mechanisms: Mechanisms
    authFailures: AuthFailures
    admission: Admission
    live: LiveConnections
    lines: LineLimits
    secureContext: SecureContext
    debugPeers: TrustedPeers | None
    context: Context
    parts: Parts = attrs.field(factory=Parts)

    def shareLines(self, lines: LineLimits) -> None:
        """Keep to limits of the lines in the event log that other servers keep to as well."""
        self.lines = self.live.summaries = lines

    def forget(self, connection: Live) -> None:
        """A connection has ended, its last hook included."""
        if connection in self.live.connections:
            self.admission.connectionEnds()
            self.live.remove(connection)

    def reportError(self, failure: Failure) -> None:
        """Give C{onError} what went wrong before there was a session."""
        HookRunner(self.hooks, Session(self.options.name)).notify("onError", failure, None)
