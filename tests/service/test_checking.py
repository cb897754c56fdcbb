"""Configuration files: what is made of them, and the sentence for each mistake that only shows then."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from smtphooks import Options, Session, SMTPServerFactory
from smtphooks.sasl.auth import Auth
from smtphooks.sasl.scram import ScramCredentials
from smtphooks.service.checking import Configuration, configure
from smtphooks.service.reading import defaultSettings, maildirHooks, readSettings
from smtphooks.service.settings import ConfigError, HooksSettings
from smtphooks.sharedtable import Table, useTable
from smtphooks.stores.maildir import Maildir
from tests.secrets import SCRAM_SECRET
from tests.service.configurations import (
    LISTENERS,
    MAIL,
    MODULE,
    OPTIONAL,
    PAIRS,
    USERS,
    configured,
    limitsOf,
    refusal,
    sharingOf,
)

pytestmark = pytest.mark.usefixtures("folder")

DEFAULT = "smtphooks.toml: the default listener (tcp:2525:interface=127.0.0.1): "


def test_defaults_take_mail_for_anyone_on_loopback(folder: Path) -> None:
    configuration = configure(defaultSettings())
    (listener,) = configuration.listeners
    assert listener.endpoint == "tcp:2525:interface=127.0.0.1"
    assert listener.factory.options.authOptional
    assert configuration.layers[0].options == {"path": str(folder / "maildir")}
    assert listener.factory.onData is not None
    assert isinstance(listener.factory.onData.__self__, Maildir)


def test_a_listeners_options_win_over_the_common_ones() -> None:
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


def test_all_listeners_share_one_hooks_object() -> None:
    configuration = configured(OPTIONAL + '[[listener]]\nendpoint = "tcp:1"\n[[listener]]\nendpoint = "tcp:2"\n')
    one, two = configuration.listeners
    assert one.factory.onData is not None and two.factory.onData is not None
    assert one.factory.onData.__self__ is two.factory.onData.__self__


def test_without_listeners_the_default_one_is_used() -> None:
    (listener,) = configured(OPTIONAL).listeners
    assert listener.endpoint == "tcp:2525:interface=127.0.0.1"


def test_without_hooks_the_maildir_is_used() -> None:
    assert configured("[options]\nauthOptional = true\n").layers[0].name == "smtphooks.stores:Maildir"


def test_a_class_is_called_with_the_hooks_options() -> None:
    configuration = configured(OPTIONAL + '[hooks-options]\nuser = "u"\nports = [1, 2]\n')
    onData = configuration.listeners[0].factory.onData
    assert onData is not None
    assert onData.__self__.given == {"user": "u", "ports": [1, 2]}


@pytest.mark.parametrize("name", ["mailapp:single", "mailapp:Outer.inner"])
def test_an_instance_is_used_as_it_is(name: str) -> None:
    configuration = configured(OPTIONAL.replace("mailapp:Mail", name))
    onData = configuration.listeners[0].factory.onData
    assert onData is not None
    assert onData.__self__.given == {}


def test_the_working_folder_is_searched_last(folder: Path) -> None:
    before = list(sys.path)
    configured(OPTIONAL)
    configured(OPTIONAL)
    assert sys.path == [*before, str(folder)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            OPTIONAL + '[[listener]]\nendpoint = "tcp:25"\n[[listener]]\nendpoint = "tcp:465"\nsize = "x"\n',
            'smtphooks.toml: listener 2 (tcp:465): option size is "x", it wants a whole number of octets, 0 for no '
            "limit",
        ),
        (
            OPTIONAL + 'size = "x"\n[[listener]]\nendpoint = "tcp:25"\n',
            'smtphooks.toml: [options]: option size is "x", it wants a whole number of octets, 0 for no limit',
        ),
        (
            'hooks = "mailapp"\n',
            'smtphooks.toml: hooks is "mailapp", it wants "package.module:Name"',
        ),
        (
            'hooks = "mailap:Mail"\n',
            "smtphooks.toml: hooks: module mailap cannot be imported, correct it, its name or PYTHONPATH: "
            "ModuleNotFoundError: No module named 'mailap'",
        ),
        (
            'hooks = "broken:Mail"\n',
            "smtphooks.toml: hooks: module broken cannot be imported, correct it, its name or PYTHONPATH: "
            "ModuleNotFoundError: No module named 'nowhere' (<folder>/broken.py, line 1)",
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
            "smtphooks.toml: hooks: calling mailapp:Mail failed, correct it or [hooks-options]: ValueError: bad is bad "
            "(<folder>/mailapp.py, line 10)",
        ),
        (
            MAIL + "[options]\nextensions = 'mailapp:limit'\n",
            'smtphooks.toml: [options]: option extensions is "mailapp:limit", it wants a list of "package.module:name"',
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
            "nobody could authenticate and every message would be refused, set authOptional = true, or name checkers "
            "below [auth] or with --auth",
        ),
        (
            OPTIONAL + "needsUpgrade = true\nhideSTARTTLS = true\n",
            DEFAULT
            + "option needsUpgrade is true and STARTTLS is hidden or disabled, so every message would be refused, "
            "offer STARTTLS or set secure = true",
        ),
        (
            MAIL + "[options]\ndisabledCommands = ['starttls']\n" + USERS,
            DEFAULT
            + "option authOptional is false and AUTH wants TLS, which STARTTLS could not begin, so every message would "
            "be refused, offer STARTTLS, set secure = true or "
            "allowInsecureAuth = true",
        ),
        (
            OPTIONAL + "[tls]\nminVersion = 3\n",
            "smtphooks.toml: [tls]: option minVersion is 3, it wants one of TLSv1, TLSv1.1, TLSv1.2, TLSv1.3",
        ),
        (
            OPTIONAL + "[tls]\nkey = 'here.pem'\n[[listener]]\nendpoint = 'tcp:465'\n",
            "smtphooks.toml: [tls]: option key is given without cert, it wants both or neither",
        ),
        (
            MAIL + "[auth]\ncheckers = ['unix', 'memry:joe:pencil']\n",
            "smtphooks.toml: [auth]: checker 2 is of no known kind, known are ",
        ),
        (
            MAIL + "[auth]\ncheckers = ['memory:pencil']\n",
            "smtphooks.toml: [auth]: checker 1 cannot be made, correct it: InvalidAuthArgumentString: argstring must "
            "be in format U:P:...",
        ),
        (
            'hooks = "mailapp:Trusting"\n' + USERS,
            "smtphooks.toml: [auth] has checkers and mailapp:Trusting has onAuth, leave one of them out",
        ),
        (
            MAIL + "[options]\nauthMethods = ['SCRAM-SHA-256']\n" + USERS,
            "smtphooks.toml: [options]: option authMethods holds SCRAM-SHA-256, it wants only mechanisms that option "
            "portal has a checker for, or an onAuth hook",
        ),
    ],
)
def test_every_mistake_has_its_sentence(folder: Path, text: str, sentence: str) -> None:
    said = refusal(text).replace(str(folder), "<folder>")
    assert said.startswith(sentence)
    assert said == sentence or sentence.endswith((": ", "are "))
    assert "pencil" not in said


BROKEN_PEERS = 'is wrong: "10.0.0.1/8" is no network, as 10.0.0.1 is a host within it: write 10.0.0.0/8 for all of it'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (OPTIONAL + "hideDSN = 1\n", "[options]: option hideDSN is 1, it wants true or false"),
        (OPTIONAL + "size = true\n", "[options]: option size is true, it wants a whole number of octets"),
        (
            OPTIONAL + "disabledCommands = ['vrfy', 5]\n",
            '[options]: option disabledCommands is ["VRFY", 5], it wants a list of commands',
        ),
        (
            OPTIONAL + "disabledCommands = {a = false}\n",
            "[options]: option disabledCommands is {a = false}, it wants a list of commands",
        ),
        (OPTIONAL + "useProxy = 'yes'\n", '[options]: option useProxy is "yes", it wants true, false, or a list of'),
        (OPTIONAL + "useProxy = ['10.0.0.1/8']\n", f"[options]: option useProxy {BROKEN_PEERS}"),
        (
            OPTIONAL + "[[listener]]\nendpoint = 'tcp:1'\nuseProxy = ['10.0.0.1/8']\n",
            f"listener 1 (tcp:1): option useProxy {BROKEN_PEERS}",
        ),
        (
            OPTIONAL + "[[listener]]\nendpoint = 'tcp:1'\nsecure = true\nsecured = true\n",
            "listener 1 (tcp:1): option secured is true with secure, it wants only one of them: who ends TLS?",
        ),
        (
            OPTIONAL + "secured = true\n[[listener]]\nendpoint = 'tcp:1'\nsecure = true\n",
            "listener 1 (tcp:1): option secured is true with secure, it wants only one of them: who ends TLS?",
        ),
        (
            OPTIONAL + "[tls]\nciphers = 'NONE'\n",
            '[tls]: option ciphers is "NONE", it wants a list of ciphers that OpenSSL knows',
        ),
        (
            OPTIONAL + "ciphers = 'NONE'\n",
            '[options]: option ciphers is "NONE", it wants a list of ciphers that OpenSSL knows',
        ),
        (
            OPTIONAL + "minVersion = 'TLSv1.3'\n[tls]\nmaxVersion = 'TLSv1.2'\n",
            "[tls]: option maxVersion is TLSv1.2, it wants no less than minVersion TLSv1.3",
        ),
        (
            OPTIONAL + "[tls.sni.'a.example']\n",
            '[tls.sni."a.example"]: option key is missing, it wants to be given for each server name',
        ),
        (
            OPTIONAL + "[options.sniOptions.'a.example']\n",
            '[options.sniOptions."a.example"]: option key is missing, it wants to be given for each server name',
        ),
        (
            OPTIONAL + "[[listener]]\nendpoint = 'tcp:1'\n[listener.sniOptions.'a.example']\n",
            "listener 1 (tcp:1): in sniOptions of a.example: option key is missing, it wants to be given for each",
        ),
    ],
)
def test_a_sentence_shows_values_as_TOML_and_names_the_table(text: str, sentence: str) -> None:
    assert refusal(text).startswith(f"smtphooks.toml: {sentence}")


@pytest.mark.parametrize(
    ("common", "own", "where"),
    [
        ("disabledCommands = ['AUTH']", "", "[options]"),
        ("authOptional = true\ndisabledCommands = ['AUTH']", "authOptional = false", "listener 1 (tcp:1)"),
        ("maxVersion = 'TLSv1.1'", "", "[options]"),
        ("maxVersion = 'TLSv1.2'", "minVersion = 'TLSv1.3'", "listener 1 (tcp:1)"),
    ],
)
def test_options_that_do_not_fit_together_are_named_where_they_stand(common: str, own: str, where: str) -> None:
    said = refusal(f"{MAIL}[options]\n{common}\n[[listener]]\nendpoint = 'tcp:1'\n{own}\n")
    assert said.startswith(f"smtphooks.toml: {where}: option ")


def test_a_common_option_is_checked_also_where_each_listener_has_its_own() -> None:
    said = refusal(OPTIONAL + "size = 'x'\n[[listener]]\nendpoint = 'tcp:1'\nsize = 5\n")
    assert said.startswith('smtphooks.toml: [options]: option size is "x", it wants')


def test_a_maildir_that_is_a_file_has_its_sentence(folder: Path) -> None:
    (folder / "box").touch()
    settings = attrs.evolve(defaultSettings(), layers=[maildirHooks("--maildir", "box")])
    with pytest.raises(ConfigError) as caught:
        configure(settings)
    assert str(caught.value) == (
        "--maildir: calling smtphooks.stores:Maildir failed, name another folder with --maildir: "
        f"NotADirectoryError: [Errno 20] No Maildir here, {folder}/box is not a folder: '{folder}/box'"
    )


@pytest.mark.parametrize("name", ["onRcptTo", "onError", "onOther"])
def test_a_property_that_raises_has_its_sentence(folder: Path, name: str) -> None:
    odd = f"class Odd(Mail):\n    @property\n    def {name}(self):\n        return 1 / 0\n"
    (folder / "mailapp.py").write_text(MODULE + odd)
    line = MODULE.count("\n") + odd.count("\n")
    assert refusal(OPTIONAL.replace("mailapp:Mail", "mailapp:Odd")) == (
        "smtphooks.toml: hooks: mailapp:Odd has hooks that cannot be looked at, correct it: ZeroDivisionError: "
        f"division by zero ({folder}/mailapp.py, line {line})"
    )


def test_hooks_that_authenticate_need_no_auth_optional() -> None:
    (listener,) = configured('hooks = "mailapp:Trusting"\n').listeners
    assert not listener.factory.options.authOptional


def test_what_one_listener_has_learnt_of_salts_the_others_show_too() -> None:
    one, two, other = configured(
        OPTIONAL
        + "".join(f"[[listener]]\nendpoint = 'tcp:{number}'\n" for number in (1, 2, 3))
        + f"scramSecret = '{SCRAM_SECRET}'\n"
    ).listeners
    one.factory.server.mechanisms.unknownUsers.imitate(ScramCredentials(b"s" * 12, b"", b"", 5000))
    shown = [each.factory.server.mechanisms.unknownUsers.credentialsOf("nobody") for each in (one, two, other)]
    assert [(len(each.salt), each.iterations) for each in shown] == [(12, 5000), (12, 5000), (32, 4096)]


def test_the_hosts_name_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look-up may take seconds if DNS is slow."""
    monkeypatch.setattr("smtphooks.service.checking.makeOptions", lambda given: Options(name="mx.example"))
    configuration = configured(OPTIONAL + '[[listener]]\nendpoint = "tcp:1"\n[[listener]]\nendpoint = "tcp:2"\n')
    assert [listener.factory.options.name for listener in configuration.listeners] == ["mx.example"] * 2


