"""
The directive C{smtphooks-states}: which command leads from which state of the dialogue to which.

Nothing of it is written by hand.  The states are those of C{State}, the commands those of the table C{COMMANDS}, and
where a command leads is what a dialogue does that is sent each of them in each state, with every hook accepting.
This module knows how each command is spelt, and not where it leads.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from html import escape
from typing import Any, NamedTuple

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from smtphooks.dialogue.builtin import builtInExtensions
from smtphooks.dialogue.commands import COMMANDS
from smtphooks.dialogue.engine import Dialogue
from smtphooks.dialogue.extensions import Extensions
from smtphooks.dialogue.steps import (
    AbandonMessage,
    Ask,
    DiscardChunk,
    ReceiveChunk,
    ReceiveMessage,
    StartTLS,
    State,
    Verdict,
)
from smtphooks.options import Options
from smtphooks.replies import Reply
from smtphooks.sasl.mechanisms import Mechanisms
from smtphooks.session import Session

LINES = {
    "HELO": "HELO client.example",
    "EHLO": "EHLO client.example",
    "LHLO": "LHLO client.example",
    "MAIL": "MAIL FROM:<ann@a.example>",
    "RCPT": "RCPT TO:<joe@b.example>",
    "BDAT": "BDAT 10",
    "VRFY": "VRFY joe",
    "AUTH": "AUTH PLAIN AGFubgBjb3JyZWN0IGhvcnNl",
    "XCLIENT": "XCLIENT ADDR=198.51.100.1",
    "XFORWARD": "XFORWARD ADDR=198.51.100.1",
    "BDAT LAST": "BDAT 10 LAST",
}
# What a client says to come to each state in which commands are read.
WAYS = {
    State.GREETED: (),
    State.IDENTIFIED: ("EHLO",),
    State.MAIL: ("EHLO", "MAIL"),
    State.RECIPIENTS: ("EHLO", "MAIL", "RCPT"),
    State.CHUNKS: ("EHLO", "MAIL", "RCPT", "BDAT"),
}
EVENTS = ("connected", *COMMANDS, "BDAT LAST", "end of message")


class Transition(NamedTuple):
    """An event, such as an accepted command, and where it leads."""

    before: State
    event: str
    after: State


class Survey(NamedTuple):
    """What a dialogue does that is sent each command in each state: where it goes, and which hooks an event asks."""

    transitions: list[Transition]
    asked: dict[str, list[str]]


@cache
def survey() -> Survey:
    """All that there is, in the order of the states and of the table of commands."""
    first = Talk()
    found = {Transition(State.CONNECTED, "connected", first.state)}
    asked: dict[str, list[str]] = {"connected": first.asked}
    for before, way in WAYS.items():
        for event in [*COMMANDS, "BDAT LAST"]:
            talk = Talk(isLMTP=event == "LHLO")
            for verb in way:
                talk.say("LHLO" if event == "LHLO" and verb == "EHLO" else verb)
            assert talk.state is before
            talk.asked = asked.setdefault(event, [])
            found |= {*talk.say(event)}
    states = [*State]
    key = lambda one: (states.index(one.before), EVENTS.index(one.event), states.index(one.after))  # noqa: E731
    return Survey(sorted(found, key=key), {event: [*dict.fromkeys(hooks)] for event, hooks in asked.items()})


def transitions() -> list[Transition]:
    return survey().transitions


class Talk:
    """A client that the server trusts, whose every command is accepted by the hooks."""

    def __init__(self, isLMTP: bool = False) -> None:
        self.asked: list[str] = []
        options = Options(
            name="mx.example", authOptional=True, allowInsecureAuth=True, useXClient=True, useXForward=True, lmtp=isLMTP
        )
        session = Session(options.name, isLMTP, remoteAddress="192.0.2.1", clientHostname="[192.0.2.1]")
        mechanisms = Mechanisms(options.authMethods, lambda: True)
        extensions = Extensions(builtInExtensions(options, mechanisms))
        self._dialogue = Dialogue(options, extensions, session, mechanisms)
        self._through(self._dialogue.open())

    @property
    def state(self) -> State:
        return self._dialogue.state

    def say(self, event: str) -> Iterator[Transition]:
        """Send a command; the transitions that it makes, none if it is refused."""
        before = self.state
        step, middle = self._through(self._dialogue.receiveLine(LINES.get(event, event).encode()))
        replies = step if isinstance(step, tuple) else (step,)
        if all(reply.code < 400 for reply in replies):
            after = self.state
            isMessage = middle is State.MESSAGE and event == "DATA"
            return iter(
                [Transition(before, event, middle), Transition(middle, "end of message", after)]
                if isMessage
                else [Transition(before, event, after)]
            )
        return iter([])

    def _through(self, step: Any) -> tuple[Any, State]:
        """Answer each question until there is a reply; also the state in the middle."""
        middle = self.state
        while not isinstance(step, (Reply, tuple)):
            if isinstance(step, (ReceiveMessage, ReceiveChunk)):
                self.asked.append("onData")
            if isinstance(step, ReceiveMessage) or (isinstance(step, ReceiveChunk) and step.last):
                answer: Any = Verdict((None,), None)
            elif isinstance(step, Ask):
                self.asked.append(str(step.hook))
                answer = "ann" if step.hook == "onAuth" else None
            else:
                assert isinstance(step, (ReceiveChunk, DiscardChunk, AbandonMessage, StartTLS)), step
                answer = None
            step = self._dialogue.answer(answer)
        return step, middle


# --- Drawing ---

_WIDTH, _HEIGHT, _GAP, _LEFT, _TOP = 130, 52, 96, 110, 10
_RIGHT = _LEFT + _WIDTH


def svg(found: list[Transition]) -> str:
    """The states in a column; what leads back runs in lanes on its right, one for each state that it leads to."""
    states = [state for state in State if state is not State.CLOSED]  # QUIT leads there from everywhere
    top = {state: _TOP + number * _GAP for number, state in enumerate(states)}
    labels: dict[tuple[State, State], list[str]] = {}
    for one in found:
        if one.before is not one.after and one.after is not State.CLOSED:
            labels.setdefault((one.before, one.after), []).append(one.event)
    drawn = [
        f'<rect x="{_LEFT}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6"/>'
        + text(_LEFT + _WIDTH // 2, y + 31, "middle", state.name)
        for state, y in top.items()
    ]
    outgoing = dict.fromkeys(states, 0)
    for (before, after), events in labels.items():
        start, end, label = top[before], top[after], ", ".join(events)
        if end - start == _GAP:
            x = _LEFT + _WIDTH // 2
            drawn.append(path(f"M{x},{start + _HEIGHT} V{end}") + text(x + 8, start + _HEIGHT + 27, "start", label))
        elif end > start:
            x, y = _LEFT - 50, start + _HEIGHT // 2
            drawn.append(path(f"M{_LEFT},{y} H{x} V{end + 26} H{_LEFT}") + text(x - 6, y + _GAP, "end", label))
        else:
            y = start + 14 + 18 * outgoing[before]
            outgoing[before] += 1
            lane = _RIGHT + 260 + 24 * states.index(after)
            drawn.append(
                path(f"M{_RIGHT},{y} H{lane} V{end + 46} H{_RIGHT}") + text(_RIGHT + 10, y - 3, "start", label)
            )
    return picture("The states of the dialogue", 620, _TOP + len(states) * _GAP, drawn)


def picture(title: str, width: int, height: int, drawn: list[str]) -> str:
    """All of it in the colour of the text around it, so that it can be read in light and in dark mode."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
        f' style="max-width: {width}px">'
        f"<title>{title}</title><defs>"
        '<marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="currentColor"/></marker></defs>'
        f'<g fill="none" stroke="currentColor" font-family="sans-serif" font-size="12">{"".join(drawn)}</g></svg>'
    )


def path(d: str) -> str:
    return f'<path d="{d}" marker-end="url(#head)"/>'


def text(x: int, y: int, anchor: str, text: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="currentColor" stroke="none">{escape(text)}</text>'


class StatesDirective(SphinxDirective):
    """The picture, and below it a table with all of it, loops and CLOSED included."""

    def run(self) -> list[nodes.Node]:
        found = transitions()
        rows: dict[tuple[State, State], list[str]] = {}
        for one in found:
            rows.setdefault((one.before, one.after), []).append(one.event)
        table = ".. list-table::\n   :header-rows: 1\n\n   * - In state\n     - this\n     - leads to\n"
        for (before, after), events in rows.items():
            table += f"   * - {before.name}\n     - {', '.join(events)}\n     - {after.name}\n"
        return [nodes.raw("", svg(found), format="html"), *self.parse_text_to_nodes(table)]


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("smtphooks-states", StatesDirective)
    return {"parallel_read_safe": True}
