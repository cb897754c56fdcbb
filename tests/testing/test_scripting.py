"""What goes wrong on demand, as a client sees it that does not know."""

from __future__ import annotations

import smtplib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from smtphooks import Extension, SMTPError
from smtphooks.testing import Drop, Fail, Garble, SMTPServerThread, Stall

MESSAGE = "Subject: Hello\r\n\r\nHow are you?\r\n"
ANN, BOB, CARL = "ann@example.org", "bob@example.org", "carl@example.org"


@contextmanager
def connected(server: SMTPServerThread) -> Iterator[smtplib.SMTP]:
    client = smtplib.SMTP(server.host, server.port, timeout=10)
    try:
        yield client
    finally:
        client.close()


def send(server: SMTPServerThread, *recipients: str) -> dict[str, tuple[int, bytes]]:
    with connected(server) as client:
        return client.sendmail(ANN, recipients or [BOB], MESSAGE)


def pipelined(server: SMTPServerThread, octets: bytes) -> bytes:
    """What a client reads until the end, which sends all of this at once."""
    with socket.create_connection((server.host, server.port), timeout=10) as client:
        client.sendall(octets)
        return b"".join(iter(lambda: client.recv(65536), b""))


def codesIn(octets: bytes) -> list[str]:
    return [line[:3].decode("latin-1") for line in octets.splitlines() if line[3:4] != b"-"]


TRANSACTION = (
    b"EHLO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\nRCPT TO:<c@example.org>\r\n"
    b"DATA\r\nSubject: x\r\n\r\n.\r\nNOOP\r\nQUIT\r\n"
)
CODES = ["220", "250", "250", "250", "250", "354", "250", "250", "221"]


# --- fail ---


def test_a_command_fails_as_often_as_was_asked_for() -> None:
    with SMTPServerThread() as server:
        server.fail("RCPT", 450, times=2)
        for _ in range(2):
            with pytest.raises(smtplib.SMTPRecipientsRefused) as error:
                send(server)
            assert error.value.recipients == {BOB: (450, b"4.2.0 Refused on demand")}
        assert send(server) == {}
        assert len(server.messages) == 1


def test_a_command_fails_always_until_the_server_is_healed() -> None:
    with SMTPServerThread() as server:
        server.fail("MAIL", 451, text="Not now")
        for _ in range(3):
            with pytest.raises(smtplib.SMTPSenderRefused) as error:
                send(server)
            assert (error.value.smtp_code, error.value.smtp_error) == (451, b"4.3.0 Not now")
        server.heal()
        assert send(server) == {}


def test_faults_of_a_command_are_used_in_their_order() -> None:
    with SMTPServerThread(faults=[Fail("RCPT", 450, times=1), Fail("RCPT", 550, times=1)]) as server:
        codes = []
        for _ in range(2):
            with pytest.raises(smtplib.SMTPRecipientsRefused) as error:
                send(server)
            codes.append(error.value.recipients[BOB][0])
        assert codes == [450, 550]
        send(server)


def test_only_one_recipient_fails() -> None:
    with SMTPServerThread() as server:
        server.fail("RCPT", 550, recipient="Bob@Example.org")
        assert send(server, BOB, CARL) == {BOB: (550, b"5.1.1 Refused on demand")}
        assert [str(address) for address in server.waitFor().envelope.rcptTo] == [CARL]


def test_a_message_fails_for_one_of_its_recipients() -> None:
    with SMTPServerThread() as server:
        server.fail("DATA", 452, recipient=BOB, times=1)
        send(server, CARL)
        with pytest.raises(smtplib.SMTPDataError, match="452"):
            send(server, CARL, BOB)
        send(server, CARL, BOB)
        assert len(server.messages) == 2


def test_with_lmtp_a_recipient_has_its_own_reply_to_a_message() -> None:
    with SMTPServerThread(lmtp=True) as server:
        server.fail("DATA", 452, recipient=BOB)
        replies = pipelined(server, TRANSACTION.replace(b"EHLO", b"LHLO").replace(b"c@", b"bob@"))
        assert codesIn(replies) == ["220", "250", "250", "250", "250", "354", "250", "452", "250", "221"]
        assert [str(address) for address in server.waitFor().envelope.rcptTo] == ["b@example.org"]
        server.fail("DATA", 451, times=1)
        replies = pipelined(server, TRANSACTION.replace(b"EHLO", b"LHLO"))
        assert codesIn(replies)[5:] == ["354", "451", "451", "250", "221"]
        assert len(server.messages) == 1