def test_hooks_of_a_flag_are_named_after_it() -> None:
    settings = attrs.evolve(defaultSettings(), layers=[HooksSettings("--hooks", "mailapp.Mail")])
    with pytest.raises(ConfigError, match=r'^--hooks is "mailapp\.Mail", it wants'):
        configure(settings)


class TestHooksOfAListener:
    BOTH = OPTIONAL + '[[listener]]\nendpoint = "tcp:1"\nhooks = "mailapp:Mail"\n[[listener]]\nendpoint = "tcp:2"\n'

    def givenTo(self, configuration: Configuration) -> list[Any]:
        return [listener.factory.onData.__self__.given for listener in configuration.listeners]  # type: ignore[union-attr]

    def test_they_are_its_own_object(self) -> None:
        one, other = configured(self.BOTH).listeners
        assert one.factory.onData.__self__ is not other.factory.onData.__self__  # type: ignore[union-attr]

    def test_they_are_called_with_options_of_their_own(self) -> None:
        text = self.BOTH.replace('[[listener]]\nendpoint = "tcp:2"', "[listener.hooks-options]\nuser = 'x'\n")
        text += '[[listener]]\nendpoint = "tcp:2"\n[hooks-options]\nuser = "common"\n'
        assert self.givenTo(configured(text)) == [{"user": "x"}, {"user": "common"}]

    def test_the_common_ones_are_not_made_where_all_listeners_have_their_own(self, folder: Path) -> None:
        (folder / "maildir").touch()  # making the default hooks would fail
        configuration = configured(
            '[options]\nauthOptional = true\n[[listener]]\nendpoint = "tcp:1"\nhooks = "mailapp:Mail"\n'
        )
        assert configuration.layers is None

    @pytest.mark.parametrize(
        ("listener", "sentence"),
        [
            ("hooks = 'mailapp'", 'hooks is "mailapp", it wants "package.module:Name"'),
            ("hooks = 'mailapp:Nothing'", "hooks: mailapp:Nothing has no hook, give it a method such as onRcptTo or"),
            (
                "hooks = 'mailapp:Mail'\n[listener.hooks-options]\nbad = 1",
                "hooks: calling mailapp:Mail failed, correct it or [listener.hooks-options]: ValueError: bad is bad (",
            ),
            (
                "hooks = 'mailapp:single'\n[listener.hooks-options]\nuser = 1",
                "hooks: mailapp:single cannot be called, so remove [listener.hooks-options] or name a class",
            ),
            (
                "authOptional = false\nhooks = 'mailapp:Dropping'",
                "option authOptional is false and mailapp:Dropping has no onAuth, so nobody could authenticate",
            ),
        ],
    )
    def test_a_mistake_has_its_sentence(self, listener: str, sentence: str) -> None:
        said = refusal(OPTIONAL + f'[[listener]]\nendpoint = "tcp:1"\n{listener}\n')
        assert said.startswith(f"smtphooks.toml: listener 1 (tcp:1): {sentence}")

    def test_its_own_on_auth_is_enough(self) -> None:
        text = MAIL + '[[listener]]\nendpoint = "tcp:1"\nhooks = "mailapp:Trusting"\n'
        (listener,) = configured(text).listeners
        assert listener.factory.onAuth is not None

    def test_its_own_on_auth_excludes_checkers(self) -> None:
        text = MAIL + '[[listener]]\nendpoint = "tcp:1"\nhooks = "mailapp:Trusting"\n' + USERS
        assert refusal(text) == (
            "smtphooks.toml: [auth] has checkers and mailapp:Trusting has onAuth, leave one of them out"
        )


