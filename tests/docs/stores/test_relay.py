"""docs/stores/relay.rst: its tables name the options as they are, and its configurations relay as the page says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import pytest

from smtphooks.service.checking import configure
from smtphooks.service.reading import readSettings
from smtphooks.stores import Relay
from smtphooks.testing import SMTPServerThread
from tests.docs.howto.conftest import deliver
from tests.pages import DOCS, parse, rowsOf, sectionsOf, write
from tests.real.programs import Service, freePort, tcp
from tests.secrets import PASSWORD

PAGE = "stores/relay.rst"

Start = Callable[..., tuple[int, Service]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the service with a file of the page, in which texts are replaced; its port."""
    write(PAGE, tmp_path)
    services: list[Service] = []

    def run(name: str, changes: dict[str, str], listener: str = "") -> tuple[int, Service]:
        file, port = tmp_path / name, freePort()
        text = file.read_text()
        for old, new in {**changes, '"tcp:25"': f'"{tcp(port)}"'}.items():
            assert old in text or old == '"tcp:25"'
            text = text.replace(old, new)
        if "[[listener]]" not in text:
            text += f'\n[[listener]]\nendpoint = "{tcp(port)}"\n'
        file.write_text(text)
        services.append(Service(tmp_path, ["--config", name], [tcp(port)]))
        return port, services[-1]

    yield run
    for service in services:
        assert service.terminate() == 0, service.output


@pytest.fixture
def upstreams() -> Iterator[Callable[..., SMTPServerThread]]:
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(SMTPServerThread(**options))


def at(upstream: SMTPServerThread) -> str:
    return f"127.0.0.1:{upstream.port}"


def test_the_configuration_relays_and_tells_who_the_client_is(start: Start, upstreams: Any) -> None:
    upstream = upstreams(useXClient=True)
    port, service = start("relay.toml", {"127.0.0.1:2526": at(upstream)})
    assert deliver(port, "ann@example.org") == (250, b"2.0.0 Message accepted")
    message = upstream.waitFor()
    assert message.session.hostNameAppearsAs == "client.example"
    assert message.session.secure
    service.waitForLine(f"relayed to {at(upstream)} for 1 recipients: 25 octets, Message accepted")


def test_recipients_go_to_the_servers_of_their_domains(start: Start, upstreams: Any) -> None:
    org, net, rest = upstreams(), upstreams(), upstreams()
    changes = {
        "mail.example.org:25": at(org),
        "10.0.0.1:25": at(net),
        "10.0.0.2:25": at(net),
        "out.example.org:587": at(rest),
    }
    port, _ = start("domains.toml", changes)
    assert deliver(port, "ann@sub.example.org", "joe@example.net")[0] == 452
    for recipient in ("ann@example.org", "ann@sub.example.org", "joe@example.net", "sam@example.com"):
        assert deliver(port, recipient)[0] == 250
    assert [len(each.messages) for each in (org, net, rest)] == [2, 1, 1]


def test_a_server_that_is_down_is_left_out_and_the_log_says_so(start: Start, upstreams: Any) -> None:
    backup = upstreams()
    changes = {f"mail{n}.example.org:25": f"127.0.0.1:{freePort()}" for n in (1, 2)}
    changes["[[layer]]"] = "options = {authOptional = true}\n[[layer]]"
    port, service = start("several.toml", {**changes, "backup.example.org:25": at(backup)})
    assert deliver(port, "ann@example.org")[0] == 250
    service.waitForLine("is left out while there are others")
    assert len(backup.messages) == 1


def test_the_page_documents_exactly_the_options_with_their_defaults() -> None:
    document, complaints = parse(DOCS / PAGE)
    assert complaints == ""
    documented = {row[0].astext(): row[1].astext() for row in rowsOf(document, "Option")}
    fields: Any = [field for field in attrs.fields(Relay) if field.init]
    assert list(documented) == [field.alias for field in fields]
    for field in fields:
        words = {None: "none", attrs.NOTHING: "must be given", "opportunistic": '"opportunistic"'}
        assert documented[field.alias] == words.get(field.default, str(field.default))


def test_every_pair_of_protocols_is_in_the_table() -> None:
    rows = [row[:2] for row in rowsOf(sectionsOf(PAGE)["One reply for several recipients"], "Client")]
    pairs = {tuple(entry.astext() for entry in row) for row in rows}
    assert pairs == {(client, server) for client in ("SMTP", "LMTP") for server in ("SMTP", "LMTP")}


def test_check_shows_the_servers_and_no_password(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(PAGE, tmp_path)
    file = tmp_path / "relay.toml"
    file.write_text(file.read_text() + f'user = "ann"\npassword = "{PASSWORD}"\n')
    (listener,) = configure(readSettings(str(file))).listeners
    assert listener.warning is None
    assert listener.doubts == []
    service = Service(tmp_path, ["--check", "--config", "relay.toml"], [])
    assert service.wait() == 0
    assert 'upstream = "127.0.0.1:2526"' in service.output
    assert "onRcptTo" in service.output
    assert PASSWORD not in service.output
