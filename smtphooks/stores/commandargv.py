"""
The arguments and the environment of a program that takes a message.

In: the options of the store, the session, and the recipients that one call is for.  Out: octets for C{execve}.
Rules: no shell reads them; a value that the client chose becomes no option of the program, and no part of a program
that a shell is given as an argument.
This module knows no processes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence

from smtphooks.errors import OptionError, unknownName
from smtphooks.replies import SMTPError
from smtphooks.session import Address, Session
from smtphooks.stores.description import describe

_MACRO = re.compile(r"\$(?:\$|\{([^{}]*)\})")

_SHELLS = frozenset({"sh", "ash", "bash", "dash", "fish", "ksh", "mksh", "zsh"})

_PATH = "/usr/local/bin:/usr/bin:/bin"

# Linux takes 128 KiB for one argument or variable.  The recipients are in two variables, in one of them with all else.
_RECIPIENT_OCTETS = 32768


def _only(take: Callable[[Address], str]) -> Callable[[Session, Sequence[Address]], str]:
    """A value of the recipient; there is none of several."""
    return lambda session, recipients: take(recipients[0]) if len(recipients) == 1 else ""


_OF_RECIPIENT = {
    "recipient": _only(str),
    "mailbox": _only(lambda address: address.local),
    "domain": _only(lambda address: address.domain),
    "original_recipient": _only(lambda address: (address.dsn.orcpt or f"rfc822;{address}").partition(";")[2]),
}

# Named as in Postfix's pipe(8).
_VALUES: dict[str, Callable[[Session, Sequence[Address]], str]] = {
    "sender": lambda session, recipients: str(session.envelope.mailFrom or ""),
    **_OF_RECIPIENT,
    "client_address": lambda session, recipients: session.remoteAddress,
    "client_port": lambda session, recipients: str(session.remotePort),
    "client_hostname": lambda session, recipients: session.clientHostname,
    "client_helo": lambda session, recipients: session.hostNameAppearsAs,
    "client_protocol": lambda session, recipients: session.transmissionType,
    "sasl_username": lambda session, recipients: "" if session.user is None else str(session.user),
    "queue_id": lambda session, recipients: f"{session.id}.{session.transaction}",
}

# As Postfix's local(8) names them.
_VARIABLES = {
    "SENDER": "sender",
    "RECIPIENT": "recipient",
    "LOCAL": "mailbox",
    "DOMAIN": "domain",
    "ORIGINAL_RECIPIENT": "original_recipient",
    "CLIENT_ADDRESS": "client_address",
    "CLIENT_HOSTNAME": "client_hostname",
    "CLIENT_HELO": "client_helo",
    "CLIENT_PROTOCOL": "client_protocol",
    "SASL_USERNAME": "sasl_username",
    "QUEUE_ID": "queue_id",
}


def macrosOf(argument: str) -> list[str]:
    """The names that an argument has in C{${…}}."""
    return [name for name in _MACRO.findall(argument) if name]


def checkArgv(argv: Sequence[str]) -> None:
    """
    Check a command line.

    @raise OptionError: if it has an unknown name, or would give a shell a text of the client to run.
    """
    for index, argument in enumerate(argv):
        for match in _MACRO.finditer(argument):
            if match[1] is not None and match[1] not in _VALUES:
                sentence = unknownName("name", match[1], list(_VALUES))
                raise OptionError(f"option argv: {sentence} (a $ itself is $$)", options=["argv"])
        if index and macrosOf(argument) and _isScript(argv, index):
            raise OptionError(
                f"option argv gives ${{{macrosOf(argument)[0]}}} to a shell as a part of its program, where the client"
                ' could write commands, name a variable such as "$SENDER" there',
                options=["argv"],
            )
    if macrosOf(argv[0]):
        raise OptionError("option argv begins with a name in ${…}, it wants a program", options=["argv"])


def _isScript(argv: Sequence[str], index: int) -> bool:
    shells = [at for at, one in enumerate(argv[:index]) if os.path.basename(one) in _SHELLS]
    return bool(shells) and bool(re.fullmatch(r"-[a-z]*c[a-z]*", argv[index - 1]))


def isPerRecipient(argv: Sequence[str]) -> bool:
    """Does a command line name the one recipient that a call is for?"""
    return any(name in _OF_RECIPIENT for argument in argv for name in macrosOf(argument))


def groupsOf(recipients: Sequence[Address]) -> list[list[Address]]:
    """The recipients, in groups that are small enough for the environment of one call; mostly that is one."""
    groups: list[list[Address]] = []
    octets = _RECIPIENT_OCTETS
    for address in recipients:
        size = len(json.dumps([address.address, dict(address.args)])) + 1
        octets += size
        if octets > _RECIPIENT_OCTETS:
            groups.append([])
            octets = size
        groups[-1].append(address)
    return groups


def filledArgv(argv: Sequence[str], session: Session, recipients: Sequence[Address]) -> list[bytes]:
    """
    The arguments for one call.

    @raise SMTPError: if a value would make an option of an argument.
    """
    filled = []
    for index, argument in enumerate(argv):
        text = _MACRO.sub(lambda match: _VALUES[match[1]](session, recipients) if match[1] else "$", argument)
        # Postfix refuses such addresses altogether (allow_min_user).
        if text.startswith("-") and not argument.startswith("-") and not _isBehindOptions(argv, index):
            name = macrosOf(argument)[0]
            if name != "sender" and name not in _OF_RECIPIENT:
                raise SMTPError("A name that begins with a hyphen is not taken here", 550, "5.7.1")
            enhancedCode = "5.1.7" if name == "sender" else "5.1.3"
            raise SMTPError("An address that begins with a hyphen is not taken here", 553, enhancedCode)
        filled.append(_octets(text))
    return filled


def _isBehindOptions(argv: Sequence[str], index: int) -> bool:
    """
    Does C{--} stand in front of an argument, and after it only values of the client?

    A word of the operator's may be a program with options of its own: C{sudo -u mail -- program ${sender}}.
    """
    before = index - 1
    while before > 0 and argv[before] != "--":
        if not macrosOf(argv[before]):
            return False
        before -= 1
    return before > 0


def filledEnvironment(own: Mapping[str, str], session: Session, recipients: Sequence[Address]) -> dict[bytes, bytes]:
    """
    The environment for one call: nothing of the server's own but its time zone.

    @param own: the operator's variables.
    """
    description = describe(session)
    description["envelope"]["rcptTo"] = [address.address for address in recipients]
    description["envelope"]["rcptParameters"] = [dict(address.args) for address in recipients]
    variables = {
        "PATH": _PATH,
        "LANG": "C.UTF-8",
        **({"TZ": os.environ["TZ"]} if "TZ" in os.environ else {}),
        **own,
        **{name: _VALUES[value](session, recipients) for name, value in _VARIABLES.items()},
        "RECIPIENTS": "\n".join(map(str, recipients)),
        "SMTPHOOKS_MESSAGE": json.dumps(description, default=str),
    }
    return {_octets(name): _octets(value) for name, value in variables.items()}


def pathOf(own: Mapping[str, str]) -> str:
    """Where programs are looked for."""
    return own.get("PATH", _PATH)


def _octets(text: str) -> bytes:
    # A hook may have given a user any name.
    return text.replace("\0", "?").encode("utf-8", "replace")
