"""
Options: one frozen, checked value that says how a server behaves.

Every option is declared here once: its kind, its default, and facts, from which the lists of options with something in
common follow.  The code that acts on an option reads it.  A wrong value is an L{OptionError}, whose one sentence names
the option, what it got and what it wants.
This module knows nothing of configuration files, hooks or connections.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from smtphooks.errors import OptionError, unknownName
from smtphooks.extension import Extension
from smtphooks.optionkinds import (
    count,
    flag,
    heloTemplate,
    hostname,
    isLine,
    isText,
    line,
    listOf,
    objectWith,
    oneOf,
    option,
    peers,
    pem,
    seconds,
    secret,
    serverNames,
    toUpper,
    within,
)
from smtphooks.sasl.auth import Mechanism
from smtphooks.sasl.mechanisms import MECHANISM_NAMES, isMechanism
from smtphooks.syntax.wire import ACCEPT, NORMALIZE, REJECT

_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_ONE_TLS_VERSION = f"one of {', '.join(_TLS_VERSIONS)}"


@attrs.frozen(kw_only=True)
class Options:
    """
    How a server behaves.  docs/options.rst documents every option; times are seconds, sizes are octets.

    Facts of an option, in the metadata of its field:

      - C{wants}: the words for what fits, in errors.
      - C{perServerName}: a server name in C{sniOptions} may have its own value.
      - C{isPath}: tells whether a text is the path of a file.
      - C{isSecret}: only a path may be shown.
      - C{mostSeconds}: a greater number was probably meant in milliseconds.
      - C{shared}: what the listeners of a service share because of it.

    @raise OptionError: if a value does not fit its option.
    """

    # Identity
    name: str = hostname(socket.getfqdn)
    banner: str = line("")
    heloResponse: str = heloTemplate("%s Nice to meet you, %s")

    # Mode
    lmtp: bool = flag(False)
    secure: bool = flag(False)
    secured: bool = flag(False)
    needsUpgrade: bool = flag(False)

    # Authentication
    authMethods: Sequence[str | Mechanism] = listOf(
        ("PLAIN", "LOGIN"),
        f"a list of mechanisms, each one of {', '.join(MECHANISM_NAMES)}, or an object that is one",
        isMechanism,
        toUpper,
    )
    authOptional: bool = flag(False)
    allowInsecureAuth: bool = flag(False)
    authRequiredMessage: str = line("Authentication required")

    portal: Any = objectWith("login", "a twisted.cred Portal")
    scramSecret: str | bytes | None = secret(shared="unknownUsers")
    # RFC 7677 section 4 asks for no less.
    scramIterations: int | None = option(
        None, "a whole number of iterations, 4096 or more", within(4096), shared="unknownUsers"
    )
    scramSaltLength: int | None = option(
        None, "a whole number of octets, 8 to 1024", within(8, 1024), shared="unknownUsers"
    )

    # Capabilities
    hideSTARTTLS: bool = flag(False)
    hideSize: bool = flag(False)
    hidePIPELINING: bool = flag(False)
    hide8BITMIME: bool = flag(False)
    hideSMTPUTF8: bool = flag(False)
    hideENHANCEDSTATUSCODES: bool = flag(False)
    hideCHUNKING: bool = flag(False)
    hideDSN: bool = flag(True)
    hideREQUIRETLS: bool = flag(True)
    hideLIMITS: bool = flag(True)
    disabledCommands: Sequence[str] = listOf((), "a list of commands", isText, toUpper)
    extensions: Sequence[Extension] = listOf(
        (), "a list of Extension objects", lambda item: isinstance(item, Extension)
    )

    # Message
    size: int = count(0, "octets")
    rejectOversized: bool = flag(True)
    # Not a count(): 0 cannot mean that there is no limit, for that would let a large message fill the memory.
    spoolMemory: int = option(262144, "a whole number of octets, 0 or more", within(0))
    bareNewline: str = oneOf(NORMALIZE, '"normalize", "reject" or "accept"', (NORMALIZE, REJECT, ACCEPT))

    # Limits
    maxClients: int = count(0, "connections", shared="clients")
    maxClientsPerAddress: int = count(0, "connections", shared="clients")
    maxRecipients: int = count(1000, "recipients")
    maxTransactions: int = count(0, "transactions")
    maxJunkCommands: int = count(1000, "commands")
    authFailuresPerAddress: int = count(20, "failures", shared="authFailures")
    maxCommandLength: int | None = option(
        None, "a whole number of octets, 512 or more (memory for a command is always bounded)", within(512)
    )
    maxAllowedUnauthenticatedCommands: int | bool = option(
        10,
        "a whole number of commands, or {false!r} for no limit",
        lambda value: value is False or within(1)(value),
    )
    maxUnrecognizedCommands: int = count(10, "commands")
    maxErrors: int = count(20, "errors")

    # Time
    socketTimeout: float = seconds(60)
    # A large message over a slow line may well take a day.
    dataTimeout: float = seconds(1800, most=172800)
    hookTimeout: float = seconds(0)
    closeTimeout: float = seconds(30)
    # Clients wait five minutes for the greeting (RFC 5321 section 4.5.3.2.1).
    greetDelay: float = seconds(0, most=300)

    # Proxies
    useProxy: bool | Sequence[str] = peers(False)
    useXClient: bool | Sequence[str] = peers(False)
    useXForward: bool | Sequence[str] = peers(False)

    # DNS
    disableReverseLookup: bool = flag(False)
    resolver: Any = objectWith("lookupPointer", "a Twisted IResolver")

    # Hooks
    asyncioHooks: bool = flag(False)

    # Log
    logAddresses: bool = flag(True)
    logRefusals: bool = flag(True)
    debugPeers: bool | Sequence[str] = peers(())
    # Every client waits as long.
    slowHook: float = seconds(0.5, most=120)

    # Addresses
    lenientAddressParsing: bool = flag(False)

    # TLS
    key: str | bytes | None = pem(isSecret=True, perServerName=True)
    cert: str | bytes | None = pem(perServerName=True)
    ca: str | bytes | None = pem(perServerName=True)
    requestCert: bool = flag(False, perServerName=True)
    rejectUnauthorized: bool = flag(True, perServerName=True)
    minVersion: str = oneOf("TLSv1.2", _ONE_TLS_VERSION, _TLS_VERSIONS, perServerName=True)
    maxVersion: str | None = oneOf(None, _ONE_TLS_VERSION, _TLS_VERSIONS, perServerName=True)
    ciphers: str | None = option(
        None, "a list of ciphers as OpenSSL writes it", lambda value: isLine(value) and value, perServerName=True
    )
    sniOptions: Mapping[str, Mapping[str, Any]] = serverNames()

    def __attrs_post_init__(self) -> None:
        for one, other in (("key", "cert"), ("cert", "key")):
            if getattr(self, one) is not None and getattr(self, other) is None:
                raise OptionError(
                    f"option {one} is given without {other}, it wants both or neither", options=[one, other]
                )
        if self.secure and self.secured:
            raise OptionError(
                "option secured is {!r} with secure, it wants only one of them: who ends TLS?",
                True,
                options=["secured", "secure"],
            )
        # A proxy may have authenticated its client.
        if "AUTH" in self.disabledCommands and not (self.authOptional or self.useXClient):
            raise OptionError(
                "option authOptional is {!r} with AUTH in disabledCommands, it wants {!r}: no client could send mail",
                False,
                True,
                options=["authOptional", "disabledCommands"],
            )
        if self.maxVersion is not None and self.maxVersion < self.minVersion:
            raise OptionError(
                f"option maxVersion is {self.maxVersion}, it wants no less than minVersion {self.minVersion}",
                options=["maxVersion", "minVersion"],
            )


OPTION_NAMES = tuple(field.name for field in attrs.fields(Options))


def optionsWith(fact: str, value: object = True) -> tuple[str, ...]:
    """The names of the options that declare this fact, in their order."""
    return tuple(field.name for field in attrs.fields(Options) if field.metadata.get(fact) == value)


HOST_OPTIONS = optionsWith("perServerName")
TLS_OPTIONS = (*HOST_OPTIONS, "sniOptions")
_SECRETS = optionsWith("isSecret")
_IS_PATH = {field.name: field.metadata["isPath"] for field in attrs.fields(Options) if "isPath" in field.metadata}


def isPath(name: str, value: object) -> bool:
    """Is the value of this option the path of a file?"""
    return name in _IS_PATH and isinstance(value, str) and value != "" and bool(_IS_PATH[name](value))


def mustHide(name: str, value: object) -> bool:
    """Is the value of this option a secret that must not be shown?"""
    return name in _SECRETS and value is not None and not isPath(name, value)


def makeOptions(given: dict[str, Any], otherNames: Iterable[str] = ()) -> Options:
    """
    Check options given by name.

    @param otherNames: further names that may have been meant by an unknown one, such as those of hooks.
    @raise OptionError: if one is unknown or wrong.
    """
    for name in given:
        if name not in OPTION_NAMES:
            raise OptionError(unknownName("option", name, [*OPTION_NAMES, *otherNames]))
    return Options(**given)


def checkOption(name: str, value: object) -> None:
    """
    Check the value of one option by itself.

    @raise OptionError: if it is wrong whatever the other options are.
    """
    field = attrs.fields_dict(Options)[name]
    check: Any = field.validator
    convert: Any = field.converter or (lambda value: value)
    check(None, field, convert(value))
