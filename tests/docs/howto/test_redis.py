"""docs/howto/redis.rst: Redis takes its settings, and what they allow is all that the layers call."""

from __future__ import annotations

import os
import re
import smtplib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.howto.conftest import Page
from tests.pages import DOCS, parse, rowsOf
from tests.real.programs import PATIENCE, Program, Service, eventually, freePort, which
from tests.real.redis import needsRedis

pytest.importorskip("txredisapi", reason="txredisapi is not installed")

PAGE = "redis"


@pytest.fixture
def redis(page: Page) -> Iterator[int]:
    """A Redis with the settings of the page; its port, which the page has as well."""
    port = freePort()
    page.change("redis.conf", "port 6379", f"port {port}")
    page.change("mx.toml", "127.0.0.1:6379", f"127.0.0.1:{port}")
    guarded = [which("setpriv") or "", "--pdeathsig", "KILL", which("redis-server") or "", "redis.conf"]
    program = Program(guarded, dict(os.environ), page.folder)
    program.waitForLine("Ready to accept connections")
    yield port
    program.kill()


def values(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
        text = answer.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(smtphooks_redis_\S+) (\S+)$", text, re.MULTILINE)}


def rcpt(port: int, source: str) -> int:
    """The code of the reply to RCPT of a client at that address of loopback."""
    with smtplib.SMTP(timeout=PATIENCE, source_address=(source, 0)) as client:
        client.connect("127.0.0.1", port)
        client.ehlo("client.example")
        client.mail("bob@client.example")
        return client.rcpt("ann@example.org")[0]


@needsRedis
def test_the_user_of_the_page_may_call_all_that_is_called(page: Page, redis: int) -> None:
    metrics = freePort()
    page.change("mx.toml", "tcp:9125", f"tcp:{metrics}")
    port = page.listen("mx.toml", "tcp:2525:interface=127.0.0.1")
    page.change("mx.toml", 'unless = ["authenticated", "127.0.0.0/8"]', "delay = 1")
    for limit in ("30 connections", "100 messages"):  # as the test tries more often than a client
        page.change("mx.toml", limit, limit.replace("0 ", "0_000 "))
    service = page.serve(["--config", "mx.toml"])
    assert rcpt(port, "127.0.0.1") == 450
    eventually(lambda: rcpt(port, "127.0.0.1") == 250, "the mail is taken when it is tried again")
    assert rcpt(port, "127.0.0.1") == 250
    found = values(metrics)
    assert sorted(found.values()) == [0, 0, 1, 1], found
    assert f"127.0.0.1:{redis}" in "".join(found)
    assert "away" not in service.output and "an-example" not in service.output


def test_no_password_of_the_page_is_shown(page: Page) -> None:
    for name in ("mx.toml", "sentinels.toml", "cluster.toml"):
        text = page.text(name)
        (page.folder / name).write_text(
            text if "[options]" in text else f"discard = true\n[options]\nauthOptional = true\n{text}"
        )
        program = Service(page.folder, ["--config", name, "--check"], [])
        assert program.wait() == 0, program.output
        assert "an-example" not in program.output and "(not shown)" in program.output, program.output


@pytest.mark.parametrize("name", ["rediscounts", "redistriplets"])
def test_the_pages_of_both_name_the_defaults(name: str) -> None:
    document, complaints = parse(DOCS / "layers" / f"{name}.rst")
    assert complaints == ""
    rows = {entries[0].astext(): entries[1].astext() for entries in rowsOf(document, "Option")}
    assert rows == {
        "url": "must be given",
        "sentinels": "()",
        "prefix": '"smtphooks"',
        "timeout": "0.05",
        **dict.fromkeys(("ca", "key", "cert"), "none"),
    }


def test_the_extra_is_there() -> None:
    assert "\nredis =\n    txredisapi >= 1.4\n" in (Path(DOCS).parent / "setup.cfg").read_text()
