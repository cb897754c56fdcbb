"""What lasts from one command to the next, and what of it a reset, TLS and the options change."""

from __future__ import annotations

from typing import Any

import pytest

from smtphooks.dialogue import commands
from smtphooks.dialogue.builtin import builtInExtensions
from smtphooks.dialogue.context import Context, refusalBy
from smtphooks.dialogue.extensions import Extensions
from smtphooks.dialogue.limits import Tally
from smtphooks.dialogue.steps import State
from smtphooks.extension import Extension
from smtphooks.options import Options
from smtphooks.replies import SMTPError
from smtphooks.sasl.failures import NOT_COUNTED
from smtphooks.sasl.mechanisms import NO_MECHANISMS
from smtphooks.session import Address, Envelope, Session

WITHIN = {State.MAIL, State.RECIPIENTS, State.MESSAGE, State.CHUNKS}


def context(**given: Any) -> Context:
    options = Options(**{"name": "mx.test", "authOptional": True, **given})
    flavour = commands.LMTP if options.lmtp else commands.SMTP
    session = Session("mx.test", options.lmtp)
    return Context(options, Extensions(builtInExtensions(options)), session, flavour, NO_MECHANISMS, NOT_COUNTED)


def within(state: State = State.RECIPIENTS) -> Context:
    """A context in this state, with traces of a transaction."""
    one = context()
    one.session.openingCommand, one.session.hostNameAppearsAs = "EHLO", "client.test"
    one.session.envelope = Envelope(Address("sender@client.test"), [Address("user@mx.test")])
    one.session.xForward = {"NAME": "other.test"}
    one.tally.recipients = 1
    one.counts.messages = 3
    one.state = state
    return one


# --- the transaction ---


@pytest.mark.parametrize("state", State)
def test_it_is_in_a_transaction_from_MAIL_to_the_end_of_the_message(state: State) -> None:
    one = context()
    one.state = state
    assert one.inTransaction is (state in WITHIN)


@pytest.mark.parametrize("state", sorted(WITHIN, key=lambda state: state.value))
def test_a_reset_ends_the_transaction(state: State) -> None:
    one = within(state)
    one.reset()
    assert (one.state, one.session.transaction) == (State.IDENTIFIED, 2)
    assert (one.session.envelope, one.tally, one.session.xForward) == (Envelope(), Tally(), {})


def test_a_reset_leaves_what_the_client_has_done_and_said_before() -> None:
    one = within()
    one.reset()
    assert (one.counts.messages, one.session.hostNameAppearsAs) == (3, "client.test")


def test_without_a_transaction_a_reset_forgets_what_XFORWARD_said() -> None:
    """The message that it was about never began, and the next one must not inherit it."""
    one = within(State.IDENTIFIED)
    one.reset()
    assert (one.state, one.session.xForward) == (State.IDENTIFIED, {})
    assert one.session.transaction == 1, "none has ended"
    assert one.session.envelope.rcptTo, "a hook may have put it there"


def test_a_reset_before_any_hello_leaves_the_client_greeted() -> None:
    one = context()
    one.state = State.GREETED
    one.reset()
    assert one.state is State.GREETED


def test_as_TLS_begins_all_that_the_client_said_is_forgotten() -> None:
    one = within()
    one.session.user = "ann"
    one.startAnew()
    session = one.session
    assert (session.openingCommand, session.hostNameAppearsAs, session.user) == (None, "", None)
    assert (one.state, session.transaction, session.envelope, session.xForward) == (State.GREETED, 2, Envelope(), {})
    assert one.counts.messages == 3, "what it has done is not"


def test_as_implicit_TLS_begins_the_greeting_is_yet_to_come() -> None:
    one = context()
    one.startAnew()
    assert one.state is State.CONNECTED


# --- what the client is told ---


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "mx.test ESMTP"),
        ({"banner": "No spam"}, "mx.test ESMTP No spam"),
        ({"lmtp": True}, "mx.test LMTP"),
        ({"lmtp": True, "banner": "No spam"}, "mx.test LMTP No spam"),
    ],
)
def test_the_greeting_says_name_and_protocol_and_the_banner(given: dict[str, Any], text: str) -> None:
    reply = context(**given).greeting()
    assert (reply.code, reply.lines, reply.enhancedCode) == (220, (text,), None)


def test_clients_of_one_server_get_the_same_greeting() -> None:
    """So its octets are made once."""
    assert context().greeting() is context().greeting()


def test_the_commands_are_those_of_the_protocol() -> None:
    smtp, lmtp = context().verbs(), context(lmtp=True).verbs()
    assert ("EHLO" in smtp, "LHLO" in smtp) == (True, False)
    assert ("EHLO" in lmtp, "LHLO" in lmtp) == (False, True)


def test_the_commands_of_extensions_are_there_only_while_these_are_in_force() -> None:
    own = Extension("X", lambda session: session.user, commands={"XNOTE": lambda argument, session: None})
    one = context(hideCHUNKING=True, extensions=[own])
    assert not {"BDAT", "AUTH", "XNOTE"} & {*one.verbs()}
    one.session.user = ""
    assert "XNOTE" in one.verbs()
    assert "BDAT" in context().verbs()


def test_a_disabled_command_is_not_there_and_the_sessions_own_list_counts_first() -> None:
    one = context(disabledCommands=["VRFY"])
    assert ("VRFY" in one.verbs(), "HELP" in one.verbs()) == (False, True)
    one.session.disabledCommands = ["help"]
    assert ("VRFY" in one.verbs(), "HELP" in one.verbs()) == (True, False)


def test_a_command_that_an_extension_defines_again_is_there_once() -> None:
    again = Extension("X", commands={"VRFY": lambda argument, session: None})
    assert context(extensions=[again]).verbs().count("VRFY") == 1


# --- refusals ---


def handler(argument: str, session: Session) -> None:
    """The command of an extension."""


@pytest.mark.parametrize(
    ("hook", "reply", "closes"),
    [
        ("onConnect", "554 5.7.1 No", True),
        ("onRcptTo", "550 5.1.1 No", False),
        ("onData", "450 4.3.0 No", False),
        ("parameter", "501 5.5.4 No", False),
        (handler, "550 5.7.1 No", False),
    ],
)
def test_a_refusal_without_a_code_has_the_one_of_its_situation(hook: object, reply: str, closes: bool) -> None:
    refusal = refusalBy(hook, SMTPError("No"))
    assert (refusal.oneLine(), refusal.closes) == (reply, closes)


def test_a_refusal_with_codes_keeps_them() -> None:
    assert refusalBy("onRcptTo", SMTPError("No", 452, "4.5.3")).oneLine() == "452 4.5.3 No"
