"""Descriptions of endpoints: which of them other hosts can connect to."""

from __future__ import annotations

import pytest

from smtphooks.service.endpoints import isBeyondLoopback, kindOf


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp:25:interface=127.0.0.1",
        "tcp:port=25:interface=127.8.9.10",
        "TCP:25:127.0.0.1",
        "tcp:25:interface=localhost:backlog=5",
        "tcp6:25:interface=\\:\\:1",
        "tcp6:25:interface=\\:\\:ffff\\:127.0.0.1",
        "ssl:465:privateKey=k.pem:interface=127.0.0.1",
        "tls:/certs:tcp:465:interface=127.0.0.1",
        "unix:/run/sock:mode=660",
        "Unix:address=/run/sock",
        "systemd:domain=UNIX:index=0",
        "systemd:UNIX:0",
        "stdio:",
    ],
)
def test_only_this_host_can_connect(endpoint: str) -> None:
    assert not isBeyondLoopback(endpoint)


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp:25",
        "tcp:25:interface=",
        "tcp:25:interface=0.0.0.0",
        "tcp:25:interface=192.0.2.1",
        "tcp:25:backlog=127",
        "tcp6:25",
        "tcp6:25:interface=\\:\\:",
        "tcp6:25:interface=2001\\:db8\\:\\:1",
        "ssl:465:interface",
        "ssl:465:127.0.0.1",  # this is its private key
        "tls:/certs:tcp:465",
        "systemd:domain=INET:index=0",
        "systemd:INET6:0",
        "fd:3",
        "tcp:25:interface=mx.example.org",
    ],
)
def test_other_hosts_may_connect(endpoint: str) -> None:
    assert isBeyondLoopback(endpoint)


@pytest.mark.parametrize(
    ("endpoint", "kind"), [("tcp:25", "tcp"), ("HA\\pro\\\\xy:x", "hapro\\xy"), ("haproxy", "haproxy"), ("", "")]
)
def test_the_kind_is_read_as_Twisted_reads_it(endpoint: str, kind: str) -> None:
    assert kindOf(endpoint) == kind
