"""The layer Rspamd, with a rspamd on loopback that answers on command."""

import os
from contextlib import suppress

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, ensureDeferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock, deferLater
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure

from smtphooks.errors import OptionError
from smtphooks.layers import Rspamd
from smtphooks.layers.exchange import ScannerFault
from smtphooks.replies import SMTPError
from smtphooks.session import Address, Envelope, Session, TLSInfo
from tests.layers.scanners import Message, isTidy, scanner
from tests.layers.test_rspamdanswer import response
from tests.secrets import PASSWORD

__all__ = ["scanner"]

MESSAGE = b"Received: by a\r\nSubject: hello\r\nX-Spam: No\r\n\r\ntext\r\n"


# More than the buffers of a connection hold.
LARGE = b"x" * 20_000_000


def answer(action="no action", score=1.5, **members):
    return response({"action": action, "score": score, "required_score": 15.0, **members})


def makeSession(**given):
    envelope = Envelope(
        Address("a@client.example", "a", "client.example"), [Address("b@mx.example", "b", "mx.example")]
    )
    return Session(**{"localName": "mx.example", "remoteAddress": "192.0.2.1", "envelope": envelope, **given})


class Inspection:
    """An inspection by a layer whose clock stands still."""

    def __init__(self, scanner, message=None, session=None, **options):
        self.layer = Rspamd(**{"url": f"http://127.0.0.1:{scanner.port}", **options})
        self.layer.clock = self.clock = Clock()
        self.session = session or makeSession()
        self._scanner = scanner
        self.inspect(message or Message(MESSAGE))

    def inspect(self, message):
        self.message = message
        self._accepted, self._talk = self._scanner.talk(), None
        self.result = ensureDeferred(self.layer.inspectData(message, self.session))

    @property
    def state(self):
        return self.session.of(Rspamd)

    async def has(self, octets):
        """The connection, once rspamd has got these octets."""
        talk = self._talk = self._talk or await self._accepted
        await talk.has(octets)
        return talk

    async def answered(self, octets, after=b"text\r\n"):
        """Let rspamd answer and close after some octets."""
        talk = await self.has(after)
        talk.answer(octets)
        talk.transport.loseConnection()
        await self.result
        assert isTidy(self.message, self.clock)

    async def fault(self, *arguments):
        with pytest.raises(ScannerFault) as caught:
            await self.answered(*arguments)
        assert isTidy(self.message, self.clock)
        assert self.state.verdict is None
        assert not self.state.changes
        return str(caught.value)

    async def refusal(self, *arguments):
        with pytest.raises(SMTPError) as caught:
            await self.answered(*arguments)
        assert isTidy(self.message, self.clock)
        return caught.value

    async def filtered(self, *chunks):
        return b"".join([chunk async for chunk in self.layer.filterData(Message(*chunks), self.session)])


def unnamedFiles():
    """The temporary files without a name that are open."""
    files = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            files.add(os.readlink(f"/proc/self/fd/{number}"))
    return {path for path in files if path.endswith(" (deleted)")}


async def lines(scanner, **given):
    """The header lines of the request for a session."""
    inspection = Inspection(scanner, session=makeSession(**given))
    await inspection.answered(answer())
    return scanner.talks[-1].received.partition(b"\r\n\r\n")[0].decode().split("\r\n")


# --- what rspamd gets ---


@pytest_twisted.ensureDeferred
async def test_the_message_is_posted_when_it_has_arrived(scanner):
    inspection = Inspection(scanner, Message(b"one", isWhole=False))
    inspection.message.append(b"x" * 70000)
    assert not scanner.talks
    inspection.message.end(b"end")
    await inspection.answered(answer(), b"end")
    header, _, body = scanner.talks[0].received.partition(b"\r\n\r\n")
    assert header.startswith(
        b"POST /checkv2 HTTP/1.1\r\nContent-Length: 70006\r\nHost: 127.0.0.1:%d\r\n" % scanner.port
    )
    assert body == b"one" + b"x" * 70000 + b"end"


@pytest_twisted.ensureDeferred
async def test_an_empty_message_is_posted_as_well(scanner):
    await Inspection(scanner, Message()).answered(answer(), b"Content-Length: 0\r\n")


