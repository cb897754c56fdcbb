"""Options: every default is the documented one, and the error for a wrong value says what the option wants."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks import options as module
from smtphooks.errors import OptionError, unknownName
from smtphooks.extension import Extension
from smtphooks.options import (
    HOST_OPTIONS,
    OPTION_NAMES,
    TLS_OPTIONS,
    Options,
    isPath,
    makeOptions,
    mustHide,
    optionsWith,
)
from smtphooks.service.toml import toTOML
from tests.secrets import SCRAM_SECRET

# An independent list: a new option must be added here too.
DEFAULTS: dict[str, Any] = {
    "name": socket.getfqdn(),
    "banner": "",
    "heloResponse": "%s Nice to meet you, %s",
    "lmtp": False,
    "secure": False,
    "secured": False,
    "needsUpgrade": False,
    "authMethods": ("PLAIN", "LOGIN"),
    "authOptional": False,
    "allowInsecureAuth": False,
    "authRequiredMessage": "Authentication required",
    "portal": None,
    "scramSecret": None,
    "scramIterations": None,
    "scramSaltLength": None,
    "hideSTARTTLS": False,
    "hideSize": False,
    "hidePIPELINING": False,
    "hide8BITMIME": False,
    "hideSMTPUTF8": False,
    "hideENHANCEDSTATUSCODES": False,
    "hideCHUNKING": False,
    "hideDSN": True,
    "hideREQUIRETLS": True,
    "hideLIMITS": True,
    "disabledCommands": (),
    "extensions": (),
    "size": 0,
    "rejectOversized": True,
    "spoolMemory": 262144,
    "bareNewline": "normalize",
    "maxClients": 0,
    "maxClientsPerAddress": 0,
    "maxRecipients": 1000,
    "maxTransactions": 0,
    "authFailuresPerAddress": 20,
    "maxJunkCommands": 1000,
    "maxCommandLength": None,
    "maxAllowedUnauthenticatedCommands": 10,
    "maxUnrecognizedCommands": 10,
    "maxErrors": 20,
    "socketTimeout": 60,
    "dataTimeout": 1800,
    "hookTimeout": 0,
    "closeTimeout": 30,
    "greetDelay": 0,
    "useProxy": False,
    "useXClient": False,
    "useXForward": False,
    "disableReverseLookup": False,
    "resolver": None,
    "asyncioHooks": False,
    "logAddresses": True,
    "logRefusals": True,
    "debugPeers": (),
    "slowHook": 0.5,
    "lenientAddressParsing": False,
    "key": None,
    "cert": None,
    "ca": None,
    "requestCert": False,
    "rejectUnauthorized": True,
    "minVersion": "TLSv1.2",
    "maxVersion": None,
    "ciphers": None,
    "sniOptions": {},
}


def mechanism(**given: Any) -> Any:
    """A mechanism with some of its attributes replaced."""
    return SimpleNamespace(**{"name": "X-MINE", "isAvailable": print, "exchange": print, **given})


MINE = mechanism()
PORTAL = SimpleNamespace(login=print)
RESOLVER = SimpleNamespace(lookupPointer=print)

# Values that no option of this kind, or of this name, accepts.
NOT_A_FLAG = [None, 0, 1, "", "no", "True", [], 1.0]
NOT_A_NUMBER = [None, True, False, -1, "5", b"5", [], float("nan"), float("inf")]
NOT_A_LINE = [None, True, 5, b"x", [], ["x"], "a\nb", "a\r", "a\0b", "a\x7fb"]
NOT_PEERS = [None, 0, 1, "yes", "10.0.0.1", b"10.0.0.1", [10], [None], ["10.0.0.1", b"x"], {"10.0.0.1": 1}]
NOT_A_LIST = [None, True, 5, "VRFY", b"VRFY", {"VRFY": True}, object()]
WRONG = {
    "name": [*NOT_A_LINE, "", "a b", "mx.\u00e4.example", "x" * 256],
    "heloResponse": [*NOT_A_LINE, "%d", "%s %s %s", "100%", "%(name)s", "%", "%5s", "%c", "%r"],
    "bareNewline": [None, True, 5, b"accept", "Accept", "", [], ["accept"]],
    "maxCommandLength": [0, 511, -1, True, "1000", 512.0],
    "maxAllowedUnauthenticatedCommands": [None, True, 0, -1, 1.0, "5", []],
    "disabledCommands": [*NOT_A_LIST, [5], [None], ["VRFY", 5], [["VRFY"]]],
    "extensions": [*NOT_A_LIST, ["X"], [Extension], [Extension("X"), None], Extension("X")],
}
FLAGS = [name for name, value in DEFAULTS.items() if isinstance(value, bool) and not name.startswith("use")]
PEERS = ["useProxy", "useXClient", "useXForward", "debugPeers"]
COUNTS = [
    *("size", "spoolMemory", "maxClients", "maxClientsPerAddress", "maxRecipients", "maxTransactions"),
    *("maxJunkCommands", "authFailuresPerAddress", "maxUnrecognizedCommands", "maxErrors"),
]
SECONDS = ["socketTimeout", "dataTimeout", "hookTimeout", "closeTimeout", "greetDelay", "slowHook"]
LINES = ["banner", "authRequiredMessage"]

WRONG |= dict.fromkeys(FLAGS, NOT_A_FLAG)
WRONG |= dict.fromkeys(PEERS, NOT_PEERS)
WRONG |= {name: [*NOT_A_NUMBER, 1.0, 1.5] for name in COUNTS}
WRONG |= dict.fromkeys(SECONDS, NOT_A_NUMBER)
WRONG |= dict.fromkeys(LINES, NOT_A_LINE)
WRONG |= {name: [True, 5, "", b"", ["x"]] for name in ("key", "cert", "ca")}
WRONG |= {
    "minVersion": [None, True, "TLS1.2", "", 1.2, ["TLSv1.2"]],
    "maxVersion": [True, "TLS1.2", "", 1.2],
    "ciphers": [True, "", 5, ["x"], "a\nb"],
    "authMethods": [
        *NOT_A_LIST,
        [5],
        [None],
        ["KERBEROS"],
        ["PLAIN", "NTLM"],
        [b"PLAIN"],
        [mechanism(name=None)],
        [mechanism(name="A B")],
        [mechanism(name="")],
        [mechanism(name="X" * 21)],
        [mechanism(isAvailable=True)],
        [mechanism(exchange=None)],
        mechanism(),
    ],
    "portal": [True, 5, "memory", b"x", [], object(), {"login": print}],
    "scramSecret": [True, 5, "", b"", "x" * 15, b"x" * 15, ["x" * 16], bytearray(16)],
    "scramIterations": [True, False, 0, 1, 4095, -4096, 4096.0, "4096", b"4096", [4096]],
    "scramSaltLength": [True, False, 0, 7, 1025, -8, 16.0, "16", b"16", [16]],
    "sniOptions": [None, True, "x", [], {"": {}}, {5: {}}, {"a.example": None}, {"a.example": "x"}],
    "resolver": [True, 5, "192.0.2.53", ["192.0.2.53"], object(), SimpleNamespace(lookupPointer=None)],
}

# Values that each of them accepts.
RIGHT = {
    "name": ["x", "mx.example.org", "[192.0.2.1]"],
    "heloResponse": ["", "Hello", "%s", "%s is glad, %s", "100%%", "%s 100%% %s", "%%s"],
    "bareNewline": ["normalize", "reject", "accept"],
    "maxCommandLength": [None, 512, 100000],
    "maxAllowedUnauthenticatedCommands": [False, 1, 10**30],
    "authMethods": [(), ("PLAIN",), ("SCRAM-SHA-256-PLUS", "EXTERNAL"), ("PLAIN", MINE), (MINE,)],
    "portal": [None, PORTAL],
    "scramSecret": [None, "x" * 16, b"x" * 16, "\u00e4" * 8, "/", "./secret", "../secret", b"/" * 16],
    "scramIterations": [None, 4096, 10**6],
    "scramSaltLength": [None, 8, 16, 1024],
    "ca": ["/etc/ssl/ca.pem", b"-----BEGIN"],
    "minVersion": ["TLSv1", "TLSv1.1", "TLSv1.3"],
    "maxVersion": [None, "TLSv1.2", "TLSv1.3"],
    "ciphers": [None, "HIGH:!aNULL"],
    "sniOptions": [{}, {"a.example": {"key": "k", "cert": "c"}}],
    "resolver": [None, RESOLVER],
}
RIGHT |= {name: [True, False] for name in FLAGS}
RIGHT |= {name: [True, False, (), ("10.0.0.1", "2001:db8::/32")] for name in PEERS}
RIGHT |= {name: [0, 1, 10**30] for name in COUNTS}
RIGHT |= {name: [0, 1, 0.5, 1e9] for name in SECONDS}
RIGHT |= {name: ["", "Gr\u00fc\u00dfe und so"] for name in LINES}


def pairs(table: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(name, value, id=f"{name}={value!r:.30}")
        for name, values in table.items()
        if name in OPTION_NAMES
        for value in values
    ]


# --- Defaults ---


@pytest.mark.parametrize("name", OPTION_NAMES)
def test_default_is_the_documented_one(name: str) -> None:
    value = getattr(Options(), name)
    assert value == DEFAULTS[name]
    assert type(value) is type(DEFAULTS[name])


def test_name_is_asked_for_when_options_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    field = attrs.fields(Options).name
    assert isinstance(field.default, attrs.Factory)  # type: ignore[arg-type]
    assert field.default.factory is socket.getfqdn


def test_options_are_frozen_and_given_by_name() -> None:
    options = Options()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        options.size = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        Options("mx.example.org")  # type: ignore[misc]


def test_every_option_is_tried_with_wrong_values() -> None:
    tried = set(WRONG)
    simple = {name for name, value in DEFAULTS.items() if isinstance(value, (bool, int, float))}
    assert set(OPTION_NAMES) <= tried | simple
    assert set(OPTION_NAMES) <= set(DEFAULTS)


# --- Values ---


@pytest.mark.parametrize("name, value", pairs(WRONG))
def test_value_that_does_not_fit_is_refused_in_one_sentence(name: str, value: Any) -> None:
    with pytest.raises(OptionError) as caught:
        makeOptions({name: value})
    sentence = str(caught.value)
    assert sentence.startswith(f"option {name} is ")
    assert ", it wants " in sentence
    assert "\n" not in sentence


SHOWN = [pair for pair in pairs(WRONG) if not isinstance(pair.values[1], list) and pair.values[0] != "scramSecret"]


@pytest.mark.parametrize("name, value", SHOWN)
def test_refusal_shows_what_it_got(name: str, value: Any) -> None:
    with pytest.raises(OptionError) as caught:
        makeOptions({name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("name, value", pairs(RIGHT))
def test_value_that_fits_is_kept(name: str, value: Any) -> None:
    assert getattr(makeOptions({name: value}), name) == value


@pytest.mark.parametrize("given", [["vrfy", "Help"], ("vrfy", "Help"), iter(["vrfy", "Help"])])
def test_list_of_commands_is_kept_in_upper_case(given: Any) -> None:
    assert Options(disabledCommands=given).disabledCommands == ("VRFY", "HELP")


def test_mechanisms_are_named_in_any_case() -> None:
    assert Options(authMethods=["plain", MINE, "Scram-SHA-256"]).authMethods == ("PLAIN", MINE, "SCRAM-SHA-256")


def test_lists_are_copied() -> None:
    mine = [Extension("X")]
    options = Options(extensions=mine)
    mine.clear()
    assert [extension.keyword for extension in options.extensions] == ["X"]


@pytest.mark.parametrize("name", OPTION_NAMES)
def test_every_option_says_what_it_wants(name: str) -> None:
    wants = getattr(attrs.fields(Options), name).metadata["wants"]
    assert isinstance(wants, str)
    assert wants


@pytest.mark.parametrize(
    "given, sentence",
    [
        ({"key": "k.pem"}, "option key is given without cert, it wants both or neither"),
        ({"cert": "c.pem"}, "option cert is given without key, it wants both or neither"),
        (
            {"secure": True, "secured": True},
            "option secured is True with secure, it wants only one of them: who ends TLS?",
        ),
        ({"maxVersion": "TLSv1.1"}, "option maxVersion is TLSv1.1, it wants no less than minVersion TLSv1.2"),
        (
            {"disabledCommands": ["VRFY", "auth"]},
            "option authOptional is False with AUTH in disabledCommands, it wants True: no client could send mail",
        ),
        (
            {"disabledCommands": ["AUTH"], "useXClient": []},
            "option authOptional is False with AUTH in disabledCommands, it wants True: no client could send mail",
        ),
    ],
)
def test_combination_that_cannot_be_is_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError) as caught:
        makeOptions(given)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("value", ["short-secret", b"short-secret", ["short-secret"], {"short-secret": 1}], ids=repr)
def test_secret_is_never_shown(value: Any) -> None:
    with pytest.raises(OptionError) as caught:
        makeOptions({"scramSecret": value})
    assert "short-secret" not in str(caught.value)
    assert str(caught.value).endswith(
        ", it wants 16 octets or more, or the path of a file that has them: a path begins with / or ./"
    )
    for secret in (SCRAM_SECRET, SCRAM_SECRET.encode(), "./" + SCRAM_SECRET):
        assert SCRAM_SECRET not in repr(Options(scramSecret=secret))


def test_combination_that_can_be_is_kept() -> None:
    options = Options(key="k.pem", cert="c.pem", secure=True, minVersion="TLSv1.3", maxVersion="TLSv1.3")
    assert (options.key, options.cert, options.secure) == ("k.pem", "c.pem", True)


@pytest.mark.parametrize("given", [{"authOptional": True}, {"useXClient": True}, {"useXClient": ["10.0.0.0/8"]}])
def test_AUTH_may_be_disabled_where_mail_is_taken_without_it(given: dict[str, Any]) -> None:
    assert makeOptions({"disabledCommands": ["AUTH"], **given}).disabledCommands == ("AUTH",)


# --- Notations ---


def written(given: dict[str, Any]) -> tuple[str, str]:
    """The sentence in Python's notation, and in that of a configuration file."""
    with pytest.raises(OptionError) as caught:
        makeOptions(given)
    return str(caught.value), caught.value.said(toTOML)


