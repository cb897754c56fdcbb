"""
Talking to a dialogue without transport, Twisted or hooks: by hand with L{Talk}, or by playing a transcript.

A transcript is a text file of whole sessions.  Its lines are:

    # a comment; the first ones say what the transcript shows
    option size = 1000           the server's options, as Python literals, before anything is said
    session user = "alice"       attributes of the session, likewise
    C: MAIL FROM:<a@b.example>   a line of the client; \\xNN is an octet
    C! TOO_LONG                  a line that the wire refused (a LineFault)
    S: 250 2.1.0 Sender OK       a line of the server
    S. 221 2.0.0 Bye             a line of the server, after which it closes the connection
    = session.transaction: 2     what must hold now, as a Python literal
    ? what -> how                a question of the dialogue, and its answer

Every question must stand there, for a question too many is as wrong as a reply too many.  Questions and answers are:

    ? onRcptTo joe@b.example -> ok | ok text of the reply | refuse 550 5.1.1 text | refuse text
    ? message -> the same, with LMTP one for each recipient, divided by "|"; "!TOO_LARGE" at the end is a fault
    ? chunk 10 first last -> more, or the same
    ? discard 10 -> done
    ? abandon -> done
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from smtphooks import replies
from smtphooks.dialogue import Dialogue
from smtphooks.extensions import Extensions, builtInExtensions
from smtphooks.options import Options
from smtphooks.replies import Reply, SMTPError
from smtphooks.session import Session
from smtphooks.steps import (
    AbandonMessage,
    Ask,
    DiscardChunk,
    Question,
    ReceiveChunk,
    ReceiveMessage,
    State,
    Step,
    Verdict,
)
from smtphooks.wire import LineFault

TRANSCRIPTS = Path(__file__).parent / "transcripts"

_INSIDE = {State.MAIL, State.RECIPIENTS, State.MESSAGE, State.CHUNKS}


def makeDialogue(**given: Any) -> Dialogue:
    """A dialogue with a client of 192.0.2.1; what is given are options."""
    options = Options(**{"name": "mx.example.org", "authOptional": True, **given})
    session = Session(options.name, options.lmtp, remoteAddress="192.0.2.1", clientHostname="[192.0.2.1]")
    return Dialogue(options, Extensions(builtInExtensions(options)), session)


def checkSanity(dialogue: Dialogue) -> None:
    """What must hold between any two commands."""
    state, session = dialogue.state, dialogue.session
    if state is State.CLOSED:
        return
    assert dialogue.inTransaction is (session.envelope.mailFrom is not None)
    assert dialogue.inTransaction is (state in _INSIDE)
    assert bool(session.envelope.rcptTo) is (state in _INSIDE - {State.MAIL})
    if state is State.GREETED:
        assert session.openingCommand is None
    if state is State.IDENTIFIED:
        assert session.openingCommand is not None


class Talk:
    """
    A client that talks to a dialogue, and the hooks that answer for it.

    @ivar answers: hook, C{"message"} or C{"chunk"} to what is answered: a value, an L{SMTPError} to refuse with, a
        L{Verdict}, or a function of the question that returns one of these.  Whatever is not there is accepted.
    @ivar asked: every question so far.
    """

    def __init__(self, answers: dict[Any, Any] | None = None, **options: Any) -> None:
        self.dialogue = makeDialogue(**options)
        self.session = self.dialogue.session
        self.answers = answers or {}
        self.asked: list[Question] = []
        self.greeting = self._finish(self.dialogue.open())

    def say(self, line: str | bytes | LineFault) -> str:
        """Send a line; the lines of all replies to it."""
        return self._finish(self.dialogue.receive(line.encode() if isinstance(line, str) else line))

    def sayAll(self, *lines: str) -> str:
        """Send lines; the replies to the last."""
        return [self.say(line) for line in lines][-1]

    def hooks(self) -> list[Any]:
        """The names of the hooks that were asked."""
        return [question.hook for question in self.asked if isinstance(question, Ask)]

    @property
    def state(self) -> State:
        return self.dialogue.state

    def _finish(self, step: Step) -> str:
        said = []
        while not isinstance(step, (Reply, *(() if isinstance(step, Question.__args__) else (tuple,)))):
            self.asked.append(step)
            if isinstance(step, ReceiveMessage):
                said.append(step.reply)
            step = self._answer(step)
        said += [step] if isinstance(step, Reply) else step
        checkSanity(self.dialogue)
        return "\n".join(self.dialogue.encode(reply).decode().removesuffix("\r\n") for reply in said)

    def _answer(self, question: Question) -> Step:
        name = question.hook if isinstance(question, Ask) else _NAMES[type(question)]
        answer = self.answers.get(name)
        if callable(answer):
            answer = answer(question)
        if isinstance(question, Ask) and isinstance(answer, SMTPError):
            return self.dialogue.refuse(answer)
        decides = isinstance(question, ReceiveMessage) or (isinstance(question, ReceiveChunk) and question.last)
        if decides and not isinstance(answer, Verdict):
            answer = Verdict((answer,) * recipients(self.dialogue), None)
        return self.dialogue.answer(answer)


_NAMES = {ReceiveMessage: "message", ReceiveChunk: "chunk", DiscardChunk: "discard", AbandonMessage: "abandon"}


def recipients(dialogue: Dialogue) -> int:
    """How many results a verdict must have."""
    return len(dialogue.session.envelope.rcptTo) if dialogue.options.lmtp else 1


# --- Transcripts ---


def play(lines: Iterable[str]) -> None:
    """Play a transcript; an L{AssertionError} names the line that did not come true."""
    player = _Player()
    for number, line in enumerate(lines, 1):
        try:
            player.play(line.rstrip("\n"))
        except AssertionError as error:
            raise AssertionError(f"line {number}: {line.strip()}\n{error}") from None
    player.end()


class _Player:
    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.attributes: dict[str, Any] = {}
        self.dialogue: Dialogue | None = None
        self.step: Step | None = None
        self.said: list[str] = []  # lines of the server that the transcript has yet to show

    def play(self, line: str) -> None:
        kind, _, rest = line.partition(" ")
        if kind not in ("", "#"):
            _KINDS[kind](self, rest)

    def option(self, text: str) -> None:
        name, _, value = text.partition(" = ")
        self.options[name] = ast.literal_eval(value)

    def attribute(self, text: str) -> None:
        name, _, value = text.partition(" = ")
        self.attributes[name] = ast.literal_eval(value)

    def begin(self) -> Dialogue:
        if self.dialogue is None:
            self.dialogue = makeDialogue(**self.options)
            for name, value in self.attributes.items():
                setattr(self.dialogue.session, name, value)
            self.take(self.dialogue.open())
        return self.dialogue

    def take(self, step: Step) -> None:
        self.step = step
        if isinstance(step, ReceiveMessage):
            self.hear(step.reply)
        elif isinstance(step, Reply):
            self.hear(step)
            self.step = None
        elif not isinstance(step, Question.__args__):
            for reply in step:
                self.hear(reply)
            self.step = None

    def hear(self, reply: Reply) -> None:
        assert self.dialogue is not None
        lines = self.dialogue.encode(reply).decode().removesuffix("\r\n").split("\r\n")
        marks = ["S:"] * (len(lines) - 1) + ["S." if reply.closes else "S:"]
        self.said += [f"{mark} {line}" for mark, line in zip(marks, lines, strict=True)]

    def client(self, text: str) -> None:
        octets = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), text.encode())
        self.send(octets)

    def fault(self, name: str) -> None:
        self.send(LineFault[name])

    def send(self, line: bytes | LineFault) -> None:
        dialogue = self.begin()
        self.checkNothingOpen()
        self.take(dialogue.receive(line))

    def server(self, text: str, mark: str = "S:") -> None:
        self.begin()
        got = self.said.pop(0) if self.said else f"nothing, it asks {self.step}"
        assert got == f"{mark} {text}", f"the server said: {got}"

    def lastWords(self, text: str) -> None:
        self.server(text, "S.")
        assert self.begin().state is State.CLOSED

    def holds(self, text: str) -> None:
        path, _, wanted = text.partition(": ")
        value: Any = {"session": self.begin().session, "state": self.begin().state.value}
        for name in path.split("."):
            if isinstance(value, dict) or name.isdigit():
                value = value[int(name) if name.isdigit() else name]
            else:
                value = getattr(value, name)
        assert value == ast.literal_eval(wanted), f"it is {value!r}"

    def question(self, text: str) -> None:
        dialogue = self.begin()
        what, _, how = text.partition(" -> ")
        assert not self.said, f"the server said: {self.said[0]}"
        assert self.step is not None, "nothing is asked"
        assert what == _describe(self.step), f"it asks: {_describe(self.step)}"
        if isinstance(self.step, Ask):
            answer = _result(how)
            self.take(dialogue.refuse(answer) if isinstance(answer, SMTPError) else dialogue.answer(answer))
        elif how in ("done", "more"):
            self.take(dialogue.answer(None))
        else:
            self.take(dialogue.answer(_verdict(how)))

    def checkNothingOpen(self) -> None:
        assert not self.said, f"the server said: {self.said[0]}"
        assert self.step is None, f"it asks: {_describe(self.step)}"

    def end(self) -> None:
        checkSanity(self.begin())
        self.checkNothingOpen()


_KINDS = {
    "option": _Player.option,
    "session": _Player.attribute,
    "C:": _Player.client,
    "C!": _Player.fault,
    "S:": _Player.server,
    "S.": _Player.lastWords,
    "=": _Player.holds,
    "?": _Player.question,
}


def _describe(step: Any) -> str:
    if isinstance(step, Ask):
        arguments = [str(argument) for argument in step.arguments if not isinstance(argument, Session)]
        return " ".join([str(step.hook), *(argument or "<>" for argument in arguments)])
    if isinstance(step, ReceiveChunk):
        return f"chunk {step.octets}" + " first" * step.first + " last" * step.last
    if isinstance(step, DiscardChunk):
        return f"discard {step.octets}"
    return _NAMES[type(step)]


def _result(text: str) -> str | SMTPError | None:
    verb, _, rest = text.partition(" ")
    if verb == "ok":
        return rest or None
    assert verb == "refuse", f"no such answer: {text}"
    match = re.fullmatch(r"(?:(\d{3}) )?(?:(\d\.\d+\.\d+) )?(.*)", rest)
    assert match is not None
    return SMTPError(match[3], match[1] and int(match[1]), match[2])


def _verdict(text: str) -> Verdict:
    results, _, fault = text.partition(" !")
    return Verdict(
        tuple(_result(result.strip()) for result in results.split("|")),
        getattr(replies, fault) if fault else None,
    )
