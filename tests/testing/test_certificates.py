"""TLS with a server in a thread: certificates that a client can verify, and such that it must refuse."""

from __future__ import annotations

import smtplib
import socket
import ssl
import subprocess
import sys

import pytest

from smtphooks import OptionError
from smtphooks.testing import SMTPServerThread
from smtphooks.testing.certificates import Pair, authority, pairFor
from tests.conftest import Logged

MESSAGE = "Subject: Hello\r\n\r\n"


def trusting(server: SMTPServerThread, flags: ssl.VerifyFlags = ssl.VERIFY_X509_STRICT) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=server.certificate)
    # The default from Python 3.13 on.
    context.verify_flags |= flags
    return context


def sendUpgraded(server: SMTPServerThread, context: ssl.SSLContext, host: str = "localhost") -> None:
    with smtplib.SMTP(host, server.port, timeout=10) as client:
        client.starttls(context=context)
        client.sendmail("ann@example.org", ["bob@example.org"], MESSAGE)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_starttls_with_a_certificate_that_a_strict_client_verifies(host: str) -> None:
    with SMTPServerThread() as server:
        sendUpgraded(server, trusting(server), host)
        [message] = server.messages
    assert message.session.secure
    assert message.session.tlsOptions.version == "TLSv1.3"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_implicit_tls_as_well(host: str) -> None:
    with SMTPServerThread(secure=True) as server:
        with smtplib.SMTP_SSL(host, server.port, timeout=10, context=trusting(server)) as client:
            client.sendmail("ann@example.org", ["bob@example.org"], MESSAGE)
        assert server.messages[0].session.secure


def test_a_large_message_under_tls() -> None:
    body = "x" * 70 + "\r\n"
    with SMTPServerThread() as server:
        with smtplib.SMTP("localhost", server.port, timeout=10) as client:
            client.starttls(context=trusting(server))
            client.sendmail("ann@example.org", ["bob@example.org"], MESSAGE + body * 20000)
        assert len(server.messages[0].octets) == len(MESSAGE) + 72 * 20000


def test_the_servers_own_name_is_in_its_certificate() -> None:
    with (
        SMTPServerThread(name="mx.example.org") as server,
        smtplib.SMTP("127.0.0.1", server.port, timeout=10) as client,
    ):
        client.ehlo()
        client.docmd("STARTTLS")
        wrapped = trusting(server).wrap_socket(client.sock, server_hostname="mx.example.org")
        wrapped.close()


def test_a_client_that_trusts_others_does_not_verify_it() -> None:
    with SMTPServerThread() as server, pytest.raises(ssl.SSLCertVerificationError):
        sendUpgraded(server, ssl.create_default_context())


@pytest.mark.parametrize("how, text", [("expired", "expired"), ("wrong name", "[Hh]ostname mismatch")])
def test_a_certificate_that_no_client_must_accept(how: str, text: str) -> None:
    with SMTPServerThread(brokenTLS=how) as server:
        with pytest.raises(ssl.SSLCertVerificationError, match=text):
            sendUpgraded(server, trusting(server))
        assert server.messages == []


def test_a_handshake_that_is_cut() -> None:
    with SMTPServerThread(brokenTLS="cut") as server:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            sendUpgraded(server, trusting(server))
        with smtplib.SMTP("localhost", server.port, timeout=10) as client:  # in the clear all is well
            client.sendmail("ann@example.org", ["bob@example.org"], MESSAGE)
    with SMTPServerThread(brokenTLS="cut", secure=True) as server, pytest.raises((ssl.SSLError, ConnectionError)):
        smtplib.SMTP_SSL("localhost", server.port, timeout=10, context=trusting(server))


def test_a_connection_that_ends_in_place_of_tls_is_no_crash(logged: Logged) -> None:
    with SMTPServerThread(brokenTLS="cut") as server, pytest.raises((ssl.SSLError, ConnectionError)):
        sendUpgraded(server, trusting(server))
    with SMTPServerThread() as server:
        server.drop(after="STARTTLS")
        with pytest.raises(smtplib.SMTPServerDisconnected):
            sendUpgraded(server, trusting(server))
    assert not logged


def test_an_unknown_way_to_break_tls_is_an_error() -> None:
    with pytest.raises(OptionError, match='it wants one of "expired", "wrong name", "cut"'):
        SMTPServerThread(brokenTLS="old")


def test_a_certificate_that_is_given_is_shown_and_cannot_be_broken() -> None:
    pair = pairFor("localhost")
    with SMTPServerThread(key=pair.key, cert=pair.certificate) as server:
        assert server.certificate == pair.certificate
    with pytest.raises(OptionError, match="option brokenTLS is 'expired' with cert"):
        SMTPServerThread(key=pair.key, cert=pair.certificate, brokenTLS="expired")


