"""docs/howto/tracing.rst: each connection and transaction has a span, and those of hooks are below it."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from smtphooks import SMTPError
from smtphooks.layers import Recipients
from tests.docs.howto.conftest import Page, deliver
from tests.real.programs import requires
from tests.support import MAIL, RCPT, Client, Mailbox, connect, makeFactory

PAGE = "tracing"
RECIPIENT = "RCPT TO:<joe@mx.test>"

pytest.importorskip("opentelemetry.sdk")

Spans = Callable[[], list[Any]]


@pytest.fixture
def tracing(page: Page, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    """The module of the page, whose spans are kept in memory."""
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    page.change("tracing.py", "BatchSpanProcessor(ConsoleSpanExporter())", "None")
    page.change("tracing.py", "provider.add_span_processor(None)", "")
    monkeypatch.syspath_prepend(page.folder)
    import tracing as module  # type: ignore[import-not-found]

    exporter = InMemorySpanExporter()
    module.provider.add_span_processor(SimpleSpanProcessor(exporter))
    module.spans = exporter.get_finished_spans
    yield module
    module.provider.shutdown()
    del sys.modules["tracing"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def summary(spans: Any) -> list[tuple[str, list[tuple[str, int]], bool]]:
    return [
        (span.name, [(event.name, event.attributes["smtp.code"]) for event in span.events], span.status.is_ok)
        for span in spans
    ]


@pytest.mark.parametrize("end", [["DATA", "text", "."], ["BDAT 4 LAST\r\ntext"]], ids=["DATA", "BDAT"])
def test_a_transaction_has_a_span_below_that_of_its_connection(tracing: Any, end: list[str]) -> None:
    client = connect(hooks=[tracing.Tracing(), Recipients(recipients=["user@mx.test"]), Mailbox()])
    client.feed("\r\n".join(["EHLO client.test", MAIL, RCPT, RECIPIENT, *end]).encode() + b"\r\n" * (end[0] == "DATA"))
    (transaction,) = tracing.spans()
    client.say("QUIT")
    client.lose()
    _, connection = tracing.spans()
    events = [("MAIL", 250), ("RCPT", 250), ("RCPT", 550)]
    events += [("DATA", 354), ("DATA", 250)] if end[0] == "DATA" else [("BDAT", 250)]
    assert summary([transaction, connection]) == [
        ("smtp transaction", events, False),
        ("smtp connection", [("greeting", 220), ("EHLO", 250), ("QUIT", 221)], True),
    ]
    assert transaction.parent.span_id == connection.context.span_id
    assert connection.parent is None


def test_a_second_transaction_is_not_below_the_first(tracing: Any) -> None:
    client = connect(hooks=[tracing.Tracing(), Mailbox()])
    client.say("EHLO client.test", *[MAIL, RCPT, "DATA", "text", "."] * 2)
    client.lose()
    first, second, connection = tracing.spans()
    assert first.parent.span_id == second.parent.span_id == connection.context.span_id


@pytest.mark.parametrize("lines", [["RSET"], ["EHLO again.test"]])
def test_a_transaction_that_is_given_up_ends(tracing: Any, lines: list[str]) -> None:
    client = connect(hooks=[tracing.Tracing(), Mailbox()])
    client.say("EHLO client.test", MAIL, *lines)
    (transaction,) = tracing.spans()
    assert [event.name for event in transaction.events] == ["MAIL", lines[0][:4]]


def test_a_refused_sender_and_a_client_that_leaves_end_the_span(tracing: Any) -> None:
    class Picky:
        def onMailFrom(self, address: Any, session: Any) -> None:
            raise SMTPError("Not you", 550)

    client = connect(hooks=[tracing.Tracing(), Picky(), Mailbox()])
    client.say("EHLO client.test", MAIL)
    ((name, events, isFine),) = summary(tracing.spans())
    assert (name, events, isFine) == ("smtp transaction", [("MAIL", 550)], False)
    client = connect(hooks=[tracing.Tracing(), Mailbox()])
    client.say("EHLO client.test", MAIL)
    client.lose()
    assert [span.name for span in tracing.spans()[1:]] == ["smtp transaction", "smtp connection"]


def test_spans_of_hooks_are_below_that_of_their_own_transaction(tracing: Any) -> None:
    waiting: list[Deferred[None]] = []

    class Delivery:
        async def onData(self, stream: Any, session: Any) -> None:
            with tracing.tracer.start_as_current_span(session.hostNameAppearsAs):
                await stream.read()
                waiting.append(Deferred())
                await waiting[-1]

    factory = makeFactory(hooks=[tracing.Tracing(), Delivery()])
    clients = [Client(factory), Client(factory)]
    for name, client in zip(("one", "two"), clients, strict=True):
        client.say(f"EHLO {name}", MAIL, RCPT, "DATA", "text", ".")
    for deferred in waiting:
        deferred.callback(None)
    for client in clients:
        client.lose()
    spans = {span.context.span_id: span for span in tracing.spans()}
    stores = {span.name: span for span in spans.values() if span.name in ("one", "two")}
    parents = {spans[store.parent.span_id].parent.span_id for store in stores.values()}
    assert {spans[parent].name for parent in parents} == {"smtp connection"} and len(parents) == 2


@requires("swaks")
def test_the_service_of_the_page_prints_its_spans(page: Page) -> None:
    port = page.listen("tracing.toml", "tcp:2525")
    service = page.start("smtphooks --config tracing.toml")
    assert page.run("swaks", **{"2525": port})[0] == 0
    assert deliver(port, "ann@example.net")[0] == 550
    page.stop()
    printed = [json.loads(text) for text in re.findall(r"^\{$.*?^\}$", service.output, re.MULTILINE | re.DOTALL)]
    names = [span["name"] for span in printed]
    assert sorted(names) == ["smtp connection"] * 2 + ["smtp transaction"] * 2 + ["store"]
    (store,) = [span for span in printed if span["name"] == "store"]
    assert store["parent_id"] in {span["context"]["span_id"] for span in printed if span["name"] == "smtp transaction"}
    assert store["attributes"]["smtp.octets"] > 0
