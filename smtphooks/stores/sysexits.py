"""
What the end of a program means for a message: its exit status as sysexits.h has it, in; the refusal, out.

Rule: only 0 is success.  What is not known to be permanent is temporary, so that the client tries again.
This module knows no processes.
"""

from __future__ import annotations

import re

import attrs

from smtphooks.hooks import Unavailable
from smtphooks.replies import SMTPError

# The codes are those of Postfix's pipe(8), except that a fault of the program, of its input or output and of the system
# (70, 74 and 71) is temporary, as sendmail has it.
_REFUSALS = {
    64: ("EX_USAGE", 550, "5.3.0", "Command line usage error"),
    65: ("EX_DATAERR", 554, "5.6.0", "Data format error"),
    66: ("EX_NOINPUT", 550, "5.3.0", "Cannot open input"),
    67: ("EX_NOUSER", 550, "5.1.1", "User unknown"),
    68: ("EX_NOHOST", 550, "5.1.2", "Host name unknown"),
    69: ("EX_UNAVAILABLE", 554, "5.3.0", "Service unavailable"),
    70: ("EX_SOFTWARE", 451, "4.3.0", "Internal software error"),
    71: ("EX_OSERR", 451, "4.3.0", "System resource problem"),
    72: ("EX_OSFILE", 550, "5.3.0", "Critical system file missing"),
    73: ("EX_CANTCREAT", 550, "5.2.0", "Cannot create output file"),
    74: ("EX_IOERR", 451, "4.3.0", "Input or output error"),
    75: ("EX_TEMPFAIL", 451, "4.3.0", "Temporary failure"),
    76: ("EX_PROTOCOL", 554, "5.5.0", "Remote error in protocol"),
    77: ("EX_NOPERM", 550, "5.7.0", "Permission denied"),
    78: ("EX_CONFIG", 554, "5.3.5", "Local configuration error"),
}

_TEXT_LENGTH = 200
_ENHANCED_CODE = re.compile(r"([45]\.[0-9]{1,3}\.[0-9]{1,3})[ :]+(?=\S)")


@attrs.frozen
class Outcome:
    """
    How a program ended.

    @ivar status: C{"exit 67"}, C{"signal 9"}, C{"unread"} for an exit with 0 before it had read all, C{"failed …"} if
        it could not be started, or C{""} if that is not known.
    @ivar output: the beginning of what it wrote to its standard output, and C{errors} to its standard error.
    """

    status: str
    output: bytes = b""
    errors: bytes = b""

    @property
    def isSuccess(self) -> bool:
        """The program has taken the message."""
        return self.status == "exit 0"

    @property
    def said(self) -> str:
        """The first line that the program wrote, on its standard output or else on its standard error."""
        return _firstLine(self.output) or _firstLine(self.errors)

    def described(self, program: str) -> str:
        """What happened, in one line for the log."""
        kind, _, rest = self.status.partition(" ")
        known = _REFUSALS.get(int(rest)) if kind == "exit" else None
        how = {
            "exit": f"exited with {rest}" + (f" ({known[0]})" if known else ""),
            "signal": f"was ended by signal {rest}",
            "unread": "exited with 0 before it had read the whole message",
            "failed": f"cannot be run: {rest}",
        }.get(kind, "ended, and nobody knows how")
        return f"{program} {how}" + (f": {self.said}" if self.said else "")

    def refusal(self, program: str) -> SMTPError:
        """
        The refusal that a known exit status is.

        @raise Unavailable: for any other end.
        """
        kind, _, rest = self.status.partition(" ")
        known = _REFUSALS.get(int(rest)) if kind == "exit" else None
        if known is None:
            raise Unavailable(self.described(program))
        _, code, enhancedCode, text = known
        # What a program says of its troubles, with paths and hosts, is for the log; what it refuses, for the client.
        said = self.said if code >= 500 else _firstLine(self.output)
        own = _ENHANCED_CODE.match(said)
        if own is not None and own[1][0] == enhancedCode[0]:
            enhancedCode, said = own[1], said[own.end() :]
        return SMTPError(said or text, code, enhancedCode)


def _firstLine(octets: bytes) -> str:
    """The first line that is not empty, printable and not too long."""
    for line in octets.decode("utf-8", "replace").splitlines():
        text = "".join(c if c.isprintable() else " " for c in line).strip()
        if text:
            return text[:_TEXT_LENGTH]
    return ""
