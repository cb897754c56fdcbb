"""Metering: a real service is scraped over HTTP while mail flows, and its probes follow its life."""

from __future__ import annotations

import importlib
import os
import smtplib
import socket
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from smtphooks.service import listeners, tap
from smtphooks.service.metering import Metering, metricsOf
from tests.conftest import Logged
from tests.metrics.scrape import Scrape
from tests.real.programs import PATIENCE, ROOT, Client, Program, eventually, freePort, requires, run, tcp
from tests.secrets import PASSWORD, WRONG_PASSWORD
from tests.service.configurations import OPTIONAL, configured, refusal
from tests.support import makeFactory

HOOKS = f"""
import os

from twisted.internet import reactor
from twisted.internet.task import deferLater

from smtphooks import AuthResponse, SMTPError


class Gate:
    async def onStart(self, service):
        while os.path.exists("wait"):
            await deferLater(reactor, 0.01)

    def onRcptTo(self, address, session):
        if address.local == "nobody":
            raise SMTPError("No such user", 550)

    def onAuth(self, auth, session):
        return AuthResponse(user=auth.username if auth.password == {PASSWORD!r} else None)


class Store:
    async def onRcptTo(self, address, session):
        if address.local == "bug":
            raise ZeroDivisionError

    async def onData(self, stream, session):
        if b"refuse" in await stream.read():
            raise SMTPError("No", 554)
"""

MESSAGE = "Subject: x\r\n\r\ntext\r\n"


def configuration(*ports: int, metrics: int, options: str = "") -> str:
    listeners = "".join(f'[[listener]]\nendpoint = "{tcp(port)}"\n' for port in ports)
    return (
        f'hooks = ["mailing:Gate", "mailing:Store"]\nmetrics = "{tcp(metrics)}"\n'
        f"[options]\nauthOptional = true\nmaxClients = 10\n{options}{listeners}"
    )


class Started:
    """
    A service that was started.

    @ivar port: that of its first listener.
    """

    def __init__(self, folder: Path, listeners: int = 1, options: str = "") -> None:
        (folder / "mailing.py").write_text(HOOKS)
        ports = [freePort() for _ in range(listeners)]
        self.port, self.ports, self.http = ports[0], ports, freePort()
        (folder / "smtphooks.toml").write_text(configuration(*ports, metrics=self.http, options=options))
        self.program = Program(
            [sys.executable, "-m", "smtphooks", "--config", "smtphooks.toml"],
            {**os.environ, "PYTHONPATH": str(ROOT)},
            folder,
        )

    def listens(self) -> Started:
        for port in self.ports:
            self.program.waitForLine("listening on", str(port))
        return self

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def scrape(self) -> Scrape:
        status, text = self.get("/metrics")
        assert status == 200
        return Scrape(text)

    def send(self, *recipients: str, text: str = MESSAGE, port: int | None = None) -> None:
        client = smtplib.SMTP("127.0.0.1", port or self.port, "client.example", timeout=PATIENCE)
        with client, suppress(smtplib.SMTPException):
            client.sendmail("a@client.example", recipients, text)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[type[Started]]:
    """Start a service in the folder of the test; it must end cleanly."""
    services: list[Started] = []

    class Here(Started):
        def __init__(self, listeners: int = 1, options: str = "") -> None:
            super().__init__(tmp_path, listeners, options)
            services.append(self)

    yield Here
    for service in services:
        assert service.program.terminate() == 0, service.program.output