@pytest_twisted.ensureDeferred
async def test_a_message_above_the_size_limit_passes_without_inspection(scanner):
    inspection = Inspection(scanner, sizeLimit=len(MESSAGE))
    await inspection.answered(answer("add header"))
    with capturedLogs() as events:
        inspection.inspect(Message(MESSAGE + b"x"))
        await inspection.result
    assert [(event["octets"], event["limit"]) for event in events] == [(len(MESSAGE) + 1, len(MESSAGE))]
    assert inspection.state.verdict is None
    assert await inspection.filtered(MESSAGE) == MESSAGE


@pytest_twisted.ensureDeferred
async def test_rspamd_is_told_of_the_client_and_the_envelope(scanner):
    session = makeSession(
        clientHostname="client.example",
        hostNameAppearsAs="helo.example",
        user="ann",
        tlsOptions=TLSInfo("ECDHE", "TLS_ECDHE", "TLSv1.3"),
    )
    session.envelope.rcptTo.append(Address("b@mx.example", "b", "mx.example"))
    inspection = Inspection(scanner, session=session)
    await inspection.answered(answer())
    assert scanner.talks[0].received.partition(b"\r\n\r\n")[0].decode().split("\r\n")[4:] == [
        "MTA-Name: mx.example",
        f"Queue-Id: {session.id}.1",
        "IP: 192.0.2.1",
        "Hostname: client.example",
        "Helo: helo.example",
        "User: ann",
        "TLS-Cipher: ECDHE",
        "TLS-Version: TLSv1.3",
        "From: <a@client.example>",
        "Rcpt: <b@mx.example>",
        "Rcpt: <b@mx.example>",
    ]


@pytest_twisted.ensureDeferred
async def test_what_is_not_known_is_not_told(scanner):
    told = await lines(scanner, remoteAddress="./socket", clientHostname="[192.0.2.1]", envelope=Envelope())
    assert {line.partition(":")[0] for line in told[1:]} == {
        "Host",
        "Content-Length",
        "Connection",
        "MTA-Name",
        "Queue-Id",
    }


@pytest_twisted.ensureDeferred
async def test_the_null_sender_is_told(scanner):
    assert "From: <>" in await lines(scanner, envelope=Envelope(Address("")))


@pytest_twisted.ensureDeferred
async def test_a_user_that_is_no_text_is_told_to_be_one(scanner):
    assert "User: authenticated" in await lines(scanner, user=object())


@pytest_twisted.ensureDeferred
async def test_addresses_are_told_in_ASCII(scanner):
    sender, recipient = Address("jö@exämple.com", "jö", "exämple.com"), Address("b@a.ü\u2028", "b", "a.ü\u2028")
    told = await lines(scanner, envelope=Envelope(sender, [recipient]))
    assert "From: <j?@xn--exmple-cua.com>" in told
    assert "Rcpt: <b@a.??>" in told


@pytest_twisted.ensureDeferred
async def test_nothing_that_a_client_says_makes_a_line_of_its_own(scanner):
    told = await lines(scanner, hostNameAppearsAs="a\r\nUser: root\0")
    assert "Helo: a??User: root?" in told


@pytest_twisted.ensureDeferred
async def test_there_are_never_more_recipients_than_rspamd_reads(scanner):
    rcptTo = [Address(f"{number:04}{'x' * 60}@mx.example") for number in range(1000)]
    told = await lines(scanner, envelope=Envelope(Address(""), rcptTo))
    assert 60000 < len("\r\n".join(told)) < 61000


@pytest.mark.parametrize("isFile", [True, False])
@pytest_twisted.ensureDeferred
async def test_the_password_is_sent_and_never_shown(scanner, tmp_path, isFile):
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    inspection = Inspection(scanner, password=str(tmp_path / "password") if isFile else PASSWORD)
    await inspection.answered(answer())
    assert f"\r\nPassword: {PASSWORD}\r\n".encode() in scanner.talks[0].received
    assert PASSWORD not in repr(inspection.layer)
    assert str(tmp_path) not in repr(inspection.layer)


@pytest_twisted.ensureDeferred
async def test_a_url_may_have_a_path(scanner):
    inspection = Inspection(scanner, url=f"http://localhost:{scanner.port}/behind/")
    await inspection.answered(answer())
    assert scanner.talks[0].received.startswith(b"POST /behind/checkv2 HTTP/1.1\r\n")