class TestDiscard:
    DROPPING = 'hooks = "mailapp:Dropping"\n'
    SENTENCE = (
        "mailapp:Dropping has no onData, so every message would be accepted and dropped, give it onData, or set"
        " discard = true in the configuration, above all tables or in the [[listener]]"
    )

    @pytest.mark.parametrize(
        ("text", "where"),
        [
            (DROPPING + "[options]\nauthOptional = true\n", DEFAULT),
            (
                DROPPING + '[options]\nauthOptional = true\n[[listener]]\nendpoint = "tcp:1"\n',
                "smtphooks.toml: listener 1 (tcp:1): ",
            ),
            (
                OPTIONAL + f'[[listener]]\nendpoint = "tcp:1"\n[[listener]]\nendpoint = "tcp:2"\n{DROPPING}',
                "smtphooks.toml: listener 2 (tcp:2): ",
            ),
            (
                f'discard = true\n{OPTIONAL}[[listener]]\nendpoint = "tcp:1"\ndiscard = false\n{DROPPING}',
                "smtphooks.toml: listener 1 (tcp:1): ",
            ),
        ],
    )
    def test_a_listener_that_would_drop_every_message_does_not_start(self, text: str, where: str) -> None:
        assert refusal(text) == where + self.SENTENCE

    @pytest.mark.parametrize(
        "text",
        [
            "discard = true\n" + DROPPING + "[options]\nauthOptional = true\n",
            DROPPING + '[options]\nauthOptional = true\n[[listener]]\nendpoint = "tcp:1"\ndiscard = true\n',
            OPTIONAL + f'[[listener]]\nendpoint = "tcp:1"\ndiscard = true\n{DROPPING}',
            "discard = true\n" + OPTIONAL,
        ],
    )
    def test_unless_the_configuration_says_discard(self, text: str) -> None:
        configured(text)