class TestNumbers:
    def test_they_are_those_of_the_mail_that_came(self, start: type[Started]) -> None:
        service = start().listens()
        service.send("user@mx.example")
        service.send("user@mx.example", "other@mx.example", "nobody@mx.example")
        service.send("user@mx.example", text=MESSAGE + "refuse\r\n")
        service.send("bug@mx.example")
        eventually(lambda: service.scrape().one("smtphooks_open_connections") == 0, "all clients have left")

        seen = service.scrape()
        assert seen.one("smtphooks_connections_total") == 4
        assert seen.of("smtphooks_transactions_total", "result") == {
            ("accepted",): 2,
            ("refused",): 1,
            ("abandoned",): 1,
        }
        assert seen.of("smtphooks_messages_total", "result") == {("accepted",): 2, ("refused",): 1}
        assert seen.one("smtphooks_message_bytes_total") == 2 * len(MESSAGE)
        assert seen.one("smtphooks_message_recipients_total") == 3
        assert seen.one("smtphooks_final_dot_to_reply_seconds_count") == 3
        assert seen.of("smtphooks_replies_total", "verb", "code") == {
            ("", "220"): 4,
            ("EHLO", "250"): 4,
            ("MAIL", "250"): 4,
            ("RCPT", "250"): 4,
            ("RCPT", "550"): 1,
            ("RCPT", "451"): 1,
            ("DATA", "354"): 3,
            ("DATA", "250"): 2,
            ("DATA", "554"): 1,
            ("RSET", "250"): 2,  # by smtplib, after each refusal of all
            ("QUIT", "221"): 4,
        }
        assert seen.of("smtphooks_refusals_total", "by", "verb") == {
            ("onRcptTo of Gate", "RCPT"): 1,
            ("onRcptTo of Store", "RCPT"): 1,
            ("onData of Store", "DATA"): 1,
        }
        assert seen.of("smtphooks_hook_seconds_count", "hook", "layer") == {
            ("onRcptTo", "Gate"): 6,
            ("onRcptTo", "Store"): 5,
            ("onData", "Store"): 3,
        }
        assert seen.of("smtphooks_hook_faults_total", "hook", "layer") == {("onRcptTo", "Store"): 1}
        assert {sample.labels["listener"] for sample in seen.samples if "listener" in sample.labels} == {
            tcp(service.port)
        }

    @requires("swaks")
    def test_tls_and_auth_are_counted(self, start: type[Started]) -> None:
        service = start().listens()
        for password, status in ((PASSWORD, 0), (WRONG_PASSWORD, 28)):
            arguments = [
                "-tls",
                "-a",
                "PLAIN",
                "-au",
                "ann",
                "-ap",
                password,
                "-f",
                "a@c.example",
                "-t",
                "b@mx.example",
            ]
            run("swaks", "-s", f"127.0.0.1:{service.port}", *arguments, status=status)
        seen = service.scrape()
        assert seen.of("smtphooks_tls_handshakes_total", "version") == {("TLSv1.3",): 2}
        assert seen.of("smtphooks_auth_attempts_total", "method", "result") == {
            ("PLAIN", "success"): 1,
            ("PLAIN", "failure"): 1,
        }

    def test_implicit_tls_is_counted(self, start: type[Started]) -> None:
        service = start(options="secure = true\n").listens()
        context = ssl._create_unverified_context()
        with smtplib.SMTP_SSL("127.0.0.1", service.port, "client.example", timeout=PATIENCE, context=context):
            assert service.scrape().of("smtphooks_tls_handshakes_total") == {(): 1}

    def test_each_listener_has_its_own(self, start: type[Started]) -> None:
        service = start(listeners=2).listens()
        service.send("user@mx.example", port=service.ports[1])
        assert service.scrape().of("smtphooks_messages_total", "listener") == {(tcp(service.ports[1]),): 1}

    def test_the_limit_of_all_listeners_is_seen_at_each(self, start: type[Started]) -> None:
        service = start(listeners=2).listens()
        with Client(service.ports[0]):
            seen = service.scrape().of("smtphooks_connection_limit_used_ratio", "listener")
        assert seen == {(tcp(port),): 0.1 for port in service.ports}

    @requires("promtool")
    def test_prometheus_takes_a_scrape(self, start: type[Started]) -> None:
        service = start().listens()
        service.send("user@mx.example")
        run("promtool", "check", "metrics", stdin=service.get("/metrics")[1].encode())


