"""The layer ClamAV, with a clamd on loopback that answers on command."""

import struct

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs

from smtphooks.errors import OptionError
from smtphooks.layers import ClamAV
from smtphooks.layers.exchange import ScannerFault
from smtphooks.replies import SMTPError
from smtphooks.session import Session
from tests.layers.scanners import Message, isTidy, scanner

__all__ = ["scanner"]


def framed(*chunks):
    """What clamd gets for a message in these chunks."""
    return b"zINSTREAM\0" + b"".join(struct.pack(">L", len(chunk)) + chunk for chunk in (*chunks, b""))


FRAMED = framed(b"one")


class Scan:
    """A scan by a layer whose clock stands still."""

    def __init__(self, scanner, message=None, **options):
        self.layer = ClamAV(endpoint=f"tcp:127.0.0.1:{scanner.port}", **options)
        self.layer.clock = self.clock = Clock()
        self.session = Session(remoteAddress="192.0.2.1")
        self.message = message or Message(b"one")
        self._accepted, self._talk = scanner.talk(), None
        self.result = ensureDeferred(self.layer.inspectData(self.message, self.session))

    @property
    def state(self):
        return self.session.of(ClamAV)

    async def has(self, octets):
        """The connection, once clamd has got these octets."""
        talk = self._talk = self._talk or await self._accepted
        await talk.has(octets)
        return talk

    async def answered(self, octets, after=FRAMED):
        """Let clamd answer and close after some octets."""
        talk = await self.has(after)
        talk.answer(octets)
        talk.transport.loseConnection()
        await self.result

    async def fault(self, *arguments):
        with pytest.raises(ScannerFault) as caught:
            await self.answered(*arguments)
        assert isTidy(self.message, self.clock)
        assert not self.state.isScanned
        return str(caught.value)

    async def refusal(self, *arguments):
        with pytest.raises(SMTPError) as caught:
            await self.answered(*arguments)
        assert isTidy(self.message, self.clock)
        return caught.value


@pytest_twisted.ensureDeferred
async def test_a_clean_message_passes(scanner):
    scan = Scan(scanner, Message(b"one", isWhole=False))
    talk = await scan.has(b"one")
    scan.message.append(b"x" * 70000)
    scan.message.append(b"", isLast=True)
    await scan.answered(b"stream: OK\0", framed(b"one", b"x" * 70000))
    assert talk.received == framed(b"one", b"x" * 70000)
    assert (scan.state.isScanned, scan.state.virus) == (True, None)
    assert isTidy(scan.message, scan.clock)


@pytest_twisted.ensureDeferred
async def test_a_message_with_a_virus_is_refused_and_its_name_is_logged(scanner):
    scan = Scan(scanner)
    with capturedLogs() as events:
        refusal = await scan.refusal(b"stream: Win.Test.EICAR_HDB-1 FOUND\0")
    assert (refusal.responseCode, refusal.enhancedCode) == (550, "5.7.1")
    assert refusal.message == "Message refused, it contains Win.Test.EICAR_HDB-1"
    assert (scan.state.isScanned, scan.state.virus) == (True, "Win.Test.EICAR_HDB-1")
    (event,) = [event for event in events if event["log_namespace"] == "smtphooks.layers.clamav"]
    assert (event["virus"], event["session"], event["peer"]) == (
        "Win.Test.EICAR_HDB-1",
        scan.session.id,
        "192.0.2.1",
    )


@pytest_twisted.ensureDeferred
async def test_a_virus_may_be_found_before_the_end_of_the_message(scanner):
    scan = Scan(scanner, Message(b"one", isWhole=False))
    refusal = await scan.refusal(b"stream: Test FOUND\0", b"one")
    assert refusal.responseCode == 550


@pytest_twisted.ensureDeferred
async def test_the_text_of_the_refusal_is_an_option_and_the_name_is_scrubbed(scanner):
    scan = Scan(scanner, virusText="100%: %s")
    refusal = await scan.refusal("stream: a\r\nb\x1bä FOUND\0".encode())
    assert refusal.message == "100%: a??b???"
    assert scan.state.virus == "a??b???"


@pytest_twisted.ensureDeferred
async def test_a_message_that_is_too_large_for_clamd_is_refused_for_good(scanner):
    scan = Scan(scanner, Message(b"one", isWhole=False))
    with capturedLogs() as events:
        refusal = await scan.refusal(b"INSTREAM size limit exceeded. ERROR\0", b"one")
    assert (refusal.responseCode, refusal.enhancedCode) == (552, "5.3.4")
    assert not scan.state.isScanned
    assert [event["log_level"] for event in events if "StreamMaxLength" in event["log_format"]] == [LogLevel.warn]


