"""Claims in a folder, with real files: whole and durable under their names, or not there at all."""

import errno
import hashlib
import os
from pathlib import Path

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import CancelledError, Deferred

from smtphooks.errors import OptionError
from smtphooks.replies import SMTPError
from smtphooks.stores import claims
from smtphooks.stores.claims import FolderClaims
from tests.layers.scanners import Message

CONTENT = b"Subject: hello\r\n\r\n" + b"0123456789abcdef" * 50_000


async def keep(folder, name="1.1", content=CONTENT):
    spool = await Message(content).spool()
    try:
        return await folder.keep(name, spool, hashlib.sha256(content).hexdigest())
    finally:
        spool.close()


async def contentOf(folder, reference):
    return b"".join([chunk async for chunk in folder.read(reference)])


@ensureDeferred
async def test_a_message_is_kept_until_it_is_dropped(tmp_path):
    folder = FolderClaims(tmp_path)
    reference = await keep(folder)
    assert reference == f"file://{tmp_path}/1.1.eml"
    assert (tmp_path / "1.1.eml").read_bytes() == CONTENT == await contentOf(folder, reference)
    assert (tmp_path / "1.1.eml").stat().st_mode & 0o777 == 0o600
    await folder.drop(reference)
    await folder.drop(reference)
    assert os.listdir(tmp_path) == []


@ensureDeferred
async def test_the_file_is_synced_before_it_has_its_name_and_then_the_folder(tmp_path, monkeypatch):
    synced = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(os, "rename", lambda *paths: (synced.append("rename"), rename(*paths)))
    await keep(FolderClaims(tmp_path))
    assert synced == [str(tmp_path / ".1.1.eml.part"), "rename", str(tmp_path)]


@pytest.mark.parametrize("operation, code", [("fsync", 451), ("write", 452), ("rename", 451), ("open", 451)])
@ensureDeferred
async def test_a_disk_that_fails_leaves_nothing(tmp_path, monkeypatch, logged, operation, code):
    folder = FolderClaims(tmp_path)

    def fail(*arguments):
        raise OSError(errno.ENOSPC if code == 452 else errno.EIO, "broken")

    spool = await Message(CONTENT).spool()
    with monkeypatch.context() as broken:
        broken.setattr(os, operation, fail) if operation != "write" else broken.setattr(claims, "_writeAll", fail)
        with pytest.raises(SMTPError) as caught:
            await folder.keep("1.1", spool, "")
    spool.close()
    assert caught.value.responseCode == code
    assert os.listdir(tmp_path) == []
    assert len(logged.takeTexts()) == 1


@ensureDeferred
async def test_names_do_not_leave_the_folder(tmp_path):
    (tmp_path / "claims").mkdir()
    folder = FolderClaims(tmp_path / "claims")
    await keep(folder, "../1")
    assert [path.name for path in tmp_path.rglob("*.eml")] == ["..%2F1.eml"]


@pytest.mark.parametrize(
    "reference", ["/etc/passwd", "file:///etc/passwd", "file:///x/.eml", "https://s3.example/1.eml"]
)
@ensureDeferred
async def test_other_references_are_none(tmp_path, reference):
    folder = FolderClaims(tmp_path)
    with pytest.raises(ValueError):
        await folder.drop(reference)
    with pytest.raises(ValueError):
        await contentOf(folder, reference)


@ensureDeferred
async def test_a_folder_may_be_mounted_elsewhere(tmp_path):
    await keep(FolderClaims(tmp_path))
    assert await contentOf(FolderClaims(tmp_path), "file:///srv/claims/1.1.eml") == CONTENT


@ensureDeferred
async def test_a_name_is_used_once_at_a_time(tmp_path, logged):
    (tmp_path / ".1.1.eml.part").touch()
    with pytest.raises(SMTPError):
        await keep(FolderClaims(tmp_path))
    assert logged.takeTexts()


def test_a_folder_must_be_there(tmp_path):
    for path in (tmp_path / "missing", Path(__file__)):
        with pytest.raises(OptionError):
            FolderClaims(path)


class Threads:
    """Operations that wait until they are let go, as those do behind storage that hangs."""

    def __init__(self, monkeypatch):
        self.waiting = []
        monkeypatch.setattr(claims, "deferToThread", self.defer)

    def defer(self, function, *arguments):
        result = Deferred()
        self.waiting.append(lambda: result.callback(function(*arguments)))
        return result

    def go(self):
        self.waiting.pop(0)()


@pytest.mark.parametrize("operations", range(1, 6))
@ensureDeferred
async def test_a_file_is_not_closed_while_a_thread_may_still_use_it(tmp_path, monkeypatch, operations):
    threads = Threads(monkeypatch)
    spool = await Message(CONTENT[:1000]).spool()
    keeping = Deferred.fromCoroutine(FolderClaims(tmp_path).keep("1.1", spool, "digest"))
    for _ in range(operations - 1):
        threads.go()
    if not threads.waiting:  # it is kept
        assert await keeping and os.listdir(tmp_path) == ["1.1.eml"]
        return
    keeping.cancel()
    with pytest.raises(CancelledError):
        await keeping
    other = os.open(tmp_path.parent / "other", os.O_RDWR | os.O_CREAT)
    threads.go()
    assert not threads.waiting
    assert os.fstat(other).st_size == 0
    os.close(other)
    spool.close()
    assert os.listdir(tmp_path) == []
    assert not [name for name in map(linkOf, os.listdir("/proc/self/fd")) if str(tmp_path) in name]


@ensureDeferred
async def test_nothing_is_read_from_what_was_closed(tmp_path, monkeypatch):
    folder = FolderClaims(tmp_path)
    reference = await keep(folder)
    threads = Threads(monkeypatch)
    reading = Deferred.fromCoroutine(contentOf(folder, reference))
    threads.go()
    reading.cancel()
    with pytest.raises(CancelledError):
        await reading
    (tmp_path / "other").write_bytes(b"other")
    other = os.open(tmp_path / "other", os.O_RDONLY)
    threads.go()
    assert os.read(other, 9) == b"other"
    os.close(other)
    assert not [name for name in map(linkOf, os.listdir("/proc/self/fd")) if str(tmp_path) in name]


def linkOf(descriptor):
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""