class TestProbes:
    def test_the_service_is_not_ready_while_a_layer_starts(self, start: type[Started], tmp_path: Path) -> None:
        (tmp_path / "wait").touch()
        service = start()
        service.program.waitForLine("metrics are served on", str(service.http))
        assert service.get("/readyz") == (503, "not ready\n")
        assert service.get("/healthz") == (200, "ok\n")
        assert service.scrape().one("smtphooks_ready") == 0
        (tmp_path / "wait").unlink()
        service.listens()
        assert service.get("/readyz") == (200, "ok\n")
        assert service.scrape().one("smtphooks_ready") == 1

    def test_it_is_not_ready_while_it_drains_and_is_scraped_to_the_end(self, start: type[Started]) -> None:
        service = start().listens()
        with Client(service.port) as client:
            client.envelope(b"user@mx.example")
            os.kill(service.program.pid, 15)
            eventually(lambda: service.get("/readyz")[0] == 503, "it says that it drains")
            assert service.get("/healthz")[0] == 200
            client.say(b"DATA", 354)
            client.say(MESSAGE.encode() + b".", 250)
            client.reply(421)
        assert service.program.wait() == 0
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", service.http)).close()

    def test_other_paths_are_not_found_and_no_request_is_logged(self, start: type[Started]) -> None:
        service = start().listens()
        before = service.program.output
        assert service.get("/")[0] == service.get("/else")[0] == 404
        assert service.get("/metrics")[0] == 200
        service.program.terminate()
        assert "/else" not in service.program.output.removeprefix(before)


