"""
Ports: what listens on sockets that are open already, and serves as many of them as it is told to.

In: the sockets of one endpoint, and its description.  Out: an C{IStreamServerEndpoint} whose port has any number of
these sockets at a time.  Twisted alone reads descriptions: it makes the endpoint, on a stand-in for the reactor.
This module opens no socket, and knows neither supervisor nor worker.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, execute, gatherResults, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from smtphooks.service.endpoints import kindOf


def hostOf(family: int, descriptor: int) -> Any:
    """The address of a listening socket."""
    with socket.socket(fileno=os.dup(descriptor)) as listening:
        name = listening.getsockname()
    if family == socket.AF_UNIX:
        return UNIXAddress(name)
    return (IPv6Address if family == socket.AF_INET6 else IPv4Address)("TCP", *name)


class _AdoptedUNIXPort(unix.Port):
    """
    A port on a UNIX socket that listens already, whose path, mode and backlog are the business of who opened it.

    Twisted's makes it writable to the world, which only its owner may do, and removes its path when it stops.
    """

    # As Twisted has it for TCP: a socket that is shut down serves no other process any more.
    _shouldShutdown = False
    _preexistingSocket: Any

    def startListening(self: Any) -> None:
        """Accept from now on."""
        tcp._reservedFD.reserve()
        self.factory.doStart()
        self.socket, self._preexistingSocket = self._preexistingSocket, None
        self.fileno = self.socket.fileno
        self.connected = True
        self.numberAccepts = 100
        self.startReading()

    def connectionLost(self: Any, reason: Failure) -> None:
        """The port has stopped."""
        tcp.Port.connectionLost(self, reason)


def adopt(reactor: Any, descriptor: int, family: int, factory: Any) -> IListeningPort:
    """Accept from a socket that listens already, and which stays as it is."""
    if family != socket.AF_UNIX:
        return reactor.adoptStreamPort(descriptor, family, factory)  # type: ignore[no-any-return]
    kind: Any = _AdoptedUNIXPort
    port = kind._fromListeningDescriptor(reactor, descriptor, factory)
    port.startListening()
    return port  # type: ignore[no-any-return]


class SocketsReactor:
    """
    Stands in for a reactor while an endpoint listens: it is told what the endpoint would listen on, and listens not.

    So the descriptions of all endpoints, plugins of others included, are read by Twisted alone.
    """

    def __init__(self, listen: Callable[..., Any], reactor: Any = None) -> None:
        """
        @param listen: called with the kind, C{"tcp"}, C{"unix"} or C{"adopted"}, the arguments of the address, and the
            factory that would be listened for.
        @param reactor: has all other methods.
        """
        self._listen = listen
        self._reactor = reactor

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """C{IReactorTCP}"""
        return self._listen("tcp", (interface, port, backlog), factory)

    def listenSSL(self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = "") -> Any:
        """C{IReactorSSL}"""
        wrapped = TLSMemoryBIOFactory(contextFactory, False, factory, clock=self._reactor) if factory else None
        return self._listen("tcp", (interface, port, backlog), wrapped)

    def listenUNIX(self, address: Any, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: Any = 0) -> Any:
        """C{IReactorUNIX}"""
        return self._listen("unix", (os.fspath(address), backlog, mode, bool(wantPID)), factory)

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: Any) -> Any:
        """C{IReactorSocket}"""
        return self._listen("adopted", (fileDescriptor, addressFamily), factory)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


@implementer(IListeningPort)
class Ports:
    """
    The ports of one endpoint in one worker: of the sockets that the supervisor keeps, those that it has to serve.

    It is an C{IListeningPort}, which may have no port for a while.
    """

    def __init__(self, reactor: Any, family: int, descriptors: Sequence[int], isShared: bool, factory: Any) -> None:
        self._reactor = reactor
        self._family = family
        self._descriptors = descriptors
        self._isShared = isShared
        self._factory = factory
        self._ports: dict[int, IListeningPort] = {}
        self._stopping: set[Deferred[Any]] = set()
        self._hasEnded = False

    def serve(self, numbers: Sequence[int]) -> None:
        """
        Accept from these sockets, and from no others; one that all workers share is served with any number.

        After L{stopListening} nothing happens: a worker that ends may be told to serve in the place of another one.
        """
        if not self._hasEnded:
            self._serve(numbers)

    def _serve(self, numbers: Sequence[int]) -> None:
        wanted = {0} & set(range(len(numbers))) if self._isShared else {*numbers} & {*range(len(self._descriptors))}
        # First those that are new: a factory without a port would count as one that has stopped.
        for number in sorted(wanted - self._ports.keys()):
            self._ports[number] = self._adopt(self._descriptors[number])
        for number in self._ports.keys() - wanted:
            self._stop(self._ports.pop(number))

    def _adopt(self, descriptor: int) -> IListeningPort:
        return adopt(self._reactor, descriptor, self._family, self._factory)

    def startListening(self) -> None:
        """C{IListeningPort}"""

    def _stop(self, port: IListeningPort) -> None:
        stopping: Deferred[Any] = maybeDeferred(port.stopListening)
        self._stopping.add(stopping)
        stopping.addBoth(self._stopped, stopping)

    def _stopped(self, result: Any, stopping: Deferred[Any]) -> Any:
        self._stopping.discard(stopping)
        return result

    def stopListening(self) -> Deferred[Any]:
        """
        C{IListeningPort}: accept no more; the sockets stay open.

        @return: fires when no port is left: not before that the factory counts none, and its connections may be ended.
        """
        self._hasEnded = True
        self._serve([])
        return gatherResults([*self._stopping], consumeErrors=True)

    def getHost(self) -> Any:
        """C{IListeningPort}"""
        return hostOf(self._family, self._descriptors[0])


@implementer(IStreamServerEndpoint)
class InheritedEndpoint:
    """
    An endpoint whose sockets are open already.

    @ivar description: that of the endpoint that the sockets were opened for.
    """

    def __init__(
        self,
        reactor: Any,
        description: str,
        family: int,
        isShared: bool,
        descriptors: Sequence[int],
        served: Sequence[int] = (),
    ) -> None:
        """
        @param description: that of the endpoint that the sockets were opened for: it may put TLS around the factory.
        @param served: the numbers of the sockets that are served from the start.
        """
        self._reactor = reactor
        self.description: str = description
        self._sockets = family, descriptors, isShared
        self._served = served
        self._ports: Ports | None = None

    def listen(self, protocolFactory: Any) -> Deferred[IListeningPort]:
        """C{IStreamServerEndpoint}"""
        if kindOf(self.description) == "systemd":
            # systemd has handed the socket to the supervisor, of which this process may be no copy.
            return execute(self._listen, None, None, protocolFactory)
        instead = SocketsReactor(self._listen, self._reactor)
        listening: Deferred[IListeningPort] = serverFromString(instead, self.description).listen(protocolFactory)
        return listening

    def serve(self, numbers: Sequence[int]) -> None:
        """See L{Ports.serve}; nothing happens before it listens."""
        if self._ports is not None:
            self._ports.serve(numbers)

    def close(self) -> None:
        """Close the sockets, which this process shares with others, when its port has stopped: it serves no more."""
        family, descriptors, isShared = self._sockets
        self._sockets = family, [], isShared
        for descriptor in descriptors:
            os.close(descriptor)

    def _listen(self, _kind: object, _address: object, factory: Any) -> Ports:
        self._ports = Ports(self._reactor, *self._sockets, factory)
        self._ports.serve(self._served)
        return self._ports
