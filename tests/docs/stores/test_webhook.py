"""docs/stores/webhook.rst: its receiver takes what its configuration posts, and the tables say what is so."""

from __future__ import annotations

import http.client
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from smtphooks.session import Session
from smtphooks.stores import Webhook
from smtphooks.stores.webhookfields import partsOf
from smtphooks.stores.webhookreplies import MESSAGE_REFUSALS, RECIPIENT_REFUSALS
from tests.docs.howto.conftest import deliver
from tests.pages import DOCS, blocksOf, parse, rowsOf, sectionsOf, write
from tests.real.programs import Program, Service, eventually, freePort, tcp

PAGE = "stores/webhook.rst"
TEST = b"Subject: test\r\n\r\nhello\r\n"


class Running:
    """
    The receiver and the service of the page.

    @ivar port: of the service.
    @ivar http: of the receiver.
    """

    def __init__(self, folder: Path) -> None:
        write(PAGE, folder)
        self.port, self.http, self.folder = freePort(), freePort(), folder
        (folder / "webhook.secret").write_text("0123456789abcdef\n")
        for name, old, new in (
            ("webhook.toml", '"tcp:2525"', f'"{tcp(self.port)}"'),
            ("webhook.toml", "8000", str(self.http)),
            ("receiver.py", "8000", str(self.http)),
        ):
            text = (folder / name).read_text()
            assert old in text
            (folder / name).write_text(text.replace(old, new))
        self.receiver = self.start()
        self.service = Service(folder, ["--config", "webhook.toml"], [tcp(self.port)])

    def start(self) -> Program:
        started = Program([sys.executable, "receiver.py"], {**os.environ, "PYTHONUNBUFFERED": "1"}, self.folder)
        eventually(lambda: self.ask("/") == 404, "the receiver")
        return started

    def ask(self, path: str, **fields: str) -> int:
        """The status of a request without a message; 0 if there is none."""
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=10)
            connection.request("POST", path, b"{}", {name.replace("_", "-"): value for name, value in fields.items()})
            return connection.getresponse().status
        except ConnectionRefusedError:
            return 0

    def stop(self) -> None:
        assert self.service.terminate() == 0, self.service.output
        self.receiver.kill()
        assert "Traceback" not in self.service.output + self.receiver.output


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    pytest.importorskip("flask")
    started = Running(tmp_path)
    yield started
    started.stop()


def test_the_receiver_verifies_what_is_posted_and_knows_it_again(running: Running) -> None:
    first, again = (deliver(running.port, "ann@example.org", message=TEST) for _ in range(2))
    assert first[0] == 250 and re.fullmatch(rb"2\.0\.0 Queued as [0-9a-f]{8}, message 1", first[1]), first
    assert again == first
    other = deliver(running.port, "ann@example.org", message=TEST + b"more\r\n")
    assert other[0] == 250 and other[1].endswith(b", message 2")


def test_the_receiver_refuses_what_it_does_not_take(running: Running) -> None:
    assert deliver(running.port, "ann@example.org") == (554, b"5.6.0 We take tests only")
    assert deliver(running.port, "ann@example.com", message=TEST) == (550, b"5.1.1 No such recipient")


@pytest.mark.parametrize("path", ["/mail", "/recipient"])
def test_the_receiver_takes_nothing_that_is_not_signed(running: Running, path: str) -> None:
    assert running.ask(path) == 401
    assert running.ask(path, Smtphooks_Timestamp="1", Smtphooks_Signature="v1=ä".encode().decode("latin-1")) == 401


def test_a_receiver_with_another_secret_is_a_fault_and_bounces_nothing(running: Running) -> None:
    running.receiver.kill()
    (running.folder / "webhook.secret").write_text("another secret of 16 octets\n")
    running.receiver = running.start()
    assert deliver(running.port, "ann@example.org", message=TEST)[0] == 451
    running.service.waitForLine("answers 401")


def test_a_receiver_that_is_down_delays_and_comes_back_by_itself(running: Running) -> None:
    running.receiver.kill()
    assert deliver(running.port, "ann@example.org", message=TEST)[0] == 451
    running.service.waitForLine("cannot be reached")
    running.receiver = running.start()
    assert deliver(running.port, "ann@example.org", message=TEST)[0] == 250


# --- the tables ---


def test_the_page_documents_exactly_the_options_with_their_defaults() -> None:
    document, complaints = parse(DOCS / PAGE)
    assert complaints == ""
    documented = {row[0].astext(): row[1].astext() for row in rowsOf(document, "Option")}
    fields: Any = [field for field in attrs.fields(Webhook) if field.init]
    assert list(documented) == [field.alias for field in fields]
    for field in fields:
        words = {None: "none", attrs.NOTHING: "must be given"}
        assert documented[field.alias] == words.get(field.default, str(field.default))


def test_the_page_names_all_statuses_with_their_replies() -> None:
    rows = {row[0].astext(): row[1:] for row in rowsOf(sectionsOf(PAGE)["The answer"], "Status")}
    for column, refusals in enumerate((MESSAGE_REFUSALS, RECIPIENT_REFUSALS)):
        for status, error in refusals.items():
            said = " ".join(rows[str(status)][column].astext().split())
            assert said == f"{error.responseCode} {error.enhancedCode} {error.message}"
    assert set(rows) == {
        "2xx",
        "any other one",
        "no answer",
        *map(str, MESSAGE_REFUSALS),
        *map(str, RECIPIENT_REFUSALS),
    }


def test_the_description_of_the_page_has_the_names_of_one() -> None:
    (block,) = blocksOf(PAGE, "json")
    shown, (part,) = json.loads(block.text), partsOf(Session(transaction=1))
    real = json.loads(part.description)
    assert [*shown] == [*real]
    assert [*shown["envelope"]] == [*real["envelope"]]
    assert [*shown["session"]] == [*real["session"]]


def test_the_page_names_all_fields() -> None:
    named = {row[0].astext() for row in rowsOf(sectionsOf(PAGE)["The request"], "Field")}
    session = Session(user="ann")
    (part,) = partsOf(session)
    assert named - {"Smtphooks-Verdict-NAME", "Idempotency-Key", "Smtphooks-Timestamp", "Smtphooks-Signature"} == {
        name for name in part.fields if name != "Content-Type"
    }