@pytest_twisted.ensureDeferred
async def test_rspamd_on_a_UNIX_socket(scanner, tmp_path):
    listening = reactor.listenUNIX(str(tmp_path / "rspamd"), scanner)
    try:
        inspection = Inspection(scanner, url=f"unix:{tmp_path}/rspamd")
        await inspection.answered(answer())
        assert scanner.talks[0].received.startswith(
            b"POST /checkv2 HTTP/1.1\r\nContent-Length: 52\r\nHost: localhost\r\n"
        )
    finally:
        await listening.stopListening()


# --- what comes of an action ---


@pytest.mark.parametrize("action", ["no action", "add header", "rewrite subject"])
@pytest_twisted.ensureDeferred
async def test_a_message_passes(scanner, action):
    inspection = Inspection(scanner)
    await inspection.answered(answer(action, symbols={"A": {"score": 1}, "B": {"score": 0.5}}))
    verdict = inspection.state.verdict
    assert (verdict.action, verdict.score, verdict.requiredScore) == (action, 1.5, 15.0)
    assert verdict.symbols == {"A": 1, "B": 0.5}


@pytest.mark.parametrize(
    "action, code, enhancedCode, text",
    [
        ("reject", 554, "5.7.1", "Message refused as spam"),
        ("quarantine", 554, "5.7.1", "Message refused as spam"),
        ("discard", 554, "5.7.1", "Message refused as spam"),
        ("soft reject", 451, "4.7.1", "Message delayed, please try again later"),
        ("greylist", 451, "4.7.1", "Greylisted, please try again later"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_message_is_refused(scanner, action, code, enhancedCode, text):
    inspection = Inspection(scanner)
    refusal = await inspection.refusal(answer(action, milter={"add_headers": {"X": "y"}}))
    assert (refusal.responseCode, refusal.enhancedCode, refusal.message) == (code, enhancedCode, text)
    assert inspection.state.verdict.action == action
    assert not inspection.state.changes
    inspection.inspect(Message(MESSAGE))
    refusal = await inspection.refusal(answer(action, messages={"smtp_message": "Go away"}))
    assert (refusal.responseCode, refusal.message) == (code, "Go away")
    inspection.inspect(Message(MESSAGE))
    assert (await inspection.refusal(answer(action, messages={"smtp_message": "\r\n "}))).message == text


@pytest_twisted.ensureDeferred
async def test_greylisting_can_be_left_to_others(scanner):
    await Inspection(scanner, greylist="pass").answered(answer("greylist"))


@pytest_twisted.ensureDeferred
async def test_an_action_that_shall_only_be_noted_is_noted(scanner):
    inspection = Inspection(scanner)
    await inspection.answered(answer("reject", milter={"no_action": True}))
    assert await inspection.filtered(b"A: 1\r\n\r\n") == b"A: 1\r\nX-Rspamd-Action: reject\r\n\r\n"


@pytest_twisted.ensureDeferred
async def test_a_message_may_be_refused_before_rspamd_has_all_of_it(scanner):
    refusal = await Inspection(scanner, Message(LARGE)).refusal(answer("reject"), b"POST")
    assert refusal.responseCode == 554


@pytest_twisted.ensureDeferred
async def test_a_line_of_the_log_has_the_verdict(scanner):
    inspection = Inspection(scanner)
    with capturedLogs() as events:
        await inspection.answered(answer("add header", symbols={"A": {"score": 1}, "B": {"score": 0.5}}))
    (event,) = events
    text = event["log_format"].format(**event)
    assert text == f"rspamd: add header, score 1.50 of 15.0, A, B [{inspection.session.id}]"
    assert event["peer"] == "192.0.2.1"


@pytest_twisted.ensureDeferred
async def test_what_rspamd_asks_for_in_vain_is_logged(scanner):
    inspection = Inspection(scanner)
    with capturedLogs() as events:
        await inspection.answered(answer(milter={"del_rcpt": ["b@mx.example"]}))
    assert [event["changes"] for event in events if event["log_level"] is LogLevel.warn] == ["del_rcpt"]


# --- faults ---


@pytest.mark.parametrize(
    "octets, said",
    [
        (answer("dance"), "advises 'dance', which this layer does not know"),
        (response({"error": "x"}, "403 Forbidden"), "answers 403 Forbidden"),
        (response(b"{"), "answers something else than JSON: b'{'"),
        (answer()[:-1], "answers no whole HTTP response: IncompleteRead"),
        (b"", "has closed the connection without an answer"),
        (answer(messages={"a": "x" * 1048576}), "answers more than 1048576 octets"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_no_verdict_is_a_fault(scanner, octets, said):
    assert await Inspection(scanner).fault(octets) == f"rspamd at http://127.0.0.1:{scanner.port} {said}"


@pytest_twisted.ensureDeferred
async def test_a_message_does_not_pass_before_it_has_been_inspected_whole(scanner):
    inspection = Inspection(scanner, Message(LARGE))
    assert "answers before it has the whole message" in await inspection.fault(answer(), b"POST")


@pytest_twisted.ensureDeferred
async def test_a_rspamd_that_never_answers_is_a_fault_after_the_timeout(scanner):
    inspection = Inspection(scanner, timeout=7)
    await inspection.has(b"text\r\n")
    inspection.clock.advance(7)
    with pytest.raises(ScannerFault, match="has not answered within 7 seconds"):
        await inspection.result


@pytest_twisted.ensureDeferred
async def test_a_rspamd_that_is_not_there_is_a_fault(scanner):
    port = scanner.port
    layer = Rspamd(url=f"http://127.0.0.1:{port}")
    await scanner._listening.stopListening()
    with pytest.raises(ScannerFault, match=f"^rspamd at http://127.0.0.1:{port} cannot be reached: Connection was ref"):
        await layer.inspectData(Message(MESSAGE), makeSession())


@pytest.mark.parametrize("moment", ["arriving", "sending", "waiting"])
@pytest_twisted.ensureDeferred
async def test_a_cancelled_inspection_leaves_nothing_behind(scanner, moment):
    before = unnamedFiles()
    content = LARGE if moment == "sending" else b"x" * 500_000  # in any case too much for the memory of a spool
    inspection = Inspection(scanner, Message(content, MESSAGE, isWhole=moment != "arriving"))
    if moment != "arriving":
        talk = await inspection.has(b"text\r\n" if moment == "waiting" else b"POST")
    inspection.result.cancel()
    with pytest.raises(CancelledError):
        await inspection.result
    if moment != "arriving":
        await talk.closed
    assert isTidy(inspection.message, inspection.clock)
    while unnamedFiles() - before:  # a thread may still use the file, which is closed then
        await deferLater(reactor, 0)


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_ends_the_inspection(scanner):
    inspection = Inspection(scanner, Message(b"one", isWhole=False))
    inspection.message.fail(Failure(ConnectionLost()))
    with pytest.raises(ConnectionLost):
        await inspection.result
    assert isTidy(inspection.message, inspection.clock)


@pytest_twisted.ensureDeferred
async def test_a_fault_leaves_no_changes_of_the_message_before(scanner):
    inspection = Inspection(scanner)
    await inspection.answered(answer(milter={"add_headers": {"X": "y"}}))
    assert inspection.state.changes
    inspection.inspect(Message(MESSAGE))
    assert not inspection.state.changes
    await inspection.fault(b"")
    assert await inspection.filtered(MESSAGE) == MESSAGE


# --- changes to the header ---


async def changed(scanner, *chunks, action="no action", options=None, **members):
    """The message in these chunks as it goes on after an answer."""
    inspection = Inspection(scanner, **(options or {}))
    await inspection.answered(answer(action, **members))
    return await inspection.filtered(*(chunks or (MESSAGE,)))


@pytest_twisted.ensureDeferred
async def test_without_changes_no_octet_is_touched(scanner):
    assert await changed(scanner) == MESSAGE


@pytest_twisted.ensureDeferred
async def test_add_header_adds_a_field_in_the_place_of_forged_ones(scanner):
    assert await changed(scanner, action="add header") == MESSAGE.replace(b"X-Spam: No", b"X-Spam: Yes")


@pytest_twisted.ensureDeferred
async def test_the_field_of_add_header_is_an_option(scanner):
    message = await changed(scanner, action="add header", options={"spamHeader": "X-Junk"})
    assert message == MESSAGE.replace(b"No\r\n", b"No\r\nX-Junk: Yes\r\n")


@pytest_twisted.ensureDeferred
async def test_rewrite_subject_rewrites_the_subject(scanner):
    message = await changed(scanner, action="rewrite subject", subject="***SPAM*** hello\r\nX: y")
    assert message == MESSAGE.replace(b"hello", b"***SPAM*** hello\r\n\tX: y")


@pytest_twisted.ensureDeferred
async def test_a_subject_is_not_rewritten_by_any_other_action(scanner):
    assert await changed(scanner, subject="***SPAM***") == MESSAGE


@pytest_twisted.ensureDeferred
async def test_fields_are_removed_and_added_as_rspamd_wants(scanner):
    message = await changed(
        scanner,
        milter={
            "remove_headers": {"Received": 0, "x-spam": [1, -5]},
            "add_headers": {"X-Score": 1.5, "X-Top": {"value": "a\n\tb", "order": 0}, "X-Many": ["c", {"value": "d"}]},
        },
        **{"dkim-signature": "v=1"},
    )
    assert message == (
        b"X-Top: a\r\n\tb\r\nDKIM-Signature: v=1\r\nSubject: hello\r\n"
        b"X-Score: 1.5\r\nX-Many: c\r\nX-Many: d\r\n\r\ntext\r\n"
    )


@pytest.mark.parametrize("size", [1, 7, 43, 44, 45, 46, 47])
@pytest_twisted.ensureDeferred
async def test_it_does_not_matter_how_the_message_is_cut(scanner, size):
    chunks = [MESSAGE[start : start + size] for start in range(0, len(MESSAGE), size)]
    assert await changed(scanner, *chunks, milter={"add_headers": {"X": "y"}}) == MESSAGE.replace(
        b"No\r\n", b"No\r\nX: y\r\n"
    )


@pytest_twisted.ensureDeferred
async def test_a_message_without_a_body_is_changed_as_well(scanner):
    assert await changed(scanner, b"A: b", milter={"add_headers": {"X": "y"}}) == b"A: b\r\nX: y\r\n"


@pytest_twisted.ensureDeferred
async def test_a_header_that_is_too_large_is_refused_if_it_must_be_changed(scanner):
    message = b"A: b\r\n" * 50000
    assert await changed(scanner, message) == message
    with pytest.raises(SMTPError) as caught:
        await changed(scanner, message, milter={"add_headers": {"X": "y"}})
    assert caught.value.responseCode == 552


@pytest_twisted.ensureDeferred
async def test_a_message_that_is_cut_short_ends_the_filter(scanner):
    inspection = Inspection(scanner)
    await inspection.answered(answer(milter={"add_headers": {"X": "y"}}))
    message = Message(b"A: b", isWhole=False)
    message.fail(Failure(ConnectionLost()))
    with pytest.raises(ConnectionLost):
        await inspection.layer.filterData(message, inspection.session).__anext__()


# --- options ---


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:11333", "http://rspamd.example", "http://[::1]:11333/a", "unix:/run/r"]
)
def test_urls(url):
    assert Rspamd(url=url).url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://a",
        "http://",
        "http://a:0",
        "http://a:x",
        "http://a/?b",
        "http://u@a",
        "http://:p@a",
        "unix:run",
        "http://a b",
        "http://ä",
        1,
    ],
)
def test_what_is_no_url_is_an_error(url):
    with pytest.raises(OptionError, match=r"^option url is .*, it wants"):
        Rspamd(url=url)


@pytest.mark.parametrize("options", [{"greylist": "no"}, {"spamHeader": "a b"}, {"timeout": -1}, {"hookTimeout": 1}])
def test_wrong_options_are_errors(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        Rspamd(**options)


@pytest.mark.parametrize("password", ["", "a\nb" + PASSWORD, "ä" + PASSWORD, 5])
def test_a_wrong_password_is_an_error_that_does_not_show_it(password):
    with pytest.raises(OptionError, match=r"^option password is \(not shown\), it wants ASCII characters"):
        Rspamd(password=password)


def test_a_file_without_a_password_is_an_error(tmp_path):
    with pytest.raises(OptionError, match=r"^option password cannot be read: No such file or directory$"):
        Rspamd(password=str(tmp_path / "none"))
    (tmp_path / "empty").write_bytes(b"\xff\n")
    with pytest.raises(OptionError, match=r"^the file of option password holds no ASCII characters$"):
        Rspamd(password=str(tmp_path / "empty"))
