"""What a configuration file says, before anything in it is loaded, and the sentence for each mistake in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from smtphooks.service.reading import defaultSettings, fileCheckers, maildirHooks, readSettings
from smtphooks.service.settings import (
    AuthSettings,
    ConfigError,
    HooksSettings,
    ListenerSettings,
    Settings,
    WorkerSettings,
)
from tests.service.configurations import MAIL, OPTIONAL, PAIRS, USERS

pytestmark = pytest.mark.usefixtures("folder")


def read(text: str) -> Settings:
    """The settings in a file with this text."""
    Path("smtphooks.toml").write_text(text)
    return readSettings("smtphooks.toml")


def refusal(text: str) -> str:
    """The sentence for a file with this text."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    return str(caught.value)


# --- what is there ---


def test_without_a_file_clients_on_this_host_store_mail_in_a_maildir(folder: Path) -> None:
    settings = defaultSettings()
    (hooks,) = settings.layers
    assert (hooks.name, hooks.options) == ("smtphooks.stores:Maildir", {"path": f"{folder}/maildir"})
    assert settings.options == {"authOptional": True}
    assert [listener.endpoint for listener in settings.listeners] == ["tcp:2525:interface=127.0.0.1"]
    assert (settings.path, settings.folder, settings.auth, settings.discard) == (None, None, None, False)


def test_an_empty_file_has_the_same_defaults_but_no_options(folder: Path) -> None:
    """The operator says who may send mail."""
    settings = read("")
    assert settings.layers == defaultSettings().layers
    assert settings.options == {}
    (listener,) = settings.listeners
    assert listener.endpoint == "tcp:2525:interface=127.0.0.1"
    assert listener.where == "smtphooks.toml: the default listener (tcp:2525:interface=127.0.0.1)"
    assert (settings.path, settings.folder) == ("smtphooks.toml", str(folder))


def test_each_setting_knows_where_it_stands() -> None:
    settings = read(
        "discard = true\nhooks = 'a:B'\n[hooks-options]\nuser = 'u'\n[options]\nsize = 5\n[tls]\nminVersion = 'x'\n"
        "[[listener]]\nendpoint = 'tcp:1'\nsize = 6\ndiscard = false\nhooks = 'c:D'\n[listener.hooks-options]\nn = 1\n"
        "[[listener]]\nendpoint = 'tcp:2'\n"
    )
    assert settings == Settings(
        [HooksSettings("smtphooks.toml: hooks", "a:B", {"user": "u"}, "[hooks-options]")],
        {"size": 5},
        [
            ListenerSettings(
                "smtphooks.toml: listener 1 (tcp:1)",
                "tcp:1",
                {"size": 6},
                [
                    HooksSettings(
                        "smtphooks.toml: listener 1 (tcp:1): hooks", "c:D", {"n": 1}, "[listener.hooks-options]"
                    )
                ],
                False,
            ),
            ListenerSettings("smtphooks.toml: listener 2 (tcp:2)", "tcp:2"),
        ],
        "smtphooks.toml",
        {"minVersion": "x"},
        discard=True,
    )


def test_nothing_is_loaded_and_no_value_of_an_option_is_looked_at() -> None:
    settings = read("hooks = 'nowhere:At'\n[options]\nsize = 'x'\nextensions = ['a:b']\nkey = 'none.key'\n")
    assert (settings.layers[0].name, settings.options["size"]) == ("nowhere:At", "x")


def test_checkers_are_read_and_not_shown() -> None:
    settings = read(MAIL + USERS)
    assert settings.auth == AuthSettings("smtphooks.toml: [auth]", ["memory:joe:pencil"])
    assert "pencil" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "options", "host", "where"),
    [
        ("[options]\nsize = 5", ["ca", "size"], None, "smtphooks.toml: [options]"),
        ("[tls]\nca = 'x'", ["ca", "size"], None, "smtphooks.toml: [tls]"),
        ("[options]\nkey = 'x'\n[tls]\ncert = 'x'", ["cert", "key"], None, "smtphooks.toml: [tls]"),
        ("[options]\nkey = 'x'\n[tls]\ncert = 'x'", ["key", "cert"], None, "smtphooks.toml: [options]"),
        ("[tls.sni.'a.example']\nkey = 'x'", ["key"], "a.example", 'smtphooks.toml: [tls.sni."a.example"]'),
        (
            "[options.sniOptions.'a.example']\nkey = 'x'",
            ["key"],
            "a.example",
            'smtphooks.toml: [options.sniOptions."a.example"]',
        ),
        ("[options]\nsize = 5", ["ca"], None, None),
        ("[[listener]]\nendpoint = 'tcp:1'\nsize = 5", ["size"], None, None),
    ],
)
def test_the_first_option_that_is_set_for_every_listener_is_found(
    text: str, options: list[str], host: str | None, where: str | None
) -> None:
    assert read(text).whereIs(options, host) == where