@pytest.mark.parametrize("hook", [None, "Taken", ["one", SMTPError("No", 550)]])
def test_what_the_users_hook_answered_counts_for_the_other_recipients(hook: Any) -> None:
    def onData(stream: Any, session: Any) -> Any:
        return hook

    with SMTPServerThread(lmtp=True, onData=onData) as server:
        server.fail("DATA", 452, recipient="b@example.org")
        replies = pipelined(server, TRANSACTION.replace(b"EHLO", b"LHLO"))
        assert codesIn(replies)[6:8] == ["452", "550" if isinstance(hook, list) else "250"]
        assert len(server.messages) == (0 if isinstance(hook, list) else 1)


@pytest.mark.parametrize("verb", ["EHLO", "HELO"])
def test_a_greeting_fails_by_its_own_name_only(verb: str) -> None:
    with SMTPServerThread() as server:
        server.fail(verb, 502)
        with connected(server) as client:
            assert client.ehlo()[0] == (502 if verb == "EHLO" else 250)
            assert client.helo()[0] == (502 if verb == "HELO" else 250)


@pytest.mark.parametrize("verb", ["RSET", "NOOP", "HELP", "QUIT", "VRFY"])
def test_commands_without_a_result_can_fail(verb: str) -> None:
    with SMTPServerThread() as server:
        server.fail(verb, 451, times=1)
        with connected(server) as client:
            client.ehlo()
            assert client.docmd(verb, "x" if verb == "VRFY" else "")[0] == 451


def test_a_connection_can_be_refused() -> None:
    with SMTPServerThread() as server:
        server.fail("CONNECT", 421, times=1)
        with pytest.raises(smtplib.SMTPConnectError, match="421"):
            send(server)
        send(server)


def test_421_ends_the_connection_whatever_it_answers() -> None:
    for verb in ("RCPT", "NOOP"):
        with SMTPServerThread(faults=[Fail(verb, 421)]) as server, connected(server) as client:
            client.ehlo()
            client.mail(ANN)
            assert client.docmd(verb, f"TO:<{BOB}>" if verb == "RCPT" else "")[0] == 421
            with pytest.raises(smtplib.SMTPServerDisconnected):
                client.docmd("RSET")


def test_a_command_of_an_extension_can_fail_to_answer() -> None:
    extension = Extension("XFOO", commands={"XFOO": lambda argument, session: "fine"})
    with SMTPServerThread(extensions=[extension]) as server, connected(server) as client:
        client.ehlo()
        server.garble("XFOO", b"999 what\r\n", times=1)
        assert client.docmd("XFOO") == (999, b"what")
        assert client.docmd("XFOO") == (250, b"2.0.0 fine")


# --- drop ---


@pytest.mark.parametrize("after, replies", [("CONNECT", 0), ("EHLO", 1), ("MAIL", 2), ("RCPT", 3), ("DATA", 6)])
def test_the_connection_ends_in_place_of_a_reply_and_those_before_arrive(after: str, replies: int) -> None:
    with SMTPServerThread() as server:
        server.drop(after=after, times=1)
        assert codesIn(pipelined(server, TRANSACTION)) == CODES[:replies]
        assert server.messages == []
        assert codesIn(pipelined(server, TRANSACTION))[-1] == "221"


def test_a_dropped_quit_is_an_end_without_goodbye() -> None:
    with SMTPServerThread(faults=[Drop(after="QUIT")]) as server:
        assert codesIn(pipelined(server, TRANSACTION))[-1] == "250"
        assert len(server.messages) == 1


def test_a_message_whose_reply_was_dropped_was_not_taken() -> None:
    with SMTPServerThread() as server:
        server.drop(after="DATA", times=1)
        with pytest.raises(smtplib.SMTPServerDisconnected):
            send(server)
        assert server.messages == []
        send(server)
        assert len(server.messages) == 1


def test_with_lmtp_a_drop_takes_the_replies_of_all_recipients() -> None:
    with SMTPServerThread(lmtp=True, faults=[Drop("DATA", times=1)]) as server:
        octets = TRANSACTION.replace(b"EHLO", b"LHLO")
        assert codesIn(pipelined(server, octets)) == ["220", "250", "250", "250", "250", "354"]
        assert server.messages == []
        assert codesIn(pipelined(server, octets))[6:] == ["250", "250", "250", "221"]


CHUNKS = (
    b"EHLO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\n"
    b"BDAT 12\r\nSubject: x\r\nBDAT 2 LAST\r\n\r\nQUIT\r\n"
)


