"""docs/howto/fail2ban.rst: the lines that it shows are logged, and fail2ban finds them."""

from __future__ import annotations

import configparser
import io
from functools import partial
from typing import Any

import pytest
from twisted.logger import FileLogObserver, ILogObserver, globalLogPublisher, textFileLogObserver

from smtphooks import SMTPError
from smtphooks.layers import Recipients
from smtphooks.service.textlog import lineOfWorker
from tests.docs.howto.conftest import Page
from tests.pages import DOCS
from tests.real.programs import ROOT, requires
from tests.support import ENVELOPE, Mailbox, connect
from tests.test_contrib import linesOfFailures

PAGE = "fail2ban"
DOCUMENTED = (DOCS / "howto" / "fail2ban.rst").read_text()
CONTRIB = "/etc/fail2ban/filter.d/smtphooks.conf"

pytestmark = requires("fail2ban-regex")


def find(page: Page, file: object) -> str:
    changes = {"/var/log/smtphooks.log": page.folder / "smtphooks.log", CONTRIB: file}
    return page.run("fail2ban-regex", **{old: str(new) for old, new in changes.items()})[1]


def test_fail2ban_finds_the_lines_that_the_page_shows(page: Page) -> None:
    said = find(page, ROOT / "contrib" / "fail2ban" / "filter.d" / "smtphooks.conf")
    assert "Lines: 2 lines, 0 ignored, 2 matched, 0 missed" in said


def test_so_it_does_for_the_line_of_a_worker(page: Page) -> None:
    (page.folder / "smtphooks.log").write_text(page.text("workers.log"))
    said = find(page, ROOT / "contrib" / "fail2ban" / "filter.d" / "smtphooks.conf")
    assert "Lines: 1 lines, 0 ignored, 1 matched, 0 missed" in said


def ofWorker(file: io.StringIO) -> ILogObserver:
    return FileLogObserver(file, partial(lineOfWorker, worker=2))


@pytest.mark.parametrize("name, observer", [("smtphooks.log", textFileLogObserver), ("workers.log", ofWorker)])
def test_the_lines_that_the_page_shows_are_those_of_the_log(page: Page, name: str, observer: Any) -> None:
    logged = linesOfFailures(observer)
    for line in page.text(name).splitlines():
        # Without time and session.
        assert line.split(" ", 1)[1].rpartition(" [")[0] in logged


def test_the_jail_is_that_of_contrib_for_a_file(page: Page) -> None:
    jails = []
    for folder in (page.folder, ROOT / "contrib" / "fail2ban"):
        parser = configparser.ConfigParser()
        parser.read(folder / "jail.d" / "smtphooks.conf")
        jails.append(dict(parser["smtphooks"]))
    ours, sample = jails
    same = {"enabled", "filter", "port", "maxretry"}
    assert {key: ours[key] for key in same} == {key: sample[key] for key in same}
    assert ours["logpath"] in page.command("smtphooks --config")


@pytest.mark.parametrize("observer", [textFileLogObserver, ofWorker])
@pytest.mark.parametrize("hook", [{"onRcptTo": "onRcptTo"}, {"layers": "onRcptTo of Recipients"}])
def test_the_filter_of_the_page_finds_guessed_recipients(page: Page, hook: dict[str, str], observer: Any) -> None:
    def onRcptTo(address: object, session: object) -> None:
        raise SMTPError("No such user", 550, "5.1.1")

    hooks: dict[str, Any] = {"onRcptTo": onRcptTo}
    name = "filter.d/smtphooks-guessing.conf"
    if "layers" in hook:
        hooks = {"hooks": [Recipients(recipients=["ann@mx.test"]), Mailbox()]}
        page.change(name, "onRcptTo:", f"{hook['layers']}:")
        assert hook["layers"] in DOCUMENTED
    written = io.StringIO()
    observe = observer(written)
    globalLogPublisher.addObserver(observe)
    try:
        connect(**hooks).say(*ENVELOPE, "VRFY RCPT of 198.51.100.9 refused by onRcptTo: 550 5.1.1")
    finally:
        globalLogPublisher.removeObserver(observe)
    (page.folder / "smtphooks.log").write_text(written.getvalue())
    assert ", 0 ignored, 1 matched, " in find(page, page.folder / name)
