"""The store Relay: the client gets what upstream answers, and nothing is left upstream when the client leaves."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred

from smtphooks import Address, Envelope, Layer, MessageStream, OptionError, Session, SMTPError, SMTPServerFactory
from smtphooks.errors import OptionWarning
from smtphooks.stores import Relay, Tee
from tests.certificates import Authority
from tests.conftest import Logged
from tests.real.programs import eventually
from tests.secrets import PASSWORD, WRONG_PASSWORD, plain
from tests.stores.relays import Relays, at, freePort, relays

__all__ = ["relays"]

pytestmark = pytest.mark.usefixtures("logged")

VERBS = ["EHLO", "MAIL", "RCPT", "DATA"]

AUTHORITY = Authority().pem


class Texts:
    """Hooks with a text of their own for each command."""

    def onMailFrom(self, address: Any, session: Any) -> str:
        return f"from {address}"

    def onRcptTo(self, address: Any, session: Any) -> str:
        return f"to {address}"

    async def onData(self, stream: Any, session: Any) -> str:
        await stream.read()
        return "queued as 4711"


# --- one after the other ---


def test_the_client_gets_the_texts_of_upstream(relays: Relays) -> None:
    client = relays.between(relays.upstream(Texts()))
    assert client.begin()[1:] == ["250 2.1.0 from sender@client.test", "250 2.1.5 to ann@example.org"]
    assert client.message() == "250 2.0.0 queued as 4711"


def test_the_message_arrives_as_it_was_behind_a_field_of_our_own(relays: Relays) -> None:
    upstream = relays.upstream()
    assert relays.between(upstream).send("ann@example.org", "joe@example.org").startswith("250")
    message = upstream.waitFor()
    assert [str(each) for each in message.envelope.rcptTo] == ["ann@example.org", "joe@example.org"]
    assert str(message.envelope.mailFrom) == "sender@client.test"
    received, _, rest = message.octets.partition(b"Subject:")
    assert received.startswith(b"Received: from client.test ([127.0.0.1])\r\n\tby localhost with ESMTP")
    assert rest == b" hello\r\n\r\n.text\r\n"
    assert "Return-Path" not in message


@pytest.mark.parametrize("code", [450, 550])
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
def test_a_refusal_of_upstream_is_the_refusal_of_the_client(relays: Relays, verb: str, code: int) -> None:
    upstream = relays.upstream()
    upstream.fail(verb, code, text="as upstream says", times=1)
    client = relays.between(upstream)
    replies = [*client.begin(), client.message()][1:]
    refused = replies[["MAIL", "RCPT", "DATA"].index(verb)]
    assert refused.startswith(f"{code} {code // 100}.")
    assert refused.endswith(" as upstream says")
    assert not upstream.messages
    client.say("RSET")
    assert client.send().startswith("250")
    assert len(upstream.messages) == 1


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
def test_goodbye_of_upstream_is_temporary_and_no_goodbye_for_the_client(
    relays: Relays, verb: str, logged: Logged
) -> None:
    upstream = relays.upstream()
    upstream.fail(verb, 421, times=1)
    client = relays.between(upstream)
    replies = [*client.begin(), client.message()][1:]
    assert replies[["MAIL", "RCPT", "DATA"].index(verb)].startswith("451 4.3.")
    assert not upstream.messages
    client.say("RSET")
    assert client.send().startswith("250")
    logged.takeTexts()


def test_TLS_or_a_password_that_upstream_wants_is_for_the_operator(relays: Relays, logged: Logged) -> None:
    upstream = relays.upstream()
    upstream.fail("MAIL", 530, text="Must issue a STARTTLS command first")
    client = relays.between(upstream)
    assert client.begin()[1].startswith("451 4.3.0")
    assert "refuses MAIL: 530 " in logged.takeTexts()[0]


def test_one_refused_recipient_leaves_the_others(relays: Relays) -> None:
    upstream = relays.upstream()
    upstream.fail("RCPT", 550, recipient="bob@example.org")
    client = relays.between(upstream)
    replies = client.begin("ann@example.org", "bob@example.org", "joe@example.org")
    assert [reply[:3] for reply in replies[2:]] == ["250", "550", "250"]
    assert client.message().startswith("250")
    assert [str(each) for each in upstream.waitFor().envelope.rcptTo] == ["ann@example.org", "joe@example.org"]


def test_several_messages_take_one_connection(relays: Relays) -> None:
    upstream = relays.upstream()
    client = relays.between(upstream)
    for _ in range(3):
        assert client.send().startswith("250")
    assert len({message.session.id for message in upstream.messages}) == 1


def test_a_reset_of_the_client_is_one_upstream(relays: Relays) -> None:
    class Reset:
        isReset = threading.Event()

        def onReset(self, session: Any) -> None:
            self.isReset.set()

    upstream = relays.upstream(Reset())
    client = relays.between(upstream, connections=1)
    client.begin("joe@example.org")
    assert client.last("RSET").startswith("250")
    assert Reset.isReset.wait(30)
    assert client.send().startswith("250")
    assert [str(each) for each in upstream.waitFor().envelope.rcptTo] == ["ann@example.org"]


# --- faults of upstream ---


def test_a_server_that_is_down_is_a_temporary_error_with_its_cause_in_the_log(relays: Relays, logged: Logged) -> None:
    port = freePort()
    client = relays.between(f"127.0.0.1:{port}")
    assert client.last("EHLO client.test", "MAIL FROM:<a@b.test>").startswith("451 4.3.0")
    (text,) = logged.takeTexts()
    assert text.startswith(f"hook onMailFrom cannot decide: 127.0.0.1:{port} cannot be reached: ")


@pytest.mark.parametrize("verb", ["CONNECT", *VERBS])
@pytest.mark.parametrize("kind", ["drop", "stall", "garble"])
def test_whatever_upstream_does_there_is_a_temporary_error_and_no_message(
    relays: Relays, kind: str, verb: str, logged: Logged
) -> None:
    upstream = relays.upstream()
    fault = {"drop": upstream.drop, "stall": upstream.stall, "garble": upstream.garble}[kind]
    fault(verb, *[b"\xff\xfehello\r\n"] * (kind == "garble"))
    client = relays.between(upstream, connectTimeout=1, timeout=1, dataTimeout=1)
    replies = [*client.begin(), client.message()][1:]
    index = {"RCPT": 1, "DATA": 2}.get(verb, 0)
    assert all(reply.startswith("250") for reply in replies[:index])
    assert replies[index].startswith("451 4.3.0")
    assert not upstream.messages
    assert logged.takeTexts()
    upstream.heal()
    client.say("RSET")
    assert client.send().startswith("250")


def test_refusals_before_a_transaction_are_no_answers_for_a_client(relays: Relays, logged: Logged) -> None:
    upstream = relays.upstream()
    upstream.fail("CONNECT", 554)
    client = relays.between(upstream)
    assert client.begin()[1].startswith("451 4.3.0")
    assert "does not want this connection: 554" in logged.takeTexts()[0]


def test_a_transaction_that_upstream_has_cut_meanwhile_is_made_anew_for_the_message(relays: Relays) -> None:
    upstream = relays.upstream()
    client = relays.between(upstream)
    client.begin()
    relays.cut(upstream)
    assert client.message().startswith("250")
    assert len(upstream.messages) == 1


def test_a_transaction_that_upstream_has_cut_meanwhile_takes_no_recipient(relays: Relays, logged: Logged) -> None:
    upstream = relays.upstream()
    client = relays.between(upstream)
    client.begin()
    relays.cut(upstream)
    assert client.last("RCPT TO:<joe@example.org>").startswith("451 4.3.0")
    assert client.message().startswith("250")
    assert [str(each) for each in upstream.waitFor().envelope.rcptTo] == ["ann@example.org"]
    logged.takeTexts()


@pytest.mark.parametrize("kind", ["drop", "garble"])
def test_a_message_of_which_octets_have_been_sent_is_not_sent_again(relays: Relays, kind: str, logged: Logged) -> None:
    upstream = relays.upstream()
    {"drop": upstream.drop, "garble": upstream.garble}[kind]("DATA", *[b"hello\r\n"] * (kind == "garble"), times=1)
    client = relays.between(upstream)
    client.begin()
    assert client.message().startswith("451 4.3.0")
    assert not upstream.messages
    logged.takeTexts()


# --- the client ---


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_a_client_that_leaves_within_a_message_leaves_none_upstream(relays: Relays, leave: str) -> None:
    upstream = relays.upstream()
    front = relays.front(upstream)
    client = relays.client(front)
    client.begin()
    client.tell("DATA")
    assert client.hear().startswith("354")
    client.tell("Subject: half", "", "half a message")
    getattr(client, leave)()
    assert relays.client(front).send().startswith("250")
    (message,) = upstream.messages
    assert message["Subject"] == "hello"


def test_chunks_that_the_client_gives_up_are_no_message_upstream(relays: Relays) -> None:
    upstream = relays.upstream()
    client = relays.between(upstream)
    client.begin()
    client.tell(b"BDAT 21\r\nSubject: x\r\n\r\nhalf\r")
    assert client.hear().startswith("250")
    assert client.last("RSET").startswith("250")
    assert client.send().startswith("250")
    assert [message["Subject"] for message in upstream.messages] == ["hello"]


class Stuck:
    """Hooks that are stuck at the first recipient."""

    def __init__(self) -> None:
        self.isAsked = threading.Event()
        self.isClosed = threading.Event()

    def onRcptTo(self, address: Any, session: Any) -> Any:
        if self.isAsked.is_set():
            return None
        self.isAsked.set()
        return Deferred()

    def onClose(self, session: Any) -> None:
        self.isClosed.set()


def test_a_client_that_leaves_while_upstream_thinks_ends_that(relays: Relays) -> None:
    stuck = Stuck()
    front = relays.front(relays.upstream(stuck), connections=1)
    client = relays.client(front)
    client.say("EHLO client.test", "MAIL FROM:<a@b.test>")
    client.tell("RCPT TO:<ann@example.org>")
    assert stuck.isAsked.wait(30)
    client.reset()
    assert stuck.isClosed.wait(30)
    assert relays.client(front).send().startswith("250")  # the one connection that there may be is free again


def test_where_the_server_runs_out_of_time_upstream_is_cut_off(relays: Relays, logged: Logged) -> None:
    stuck = Stuck()
    client = relays.between(relays.upstream(stuck), server={"hookTimeout": 1})
    client.say("EHLO client.test", "MAIL FROM:<a@b.test>")
    assert client.last("RCPT TO:<ann@example.org>").startswith("451 4.3.0")
    assert stuck.isClosed.wait(30)
    assert client.last("RSET").startswith("250")
    assert client.send().startswith("250")


def test_a_client_that_leaves_between_commands_leaves_no_transaction(relays: Relays) -> None:
    front = relays.front(relays.upstream(), connections=1, connectTimeout=5)
    for leave in ("close", "reset"):
        client = relays.client(front)
        client.begin()
        getattr(client, leave)()
    assert relays.client(front).send().startswith("250")


def test_a_message_that_was_refused_leaves_no_transaction(relays: Relays) -> None:
    front = relays.front(relays.upstream(), connections=1, connectTimeout=5, hopLimit=1)
    client = relays.client(front)
    client.begin()
    assert client.message("Received: from a by b; Thu, 1 Jan 2026 00:00:00 +0000", "", "text").startswith("554")
    assert relays.client(front).send().startswith("250")


def test_a_server_that_reads_slowly_slows_the_client_down(relays: Relays) -> None:
    class Slow:
        def __init__(self) -> None:
            self.mayRead: Deferred[None] = Deferred()

        async def onData(self, stream: Any, session: Any) -> None:
            await self.mayRead
            async for _ in stream:
                pass

    slow = Slow()
    upstream = relays.upstream(slow)
    client = relays.between(upstream)
    client.begin()
    client.tell("DATA")
    client.hear()
    client.tell("Subject: long", "")
    client._socket.settimeout(1)
    line = b"x" * 998 + b"\r\n"
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 64 * 2**20:
            client._socket.sendall(line * 100)
            sent += len(line) * 100
    background = upstream._background
    assert background is not None
    background.reactor.callFromThread(slow.mayRead.callback, None)


@ensureDeferred
async def test_a_message_above_the_size_is_none_upstream(relays: Relays) -> None:
    upstream = relays.upstream()
    relay = Relay(at(upstream))
    session = Session(remoteAddress="192.0.2.1")
    session.envelope = Envelope(Address("a@b.test", "a", "b.test"), [Address("c@d.test", "c", "d.test")])
    stream = MessageStream(size=1000)
    stream.append(b"Subject: large\r\n\r\n" + b"x" * 2000, isLast=True)
    with pytest.raises(SMTPError) as caught:
        await relay.onData(stream, session)
    assert (caught.value.responseCode, caught.value.enhancedCode) == (552, "5.3.4")
    await relay.onStop(None)
    eventually(lambda: not upstream._gates.wrapped.connections, "the end of the connection")
    assert not upstream.messages


def test_a_message_that_another_layer_refuses_is_none_upstream(relays: Relays) -> None:
    class Refusing:
        async def inspectData(self, stream: Any, session: Any) -> None:
            await stream.read()
            raise SMTPError("not this one", 554)

    upstream = relays.upstream()
    client = relays.between(upstream, before=[Refusing()])
    assert client.send().startswith("554")
    assert not upstream.messages


def test_a_sender_whom_a_later_layer_refuses_leaves_no_transaction(relays: Relays) -> None:
    class Refusing:
        def onMailFrom(self, address: Any, session: Any) -> None:
            if str(address) == "no@b.test":
                raise SMTPError("no")

    upstream = relays.upstream()
    with pytest.warns(OptionWarning, match="layer Refusing stands behind layer Relay, which passes on"):
        client = relays.between(upstream, behind=[Refusing()], connections=1, connectTimeout=5)
    assert client.last("EHLO client.test", "MAIL FROM:<no@b.test>").startswith("550")
    assert client.send().startswith("250")
    assert str(upstream.waitFor().envelope.mailFrom) == "sender@client.test"


def test_a_recipient_whom_a_later_layer_refuses_gets_no_message(relays: Relays) -> None:
    class Refusing:
        def onRcptTo(self, address: Any, session: Any) -> None:
            if str(address) == "bob@example.org":
                raise SMTPError("no")

    upstream = relays.upstream()
    with pytest.warns(OptionWarning, match="swap them"):
        client = relays.between(upstream, behind=[Refusing()])
    replies = client.begin("ann@example.org", "bob@example.org")
    assert replies[-1].startswith("550")
    assert client.message().startswith("250")
    assert [str(each) for each in upstream.waitFor().envelope.rcptTo] == ["ann@example.org"]


def test_what_hooks_make_of_the_envelope_is_what_upstream_gets(relays: Relays) -> None:
    class Rewriting:
        async def filterData(self, stream: Any, session: Any) -> Any:
            async for chunk in stream:
                yield chunk

        def onRcptTo(self, address: Any, session: Any) -> None:
            pass

        def onData(self, stream: Any, session: Any) -> Any:
            session.envelope.rcptTo[:] = session.envelope.rcptTo[:1]
            return self.relay.onData(stream, session)

    upstream = relays.upstream()
    rewriting: Any = Rewriting()
    rewriting.relay = Relay(at(upstream))
    front = relays.upstream(rewriting)
    assert relays.client(front).send("ann@example.org", "joe@example.org").startswith("250")
    assert [str(each) for each in upstream.waitFor().envelope.rcptTo] == ["ann@example.org"]


def test_parameters_that_hooks_have_changed_are_what_upstream_gets(relays: Relays) -> None:
    class Changing:
        def onData(self, stream: Any, session: Any) -> Any:
            sender, (ann, joe) = session.envelope.mailFrom, session.envelope.rcptTo
            session.envelope.mailFrom = Address(sender.address, sender.local, sender.domain, {"RET": "HDRS"})
            ann.args["NOTIFY"] = "NEVER"
            session.envelope.rcptTo[1] = Address(joe.address, joe.local, joe.domain, {"NOTIFY": "DELAY"})
            return self.relay.onData(stream, session)

    upstream = relays.upstream(hideDSN=False)
    changing: Any = Changing()
    changing.relay = relay = Relay(at(upstream))
    changing.onMailFrom, changing.onRcptTo, changing.onClose = relay.onMailFrom, relay.onRcptTo, relay.onClose
    client = relays.client(relays.upstream(changing, hideDSN=False))
    client.say("EHLO client.test", "MAIL FROM:<a@b.test>")
    client.say("RCPT TO:<ann@example.org> NOTIFY=SUCCESS", "RCPT TO:<joe@example.org>")
    assert client.message().startswith("250")
    envelope = upstream.waitFor().envelope
    assert envelope.mailFrom is not None
    assert envelope.mailFrom.args["RET"] == "HDRS"
    assert [each.args["NOTIFY"] for each in envelope.rcptTo] == ["NEVER", "DELAY"]


def test_two_within_tee_both_have_what_both_accept(relays: Relays) -> None:
    one, other = relays.upstream(), relays.upstream()
    other.fail("RCPT", 550, recipient="joe@example.org")
    client = relays.client(relays.upstream(Tee(Relay(at(one)), Relay(at(other)))))
    assert [reply[:3] for reply in client.begin("ann@example.org", "joe@example.org")[2:]] == ["250", "550"]
    assert client.message().startswith("250")
    for upstream in (one, other):
        assert [str(each) for each in upstream.waitFor().envelope.rcptTo] == ["ann@example.org"]


def test_without_its_other_hooks_the_transaction_is_that_of_the_message(relays: Relays) -> None:
    upstream = relays.upstream()
    relay = Relay(at(upstream))
    client = relays.client(relays.upstream(onData=relay.onData))
    assert client.send("ann@example.org", "joe@example.org").startswith("250")
    assert [str(each) for each in upstream.waitFor().envelope.rcptTo] == ["ann@example.org", "joe@example.org"]
    upstream.fail("RCPT", 550, recipient="joe@example.org")
    assert client.send("ann@example.org", "joe@example.org").startswith("550")
    assert len(upstream.messages) == 1


# --- what upstream cannot take ---


@pytest.mark.parametrize(
    "options, mail, refused",
    [
        ({"hide8BITMIME": True}, " BODY=8BITMIME", "554 5.6.3"),
        ({"hideSMTPUTF8": True}, " SMTPUTF8", "550 5.6.7"),
        ({"size": 1000}, " SIZE=900", "552 5.3.4"),
    ],
)
def test_what_upstream_does_not_take_is_refused(relays: Relays, options: Any, mail: str, refused: str) -> None:
    client = relays.between(relays.upstream(**options))
    assert client.last("EHLO client.test", f"MAIL FROM:<a@b.test>{mail}").startswith(refused)


def test_octets_above_127_that_upstream_does_not_take_are_refused_though_they_were_not_declared(relays: Relays) -> None:
    upstream = relays.upstream(hide8BITMIME=True)
    client = relays.between(upstream)
    client.begin()
    assert client.message("Subject: x", "", "grüße").startswith("554 5.6.3")
    assert not upstream.messages


def test_what_upstream_takes_goes_there_with_its_parameters(relays: Relays) -> None:
    upstream = relays.upstream(hideDSN=False)
    client = relays.between(upstream, server={"hideDSN": False})
    client.say("EHLO client.test", "MAIL FROM:<é@b.test> BODY=8BITMIME SMTPUTF8 SIZE=100 RET=HDRS ENVID=a+2Bb")
    client.say("RCPT TO:<ann@example.org> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x+2By@example.net")
    assert client.message("Subject: grüße", "", "text").startswith("250")
    envelope = upstream.waitFor().envelope
    assert envelope.mailFrom is not None
    assert dict(envelope.mailFrom.args) == {
        "BODY": "8BITMIME",
        "SMTPUTF8": True,
        "SIZE": "612",
        "RET": "HDRS",
        "ENVID": "a+b",
    }
    assert envelope.rcptTo[0].dsn == (("SUCCESS", "DELAY"), "rfc822;x+y@example.net")


def test_a_binary_message_goes_in_chunks(relays: Relays) -> None:
    upstream = relays.upstream()
    client = relays.between(upstream)
    client.begin(mail=" BODY=BINARYMIME")
    content = b"Subject: x\r\n\r\na\nb\rc\x00\xff" * 30000
    client._socket.sendall(b"BDAT %d LAST\r\n%b" % (len(content), content))
    assert client.hear().startswith("250")
    message = upstream.waitFor()
    assert message.octets.endswith(content)
    assert message.envelope.bodyType == "binarymime"


# --- loops ---


@pytest.mark.parametrize("count, reply", [(49, "250"), (50, "554 5.4.6")])
def test_a_message_that_has_come_round_too_often_is_refused(relays: Relays, count: int, reply: str) -> None:
    upstream = relays.upstream()
    client = relays.between(upstream)
    client.begin()
    fields = [f"Received: from h{i} by h{i + 1}; Thu, 1 Jan 2026 00:00:00 +0000" for i in range(count)]
    assert client.message(*fields, "Subject: x", "", "text").startswith(reply)
    assert len(upstream.messages) == (reply == "250")


def test_without_a_limit_on_hops_the_header_is_not_looked_at(relays: Relays) -> None:
    client = relays.between(relays.upstream(), hopLimit=0)
    client.begin()
    assert client.message(*["X-Long: " + "x" * 900] * 400, "", "text").startswith("250")
    client = relays.between(relays.upstream())
    client.begin()
    assert client.message(*["X-Long: " + "x" * 900] * 400, "", "text").startswith("552 5.3.4")


# --- who we are, and who the client is ---


def test_it_authenticates_upstream(relays: Relays) -> None:
    upstream = relays.upstream(users={"ann": PASSWORD})
    assert relays.between(upstream, user="ann", password=PASSWORD).send().startswith("250")
    assert upstream.waitFor().session.user == "ann"
    assert PASSWORD not in repr(relays.relay)


def test_a_password_that_upstream_refuses_is_no_refusal_of_the_client(relays: Relays, logged: Logged) -> None:
    upstream = relays.upstream(users={"ann": PASSWORD})
    client = relays.between(upstream, user="ann", password=WRONG_PASSWORD)
    assert client.begin()[1].startswith("451 4.3.0")
    (text,) = logged.takeTexts()
    assert "refuses AUTH" in text
    assert "535" in text


def test_upstream_takes_the_client_for_its_own_with_xclient(relays: Relays) -> None:
    upstream = relays.upstream(useXClient=True, disableReverseLookup=True)
    client = relays.between(upstream, xClient=True)
    assert client.send(hello="HELO").startswith("250")
    session = upstream.waitFor().session
    assert session.xClient["ADDR"] == "127.0.0.1"
    assert session.remotePort == client._socket.getsockname()[1]
    assert session.hostNameAppearsAs == "client.test"
    assert session.xClient["PROTO"] == "SMTP"
    assert session.xClient["NAME"] == "[TEMPUNAVAIL]"
    assert session.xClient["LOGIN"] == ""


def test_upstream_learns_by_xforward_who_the_client_is(relays: Relays) -> None:
    upstream = relays.upstream(useXForward=True)
    client = relays.between(upstream, xForward=True)
    assert client.send().startswith("250")
    xForward = upstream.waitFor().session.xForward
    assert (xForward["ADDR"], xForward["HELO"], xForward["PROTO"]) == ("127.0.0.1", "client.test", "ESMTP")


def test_who_is_known_by_xforward_is_told_on(relays: Relays) -> None:
    upstream = relays.upstream(useXForward=True)
    client = relays.between(upstream, xForward=True, server={"useXForward": True})
    client.say("EHLO filter.test", "XFORWARD ADDR=192.0.2.5 NAME=[UNAVAILABLE] HELO=far.test")
    client.say("MAIL FROM:<sender@client.test>", "RCPT TO:<ann@example.org>")
    assert client.message().startswith("250")
    xForward = upstream.waitFor().session.xForward
    assert (xForward["ADDR"], xForward["HELO"], xForward["NAME"]) == ("192.0.2.5", "far.test", "")


@pytest.mark.parametrize("isUser, expected", [(False, "<>"), (True, "sam@b.test")])
def test_only_a_client_that_has_authenticated_says_who_has_submitted_a_message(
    relays: Relays, isUser: bool, expected: str
) -> None:
    upstream = relays.upstream(users={"ann": PASSWORD}, authOptional=True)
    client = relays.between(
        upstream, server={"users": {"ann": PASSWORD}, "authOptional": True, "authFailuresPerAddress": 0}
    )
    client.say("EHLO client.test", *[f"AUTH PLAIN {plain()}"] * isUser)
    client.say("MAIL FROM:<a@b.test> AUTH=sam@b.test", "RCPT TO:<ann@example.org>")
    assert client.message().startswith("250")
    sender = upstream.waitFor().envelope.mailFrom
    assert sender is not None
    assert sender.args["AUTH"] == expected


# --- LMTP ---


def test_lmtp_to_lmtp_has_a_reply_for_each_recipient(relays: Relays) -> None:
    upstream = relays.upstream(lmtp=True)
    upstream.fail("DATA", 452, recipient="bob@example.org", text="full")
    client = relays.between(upstream, lmtp=True, server={"lmtp": True})
    client.begin("ann@example.org", "bob@example.org", "joe@example.org", hello="LHLO")
    replies = [client.message(), client.hear(), client.hear()]
    assert [reply[:3] for reply in replies] == ["250", "452", "250"]
    assert replies[1].endswith(" full")


@pytest.mark.parametrize(
    "failing, code",
    [
        ({}, "250"),
        ({"ann": 452}, "452"),
        ({"bob": 550}, "550"),
        ({"ann": 550, "joe": 452}, "452"),
        ({"joe": 550}, "550"),
    ],
)
def test_smtp_to_lmtp_has_the_worst_reply_with_which_nothing_is_lost(
    relays: Relays, failing: dict[str, int], code: str
) -> None:
    upstream = relays.upstream(lmtp=True)
    for name, each in failing.items():
        upstream.fail("DATA", each, recipient=f"{name}@example.org")
    client = relays.between(upstream, lmtp=True)
    assert client.send("ann@example.org", "bob@example.org", "joe@example.org").startswith(code)


@pytest.mark.parametrize("code", [250, 450, 550])
def test_lmtp_to_smtp_has_the_one_reply_for_all(relays: Relays, code: int) -> None:
    upstream = relays.upstream()
    if code != 250:
        upstream.fail("DATA", code)
    client = relays.between(upstream, server={"lmtp": True})
    client.begin("ann@example.org", "bob@example.org", hello="LHLO")
    assert [reply[:3] for reply in (client.message(), client.hear())] == [str(code)] * 2


@pytest.mark.parametrize(
    "change, codes",
    [
        (lambda recipients: recipients.pop(0), [452] * 3),
        (lambda recipients: recipients.reverse(), [452] * 3),
        (lambda recipients: recipients.insert(0, Address("x@example.org", "x", "example.org")), [452] * 3),
        (
            lambda recipients: recipients.__setitem__(0, Address("x@example.org", "x", "example.org")),
            [250, 452, 250],
        ),
    ],
    ids=["removed", "moved", "added", "replaced"],
)
def test_no_recipient_has_the_reply_of_another_one(relays: Relays, change: Any, codes: list[int]) -> None:
    """Of three one has no room: whoever is told 250 has the message."""

    class Changing:
        relay: Relay

        def onRcptTo(self, address: Any, session: Any) -> Any:
            return self.relay.onRcptTo(address, session)

        def onData(self, stream: Any, session: Any) -> Any:
            change(session.envelope.rcptTo)
            return self.relay.onData(stream, session)

    upstream = relays.upstream(lmtp=True)
    upstream.fail("DATA", 452, recipient="bob@example.org")
    changing = Changing()
    changing.relay = Relay(at(upstream), lmtp=True)
    client = relays.client(relays.upstream(changing, lmtp=True))
    client.begin("ann@example.org", "bob@example.org", "joe@example.org", hello="LHLO")
    assert [int(reply[:3]) for reply in (client.message(), client.hear(), client.hear())] == codes


def test_lmtp_to_lmtp_made_anew_keeps_the_replies_in_order(relays: Relays) -> None:
    upstream = relays.upstream(lmtp=True)
    client = relays.between(upstream, lmtp=True, server={"lmtp": True})
    client.begin("ann@example.org", "bob@example.org", "joe@example.org", hello="LHLO")
    upstream.fail("RCPT", 550, recipient="bob@example.org")
    upstream.fail("DATA", 452, recipient="joe@example.org")
    relays.cut(upstream)
    assert [reply[:3] for reply in (client.message(), client.hear(), client.hear())] == ["250", "550", "452"]


# --- several servers ---


def test_recipients_of_another_server_are_for_another_transaction(relays: Relays) -> None:
    one, other = relays.upstream(), relays.upstream()
    table = {"example.org": at(one), ".example.org": at(one), "*": at(other)}
    client = relays.between(table, server={"hideLIMITS": False})
    client.tell("EHLO client.test")
    hello = b""
    while not hello.startswith(b"250 "):
        hello = client._file.readline()
        if b"LIMITS" in hello:
            assert b"RCPTDOMAINMAX=1" in hello.split()
            break
    else:
        raise AssertionError("no LIMITS")
    assert hello.startswith(b"250 LIMITS") or client.hear()
    replies = client.begin("ann@example.org", "joe@example.net", "bob@mx.EXAMPLE.org")[2:]
    assert [reply[:9] for reply in replies] == ["250 2.1.5", "452 4.5.3", "250 2.1.5"]
    assert client.message().startswith("250")
    assert client.send("joe@example.net").startswith("250")
    assert [str(each) for each in one.waitFor().envelope.rcptTo] == ["ann@example.org", "bob@mx.EXAMPLE.org"]
    assert [str(each) for each in other.waitFor().envelope.rcptTo] == ["joe@example.net"]


def test_a_refused_recipient_does_not_choose_the_server(relays: Relays) -> None:
    one, other = relays.upstream(), relays.upstream()
    one.fail("RCPT", 550)
    client = relays.between({"example.org": at(one), "*": at(other)})
    replies = client.begin("ann@example.org", "joe@example.net")[2:]
    assert [reply[:3] for reply in replies] == ["550", "250"]
    assert client.message().startswith("250")


def test_a_recipient_of_no_server_is_refused(relays: Relays) -> None:
    client = relays.between({"example.org": at(relays.upstream())})
    assert client.begin("joe@example.net")[-1] == "550 5.7.1 Relay access denied"


def test_another_server_takes_the_place_of_one_that_is_down(relays: Relays) -> None:
    upstream = relays.upstream()
    client = relays.between([{"to": f"127.0.0.1:{freePort()}", "priority": 1}, {"to": at(upstream), "priority": 2}])
    assert client.send().startswith("250")
    assert client.send().startswith("250")
    assert len(upstream.messages) == 2


def test_another_server_takes_the_place_of_one_that_does_not_answer(relays: Relays) -> None:
    stalled, upstream = relays.upstream(), relays.upstream()
    stalled.stall("CONNECT")
    servers = [{"to": at(stalled), "priority": 1}, {"to": at(upstream), "priority": 2}]
    assert relays.between(servers, connectTimeout=1).send().startswith("250")


def test_all_servers_together_have_a_limit_of_time(relays: Relays, logged: Logged) -> None:
    stalled = [relays.upstream() for _ in range(2)]
    for each in stalled:
        each.stall("CONNECT")
    client = relays.between([at(each) for each in stalled], connectTimeout=0, timeout=0.2)
    assert client.begin()[1].startswith("451 4.3.0")
    assert "no server has accepted a message within 0.2 seconds" in logged.takeTexts()[0]


def test_a_refused_sender_is_not_asked_about_at_another_server(relays: Relays) -> None:
    one, other = relays.upstream(), relays.upstream()
    one.fail("MAIL", 550)
    servers = [{"to": at(one), "priority": 1}, {"to": at(other), "priority": 2}]
    assert relays.between(servers).begin()[1].startswith("550")


# --- options, and its life ---


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"upstream": ""}, "option upstream is wrong: the server is ''"),
        ({"upstream": "mx:0"}, 'wants "host:port"'),
        ({"upstream": []}, "option upstream is"),
        ({"upstream": {}}, "option upstream is"),
        ({"upstream": [{"to": "mx:25", "wieght": 2}]}, "did you mean weight?"),
        ({"upstream": [{"to": "mx:25", "weight": 0}]}, "its weight one from 1"),
        ({"upstream": "mx:25", "tls": "always"}, "option tls"),
        ({"upstream": "mx:25", "user": "ann"}, "option user is given without password"),
        ({"upstream": "mx:25", "ca": "/nowhere/ca.pem"}, "option ca is '/nowhere/ca.pem' (No such file"),
        ({"upstream": "mx:25", "key": "/nowhere", "cert": "/nowhere"}, "option key is '/nowhere' (No such file"),
        ({"upstream": "mx:25", "servername": "ä" * 64, "ca": AUTHORITY}, "options servername, ca cannot be used: "),
        ({"upstream": "smtp://mx:25"}, 'it wants "host:port" or the path of a socket'),
        ({"upstream": "mx:25", "password": "x1y"}, "option password is given without user"),
        ({"upstream": "mx:25", "token": "x1y"}, "option token is given without user"),
        ({"upstream": "mx:25", "user": "ann", "token": "x", "authMethods": ["PLAIN"]}, "it wants XOAUTH2"),
        (
            {"upstream": "mx:25", "user": "ann", "password": "x", "authMethods": ["NTLM"]},
            "it wants a list of SCRAM-SHA-256",
        ),
        ({"upstream": "mx:25", "hoplimit": 3}, "did you mean hopLimit?"),
        ({}, "option upstream is missing"),
    ],
)
def test_wrong_options_are_errors(options: Any, sentence: str) -> None:
    with pytest.raises(OptionError) as caught:
        Relay(**options)
    assert sentence in str(caught.value)


def test_a_file_of_TLS_that_is_not_there_is_said_in_the_words_of_every_such_option() -> None:
    with pytest.raises(
        OptionError, match=r"^option ca is '/nowhere' \(No such file or directory\), it wants PEM text or"
    ):
        Relay("mx:25", ca="/nowhere")


def test_a_password_is_in_no_error() -> None:
    with pytest.raises(OptionError) as caught:
        Relay("mx:25", user="ann", password=PASSWORD + "\n")
    assert PASSWORD not in str(caught.value)


def test_it_decides_on_recipients_and_is_no_doubt_as_the_last_layer(recwarn: pytest.WarningsRecorder) -> None:
    factory = SMTPServerFactory(hooks=[Layer(Relay("mx:25"))], authOptional=True)
    assert factory.onRcptTo is not None
    assert not recwarn.list


@ensureDeferred
async def test_it_closes_its_connections_when_the_service_stops(relays: Relays) -> None:
    upstream = relays.upstream()
    relay = Relay(at(upstream))
    for _ in range(2):  # it can start anew
        session = Session(remoteAddress="192.0.2.1")
        session.envelope = Envelope(Address("a@b.test", "a", "b.test"))
        assert await relay.onMailFrom(session.envelope.mailFrom, session) == "Sender OK"
        assert await relay.onRcptTo(Address("c@d.test", "c", "d.test"), session) == "Recipient OK"
        relay.onClose(session)
        await relay.onStop(None)
        await relay.onStop(None)
    gates = upstream._gates
    eventually(lambda: not gates.wrapped.connections, "the end of the connections")