def test_without_a_file_options_stand_in_the_defaults() -> None:
    assert defaultSettings().whereIs(["authOptional"]) == "the defaults"


# --- paths ---


@pytest.mark.parametrize(
    "text",
    [
        "[tls]\n{}[tls.sni.'a.example']\n{}",
        "[options]\n{}[options.sniOptions.'a.example']\n{}",
        "[[listener]]\nendpoint = 'tcp:1'\n{}[listener.sniOptions.'a.example']\n{}",
    ],
)
def test_paths_are_relative_to_the_folder_of_the_file(folder: Path, text: str) -> None:
    (folder / "etc").mkdir()
    (folder / "etc" / "smtphooks.toml").write_text(text.format("ca = '/ca.pem'\n", "key = 'a.key'\nciphers = 'a'\n"))
    settings = readSettings("etc/smtphooks.toml")
    assert settings.folder == f"{folder}/etc"
    options = settings.tls or settings.options or settings.listeners[0].options
    assert options == {
        "ca": "/ca.pem",
        "sniOptions": {"a.example": {"key": f"{folder}/etc/a.key", "ciphers": "a"}},
    }


def test_only_file_checkers_have_a_path() -> None:
    given = ["file:passwd", "file:/etc/passwd", "file:", "unix", "memory:joe:pencil"]
    expected = ["file:/folder/passwd", "file:/etc/passwd", "file:", "unix", "memory:joe:pencil"]
    assert fileCheckers(AuthSettings("--auth", given), "/folder") == AuthSettings("--auth", expected)


def test_the_files_of_checkers_are_relative_to_the_folder_of_the_file(folder: Path) -> None:
    (folder / "etc").mkdir()
    (folder / "etc" / "smtphooks.toml").write_text("[auth]\ncheckers = ['file:passwd']\n")
    assert readSettings("etc/smtphooks.toml").auth == AuthSettings(
        "etc/smtphooks.toml: [auth]", [f"file:{folder}/etc/passwd"]
    )


def test_a_maildir_is_relative_to_the_current_working_folder(folder: Path) -> None:
    assert maildirHooks("--maildir", "a/../b").options == {"path": str(folder / "b")}


