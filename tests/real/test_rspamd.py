"""Debian's rspamd, with rules of our own: its actions, its changes to headers, and what it is told of a message."""

from __future__ import annotations

import getpass
import grp
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted

from smtphooks.layers import Rspamd
from smtphooks.layers.exchange import ScannerFault
from smtphooks.replies import SMTPError
from smtphooks.session import Address, Envelope, Session, TLSInfo
from tests.layers.scanners import Message
from tests.real.programs import Program, freePort, requires, which

pytestmark = requires("rspamd")

# https://spamassassin.apache.org/gtube/: rspamd rejects it without any rule.
GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*" + b"GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"

_CONFIG = """\
options {{
    filters = "regexp";
    url_tld = "{folder}/suffixes";
    tempdir = "{folder}";
    pidfile = "{folder}/rspamd.pid";
    control_socket = "{folder}/control mode=0600";
    hs_cache_dir = "{folder}/";
    cache_file = "{folder}/symbols.cache";
    max_message = 1M;
    dns {{ nameserver = ["127.0.0.1:1"]; timeout = 0.1s; retransmits = 1; }}
}}
logging {{ type = "console"; level = "info"; }}
actions {{
    discard = 60; quarantine = 50; reject = 40; rewrite_subject = 30; add_header = 20; greylist = 10;
    subject = "[spam] %s";
}}
worker "normal" {{ bind_socket = "127.0.0.1:{port}"; bind_socket = "{folder}/socket mode=0600"; count = 1; }}
lua = "{folder}/rules.lua";
"""

# The subject says what is to be done.
_RULES = """\
local hash = require "rspamd_cryptobox_hash"

local function says(task, word) return string.find(task:get_header('Subject') or '', word, 1, true) ~= nil end

for word, score in pairs({drop = 65, hold = 55, spam = 45, rewrite = 35, mark = 25, grey = 15}) do
  rspamd_config:register_symbol({
    name = 'OWN_' .. string.upper(word), type = 'normal', score = score,
    callback = function(task) return says(task, word), 1.0 end,
  })
end

rspamd_config:register_symbol({
  name = 'OWN_PRE', type = 'prefilter',
  callback = function(task)
    if says(task, 'soft') then task:set_pre_result('soft reject', 'Not before tea') end
  end,
})

rspamd_config:register_symbol({
  name = 'OWN_HEADERS', type = 'postfilter',
  callback = function(task)
    if says(task, 'headers') then
      task:set_milter_reply({
        remove_headers = {Received = 0, ['X-Last'] = -1},
        add_headers = {
          ['X-Text'] = 'text', ['X-Top'] = {value = 'top', order = 0}, ['X-Many'] = {{value = 'a'}, {value = 'b'}},
          ['X-Folded'] = 'a\\n\\tb\\nBcc: c',
        },
      })
    end
    if says(task, 'tell') then
      local function raw(addresses)
        local result = {}
        for _, address in ipairs(addresses or {}) do result[#result + 1] = address.raw end
        return table.concat(result, ',')
      end
      local digest = hash.create_specific('sha256')
      digest:update(task:get_content())
      task:set_milter_reply({add_headers = {['X-Told'] = table.concat({
        raw(task:get_from('smtp')), raw(task:get_recipients('smtp')), tostring(task:get_from_ip()), task:get_helo(),
        task:get_hostname(), task:get_user(), task:get_queue_id(), tostring(task:get_request_header('TLS-Version')),
        digest:hex(),
      }, ' ')}})
    end
  end,
})
"""


class RspamdProgram(Program):
    """
    rspamd with one worker.

    @ivar url: where that listens; C{unix}: where else.
    """

    def __init__(self, folder: Path) -> None:
        port = freePort()
        (folder / "suffixes").write_text("com\norg\nexample\n")
        (folder / "rules.lua").write_text(_RULES)
        config = folder / "rspamd.conf"
        config.write_text(_CONFIG.format(folder=folder, port=port))
        program = which("rspamd")
        assert program is not None
        # As root it wants to be told that its workers are to be root as well.
        user, group = getpass.getuser(), grp.getgrgid(os.getgid()).gr_name
        super().__init__(
            [program, "--no-fork", "--insecure", "-u", user, "-g", group, "-c", str(config)], os.environ, folder
        )
        self.url, self.unix = f"http://127.0.0.1:{port}", f"unix:{folder}/socket"
        self.waitForLine("start_worker")


@pytest.fixture(scope="module")
def rspamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RspamdProgram]:
    rspamd = RspamdProgram(tmp_path_factory.mktemp("rspamd"))
    yield rspamd
    rspamd.terminate()


def makeSession() -> Session:
    envelope = Envelope(
        Address("a@client.example", "a", "client.example"), [Address("b@mx.example", "b", "mx.example")]
    )
    return Session(localName="mx.example", remoteAddress="192.0.2.1", envelope=envelope)


