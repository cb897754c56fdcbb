"""The pages for the operator: flags, configuration, log and proxies are as they say."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from twisted.logger import FileLogObserver, capturedLogs, globalLogPublisher

import smtphooks.stores
from smtphooks import SMTPServerFactory
from smtphooks.__main__ import Options as CommandFlags
from smtphooks.command import draining, sending, status
from smtphooks.connection import waits
from smtphooks.service.jsonlog import lineOfJSON
from smtphooks.service.reading import _KEYS
from smtphooks.service.tap import Options as Flags
from smtphooks.service.textlog import lineOfWorker
from smtphooks.syntax.xclient import xClientKeywords, xForwardKeywords
from tests.certificates import Authority
from tests.docs.clients import clientOf, plain
from tests.pages import DOCS, blocksOf, literalsIn, parse, rowsOf, tomllib, write
from tests.support import ENVELOPE

COMMAND, _ = parse(DOCS / "command.rst")
LOG, _ = parse(DOCS / "log.rst")


def test_all_flags_are_documented() -> None:
    rows = rowsOf(COMMAND, "Flag")
    documented = {literal.split()[0].removeprefix("--") for entries in rows for literal in literalsIn(entries[0])}
    twistedOnes = {"version", "help-auth", "help-auth-type"}
    assert documented == {name for name in Flags().synonyms if len(name) > 1} - twistedOnes


def test_all_flags_of_the_process_are_documented_with_their_letters() -> None:
    documented = set()
    for entries in rowsOf(COMMAND, "Flag of the process"):
        documented |= {name.lstrip("-") for name in re.findall(r"--?[\w-]+", entries[0].astext())}
    assert documented == {*CommandFlags().synonyms} - {*Flags().synonyms} | {"version"}


def test_all_flags_of_send_are_documented_with_their_letters() -> None:
    documented = set()
    for entries in rowsOf(COMMAND, "Flag of send"):
        documented |= {name.lstrip("-") for name in re.findall(r"--?[\w-]+", entries[0].astext())}
    assert documented == {*sending.Options().synonyms}


@pytest.mark.parametrize(("command", "options"), [("status", status.Options), ("drain", draining.Options)])
def test_all_flags_of_the_commands_that_ask_a_supervisor_are_documented(command: str, options: type) -> None:
    rows = rowsOf(COMMAND, f"Flag of {command}")
    documented = {literal.split()[0].removeprefix("--") for entries in rows for literal in literalsIn(entries[0])}
    assert documented == {*options().synonyms}


def test_what_connections_wait_for_is_on_the_page() -> None:
    words = {value for name, value in vars(waits).items() if name.isupper() and isinstance(value, str)}
    assert words - {waits.NOTHING} <= {*literalsIn(COMMAND)}


@pytest.mark.parametrize("keywords", [xClientKeywords, xForwardKeywords])
def test_page_on_proxies_names_the_attributes_in_their_order(keywords: str) -> None:
    assert keywords in " ".join(literalsIn(parse(DOCS / "proxies.rst")[0]))


def test_all_fields_of_events_are_documented() -> None:
    options = {"authOptional": True, "maxRecipients": 1, "allowInsecureAuth": True, "debugPeers": True}
    client = clientOf(SMTPServerFactory(onAuth=lambda auth, session: auth.username, **options))
    with capturedLogs() as events:
        client.say(*ENVELOPE, "RCPT TO:<other@mx.test>", "DATA", ".", plain("ann", "correct horse"))
        client.lose()
    kinds = {"by": "refusal", "recipientCount": "message", "commands": "connection", "method": "AUTH"}
    kinds["side"] = "dialogue"
    seen = set()
    for event in events:
        [kind] = {kinds[name] for name in kinds if name in event}
        documented = [entries[0].astext() for entries in rowsOf(LOG, f"Field of a {kind}")]
        documented += [entries[0].astext() for entries in rowsOf(LOG, f"Field of an {kind}")]
        assert documented == [name for name in event if not name.startswith("log_")]
        seen.add(kind)
    assert seen == {*kinds.values()}


def test_the_line_of_each_store_is_documented_as_its_module_has_it() -> None:
    shown = {literalsIn(store)[0]: literalsIn(text)[0] for store, text in rowsOf(LOG, "Store")}
    assert shown.keys() == {*smtphooks.stores.__all__} - {"Discard", "Tee"}
    for store, line in shown.items():
        source = Path(sys.modules[getattr(smtphooks.stores, store).__module__].__file__ or "").read_text()
        formats = re.findall(r'log\.info\(\s*"([^"]*)"', source)
        patterns = [re.sub(r"\\{\w+\\}", ".+", re.escape(each)) for each in formats]
        assert any(re.fullmatch(pattern, line) for pattern in patterns), store


def test_all_fields_of_a_line_are_documented() -> None:
    documented = [entries[0].astext() for entries in rowsOf(LOG, "Field of a line")]
    assert documented == list(json.loads(lineOfJSON({"log_format": "x", "log_time": 0.0}, worker=2)))
    documented.remove("worker")
    assert documented == list(json.loads(lineOfJSON({"log_format": "x", "log_time": 0.0})))


def test_the_lines_of_a_worker_are_as_the_page_shows_them() -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    written = io.StringIO()
    observe = FileLogObserver(written, partial(lineOfWorker, worker=2))
    globalLogPublisher.addObserver(observe)
    try:
        clientOf(SMTPServerFactory(authOptional=True, onData=fail)).say(*ENVELOPE, "DATA")
    finally:
        globalLogPublisher.removeObserver(observe)
    (shown,) = [block.text for block in blocksOf("log.rst", "text") if block.name == "workers.log"]
    first, *further = shown.splitlines()
    # Without time and session.
    assert first.split(" ", 1)[1].rpartition(" [")[0] in written.getvalue()
    assert set(further) <= {*written.getvalue().splitlines()}
    assert all(line[0] in "2\t" and "[worker 2" in line for line in written.getvalue().splitlines())


def test_all_keys_of_a_file_are_documented() -> None:
    rows = rowsOf(parse(DOCS / "configuration.rst")[0], "Key")
    documented = {literal.strip("[]").partition(".")[0] for entries in rows for literal in literalsIn(entries[0])}
    assert documented == {*_KEYS}


@pytest.mark.parametrize("name", [str(block.name) for block in blocksOf("configuration.rst", "toml")])
def test_configurations(folder: Path, name: str) -> None:
    write("configuration.rst", folder)
    text = (folder / name).read_text().replace("/etc/smtphooks", str(folder))
    (folder / name).write_text(text)
    (folder / "passwd").write_text("ann:correct horse\n")
    for prefix in ("", "net-"):
        pair = Authority().server("mx.test")
        (folder / f"{prefix}key.pem").write_text(pair.key)
        (folder / f"{prefix}cert.pem").write_text(pair.cert)
    check = subprocess.run(
        [sys.executable, "-m", "smtphooks", "--config", name, "--check"],
        cwd=folder,
        text=True,
        capture_output=True,
    )
    assert check.returncode == 0, check.stderr
    endpoints = [listener["endpoint"] for listener in tomllib.loads(check.stdout)["listener"]]
    assert endpoints == [listener["endpoint"] for listener in tomllib.loads(text)["listener"]]
    if name == "layers.toml":
        comments = [line for line in check.stdout.splitlines() if line.startswith("#")]
        shown = next(block.text for block in blocksOf("configuration.rst") if "layers.toml --check" in block.text)
        assert shown.strip().splitlines()[1:-1] == comments


def test_the_configurations_of_the_page_are_all_checked() -> None:
    names = [block.name for block in blocksOf("configuration.rst", "toml")]
    assert names == ["service.toml", "two_hooks.toml", "secure.toml", "layers.toml", "tee.toml"]