class TestConfiguration:
    def test_check_shows_it(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "smtphooks.toml").write_text(
            'hooks = "mailapp:Mail"\nmetrics = "tcp:9125"\n[options]\nauthOptional = true\n'
        )
        with pytest.raises(SystemExit) as caught:
            tap.Options().parseOptions(["--config", "smtphooks.toml", "--check"])
        assert caught.value.code == 0
        assert '\nmetrics = "tcp:9125"\n' in capsys.readouterr().out

    def test_without_the_extra_the_sentence_says_what_to_do(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "prometheus_client", None)
        assert refusal('metrics = "tcp:9125"\n') == (
            "smtphooks.toml: metrics wants prometheus_client, which is not installed: pip install"
            " 'smtphooks[metrics]', or leave metrics out"
        )

    def test_without_the_key_the_extra_is_not_missed(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "prometheus_client", None)
        assert configured('hooks = "mailapp:Mail"\n[options]\nauthOptional = true\n').metrics is None

    @pytest.mark.parametrize("value", ["9125", "true", '["tcp:9125"]'])
    def test_it_is_a_text(self, folder: Path, value: str) -> None:
        assert refusal(f"metrics = {value}\n") == (
            f"smtphooks.toml: metrics is {value}, it wants a Twisted server endpoint such as"
            ' "tcp:9125:interface=127.0.0.1"'
        )

    def test_it_stands_above_all_tables(self, folder: Path) -> None:
        assert refusal('[options]\nmetrics = "tcp:1"\n') == (
            "smtphooks.toml: [options]: metrics is no option, move it above all tables"
        )

    def test_it_is_an_endpoint_of_twisted(self, folder: Path) -> None:
        (folder / "smtphooks.toml").write_text(
            'hooks = "mailapp:Mail"\nmetrics = "9125"\n[options]\nauthOptional = true\n'
        )
        with pytest.raises(SystemExit) as caught:
            tap.Options().parseOptions(["--config", "smtphooks.toml", "--check"])
        assert str(caught.value.code).startswith("smtphooks: smtphooks.toml: metrics 9125 is not one of Twisted's")

    def test_a_port_that_is_in_use_ends_the_start_with_one_sentence(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            (tmp_path / "mailing.py").write_text(HOOKS)
            port = taken.getsockname()[1]
            (tmp_path / "smtphooks.toml").write_text(configuration(freePort(), metrics=port))
            program = Program(
                [sys.executable, "-m", "smtphooks", "--config", "smtphooks.toml"],
                {**os.environ, "PYTHONPATH": str(ROOT)},
                tmp_path,
            )
            assert program.wait() == 1
        assert f"cannot listen on {tcp(port)}: Address already in use, free it or name another" in program.output
        assert "Traceback" not in program.output
        assert "listening on" not in program.output.replace("cannot listen on", "")


class TestOrder:
    def test_it_starts_before_the_layers_and_stops_behind_them(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events: list[str] = []

        class Noting:
            def __init__(self, *arguments: object) -> None: ...

            def start(self, failed: object) -> None:
                events.append("metrics start")

            def stop(self) -> Deferred[None]:
                events.append("metrics stop")
                return succeed(None)

        class Layered:
            def onStart(self, service: object) -> None:
                events.append("onStart")

            def onStop(self, service: object) -> None:
                events.append("onStop")

            def onData(self, stream: object, session: object) -> None: ...

        monkeypatch.setattr(listeners, "Metering", Noting)
        monkeypatch.setattr(mailapp(folder), "Mail", Layered)
        service = listeners.Listeners(configured(f'metrics = "tcp:9125"\n{OPTIONAL}'), MemoryReactorClock())
        service.privilegedStartService()
        service.startService()
        service.stopService()
        assert events == ["metrics start", "onStart", "onStop", "metrics stop"]

    def test_a_failure_that_is_known_later_ends_the_service(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, logged: Logged
    ) -> None:
        waiting: Deferred[object] = Deferred()
        monkeypatch.setattr(listeners, "metricsEndpointOf", lambda configuration, reactor: Endpoint(waiting))
        ends: list[object] = []
        monkeypatch.setattr(listeners, "endWithFailure", ends.append)
        reactor = MemoryReactorClock()
        mailapp(folder)
        service = listeners.Listeners(configured(f'metrics = "tcp:9125"\n{OPTIONAL}'), reactor)
        service.privilegedStartService()
        waiting.errback(CannotListenError("", 9125, OSError(98, "in use")))
        assert ends == [reactor]
        assert logged.takeTexts() == ["cannot listen on tcp:9125: in use, free it or name another endpoint"]


def mailapp(folder: Path) -> ModuleType:
    """The module of hooks in this folder."""
    sys.path.insert(0, str(folder))
    return importlib.import_module("mailapp")


class Port:
    """A port that takes its time to stop."""

    def __init__(self) -> None:
        self.stopped: Deferred[None] = Deferred()

    def stopListening(self) -> Deferred[None]:
        return self.stopped


class Endpoint:
    """An endpoint that listens when the test says so."""

    def __init__(self, result: Deferred[object]) -> None:
        self.result = result
        self.calls = 0

    def listen(self, factory: object) -> Deferred[object]:
        self.calls += 1
        return self.result


def metering(endpoint: Endpoint) -> Metering:
    return Metering("tcp:9125", endpoint, metricsOf([("tcp:25", makeFactory())], lambda: True))  # type: ignore[arg-type]


class TestEndpoint:
    def test_it_listens_once(self) -> None:
        endpoint = Endpoint(succeed(Port()))
        service = metering(endpoint)
        service.start(pytest.fail)
        service.start(pytest.fail)
        assert endpoint.calls == 1

    def test_a_failure_at_once_is_raised(self) -> None:
        with pytest.raises(CannotListenError):
            metering(Endpoint(fail(CannotListenError("", 9125, OSError(98, "in use"))))).start(pytest.fail)

    def test_a_late_failure_is_told(self) -> None:
        waiting: Deferred[object] = Deferred()
        failures: list[Failure] = []
        metering(Endpoint(waiting)).start(failures.append)
        waiting.errback(OSError("in use"))
        assert [failure.type for failure in failures] == [OSError]

    def test_its_stop_is_that_of_the_port(self) -> None:
        port, stopped = Port(), []
        service = metering(Endpoint(succeed(port)))
        service.start(pytest.fail)
        service.stop().addCallback(stopped.append)
        assert stopped == []
        port.stopped.callback(None)
        assert stopped == [None]

    def test_a_stop_before_it_listens_cancels_that(self) -> None:
        failures: list[Failure] = []
        stopped: list[object] = []
        service = metering(Endpoint(Deferred()))
        service.start(failures.append)
        service.stop().addCallback(stopped.append)
        assert (failures, stopped) == ([], [None])

    def test_one_that_was_never_started_has_nothing_to_stop(self) -> None:
        stopped: list[object] = []
        metering(Endpoint(Deferred())).stop().addCallback(stopped.append)
        assert stopped == [None]

    def test_listeners_of_the_same_description_are_told_apart(self) -> None:
        factories = [("tcp:0", makeFactory()) for _ in range(3)]
        service = Metering("tcp:9125", Endpoint(Deferred()), metricsOf(factories, lambda: True))  # type: ignore[arg-type]
        assert list(service.metrics._counts) == ["tcp:0", "tcp:0 (2)", "tcp:0 (3)"]