# --- what is wrong ---


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("hooks = \n", "smtphooks.toml: this is not TOML, correct it: "),
        (MAIL + "optoins = 1\n", "smtphooks.toml: unknown key optoins, did you mean options?"),
        (
            "zzz = 1\n",
            "smtphooks.toml: unknown key zzz, known are hooks, hooks-options, discard, options, tls, auth, listener, "
            "layer, metrics, workers, workerTimeout, control",
        ),
        ("size = 1\n", "smtphooks.toml: option size stands in no table, move it below [options]"),
        ("options = 3\n", "smtphooks.toml: options is 3, it wants a table, [options]"),
        ("hooks = 3\n", 'smtphooks.toml: hooks is 3, it wants a text, "package.module:Name", or a list of them'),
        (
            '[listener]\nendpoint = "tcp:25"\n',
            'smtphooks.toml: listener is {endpoint = "tcp:25"}, it wants a list of tables, each under its own '
            "[[listener]]",
        ),
        (
            "listener = [25]\n",
            "smtphooks.toml: listener 1 is 25, it wants a table under its own [[listener]]",
        ),
        (
            "[[listener]]\nlmtp = true\n",
            'smtphooks.toml: listener 1: endpoint is missing, it wants a Twisted server endpoint such as "tcp:25"',
        ),
        (
            "[[listener]]\nendpoint = 25\n",
            'smtphooks.toml: listener 1: endpoint is 25, it wants a Twisted server endpoint such as "tcp:25"',
        ),
        (
            '[[listener]]\nendpoint = "tcp:25"\nendpint = "tcp:26"\n',
            "smtphooks.toml: listener 1 (tcp:25): unknown option endpint, did you mean endpoint?",
        ),
        (OPTIONAL + "sise = 1\n", "smtphooks.toml: [options]: unknown option sise, did you mean size?"),
        (
            "[options]\nhooks = 'mailapp:Mail'\n",
            "smtphooks.toml: [options]: hooks is no option, move it above all tables or into a [[listener]]",
        ),
        (
            "[options]\nonData = 'text'\n",
            "smtphooks.toml: [options]: unknown option onData",
        ),
        (
            "[hooks-options]\nuser = 'u'\n",
            'smtphooks.toml: [hooks-options] are there without hooks, add hooks = "package.module:Name" above all '
            "tables",
        ),
        (MAIL + "tls = 3\n", "smtphooks.toml: tls is 3, it wants a table, [tls]"),
        (MAIL + "[tls]\nkye = 'x'\n", "smtphooks.toml: [tls]: unknown option kye, did you mean key?"),
        (
            MAIL + "[tls]\nsecure = true\n",
            "smtphooks.toml: [tls]: secure is no option of TLS, move it below [options] or a [[listener]]",
        ),
        (
            MAIL + "[tls]\nsniOptions = {}\n",
            "smtphooks.toml: [tls]: unknown option sniOptions, known are key, cert, ca, requestCert, "
            "rejectUnauthorized, minVersion, maxVersion, ciphers, sni",
        ),
        (
            MAIL + "[tls]\nsni = 'mail.example'\n",
            'smtphooks.toml: [tls]: sni is "mail.example", it wants a table per name, [tls.sni."mail.example.org"]',
        ),
        (
            MAIL + '[tls.sni."mail.example"]\nkay = "x"\n',
            'smtphooks.toml: [tls.sni."mail.example"]: unknown option kay, did you mean key?',
        ),
        (
            MAIL + "[options]\nminVersion = 'TLSv1.2'\n[tls]\nminVersion = 'TLSv1.3'\n",
            "smtphooks.toml: option minVersion stands in [options] and in [tls], leave one out",
        ),
        (
            OPTIONAL + "portal = 'x'\n",
            "smtphooks.toml: [options]: option portal is for Python alone, name checkers below [auth]",
        ),
        (MAIL + "auth = 'memory:joe:pencil'\n", "smtphooks.toml: auth is (not shown), it wants a table, [auth]"),
        (MAIL + "[auth]\ncheker = 1\n", "smtphooks.toml: [auth]: unknown key cheker, did you mean checkers?"),
        *[
            (
                MAIL + f"[auth]\n{checkers}\n",
                'smtphooks.toml: [auth]: checkers are (not shown), they want a list of texts such as ["file:passwd"]',
            )
            for checkers in ("", "checkers = 'memory:joe:pencil'", "checkers = []", "checkers = [3]")
        ],
    ],
)
def test_every_mistake_has_its_sentence(text: str, sentence: str) -> None:
    said = refusal(text)
    assert said.startswith(sentence)
    assert said == sentence or sentence.endswith(": ")
    assert "pencil" not in said


@pytest.mark.parametrize(
    ("listener", "sentence"),
    [
        ("hooks = 3", 'hooks is 3, it wants a text, "package.module:Name", or a list of them'),
        ("hooks-options = 3", "hooks-options is 3, it wants a table, [listener.hooks-options]"),
        (
            "[listener.hooks-options]",
            '[listener.hooks-options] are there without hooks, add hooks = "package.module:Name" to this [[listener]]',
        ),
        ("discard = 1", "discard is 1, it wants true or false"),
        ("hoks = 'mailapp:Mail'", "unknown option hoks, did you mean hooks?"),
    ],
)
def test_a_mistake_of_a_listener_has_its_sentence(listener: str, sentence: str) -> None:
    said = refusal(OPTIONAL + f'[[listener]]\nendpoint = "tcp:1"\n{listener}\n')
    assert said.startswith(f"smtphooks.toml: listener 1 (tcp:1): {sentence}")