def test_all_servers_of_a_process_have_one_authority() -> None:
    assert SMTPServerThread().certificate == SMTPServerThread(name="mx.example.org").certificate == authority()
    assert isinstance(pairFor("a"), Pair) and pairFor("a") is pairFor("a")


# --- faults before, within and after TLS ---


def test_starttls_is_refused_and_the_client_goes_on_in_the_clear() -> None:
    with SMTPServerThread() as server:
        server.fail("STARTTLS", 454, times=1)
        with smtplib.SMTP("localhost", server.port, timeout=10) as client:
            client.ehlo()
            assert client.has_extn("STARTTLS")
            assert client.docmd("STARTTLS") == (454, b"4.0.0 Refused on demand")
            client.sendmail("ann@example.org", ["bob@example.org"], MESSAGE)
            client.starttls(context=trusting(server))
            client.sendmail("ann@example.org", ["bob@example.org"], MESSAGE)
    assert [message.session.secure for message in server.messages] == [False, True]


def test_a_refusal_of_starttls_that_is_asked_for_after_ehlo_counts() -> None:
    with SMTPServerThread() as server, smtplib.SMTP("localhost", server.port, timeout=10) as client:
        client.ehlo()
        server.fail("STARTTLS", 554)
        assert client.docmd("STARTTLS")[0] == 554
        client.ehlo()
        assert client.has_extn("STARTTLS")
        server.heal()
        client.starttls(context=trusting(server))


def test_starttls_is_dropped_late_or_garbled() -> None:
    with SMTPServerThread() as server:
        server.drop(after="STARTTLS", times=1)
        with pytest.raises(smtplib.SMTPServerDisconnected):
            sendUpgraded(server, trusting(server))
        server.stall("STARTTLS", 0.001, times=1)
        sendUpgraded(server, trusting(server))
        server.garble("STARTTLS", b"599 no\r\n", times=1)
        with pytest.raises(smtplib.SMTPResponseException, match="599"):
            sendUpgraded(server, trusting(server))
    assert len(server.messages) == 1


@pytest.mark.parametrize("verb, index", [("MAIL", 1), ("DATA", 4), ("QUIT", 5)])
def test_faults_happen_under_tls_too(verb: str, index: int) -> None:
    commands = b"EHLO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n\r\n.\r\nQUIT\r\n"

    def codes(server: SMTPServerThread) -> list[bytes]:
        with smtplib.SMTP("localhost", server.port, timeout=10) as client:
            client.starttls(context=trusting(server))
            client.sock.sendall(commands)
            received = b"".join(iter(lambda: _received(client.sock), b""))
            return [line[:3] for line in received.splitlines() if line[3:4] != b"-"]

    complete = [b"250", b"250", b"250", b"354", b"250", b"221"]
    with SMTPServerThread() as server:
        server.drop(after=verb, times=1)
        assert codes(server) == complete[:index]
        server.stall(verb, 0.001, times=1)
        assert codes(server) == complete
        server.garble(verb, b"999 x\r\n", times=1)
        assert codes(server) == [*complete[:index], b"999", *complete[index + 1 :]]


def _received(client: socket.socket) -> bytes:
    try:
        return client.recv(65536)
    except ssl.SSLEOFError:  # the end without TLS's goodbye
        return b""


@pytest.mark.parametrize("isRunning", [False, True])
def test_tls_needs_no_reactor_of_the_process_and_bears_one(isRunning: bool) -> None:
    program = """
import smtplib, ssl, sys
from smtphooks.testing import SMTPServerThread

def work():
    for secure in (False, True):
        with SMTPServerThread(secure=secure) as server:
            context = ssl.create_default_context(cadata=server.certificate)
            if secure:
                client = smtplib.SMTP_SSL("localhost", server.port, timeout=10, context=context)
            else:
                client = smtplib.SMTP("localhost", server.port, timeout=10)
                client.starttls(context=context)
            for number in range(3):
                client.sendmail("a@example.org", "b@example.org", f"Subject: {number}")
            client.quit()
            assert len(server.waitFor(3)) == 3
    print("done")
"""
    if isRunning:
        program += """
from twisted.internet import reactor, threads
from twisted.python import threadable
reactor.callWhenRunning(lambda: threads.deferToThread(work).addBoth(end))
def end(result):
    assert threadable.isInIOThread(), "another thread took the place of the reactor's"
    print(result)
    reactor.stop()
reactor.run()
"""
    else:
        program += "work()\nassert 'twisted.internet.reactor' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.split()[0] == "done", done.stderr
