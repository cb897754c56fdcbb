"""examples/webhook.py: messages go to a webhook as they arrive, and its status decides."""

from __future__ import annotations

import os
import signal
import smtplib

import pytest

from tests.examples.conftest import HTTPServer, StartExample
from tests.real.programs import Client, eventually, requires, reset, run

CONTENT = b"Subject: hello\r\n\r\n.\r\nhello\r\n"
SENDER, RECIPIENTS = "ann@example.org", ["bob@example.net", "eve@example.net"]


def test_a_message_is_the_body_of_a_post_with_its_envelope_in_fields(
    startExample: StartExample, backend: HTTPServer
) -> None:
    example = startExample("webhook.py", f"{backend.url}/mail", WEBHOOK_TOKEN="secret")
    with smtplib.SMTP("127.0.0.1", example.port) as client:
        assert client.sendmail(SENDER, RECIPIENTS, CONTENT) == {}
    (request,) = backend.requests
    assert (request.method, request.path, request.body) == ("POST", "/mail", CONTENT)
    assert request.all("X-Envelope-From") == [SENDER]
    assert request.all("X-Envelope-To") == RECIPIENTS
    assert request.all("X-Client-Address") == ["127.0.0.1"]
    assert request.all("Content-Type") == ["message/rfc822"]
    assert request.all("Authorization") == ["Bearer secret"]


@requires("swaks")
def test_swaks_sends_a_bounce_with_an_empty_sender(startExample: StartExample, backend: HTTPServer) -> None:
    example = startExample("webhook.py", backend.url)
    run("swaks", "--server", f"127.0.0.1:{example.port}", "--from", "<>", "--to", "bob@example.net")
    (request,) = backend.requests
    assert request.all("X-Envelope-From") == [""]
    assert request.body is not None and b"Subject: test" in request.body


@pytest.mark.parametrize(
    ("status", "code"), [(204, 250), (413, 552), (422, 554), (507, 452), (500, 451), (404, 451), (303, 451)]
)
def test_the_status_of_the_webhook_decides(
    startExample: StartExample, backend: HTTPServer, status: int, code: int
) -> None:
    backend.statuses["/mail"] = status
    example = startExample("webhook.py", f"{backend.url}/mail")
    with smtplib.SMTP("127.0.0.1", example.port) as client:
        client.ehlo("client.example")
        client.mail(SENDER)
        client.rcpt(RECIPIENTS[0])
        assert client.data(CONTENT)[0] == code


def test_a_webhook_that_is_down_is_a_temporary_failure(startExample: StartExample, backend: HTTPServer) -> None:
    example = startExample("webhook.py", backend.url)
    backend.stop()
    with smtplib.SMTP("127.0.0.1", example.port) as client, pytest.raises(smtplib.SMTPDataError) as caught:
        client.sendmail(SENDER, RECIPIENTS, CONTENT)
    assert caught.value.smtp_code == 451
    example.waitForLine("the webhook does not answer", "refused")


def test_a_message_above_the_limit_is_refused_and_never_ends_for_the_webhook(
    startExample: StartExample, backend: HTTPServer
) -> None:
    example = startExample("webhook.py", backend.url, "--size", 1000)
    with Client(example.port) as client:
        client.envelope(b"bob@example.net")
        client.say(b"DATA", 354)
        client.socket.sendall(b"x" * 100 + b"\r\n")
        eventually(lambda: backend.octets, "the first octets")
        client.socket.sendall(b"y" * 998 + b"\r\n.\r\n")
        client.reply(552)
        eventually(lambda: backend.requests, "the end of the request")
    assert [request.body for request in backend.requests] == [None]
    assert "does not answer" not in example.output


def test_a_client_that_leaves_cuts_the_request(startExample: StartExample, backend: HTTPServer) -> None:
    example = startExample("webhook.py", backend.url)
    with Client(example.port) as client:
        client.envelope(b"bob@example.net")
        client.say(b"DATA", 354)
        client.socket.sendall(b"x" * 100 + b"\r\n")
        eventually(lambda: backend.octets, "the first octets")
        reset(client.socket)
    eventually(lambda: backend.requests, "the end of the request")
    assert [request.body for request in backend.requests] == [None]


def test_a_webhook_that_does_not_read_stops_the_client(startExample: StartExample, backend: HTTPServer) -> None:
    example = startExample("webhook.py", backend.url)
    backend.gate.clear()
    block = (b"x" * 998 + b"\r\n") * 1000
    with Client(example.port) as client:
        client.envelope(b"bob@example.net")
        client.say(b"DATA", 354)
        client.socket.settimeout(1)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 100 * len(block):  # far more than the buffers of all sockets hold
                sent += client.socket.send(block)
        client.socket.settimeout(30)
        backend.gate.set()
        client.socket.sendall(b"\r\n.\r\n")
        client.reply(250)
    (request,) = backend.requests
    assert request.body is not None and len(request.body) >= sent


def test_a_transaction_finishes_after_SIGTERM(startExample: StartExample, backend: HTTPServer) -> None:
    example = startExample("webhook.py", backend.url)
    with Client(example.port) as idle, Client(example.port) as client:
        client.envelope(b"bob@example.net")
        client.say(b"DATA", 354)
        client.socket.sendall(b"Subject: late\r\n")
        eventually(lambda: backend.octets, "the first octets")
        os.kill(example.pid, signal.SIGTERM)
        idle.reply(421)
        client.socket.sendall(b"\r\nlate\r\n.\r\n")
        client.reply(250)
    assert example.wait() == 0
    assert [request.body for request in backend.requests] == [b"Subject: late\r\n\r\nlate\r\n"]