class TestEndpoints:
    @pytest.mark.parametrize(
        "endpoint", ["haproxy:tcp:25", "HAProxy:tcp\\\\:25", "ha\\\\proxy:tcp:25", "haproxy", "haproxy:haproxy:tcp:25"]
    )
    def test_haproxy_is_rejected_as_it_hides_clients(self, endpoint: str) -> None:
        said = refusal(OPTIONAL + f'[[listener]]\nendpoint = "{endpoint}"\n')
        assert said.endswith(
            "): the endpoint haproxy: hides from smtphooks who its clients are, leave haproxy: out and list the"
            ' proxies in option useProxy, such as useProxy = ["192.0.2.1"]'
        )

    @pytest.mark.parametrize(("peers", "shown"), [("true", "true"), ("['10.0.0.1']", '["10.0.0.1"]')])
    def test_TLS_of_the_endpoint_excludes_PROXY(self, peers: str, shown: str) -> None:
        said = refusal(OPTIONAL + f'useProxy = {peers}\n[[listener]]\nendpoint = "ssl:465:privateKey=k.pem"\n')
        assert said == (
            f"smtphooks.toml: listener 1 (ssl:465:privateKey=k.pem): option useProxy is {shown} and the endpoint ssl:"
            " begins with TLS, but the PROXY header comes before TLS, use an endpoint tcp: with secure = true"
        )

    @pytest.mark.parametrize("more", ["", "secure = true\n", "useProxy = false\n", "useProxy = []\n"])
    def test_without_PROXY_it_may_be_TLS(self, more: str) -> None:
        configured(OPTIONAL + f'[[listener]]\nendpoint = "ssl:465"\n{more}')

    @pytest.mark.parametrize(
        "text",
        [OPTIONAL + "needsUpgrade = true\nhideSTARTTLS = true\n", MAIL + "[options]\nhideSTARTTLS = true\n" + USERS],
    )
    def test_it_is_as_secure_as_TLS_of_our_own(self, text: str) -> None:
        configured(text + '[[listener]]\nendpoint = "ssl:465"\n')
        assert "every message would be refused" in refusal(text + '[[listener]]\nendpoint = "tcp:465"\n')

    @pytest.mark.parametrize("endpoint", ["tcp:25", "unix:haproxy:mode=660", "unix:ssl", "myhaproxy:25"])
    def test_others_may_have_proxies(self, endpoint: str) -> None:
        configured(OPTIONAL + f'useProxy = true\n[[listener]]\nendpoint = "{endpoint}"\n')


