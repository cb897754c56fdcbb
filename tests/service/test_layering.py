"""Layers of a configuration file: what is made of them, and the sentence for each mistake in them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from smtphooks.service.checking import configure
from smtphooks.service.reading import readSettings
from tests.service.configurations import USERS, configured, refusal

pytestmark = pytest.mark.usefixtures("folder")

OPTIONAL = "[options]\nauthOptional = true\n"
STORE = '[[layer]]\nuse = "mailapp:Mail"\n'
PICKY = '[[layer]]\nuse = "mailapp:Picky"\n'


def declared(**options: object) -> str:
    """A layer whose class declares its options."""
    said = "".join(f"{name} = {value}\n" for name, value in options.items())
    return f'[[layer]]\nuse = "mailapp:Declared"\n{said}'


class TestWhatIsMade:
    def test_layers_stand_in_the_order_of_their_tables_with_what_holds_for_them(self) -> None:
        (listener,) = configured(
            OPTIONAL + PICKY + "domains = ['a']\nunless = ['secure']\nhookTimeout = 3\nonFault = 'pass'\n" + STORE
        ).listeners
        picky, store = listener.factory.layers
        assert (picky.name, picky.hooks.domains) == ("Picky", ["a"])
        assert (picky.unless, picky.hookTimeout, picky.onFault) == (("secure",), 3, "pass")
        assert (store.name, store.unless, store.hookTimeout, store.onFault) == ("Mail", (), 0, "tempfail")

    def test_a_list_of_names_is_the_same_as_tables_without_options(self) -> None:
        (listener,) = configured("hooks = ['mailapp:Picky', 'mailapp:single']\n" + OPTIONAL).listeners
        assert [layer.name for layer in listener.factory.layers] == ["Picky", "Mail"]

    def test_all_listeners_share_the_objects_but_for_one_with_its_own(self) -> None:
        one, other, own = configured(
            OPTIONAL
            + PICKY
            + STORE
            + "".join(f"[[listener]]\nendpoint = 'tcp:{port}'\n" for port in (1, 2, 3))
            + "[[listener.layer]]\nuse = 'mailapp:Mail'\n"
        ).listeners
        shared = [[layer.hooks for layer in each.factory.layers] for each in (one, other)]
        assert shared[0] == shared[1] and len(shared[0]) == 2
        (mail,) = own.factory.layers
        assert mail.name == "Mail" and mail.hooks is not shared[0][1]

    def test_an_object_is_used_as_it_is(self) -> None:
        (listener,) = configured(OPTIONAL + PICKY + '[[layer]]\nuse = "mailapp:single"\nhookTimeout = 5\n').listeners
        store = listener.factory.layers[1]
        assert (store.hooks, store.hookTimeout) == (sys.modules["mailapp"].single, 5)

    @pytest.mark.parametrize("layers", [PICKY, PICKY + PICKY, PICKY + "unless = ['secure']\n"])
    def test_no_layer_need_take_messages_if_they_may_be_dropped(self, layers: str) -> None:
        (listener,) = configured("discard = true\n" + OPTIONAL + layers).listeners
        assert listener.factory.onData is None

    def test_checkers_are_asked_where_no_layer_has_on_auth(self) -> None:
        (listener,) = configured(PICKY + STORE + USERS).listeners
        assert listener.factory.onAuth is not None

    def test_checkers_are_asked_behind_a_layer_that_only_limits_failures(self) -> None:
        limits = '[[layer]]\nuse = "smtphooks.layers:RateLimit"\nlimits = ["9 auth failures per hour per client"]\n'
        (listener,) = configured(limits + STORE + USERS).listeners
        assert listener.factory.onAuth is not None
        assert "no layer authenticates, so nobody could authenticate" in refusal(limits + STORE)

    def test_a_layer_with_on_auth_needs_no_auth_optional(self) -> None:
        (listener,) = configured(PICKY + '[[layer]]\nuse = "mailapp:Trusting"\n').listeners
        assert not listener.factory.options.authOptional


class TestPaths:
    def optionsOf(self, folder: Path, text: str) -> dict[str, object]:
        (folder / "etc").mkdir()
        (folder / "etc" / "smtphooks.toml").write_text(text)
        layer = configure(readSettings("etc/smtphooks.toml")).listeners[0].factory.layers[0]
        return {name: getattr(layer.hooks, name) for name in ("file", "also", "word")}

    def test_those_that_are_declared_so_are_relative_to_the_folder_of_the_file(self, folder: Path) -> None:
        text = OPTIONAL + declared(file="'a'", also="['b', '/c']", word="'d'") + STORE
        assert self.optionsOf(folder, text) == {
            "file": f"{folder}/etc/a",
            "also": [f"{folder}/etc/b", "/c"],
            "word": "d",
        }

    def test_also_in_the_table_of_hooks(self, folder: Path) -> None:
        text = "discard = true\nhooks = 'mailapp:Declared'\n" + OPTIONAL + "[hooks-options]\nfile = 'a'\n"
        assert self.optionsOf(folder, text)["file"] == f"{folder}/etc/a"

    def test_also_in_the_layers_of_a_listener(self, folder: Path) -> None:
        own = (declared(file="'a'") + STORE).replace("[[layer]]", "[[listener.layer]]")
        assert self.optionsOf(folder, f"{OPTIONAL}[[listener]]\nendpoint = 'tcp:1'\n{own}")["file"] == f"{folder}/etc/a"

    def test_one_that_is_empty_stays_empty(self, folder: Path) -> None:
        assert self.optionsOf(folder, OPTIONAL + declared(file="''") + STORE)["file"] == ""

    def test_that_of_a_maildir_in_a_layer_is_and_below_hooks_options_it_is_not(self, folder: Path) -> None:
        (folder / "etc").mkdir()
        for text, root in (
            ("[[layer]]\nuse = 'smtphooks.stores:Maildir'\npath = 'mail'\n", folder / "etc"),
            ("hooks = 'smtphooks.stores:Maildir'\n[hooks-options]\npath = 'mail'\n", folder),
        ):
            (folder / "etc" / "smtphooks.toml").write_text(text + OPTIONAL)
            (layer,) = configure(readSettings("etc/smtphooks.toml")).listeners[0].factory.layers
            assert layer.hooks.path == f"{root}/mail"


class TestObjectsAmongOptions:
    TEE = "[[layer]]\nuse = 'smtphooks.stores:Tee'\na = {use = 'smtphooks.stores:Maildir', path = 'one'}\n"

    def test_a_table_with_use_is_made_into_an_object_with_paths_in_the_folder_of_the_file(self, folder: Path) -> None:
        b = "[layer.b]\nuse = 'mailapp:Outer.inner'\n"
        (layer,) = configured(OPTIONAL + self.TEE + b).listeners[0].factory.layers
        first, second = layer.hooks._stores
        assert first.path == f"{folder}/one"
        assert second is sys.modules["mailapp"].Outer.inner

    def test_such_an_object_may_have_objects_of_its_own(self) -> None:
        both = "{use = 'smtphooks.stores:Tee', a = {use = 'mailapp:Mail', x = 1}, b = {use = 'mailapp:Mail'}}"
        (layer,) = configured(OPTIONAL + self.TEE + f"b = {both}\n").listeners[0].factory.layers
        inner, _ = layer.hooks._stores[1]._stores
        assert inner.given == {"x": 1}

    def test_below_hooks_options_it_stays_a_table(self) -> None:
        text = "hooks = 'mailapp:Mail'\n[hooks-options]\na = {use = 'mailapp:Mail'}\n" + OPTIONAL
        (layer,) = configured(text).listeners[0].factory.layers
        assert layer.hooks.given == {"a": {"use": "mailapp:Mail"}}

    @pytest.mark.parametrize(
        ("b", "sentence"),
        [
            ("{use = 3}", ': b: use is 3, it wants "package.module:Name"'),
            (
                "{use = 'smtphooks.stores:Maildr', path = 'x'}",
                ": b (smtphooks.stores:Maildr): module smtphooks.stores: unknown name Maildr, did you mean Maildir?",
            ),
            (
                "{use = 'smtphooks.stores:Maildir', paht = 'x'}",
                ": b (smtphooks.stores:Maildir): unknown option paht, did you mean path?",
            ),
            (
                "{use = 'smtphooks.stores:Maildir', path = 'x', unless = ['secure']}",
                ": b (smtphooks.stores:Maildir): unless is a key of a layer, not of an object in it, remove it",
            ),
            (
                "{use = 'smtphooks.stores:Maildir'}",
                ": b (smtphooks.stores:Maildir): option path is missing, it wants the path of a folder",
            ),
            (
                "{use = 'smtphooks.stores:Maildir', path = 3}",
                ": b (smtphooks.stores:Maildir): option path is 3, it wants the path of a folder",
            ),
            (
                "{use = 'smtphooks.stores:Tee', a = {use = 'mailapp:Mail', bad = 1}}",
                ": b (smtphooks.stores:Tee): option b is missing",
            ),
            (
                "{use = 'mailapp:Mail', bad = 1}",
                ": b (mailapp:Mail): calling mailapp:Mail failed, correct it or its options: ValueError: bad is bad",
            ),
            (
                "{use = 'mailapp:Picky'}",
                ": option b is <mailapp.Picky object",
            ),
            (
                "'two'",
                ': option b is "two", it wants a store, an object with onData; in a file {use = "package.module:Name"}'
                " with its options",
            ),
        ],
    )
    def test_every_mistake_names_its_table(self, b: str, sentence: str) -> None:
        said = refusal(OPTIONAL + self.TEE + f"b = {b}\n")
        assert said.startswith(f"smtphooks.toml: [[layer]] 1 (smtphooks.stores:Tee){sentence}")

    def test_no_mistake_shows_a_secret(self) -> None:
        declared = "{use = 'mailapp:Declared', number = 1, token = 'pencil'}"
        said = refusal(OPTIONAL + self.TEE + f"b = {declared}\n")
        assert "cannot log in with (not shown)" in said and "pencil" not in said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (declared(fiel="'x'"), "[[layer]] 1 (mailapp:Declared): unknown option fiel, did you mean file?"),
        (declared(unles="['secure']"), "[[layer]] 1 (mailapp:Declared): unknown option unles, did you mean unless?"),
        (
            STORE + declared(number="true"),
            "[[layer]] 2 (mailapp:Declared): option number is true, it wants a whole number of things, 0 for no limit",
        ),
        (PICKY + "domain = []\n", "[[layer]] 1 (mailapp:Picky): unknown option domain, did you mean domains?"),
        (PICKY + "hooktimeout = 3\n", "[[layer]] 1 (mailapp:Picky): unknown option hooktimeout, did you mean hookTim"),
        (PICKY + "size = 3\n", "[[layer]] 1 (mailapp:Picky): unknown option size, known are domains"),
        (
            '[[layer]]\nuse = "mailapp:single"\nuser = 1\n',
            "[[layer]] 1 (mailapp:single): mailapp:single cannot be called, so remove its options or name a class",
        ),
        (
            STORE + "bad = 1\n",
            "[[layer]] 1 (mailapp:Mail): calling mailapp:Mail failed, correct it or its options: ValueError: bad is",
        ),
        ('[[layer]]\nuse = "mailapp"\n', '[[layer]] 1 (mailapp) is "mailapp", it wants "package.module:Name"'),
        ('[[layer]]\nuse = "mailapp:Mial"\n', "[[layer]] 1 (mailapp:Mial): module mailapp: unknown name Mial, did you"),
        (
            STORE + '[[layer]]\nuse = "mailapp:Nothing"\n',
            "[[layer]] 2 (mailapp:Nothing): mailapp:Nothing has no hook, give it a method such as onRcptTo or onData",
        ),
        (
            STORE + '[[layer]]\nuse = "mailapp:Misspelt"\n',
            "[[layer]] 2 (mailapp:Misspelt): option hooks has a method onRcpTo, which is no hook, did you mean onRcpt",
        ),
        (
            PICKY + "unless = ['auth']\n",
            '[[layer]] 1 (mailapp:Picky): option unless is wrong: "auth" is neither an address such as',
        ),
        (
            PICKY + "unless = ['authentcated']\n",
            '[[layer]] 1 (mailapp:Picky): option unless is wrong: "authentcated" is neither an address nor a network,'
            ' did you mean "authenticated"?',
        ),
        (PICKY + "unless = 'secure'\n", '[[layer]] 1 (mailapp:Picky): option unless is "secure", it wants a list of "'),
        ('[[layer]]\nuse = "mailapp:Wanting"\n', "[[layer]] 1 (mailapp:Wanting): option wanted is missing"),
        (
            PICKY + "onFault = 'ignore'\n",
            '[[layer]] 1 (mailapp:Picky): option onFault is "ignore", it wants "tempfail" or "pass"',
        ),
        (
            PICKY + "hookTimeout = '3s'\n",
            '[[layer]] 1 (mailapp:Picky): option hookTimeout is "3s", it wants a number of seconds, 0 for no limit',
        ),
        (
            STORE + PICKY + STORE,
            "[[layer]] 3 (mailapp:Mail): mailapp:Mail has onData, as [[layer]] 1 (mailapp:Mail) has, but one layer "
            "takes all messages, leave one of them out",
        ),
        (
            "hooks = ['mailapp:Mail', 'mailapp:single']\n",
            "hooks 2: mailapp:single has onData, as mailapp:Mail has, but one layer takes all messages, leave one of",
        ),
        (
            STORE + "unless = ['secure']\n",
            '[[layer]] 1 (mailapp:Mail): mailapp:Mail has onData, and unless is ["secure"], so messages could be '
            "accepted and dropped, leave unless out",
        ),
        (
            STORE + "onFault = 'pass'\n",
            '[[layer]] 1 (mailapp:Mail): mailapp:Mail has onData, and onFault is "pass", so messages could be accepted '
            "and dropped, leave onFault out",
        ),
        (
            STORE + '[[layer]]\nuse = "mailapp:Trusting"\n' + USERS,
            "[auth] has checkers and [[layer]] 2 (mailapp:Trusting) has onAuth, leave one of them out",
        ),
        (
            OPTIONAL + PICKY + PICKY,
            "the default listener (tcp:2525:interface=127.0.0.1): no layer has onData, so every message would be "
            "accepted and dropped, add a layer such as smtphooks.stores:Maildir, or set discard = true in the "
            "configuration, above all tables or in the [[listener]]",
        ),
        (
            OPTIONAL + PICKY,
            "the default listener (tcp:2525:interface=127.0.0.1): [[layer]] 1 (mailapp:Picky) has no onData, so every "
            "message would be accepted and dropped, give it onData, or set discard = true",
        ),
        (
            PICKY + STORE,
            "the default listener (tcp:2525:interface=127.0.0.1): option authOptional is false and no layer has "
            "onAuth, so nobody could authenticate and every message would be refused",
        ),
        (
            OPTIONAL
            + PICKY
            + '[[listener]]\nendpoint = "tcp:1"\n[[listener.layer]]\nuse = "mailapp:Declared"\nx = 1\n',
            "listener 1 (tcp:1): [[listener.layer]] 1 (mailapp:Declared): unknown option x",
        ),
    ],
)
def test_every_mistake_has_its_sentence(text: str, sentence: str) -> None:
    assert refusal(text).startswith(f"smtphooks.toml: {sentence}")


def test_an_error_of_declared_options_names_their_table_beside_hooks(folder: Path) -> None:
    assert refusal("hooks = 'mailapp:Declared'\n[hooks-options]\nfiel = 3\n") == (
        "smtphooks.toml: hooks: [hooks-options]: unknown option fiel, did you mean file?"
    )


def test_a_class_that_takes_any_option_is_given_any() -> None:
    configuration = configured(OPTIONAL + STORE + "unles = 1\n")
    assert configuration.listeners[0].factory.layers[0].hooks.given == {"unles": 1}


class TestSecrets:
    @pytest.mark.parametrize(
        ("text", "end"),
        [
            (declared(word="'pencil-case'"), 'option word is "(not shown)", it wants a short text'),
            (declared(token="'pencil'", number=1), "ValueError: cannot log in with (not shown) (<folder>/mailapp.py"),
            (
                "[[layer]]\nuse = 'mailapp:Mail'\npassword = 'bad'\nbad = 1\n",
                "ValueError: (not shown) is (not shown) (<folder>/mailapp.py",
            ),
        ],
    )
    def test_no_sentence_shows_one(self, folder: Path, text: str, end: str) -> None:
        said = refusal(text).replace(str(folder), "<folder>")
        assert end in said
        assert "pencil" not in said
