"""The Maildir store, with real files; errors of the disk are real where the machine can produce them."""

import errno
import os
import re
import resource
import socket
import stat
import subprocess
import sys
import threading
from collections import Counter

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.error import ConnectionLost
from twisted.logger import LogLevel, capturedLogs

from smtphooks.errors import OptionError
from smtphooks.replies import SMTPError
from smtphooks.session import Address, Envelope, Session
from smtphooks.stores import maildir
from smtphooks.stores.maildir import Maildir

MESSAGE = b"Subject: hello\r\n\r\nHello.\r\n"
LARGE = b"X-Large:01234567" * 4096  # more than is collected, so each chunk is written on arrival


class Stream:
    """A message in the given chunks; an exception among them is raised, a Deferred awaited."""

    def __init__(self, *chunks, sizeExceeded=False):
        self.chunks = chunks
        self.sizeExceeded = sizeExceeded
        self.byteLength = 0

    async def __aiter__(self):
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            if isinstance(chunk, Deferred):
                await chunk
                continue
            self.byteLength += len(chunk)
            yield chunk


def makeSession(*recipients, mailFrom="sender@example.org", lmtp=False, **args):
    return Session(
        localName="mx.example.com",
        lmtp=lmtp,
        openingCommand="LHLO" if lmtp else "EHLO",
        hostNameAppearsAs="client.example.org",
        remoteAddress="192.0.2.1",
        transaction=1,
        envelope=Envelope(Address(mailFrom, args=args), list(map(Address, recipients or ["user@example.com"]))),
    )


class Disk:
    """
    Records the operations on files below a folder, and lets some of them fail.

    A place is C{"new"} for that folder itself, C{"tmp/"} for any file in tmp, C{"."} for the Maildir itself.
    """

    def __init__(self, root, monkeypatch):
        self.root = str(root)
        self.calls = []
        self.threads = set()
        self.faults = {}
        self.gates = {}
        self._paths = {}
        for name in ("open", "write", "fsync", "link", "unlink", "mkdir"):
            monkeypatch.setattr(os, name, self._spy(name, getattr(os, name)))

    def fail(self, operation, place, code, after=0):
        """Let the operation fail from now on, after so many further calls."""
        self.faults[operation, place] = [after, code]

    def hold(self, operation, place):
        """Have the next call fire the Deferred and then block until the event is set."""
        self.gates[operation, place] = come, release = Deferred(), threading.Event()
        return come, release

    def _place(self, path):
        folder, _, name = os.path.relpath(path, self.root).partition("/")
        return f"{folder}/" if name else folder

    def _spy(self, operation, function):
        def spy(target, *args, **kwargs):
            path = self._paths.get(target) if isinstance(target, int) else os.fspath(target)
            if path is None or not str(path).startswith(self.root):
                return function(target, *args, **kwargs)
            key = operation, self._place(path)
            self.calls.append(key)
            self.threads.add(threading.current_thread())
            self._wait(key)
            self._fault(key)
            result = function(target, *args, **kwargs)
            if operation == "open":
                self._paths[result] = path
            return result

        return spy

    def _wait(self, key):
        from twisted.internet import reactor

        if key in self.gates:
            come, release = self.gates.pop(key)
            reactor.callFromThread(come.callback, None)
            assert release.wait(10)

    def _fault(self, key):
        if key in self.faults:
            if self.faults[key][0]:
                self.faults[key][0] -= 1
            else:
                code = self.faults[key][1]
                raise OSError(code, os.strerror(code), self.root)


class Threads:
    """The calls in the thread pool."""

    def __init__(self, monkeypatch):
        self.visits = []
        original = maildir.deferToThread

        def deferToThread(function, *args):
            visit = original(function, *args)
            self.visits.append(visit)
            return visit

        monkeypatch.setattr(maildir, "deferToThread", deferToThread)

    async def settled(self):
        for visit in self.visits:  # grows meanwhile
            done = Deferred()
            visit.addBoth(lambda result, done=done: (done.callback(None), result)[1])
            await done