@pytest.mark.parametrize(
    ("given", "python", "toml"),
    [
        ({"lmtp": "True"}, "is 'True', it wants True or False", 'is "True", it wants true or false'),
        ({"size": True}, "is True, it wants a whole number", "is true, it wants a whole number"),
        ({"disabledCommands": ["vrfy", 5]}, "is ('VRFY', 5), it", 'is ["VRFY", 5], it'),
        ({"sniOptions": {"a b": True}}, "is {'a b': True}, it", 'is {"a b" = true}, it'),
        ({"useProxy": 5}, "it wants True, False, or a list", "it wants true, false, or a list"),
        (
            {"maxAllowedUnauthenticatedCommands": 0},
            "it wants a whole number of commands, or False for",
            "it wants a whole number of commands, or false for",
        ),
        ({"secure": True, "secured": True}, "secured is True with", "secured is true with"),
        ({"banner": "{true!r}\n"}, "is '{true!r}\\n', it", 'is "{true!r}\\n", it'),
    ],
)
def test_a_sentence_is_written_in_the_notation_of_its_reader(given: dict[str, Any], python: str, toml: str) -> None:
    inPython, inTOML = written(given)
    assert python in inPython
    assert toml in inTOML


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"size": "x"}, ("size",)),
        ({"key": "k.pem"}, ("key", "cert")),
        ({"secure": True, "secured": True}, ("secured", "secure")),
        ({"maxVersion": "TLSv1.1"}, ("maxVersion", "minVersion")),
    ],
)
def test_an_error_knows_the_options_concerned(given: dict[str, Any], names: tuple[str, ...]) -> None:
    with pytest.raises(OptionError) as caught:
        makeOptions(given)
    assert caught.value.options == names


