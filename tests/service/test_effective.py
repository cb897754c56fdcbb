"""The effective configuration: what it holds, that it means the same when it is read, and that it holds no secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from smtphooks.service.checking import Configuration, configure
from smtphooks.service.effective import describe
from smtphooks.service.reading import readSettings
from tests.secrets import SCRAM_SECRET
from tests.service.configurations import LISTENERS, MAIL, OPTIONAL, PAIRS, USERS, configured, limitsOf, sharingOf

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize(
    "text",
    [
        OPTIONAL,
        OPTIONAL
        + 'banner = "\\"quoted\\" \\\\ ü \\U0001F4E7"\nmaxCommandLength = 600\ncloseTimeout = 1.5\n'
        + 'disabledCommands = ["VRFY"]\nextensions = ["mailapp:limit"]\n'
        + '[hooks-options]\n"a b" = {c = [1, {d = "e"}]}\nat = 2026-01-02T03:04:05Z\nday = 2026-01-02\n'
        + 'hour = 03:04:05\nmany = inf\ntext = "\\u007f\\t\\u0001"\n'
        + '[[listener]]\nendpoint = "tcp:25"\n'
        + '[[listener]]\nendpoint = "unix:lmtp:mode=660"\nlmtp = true\nmaxCommandLength = 700\n',
        OPTIONAL
        + "maxClients = 5\nmaxClientsPerAddress = 2\n"
        + '[[listener]]\nendpoint = "tcp:25"\nmaxClients = 3\n[[listener]]\nendpoint = "tcp:26"\n',
        OPTIONAL + '[[listener]]\nendpoint = "tcp:25"\nmaxClients = 3\n',
        "discard = true\n"
        + OPTIONAL
        + '[[listener]]\nendpoint = "tcp:25"\nhooks = "mailapp:Dropping"\n[listener.hooks-options]\n"a b" = [1]\n'
        + '[[listener]]\nendpoint = "tcp:26"\ndiscard = false\n'
        + '[[listener]]\nendpoint = "tcp:27"\nhooks = "mailapp:single"\n',
        '[options]\nauthOptional = true\n[[listener]]\nendpoint = "tcp:25"\nhooks = "mailapp:Dropping"\n'
        + "discard = true\nsize = 5\n",
        "hooks = ['mailapp:Picky', 'mailapp:single']\n[options]\nauthOptional = true\n",
        "[options]\nauthOptional = true\n"
        + "[[layer]]\nuse = 'mailapp:Picky'\ndomains = ['a', 'b']\nunless = ['authenticated', '192.0.2.0/24']\n"
        + "hookTimeout = 1.5\nonFault = 'pass'\n"
        + "[[layer]]\nuse = 'mailapp:Declared'\nfile = 'a'\nnumber = 4\n"
        + "[[layer]]\nuse = 'mailapp:Mail'\n\"a b\" = {c = [1, {d = 'e'}]}\n"
        + "[[listener]]\nendpoint = 'tcp:1'\n[[listener]]\nendpoint = 'tcp:2'\nsize = 5\n"
        + "[[listener.layer]]\nuse = 'mailapp:Mail'\n[[listener.layer]]\nuse = 'mailapp:Picky'\nunless = ['secure']\n",
        "[options]\nauthOptional = true\n[[layer]]\nuse = 'smtphooks.stores:Tee'\nhookTimeout = 5\n"
        + "a = {use = 'smtphooks.stores:Maildir', path = 'one'}\nb = {use = 'mailapp:Mail', x = {y = 1}}\n",
    ],
)
def test_a_configuration_is_written_as_it_is_read(text: str) -> None:
    read = configured(text)
    written = describe(read)
    again = configured(written)
    assert describe(again) == written
    assert (again.layers, again.discard) == (read.layers, read.discard)
    assert [one.settings.layers for one in again.listeners] == [one.settings.layers for one in read.listeners]
    assert [limitsOf(one.factory.clients) for one in again.listeners] == [
        limitsOf(one.factory.clients) for one in read.listeners
    ]
    assert limitsOf(again.clients) == limitsOf(read.clients)
    assert [one.endpoint for one in again.listeners] == [one.endpoint for one in read.listeners]
    assert [one.factory.options for one in again.listeners] == [
        attrs.evolve(one.factory.options, extensions=other.factory.options.extensions)
        for one, other in zip(read.listeners, again.listeners, strict=True)
    ]


@pytest.mark.parametrize(
    ("common", "options"),
    [
        ("authOptional = true\ndisabledCommands = ['AUTH']\n", {"authOptional": True, "disabledCommands": ("AUTH",)}),
        ("disabledCommands = ['AUTH']\nauthOptional = true\n", {"authOptional": True, "disabledCommands": ("AUTH",)}),
        (
            "authOptional = true\nminVersion = 'TLSv1'\nmaxVersion = 'TLSv1.1'\n",
            {"minVersion": "TLSv1", "maxVersion": "TLSv1.1"},
        ),
    ],
)
def test_options_that_only_fit_together_are_written_so_that_they_are_accepted_again(
    common: str, options: dict[str, Any]
) -> None:
    configuration = configured(f"{MAIL}[options]\n{common}")
    again = configured(describe(configuration))
    for listener in (*configuration.listeners, *again.listeners):
        assert {name: getattr(listener.factory.options, name) for name in options} == options


@pytest.mark.parametrize(
    ("common", "own", "counting", "showing"),
    [
        ("", ["", "", ""], [0, 0, 0], [0, 0, 0]),
        ("", ["authFailuresPerAddress = 20", "", ""], [0, 1, 1], [0, 0, 0]),
        ("authFailuresPerAddress = 5", ["", "authFailuresPerAddress = 5", ""], [0, 1, 0], [0, 0, 0]),
        ("", ["authFailuresPerAddress = 5"] * 3, [0, 1, 2], [0, 0, 0]),
        ("authFailuresPerAddress = 5", ["", "authFailuresPerAddress = 6", ""], [0, 1, 0], [0, 0, 0]),
        ("", ["authFailuresPerAddress = 0", "", ""], [0, 1, 1], [0, 0, 0]),
        ("authFailuresPerAddress = 0", ["", "", ""], [0, 0, 0], [0, 0, 0]),
        ("scramSecret = './one'", ["", "scramSecret = './one'", ""], [0, 0, 0], [0, 1, 0]),
        ("scramSecret = './one'", ["", "scramSecret = './other'", ""], [0, 0, 0], [0, 1, 0]),
        ("", ["scramSecret = './one'"] * 3, [0, 0, 0], [0, 1, 2]),
        ("scramIterations = 5000", ["scramIterations = 5000", "", ""], [0, 0, 0], [0, 1, 1]),
        ("", ["", "", "scramSaltLength = 16"], [0, 0, 0], [0, 0, 2]),
        ("scramSaltLength = 16\nscramIterations = 5000", ["", "", ""], [0, 0, 0], [0, 0, 0]),
    ],
)
def test_listeners_share_the_same_when_it_is_read_again(
    folder: Path, common: str, own: list[str], counting: list[int], showing: list[int]
) -> None:
    for name in ("one", "other"):
        (folder / name).write_text(SCRAM_SECRET + name)
    read = configured(
        f"{OPTIONAL}{common}\n"
        + "".join(f'[[listener]]\nendpoint = "tcp:{number}"\n{said}\n' for number, said in enumerate(own, 1))
    )
    again = configured(describe(read))
    assert sharingOf(read) == sharingOf(again) == (counting, showing)
    assert describe(again) == describe(read)
    assert [one.factory.options for one in again.listeners] == [one.factory.options for one in read.listeners]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("workers = 4\n", "workers = 4\nworkerTimeout = 30.0\n"),
        ("workers = 'auto'\nworkerTimeout = 0\n", 'workers = "auto"\nworkerTimeout = 0.0\n'),
        ("workers = 1\ncontrol = '/run/c'\n", 'workers = 1\nworkerTimeout = 30.0\ncontrol = "/run/c"\n'),
        ("", ""),
    ],
)
def test_workers_are_written_above_all_tables_and_mean_the_same(text: str, written: str) -> None:
    read = configured(text + OPTIONAL)
    described = describe(read)
    top = described.partition("\n[")[0]
    assert written in top and ("workers" in top) == bool(written)
    again = configured(described)
    assert again.workers == read.workers
    assert describe(again) == described


def test_the_control_socket_is_the_same_one_wherever_the_written_file_is(folder: Path) -> None:
    read = configured("workers = 2\ncontrol = 'run/control'\n" + OPTIONAL)
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "written.toml").write_text(describe(read))
    control = readSettings(str(folder / "elsewhere" / "written.toml")).workers.control
    assert control == str(folder / "run" / "control") == read.workers.control


def test_options_of_one_listener_are_written_there() -> None:
    written = describe(
        configured(
            OPTIONAL + '[[listener]]\nendpoint = "tcp:25"\n[[listener]]\nendpoint = "tcp:26"\nmaxCommandLength = 700\n'
        )
    )
    assert written.endswith(
        '\n[[listener]]\nendpoint = "tcp:25"\n\n[[listener]]\nendpoint = "tcp:26"\nmaxCommandLength = 700\n'
    )


def test_limits_are_written_where_they_were_set() -> None:
    written = describe(configured(OPTIONAL + "maxClients = 5\n" + LISTENERS + "maxClients = 3\n"))
    common, _, other = written.split("[[listener]]")
    assert "\nmaxClients = 5\n" in common
    assert "\nmaxClients = 0\n" not in common
    assert "maxClients = 3\n" in other


def test_common_hooks_are_not_written_where_all_listeners_have_their_own() -> None:
    configuration = configured(
        '[options]\nauthOptional = true\n[[listener]]\nendpoint = "tcp:1"\nhooks = "mailapp:Mail"\n'
    )
    common, _, _ = describe(configuration).partition("[[listener]]")
    assert not any(line.startswith("hooks") for line in common.splitlines())


def test_a_secret_is_not_written_wherever_it_stands() -> None:
    own = f"scramSecret = '{SCRAM_SECRET}'\n"
    for text in (OPTIONAL + own, OPTIONAL + LISTENERS + own):
        written = describe(configured(text))
        assert SCRAM_SECRET not in written
        assert 'scramSecret = "(not shown)"\n' in written
        assert "scramSecret" not in describe(configured(OPTIONAL))


@pytest.mark.parametrize("where", ["[options]", "[[listener]]\nendpoint = 'tcp:1'"])
def test_the_path_of_a_secret_is_written(folder: Path, where: str) -> None:
    (folder / "etc").mkdir()
    (folder / "etc" / "secret").write_text(SCRAM_SECRET)
    (folder / "etc" / "smtphooks.toml").write_text(f"hooks = 'mailapp:Trusting'\n{where}\nscramSecret = './secret'\n")
    written = describe(configure(readSettings("etc/smtphooks.toml")))
    assert f'scramSecret = "{folder}/etc/./secret"\n' in written
    assert describe(configured(written)) == written


def test_no_checker_is_written() -> None:
    written = describe(configured(MAIL + USERS))
    assert '\n[auth]\ncheckers = ["(not shown)"]\n' in written
    assert "pencil" not in written and "memory" not in written and "portal" not in written


class TestComments:
    PICKY = "[[layer]]\nuse = 'mailapp:Picky'\nunless = ['authenticated']\nhookTimeout = 3\nonFault = 'pass'\n"
    LAYERS = "[options]\nauthOptional = true\n" + PICKY + "[[layer]]\nuse = 'mailapp:Mail'\n"

    def comments(self, text: str) -> list[str]:
        """The comments, which stand before everything else."""
        lines = describe(configured(text)).splitlines()
        found = [line for line in lines if line.startswith("#")]
        assert found == lines[: len(found)]
        return found

    def test_they_say_what_all_listeners_ask(self) -> None:
        assert self.comments(self.LAYERS + "[[listener]]\nendpoint = 'tcp:1'\n[[listener]]\nendpoint = 'tcp:2'\n") == [
            "# The layers that every listener asks, in this order:",
            "# onRcptTo: Picky (unless authenticated; at most 3 s; a fault passes)",
            "# onData: Mail",
        ]

    def test_they_warn_of_seconds_that_can_only_be_milliseconds_once_for_all_listeners_that_have_them(self) -> None:
        common = self.LAYERS.replace("[[layer]]", "socketTimeout = 60000\n[[layer]]", 1)
        local = LISTENERS.replace("tcp:1", "tcp:1:interface=127.0.0.1").replace("tcp:2", "tcp:2:interface=127.0.0.1")
        found = self.comments(common + local + "greetDelay = 3000\n")
        assert [line for line in found if line.startswith("# warning: ")] == [
            "# warning: every listener: option socketTimeout is 60000 seconds, which is 16.7 hours, did you mean 60?",
            "# warning: listener 2 (tcp:2:interface=127.0.0.1): option greetDelay is 3000 seconds, which is 50 minutes,"
            " did you mean 3?",
        ]

    def test_they_say_it_for_each_listener_where_these_differ(self) -> None:
        text = self.LAYERS + LISTENERS.replace("tcp:1", "tcp:1:interface=127.0.0.1")
        assert self.comments(text + "[[listener.layer]]\nuse = 'mailapp:Trusting'\n") == [
            "# The layers that listener 1 (tcp:1:interface=127.0.0.1) asks, in this order:",
            "# onRcptTo: Picky (unless authenticated; at most 3 s; a fault passes)",
            "# onData: Mail",
            "# The layers that listener 2 (tcp:2) asks, in this order:",
            "# onAuth: Trusting",
            "# onRcptTo: no layer, every recipient is accepted",
            "# onData: Trusting",
            "# warning: listener 2 (tcp:2): no layer decides on recipients: any client may send to any address, add a"
            " layer with onRcptTo such as smtphooks.layers:Recipients",
        ]

    @pytest.mark.parametrize(("text", "name"), [("[options]\nauthOptional = true\n", "Maildir"), (OPTIONAL, "Mail")])
    def test_they_are_true_without_layers_too(self, text: str, name: str) -> None:
        assert self.comments(text) == [
            "# The layers that every listener asks, in this order:",
            "# onRcptTo: no layer, every recipient is accepted",
            f"# onData: {name}",
        ]

    def test_they_say_that_messages_are_dropped_and_who_checks_users(self) -> None:
        for layers in (self.PICKY, self.PICKY * 2):
            comments = self.comments("discard = true\n" + USERS + layers)
            assert comments[1] == "# onAuth: the checkers"
            assert comments[-1] == "# onData: no layer, every message is accepted and dropped"

    def test_no_line_of_an_endpoint_leaves_them(self) -> None:
        written = describe(configured(OPTIONAL + '[[listener]]\nendpoint = "tcp:1\\n[options]"\n'))
        assert describe(configured(written)) == written


class TestSecretsOfLayers:
    @pytest.mark.parametrize("key", ["[[layer]]\nuse =", "hooks ="])
    def test_they_are_not_written(self, folder: Path, key: str) -> None:
        options = "" if "layer" in key else "[hooks-options]\n"
        written = describe(
            configured(
                f"discard = true\n{key} 'mailapp:Declared'\n{options}"
                "token = 'pencil'\nfile = 'token'\nword = 'pencil'\n"
                "[options]\nauthOptional = true\n"
            )
        )
        assert "pencil" not in written
        assert f'\ntoken = "(not shown)"\nfile = "{folder}/token"\nword = "(not shown)"\n' in written

    def test_neither_are_those_of_an_object_among_the_options(self, folder: Path) -> None:
        b = "b = {use = 'mailapp:Storing', token = 'pencil', file = 'c'}\n"
        tee = "[[layer]]\nuse = 'smtphooks.stores:Tee'\na = {use = 'smtphooks.stores:Maildir', path = 'one'}\n" + b
        written = describe(configured("[options]\nauthOptional = true\n" + tee))
        assert f'\na = {{use = "smtphooks.stores:Maildir", path = "{folder}/one"}}\n' in written
        assert f'\nb = {{use = "mailapp:Storing", token = "(not shown)", file = "{folder}/c"}}\n' in written

    def test_neither_are_those_of_a_listener_whose_paths_are(self, folder: Path) -> None:
        layer = "[[listener.layer]]\nuse = 'mailapp:Declared'\ntoken = 'pencil'\nfile = 'a'\nsecret = './b'\n"
        text = f"discard = true\n{OPTIONAL}[[listener]]\nendpoint = 'tcp:1'\n{layer}"
        written = describe(configured(text))
        assert f'\ntoken = "(not shown)"\nfile = "{folder}/a"\nsecret = "{folder}/./b"\n' in written
        assert '\nsecret = "(not shown)"\n' in describe(configured(text.replace("./b", "pencil")))

    def test_neither_are_those_of_a_class_that_declares_nothing(self) -> None:
        written = describe(
            configured(
                OPTIONAL
                + "[hooks-options]\npassword = 'pencil'\ndatabase = 'postgresql://ann:pencil@db.example/mail'\n"
            )
        )
        assert "pencil" not in written
        assert '\npassword = "(not shown)"\ndatabase = "postgresql://ann:(not shown)@db.example/mail"\n' in written


class TestTLS:
    @pytest.fixture(autouse=True)
    def files(self, folder: Path) -> None:
        """Put keys and certificates into the folder of the configuration, which is not the working folder."""
        (folder / "etc").mkdir()
        for stem, pair in PAIRS.items():
            pair.writeTo(folder / "etc", stem)

    def configured(self, text: str) -> Configuration:
        Path("etc/smtphooks.toml").write_text(OPTIONAL + text)
        return configure(readSettings("etc/smtphooks.toml"))

    def test_no_key_is_written_wherever_it_stands(self) -> None:
        pair = PAIRS["main"]
        own = f"key = '''\n{pair.key}'''\ncert = 'main.pem'\n"
        written = describe(
            self.configured(
                f"[tls]\n{own}[tls.sni.'mail.example']\n{own}{LISTENERS}{own}[listener.sniOptions.b]\n{own}"
            )
        )
        assert "PRIVATE" not in written
        assert written.count('key = "(not shown)"') == 3
        assert "main.pem" in written

    def test_no_key_is_written_that_stands_with_its_certificate(self) -> None:
        both = f"cert = '''\n{PAIRS['main'].key}{PAIRS['main'].cert}'''\nkey = 'main.key'\n"
        written = describe(self.configured(f"[tls]\n{both}"))
        assert "PRIVATE" not in written
        assert describe(configured(written)) == written

    def test_paths_of_keys_are_written(self, folder: Path) -> None:
        written = describe(self.configured("[tls]\nkey = 'main.key'\ncert = 'main.pem'\n"))
        assert f'key = "{folder}/etc/main.key"\n' in written
        assert describe(configured(written)) == written