@pytest.fixture
def table() -> Iterator[Table]:
    made = Table.create(2)
    yield made
    os.close(made.fd)


def configuredIn(table: Table, column: int, text: str) -> Configuration:
    """The configuration of the worker that has this column."""
    useTable(Table.attach(table.fd, column))
    try:
        return configured(text)
    finally:
        useTable(None)


class TestLimits:
    def test_those_of_the_options_count_over_all_listeners(self) -> None:
        configuration = configured(
            OPTIONAL + "maxClients = 5\nmaxClientsPerAddress = 2\n" + LISTENERS + "maxClients = 3\n"
        )
        assert limitsOf(configuration.clients) == (5, 2)
        assert [limitsOf(one.factory.clients) for one in configuration.listeners] == [(0, 0), (3, 0)]
        for listener in configuration.listeners:
            listener.factory.server.admission.clientComes("192.0.2.7")
            assert listener.factory.clients.networks == {"192.0.2.7": 1}
        assert configuration.clients.networks == {"192.0.2.7": 2}
        for listener in configuration.listeners:
            assert listener.factory.server.admission.refusalOf("192.0.2.7") is not None
            assert listener.factory.server.admission.refusalOf("192.0.2.8") is None

    def test_workers_hold_them_together(self, table: Table) -> None:
        text = OPTIONAL + "maxClients = 5\nmaxClientsPerAddress = 2\n" + LISTENERS + "maxClients = 1\n"
        one, other = [configuredIn(table, column, text) for column in (0, 1)]
        assert limitsOf(one.clients) == (5, 2)
        assert [limitsOf(each.factory.clients) for each in one.listeners] == [(0, 0), (1, 0)]
        first, second, again, same = [each.factory.server.admission for each in (*one.listeners, *other.listeners)]
        for admission in (second, same):
            admission.connectionBegins()
        assert second.fullness == 2 and second.refusalOf("192.0.2.8") is not None
        assert same.refusalOf("192.0.2.8") is not None
        second.connectionEnds()
        assert same.refusalOf("192.0.2.8") is None
        first.clientComes("192.0.2.7")
        same.clientComes("192.0.2.7")
        for admission in (first, second, again, same):
            assert admission.refusalOf("192.0.2.7") is not None and admission.refusalOf("192.0.2.8") is None

    def test_workers_show_one_salt_for_a_user_that_does_not_exist(self, table: Table) -> None:
        text = OPTIONAL + 'authMethods = ["SCRAM-SHA-256"]\n' + LISTENERS
        one, other = [configuredIn(table, column, text) for column in (0, 1)]
        shown = [
            listener.factory.server.mechanisms.unknownUsers.credentialsOf("nobody").salt
            for listener in (*one.listeners, *other.listeners)
        ]
        assert len(set(shown)) == 1
        own = configured(text).listeners[0].factory.server.mechanisms.unknownUsers
        assert own.credentialsOf("nobody").salt != shown[0]
        text = OPTIONAL + f'authMethods = ["SCRAM-SHA-256"]\nscramSecret = "{SCRAM_SECRET}"\n' + LISTENERS
        given = [configuredIn(table, column, text) for column in (0, 1)]
        salts = {
            each.listeners[0].factory.server.mechanisms.unknownUsers.credentialsOf("nobody").salt for each in given
        }
        assert len(salts) == 1 and shown[0] not in salts

    def test_workers_count_failed_AUTH_together(self, table: Table) -> None:
        text = OPTIONAL + "authFailuresPerAddress = 2\n" + LISTENERS
        text += '[[listener]]\nendpoint = "tcp:27"\nauthFailuresPerAddress = 2\n'
        one, other = [configuredIn(table, column, text) for column in (0, 1)]
        assert sharingOf(one)[0] == [0, 0, 2]
        one.listeners[0].factory.server.authFailures.add("192.0.2.7")
        other.listeners[1].factory.server.authFailures.add("192.0.2.7")
        barred = [each.factory.server.authFailures.isBarred("192.0.2.7") for each in (*one.listeners, *other.listeners)]
        assert barred == [True, True, False] * 2

    def test_workers_have_the_counts_of_a_listener_after_others_have_come_before_it(self, table: Table) -> None:
        old = configuredIn(table, 0, OPTIONAL + '[[listener]]\nendpoint = "tcp:1"\nmaxClients = 1\n')
        first = '[[listener]]\nendpoint = "tcp:9"\nmaxClients = 1\n'
        new = configuredIn(table, 1, OPTIONAL + first + '[[listener]]\nendpoint = "tcp:1"\nmaxClients = 1\n')
        old.listeners[0].factory.server.admission.connectionBegins()
        assert [each.factory.server.admission.fullness for each in new.listeners] == [0, 1]
        for _ in range(20):
            old.listeners[0].factory.server.authFailures.add("192.0.2.7")
        assert new.listeners[0].factory.server.authFailures.isBarred("192.0.2.7")

    def test_failed_AUTH_counts_over_all_listeners_that_have_no_number_of_their_own(self) -> None:
        third = '[[listener]]\nendpoint = "tcp:27"\nauthFailuresPerAddress = 3\n'
        one, other, own = [
            listener.factory.server.authFailures
            for listener in configured(OPTIONAL + "authFailuresPerAddress = 2\n" + LISTENERS + third).listeners
        ]
        assert one is other is not own
        for _ in range(2):
            one.add("192.0.2.7")
            own.add("192.0.2.7")
        assert other.isBarred("192.0.2.7")
        assert not own.isBarred("192.0.2.7")

    def test_a_wrong_one_has_its_sentence(self) -> None:
        assert refusal(OPTIONAL + "maxClients = true\n").startswith(
            "smtphooks.toml: [options]: option maxClients is true, it wants a whole number of connections"
        )