@given(st.text())
def test_a_sentence_without_values_is_taken_as_it_is(text: str) -> None:
    assert str(OptionError(text)) == OptionError(text).said(toTOML) == text


def test_an_error_of_a_server_name_names_it() -> None:
    error = OptionError("option key is {!r}", "k", options=["key"]).ofHost("mail.example")
    assert str(error) == "in sniOptions of mail.example: option key is 'k'"
    assert (error.host, error.options, error.said(toTOML)) == ("mail.example", ("key",), 'option key is "k"')


# --- Names ---


@pytest.mark.parametrize(
    "given, sentence",
    [
        ("sise", "unknown option sise, did you mean size?"),
        ("maxrecipients", "unknown option maxrecipients, did you mean maxRecipients?"),
        ("hide8bitmime", "unknown option hide8bitmime, did you mean hide8BITMIME?"),
        ("authoptional", "unknown option authoptional, did you mean authOptional?"),
        ("onRcptto", "unknown option onRcptto, did you mean onRcptTo?"),
        ("zzzzzzz", "unknown option zzzzzzz"),
        ("", "unknown option "),
    ],
)
def test_unknown_option_is_refused_with_the_nearest_name(given: str, sentence: str) -> None:
    with pytest.raises(OptionError) as caught:
        makeOptions({given: 1, "size": -1}, ["onRcptTo"])
    assert str(caught.value) == sentence


