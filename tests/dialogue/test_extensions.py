"""A user's own extensions, and all extensions as one client may use them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from smtphooks.dialogue.extensions import ClientExtensions, Extensions, PeerExtension
from smtphooks.dialogue.steps import Ask, State
from smtphooks.extension import Extension
from smtphooks.replies import Reply, SMTPError
from smtphooks.session import Session
from smtphooks.syntax.networks import TrustedPeers
from tests.support import connect
from tests.talk import HELLO, MAIL, RCPT, Talk, mail, mailRefused, shown

# --- A user's own ---


def test_extension_shows_its_keyword_and_a_text() -> None:
    assert shown(extensions=[Extension("x-plain"), Extension("X-TEXT", "a b")])[-2:] == ["X-PLAIN", "X-TEXT a b"]


def test_extension_shows_a_function_of_the_session() -> None:
    extension = Extension("X-WHO", lambda session: session.hostNameAppearsAs)
    assert shown(extensions=[extension])[-1] == "X-WHO client.example"


def test_extension_is_asked_whenever_a_client_says_hello() -> None:
    """The reply to a client that comes again is remembered, but for what extensions show."""
    shown = iter(["1", "2", None, "1"])
    talk = Talk(extensions=[Extension("X-COUNT", lambda session: next(shown))])
    replies = [talk.say(HELLO) for _ in range(4)]
    assert [("X-COUNT 1" in each, "X-COUNT 2" in each) for each in replies] == [
        (True, False),
        (False, True),
        (False, False),
        (True, False),
    ]
    assert replies[0] == replies[3]
    assert talk.say("HELO client.example") == replies[0].partition("\n")[0].strip().replace("250-", "250 ")


def refuseParameters(session: Session) -> str:
    if session.state.get("refuses"):
        raise SMTPError("Not now")
    return ""


@pytest.mark.parametrize("hasHook", [False, True])
@pytest.mark.parametrize(
    "line, reply",
    [
        (HELLO, "550 5.7.1 Not now"),
        ("HELP", "501 5.5.4 Not now"),
        ("XREFUSES", "501 5.5.4 Not now"),
    ],
)
def test_extension_that_refuses_where_it_is_shown_refuses_the_command(line: str, reply: str, hasHook: bool) -> None:
    """The connection goes on, as behind every other refusal."""
    hooks = {name: lambda *arguments: None for name in ("onHelo", "onReset")} if hasHook else {}
    commands = {"XREFUSES": lambda argument, session: "noted"}
    client = connect(extensions=[Extension("X-REFUSES", refuseParameters, commands=commands)], **hooks)
    for lines in ([HELLO], [HELLO, MAIL]):
        client.session.state["refuses"] = False
        assert client.last(*lines).startswith("250 ")
        client.session.state["refuses"] = True
        assert client.say(line, "NOOP") == [reply, "250 2.0.0 OK"]
    assert not client.isClosed


def test_text_of_an_extension_cannot_split_the_reply() -> None:
    assert shown(extensions=[Extension("X", lambda session: "a\r\n250 b")])[-1] == "X a  250 b"


def noteFor(session: Session) -> str | None:
    return "here" if session.user else None


def test_extension_is_in_force_only_for_sessions_to_which_it_is_advertised() -> None:
    extension = Extension(
        "X-NOTE",
        noteFor,
        mailParameters={"NOTE": lambda value: value},
        rcptParameters={"NOTE": lambda value: value},
        commands={"XNOTE": lambda argument, session: "noted"},
    )
    talk = Talk(extensions=[extension])
    assert "X-NOTE" not in talk.say(HELLO)
    assert "XNOTE" not in talk.say("HELP")
    assert talk.say("XNOTE") == "500 5.5.2 Command not recognized"
    assert talk.say(f"{MAIL} NOTE=x").startswith("555 ")
    talk.session.user = "ann"
    assert talk.say(HELLO).endswith("250 X-NOTE here")
    assert talk.say("HELP").endswith(" XNOTE")
    talk.answers[extension.commands["XNOTE"]] = "noted"
    assert talk.say("XNOTE") == "250 2.0.0 noted"
    assert talk.say(f"{MAIL} NOTE=x") == "250 2.1.0 Sender OK"
    assert talk.say(f"{RCPT} NOTE=y") == "250 2.1.5 Recipient OK"
    assert talk.session.envelope.rcptTo[0].args == {"NOTE": "y"}


def test_extension_hidden_with_None_is_never_in_force() -> None:
    extension = Extension("X", None, mailParameters={"X": lambda value: value}, commands={"XX": print})
    assert mailRefused("X=1", extensions=[extension]).startswith("555 ")
    assert Talk(extensions=[extension]).say("XX").startswith("500 ")


def test_validator_says_what_the_address_holds() -> None:
    extension = Extension("X", mailParameters={"x-rate": lambda value: f"<{value}>", "FLAG": lambda value: value})
    address = mail("X-Rate=5 flag", extensions=[extension]).session.envelope.mailFrom
    assert address is not None
    assert address.args == {"X-RATE": "<5>", "FLAG": True}


@pytest.mark.parametrize(
    "error, reply",
    [
        (SMTPError("Not that"), "501 5.5.4 Not that"),
        (SMTPError("Not now", 451), "451 4.3.0 Not now"),
        (SMTPError("Too much", 552), "552 5.3.4 Too much"),
        (SMTPError("No", 550, "5.7.1"), "550 5.7.1 No"),
        (SMTPError("Go", 421), "421 4.3.2 Go"),
    ],
    ids=str,
)
def test_validator_refuses_with_its_own_words(error: SMTPError, reply: str) -> None:
    def refuse(value: Any) -> str:
        raise error

    extension = Extension("X", mailParameters={"X": refuse}, rcptParameters={"X": refuse})
    talk = mail("", extensions=[extension])
    assert talk.say(f"{RCPT} X=1") == reply
    talk = Talk(extensions=[extension])
    talk.say(HELLO)
    assert talk.say(f"{MAIL} X=1") == reply


def test_value_beyond_ASCII_needs_SMTPUTF8() -> None:
    extension = Extension("X", mailParameters={"X": lambda value: value}, rcptParameters={"X": lambda value: value})
    options: dict[str, Any] = {"extensions": [extension]}
    refusal = "501 5.5.4 Parameters outside of ASCII need SMTPUTF8"
    assert mailRefused("X=\u00fc", **options) == refusal
    talk = mail("X=u", **options)
    assert talk.say(f"{RCPT} X=\u00fc") == refusal
    assert talk.state is State.MAIL
    talk = mail("X=\u00fc SMTPUTF8", **options)
    assert talk.say(f"{RCPT} X=\u00fc") == "250 2.1.5 Recipient OK"
    assert talk.session.envelope.rcptTo[0].args == {"X": "\u00fc"}


def handle(argument: str, session: Session) -> None:
    raise AssertionError("the dialogue calls no handler, it asks for its result")


@pytest.mark.parametrize(
    "answer, reply",
    [
        ("done", "250 2.0.0 done"),
        (None, "250 2.0.0 OK"),
        (True, "250 2.0.0 OK"),
        (SMTPError("No"), "550 5.7.1 No"),
        (SMTPError("Later", 451), "451 4.3.0 Later"),
        (SMTPError("Go", 421), "421 4.3.2 Go"),
    ],
    ids=repr,
)
def test_command_of_an_extension_is_answered_by_its_handler(answer: object, reply: str) -> None:
    talk = Talk({handle: answer}, extensions=[Extension("X", commands={"xdo": handle})])
    assert talk.say("XDO this and  that ") == reply
    assert talk.asked[-1] == Ask(handle, ("this and  that", talk.session))


def test_command_of_an_extension_may_be_answered_later() -> None:
    talk = Talk(extensions=[Extension("X", commands={"XDO": handle})])
    assert talk.dialogue.receiveLine(b"xDo it") == Ask(handle, ("it", talk.session))
    with pytest.raises(AssertionError, match="stands still"):
        talk.dialogue.receiveLine(b"NOOP")
    assert talk.dialogue.answer("done at last") == Reply(250, "done at last", "2.0.0")
    assert talk.say("NOOP") == "250 2.0.0 OK"


@pytest.mark.parametrize("verb", ["EXPN", "TURN", "SAML"])
def test_extension_may_add_a_command_that_the_server_does_not_have(verb: str) -> None:
    talk = Talk({handle: "done"}, extensions=[Extension("X", commands={verb: handle})])
    assert talk.say(verb) == "250 2.0.0 done"


def test_extension_may_add_the_hello_of_the_other_flavour() -> None:
    talk = Talk({handle: "done"}, extensions=[Extension("X", commands={"LHLO": handle})])
    assert talk.say("LHLO x") == "250 2.0.0 done"
    assert talk.state is State.GREETED


def test_built_in_rules_are_not_replaced_from_outside() -> None:
    anything: Callable[[Any], str] = lambda value: "anything"  # noqa: E731
    own = Extension("SIZE", mailParameters={"SIZE": anything}, commands={"NOOP": handle})
    assert mailRefused("SIZE=x", extensions=[own]).startswith("501 ")
    assert Talk(extensions=[own]).say("NOOP") == "250 2.0.0 OK"
    chunking = Extension("CHUNKING", None)
    talk = Talk(extensions=[chunking])
    assert "CHUNKING" in talk.say(HELLO)
    assert talk.sayAll(MAIL, RCPT, "BDAT 1 LAST") == "250 2.0.0 Message accepted"


def test_help_names_each_command_once() -> None:
    own = Extension("X", commands={"NOOP": handle, "XDO": handle})
    verbs = Talk(extensions=[own]).say("HELP").split(": ")[1].split()
    assert len(verbs) == len(set(verbs))
    assert verbs[-1] == "XDO"


@pytest.mark.parametrize("name", ["", "A B", "X_Y", "-X", "X\r\nY", "\u00dc", "X="])
@pytest.mark.parametrize("field", ["keyword", "mailParameters", "rcptParameters", "commands"])
def test_names_of_an_extension_are_keywords(field: str, name: str) -> None:
    given = {"keyword": "X"} | {field: name if field == "keyword" else {name: handle}}
    with pytest.raises(ValueError, match=f"{field} of an Extension is "):
        Extension(**given)  # type: ignore[arg-type]


def test_length_of_commands_adds_up() -> None:
    extensions = Extensions([Extension("X", commandLength=5), Extension("Y"), Extension("Z", commandLength=7)])
    assert extensions.commandLength == 12
    assert Extensions([]).commandLength == 0


class _Own(Extension):
    def parametersFor(self, session: Session) -> str | None:
        return "TO-YOU" if session.secure else None


def test_a_subclass_may_have_its_own_way_to_tell_its_parameters() -> None:
    extensions = Extensions([_Own("XOWN"), Extension("XSAME", "A B"), Extension("XNONE", None), Extension("XBARE")])
    assert ClientExtensions(extensions, Session(secure=True)).ehloLines() == ["XOWN TO-YOU", "XSAME A B", "XBARE"]
    assert ClientExtensions(extensions, Session()).ehloLines() == ["XSAME A B", "XBARE"]


@attrs.frozen
class _ByValue(Extension):
    """It compares by its value, as classes of attrs do unless they are told not to, and so has no hash."""


def test_a_subclass_need_not_be_hashable_for_clients_behind_a_proxy() -> None:
    commands = {"XDO": lambda argument, session: None}
    own = _ByValue("XOWN", lambda session: "A", mailParameters={"XP": lambda value: value}, commands=commands)
    talk = Talk(extensions=[own], useXClient=["192.0.2.1"])
    assert talk.say("XCLIENT ADDR=198.51.100.7").startswith("220 ")
    assert talk.say(HELLO).endswith("250 XOWN A")
    assert talk.say("XDO") == "250 2.0.0 OK"
    assert talk.say(f"{MAIL} XP=1") == "250 2.1.0 Sender OK"


def test_parameters_are_shown_as_text_whatever_they_are() -> None:
    extensions = Extensions([Extension("XCOUNT", lambda session: 100), Extension("XSPACE", lambda session: "a ")])  # type: ignore[arg-type, return-value]
    assert ClientExtensions(extensions, Session()).ehloLines() == ["XCOUNT 100", "XSPACE a"]


def forPeer(*peers: str) -> Extensions:
    anything: Callable[[Any], Any] = lambda value: value  # noqa: E731
    extension = PeerExtension(
        "X-PEER",
        "at your service",
        mailParameters={"X": anything},
        rcptParameters={"X": anything},
        commands={"XPEER": handle},
        peers=TrustedPeers(peers) if peers else None,
    )
    return Extensions([extension, Extension("X-ALL")])


def check(extensions: ClientExtensions, isTrusted: bool) -> None:
    assert extensions.ehloLines() == ["X-PEER at your service"] * isTrusted + ["X-ALL"]
    assert extensions.isInForce("X-PEER") is isTrusted
    assert (extensions.command("XPEER") is handle) is isTrusted
    assert extensions.verbs() == ["XPEER"] * isTrusted
    assert extensions.adds("XPEER")
    for arguments in (extensions.mailArguments, extensions.rcptArguments):
        if isTrusted:
            assert arguments({"X": "1"}) == {"X": "1"}
        else:
            with pytest.raises(SMTPError, match="Parameter X not recognized"):
                arguments({"X": "1"})


def test_extension_for_trusted_peers_is_in_force_for_them_alone() -> None:
    extensions = ClientExtensions(forPeer("192.0.2.1", "192.0.2.2"), Session(remoteAddress="192.0.2.1"))
    check(extensions, isTrusted=False)  # until the peer is known
    extensions.trust("192.0.2.9")
    check(extensions, isTrusted=False)
    extensions.trust("192.0.2.1")
    check(extensions, isTrusted=True)
    extensions.distrust()
    check(extensions, isTrusted=False)


def test_extension_for_trusted_peers_is_never_in_force_without_listed_peers() -> None:
    extensions = ClientExtensions(forPeer(), Session(remoteAddress="192.0.2.1"))
    extensions.trust("192.0.2.1")
    check(extensions, isTrusted=False)


def test_trust_in_one_client_does_not_extend_to_another() -> None:
    known = forPeer("192.0.2.1")
    one, other = (ClientExtensions(known, Session()) for _ in range(2))
    one.trust("192.0.2.1")
    check(other, isTrusted=False)
    check(one, isTrusted=True)
