"""
C{python -m chaos}: the command, in namespaces of its own where the machine has them.

This module imports nothing of the command before it is there, as it begins once more there.
"""

from __future__ import annotations

import sys

from chaos.network import isolate

if __name__ == "__main__":
    reason = isolate("chaos", sys.argv[1:])

    from chaos.command import main

    sys.exit(main(sys.argv[1:], reason))
