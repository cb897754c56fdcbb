"""
What C{--version} prints, with and without a subcommand.

A report of a fault wants all three, on one line.
This module knows no flags.
"""

from __future__ import annotations

import platform

from twisted.copyright import version as twistedVersion

from smtphooks._version import __version__


def printVersions() -> None:
    """
    Print the versions of smtphooks, Twisted and Python, and exit.

    @raise SystemExit: always, with status 0.
    """
    print(f"smtphooks {__version__} (Twisted {twistedVersion}, Python {platform.python_version()})")
    raise SystemExit(0)
