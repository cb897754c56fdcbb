"""
The reactor of a server: smtphooks' own, unless the variant of the server names another.

It must be chosen before anything imports C{twisted.internet.reactor}, which installs Twisted's default one.
This module knows reactors, and no server.
"""

from __future__ import annotations

import smtphooks.reactor


def install(variant: str = "") -> None:
    """
    Install the reactor of a variant.

    @param variant: C{twisted} for Twisted's default reactor, C{asyncio} or C{uvloop} for its asyncio reactor with one
        of these loops, anything else for that of smtphooks.
    """
    if variant == "twisted":
        return
    if variant in ("asyncio", "uvloop"):
        from twisted.internet import asyncioreactor

        if variant == "uvloop":
            import uvloop

            asyncioreactor.install(uvloop.new_event_loop())
        else:
            asyncioreactor.install()
    else:
        smtphooks.reactor.install()
