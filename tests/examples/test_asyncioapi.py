"""examples/asyncioapi.py: an HTTP API decides on recipients and takes messages, asked with aiohttp."""

from __future__ import annotations

import os
import signal
import smtplib
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.examples.conftest import HTTPServer, StartExample
from tests.real.programs import Client, eventually, requires, reset, run

CONTENT = b"Subject: hello\r\n\r\n.\r\nhello\r\n"
BOB, CARL, EVE = "bob@example.net", "carl+lists/x@example.net", "eve@example.net"


@pytest.fixture
def api(backend: HTTPServer) -> HTTPServer:
    """An API that does not know eve."""
    backend.statuses[f"/recipients/{EVE}"] = 404
    return backend


def messages(api: HTTPServer) -> list[bytes | None]:
    return [request.body for request in api.requests if request.method == "POST"]


@requires("swaks")
def test_swaks_delivers_to_the_recipients_that_the_API_knows(startExample: StartExample, api: HTTPServer) -> None:
    example = startExample("asyncioapi.py", api.url)
    server = ["swaks", "--server", f"127.0.0.1:{example.port}", "--from", "ann@example.org"]
    run(*server, "--to", f"{BOB},{CARL}")
    assert b"550 5.1.1 No such user here" in run(*server, "--to", EVE, status=24).stdout
    assert [request.path for request in api.requests if request.method == "GET"] == [
        f"/recipients/{BOB}",
        "/recipients/carl%2Blists%2Fx@example.net",
        f"/recipients/{EVE}",
    ]
    (posted,) = (request for request in api.requests if request.method == "POST")
    assert urlsplit(posted.path).path == "/messages"
    assert parse_qs(urlsplit(posted.path).query) == {"from": ["ann@example.org"], "to": [BOB, CARL]}
    assert posted.body is not None and b"Subject: test" in posted.body


def test_a_message_arrives_octet_by_octet(startExample: StartExample, api: HTTPServer) -> None:
    example = startExample("asyncioapi.py", api.url)
    content = b"Subject: large\r\n\r\n" + b"".join(b"%d\r\n" % number for number in range(200_000))
    with smtplib.SMTP("127.0.0.1", example.port) as client:
        assert client.sendmail("ann@example.org", [BOB], content) == {}
        assert client.sendmail("ann@example.org", [BOB], CONTENT) == {}
    assert messages(api) == [content, CONTENT]


def test_an_API_that_fails_is_a_temporary_failure(startExample: StartExample, api: HTTPServer) -> None:
    example = startExample("asyncioapi.py", api.url)
    with smtplib.SMTP("127.0.0.1", example.port) as client:
        client.ehlo()
        client.mail("ann@example.org")
        assert client.rcpt("late@example.net")[0] == 250
        api.statuses["/recipients/late@example.net"] = 503
        assert client.rcpt("late@example.net")[0] == 451
        assert client.rcpt(BOB)[0] == 250
        api.stop()
        assert client.rcpt(BOB)[0] == 451
        assert client.data(CONTENT)[0] == 451
    example.waitForLine("the API cannot be asked")
    example.waitForLine("the API cannot take a message")


def test_a_status_that_is_no_success_acknowledges_nothing(startExample: StartExample, api: HTTPServer) -> None:
    example = startExample("asyncioapi.py", api.url)
    api.default = 500
    with Client(example.port) as client:
        client.say(b"MAIL FROM:<>", 250)
        api.default = 200
        client.say(b"RCPT TO:<bob@example.net>", 250)
        api.default = 500
        client.say(b"DATA", 354)
        client.say(b"hello\r\n.", 451)


def test_a_client_that_leaves_cuts_the_request(startExample: StartExample, api: HTTPServer) -> None:
    example = startExample("asyncioapi.py", api.url)
    with Client(example.port) as client:
        client.envelope(BOB.encode())
        client.say(b"DATA", 354)
        client.socket.sendall(b"x" * 100 + b"\r\n")
        eventually(lambda: api.octets, "the first octets")
        reset(client.socket)
    eventually(lambda: messages(api), "the end of the request")
    assert messages(api) == [None]


def test_a_message_above_the_limit_is_refused_and_never_ends_for_the_API(
    startExample: StartExample, api: HTTPServer
) -> None:
    example = startExample("asyncioapi.py", api.url)
    with smtplib.SMTP("127.0.0.1", example.port) as client:
        client.ehlo()
        client.mail("ann@example.org")
        client.rcpt(BOB)
        assert client.data(b"x" * 998 * 27000)[0] == 552
    eventually(lambda: messages(api), "the end of the request")
    assert messages(api) == [None]


def test_SIGTERM_lets_a_transaction_finish_and_ends_the_session_of_aiohttp(
    startExample: StartExample, api: HTTPServer
) -> None:
    example = startExample("asyncioapi.py", api.url)
    with Client(example.port) as idle, Client(example.port) as client:
        client.envelope(BOB.encode())
        client.say(b"DATA", 354)
        client.socket.sendall(b"Subject: late\r\n")
        eventually(lambda: api.octets, "the first octets")
        os.kill(example.pid, signal.SIGTERM)
        idle.reply(421)
        client.socket.sendall(b"\r\nlate\r\n.\r\n")
        client.reply(250)
    assert example.wait() == 0
    assert "Unclosed" not in example.output
    assert messages(api) == [b"Subject: late\r\n\r\nlate\r\n"]
