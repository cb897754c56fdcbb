"""
The other side of Command: a program that keeps one message, from its standard input to the end.

C{program.py FOLDER}, with the recipients in the environment; it ends with 75, EX_TEMPFAIL, where it cannot.
This module knows no store; it does not look at what it reads.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from chaos.keeping import keep

try:
    keep(sys.argv[1], os.environ["RECIPIENTS"].split("\n"), sys.stdin.buffer.read())
except OSError as error:
    print(error.strerror, file=sys.stderr)
    sys.exit(75)