class TestImportPath:
    """Modules in the folder of the configuration."""

    @pytest.fixture(autouse=True)
    def files(self, folder: Path) -> None:
        (folder / "etc").mkdir()
        (folder / "etc" / "beside.py").write_text(MODULE)

    def configured(self, text: str) -> Configuration:
        Path("etc/smtphooks.toml").write_text(text)
        return configure(readSettings("etc/smtphooks.toml"))

    @pytest.fixture(autouse=True)
    def forget(self) -> Iterator[None]:
        yield
        for name in ("beside", "json_", "mailapp"):
            sys.modules.pop(name, None)

    def test_hooks_and_extensions_are_found_there(self) -> None:
        self.configured('hooks = "beside:Mail"\n[options]\nauthOptional = true\nextensions = ["beside:limit"]\n')

    def test_it_is_searched_before_the_working_folder_and_after_all_else(self, folder: Path) -> None:
        before = list(sys.path)
        self.configured('hooks = "beside:Mail"\n[options]\nauthOptional = true\n')
        assert sys.path == [*before, str(folder / "etc"), str(folder)]

    def test_modules_there_do_not_shadow_installed_ones(self, folder: Path) -> None:
        (folder / "etc" / "json").mkdir()
        (folder / "etc" / "json" / "evil.py").write_text(MODULE)
        with pytest.raises(ConfigError, match=r"module json\.evil cannot be imported"):
            self.configured('hooks = "json.evil:Mail"\n')


