"""The search for secrets finds them wherever a log event could hold one, so that an empty result means something."""

from __future__ import annotations

import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import Logger, LogLevel
from twisted.python import log as oldLog
from twisted.python.failure import Failure

from smtphooks import SMTPServerFactory
from tests.conftest import Logged, takeBetrayals
from tests.secrets import CRAM_DIGEST, PASSWORD, TOKEN, UNICODE_PASSWORD, encoded, plain, secretsIn
from tests.support import HELLO, connect

log = Logger()


@pytest.mark.parametrize("secret", [PASSWORD, UNICODE_PASSWORD, TOKEN, CRAM_DIGEST])
@pytest.mark.parametrize("before", ["", "x", "xy", "xyz", "\0ann\0"])
def test_secret_is_found_in_every_form(secret: str, before: str) -> None:
    octets = f"{before}{secret}".encode()
    for text in (secret, repr(secret), repr(octets), octets.hex(), b64encode(octets + b"\1x").decode()):
        assert secretsIn(f"some {text} words"), text
        assert secretsIn(f"some {text[:6]} words") == []


def test_response_of_a_client_is_a_secret_of_its_own() -> None:
    response = encoded("anything that a client may respond")
    assert secretsIn(f"received AUTH PLAIN {response}") == [response]


@pytest.mark.parametrize("level", [*LogLevel.iterconstants()])
def test_secret_is_found_at_every_level_and_in_every_place_of_an_event(logged: Logged, level: Any) -> None:
    for values in ({"a": PASSWORD}, {"a": {"deep": [PASSWORD.encode()]}}, {"log_failure": Failure(ValueError(TOKEN))}):
        log.emit(level, "text without", **values)
        assert takeBetrayals()
    log.emit(level, "text {secret}", secret=plain())
    assert takeBetrayals()
    log.emit(level, "text {a}", a="nothing")
    assert takeBetrayals() == []
    logged.clear()


def test_secret_is_found_in_what_the_old_log_says() -> None:
    oldLog.msg(f"login with {PASSWORD}")
    assert takeBetrayals()


def test_search_sees_the_events_of_a_server() -> None:
    def betray(auth: Any, session: Any) -> Any:
        log.debug("{auth.password} tried", auth=auth)

    one = connect(allowInsecureAuth=True, onAuth=betray)
    one.say(HELLO, f"AUTH PLAIN {plain()}")
    assert takeBetrayals()


def test_factory_shows_no_secret_in_its_repr() -> None:
    assert PASSWORD not in repr(SMTPServerFactory(onAuth=lambda auth, session: PASSWORD))


SUITE = """
from twisted.logger import Logger
from tests.conftest import *
from tests.secrets import PASSWORD


def test_innocent():
    Logger().info("nothing")


def test_traitor():
    Logger().debug("{it}", it=PASSWORD)


@pytest.fixture(scope="session")
def late():
    yield
    Logger().debug("{it}", it=PASSWORD)


def test_late(late):
    pass
"""


@pytest.mark.parametrize("test, outcome", [("innocent", 0), ("traitor", 1), ("late", 1)])
def test_run_that_logged_a_secret_fails(tmp_path: Path, test: str, outcome: int) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    (tmp_path / "test_it.py").write_text(SUITE.replace("from tests.conftest import *\n", "import pytest\n"))
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, "-k", test, tmp_path],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert run.returncode == outcome, run.stdout + run.stderr
    assert ("was logged" in run.stdout + run.stderr) is bool(outcome)
