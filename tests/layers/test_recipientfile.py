"""The file of recipients: it is read again when it has changed, and a damaged one changes nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from smtphooks.layers.recipientfile import RecipientFile
from tests.conftest import Logged

pytestmark = pytest.mark.usefixtures("logged")


class Watched:
    """A file on the disk, and the one who watches it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "recipients.txt"
        self.clock = Clock()
        self._age = 1000
        self.write("ann@example.org\n")
        self.file = RecipientFile(str(self.path), None, self.clock.seconds)

    def write(self, content: str) -> None:
        """Write it in place, some time ago, and each time later than before."""
        self.path.write_text(content)
        self._age -= 10
        self.age(self._age)

    def age(self, seconds: float) -> None:
        """Say that it was written so many seconds ago."""
        then = time.time() - seconds
        os.utime(self.path, (then, then))

    def knows(self, local: str) -> bool:
        return self.file.listing().has(local, "example.org")


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_a_change_is_noticed_at_the_first_look_up_a_second_later(watched: Watched) -> None:
    assert watched.knows("ann")
    watched.write("bob@example.org\n")
    watched.clock.advance(0.9)
    assert watched.knows("ann")
    watched.clock.advance(0.1)
    assert watched.knows("bob")
    assert not watched.knows("ann")


def test_a_change_is_noticed_at_once_after_a_long_time_without_a_look_up(watched: Watched) -> None:
    watched.knows("ann")
    watched.clock.advance(3600)
    watched.write("bob@example.org\n")
    assert watched.knows("bob")


def test_a_clock_that_was_set_back_does_not_stop_the_looking(watched: Watched) -> None:
    watched.clock.advance(1000)
    watched.knows("ann")
    watched.clock.rightNow = 0.0
    watched.write("bob@example.org\n")
    assert watched.knows("bob")


def test_a_file_that_was_replaced_by_another_of_the_same_size_and_time_is_read(watched: Watched) -> None:
    stat = watched.path.stat()
    other = watched.path.with_name("other")
    other.write_text("bob@example.org\n")
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.rename(watched.path)
    assert watched.knows("bob")


def test_a_file_is_read_when_it_has_not_been_written_to_for_a_second(watched: Watched) -> None:
    watched.path.write_text("bob@example.org\n")
    watched.age(0)
    assert watched.knows("ann")  # it may be half written
    watched.age(1)
    watched.clock.advance(1)
    assert watched.knows("bob")


def test_a_file_of_a_time_to_come_is_read(watched: Watched) -> None:
    watched.write("bob@example.org\n")
    watched.age(-3600)
    assert watched.knows("bob")


def test_a_malformed_file_keeps_the_old_content_in_force_and_is_logged_once(watched: Watched, logged: Logged) -> None:
    watched.write("bob@example.org\ncarl\n")
    for _ in range(3):
        assert watched.knows("ann")
        assert not watched.knows("bob")
        watched.clock.advance(1)
    (text,) = logged.takeTexts()
    assert text == (
        f"{watched.path} keeps its old content in force, for line 2: carl is no address, write local-part@domain, or"
        " @domain for all of a domain: correct it"
    )
    watched.write("bob@example.org\n")
    assert watched.knows("bob")


def test_a_truncated_file_keeps_the_old_content_in_force(watched: Watched, logged: Logged) -> None:
    watched.write("")
    assert watched.knows("ann")
    assert "it has no address" in logged.takeTexts()[0]


def test_a_file_that_is_gone_keeps_the_old_content_in_force_and_is_logged_once(
    watched: Watched, logged: Logged
) -> None:
    watched.path.unlink()
    for _ in range(3):
        assert watched.knows("ann")
        watched.clock.advance(1)
    (text,) = logged.takeTexts()
    assert "it cannot be read, No such file or directory" in text
    watched.write("bob@example.org\n")
    assert watched.knows("bob")
    watched.clock.advance(1)
    watched.path.unlink()
    assert watched.knows("bob")
    assert len(logged.takeTexts()) == 1


def test_a_file_that_can_be_read_again_is_read_although_it_is_the_same(watched: Watched, logged: Logged) -> None:
    watched.write("bob@example.org\n")
    content, kept = watched.path, watched.path.with_name("kept")
    content.rename(kept)
    content.mkdir()
    watched.age(500)
    assert watched.knows("ann")
    assert "cannot be read" in logged.takeTexts()[0]
    content.rmdir()
    kept.rename(content)
    watched.clock.advance(1)
    assert watched.knows("bob")


def test_the_first_reading_fails_with_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RecipientFile(str(tmp_path / "none"), None, Clock().seconds)
    (tmp_path / "bad").write_text("ann")
    with pytest.raises(ValueError, match="line 1: ann is no address"):
        RecipientFile(str(tmp_path / "bad"), None, Clock().seconds)


def test_what_is_no_regular_file_is_not_waited_for(watched: Watched, logged: Logged) -> None:
    """A pipe blocks whoever opens it, and a device may have no end."""
    watched.knows("ann")
    watched.path.unlink()
    os.mkfifo(watched.path)
    watched.age(500)
    watched.clock.advance(1)
    assert watched.knows("ann")
    (line,) = logged.takeTexts()
    assert "it is no regular file: correct it" in line
    for path in (str(watched.path), "/dev/zero"):
        with pytest.raises(ValueError, match="it is no regular file"):
            RecipientFile(path, None, watched.clock.seconds)


def test_a_file_that_is_too_large_changes_nothing(watched: Watched, logged: Logged) -> None:
    watched.knows("ann")
    with watched.path.open("r+b") as file:
        file.truncate(64 * 2**20 + 1)
    watched.age(500)
    watched.clock.advance(1)
    assert watched.knows("ann")
    (line,) = logged.takeTexts()
    assert "it is larger than 64 MiB, use a database: correct it" in line