@pytest.mark.parametrize("verb", ["DATA", "BDAT"])
def test_a_message_in_chunks_ends_with_the_last_of_them(verb: str) -> None:
    with SMTPServerThread() as server:
        server.drop(after=verb, times=1)
        assert codesIn(pipelined(server, CHUNKS)) == ["220", "250", "250", "250", "250"]
        server.fail(verb, 452, times=1)
        assert codesIn(pipelined(server, CHUNKS))[4:] == ["250", "452", "221"]
        assert server.messages == []
        assert codesIn(pipelined(server, CHUNKS))[4:] == ["250", "250", "221"]
        assert server.messages[0].octets == b"Subject: x\r\n\r\n"


# --- stall ---


def test_a_reply_that_never_comes_holds_all_behind_it_and_does_not_keep_the_server_from_stopping() -> None:
    before = set(threading.enumerate())
    with SMTPServerThread() as server:
        server.stall("RCPT")
        with socket.create_connection((server.host, server.port), timeout=10) as client:
            client.sendall(TRANSACTION)
            received = b""
            while len(codesIn(received)) < 3:
                received += client.recv(65536)
            server.stop()
            with pytest.raises(ConnectionResetError):
                received += client.recv(65536)
        assert codesIn(received) == ["220", "250", "250"]
        assert server.messages == []
    assert not set(threading.enumerate()) - before


@pytest.mark.parametrize("verb", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "NOOP", "QUIT"])
def test_a_late_reply_comes_in_its_place(verb: str) -> None:
    with SMTPServerThread(faults=[Stall(verb, seconds=0.001)]) as server:
        replies = pipelined(server, TRANSACTION)
        assert codesIn(replies) == CODES
        assert len(server.messages) == 1


def test_a_message_whose_reply_never_came_was_not_taken() -> None:
    gone = threading.Event()
    with SMTPServerThread(onClose=lambda session: gone.set()) as server:
        server.stall("DATA", times=1)
        with connected(server) as client:
            client.ehlo()
            client.mail(ANN)
            client.rcpt(BOB)
            client.putcmd("DATA")
            client.getreply()
            client.send(f"{MESSAGE}.\r\n")
        assert gone.wait(10)
        assert server.messages == []


def test_a_message_of_a_client_that_did_not_wait_for_the_reply_was_taken() -> None:
    with SMTPServerThread() as server:
        with socket.create_connection((server.host, server.port)) as client:
            client.sendall(TRANSACTION.removesuffix(b"NOOP\r\nQUIT\r\n"))
        assert server.waitFor().octets == b"Subject: x\r\n\r\n"


# --- garble ---


@pytest.mark.parametrize(
    "verb, place", [("CONNECT", 0), ("EHLO", 1), ("MAIL", 2), ("RCPT", 3), ("DATA", 6), ("NOOP", 7), ("QUIT", 8)]
)
def test_other_octets_come_in_place_of_a_reply(verb: str, place: int) -> None:
    with SMTPServerThread(faults=[Garble(verb, b"\x00\xff\r\n", times=1)]) as server:
        codes = codesIn(pipelined(server, TRANSACTION))
        assert codes.pop(place) == "\x00\xff"
        assert codes == [code for index, code in enumerate(CODES) if index != place]
        assert len(server.messages) == (0 if verb == "DATA" else 1)


def test_with_lmtp_octets_come_in_place_of_the_replies_of_all_recipients() -> None:
    with SMTPServerThread(lmtp=True) as server:
        server.garble("DATA", b"?\r\n")
        replies = pipelined(server, TRANSACTION.replace(b"EHLO", b"LHLO")).splitlines()
        assert [line[:3] for line in replies[-4:]] == [b"354", b"?", b"250", b"221"]
        assert server.messages == []


# --- AUTH ---


def logIn(server: SMTPServerThread) -> list[int]:
    with connected(server) as client:
        client.ehlo()
        return [client.docmd(line)[0] for line in ("AUTH LOGIN", "YW5u", "c2VjcmV0")]


def test_of_auth_it_is_the_outcome_that_goes_wrong() -> None:
    with SMTPServerThread(onAuth=lambda auth, session: auth.username) as server:
        server.fail("AUTH", 454, times=1)
        assert logIn(server) == [334, 334, 454]
        server.garble("AUTH", b"299\r\n", times=1)
        assert logIn(server) == [334, 334, 299]
        server.stall("AUTH", 0.001, times=1)
        assert logIn(server) == [334, 334, 235]
        server.drop(after="AUTH", times=1)
        with pytest.raises(smtplib.SMTPServerDisconnected):
            logIn(server)
        assert logIn(server) == [334, 334, 235]