# --- workers ---


def test_without_a_key_one_process_serves() -> None:
    assert read("").workers == WorkerSettings(None, 30.0, None)
    assert read("").workers.number == 0


def test_the_keys_of_workers_are_read(folder: Path) -> None:
    text = 'workers = 4\nworkerTimeout = 7\ncontrol = "run/control"\n'
    assert read(text).workers == WorkerSettings(4, 7.0, str(folder / "run" / "control"))
    assert read('workers = "auto"\nworkerTimeout = 0\ncontrol = "/run/c"\n').workers == WorkerSettings(
        "auto", 0.0, "/run/c"
    )


@pytest.mark.parametrize("value", ["0", "-1", "65", "2.0", "true", '"2"', '"Auto"', '""', "[]", "{}", "inf"])
def test_a_wrong_number_of_workers_has_its_sentence(value: str) -> None:
    sentence = refusal(f"workers = {value}\n")
    assert sentence == f'smtphooks.toml: workers is {value}, it wants a number from 1 to 64, or "auto"'


@pytest.mark.parametrize("value", ["-1", "-0.5", "true", '"30"', "[]", "inf", "nan"])
def test_a_wrong_timeout_of_workers_has_its_sentence(value: str) -> None:
    sentence = refusal(f"workerTimeout = {value}\n")
    assert sentence == f"smtphooks.toml: workerTimeout is {value}, it wants a number of seconds, 0 for no limit"


@pytest.mark.parametrize("value", ["3", "true", "[]"])
def test_a_wrong_control_socket_has_its_sentence(value: str) -> None:
    assert refusal(f"control = {value}\n") == (
        f'smtphooks.toml: control is {value}, it wants the path of a UNIX socket such as "/run/smtphooks/control"'
    )


@pytest.mark.parametrize("key", ["workers = 2", "workerTimeout = 2", 'control = "c"'])
@pytest.mark.parametrize("table", ["[options]", "[[listener]]\nendpoint = 'tcp:25'"])
def test_the_keys_of_workers_stand_above_all_tables(key: str, table: str) -> None:
    name = key.partition(" ")[0]
    assert refusal(f"{table}\n{key}\n").endswith(f": {name} is no option, move it above all tables")


def test_a_missing_file_has_its_sentence() -> None:
    with pytest.raises(ConfigError) as caught:
        readSettings("nowhere.toml")
    assert str(caught.value) == (
        "nowhere.toml: the configuration cannot be read (No such file or directory), check --config"
    )


def test_a_file_in_another_encoding_has_its_sentence() -> None:
    Path("latin.toml").write_bytes(b'name = "\xe4"\n')
    with pytest.raises(ConfigError, match=r"^latin\.toml: this is not TOML, correct it: "):
        readSettings("latin.toml")


@pytest.mark.parametrize(
    "text",
    ["[tls]\nsni = {}", "[listener]\nkey = {}", "tls = {}", "[[listener]]\nendpoint = {}"],
)
def test_no_sentence_shows_a_key_wherever_it_stands(text: str) -> None:
    key = PAIRS["main"].key
    said = refusal(text.format(f"['''{key}''']"))
    assert "(not shown)" in said
    assert not any(line in said for line in key.splitlines())


# --- layers ---


