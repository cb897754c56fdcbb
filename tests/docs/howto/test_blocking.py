"""docs/howto/blocking.rst: what blocks runs in threads, and a hook that holds the reactor is named."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.docs.howto.conftest import Page, deliver
from tests.pages import define

PAGE = "blocking"


def listening(page: Page, module: str) -> tuple[list[str], int]:
    """Have a command of the page listen on a port of its own, by a configuration with its hooks."""
    (hooks,) = page.command(f"smtphooks --hooks {module}")[2:]
    config = (
        f'hooks = "{hooks}"\n[options]\nauthOptional = true\nslowHook = 0.05\n[[listener]]\nendpoint = "tcp:2525"\n'
    )
    (page.folder / "test.toml").write_text(config)
    return ["--config", "test.toml"], page.listen("test.toml", "tcp:2525")


@pytest.mark.parametrize("module", ["users", "larger", "apart"])
def test_a_recipient_is_looked_up_without_holding_the_reactor(page: Page, module: str) -> None:
    arguments, port = listening(page, module)
    service = page.serve(arguments)
    assert deliver(port, "ann@example.net") == (550, b"5.1.1 No such user")
    assert deliver(port, "ann@example.org")[0] == 250
    page.stop()
    assert "held the reactor" not in service.output


def test_without_a_thread_the_log_names_the_hook(page: Page) -> None:
    page.change("users.py", "await deferToThread(isKnown, str(address))", "isKnown(str(address))")
    arguments, port = listening(page, "users")
    service = page.serve(arguments)
    deliver(port, "ann@example.org")
    service.waitForLine("hook onRcptTo held the reactor for ", " ms")


def test_the_pool_of_the_reactor_is_enlarged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    from twisted.internet import reactor

    sizes: list[int] = []
    monkeypatch.setattr(reactor, "suggestThreadPoolSize", sizes.append)
    module: SimpleNamespace = define("howto/blocking.rst", "larger.py", tmp_path)
    sys.modules.pop("users")  # another page may have a module of that name
    module.ManyUsers().onStart(None)
    assert sizes == [40]


def test_the_pool_of_its_own_ends_with_the_service(page: Page) -> None:
    arguments, port = listening(page, "apart")
    service = page.serve(arguments)
    deliver(port, "ann@example.org")
    # The process would not end while a thread of the pool runs.
    assert service.terminate() == 0