class TestTLS:
    @pytest.fixture(autouse=True)
    def files(self, folder: Path) -> None:
        """Put keys and certificates into the folder of the configuration, which is not the working folder."""
        (folder / "etc").mkdir()
        for stem in ("main", "mail", "own"):
            PAIRS[stem].writeTo(folder / "etc", stem)

    def configured(self, text: str) -> Configuration:
        Path("etc/smtphooks.toml").write_text(OPTIONAL + text)
        return configure(readSettings("etc/smtphooks.toml"))

    def test_the_table_holds_for_every_listener(self, folder: Path) -> None:
        configuration = self.configured(
            "[tls]\nkey = 'main.key'\ncert = 'main.pem'\nca = 'main.pem'\nrequestCert = true\nrejectUnauthorized = "
            "false\nminVersion = 'TLSv1.3'\nmaxVersion = 'TLSv1.3'\nciphers = 'TLS_AES_256_GCM_SHA384'\n"
            "[tls.sni.'mail.example']\nkey = 'mail.key'\ncert = 'mail.pem'\n" + LISTENERS
        )
        for listener in configuration.listeners:
            options = listener.factory.options
            assert options.key == str(folder / "etc" / "main.key")
            assert options.cert == options.ca == str(folder / "etc" / "main.pem")
            assert (options.requestCert, options.rejectUnauthorized) == (True, False)
            assert (options.minVersion, options.maxVersion) == ("TLSv1.3", "TLSv1.3")
            assert options.ciphers == "TLS_AES_256_GCM_SHA384"
            assert options.sniOptions == {
                "mail.example": {"key": str(folder / "etc" / "mail.key"), "cert": str(folder / "etc" / "mail.pem")}
            }

    def test_a_listener_may_have_its_own(self, folder: Path) -> None:
        configuration = self.configured(
            "[tls]\nkey = 'main.key'\ncert = 'main.pem'\n" + LISTENERS + "key = 'own.key'\ncert = 'own.pem'\n"
            "[listener.sniOptions.'mail.example']\nkey = 'mail.key'\ncert = 'mail.pem'\n"
        )
        one, other = [listener.factory.options for listener in configuration.listeners]
        assert (one.key, other.key) == (str(folder / "etc" / "main.key"), str(folder / "etc" / "own.key"))
        assert one.sniOptions == {}
        assert other.sniOptions["mail.example"]["key"] == str(folder / "etc" / "mail.key")

    def test_a_pair_may_stand_in_several_tables(self) -> None:
        configuration = self.configured(
            "cert = 'main.pem'\n[tls]\nminVersion = 'TLSv1.3'\n[[listener]]\nendpoint = 'tcp:1'\nkey = 'main.key'\n"
        )
        assert configuration.listeners[0].factory.options.minVersion == "TLSv1.3"

    def test_PEM_text_is_used_unchanged(self) -> None:
        pair = PAIRS["main"]
        (listener,) = self.configured(f"[tls]\nkey = '''\n{pair.key}'''\ncert = '''\n{pair.cert}'''\n").listeners
        assert listener.factory.options.key == pair.key

    def test_a_missing_file_is_named(self, folder: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            self.configured("[tls]\nkey = 'none.key'\ncert = 'main.pem'\n")
        assert str(caught.value) == (
            f'etc/smtphooks.toml: [tls]: option key is "{folder}/etc/none.key" (No such file or directory), it wants '
            "PEM text or the path of a PEM file"
        )

    @pytest.mark.parametrize(
        ("table", "where"),
        [
            ("[tls]\n{}", "etc/smtphooks.toml: [tls]: option"),
            ("{}", "etc/smtphooks.toml: [options]: option"),
            ("[tls.sni.'a.example']\n{}", 'etc/smtphooks.toml: [tls.sni."a.example"]: option'),
            ("[[listener]]\nendpoint = 'tcp:1'\n{}", "etc/smtphooks.toml: listener 1 (tcp:1): option"),
        ],
    )
    @pytest.mark.parametrize(
        ("given", "sentence"),
        [
            ("key = 'main.key'\ncert = 'own.pem'\n", ' key is "<folder>/main.key", it wants the private key of the'),
            ("key = 'main.pem'\ncert = 'main.pem'\n", ' key is "<folder>/main.pem" (no private key in it), it wants'),
            ("key = 'main.key'\ncert = 'main.key'\n", ' cert is "<folder>/main.key" (no readable certificate in it)'),
        ],
    )
    def test_a_wrong_pair_is_reported_where_it_stands(
        self, folder: Path, table: str, where: str, given: str, sentence: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            self.configured(table.format(given))
        assert str(caught.value).replace(f"{folder}/etc", "<folder>").startswith(where + sentence)

    def test_a_key_without_its_PEM_lines_is_not_taken_for_a_path(self) -> None:
        bare = "".join(PAIRS["main"].key.splitlines()[1:-1])
        with pytest.raises(ConfigError) as caught:
            self.configured(f"[tls]\nkey = '{bare}'\ncert = 'main.pem'\n")
        assert "text that is no PEM" in str(caught.value)
        assert bare not in str(caught.value)


class TestScramSecret:
    @pytest.mark.parametrize("where", ["[options]", "[[listener]]\nendpoint = 'tcp:1'"])
    def test_a_relative_path_is_relative_to_the_folder_of_the_file(self, folder: Path, where: str) -> None:
        (folder / "etc").mkdir()
        (folder / "etc" / "secret").write_text(SCRAM_SECRET)
        text = f"hooks = 'mailapp:Trusting'\n{where}\nscramSecret = './secret'\n"
        (folder / "etc" / "smtphooks.toml").write_text(text)
        configuration = configure(readSettings("etc/smtphooks.toml"))
        (listener,) = configuration.listeners
        assert listener.factory.options.scramSecret == f"{folder}/etc/./secret"

    @pytest.mark.parametrize(
        ("value", "sentence"),
        [
            (
                "'my-secret.txt'",
                "smtphooks.toml: [options]: option scramSecret is too short, it wants 16 octets or more,",
            ),
            ("['my-secret.txt']", "smtphooks.toml: [options]: option scramSecret is of type list, it wants 16 octets"),
            (
                "'./my-secret.txt'",
                "smtphooks.toml: [options]: option scramSecret is the path of a file that cannot",
            ),
        ],
    )
    def test_a_wrong_one_has_its_sentence_which_does_not_show_it(self, value: str, sentence: str) -> None:
        said = refusal(f"{OPTIONAL}scramSecret = {value}\n")
        assert sentence in said
        assert "my-secret" not in said


class TestAuth:
    def test_checkers_are_asked_where_hooks_have_no_on_auth(self) -> None:
        (listener,) = configured(MAIL + USERS).listeners
        assert not listener.factory.options.authOptional
        assert user(listener.factory, "joe", "pencil") == "joe"
        assert user(listener.factory, "joe", "wrong") is None

    def test_all_listeners_ask_them(self) -> None:
        for listener in configured(MAIL + USERS + LISTENERS).listeners:
            assert user(listener.factory, "joe", "pencil") == "joe"

    def test_auth_optional_stays_as_it_is_configured(self) -> None:
        (listener,) = configured(OPTIONAL + USERS).listeners
        assert listener.factory.options.authOptional
        assert user(listener.factory, "joe", "pencil") == "joe"

    def test_files_are_relative_to_the_folder_of_the_file(self, folder: Path) -> None:
        (folder / "etc").mkdir()
        (folder / "etc" / "passwd").write_text("ann:horse\n")
        (folder / "etc" / "smtphooks.toml").write_text(MAIL + '[auth]\ncheckers = ["file:passwd"]\n')
        (listener,) = configure(readSettings("etc/smtphooks.toml")).listeners
        assert user(listener.factory, "ann", "horse") == "ann"

    def test_a_missing_file_has_its_sentence(self, folder: Path) -> None:
        assert refusal(MAIL + '[auth]\ncheckers = ["file:none"]\n') == (
            f"smtphooks.toml: [auth]: checker 1 is file:{folder}/none, which is no file, name another one"
        )

    def test_none_of_them_is_in_a_repr(self) -> None:
        assert "pencil" not in repr(configured(MAIL + USERS))


def user(factory: SMTPServerFactory, username: str, password: str) -> Any:
    """The user whom a listener authenticates by this; None if it rejects it."""
    assert factory.onAuth is not None
    decision = factory.onAuth(Auth(method="PLAIN", username=username, password=password), Session())
    return decision.result.user
