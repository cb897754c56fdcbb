"""Configuration files: what they mean, and the sentence for each way of getting them wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from smtphooks import Hooks, Options
from smtphooks.config import (
    ConfigError,
    Configuration,
    HooksSettings,
    configure,
    defaultSettings,
    maildirHooks,
    readSettings,
    toTOML,
)
from smtphooks.maildir import MaildirHooks

MODULE = """
from smtphooks import Extension, Hooks

class Mail(Hooks):
    def __init__(self, **given):
        self.given = given
        if "bad" in given:
            raise ValueError("bad is\\nbad")

    def onData(self, stream, session):
        return "taken"

class Nothing(Hooks):
    pass

class Outer:
    inner = Mail()

single = Mail()
limit = Extension("LIMIT")
other = Extension("OTHER")
size = 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with a module of hooks in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mailapp.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("import nowhere.at.all\n")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("mailapp", "broken")):
            del sys.modules[name]


def configured(text: str) -> Configuration:
    """The configuration that a file of this text makes."""
    Path("smtphooks.toml").write_text(text)
    return configure(readSettings("smtphooks.toml"))


def refusal(text: str) -> str:
    """The sentence for a file of this text."""
    with pytest.raises(ConfigError) as caught:
        configured(text)
    return str(caught.value)


MAIL = 'hooks = "mailapp:Mail"\n'
OPTIONAL = MAIL + "[options]\nauthOptional = true\n"


def test_defaultsTakeMailForAnyoneOnLoopback(folder: Path) -> None:
    configuration = configure(defaultSettings())
    (listener,) = configuration.listeners
    assert listener.endpoint == "tcp:2525:interface=127.0.0.1"
    assert listener.factory.options.authOptional
    assert configuration.hooks.options == {"path": str(folder / "maildir")}
    assert listener.factory.onData is not None
    assert isinstance(listener.factory.onData.__self__, MaildirHooks)


def test_aListenersOptionsWinOverTheCommonOnes() -> None:
    configuration = configured(
        OPTIONAL
        + 'name = "mx.example"\nsize = 10\nextensions = ["mailapp:limit"]\n'
        + '[[listener]]\nendpoint = "tcp:25"\n'
        + '[[listener]]\nendpoint = "unix:lmtp"\nlmtp = true\nsize = 20\nextensions = ["mailapp:other"]\n'
    )
    smtp, lmtp = configuration.listeners
    assert (smtp.endpoint, lmtp.endpoint) == ("tcp:25", "unix:lmtp")
    assert (smtp.factory.options.size, lmtp.factory.options.size) == (10, 20)
    assert (smtp.factory.options.lmtp, lmtp.factory.options.lmtp) == (False, True)
    assert smtp.factory.options.name == lmtp.factory.options.name == "mx.example"
    assert [extension.keyword for extension in smtp.factory.options.extensions] == ["LIMIT"]
    assert [extension.keyword for extension in lmtp.factory.options.extensions] == ["OTHER"]


def test_allListenersShareOneHooksObject() -> None:
    configuration = configured(OPTIONAL + '[[listener]]\nendpoint = "tcp:1"\n[[listener]]\nendpoint = "tcp:2"\n')
    one, two = configuration.listeners
    assert one.factory.onData is not None and two.factory.onData is not None
    assert one.factory.onData.__self__ is two.factory.onData.__self__


def test_withoutListenersTheDefaultOneIsUsed() -> None:
    (listener,) = configured(OPTIONAL).listeners
    assert listener.endpoint == "tcp:2525:interface=127.0.0.1"


def test_withoutHooksTheMaildirIsUsed() -> None:
    assert configured("[options]\nauthOptional = true\n").hooks.name == "smtphooks.maildir:MaildirHooks"


def test_aClassIsCalledWithTheHooksOptions() -> None:
    configuration = configured(OPTIONAL + '[hooks-options]\nuser = "u"\nports = [1, 2]\n')
    onData = configuration.listeners[0].factory.onData
    assert onData is not None
    assert onData.__self__.given == {"user": "u", "ports": [1, 2]}


@pytest.mark.parametrize("name", ["mailapp:single", "mailapp:Outer.inner"])
def test_anInstanceIsUsedAsItIs(name: str) -> None:
    configuration = configured(OPTIONAL.replace("mailapp:Mail", name))
    onData = configuration.listeners[0].factory.onData
    assert onData is not None
    assert onData.__self__.given == {}