@given(st.text(), st.lists(st.text()))
def test_any_unknown_name_has_its_sentence(name: str, known: list[str]) -> None:
    assert unknownName("option", name, known).startswith(f"unknown option {name}")


@pytest.mark.parametrize("name", OPTION_NAMES)
def test_every_option_is_found_in_any_case(name: str) -> None:
    assert unknownName("option", name.upper(), OPTION_NAMES).endswith(f"did you mean {name}?")


# --- What options have in common ---


def test_options_with_a_fact_are_found_in_their_order() -> None:
    assert (
        *("key", "cert", "ca", "requestCert", "rejectUnauthorized", "minVersion", "maxVersion", "ciphers"),
    ) == HOST_OPTIONS
    assert (*HOST_OPTIONS, "sniOptions") == TLS_OPTIONS
    assert optionsWith("isSecret") == ("scramSecret", "key")
    assert optionsWith("shared", "clients") == ("maxClients", "maxClientsPerAddress")
    assert optionsWith("shared", "authFailures") == ("authFailuresPerAddress",)
    assert optionsWith("shared", "unknownUsers") == ("scramSecret", "scramIterations", "scramSaltLength")
    assert optionsWith("no such fact") == ()


PEM = "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("name", "value", "path", "hidden"),
    [
        ("key", "server.key", True, False),
        ("key", PEM, False, True),
        ("key", b"server.key", False, True),  # no configuration file has these
        ("key", None, False, False),
        ("cert", "server.pem", True, False),
        ("cert", PEM, False, False),
        ("ca", "ca.pem", True, False),
        ("ca", "", False, False),
        ("scramSecret", "./secret", True, False),
        ("scramSecret", SCRAM_SECRET, False, True),
        ("scramSecret", None, False, False),
        ("name", "/etc/mailname", False, False),
        ("kye", "server.key", False, False),
        ("key", ["server.key"], False, True),
    ],
)
def test_options_that_hold_paths_or_secrets_are_known(name: str, value: Any, path: bool, hidden: bool) -> None:
    assert (isPath(name, value), mustHide(name, value)) == (path, hidden)


