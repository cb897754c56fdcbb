"""
The service extensions of one server (RFC 5321 section 2.2), looked up by what a client may use of them.

The dialogue asks here what EHLO shows and which parameters and commands there are.  By name it knows only extensions
that have a row in its own table of commands, such as STARTTLS.
This module knows neither the built-in extensions nor commands nor hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import attrs

from smtphooks.extension import Extension, Handler, Validator
from smtphooks.options import Options
from smtphooks.replies import SMTPError
from smtphooks.session import Session
from smtphooks.syntax.networks import TrustedPeers


def isDisabled(verb: str, options: Options, session: Session) -> bool:
    """Is the command disabled for this client?  The session's own list replaces that of the options."""
    own = session.disabledCommands
    return verb in options.disabledCommands if own is None else verb in (name.upper() for name in own)


@attrs.frozen(eq=False)
class PeerExtension(Extension):
    """
    An extension for trusted peers only.

    @ivar peers: the peers that may use it, None for no peer.
    """

    peers: TrustedPeers | None = attrs.field(kw_only=True)


class _Shown(NamedTuple):
    """
    How EHLO shows an extension.

    @ivar line: its line if every client is shown the same.
    @ivar parametersFor: what is to be asked if that depends on the client.
    """

    extension: Extension
    line: str | None
    parametersFor: Callable[[Session], str | None]


def _line(extension: Extension, parameters: object) -> str:
    return f"{extension.keyword} {parameters}".rstrip()


def _shown(extension: Extension) -> _Shown:
    parameters = extension.parameters
    # A subclass may decide on its parameters in its own way.
    isPlain = type(extension).parametersFor is Extension.parametersFor
    if isPlain and isinstance(parameters, str) and not isinstance(extension, PeerExtension):
        return _Shown(extension, _line(extension, parameters), extension.parametersFor)
    return _Shown(extension, None, parameters if isPlain and callable(parameters) else extension.parametersFor)


def _index(extensions: Sequence[Extension], field: str) -> dict[str, tuple[Extension, Any]]:
    index: dict[str, tuple[Extension, Any]] = {}
    for extension in extensions:
        for name, value in getattr(extension, field).items():
            index.setdefault(name, (extension, value))
    return index


class Extensions:
    """
    The extensions of a server, indexed once.

    The first extension to define a name keeps it, so a user's own cannot replace what is built in.

    @ivar shown: how EHLO shows each extension.
    @ivar byKeyword: by EHLO keyword.
    @ivar mailParameters: by keyword, each parameter's extension and validator; C{rcptParameters} likewise.
    @ivar commands: by verb, each command's extension and handler.
    @ivar forPeers: the extensions for trusted peers only.
    @ivar havePeers: an option lists such peers.
    @ivar commandLength: octets that they add to the length of a command line.
    """

    def __init__(self, extensions: Sequence[Extension]) -> None:
        self.shown: list[_Shown] = [*map(_shown, extensions)]
        self.byKeyword: dict[str, Extension] = {extension.keyword: extension for extension in reversed(extensions)}
        self.mailParameters: dict[str, tuple[Extension, Any]] = _index(extensions, "mailParameters")
        self.rcptParameters: dict[str, tuple[Extension, Any]] = _index(extensions, "rcptParameters")
        self.commands: dict[str, tuple[Extension, Any]] = _index(extensions, "commands")
        # Not a set: a subclass of Extension may compare by its value, which cannot be hashed.
        self.forPeers: tuple[PeerExtension, ...] = tuple(each for each in extensions if isinstance(each, PeerExtension))
        self.havePeers: bool = any(each.peers is not None for each in self.forPeers)
        self.commandLength: int = sum(extension.commandLength for extension in extensions)


class ClientExtensions:
    """
    The extensions of a server as one client may use them.

    Whether the peer is trusted is kept here, where no hook can change it (invariant 8).  It is not until L{trust}.
    """

    __slots__ = ("_barred", "_known", "_session")

    def __init__(self, known: Extensions, session: Session) -> None:
        self._known = known
        self._session = session
        self._barred: Collection[Extension] = known.forPeers

    def trust(self, address: str) -> None:
        """Put in force what is for trusted peers only, where it lists the peer of this address."""
        known = self._known
        if known.havePeers:
            self._barred = [each for each in known.forPeers if each.peers is None or not each.peers.trusts(address)]

    def distrust(self) -> None:
        """Take out of force, for good, what is for trusted peers only."""
        self._barred = self._known.forPeers

    def _isInForce(self, extension: Extension) -> bool:
        return extension not in self._barred and extension.parametersFor(self._session) is not None

    def ehloLines(self) -> list[str]:
        """The lines of the EHLO reply that follow the first."""
        session, barred = self._session, self._barred
        lines = []
        for extension, line, parametersFor in self._known.shown:
            if line is None and extension not in barred:
                parameters = parametersFor(session)
                if parameters is not None:
                    line = extension.keyword if parameters == "" else _line(extension, parameters)
            if line is not None:
                lines.append(line)
        return lines

    def isInForce(self, keyword: str) -> bool:
        """Is the extension of this EHLO keyword in force?"""
        extension = self._known.byKeyword.get(keyword)
        return extension is not None and self._isInForce(extension)

    def mailArguments(self, given: Mapping[str, str | bool]) -> dict[str, str | bool]:
        """
        Check the parameters of a MAIL command.

        @raise SMTPError: 555 for a parameter that no extension in force defines (RFC 5321 section 4.1.1.11), or what
            its validator refuses it with.
        """
        return self._arguments(self._known.mailParameters, given)

    def rcptArguments(self, given: Mapping[str, str | bool]) -> dict[str, str | bool]:
        """The same for RCPT."""
        return self._arguments(self._known.rcptParameters, given)

    def _arguments(
        self, known: Mapping[str, tuple[Extension, Validator]], given: Mapping[str, str | bool]
    ) -> dict[str, str | bool]:
        session, barred = self._session, self._barred
        arguments = {}
        for keyword, value in given.items():
            found = known.get(keyword)
            if found is None or found[0] in barred or not found[0].takesParameters(session):
                raise SMTPError(f"Parameter {keyword} not recognized or not implemented", 555, "5.5.4")
            _, validate = found
            arguments[keyword] = validate(value)
        return arguments

    def command(self, verb: str) -> Handler | None:
        """The handler of a command that an extension in force adds."""
        found = self._known.commands.get(verb)
        return found[1] if found is not None and self._isInForce(found[0]) else None

    def adds(self, verb: str) -> bool:
        """Does an extension add this command, be it in force or not?"""
        return verb in self._known.commands

    def verbs(self) -> list[str]:
        """All commands that extensions in force add."""
        return [verb for verb in self._known.commands if self.command(verb)]