class TestLayers:
    def test_each_knows_where_it_stands(self) -> None:
        settings = read(
            "[[layer]]\nuse = 'a:B'\nfile = 'f'\nunless = ['secure']\nhookTimeout = 3\nonFault = 'pass'\n"
            "[[layer]]\nuse = 'c:D'\n"
            "[[listener]]\nendpoint = 'tcp:1'\n[[listener.layer]]\nuse = 'e:F'\nuser = 'u'\n"
        )
        assert settings.layers == [
            HooksSettings(
                "smtphooks.toml: [[layer]] 1 (a:B)",
                "a:B",
                {"file": "f"},
                "[[layer]] 1",
                {"unless": ["secure"], "hookTimeout": 3, "onFault": "pass"},
            ),
            HooksSettings("smtphooks.toml: [[layer]] 2 (c:D)", "c:D", {}, "[[layer]] 2", {}),
        ]
        assert settings.listeners[0].layers == [
            HooksSettings(
                "smtphooks.toml: listener 1 (tcp:1): [[listener.layer]] 1 (e:F)",
                "e:F",
                {"user": "u"},
                "[[listener.layer]] 1",
                {},
            )
        ]

    def test_hooks_may_be_a_list_of_names(self) -> None:
        settings = read("hooks = ['a:B', 'c:D']\n")
        assert [(one.where, one.name, one.options, one.layer) for one in settings.layers] == [
            ("smtphooks.toml: hooks 1", "a:B", {}, None),
            ("smtphooks.toml: hooks 2", "c:D", {}, None),
        ]

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            (
                "[layer]\nuse = 'a:B'\npassword = 'pencil'\n",
                'layer is {use = "a:B", password = "(not shown)"}, it wants a list of tables, each under its own '
                "[[layer]]",
            ),
            ("layer = []\n", "layer is [], it wants a list of tables, each under its own [[layer]]"),
            ("layer = ['a:B']\n", '[[layer]] 1 is "a:B", it wants a table under its own [[layer]]'),
            (
                "[[layer]]\nuse = 'a:B'\n[[layer]]\nfile = 'x'\n",
                '[[layer]] 2: use is missing, it wants a text, "package.module:Name"',
            ),
            (
                "[[layer]]\nusse = 'a:B'\n",
                '[[layer]] 1: use is missing, but there is usse, it wants a text, "package.module:Name"',
            ),
            ("[[layer]]\nuse = 3\n", '[[layer]] 1: use is 3, it wants a text, "package.module:Name"'),
            (
                "hooks = 'a:B'\n[[layer]]\nuse = 'a:B'\n",
                "hooks and [[layer]] both say what hooks there are, leave one of them out",
            ),
            (
                "[hooks-options]\nuser = 'u'\n[[layer]]\nuse = 'a:B'\n",
                "[hooks-options] and [[layer]] both say what hooks there are, leave one of them out",
            ),
            (
                "hooks = ['a:B']\n[hooks-options]\nuser = 'u'\n",
                "[hooks-options] are there with a list of hooks, write a [[layer]] for each of them, with its options "
                "beside its use",
            ),
            ("hooks = []\n", 'hooks is [], it wants a text, "package.module:Name", or a list of them'),
            ("hooks = ['a:B', 3]\n", 'hooks is ["a:B", 3], it wants a text, "package.module:Name", or a list of them'),
            ("[[layers]]\nuse = 'a:B'\n", "unknown key layers, did you mean layer?"),
            (
                "[[options.layer]]\nuse = 'a:B'\n",
                "[options]: layer is no option, move it above all tables or into a [[listener]]",
            ),
        ],
    )
    def test_a_mistake_has_its_sentence(self, text: str, sentence: str) -> None:
        assert refusal(text) == f"smtphooks.toml: {sentence}"

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            (
                "[listener.layer]\nuse = 'a:B'\n",
                'layer is {use = "a:B"}, it wants a list of tables, each under its own ',
            ),
            ("[[listener.layer]]\nfile = 'x'\n", "[[listener.layer]] 1: use is missing, it wants a text, "),
            (
                "hooks = 'a:B'\n[[listener.layer]]\nuse = 'a:B'\n",
                "hooks and [[listener.layer]] both say what hooks there are, leave one of them out",
            ),
            ("[[listener.layers]]\nuse = 'a:B'\n", "unknown option layers, did you mean layer?"),
        ],
    )
    def test_a_mistake_of_a_listener_has_its_sentence(self, text: str, sentence: str) -> None:
        said = refusal(f"[[listener]]\nendpoint = 'tcp:1'\n{text}")
        assert said.startswith(f"smtphooks.toml: listener 1 (tcp:1): {sentence}")

    def test_a_listener_that_is_no_table_shows_no_secret_of_its_layers(self) -> None:
        said = refusal("[listener]\nendpoint = 'tcp:1'\n[[listener.layer]]\ntoken = 'pencil'\n")
        assert "pencil" not in said and 'token = "(not shown)"' in said
