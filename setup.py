"""
All metadata is in setup.cfg; this file runs it, and compiles smtphooks if C{SMTPHOOKS_COMPILE=1} asks for that.

Compiled or not, the modules are the same files, and plain Python is the reference: mypyc makes a C extension of those
that run for each command, each message and each connection.  Without the variable nothing needs mypy or a compiler.
"""

import os
import sys
from configparser import ConfigParser
from pathlib import Path

from setuptools import Extension, setup

# The others stay interpreted, most of them because nothing is gained.  Some must:
# - hooks.py, extension.py, protocol.py, session.py, stream.py: users make subclasses of these classes, which a compiled
#   one refuses, and hooks set what they like, where a compiled attribute insists on its type;
# - awaiting.py: a compiled coroutine loses the traceback of what is thrown into it, which leads to the hook;
# - replies.py: mypyc 2.4 leaves weak references to an exception behind when that is gone, which crashes the process.
COMPILED = [
    "connection/answer",
    "connection/arrival",
    "connection/calling",
    "connection/connection",
    "connection/coroutines",
    "connection/delivery",
    "connection/direct",
    "connection/driver",
    "connection/eventlog",
    "connection/message",
    "connection/observing",
    "connection/pacing",
    "connection/parts",
    "connection/pump",
    "connection/registry",
    "connection/replier",
    "connection/runner",
    "connection/sharing",
    "connection/state",
    "connection/writer",
    "dialogue/commands",
    "dialogue/context",
    "dialogue/engine",
    "dialogue/transaction",
    "syntax/grammar",
    "syntax/wire",
]

# mypyc reads the types of what smtphooks imports as well; mypy-zope knows the interfaces of Twisted.
COMPILER = ["mypy[mypyc] >= 2.4", "mypy-zope >= 1.0.17"]

MISSING = (
    "SMTPHOOKS_COMPILE=1 needs mypy and mypy-zope, and something of them is missing here ({error}): pip install"
    " 'mypy[mypyc]' mypy-zope, or let pip do that in an environment of its own, without --no-build-isolation"
)


def requirements() -> list[str]:
    """What must be there to compile."""
    config = ConfigParser()
    config.read(Path(__file__).with_name("setup.cfg"), encoding="utf-8")
    return [*COMPILER, *config["options"]["install_requires"].split("\n")]


def extensions() -> list[Extension]:
    """The modules, compiled to C."""
    try:
        import mypy_zope  # noqa: F401
        from mypyc.build import mypycify
    except ImportError as error:
        raise SystemExit(MISSING.format(error=error)) from None
    modules = [f"smtphooks/{name}.py" for name in COMPILED]
    return mypycify(["--config-file=setup.cfg", *modules], group_name="smtphooks", debug_level="0")


if os.environ.get("SMTPHOOKS_COMPILE", "0") in ("", "0"):
    setup()
elif {"egg_info", "dist_info", "sdist"} & {*sys.argv}:
    # pip asks what the build needs, and for the metadata, before it builds.
    setup(setup_requires=requirements())
else:
    setup(ext_modules=extensions())