@pytest_twisted.ensureDeferred
async def test_only_the_beginning_of_a_message_is_scanned_if_so_wanted(scanner):
    scan = Scan(scanner, Message(b"one", b"two"), sizeLimit=4)
    await scan.answered(b"stream: OK\0", framed(b"onet"))
    assert scanner.talks[0].received == framed(b"onet")
    assert scan.state.isScanned


@pytest.mark.parametrize(
    "octets, said",
    [
        (b"stream: OKAY\0", "answers 'stream: OKAY'"),
        (b"stream:  FOUND\0", "answers 'stream:  FOUND'"),
        (b"\0", "answers ''"),
        (b"UNKNOWN COMMAND\0", "answers 'UNKNOWN COMMAND'"),
        (b"Can't allocate memory ERROR\0", 'answers "Can\'t allocate memory ERROR"'),
        (b"HTTP/1.1 400 \xff\r\n\0", "answers 'HTTP/1.1 400 ???'"),
        (b"stream: OK", "has closed the connection within its answer b'stream: OK'"),
        (b"", "has closed the connection without an answer"),
        (b"x" * 4097, "answers more than 4096 octets"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_any_other_answer_is_a_fault(scanner, octets, said):
    assert await Scan(scanner).fault(octets) == f"clamd at tcp:127.0.0.1:{scanner.port} {said}"


@pytest_twisted.ensureDeferred
async def test_a_message_is_not_clean_before_it_has_been_scanned_whole(scanner):
    scan = Scan(scanner, Message(b"one", isWhole=False))
    assert "'stream: OK' before it has the whole message" in await scan.fault(b"stream: OK\0", b"one")


@pytest_twisted.ensureDeferred
async def test_a_clamd_that_never_answers_is_a_fault_after_the_timeout(scanner):
    scan = Scan(scanner, timeout=7)
    await scan.has(FRAMED)
    scan.clock.advance(7)
    with pytest.raises(ScannerFault, match="has not answered within 7 seconds"):
        await scan.result


@pytest_twisted.ensureDeferred
async def test_what_was_found_in_the_message_before_says_nothing_of_this_one(scanner):
    scan = Scan(scanner)
    await scan.refusal(b"stream: Test FOUND\0")
    scan.result = ensureDeferred(scan.layer.inspectData(Message(b"two", isWhole=False), scan.session))
    assert (scan.state.isScanned, scan.state.virus) == (False, None)
    scan.result.cancel()
    scan.result.addErrback(lambda failure: None)


@pytest_twisted.ensureDeferred
async def test_clamd_on_a_UNIX_socket(scanner, tmp_path):
    listening = reactor.listenUNIX(str(tmp_path / "clamd"), scanner)
    try:
        layer, accepted = ClamAV(endpoint=f"unix:{tmp_path}/clamd"), scanner.talk()
        result = ensureDeferred(layer.inspectData(Message(b"one"), Session()))
        talk = await accepted
        await talk.has(framed(b"one"))
        talk.answer(b"stream: OK\0")
        await result
        await talk.closed
    finally:
        await listening.stopListening()


@pytest_twisted.ensureDeferred
async def test_a_socket_that_is_not_there_is_a_fault(tmp_path):
    layer = ClamAV(endpoint=f"unix:{tmp_path}/clamd")
    with pytest.raises(ScannerFault, match=r"clamd at unix:.*/clamd cannot be reached: .*No such file"):
        await layer.inspectData(Message(b"one"), Session())


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp:127.0.0.1:3310",
        "tcp:host=clamd.example:port=3310:timeout=5",
        r"tcp:host=\:\:1:port=3310",
        "unix:/run/clamav/clamd.ctl",
        "unix:path=/run/clamd:timeout=3",
    ],
)
def test_endpoints(endpoint):
    assert ClamAV(endpoint=endpoint).endpoint == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "127.0.0.1:3310",
        "tcp:3310",
        "tcp:host:port",
        "tcp:host:0",
        "tcp:host:65536",
        "tcp:host:3310:timeoout=5",
        "tcp:host:3310:5:6:7",
        "tcp:host:3310:timeout=soon",
        "unix:",
        "unix:/run/clamd:ctl",
        "/run/clamd",
        None,
        1,
    ],
)
def test_what_is_no_endpoint_is_an_error(endpoint):
    with pytest.raises(OptionError, match=r"^option endpoint is .*, it wants a client endpoint, such as"):
        ClamAV(endpoint=endpoint)


@pytest.mark.parametrize("options", [{"sizeLimit": -1}, {"virusText": "a\r\nb"}, {"timeout": -1}, {"size": 1}])
def test_wrong_options_are_errors(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        ClamAV(**options)
