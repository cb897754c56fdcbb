"""docs/stores/rabbitmq.rst: its options are those of the store, and its messages are in the queue as it says."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from smtphooks.stores import RabbitMQ as Store
from tests.docs.howto.conftest import deliver
from tests.pages import DOCS, define, parse, rowsOf, write
from tests.real.conftest import rabbitmq as rabbitmq
from tests.real.conftest import sharedRabbitMQ as sharedRabbitMQ
from tests.real.conftest import startRabbitMQ as startRabbitMQ
from tests.real.programs import Service, freePort, table, tcp
from tests.real.rabbitmq import RabbitMQ, needsRabbitMQ
from tests.secrets import secretsIn

PAGE = "stores/rabbitmq.rst"


def test_the_table_has_the_options_and_their_defaults() -> None:
    document, complaints = parse(DOCS / PAGE)
    assert complaints == ""
    rows = {entries[0].astext(): entries[1].astext() for entries in rowsOf(document, "Option")}
    fields = {field.alias: field.default for field in attrs.fields(Store) if field.init}
    assert list(rows) == list(fields)
    for name, default in fields.items():
        shown = {attrs.NOTHING: "must be given", None: "none"}.get(default, repr(default).replace("'", '"'))
        assert rows[name] == shown, name


def test_the_factory_of_the_page_has_the_store(folder: Path) -> None:
    (layer,) = define(PAGE, "rabbitmq.py", folder).factory.layers
    assert isinstance(layer.hooks, Store)
    assert layer.hooks.routingKey == "mail"


@needsRabbitMQ
def test_a_message_is_in_the_queue_as_the_page_says(rabbitmq: RabbitMQ, folder: Path) -> None:
    write(PAGE, folder)
    port = freePort()
    config = folder / "rabbitmq.toml"
    text = re.sub(
        r"^url = .*$", f'url = ["amqp://127.0.0.1:{freePort()}/", "{rabbitmq.url}"]', config.read_text(), flags=re.M
    )
    config.write_text(table("options", {"authOptional": True}) + table("[listener]", {"endpoint": tcp(port)}) + text)
    service = Service(folder, ["--config", str(config)], [tcp(port)])
    code, said = deliver(port, "ann@example.org")
    assert service.terminate() == 0
    (queued,) = rabbitmq.take("mail")
    assert code == 250 and said.decode() == f"2.0.0 Queued as {queued.properties.message_id}"
    assert b"id " + queued.properties.message_id.encode() in queued.body
    document, _ = parse(DOCS / PAGE)
    named = {entries[0].astext() for entries in rowsOf(document, "Property or header")}
    headers = {name for name in queued.properties.headers if not name.startswith("x-")}  # those are the broker's
    assert named >= headers
    for name in named - headers:
        assert getattr(queued.properties, name) is not None
    assert not secretsIn(service.output), service.output


@pytest.mark.parametrize("name", ["rabbitmq.toml", "claims.toml"])
def test_no_secret_of_the_page_is_shown(folder: Path, name: str) -> None:
    write(PAGE, folder)
    config = folder / name
    config.write_text("[options]\nauthOptional = true\n" + config.read_text())
    shown = Service(folder, ["--config", str(config), "--check"], [])
    assert shown.wait() == 0, shown.output
    assert "secret@" not in shown.output and "an-example-of-a-key" not in shown.output
    assert "(not shown)" in shown.output
