"""
The types of options given by name, for type checkers and the completion of editors.

Of each option of C{Options}, here is what may be given for it: L{ServerOptions} has all of them, L{TLSOptions} those
that C{updateSecureContext} takes, and L{FactoryOptions} all of them and the hooks by name.  Functions that hand options
on say C{**options: Unpack[FactoryOptions]}.
This module is for type checkers only: values are checked by C{Options}, and a test holds that both agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from twisted.cred.portal import Portal
from typing_extensions import TypedDict

from smtphooks.extension import Extension
from smtphooks.hooktypes import HooksByName
from smtphooks.sasl.auth import Mechanism

_T_co = TypeVar("_T_co", covariant=True)

TLSVersion: TypeAlias = Literal["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"]


class Several(Protocol[_T_co]):
    """A list, a tuple, a set; but no text, which type checkers take for a sequence of texts."""

    def __contains__(self, value: object, /) -> bool: ...
    def __iter__(self) -> Iterator[_T_co]: ...
    def __len__(self) -> int: ...


class Resolver(Protocol):
    """What option C{resolver} needs of Twisted's C{IResolver}."""

    @property
    def lookupPointer(self) -> Callable[..., Any]:
        """Called with a name, for a Deferred of records."""


class HostOptions(TypedDict, total=False):
    """The options that a server name in C{sniOptions} may have of its own."""

    key: str | bytes | None
    cert: str | bytes | None
    ca: str | bytes | None
    requestCert: bool
    rejectUnauthorized: bool
    minVersion: TLSVersion
    maxVersion: TLSVersion | None
    ciphers: str | None


class TLSOptions(HostOptions, total=False):
    """The options of TLS."""

    sniOptions: Mapping[str, HostOptions]


class ServerOptions(TLSOptions, total=False):
    """All options."""

    name: str
    banner: str
    heloResponse: str
    lmtp: bool
    secure: bool
    secured: bool
    needsUpgrade: bool
    authMethods: Several[str | Mechanism]
    authOptional: bool
    allowInsecureAuth: bool
    authRequiredMessage: str
    portal: Portal | None
    scramSecret: str | bytes | None
    scramIterations: int | None
    scramSaltLength: int | None
    hideSTARTTLS: bool
    hideSize: bool
    hidePIPELINING: bool
    hide8BITMIME: bool
    hideSMTPUTF8: bool
    hideENHANCEDSTATUSCODES: bool
    hideCHUNKING: bool
    hideDSN: bool
    hideREQUIRETLS: bool
    hideLIMITS: bool
    disabledCommands: Several[str]
    extensions: Several[Extension]
    size: int
    rejectOversized: bool
    spoolMemory: int
    bareNewline: Literal["normalize", "reject", "accept"]
    maxClients: int
    maxClientsPerAddress: int
    maxRecipients: int
    maxTransactions: int
    maxJunkCommands: int
    authFailuresPerAddress: int
    maxCommandLength: int | None
    maxAllowedUnauthenticatedCommands: int | bool
    maxUnrecognizedCommands: int
    maxErrors: int
    socketTimeout: float
    dataTimeout: float
    hookTimeout: float
    closeTimeout: float
    greetDelay: float
    useProxy: bool | Several[str]
    useXClient: bool | Several[str]
    useXForward: bool | Several[str]
    disableReverseLookup: bool
    resolver: Resolver | None
    asyncioHooks: bool
    logAddresses: bool
    logRefusals: bool
    debugPeers: bool | Several[str]
    slowHook: float
    lenientAddressParsing: bool


class FactoryOptions(ServerOptions, HooksByName, total=False):
    """All options, and the hooks by name."""
