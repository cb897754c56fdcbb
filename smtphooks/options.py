"""
Options: one frozen, checked value that says how a server behaves.

Every option is declared here once, with its default, what it wants, and nothing else; whoever acts on it reads it.  A
wrong value is an L{OptionError} whose one sentence names the option, what it got and what it wants.
This module knows nothing of configuration files, hooks or connections.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from smtphooks.errors import OptionError, unknownName
from smtphooks.extension import Extension
from smtphooks.sasl.auth import Mechanism
from smtphooks.sasl.mechanisms import MECHANISM_NAMES, isMechanism
from smtphooks.syntax.wire import ACCEPT, NORMALIZE, REJECT


def _option(
    default: Any, wants: str, fits: Callable[[Any], bool], converter: Callable[[Any], Any] | None = None
) -> Any:
    """
    Declare an option.

    @param wants: completes "the option wants …" for who gave it a value that does not fit; C{{true!r}} and C{{false!r}}
        stand for what Python and TOML write differently.
    """

    def check(instance: Options, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not fits(value):
            name = attribute.name
            raise OptionError(f"option {name} is {{!r}}, it wants {wants}", value, options=[name])

    factory = default if callable(default) else None
    return attrs.field(
        default=attrs.NOTHING if factory else default,
        factory=factory,
        validator=check,
        converter=converter,
        metadata={"wants": wants},
    )


def _flag(default: bool) -> Any:
    return _option(default, "{true!r} or {false!r}", lambda value: isinstance(value, bool))


def _isNumber(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _count(default: int, unit: str) -> Any:
    return _option(default, f"a whole number of {unit}, 0 for no limit", _isNumber)


def _seconds(default: float) -> Any:
    def fits(value: Any) -> bool:
        return _isNumber(value) or (isinstance(value, float) and 0 <= value < float("inf"))

    return _option(default, "a number of seconds, 0 for no limit", fits)


def _isLine(value: Any) -> bool:
    return isinstance(value, str) and (not value or value.isprintable())


def _line(default: str) -> Any:
    return _option(default, "one line of text without control characters", _isLine)


def _isHostname(value: Any) -> bool:
    return _isLine(value) and 0 < len(value) <= 255 and value.isascii() and " " not in value


def _isTemplate(value: Any) -> bool:
    try:
        return _isLine(value) and bool(fillHeloResponse(value, "", "") is not None)
    except (TypeError, ValueError):
        return False


def fillHeloResponse(template: str, name: str, client: str) -> str:
    """The text of the reply to HELO; the template may name both, the server alone, or neither."""
    return template % (name, client)[: template.replace("%%", "").count("%s")]


def _tupleOf(
    kind: type, convert: Callable[[Any], Any] = lambda item: item
) -> tuple[Callable[[Any], bool], Callable[[Any], Any]]:
    """A check and a converter for a list of values of one type."""

    def fits(value: Any) -> bool:
        return isinstance(value, tuple) and all(isinstance(item, kind) for item in value)

    def converter(value: Any) -> Any:
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
            return value
        return tuple(convert(item) if isinstance(item, kind) else item for item in value)

    return fits, converter


_areTexts, _toUpperTexts = _tupleOf(str, str.upper)
_areExtensions, _toExtensions = _tupleOf(Extension)


def _toMechanisms(value: Any) -> Any:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        return value
    return tuple(item.upper() if isinstance(item, str) else item for item in value)


def _areMechanisms(value: Any) -> bool:
    return isinstance(value, tuple) and all(isMechanism(item) for item in value)


_PEERS = "{true!r}, {false!r}, or a list of addresses and networks such as 10.0.0.0/8"
_areAddresses, _toPeers = _tupleOf(str)


def _arePeers(value: Any) -> bool:
    return isinstance(value, bool) or _areAddresses(value)


def _isPEM(value: Any) -> bool:
    return value is None or (isinstance(value, (str, bytes)) and bool(value))


_SECRET_OCTETS = 16


def isSecretPath(secret: str) -> bool:
    """Is this text of a secret the path of a file that holds it?"""
    return secret.startswith(("/", "."))


def isSecret(octets: bytes) -> bool:
    """Is it too long to be guessed?"""
    return len(octets) >= _SECRET_OCTETS


def _secret() -> Any:
    """Declare an option whose value is never shown, as it is or as part of an error."""
    wants = f"{_SECRET_OCTETS} octets or more, or the path of a file that has them: a path begins with / or ./"

    def check(instance: Options, attribute: attrs.Attribute[Any], value: Any) -> None:
        if isinstance(value, str):
            fits = isSecretPath(value) or isSecret(value.encode(errors="replace"))
        else:
            fits = value is None or (isinstance(value, bytes) and isSecret(value))
        if not fits:
            what = "too short" if isinstance(value, (str, bytes)) else f"of type {type(value).__name__}"
            raise OptionError(f"option {attribute.name} is {what}, it wants {wants}", options=[attribute.name])

    return attrs.field(default=None, validator=check, repr=False, metadata={"wants": wants})


TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_TLS_VERSIONS = f"one of {', '.join(TLS_VERSIONS)}"


def _areServerNames(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and name and isinstance(own, Mapping) for name, own in value.items()
    )


@attrs.frozen(kw_only=True)
class Options:
    """
    How a server behaves.  The reference documents every option; times are seconds, sizes are octets.

    @raise OptionError: if a value does not fit its option.
    """

    # Identity
    name: str = _option(socket.getfqdn, "a host name", _isHostname)
    banner: str = _line("")
    heloResponse: str = _option(
        "%s Nice to meet you, %s",
        "one line of text with at most two %s (server name, client name)",
        _isTemplate,
    )

    # Mode
    lmtp: bool = _flag(False)
    secure: bool = _flag(False)
    secured: bool = _flag(False)
    needsUpgrade: bool = _flag(False)

    # Authentication
    authMethods: Sequence[str | Mechanism] = _option(
        ("PLAIN", "LOGIN"),
        f"a list of mechanisms, each one of {', '.join(MECHANISM_NAMES)}, or an object that is one",
        _areMechanisms,
        _toMechanisms,
    )
    authOptional: bool = _flag(False)
    allowInsecureAuth: bool = _flag(False)
    authRequiredMessage: str = _line("Authentication required")

    portal: Any = _option(
        None, "a twisted.cred Portal", lambda value: value is None or callable(getattr(value, "login", None))
    )
    scramSecret: str | bytes | None = _secret()
    scramIterations: int | None = _option(
        None,
        "a whole number of iterations, 4096 or more",  # RFC 7677 section 4
        lambda value: value is None or (_isNumber(value) and value >= 4096),
    )
    scramSaltLength: int | None = _option(
        None,
        "a whole number of octets, 8 to 1024",
        lambda value: value is None or (_isNumber(value) and 8 <= value <= 1024),
    )

    # Capabilities
    hideSTARTTLS: bool = _flag(False)
    hideSize: bool = _flag(False)
    hidePIPELINING: bool = _flag(False)
    hide8BITMIME: bool = _flag(False)
    hideSMTPUTF8: bool = _flag(False)
    hideENHANCEDSTATUSCODES: bool = _flag(False)
    hideCHUNKING: bool = _flag(False)
    hideDSN: bool = _flag(True)
    hideREQUIRETLS: bool = _flag(True)
    hideLIMITS: bool = _flag(True)
    disabledCommands: Sequence[str] = _option((), "a list of commands", _areTexts, _toUpperTexts)
    extensions: Sequence[Extension] = _option((), "a list of Extension objects", _areExtensions, _toExtensions)

    # Message
    size: int = _count(0, "octets")
    rejectOversized: bool = _flag(True)
    bareNewline: str = _option(
        NORMALIZE,
        '"normalize", "reject" or "accept"',
        lambda value: isinstance(value, str) and value in (NORMALIZE, REJECT, ACCEPT),
    )

    # Limits
    maxClients: int = _count(0, "connections")
    maxClientsPerAddress: int = _count(0, "connections")
    maxRecipients: int = _count(1000, "recipients")
    maxTransactions: int = _count(0, "transactions")
    maxJunkCommands: int = _count(1000, "commands")
    authFailuresPerAddress: int = _count(20, "failures")
    maxCommandLength: int | None = _option(
        None,
        "a whole number of octets, 512 or more (memory for a command is always bounded)",
        lambda value: value is None or (_isNumber(value) and value >= 512),
    )
    maxAllowedUnauthenticatedCommands: int | bool = _option(
        10,
        "a whole number of commands, or {false!r} for no limit",
        lambda value: value is False or (_isNumber(value) and value > 0),
    )
    maxUnrecognizedCommands: int = _count(10, "commands")
    maxErrors: int = _count(20, "errors")

    # Time
    socketTimeout: float = _seconds(60)
    dataTimeout: float = _seconds(1800)
    hookTimeout: float = _seconds(0)
    closeTimeout: float = _seconds(30)
    greetDelay: float = _seconds(0)

    # Proxies
    useProxy: bool | Sequence[str] = _option(False, _PEERS, _arePeers, _toPeers)
    useXClient: bool | Sequence[str] = _option(False, _PEERS, _arePeers, _toPeers)
    useXForward: bool | Sequence[str] = _option(False, _PEERS, _arePeers, _toPeers)

    # DNS
    disableReverseLookup: bool = _flag(False)
    resolver: Any = _option(
        None, "a Twisted IResolver", lambda value: value is None or callable(getattr(value, "lookupPointer", None))
    )

    # Hooks
    asyncioHooks: bool = _flag(False)

    # Log
    logAddresses: bool = _flag(True)
    logRefusals: bool = _flag(True)
    debugPeers: bool | Sequence[str] = _option((), _PEERS, _arePeers, _toPeers)
    slowHook: float = _seconds(0.5)

    # Addresses
    lenientAddressParsing: bool = _flag(False)

    # TLS
    key: str | bytes | None = _option(None, "PEM text or the path of a PEM file", _isPEM)
    cert: str | bytes | None = _option(None, "PEM text or the path of a PEM file", _isPEM)
    ca: str | bytes | None = _option(None, "PEM text or the path of a PEM file", _isPEM)
    requestCert: bool = _flag(False)
    rejectUnauthorized: bool = _flag(True)
    minVersion: str = _option("TLSv1.2", _TLS_VERSIONS, lambda value: value in TLS_VERSIONS)
    maxVersion: str | None = _option(None, _TLS_VERSIONS, lambda value: value is None or value in TLS_VERSIONS)
    ciphers: str | None = _option(
        None, "a list of ciphers as OpenSSL writes it", lambda value: value is None or (_isLine(value) and value)
    )
    sniOptions: Mapping[str, Mapping[str, Any]] = _option(
        dict, "a table of host names, each with its own key and cert", _areServerNames
    )

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


def makeOptions(given: dict[str, Any], otherNames: Iterable[str] = ()) -> Options:
    """
    Check options given by name.

    @param otherNames: what else could have been meant where the options came from (the names of hooks, say).
    @raise OptionError: if one is unknown or wrong.
    """
    for name in given:
        if name not in OPTION_NAMES:
            raise OptionError(unknownName("option", name, [*OPTION_NAMES, *otherNames]))
    return Options(**given)


def checkOption(name: str, value: object) -> None:
    """
    Check one option, whatever the others are.

    @raise OptionError: if its value fits in no company.
    """
    field = attrs.fields_dict(Options)[name]
    check: Any = field.validator
    convert: Any = field.converter or (lambda value: value)
    check(None, field, convert(value))