@pytest.fixture
def root(tmp_path):
    return tmp_path / "maildir"


@pytest.fixture
def hooks(root):
    return Maildir(root)


@pytest.fixture
def disk(root, monkeypatch):
    return Disk(root, monkeypatch)


@pytest.fixture
def threads(monkeypatch):
    return Threads(monkeypatch)


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def stored(root):
    """The only message in new/: the lines before the message itself, and the message."""
    (path,) = (root / "new").iterdir()
    return split(path.read_bytes())


def split(data):
    header, _date, body = re.fullmatch(rb"(.*?;\r?\n)(\t[^\n]*\n)(.*)", data, re.DOTALL).groups()
    return header, body


def openFiles(root):
    """The open files below a folder, if the system can list them."""
    paths = []
    if not os.path.isdir("/proc/self/fd"):
        return paths
    for fd in os.listdir("/proc/self/fd"):
        try:
            paths.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return [path for path in paths if path.startswith(str(root))]


def assertNothingLeft(root):
    assert names(root / "new") == []
    assert names(root / "tmp") == []
    assert openFiles(root) == []


async def refused(coroutine):
    with pytest.raises(SMTPError) as info:
        await coroutine
    error = info.value
    return error.responseCode, error.enhancedCode, error.message


# --- The stored message ---


@pytest_twisted.ensureDeferred
async def test_a_message_is_stored_with_its_trace_lines(hooks, root):
    session = makeSession("user@example.com")
    text = await hooks.onData(Stream(MESSAGE), session)
    (name,) = names(root / "new")
    assert text == f"Stored as {name}"
    header, body = stored(root)
    assert header.decode() == (
        "Return-Path: <sender@example.org>\n"
        "Delivered-To: user@example.com\n"
        "Received: from client.example.org ([192.0.2.1])\n"
        f"\tby mx.example.com with ESMTP id {session.id}.1\n"
        "\tfor <user@example.com>;\n"
    )
    assert body == b"Subject: hello\n\nHello.\n"
    assert names(root / "tmp") == []


@pytest_twisted.ensureDeferred
async def test_the_null_reverse_path_is_written_as_empty_brackets(hooks, root):
    await hooks.onData(Stream(MESSAGE), makeSession(mailFrom=""))
    assert stored(root)[0].startswith(b"Return-Path: <>\n")


@pytest_twisted.ensureDeferred
async def test_utf8_addresses_are_written_as_utf8(hooks, root):
    session = makeSession("δοκιμή@παράδειγμα.gr", mailFrom="jürgen@example.org", SMTPUTF8=True)
    await hooks.onData(Stream(MESSAGE), session)
    header = stored(root)[0].decode()
    assert header.startswith("Return-Path: <jürgen@example.org>\nDelivered-To: δοκιμή@παράδειγμα.gr\n")
    assert "with UTF8SMTP" in header
    assert "for <δοκιμή@παράδειγμα.gr>" in header


@pytest_twisted.ensureDeferred
async def test_over_smtp_each_distinct_recipient_has_one_line_in_order(hooks, root):
    await hooks.onData(Stream(MESSAGE), makeSession("b@x.org", "a@x.org", "b@x.org"))
    header = stored(root)[0]
    assert re.findall(rb"Delivered-To: (.*)\n", header) == [b"b@x.org", b"a@x.org"]
    assert b"for <" not in header


@pytest.mark.parametrize("octets", [1, 2, 3, 7])
@pytest_twisted.ensureDeferred
async def test_crlf_becomes_lf_wherever_it_is_cut(hooks, root, monkeypatch, octets):
    monkeypatch.setattr(maildir, "_GATHERED_OCTETS", 0)  # each chunk is a write of its own
    message = b"\r\n\r\r\na\rb\nc\r\n\r\nend\r"
    await hooks.onData(Stream(*(message[i : i + octets] for i in range(0, len(message), octets))), makeSession())
    assert stored(root)[1] == b"\n\r\na\rb\nc\n\nend\r"


