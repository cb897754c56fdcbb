"""The whole programs of hooks.rst, start.rst and embedding.rst run, and take mail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.pages import write
from tests.test_readme import deliver, freePort, running


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("hooks.rst", "asyncio_hooks.py"),
        ("start.rst", "embedded.py"),
        ("embedding.rst", "embedding.py"),
        ("embedding.rst", "lean.py"),
    ],
)
def test_programs(folder: Path, page: str, name: str) -> None:
    port = freePort()
    write(page, folder)
    text = (folder / name).read_text().replace("tcp:2525", f"tcp:{port}:interface=127.0.0.1")
    # The program itself logs nothing, so a line that says that it listens is added.
    text = text.replace("reactor.run()", 'reactor.callWhenRunning(print, "listening on", flush=True)\nreactor.run()')
    (folder / name).write_text(text)
    with running([sys.executable, name], folder, port) as client:
        client.ehlo("client.test")
        code, said = client.mail("ann@client.test")
        assert code == 250
        if name == "asyncio_hooks.py":
            assert said == b"2.1.0 Hello ann@client.test"
            assert client.rcpt("joe@elsewhere.test")[0] == 550
        client.rset()
        code, said = deliver(client, "joe@example.org")
        assert code == 250
        if name == "embedded.py":
            assert said == b"2.0.0 Message queued as 123"
    if name in ("embedding.py", "lean.py"):
        assert len([*(folder / "mail" / "new").iterdir()]) == 1