def test_theWorkingFolderIsSearchedLast(folder: Path) -> None:
    before = list(sys.path)
    configured(OPTIONAL)
    configured(OPTIONAL)
    assert sys.path == [*before, str(folder)]


def test_aMaildirIsTakenFromTheWorkingFolderOfNow(folder: Path) -> None:
    assert maildirHooks("--maildir", "a/../b").options == {"path": str(folder / "b")}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("hooks = \n", "smtphooks.toml: this is not TOML, correct it: "),
        (MAIL + "optoins = 1\n", "smtphooks.toml: unknown key optoins, did you mean options?"),
        (
            "zzz = 1\n",
            "smtphooks.toml: unknown key zzz, known are hooks, hooks-options, options, listener",
        ),
        ("size = 1\n", "smtphooks.toml: option size stands in no table, move it below [options]"),
        ("options = 3\n", "smtphooks.toml: options is 3, it wants a table, [options]"),
        ("hooks = 3\n", 'smtphooks.toml: hooks is 3, it wants a text, "package.module:Name"'),
        (
            '[listener]\nendpoint = "tcp:25"\n',
            "smtphooks.toml: listener is {'endpoint': 'tcp:25'}, it wants a list of tables, each under its own "
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
        (
            OPTIONAL + '[[listener]]\nendpoint = "tcp:25"\n[[listener]]\nendpoint = "tcp:465"\nsize = "x"\n',
            "smtphooks.toml: listener 2 (tcp:465): option size is 'x', it wants a whole number of octets, 0 for no "
            "limit",
        ),
        (
            OPTIONAL + 'size = "x"\n[[listener]]\nendpoint = "tcp:25"\n',
            "smtphooks.toml: [options]: option size is 'x', it wants a whole number of octets, 0 for no limit",
        ),
        (OPTIONAL + "sise = 1\n", "smtphooks.toml: [options]: unknown option sise, did you mean size?"),
        (
            "[options]\nhooks = 'mailapp:Mail'\n",
            "smtphooks.toml: [options]: hooks is no option, move it above all tables",
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
        (
            'hooks = "mailapp"\n',
            "smtphooks.toml: hooks is 'mailapp', it wants \"package.module:Name\"",
        ),
        (
            'hooks = "mailap:Mail"\n',
            "smtphooks.toml: hooks: module mailap cannot be imported, correct it, its name or PYTHONPATH: "
            "ModuleNotFoundError: No module named 'mailap'",
        ),
        (
            'hooks = "broken:Mail"\n',
            "smtphooks.toml: hooks: module broken cannot be imported, correct it, its name or PYTHONPATH: "
            "ModuleNotFoundError: No module named 'nowhere'",
        ),
        (
            'hooks = "mailapp:Mial"\n',
            "smtphooks.toml: hooks: module mailapp: unknown name Mial, did you mean Mail?",
        ),
        (
            'hooks = "mailapp:Outer.iner"\n',
            "smtphooks.toml: hooks: module mailapp: unknown name iner, did you mean inner?",
        ),
        (
            'hooks = "mailapp:Nothing"\n',
            "smtphooks.toml: hooks: mailapp:Nothing has no hook, give it a method such as onRcptTo or onData",
        ),
        (
            'hooks = "mailapp:size"\n',
            "smtphooks.toml: hooks: mailapp:size has no hook, give it a method such as onRcptTo or onData",
        ),
        (
            'hooks = "mailapp:single"\n[hooks-options]\nuser = "u"\n',
            "smtphooks.toml: hooks: mailapp:single cannot be called, so remove [hooks-options] or name a class",
        ),
        (
            MAIL + "[hooks-options]\nbad = 1\n",
            "smtphooks.toml: hooks: calling mailapp:Mail failed, correct it or [hooks-options]: ValueError: bad is bad",
        ),
        (
            MAIL + "[options]\nextensions = 'mailapp:limit'\n",
            "smtphooks.toml: [options]: option extensions is 'mailapp:limit', it wants a list of "
            '"package.module:name"',
        ),
        (
            MAIL + "[options]\nextensions = [3]\n",
            'smtphooks.toml: [options]: option extensions is [3], it wants a list of "package.module:name"',
        ),
        (
            MAIL + "[options]\nextensions = ['mailapp:size']\n",
            "smtphooks.toml: [options]: extensions: mailapp:size is 3, it wants an Extension object",
        ),
        (
            MAIL + '[[listener]]\nendpoint = "tcp:25"\nextensions = ["mailapp:limits"]\n',
            "smtphooks.toml: listener 1 (tcp:25): extensions: module mailapp: unknown name limits, did you mean limit?",
        ),
        (
            OPTIONAL + '[[listener]]\nendpoint = "tcp:25"\n[[listener]]\nendpoint = "tcp:26"\nauthOptional = false\n',
            "smtphooks.toml: listener 2 (tcp:26): option authOptional is false and mailapp:Mail has no onAuth, so "
            "nobody could authenticate and every message would be refused, set authOptional = true",
        ),
    ],
)
def test_everyMistakeHasItsSentence(text: str, sentence: str) -> None:
    said = refusal(text)
    assert said.startswith(sentence)
    assert said == sentence or sentence.endswith(": ")