@pytest_twisted.ensureDeferred
async def test_a_binarymime_message_is_stored_unchanged(hooks, root):
    message = b"Content-Type: image/png\r\n\r\n\r\n\x00\r\xff\n\r"
    await hooks.onData(Stream(message[:25], message[25:]), makeSession(BODY="BINARYMIME"))
    header, body = stored(root)
    assert body == message
    assert header.startswith(b"Return-Path: <sender@example.org>\r\nDelivered-To: user@example.com\r\n")


FORGED = b" for <forged@example.org>\r\nSubject: x\r\n\r\ntext\r\n"


@pytest.mark.parametrize("octets", [1, 2, 5, 1000])
@pytest.mark.parametrize("args", [{}, {"BODY": "BINARYMIME"}])
@pytest.mark.parametrize("message", [FORGED, FORGED.replace(b" ", b"\t", 1), b"Dear Ann\r\n", b"a", b"x" * 2000, b"\r"])
@pytest_twisted.ensureDeferred
async def test_a_message_cannot_extend_our_header(hooks, root, monkeypatch, message, args, octets):
    monkeypatch.setattr(maildir, "_GATHERED_OCTETS", 0)
    pieces = [message[i : i + octets] for i in range(0, len(message), octets)]
    await hooks.onData(Stream(*pieces), makeSession(**args))
    whole = b"\r\n" + message
    assert stored(root)[1] == (whole if args else whole.replace(b"\r\n", b"\n"))


@pytest.mark.parametrize("message", [b"\r\ntext\r\n", b"\ntext\r\n", b"X-Old : 1\r\n\r\n", b""])
@pytest_twisted.ensureDeferred
async def test_a_message_that_begins_with_a_header_or_an_empty_line_follows_without_a_separator(hooks, root, message):
    await hooks.onData(Stream(*[message[i : i + 1] for i in range(len(message))]), makeSession())
    assert stored(root)[1] == message.replace(b"\r\n", b"\n")


@pytest_twisted.ensureDeferred
async def test_a_message_can_extend_the_header_of_no_copy(hooks, root):
    await hooks.onData(Stream(FORGED), makeSession("a@x.org", "b@x.org", "c@x.org", lmtp=True))
    bodies = [split(path.read_bytes())[1] for path in (root / "new").iterdir()]
    assert bodies == [b"\n" + FORGED.replace(b"\r\n", b"\n")] * 3


@pytest_twisted.ensureDeferred
async def test_an_empty_message_is_a_file_too(hooks, root):
    await hooks.onData(Stream(), makeSession())
    assert stored(root)[1] == b""


@pytest_twisted.ensureDeferred
async def test_a_large_message_is_whole_after_partial_writes(hooks, root, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:1000]))
    await hooks.onData(Stream(LARGE, b"x", LARGE), makeSession())
    assert stored(root)[1] == LARGE + b"x" + LARGE


@pytest_twisted.ensureDeferred
async def test_what_is_stored_is_logged_on_one_line(hooks, root):
    session = makeSession("a@x.org", "b@x.org")
    with capturedLogs() as events:
        await hooks.onData(Stream(MESSAGE, MESSAGE), session)
    (event,) = [event for event in events if event.get("log_namespace") == "smtphooks.stores.maildir"]
    assert event["log_level"] is LogLevel.info
    assert event["log_format"].format(**event) == (
        f"stored {names(root / 'new')[0]}: {2 * len(MESSAGE)} octets [{session.id}]"
    )
    # Sender and recipients are logged by the event log, if option logAddresses asks for it.
    assert "example.org" not in repr(event)


# --- Folders and names ---


