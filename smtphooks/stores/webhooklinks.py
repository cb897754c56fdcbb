"""
Links: the connections to webhooks over HTTP, kept for the next request to the same host.

In: a URL, the fields of a request, and an L{Exchange} as its body.  Out: the response.  Twisted's pool keeps the
connections; each is wrapped, so that an exchange learns of an answer that comes while it still sends, can end a
connection at once, and takes no endless answer.
This module knows no mail, no store, and not what an answer means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IReadDescriptor, IStreamClientEndpoint
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from smtphooks.stores.webhookexchange import Exchange

# More than any answer needs; with its header.
_ANSWER_OCTETS = 65536

# A connection is closed before the servers do so: Apache, Node and uvicorn close an idle one after five seconds.
_IDLE_SECONDS = 4
_IDLE_LINKS = 20

# treq encodes the host of a URL as a name, which fails for an IPv6 address (python-hyper/hyperlink issue 188).
_STAND_IN = "http://webhook.invalid/"

_STATUS = re.compile(rb"HTTP/\d\.\d 1\d\d\b")
_INTERIM = re.compile(rb"HTTP/\d\.\d 1\d\d\b[^\n]*\n(?:[^\r\n][^\n]*\n)*\r?\n")


class Links:
    """The connections of one store."""

    def __init__(self, reactor: Any, trustRoot: Any = None) -> None:
        """
        @param trustRoot: the authorities that servers of https are verified against, an C{IOpenSSLTrustRoot}; None for
            those of the system.
        """
        self._reactor = reactor
        self._pool = pool = _Pool(reactor)
        self._endpoints = _Endpoints(reactor, BrowserLikePolicyForHTTPS(trustRoot))
        self._agent = Agent.usingEndpointFactory(reactor, self._endpoints, pool)

    def post(
        self, url: str, fields: Mapping[str, str], body: IBodyProducer, method: str = "POST"
    ) -> Deferred[IResponse]:
        """Make a request.  Its redirection is its response."""
        # A client of its own for each request: that keeps cookies, which are none of a message's business.
        client = HTTPClient(_Plain(self._agent, url.encode()))
        headers = Headers()
        for name, value in fields.items():
            headers.addRawHeader(name, value)
        response: Any = client.request(
            method, _STAND_IN, headers=headers, data=body, allow_redirects=False, unbuffered=True, reactor=self._reactor
        )
        return response  # type: ignore[no-any-return]

    def close(self) -> Deferred[Any]:
        """Close all connections, at once; fires when they are gone."""
        HTTPConnectionPool.closeCachedConnections(self._pool)  # and their timers
        return self._endpoints.abort()


class _Pool(HTTPConnectionPool):
    """A pool that hands out no connection that sends no more."""

    retryAutomatically = False
    cachedConnectionTimeout = _IDLE_SECONDS
    maxPersistentPerHost = _IDLE_LINKS

    def __init__(self, reactor: Any) -> None:
        HTTPConnectionPool.__init__(self, reactor)

    def getConnection(self, key: Any, endpoint: IStreamClientEndpoint) -> Any:
        def usable(connection: Any) -> Any:
            return self.getConnection(key, endpoint) if connection.transport.isMute else connection

        return super().getConnection(key, endpoint).addCallback(usable)


@implementer(IAgent)
class _Plain:
    """An agent for one URL, which takes no compressed answer: a short one could become a very long one."""

    def __init__(self, agent: Any, url: bytes) -> None:
        self._agent = agent
        self._url = url

    def request(self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None) -> Any:
        """As C{IAgent} has it."""
        headers = headers.copy()
        headers.setRawHeaders("Accept-Encoding", ["identity"])
        return self._agent.request(method, self._url, headers, bodyProducer).addCallback(self._uncompressed)

    def _uncompressed(self, response: Any) -> Any:
        if response.headers.hasHeader("Content-Encoding"):
            # treq would decompress it; what it is without that is no text.
            response.headers.removeHeader("Content-Encoding")
            response.headers.removeHeader("Content-Type")
        return response


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """Endpoints whose connections are links."""

    def __init__(self, reactor: Any, policy: Any) -> None:
        self._reactor = reactor
        self._policy = policy
        self._links: dict[_Link, Deferred[None]] = {}  # each with what fires when it is gone

    def endpointForURI(self, uri: URI) -> Any:
        """As C{IAgentEndpointFactory} has it."""
        # The exchange limits the time of all attempts to connect.
        endpoint: Any = HostnameEndpoint(self._reactor, uri.host.decode(), uri.port, timeout=None)  # type: ignore[arg-type]
        if uri.scheme == b"https":
            endpoint = wrapClientTLS(self._policy.creatorForNetloc(uri.host, uri.port), endpoint)
        return _Endpoint(endpoint, self._links)

    def abort(self) -> Deferred[Any]:
        """End all connections; fires when they are gone."""
        gone = DeferredList([*self._links.values()])
        for link in tuple(self._links):
            link.abort()
        return gone


@implementer(IStreamClientEndpoint)
class _Endpoint:
    def __init__(self, endpoint: Any, links: dict[_Link, Deferred[None]]) -> None:
        self._endpoint = endpoint
        self._links = links

    def connect(self, protocolFactory: Any) -> Any:
        """As C{IStreamClientEndpoint} has it."""
        protocolFactory.noisy = False
        factory = _Factory(protocolFactory, self._links)
        return self._endpoint.connect(factory).addCallback(lambda link: link.wrappedProtocol)


class _Link(ProtocolWrapper):
    """
    One connection.

    @ivar isMute: nothing is sent any more: the body of a request was cut, as its answer had come.
    """

    isMute = False
    _exchange: Exchange | None = None
    _requests = 0
    _octets = 0  # of the current answer
    _head = b""  # of an answer that comes early

    @property
    def isStale(self) -> bool:
        """It had carried a request before this one, and nothing has come since."""
        return self._requests > 1 and self._octets == 0

    def makeConnection(self, transport: Any) -> None:
        """As C{IProtocol} has it."""
        self.factory.links[self] = Deferred()
        ProtocolWrapper.makeConnection(self, transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """As C{IProtocol} has it."""
        ProtocolWrapper.connectionLost(self, reason)
        self.factory.links.pop(self).callback(None)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """C{IConsumer}: a request begins, and this is its body."""
        if self._exchange is not None:
            ProtocolWrapper.unregisterProducer(self)
        self._exchange = producer
        self._requests += 1
        self._octets, self._head = 0, b""
        producer.connected(self)
        ProtocolWrapper.registerProducer(self, producer, streaming)

    def unregisterProducer(self) -> None:
        """C{IConsumer}: all was sent.  Until there is an answer the transport keeps its producer, to tell of a loss."""

    def readOnceMore(self) -> None:
        """A write that fails ends a connection before Twisted has read what the server said before it closed."""
        self.isMute = True
        transport: Any = self.transport
        if IReadDescriptor.providedBy(transport):
            transport.doRead()

    def leave(self, exchange: Exchange, isReusable: bool) -> None:
        """An exchange has ended."""
        if self._exchange is exchange:
            self._exchange = None
            ProtocolWrapper.unregisterProducer(self)
            if not isReusable:
                self.abort()

    def abort(self) -> None:
        """End the connection, and send nothing that is still to be sent."""
        self.isMute = True
        transport: Any = self.transport
        transport.abortConnection()

    def write(self, data: bytes) -> None:
        """C{ITransport}: send octets."""
        if not self.isMute:
            ProtocolWrapper.write(self, data)

    def writeSequence(self, data: Any) -> None:
        """C{ITransport}: send octets."""
        if not self.isMute:
            ProtocolWrapper.writeSequence(self, data)

    def dataReceived(self, data: bytes) -> None:
        """A part of an answer."""
        exchange = self._exchange
        if exchange is None:  # It answers what it was not asked, or more than that.
            self.abort()
            return
        self._octets += len(data)
        if exchange.hasUnsent:
            self._head += data
            if _isFinal(self._head):
                self.isMute = True
                exchange.answersEarly()
        if self._octets > _ANSWER_OCTETS:
            exchange.answersTooMuch(_ANSWER_OCTETS)
            return
        ProtocolWrapper.dataReceived(self, data)


class _Factory(WrappingFactory):
    protocol = _Link
    noisy = False

    def __init__(self, wrapped: Any, links: dict[_Link, Deferred[None]]) -> None:
        makeFactory: Any = WrappingFactory.__init__  # generic only in the newer versions of Twisted
        makeFactory(self, wrapped)
        self.links = links


def _isFinal(head: bytes) -> bool:
    """Has the status line of an answer come that is not an interim one (RFC 9110 section 15.2)?"""
    while interim := _INTERIM.match(head):
        head = head[interim.end() :]
    line, end, _ = head.partition(b"\n")
    return bool(end) and not _STATUS.match(line)
