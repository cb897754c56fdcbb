"""A server in a thread, as a test of a program that sends mail has it, which knows no Twisted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import smtplib
import subprocess
import sys
import threading
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import CannotListenError

from smtphooks import Hooks, OptionError, SMTPError
from smtphooks.layers import Recipients
from smtphooks.testing import SMTPServerThread

MESSAGE = "Subject: Hello\r\n\r\nHow are you?\r\n"


def send(server: SMTPServerThread, message: str = MESSAGE, recipients: Any = "bob@example.org") -> None:
    with smtplib.SMTP(server.host, server.port, timeout=5) as client:
        client.sendmail("ann@example.org", recipients, message)


def othersThan(before: set[threading.Thread]) -> set[threading.Thread]:
    return set(threading.enumerate()) - before


def test_a_message_is_there_when_the_client_has_its_reply() -> None:
    with SMTPServerThread() as server:
        send(server)
        [message] = server.messages
    assert message["Subject"] == "Hello"
    assert message.octets == MESSAGE.encode()
    assert [str(address) for address in (message.envelope.mailFrom, *message.envelope.rcptTo)] == [
        "ann@example.org",
        "bob@example.org",
    ]
    assert message.session.openingCommand == "EHLO"


def test_to_wait_gives_the_first_message_or_as_many_as_were_asked_for() -> None:
    with SMTPServerThread() as server:
        sender = threading.Thread(target=lambda: [send(server, f"Subject: {number}\r\n\r\n") for number in range(3)])
        sender.start()
        assert server.waitFor()["Subject"] == "0"
        assert [message["Subject"] for message in server.waitFor(count=2)] == ["0", "1"]
        assert len(server.waitFor(3)) == 3
        sender.join()
        assert server.waitFor(0) == []
        with pytest.raises(ValueError, match="count is -1, it wants 0 or more"):
            server.waitFor(count=-1)


def test_to_wait_in_vain_says_what_came_and_what_was_refused() -> None:
    def onRcptTo(address: Any, session: Any) -> None:
        if address.local == "nobody":
            raise SMTPError("No such user", responseCode=550)

    with SMTPServerThread(onRcptTo=onRcptTo) as server:
        send(server)
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            send(server, recipients="nobody@example.org")
        with pytest.raises(AssertionError, match=r"2 messages, 1 came .*550 5\.1\.1 No such user \(to RCPT\)"):
            server.waitFor(2, timeout=0)


def test_a_server_that_was_stopped_keeps_nobody_waiting() -> None:
    server = SMTPServerThread().start()
    threading.Timer(0, server.stop).start()
    with pytest.raises(AssertionError, match="1 message, none came and the server is stopped; it has refused nothing"):
        server.waitFor(timeout=60)


def test_messages_can_be_forgotten() -> None:
    with SMTPServerThread() as server:
        send(server)
        server.clear()
        assert server.messages == []
        send(server, "Subject: again\r\n\r\n")
        assert server.waitFor()["Subject"] == "again"


def test_a_message_that_was_refused_is_not_there() -> None:
    def onData(stream: Any, session: Any) -> None:
        raise SMTPError("Spam", responseCode=554)

    with SMTPServerThread(onData=onData) as server:
        with pytest.raises(smtplib.SMTPDataError):
            send(server)
        assert server.messages == []


@pytest.mark.parametrize("result", [None, "Queued as 1", Deferred])
def test_hooks_of_a_user_decide_and_what_they_leave_of_a_message_is_kept(result: Any) -> None:
    def onData(stream: Any, session: Any) -> Any:
        if result is not Deferred:
            return result
        fired: Deferred[None] = Deferred()
        fired.callback(None)
        return fired

    with SMTPServerThread(onData=onData) as server:
        send(server)
    assert server.messages[0].octets == MESSAGE.encode()


def test_layers_need_no_delivery_as_the_server_takes_what_they_let_in() -> None:
    with SMTPServerThread(hooks=[Recipients(recipients=["bob@example.org"])]) as server:
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            send(server, recipients="carl@example.org")
        send(server)
    assert len(server.messages) == 1


def test_a_hook_by_name_wins_over_that_of_the_object_as_in_a_factory() -> None:
    class Object(Hooks):
        def onRcptTo(self, address: Any, session: Any) -> None:
            raise SMTPError("No", responseCode=550)

    with SMTPServerThread(hooks=Object(), onRcptTo=lambda address, session: None) as server:
        send(server)
    assert len(server.messages) == 1


def test_every_reply_is_told_to_the_users_observer_too() -> None:
    verbs = []
    with SMTPServerThread(onReply=lambda verb, reply, session: verbs.append(verb)) as server:
        send(server)
    assert verbs == ["", "EHLO", "MAIL", "RCPT", "DATA", "DATA", "QUIT"]


@pytest.mark.parametrize(
    "given, text",
    [
        ({"socketTimout": 3}, "did you mean socketTimeout"),
        ({"onRctpTo": print}, "did you mean onRcptTo"),
        ({"onRcptTo": lambda address: None}, "hook onRcptTo is"),
        ({"hooks": object()}, "it wants an object with a method"),
    ],
)
def test_a_wrong_option_is_an_error_where_the_server_is_made(given: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        SMTPServerThread(**given)


def test_a_port_in_use_is_an_error_in_the_caller_and_leaves_nothing() -> None:
    with SMTPServerThread() as server:
        threads, descriptors = set(threading.enumerate()), os.listdir("/proc/self/fd")
        with pytest.raises(CannotListenError):
            SMTPServerThread(port=server.port).start()
        assert not othersThan(threads)
        assert os.listdir("/proc/self/fd") == descriptors


def test_what_is_raised_beside_the_server_goes_on() -> None:
    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError), SMTPServerThread():
        raise ZeroDivisionError
    assert not othersThan(before)


def test_a_server_can_start_anew_and_keeps_its_messages() -> None:
    server = SMTPServerThread()
    for _ in range(2):
        with server:
            send(server)
            with pytest.raises(RuntimeError, match="running already"):
                server.start()
    server.stop()
    assert len(server.messages) == 2


def test_twenty_servers_at_once() -> None:
    before = set(threading.enumerate())
    servers = [SMTPServerThread().start() for _ in range(20)]
    assert len({server.port for server in servers}) == 20
    for server in servers:
        send(server, f"Subject: {server.port}\r\n\r\n")
    assert [server.waitFor()["Subject"] for server in servers] == [str(server.port) for server in servers]
    for server in servers:
        server.stop()
    assert not othersThan(before)


def test_two_hundred_rounds_leave_no_thread_and_no_descriptor() -> None:
    with SMTPServerThread():
        pass
    before, descriptors = set(threading.enumerate()), os.listdir("/proc/self/fd")
    server = SMTPServerThread()
    for _ in range(200):
        with server:
            pass
    assert not othersThan(before)
    assert os.listdir("/proc/self/fd") == descriptors


async def stubborn() -> None:
    while True:
        with contextlib.suppress(CancelledError):
            await Deferred()


@pytest.mark.parametrize("pending", [Deferred, lambda: Deferred(lambda deferred: deferred.callback(None)), stubborn])
def test_a_hook_that_never_ends_does_not_keep_the_server_from_stopping(
    pending: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtphooks.testing.thread._GRACE", 0.01)
    before, called = set(threading.enumerate()), threading.Event()

    def onMailFrom(address: Any, session: Any) -> Any:
        called.set()
        return pending()

    with SMTPServerThread(onMailFrom=onMailFrom) as server:
        client = smtplib.SMTP(server.host, server.port)
        client.ehlo()
        client.putcmd("MAIL", "FROM:<a@example.org>")
        assert called.wait(5)
    assert not othersThan(before)
    client.close()


def test_a_client_that_stays_connected_does_not_either() -> None:
    before = set(threading.enumerate())
    with SMTPServerThread() as server:
        client = smtplib.SMTP(server.host, server.port)
    assert not othersThan(before)
    client.close()


def test_it_runs_in_any_thread_and_within_a_loop_of_asyncio() -> None:
    async def main() -> list[Any]:
        with SMTPServerThread() as server:
            await asyncio.get_running_loop().run_in_executor(None, send, server)
            return server.messages

    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(asyncio.run(main())))
    thread.start()
    thread.join()
    assert len(found) == 1


def test_a_forked_process_has_servers_of_its_own_and_leaves_those_of_its_parent_alone() -> None:
    with SMTPServerThread() as server:
        child = os.fork()
        if child == 0:  # pragma: no cover
            status = 1
            try:
                server.stop()
                with SMTPServerThread() as own:
                    send(own)
                    status = 0 if len(own.messages) == 1 else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        send(server)
    assert len(server.messages) == 1


def test_no_reactor_is_installed_behind_the_users_back() -> None:
    program = (
        "import smtplib, sys\n"
        "from smtphooks.testing import SMTPServerThread\n"
        "with SMTPServerThread() as server:\n"
        "    with smtplib.SMTP(server.host, server.port) as client:\n"
        "        client.sendmail('a@example.org', 'b@example.org', 'Subject: x')\n"
        "assert len(server.messages) == 1\n"
        "assert 'twisted.internet.reactor' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# --- UNIX sockets, and what a test may not know ---


def test_a_unix_socket_of_a_path_and_one_of_its_own(tmp_path: Any) -> None:
    for unix in (tmp_path / "lmtp", True):
        with SMTPServerThread(lmtp=True, unix=unix) as server:
            assert server.path is not None and os.path.exists(server.path)
            assert (server.host, server.port) == (server.path, 0)
            with smtplib.LMTP(server.host, server.port) as client:
                client.sendmail("ann@example.org", ["bob@example.org"], MESSAGE)
            assert len(server.messages) == 1
        assert not os.path.exists(server.path)
    assert not os.path.exists(os.path.dirname(server.path))


def test_a_message_is_kept_with_lmtp_whose_recipients_a_hook_has_changed() -> None:
    def onData(stream: Any, session: Any) -> None:
        del session.envelope.rcptTo[0]

    with SMTPServerThread(onData=onData, lmtp=True) as server:
        with contextlib.closing(smtplib.LMTP(server.host, server.port)) as client:
            client.sendmail("ann@example.org", ["bob@example.org", "carl@example.org"], MESSAGE)
        assert [str(each) for each in server.waitFor().envelope.rcptTo] == ["carl@example.org"]


def test_lmtp_gives_the_recipients_that_were_accepted() -> None:
    def onData(stream: Any, session: Any) -> Any:
        return [None, SMTPError("Full", 452)]

    with SMTPServerThread(lmtp=True, onData=onData) as server:
        # It reads the first of the two replies, and leaves the other for QUIT.
        with contextlib.closing(smtplib.LMTP(server.host, server.port)) as client:
            client.sendmail("ann@example.org", ["bob@example.org", "carl@example.org"], MESSAGE)
        [message] = server.messages
    assert [str(address) for address in message.envelope.rcptTo] == ["bob@example.org"]


def test_a_hook_cannot_stop_the_server_that_it_runs_in() -> None:
    raised: list[BaseException] = []
    before = set(threading.enumerate())

    def onMailFrom(address: Any, session: Any) -> None:
        try:
            server.stop()
        except RuntimeError as error:
            raised.append(error)

    with SMTPServerThread(onMailFrom=onMailFrom) as server:
        send(server)
    assert str(raised[0]) == "a hook cannot stop the server that it runs in"
    assert not othersThan(before)


def test_a_hook_that_blocks_the_thread_is_left_behind_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtphooks.testing.background.PATIENCE", 0.01)
    release, entered = threading.Event(), threading.Event()

    def onMailFrom(address: Any, session: Any) -> None:
        entered.set()
        release.wait(30)

    before = set(threading.enumerate())
    server = SMTPServerThread(onMailFrom=onMailFrom).start()
    client = smtplib.SMTP(server.host, server.port)
    client.ehlo()
    client.putcmd("MAIL", "FROM:<a@example.org>")
    assert entered.wait(10)
    with pytest.warns(RuntimeWarning, match="SMTPServerThread is still there 0.01 seconds .* a hook blocks it"):
        server.stop()
    release.set()
    client.close()
    for thread in othersThan(before):
        thread.join(10)
    assert not othersThan(before)


def test_a_client_that_is_turned_away_reads_why() -> None:
    with (
        SMTPServerThread(maxClients=1) as server,
        smtplib.SMTP(server.host, server.port),
        pytest.raises(smtplib.SMTPConnectError, match="421"),
    ):
        smtplib.SMTP(server.host, server.port)