async def inspect(url: str, *chunks: bytes, session: Session | None = None, **options: object) -> bytes:
    """The message as it goes on, if rspamd lets it."""
    layer, session = Rspamd(url=url, **options), session or makeSession()
    await layer.inspectData(Message(*chunks), session)
    return b"".join([chunk async for chunk in layer.filterData(Message(*chunks), session)])


async def refusal(url: str, *chunks: bytes) -> tuple[int | None, str | None, str]:
    """The codes and the text with which a message is refused."""
    with pytest.raises(SMTPError) as caught:
        await inspect(url, *chunks)
    return caught.value.responseCode, caught.value.enhancedCode, caught.value.message


def about(subject: bytes) -> bytes:
    return b"From: a@client.example\r\nSubject: %b\r\n\r\ntext\r\n" % subject


@pytest_twisted.ensureDeferred
async def test_a_message_passes_unchanged(rspamd: RspamdProgram) -> None:
    for url in (rspamd.url, rspamd.unix):
        for message in (about(b"hello"), b"text", b""):
            assert await inspect(url, message) == message


@pytest_twisted.ensureDeferred
async def test_spam_is_refused(rspamd: RspamdProgram) -> None:
    assert await refusal(rspamd.url, about(b"hello") + GTUBE + b"\r\n") == (554, "5.7.1", "Gtube pattern")


@pytest_twisted.ensureDeferred
async def test_each_action(rspamd: RspamdProgram) -> None:
    assert await refusal(rspamd.url, about(b"soft")) == (451, "4.7.1", "Not before tea")
    assert await refusal(rspamd.url, about(b"grey")) == (451, "4.7.1", "Greylisted, please try again later")
    for subject in (b"spam", b"hold", b"drop"):
        assert await refusal(rspamd.url, about(subject)) == (554, "5.7.1", "Message refused as spam")
    assert await inspect(rspamd.url, about(b"grey"), greylist="pass") == about(b"grey")
    assert await inspect(rspamd.url, about(b"mark")) == about(b"mark\r\nX-Spam: Yes")
    assert await inspect(rspamd.url, about(b"rewrite")) == about(b"[spam] rewrite")


@pytest_twisted.ensureDeferred
async def test_the_header_is_changed_as_rspamd_wants(rspamd: RspamdProgram) -> None:
    fields = b"Received: one\r\nX-Last: 1\r\nReceived: two\r\n\tfolded\r\nX-Last: 2\r\n"
    header, _, body = (await inspect(rspamd.url, fields + about(b"headers"))).partition(b"\r\n\r\n")
    lines = re.split(rb"\r\n(?![ \t])", header)
    assert lines[:4] == [b"X-Top: top", b"X-Last: 1", b"From: a@client.example", b"Subject: headers"]
    # A table of Lua has no order.
    assert sorted(lines[4:]) == [b"X-Folded: a\r\n\tb\r\n\tBcc: c", b"X-Many: a", b"X-Many: b", b"X-Text: text"]
    assert body == b"text\r\n"


@pytest_twisted.ensureDeferred
async def test_rspamd_knows_the_client_the_envelope_and_every_octet(rspamd: RspamdProgram) -> None:
    session = makeSession()
    session.envelope.rcptTo.append(Address("ü@exämple.com", "ü", "exämple.com"))
    session.hostNameAppearsAs, session.clientHostname, session.user = "helo.example", "client.example", "ann"
    session.tlsOptions = TLSInfo("ECDHE", "TLS_ECDHE", "TLSv1.3")
    chunks = [about(b"tell"), *(bytes([65 + number % 26]) * (number * 37 + 1) for number in range(200))]
    digest = hashlib.sha256(b"".join(chunks)).hexdigest()
    message = await inspect(rspamd.url, *chunks, session=session)
    (told,) = re.findall(rb"X-Told: (.*)\r\n", message)
    assert told.decode() == (
        "<a@client.example> <b@mx.example>,<?@xn--exmple-cua.com> 192.0.2.1 helo.example client.example ann"
        f" {session.id}.1 TLSv1.3 {digest}"
    )


@pytest_twisted.ensureDeferred
async def test_rspamd_reads_a_thousand_recipients(rspamd: RspamdProgram) -> None:
    session = makeSession()
    session.envelope.rcptTo = [Address(f"{number:04}{'x' * 80}@mx.example") for number in range(1000)]
    assert await inspect(rspamd.url, about(b"hello"), session=session) == about(b"hello")


@pytest_twisted.ensureDeferred
async def test_while_rspamd_is_gone_there_is_no_verdict(tmp_path: Path) -> None:
    rspamd = RspamdProgram(tmp_path)
    assert await inspect(rspamd.url, about(b"hello")) == about(b"hello")
    rspamd.terminate()
    with pytest.raises(ScannerFault, match=r"^rspamd at .* cannot be reached: Connection was refused"):
        await inspect(rspamd.url, about(b"hello"))
