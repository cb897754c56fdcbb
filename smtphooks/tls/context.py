"""
TLS: from options to OpenSSL contexts, and the choice of one by server name.

L{SecureContext} is given to Twisted wherever it wants to know how to begin TLS.  All that its options name is loaded,
matched and tried before the first client could meet it, so that a wrong file is an L{OptionError} and never a failed
handshake.  What a handshake says when it is over is asked for with the functions of L{smtphooks.tls.handshake}.
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
    A context as C{CertificateOptions} fills it, but for two things that it has no words for.

    @ivar securityLevel: OpenSSL's, to end the list of ciphers with; Twisted lists names only and so drops it.
    """

    securityLevel = b""

    def set_cipher_list(self, cipher_list: bytes) -> None:
        super().set_cipher_list(cipher_list + self.securityLevel)

    def set_alpn_select_callback(self, callback: Callable[..., Any]) -> None:
        """SMTP has no ALPN: an offer of it is ignored (RFC 7301 section 3.1), where Twisted would end the handshake."""


@attrs.frozen
class _Ciphers:
    """Option C{ciphers}, taken apart: OpenSSL and Twisted keep its three parts in three places."""

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
        levels = ["@SECLEVEL=0"]  # else OpenSSL 3 refuses the versions that minVersion asks for, whatever the cipher
    try:
        acceptable = AcceptableCiphers.fromOpenSSLCipherString(":".join(others + levels)) if others else None
        # Names that OpenSSL does not know, and suites, are only complained about where they are set.
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
    A context for what the options say.

    Sessions are never resumed (Twisted's default, and C{set_session_id} is done by it): a resumed one would carry a
    client's certificate past the check of it, and that of one server name to another; SMTP clients gain little.
    """
    ciphers = _splitCiphers(options)
    authorities = [] if options.ca is None else loadCertificates("ca", options.ca)

    def makeEmpty(method: int) -> SSL.Context:
        # All that is not Twisted's to set is set here, before it: pyOpenSSL takes no changes to a context in use, and
        # for some versions the list of ciphers, which Twisted sets last, is use.
        context = _Context(method)
        context.securityLevel = ciphers.securityLevel.encode()
        context.set_options(SSL.OP_NO_RENEGOTIATION)
        if options.maxVersion is not None:
            context.set_max_proto_version(_VERSIONS[options.maxVersion][0])  # Twisted's older ones stop a step short
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
def _barrenContext() -> SSL.Context:
    """Without a certificate every handshake up to TLS 1.2 fails, with an alert to the client."""
    return SSL.Context(SSL.TLS_METHOD)


@attrs.frozen(eq=False)
class _Host:
    """
    What a server name means to a handshake.

    @ivar lowest: the version of TLS, as pyOpenSSL counts, below which clients are refused.
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
        Called within the handshake, when the client has said whom it wants.

        OpenSSL changes certificates, authorities and ciphers with the context; how to verify is the connection's own;
        and the version has been agreed upon already, so that all there is left is to refuse.
        """
        if connection.get_protocol_version() < self.lowest:
            connection.set_context(_barrenContext())
            return
        connection.set_context(self.context)
        connection.set_verify(self.verifyMode, self.verify)


def _ofHost(main: Options, own: Mapping[str, Any]) -> Options:
    """The options of one server name: its own ones, else the main ones."""
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
    """All that handshakes choose from, made as a whole; it never changes, but for a main host that may be late."""

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
        """For clients that name no server, or one that is not known."""
        if self._main is None:
            context = _makeContext(self._options, selfSigned(self._options.name), self._choose)
            self._main = _Host.of(self._options, context)
        return self._main

    def _choose(self, connection: SSL.Connection) -> None:
        """Called by OpenSSL in every handshake, with a name or without; it must not raise."""
        name = serverName(connection) or ""
        host = self._named.get(name) or self._named.get("*." + name.partition(".")[2])
        if host is not None:
            host.takeOver(connection)


@implementer(IOpenSSLServerConnectionCreator)
class SecureContext:
    """
    The TLS options of a factory in force: what Twisted's C{startTLS} and C{TLSMemoryBIOFactory} are given.

    @ivar options: the L{Options} that were read last without an error.
    @raise OptionError: if a file cannot be read, or what is in it does not go together.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self._hosts = _Hosts(options)

    def update(self, **given: Any) -> None:
        """
        Use other certificates, or other options of TLS, from the next handshake on.

        All files are read again, also when nothing is given.  If anything is wrong, all stays as it was.

        @raise OptionError: if something is wrong.
        """
        for name in given:
            if name not in TLS_OPTIONS:
                raise OptionError(unknownName("TLS option", name, TLS_OPTIONS))
        options = attrs.evolve(self.options, **given)
        self._hosts, self.options = _Hosts(options), options

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Called by Twisted when TLS begins on a connection."""
        return self._hosts.main().begin()