def test_aMissingFileHasItsSentence() -> None:
    with pytest.raises(ConfigError) as caught:
        readSettings("nowhere.toml")
    assert str(caught.value) == (
        "nowhere.toml: the configuration cannot be read (No such file or directory), check --config"
    )


def test_aFileInAnotherEncodingHasItsSentence() -> None:
    Path("latin.toml").write_bytes(b'name = "\xe4"\n')
    with pytest.raises(ConfigError, match=r"^latin\.toml: this is not TOML, correct it: "):
        readSettings("latin.toml")


def test_aMaildirThatIsAFileHasItsSentence(folder: Path) -> None:
    (folder / "box").touch()
    settings = attrs.evolve(defaultSettings(), hooks=maildirHooks("--maildir", "box"))
    with pytest.raises(ConfigError) as caught:
        configure(settings)
    assert str(caught.value) == (
        "--maildir: calling smtphooks.maildir:MaildirHooks failed, name another folder with --maildir: "
        f"NotADirectoryError: [Errno 20] No Maildir here, {folder}/box is not a folder: '{folder}/box'"
    )


def test_hooksThatAuthenticateNeedNoAuthOptional(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr("smtphooks.config.HOOK_NAMES", ("onAuth",))
    monkeypatch.setattr(Hooks, "onAuth", None, raising=False)
    (folder / "mailapp_auth.py").write_text("class Mail:\n    onAuth = onData = lambda *arguments: None\n")
    (listener,) = configured('hooks = "mailapp_auth:Mail"\n').listeners
    assert not listener.factory.options.authOptional


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
    ],
)
def test_aConfigurationIsWrittenAsItIsRead(text: str) -> None:
    read = configured(text)
    written = toTOML(read)
    again = configured(written)
    assert toTOML(again) == written
    assert again.hooks == read.hooks
    assert [one.endpoint for one in again.listeners] == [one.endpoint for one in read.listeners]
    assert [one.factory.options for one in again.listeners] == [
        attrs.evolve(one.factory.options, extensions=other.factory.options.extensions)
        for one, other in zip(read.listeners, again.listeners, strict=True)
    ]


def test_optionsOfOneListenerAreWrittenAtIt() -> None:
    written = toTOML(
        configured(
            OPTIONAL + '[[listener]]\nendpoint = "tcp:25"\n[[listener]]\nendpoint = "tcp:26"\nmaxCommandLength = 700\n'
        )
    )
    assert written.endswith(
        '\n[[listener]]\nendpoint = "tcp:25"\n\n[[listener]]\nendpoint = "tcp:26"\nmaxCommandLength = 700\n'
    )


def test_theHostsNameIsLookedUpOnce(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take seconds where DNS is slow."""
    monkeypatch.setattr("smtphooks.config.makeOptions", lambda given: Options(name="mx.example"))
    configuration = configured(OPTIONAL + '[[listener]]\nendpoint = "tcp:1"\n[[listener]]\nendpoint = "tcp:2"\n')
    assert [listener.factory.options.name for listener in configuration.listeners] == ["mx.example"] * 2


def test_hooksOfAFlagAreNamedAfterIt() -> None:
    settings = attrs.evolve(defaultSettings(), hooks=HooksSettings("--hooks", "mailapp.Mail"))
    with pytest.raises(ConfigError, match=r"^--hooks is 'mailapp\.Mail', it wants"):
        configure(settings)
