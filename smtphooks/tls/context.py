"""
Contexts: OpenSSL contexts made of options, and the choice of one by server name (SNI).

Twisted begins TLS with a L{SecureContext}.  Keys, certificates and ciphers are loaded, matched and tried when it is
made, so that a wrong file is an L{OptionError} and never a failed handshake.
This module knows no protocol, no session and no hooks, and keeps no connection alive.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.ssl import AcceptableCiphers, CertificateOptions, TLSVersion, platformTrust
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from smtphooks.errors import OptionError, unknownName
from smtphooks.options import HOST_OPTIONS, TLS_OPTIONS, Options
from smtphooks.tls.certificates import KeyPair, loadCertificates, loadKeyPair, selfSigned
from smtphooks.tls.failure import reasonsOf
from smtphooks.tls.peer import HOST_NAME, allowInvalid, requireValid, serverName

_VERSIONS = {
    "TLSv1": (SSL.TLS1_VERSION, TLSVersion.TLSv1_0),
    "TLSv1.1": (SSL.TLS1_1_VERSION, TLSVersion.TLSv1_1),
    "TLSv1.2": (SSL.TLS1_2_VERSION, TLSVersion.TLSv1_2),
    "TLSv1.3": (SSL.TLS1_3_VERSION, TLSVersion.TLSv1_3),
}


class _Context(SSL.Context):
    """
    A context that C{CertificateOptions} fills, with two settings that it does not offer.

    @ivar securityLevel: OpenSSL's; it ends the list of ciphers, from which Twisted drops everything but names.
    """

    securityLevel = b""

    def set_cipher_list(self, cipher_list: bytes) -> None:
        super().set_cipher_list(cipher_list + self.securityLevel)

    def set_alpn_select_callback(self, callback: Callable[..., Any]) -> None:
        """SMTP has no ALPN.  An offer of it is ignored (RFC 7301 section 3.1); Twisted would end the handshake."""


@attrs.frozen
class _Ciphers:
    """Option C{ciphers} in three parts, each of which OpenSSL and Twisted take in a place of its own."""

    upToTLS12: Any
    suitesOfTLS13: str
    securityLevel: str


def _splitCiphers(options: Options) -> _Ciphers:
    parts = re.split("[:, ]+", options.ciphers or "")
    suites = [part for part in parts if part.startswith("TLS_")]
    levels = [part for part in parts if part.startswith("@SECLEVEL")]
    others = [part for part in parts if part and part not in suites and part not in levels]
    if suites and not others and options.minVersion < "TLSv1.3":
        raise OptionError(
            "option ciphers is {!r}, it wants a cipher for TLSv1.2 too, or minVersion TLSv1.3 with it",
            options.ciphers,
            options=["ciphers", "minVersion"],
        )
    if not levels and options.minVersion < "TLSv1.2":
        levels = ["@SECLEVEL=0"]  # above it OpenSSL 3 refuses these versions, whatever the cipher
    try:
        acceptable = AcceptableCiphers.fromOpenSSLCipherString(":".join(others + levels)) if others else None
        # OpenSSL complains of unknown names and suites only where they are set.
        trial = SSL.Context(SSL.TLS_METHOD)
        trial.set_tls13_ciphersuites(":".join(suites).encode())
        trial.set_cipher_list(":".join([*(others or ["ALL"]), *levels]).encode())
    except (SSL.Error, ValueError):
        raise OptionError(
            "option ciphers is {!r}, it wants a list of ciphers that OpenSSL knows",
            options.ciphers,
            options=["ciphers"],
        ) from None
    return _Ciphers(acceptable, ":".join(suites), "".join(":" + level for level in levels))


def _makeContext(options: Options, pair: KeyPair | None, choose: Callable[[SSL.Connection], None]) -> SSL.Context:
    """
    A context for these options.

    Sessions are never resumed (Twisted's default; it calls C{set_session_id} too).  A resumed session would carry a
    client's certificate past its verification, and from one server name to another; SMTP clients would gain little.
    """
    ciphers = _splitCiphers(options)
    authorities = [] if options.ca is None else loadCertificates("ca", options.ca)

    def makeEmpty(method: int) -> SSL.Context:
        # Before Twisted sets anything: pyOpenSSL accepts no changes to a context in use, and in some versions a context
        # is in use once its list of ciphers is set, which Twisted does last.
        context = _Context(method)
        context.securityLevel = ciphers.securityLevel.encode()
        context.set_options(SSL.OP_NO_RENEGOTIATION)
        if options.maxVersion is not None:
            context.set_max_proto_version(_VERSIONS[options.maxVersion][0])  # an older Twisted stops one version short
        context.set_tlsext_servername_callback(choose)
        if ciphers.suitesOfTLS13:
            context.set_tls13_ciphersuites(ciphers.suitesOfTLS13.encode())
        if options.requestCert:
            for authority in authorities:
                context.add_client_ca(authority)
        return context

    settings: dict[str, Any] = {"acceptableCiphers": ciphers.upToTLS12}
    lowest = _VERSIONS[options.minVersion][1]
    settings["raiseMinimumTo" if options.minVersion >= "TLSv1.2" else "insecurelyLowerMinimumTo"] = lowest
    if pair is not None:
        settings.update(privateKey=pair.key, certificate=pair.chain[0], extraCertChain=pair.chain[1:])
    if options.requestCert and authorities:
        settings.update(verify=True, caCerts=[crypto.X509.from_cryptography(one) for one in authorities])
    elif options.requestCert:
        settings.update(trustRoot=platformTrust())
    made = CertificateOptions(**settings)
    made._contextFactory = makeEmpty  # type: ignore[assignment]
    try:
        return made.getContext()
    except (SSL.Error, TypeError) as error:
        why = ": ".join(reasonsOf(error)) or "a key of an unknown kind"
        raise OptionError(
            f"option cert is refused by OpenSSL ({why}), it wants a certificate that may be used", options=["cert"]
        ) from None


@functools.cache
def _emptyContext() -> SSL.Context:
    """A context without a certificate: every handshake up to TLS 1.2 fails in it, with an alert to the client."""
    return SSL.Context(SSL.TLS_METHOD)


@attrs.frozen(eq=False)
class _Host:
    """
    How handshakes for one server name go.

    @ivar lowest: the lowest version of TLS, as a number of OpenSSL's.
    @ivar verifyMode: whether a certificate of the client is asked for, or required.
    @ivar verify: the callback that verifies it.
    """

    context: SSL.Context
    lowest: int
    verifyMode: int
    verify: Callable[..., bool] | None

    @classmethod
    def of(cls, options: Options, context: SSL.Context) -> _Host:
        mode, verify = SSL.VERIFY_NONE, None
        if options.requestCert:
            mode, verify = SSL.VERIFY_PEER | SSL.VERIFY_CLIENT_ONCE, allowInvalid
            if options.rejectUnauthorized:
                mode, verify = mode | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, requireValid
        return cls(context, _VERSIONS[options.minVersion][0], mode, verify)

    def begin(self) -> SSL.Connection:
        connection = SSL.Connection(self.context, None)
        connection.set_verify(self.verifyMode, self.verify)
        return connection

    def takeOver(self, connection: SSL.Connection) -> None:
        """
        Make a connection that has begun with another host's context one of this host.

        OpenSSL takes certificates, authorities and ciphers from the new context; how to verify belongs to the
        connection.  The version has been agreed upon already, so one that is too low can only be refused.
        """
        if connection.get_protocol_version() < self.lowest:
            connection.set_context(_emptyContext())
            return
        connection.set_context(self.context)
        connection.set_verify(self.verifyMode, self.verify)


def _ofHost(main: Options, own: Mapping[str, Any]) -> Options:
    """The options of one server name: its own, and the main ones for the rest."""
    for option in own:
        if option not in HOST_OPTIONS:
            raise OptionError(unknownName("option", option, HOST_OPTIONS))
    for option in ("key", "cert"):
        if own.get(option) is None:
            raise OptionError(
                f"option {option} is missing, it wants to be given for each server name", options=[option]
            )
    options = attrs.evolve(main, sniOptions={}, **own)
    if options.minVersion < main.minVersion or options.maxVersion != main.maxVersion:
        option = "maxVersion" if options.minVersion >= main.minVersion else "minVersion"
        raise OptionError(
            f"option {option} is {getattr(options, option)}, it wants the main {getattr(main, option)}"
            f"{' or more' if option == 'minVersion' else ''}: TLS agrees on a version before it looks at the name",
            options=[option],
        )
    if "TLS_" in (own.get("ciphers") or ""):
        raise OptionError(
            "option ciphers is {!r}, it wants ciphers of TLSv1.2:"
            " those of TLSv1.3 are agreed upon before TLS looks at the name",
            options.ciphers,
            options=["ciphers"],
        )
    return options


class _Hosts:
    """All hosts that a handshake can choose from.  They never change; the main host may be made late."""

    def __init__(self, options: Options) -> None:
        self._options = options
        pair = loadKeyPair(options)
        # Without a key this context is only a trial of the other options.
        context = _makeContext(options, pair, self._choose)
        self._main = _Host.of(options, context) if pair else None
        self._named: dict[str, _Host] = {}
        for name, own in options.sniOptions.items():
            try:
                self._add(name, own)
            except OptionError as error:
                raise error.ofHost(name) from None

    def _add(self, name: str, own: Mapping[str, Any]) -> None:
        known = name.lower().rstrip(".")
        if not HOST_NAME.fullmatch(known) or known in self._named:
            raise OptionError(
                "the name is {!r}, it wants a host name such as mail.example.org or *.example.org, once", name
            )
        options = _ofHost(self._options, own)
        context = _makeContext(options, loadKeyPair(options), self._choose)
        self._named[known] = _Host.of(options, context)

    def main(self) -> _Host:
        """The host for clients that name no server, or an unknown one.  The first call makes a missing certificate."""
        if self._main is None:
            context = _makeContext(self._options, selfSigned(self._options.name), self._choose)
            self._main = _Host.of(self._options, context)
        return self._main

    def _choose(self, connection: SSL.Connection) -> None:
        """OpenSSL calls this in every handshake, with a name or without; it must not raise."""
        name = serverName(connection) or ""
        host = self._named.get(name) or self._named.get("*." + name.partition(".")[2])
        if host is not None:
            host.takeOver(connection)


@implementer(IOpenSSLServerConnectionCreator)
class SecureContext:
    """
    TLS as the options of a factory want it; for Twisted's C{startTLS} and C{TLSMemoryBIOFactory}.

    @ivar options: the L{Options} in force.
    @raise OptionError: if a file cannot be read, or key, certificates and ciphers do not fit.
    """

    def __init__(self, options: Options) -> None:
        self.options: Options = options
        self._hosts = _Hosts(options)

    def update(self, **given: Any) -> None:
        """
        Use other certificates, or other options of TLS, from the next handshake on.

        All files are read again, even if no option is given.  After an error everything stays as it was.

        @raise OptionError: if an option is unknown or wrong.
        """
        for name in given:
            if name not in TLS_OPTIONS:
                raise OptionError(unknownName("TLS option", name, TLS_OPTIONS))
        options = attrs.evolve(self.options, **given)
        self._hosts, self.options = _Hosts(options), options

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """C{IOpenSSLServerConnectionCreator}: TLS begins on a connection."""
        return self._hosts.main().begin()