@pytest_twisted.ensureDeferred
async def test_missing_folders_are_made_for_the_owner_alone(tmp_path):
    root = tmp_path / "var" / "mail" / "user"
    hooks = Maildir(root)
    assert names(tmp_path) == []
    await hooks.onData(Stream(MESSAGE), makeSession())
    assert names(root) == ["cur", "new", "tmp"]
    for folder in (tmp_path / "var", root.parent, root, root / "cur", root / "new", root / "tmp"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (path,) = (root / "new").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest_twisted.ensureDeferred
async def test_a_folder_made_by_another_process_meanwhile_is_used(hooks, root, disk, monkeypatch):
    mkdir = os.mkdir

    def mkdirTwice(path, mode):
        mkdir(path, mode)
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", mkdirTwice)
    await hooks.onData(Stream(MESSAGE), makeSession())
    assert len(names(root / "new")) == 1


@pytest_twisted.ensureDeferred
async def test_folders_are_made_again_when_they_are_removed(hooks, root):
    await hooks.onData(Stream(MESSAGE), makeSession())
    subprocess.run(["rm", "-r", str(root)], check=True)
    await hooks.onData(Stream(MESSAGE), makeSession())
    assert len(names(root / "new")) == 1


@pytest.mark.parametrize("below", ["", "/maildir", "/a/b"])
def test_a_path_that_is_not_a_folder_is_rejected_at_once(tmp_path, below):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(NotADirectoryError) as info:
        Maildir(f"{file}{below}")
    assert f"'{file}{below}'" in str(info.value)


@pytest.mark.parametrize("path", ["", "a\0b", b"maildir", 3, None])
def test_what_is_no_path_is_an_error_of_the_option(path):
    with pytest.raises(OptionError, match=r"option path is .*, it wants the path of a folder"):
        Maildir(path)


def test_a_path_that_cannot_be_written_is_rejected_at_once(tmp_path, monkeypatch):
    # Root may write everywhere, so os.access is replaced.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError) as info:
        Maildir(tmp_path / "maildir")
    assert f"{tmp_path} is not writable: '{tmp_path}/maildir'" in str(info.value)


def test_a_relative_path_stays_where_it_was_when_the_working_folder_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hooks = Maildir("maildir")
    monkeypatch.chdir("/")
    assert hooks.path == str(tmp_path / "maildir")


@pytest_twisted.ensureDeferred
async def test_a_name_holds_time_process_and_host(hooks, root, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "a/b:c")
    await hooks.onData(Stream(MESSAGE), makeSession())
    (name,) = names(root / "new")
    match = re.fullmatch(r"\d{10,}\.M\d{1,6}P(\d+)Q\d+R[0-9a-f]{16}\.a\\057b\\072c", name)
    assert int(match[1]) == os.getpid()


def test_names_differ_over_threads_even_at_the_same_moment(monkeypatch):
    monkeypatch.setattr(maildir.time, "time_ns", lambda: 1700000000123456789)
    found = []
    threads = [
        threading.Thread(target=lambda: found.extend(maildir._uniqueName() for _ in range(500))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(Counter(found).values()) == 1
    assert found[0].startswith("1700000000.M123456P")


@pytest_twisted.ensureDeferred
async def test_a_file_that_is_there_is_never_replaced(hooks, root, monkeypatch):
    monkeypatch.setattr(maildir, "_uniqueName", lambda: "same")
    await hooks.onData(Stream(b"first"), makeSession())
    assert (await refused(hooks.onData(Stream(b"second"), makeSession())))[:2] == (451, "4.3.0")
    assert stored(root)[1] == b"\nfirst"
    assert names(root / "tmp") == []


# --- Threads and durability ---


@pytest_twisted.ensureDeferred
async def test_file_and_folder_are_synced_in_this_order_before_the_reply(hooks, root, disk):
    hooks.makeFolders()
    disk.calls.clear()
    await hooks.onData(Stream(MESSAGE), makeSession())
    assert disk.calls == [
        ("open", "tmp/"),
        ("write", "tmp/"),
        ("write", "tmp/"),
        ("fsync", "tmp/"),
        ("link", "tmp/"),
        ("unlink", "tmp/"),
        ("open", "new"),
        ("fsync", "new"),
    ]


@pytest_twisted.ensureDeferred
async def test_each_file_of_an_lmtp_message_is_synced_before_its_move_and_the_folder_once(hooks, disk):
    hooks.makeFolders()
    disk.calls.clear()
    await hooks.onData(Stream(MESSAGE), makeSession("a@x.org", "b@x.org", "c@x.org", lmtp=True))
    order = [call for call in disk.calls if call[0] in ("fsync", "link")]
    assert order == [("fsync", "tmp/"), ("link", "tmp/")] * 3 + [("fsync", "new")]


@pytest_twisted.ensureDeferred
async def test_the_folders_made_are_synced_into_their_parents(hooks, disk):
    await hooks.onData(Stream(MESSAGE), makeSession())
    made = [call for call in disk.calls if call[0] in ("mkdir", "fsync")]
    assert made[:7] == [
        ("mkdir", "."),
        ("mkdir", "cur"),
        ("fsync", "."),
        ("mkdir", "new"),
        ("fsync", "."),
        ("mkdir", "tmp"),
        ("fsync", "."),
    ]


@pytest_twisted.ensureDeferred
async def test_the_reactor_thread_never_touches_the_disk(hooks, disk):
    await hooks.onData(Stream(LARGE, MESSAGE), makeSession("a@x.org", "b@x.org", lmtp=True))
    with pytest.raises(ConnectionLost):
        await hooks.onData(Stream(LARGE, ConnectionLost()), makeSession())
    assert disk.calls
    assert threading.current_thread() not in disk.threads


@pytest_twisted.ensureDeferred
async def test_a_small_message_needs_one_call_in_a_thread(hooks, root, threads):
    await hooks.onData(Stream(*[b"x" * 1024] * 16), makeSession())
    assert len(threads.visits) == 1
    assert stored(root)[1] == b"\n" + b"x" * 16384


@pytest_twisted.ensureDeferred
async def test_a_large_message_is_written_as_it_arrives(hooks, root, threads):
    gone = Deferred()
    storing = ensureDeferred(hooks.onData(Stream(b"x" * 10000, b"y" * 10000, gone, b"z"), makeSession()))
    await threads.settled()
    (name,) = names(root / "tmp")
    assert split((root / "tmp" / name).read_bytes())[1] == b"\n" + b"x" * 10000 + b"y" * 10000
    assert names(root / "new") == []
    gone.callback(None)
    await storing
    assert len(threads.visits) == 2


def test_importing_the_module_installs_no_reactor():
    program = "import sys, smtphooks.stores; sys.exit('twisted.internet.reactor' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


# --- LMTP ---


@pytest_twisted.ensureDeferred
async def test_over_lmtp_each_recipient_has_a_delivery_duplicates_included(hooks, root):
    recipients = ["a@x.org", "b@x.org", "a@x.org"]
    with capturedLogs() as events:
        results = await hooks.onData(Stream(LARGE, MESSAGE), makeSession(*recipients, lmtp=True))
    assert len(set(results)) == 3
    for recipient, result in zip(recipients, results, strict=True):
        header, body = split((root / "new" / result.removeprefix("Stored as ")).read_bytes())
        assert re.findall(r"Delivered-To: (.*)\n", header.decode()) == [recipient]
        assert f"\tfor <{recipient}>;\n" in header.decode()
        assert b"with LMTP" in header
        assert body == LARGE + b"Subject: hello\n\nHello.\n"
    assert names(root / "tmp") == []
    assert [len(event["names"].split(", ")) for event in events if "names" in event] == [3]


@pytest_twisted.ensureDeferred
async def test_a_failed_delivery_over_lmtp_affects_its_recipient_only(hooks, root, disk):
    disk.fail("link", "tmp/", errno.EDQUOT, after=2)
    recipients = ["a@x.org", "b@x.org", "c@x.org"]
    results = await hooks.onData(Stream(MESSAGE), makeSession(*recipients, lmtp=True))
    assert [type(result) for result in results] == [str, str, SMTPError]
    assert results[2].responseCode == 452
    assert names(root / "new") == sorted(result.removeprefix("Stored as ") for result in results[:2])
    assert names(root / "tmp") == []
    assert openFiles(root) == []


@pytest_twisted.ensureDeferred
async def test_the_first_delivery_over_lmtp_may_fail_like_any_other(hooks, root, monkeypatch):
    link = os.link
    failures = iter([errno.EIO])

    def failOnce(source, target):
        for code in failures:
            raise OSError(code, os.strerror(code))
        link(source, target)

    monkeypatch.setattr(os, "link", failOnce)
    results = await hooks.onData(Stream(MESSAGE), makeSession("a@x.org", "b@x.org", lmtp=True))
    assert results[0].responseCode == 451
    assert results[1] == f"Stored as {names(root / 'new')[0]}"
    assert stored(root)[1] == b"Subject: hello\n\nHello.\n"
    assert names(root / "tmp") == []


@pytest_twisted.ensureDeferred
async def test_many_recipients_need_few_open_files(hooks, root, monkeypatch):
    counts = []
    link = os.link

    def countingLink(source, target):
        counts.append(len(openFiles(root)))
        link(source, target)

    monkeypatch.setattr(os, "link", countingLink)
    await hooks.onData(Stream(LARGE), makeSession(*["a@x.org"] * 50, lmtp=True))
    assert len(counts) == 50
    assert max(counts) <= 2
    assert len(names(root / "new")) == 50


@pytest_twisted.ensureDeferred
async def test_no_delivery_counts_when_the_folder_cannot_be_synced(hooks, root, disk):
    disk.fail("fsync", "new", errno.EIO)
    disk.fail("open", "tmp/", errno.ENOSPC, after=2)
    results = await hooks.onData(Stream(MESSAGE), makeSession("a@x.org", "b@x.org", "c@x.org", lmtp=True))
    assert [result.responseCode for result in results] == [451, 451, 452]
    assertNothingLeft(root)


# --- Errors of the disk ---

FAULTS = [
    ("open", "tmp/", errno.EROFS, 451),
    ("open", "tmp/", errno.EACCES, 451),
    ("mkdir", "new", errno.ENOSPC, 452),
    ("write", "tmp/", errno.ENOSPC, 452),
    ("write", "tmp/", errno.EDQUOT, 452),
    ("write", "tmp/", errno.EIO, 451),
    ("fsync", "tmp/", errno.ENOSPC, 452),
    ("fsync", "tmp/", errno.EIO, 451),
    ("link", "tmp/", errno.ENOSPC, 452),
    ("link", "tmp/", errno.EPERM, 451),
    ("open", "new", errno.EMFILE, 451),
    ("fsync", "new", errno.EIO, 451),
]


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("chunks", [[MESSAGE], [LARGE, LARGE, MESSAGE]], ids=["small", "large"])
@pytest.mark.parametrize("operation, place, fault, code", FAULTS)
@pytest_twisted.ensureDeferred
async def test_an_error_of_the_disk_is_a_temporary_failure_is_logged_and_leaves_nothing(
    hooks, root, disk, operation, place, fault, code, chunks, lmtp
):
    disk.fail(operation, place, fault)
    session = makeSession(lmtp=lmtp)
    with capturedLogs() as events:
        try:
            results = await hooks.onData(Stream(*chunks), session)
            assert lmtp
        except SMTPError as error:
            results = [error]
    (error,) = results
    assert (error.responseCode, error.enhancedCode) == (code, "4.3.1" if code == 452 else "4.3.0")
    assert str(root) not in error.message
    (event,) = [event for event in events if event.get("log_namespace") == "smtphooks.stores.maildir"]
    assert event["log_level"] is LogLevel.error
    assert (event["session"], event["path"], event["error"].errno) == (session.id, str(root), fault)
    assertNothingLeft(root)


@pytest_twisted.ensureDeferred
async def test_the_store_works_again_when_the_fault_is_over(hooks, root, disk):
    disk.fail("write", "tmp/", errno.ENOSPC)
    await refused(hooks.onData(Stream(MESSAGE), makeSession()))
    disk.faults.clear()
    await hooks.onData(Stream(MESSAGE), makeSession())
    assert len(names(root / "new")) == 1


@pytest_twisted.ensureDeferred
async def test_a_file_that_cannot_be_removed_from_tmp_is_harmless(hooks, root, disk):
    disk.fail("unlink", "tmp/", errno.EIO)
    await hooks.onData(Stream(MESSAGE), makeSession())
    assert names(root / "new") == names(root / "tmp")
    disk.fail("link", "tmp/", errno.EIO)
    assert (await refused(hooks.onData(Stream(MESSAGE), makeSession())))[0] == 451
    assert len(names(root / "new")) == 1
    assert openFiles(root) == []


@pytest_twisted.ensureDeferred
async def test_a_close_that_fails_after_the_sync_is_harmless(hooks, root, monkeypatch):
    close = os.close

    def closeAndComplain(fd):
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        close(fd)
        if regular:
            raise OSError(errno.EIO, "too late")

    monkeypatch.setattr(os, "close", closeAndComplain)
    await hooks.onData(Stream(MESSAGE), makeSession())
    assert len(names(root / "new")) == 1


@pytest_twisted.ensureDeferred
async def test_any_other_exception_propagates_and_leaves_nothing(hooks, root, monkeypatch):
    monkeypatch.setattr(Session, "receivedHeader", lambda self, recipient: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await hooks.onData(Stream(MESSAGE), makeSession())
    assertNothingLeft(root)


@pytest_twisted.ensureDeferred
async def test_a_file_above_the_limit_for_files_is_452(hooks, root):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        reply = await refused(hooks.onData(Stream(LARGE, LARGE), makeSession()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert reply == (452, "4.3.1", "Insufficient system storage, please try again later")
    assertNothingLeft(root)


@pytest.fixture
def smallDisk(tmp_path):
    """The path of a mounted file system of 128 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(path)]
    try:
        result = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount program here")
    if result.returncode:
        pytest.skip(f"no file system can be mounted here: {result.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest_twisted.ensureDeferred
async def test_a_disk_that_is_really_full_is_452(smallDisk):
    root = smallDisk / "maildir"
    hooks = Maildir(root)
    reply = await refused(hooks.onData(Stream(LARGE, LARGE, LARGE), makeSession()))
    assert reply[:2] == (452, "4.3.1")
    assertNothingLeft(root)
    results = await hooks.onData(Stream(LARGE[:50000]), makeSession("a@x.org", "b@x.org", "c@x.org", lmtp=True))
    assert [type(result) for result in results] == [str, str, SMTPError]
    assert len(names(root / "new")) == 2
    assert names(root / "tmp") == []


@pytest_twisted.ensureDeferred
async def test_a_disk_that_is_really_read_only_is_451(smallDisk):
    hooks = Maildir(smallDisk)
    await hooks.onData(Stream(MESSAGE), makeSession())
    subprocess.run(["mount", "-o", "remount,ro", str(smallDisk)], check=True)
    reply = await refused(hooks.onData(Stream(MESSAGE), makeSession()))
    assert reply == (451, "4.3.0", "Message cannot be stored now, please try again later")
    assert len(names(smallDisk / "new")) == 1
    with pytest.raises(PermissionError):
        Maildir(smallDisk)


# --- Truncated messages ---


@pytest.mark.parametrize("chunks", [[], [MESSAGE], [LARGE], [LARGE, MESSAGE]])
@pytest_twisted.ensureDeferred
async def test_a_client_that_disconnects_within_a_message_leaves_nothing(hooks, root, chunks):
    with pytest.raises(ConnectionLost):
        await hooks.onData(Stream(*chunks, ConnectionLost()), makeSession())
    assertNothingLeft(root)


@pytest.mark.parametrize("chunks", [[], [MESSAGE], [LARGE, MESSAGE]])
@pytest_twisted.ensureDeferred
async def test_a_message_above_the_limit_is_552_and_leaves_nothing(hooks, root, chunks):
    reply = await refused(hooks.onData(Stream(*chunks, sizeExceeded=True), makeSession()))
    assert reply == (552, "5.3.4", "Message exceeds the fixed maximum size")
    assertNothingLeft(root)


@pytest_twisted.ensureDeferred
async def test_a_rejection_by_the_stream_propagates_and_leaves_nothing(hooks, root):
    refusal = SMTPError("Bare newline", 550, "5.6.11")
    with pytest.raises(SMTPError) as info:
        await hooks.onData(Stream(LARGE, refusal), makeSession())
    assert info.value is refusal
    assertNothingLeft(root)


@pytest_twisted.ensureDeferred
async def test_cancelled_while_it_waits_for_the_client_it_leaves_nothing(hooks, root, threads):
    storing = ensureDeferred(hooks.onData(Stream(LARGE, Deferred()), makeSession()))
    await threads.settled()
    assert len(names(root / "tmp")) == 1
    storing.cancel()
    with pytest.raises(CancelledError):
        await storing
    await threads.settled()
    assertNothingLeft(root)


@pytest.mark.parametrize("place", [("write", "tmp/"), ("fsync", "tmp/")], ids="-".join)
@pytest_twisted.ensureDeferred
async def test_cancelled_while_a_thread_works_it_cleans_up_after_the_thread(hooks, root, disk, threads, place):
    come, release = disk.hold(*place)
    storing = ensureDeferred(hooks.onData(Stream(LARGE), makeSession()))
    await come
    storing.cancel()
    with pytest.raises(CancelledError):
        await storing
    assert len(names(root / "tmp")) == 1  # the thread still has it
    release.set()
    await threads.settled()
    assertNothingLeft(root)


@pytest_twisted.ensureDeferred
async def test_a_thread_that_fails_after_the_cancellation_leaves_nothing(hooks, root, disk, threads):
    come, release = disk.hold("fsync", "tmp/")
    disk.fail("fsync", "tmp/", errno.EIO)
    storing = ensureDeferred(hooks.onData(Stream(MESSAGE), makeSession()))
    await come
    storing.cancel()
    with pytest.raises(CancelledError):
        await storing
    release.set()
    await threads.settled()
    assertNothingLeft(root)


@pytest_twisted.ensureDeferred
async def test_cancelled_after_the_move_began_the_message_stays(hooks, root, disk, threads):
    come, release = disk.hold("link", "tmp/")
    storing = ensureDeferred(hooks.onData(Stream(MESSAGE), makeSession()))
    await come
    storing.cancel()
    with pytest.raises(CancelledError):
        await storing
    release.set()
    await threads.settled()
    assert stored(root)[1] == b"Subject: hello\n\nHello.\n"
    assert names(root / "tmp") == []
    assert openFiles(root) == []


@pytest_twisted.ensureDeferred
async def test_closed_while_a_thread_works_it_cleans_up_after_the_thread(hooks, root, disk, threads):
    come, release = disk.hold("write", "tmp/")
    storing = hooks.onData(Stream(LARGE, LARGE), makeSession())
    storing.send(None)
    await come
    storing.close()
    release.set()
    await threads.settled()
    assertNothingLeft(root)


@pytest_twisted.ensureDeferred
async def test_concurrent_deliveries_do_not_interfere(hooks, root):
    letters = [bytes([65 + i]) * 5000 for i in range(26)]
    storing = [
        ensureDeferred(hooks.onData(Stream(*[letter] * 20), makeSession("a@x.org", "b@x.org", lmtp=True)))
        for letter in letters
    ]
    for deferred in storing:
        await deferred
    bodies = Counter(split(path.read_bytes())[1] for path in (root / "new").iterdir())
    assert bodies == {b"\n" + letter * 20: 2 for letter in letters}
    assert names(root / "tmp") == []
