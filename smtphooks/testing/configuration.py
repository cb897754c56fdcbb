"""
Configuration: what a test asks of its server, completed and checked, and the factories that come of it.

In: options and hooks as for L{SMTPServerFactory}, and those that only tests have.  Out: a factory for each start.
This module knows neither threads nor sockets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.interfaces import IReactorTime

from smtphooks.errors import OptionError
from smtphooks.factory import SMTPServerFactory
from smtphooks.hooks import authenticates, hookOf
from smtphooks.hooktable import HOOK_NAMES
from smtphooks.layer import Layer
from smtphooks.options import Options
from smtphooks.optiontypes import FactoryOptions
from smtphooks.testing.certificates import authority, pairFor
from smtphooks.testing.recording import takeAll
from smtphooks.testing.scripting import Script
from smtphooks.testing.users import Users
from smtphooks.tls.certificates import loadCertificates

# What a test wants and a server on the Internet must not have.  The name is one that needs no look-up, and a look-up of
# Twisted's would run on the reactor of the process.
DEFAULTS: FactoryOptions = {"name": "localhost", "allowInsecureAuth": True, "disableReverseLookup": True}

EXPIRED, WRONG_NAME, CUT = _BROKEN = ("expired", "wrong name", "cut")


class Configuration:
    """
    What a test asked for, checked.

    @ivar options: the L{Options} in force.
    @ivar cutsHandshakes: TLS handshakes are to be cut.
    @raise OptionError: for what is wrong, in the words of a factory.
    """

    def __init__(
        self, hooks: Any, given: Mapping[str, Any], users: Mapping[str, str] | None, brokenTLS: str | None
    ) -> None:
        if brokenTLS not in (None, *_BROKEN):
            words = ", ".join(f'"{word}"' for word in _BROKEN)
            raise OptionError(f"option brokenTLS is {{!r}}, it wants one of {words}", brokenTLS, options=["brokenTLS"])
        self.cutsHandshakes: bool = brokenTLS == CUT
        named = {name: given[name] for name in HOOK_NAMES if given.get(name) is not None}
        options = {name: value for name, value in given.items() if name not in HOOK_NAMES}
        options = {**DEFAULTS, "authOptional": users is None, **options}
        layers: Sequence[Any] = hooks if isinstance(hooks, (list, tuple)) else [] if hooks is None else [hooks]
        objects = [layer.hooks if isinstance(layer, Layer) else layer for layer in layers]
        self._hasDelivery = any(hookOf(each, "onData") for each in objects)
        if not self._hasDelivery:
            named.setdefault("onData", takeAll)
        # A factory of exactly what was given finds what is wrong with it.
        found = SMTPServerFactory(hooks, **options, **named)
        self.options: Options = found.options
        self._hasOwnPair = self.options.cert is not None
        self._given = {**options, **self._pair(brokenTLS)}
        self._named = named
        self._layers = list(layers)
        if users is not None:
            if found.options.portal or "onAuth" in named or any(authenticates(each) for each in objects):
                raise OptionError(
                    "option users is given beside a portal or an onAuth hook, it wants to be the only one to ask",
                    options=["users"],
                )
            self._layers.append(Users(users))

    def _pair(self, brokenTLS: str | None) -> dict[str, str]:
        if not self._hasOwnPair:
            pair = pairFor(self.options.name, brokenTLS == EXPIRED, brokenTLS == WRONG_NAME)
            return {"key": pair.key, "cert": pair.certificate}
        if brokenTLS in (EXPIRED, WRONG_NAME):
            raise OptionError(
                "option brokenTLS is {!r} with cert, it wants the server to make the certificate",
                brokenTLS,
                options=["brokenTLS", "cert"],
            )
        return {}

    @property
    def certificate(self) -> str:
        """What a client is to trust: PEM text of the authority, or of the certificates that were given."""
        if not self._hasOwnPair or self.options.cert is None:
            return authority()
        found = loadCertificates("cert", self.options.cert)
        return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in found)

    def makeFactory(self, script: Script, clock: IReactorTime) -> SMTPServerFactory:
        """The factory that was asked for, with the hooks of the script around all others."""
        # A hook by name wins over that of a single object, but a factory refuses it beside a list that has it too.
        onData = {} if self._hasDelivery else {"onData": self._named["onData"]}
        factory = SMTPServerFactory([script.recorder, *self._layers], **self._given, **onData)
        for name, hook in self._named.items():
            setattr(factory, name, hook)
        factory.clock = clock
        script.install(factory)
        return factory