# --- The repr ---


def test_no_key_is_in_the_repr() -> None:
    bare = "MC4CAQAwBQYDK2VwBCIEIA" * 2
    for key in (PEM, PEM.encode(), bare):
        for named in (
            {"key": key, "cert": "c.pem"},
            {"key": "k.pem", "cert": key},
            {"ca": key},
            {"sniOptions": {"a.example": {"key": key, "cert": "c.pem"}}},
        ):
            assert "MC4CAQ" not in repr(Options(**named))  # type: ignore[arg-type]


def test_paths_are_in_the_repr_and_all_else() -> None:
    shown = repr(Options(key="k.pem", cert="c.pem", size=5, sniOptions={"a.example": {"key": "a.pem"}}))
    assert "key='k.pem', cert='c.pem', ca=None, " in shown
    assert "sniOptions={'a.example': {'key': 'a.pem'}}" in shown
    assert "size=5" in shown
    assert "key=PEM text, cert='c.pem'" in repr(Options(key=PEM, cert="c.pem"))
    assert "scramSecret=(not shown)" in repr(Options(scramSecret=SCRAM_SECRET))
    assert "scramSecret=None" in repr(Options())


@pytest.mark.parametrize(
    "given", [{"key": [PEM], "cert": "c.pem"}, {"sniOptions": {"a.example": {"key": PEM}, "b.example": 5}}]
)
def test_no_key_is_in_an_error_wherever_it_stands(given: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as caught:
        makeOptions(given)
    assert "PEM text" in str(caught.value)
    assert "MC4CAQ" not in str(caught.value) + caught.value.said(toTOML)


# --- The modes of the wire ---


def test_options_know_the_modes_of_the_wire() -> None:
    assert {module.NORMALIZE, module.REJECT, module.ACCEPT} == {"normalize", "reject", "accept"}
