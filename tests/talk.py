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
    S: 334 VXNlcm5hbWU6          a challenge of AUTH; the next line of the client is the response to it
    = session.transaction: 2     what must hold now, as a Python literal
    ? what -> how                a question of the dialogue, and its answer

Every question must stand there, for a question too many is as wrong as a reply too many.  Questions and answers are:

    ? onRcptTo joe@b.example -> ok | ok text of the reply | refuse 550 5.1.1 text | refuse text
    ? message -> the same, with LMTP one for each recipient, divided by "|"; "!TOO_LARGE" at the end is a fault
    ? chunk 10 first last -> more, or the same
    ? discard 10 -> done
    ? abandon -> done
    ? starttls -> done           the handshake is done, and all that the session learns is that it is secure
    ? wait 1 -> done
    ? onAuth PLAIN ann -> user ann | no | refuse 454 text
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from smtphooks import replies
from smtphooks.dialogue.builtin import builtInExtensions
from smtphooks.dialogue.engine import Dialogue
from smtphooks.dialogue.extensions import Extensions
from smtphooks.dialogue.steps import (
    AbandonMessage,
    Ask,
    AuthFailed,
    Challenge,
    DiscardChunk,
    Question,
    ReceiveChunk,
    ReceiveMessage,
    StartTLS,
    State,
    Step,
    Verdict,
    Wait,
)
from smtphooks.options import Options
from smtphooks.replies import Reply, SMTPError
from smtphooks.sasl.auth import Auth, AuthResponse
from smtphooks.sasl.mechanisms import Mechanisms
from smtphooks.session import Session
from smtphooks.syntax.wire import LineFault

TRANSCRIPTS = Path(__file__).parent / "transcripts"

HELLO = "EHLO client.example"
MAIL = "MAIL FROM:<ann@a.example>"
RCPT = "RCPT TO:<joe@b.example>"

_INSIDE = {State.MAIL, State.RECIPIENTS, State.MESSAGE, State.CHUNKS}


def makeDialogue(hasHook: bool = True, **given: Any) -> Dialogue:
    """
    A dialogue with a client of 192.0.2.1; what is given are options.

    @param hasHook: there is a hook C{onAuth}.
    """
    options = Options(**{"name": "mx.example.org", "authOptional": True, **given})
    session = Session(
        options.name, options.lmtp, remoteAddress="192.0.2.1", clientHostname="[192.0.2.1]", secure=options.secured
    )
    mechanisms = Mechanisms(options.authMethods, lambda: hasHook)
    return Dialogue(options, Extensions(builtInExtensions(options, mechanisms)), session, mechanisms)


def checkSanity(dialogue: Dialogue) -> None:
    """What must hold between any two commands."""
    state, session = dialogue.state, dialogue.context.session
    if state is State.CLOSED:
        return
    assert dialogue.inTransaction is (session.envelope.mailFrom is not None)
    assert dialogue.inTransaction is (state in _INSIDE)
    assert bool(session.envelope.rcptTo) is (state in _INSIDE - {State.MAIL})
    assert dialogue.context.tally.recipients == len(session.envelope.rcptTo)
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

    def __init__(
        self,
        answers: dict[Any, Any] | None = None,
        session: dict[str, Any] | None = None,
        hasHook: bool = True,
        **options: Any,
    ) -> None:
        """
        @param session: attributes of the session.
        @param hasHook: there is a hook C{onAuth}.
        """
        self.dialogue = makeDialogue(hasHook, **options)
        self.session = self.dialogue.context.session
        for name, value in (session or {}).items():
            setattr(self.session, name, value)
        self.answers = answers or {}
        self.asked: list[Question] = []
        self._isChallenged = False
        self.greeting = self._finish(self.dialogue.open())

    def say(self, line: str | bytes | LineFault) -> str:
        """Send a line, a command or the response to a challenge; the lines of all replies to it."""
        take = self.dialogue.answer if self._isChallenged else self.dialogue.receiveLine
        self._isChallenged = False
        return self._finish(take(line.encode() if isinstance(line, str) else line))

    def sayAll(self, *lines: str) -> str:
        """Send lines; the replies to the last."""
        return [self.say(line) for line in lines][-1]

    def hooks(self) -> list[Any]:
        """The names of the hooks that were asked."""
        return [question.hook for question in self.asked if isinstance(question, Ask)]

    def waits(self) -> list[float]:
        """How many seconds the client was made to wait, each time."""
        return [question.seconds for question in self.asked if isinstance(question, Wait)]

    @property
    def state(self) -> State:
        return self.dialogue.state

    def _finish(self, step: Step) -> str:
        said: list[Reply] = []
        while not isinstance(step, (Reply, *(() if isinstance(step, Question.__args__) else (tuple,)))):
            self.asked.append(step)
            if isinstance(step, Challenge):
                assert not said
                self._isChallenged = True
                return step.octets.decode().removesuffix("\r\n")
            if isinstance(step, (ReceiveMessage, StartTLS)) and step.reply is not None:
                said.append(step.reply)
            step = self._answer(step)
        said += [step] if isinstance(step, Reply) else step
        checkSanity(self.dialogue)
        return "\n".join(self.dialogue.encode(reply).decode().removesuffix("\r\n") for reply in said)

    def _answer(self, question: Question) -> Step:
        if isinstance(question, AuthFailed):
            return self.dialogue.answer(None)  # it is for the log alone
        name = question.hook if isinstance(question, Ask) else _NAMES[type(question)]
        answer = self.answers.get(name)
        if callable(answer):
            answer = answer(question)
        if isinstance(question, StartTLS):
            self.session.secure = True
        if isinstance(question, Ask) and isinstance(answer, SMTPError):
            return self.dialogue.refuse(answer)
        decides = isinstance(question, ReceiveMessage) or (isinstance(question, ReceiveChunk) and question.last)
        if decides and not isinstance(answer, Verdict):
            answer = Verdict((answer,) * recipients(self.dialogue), None)
        return self.dialogue.answer(answer)


_NAMES: dict[type, str] = {
    ReceiveMessage: "message",
    ReceiveChunk: "chunk",
    DiscardChunk: "discard",
    AbandonMessage: "abandon",
    StartTLS: "starttls",
    Wait: "wait",
}


def recipients(dialogue: Dialogue) -> int:
    """How many results a verdict must have."""
    return dialogue.context.tally.recipients if dialogue.context.options.lmtp else 1


def shown(**options: Any) -> list[str]:
    """The lines of the EHLO reply behind the first."""
    return [line[4:] for line in Talk(**options).say(HELLO).splitlines()[1:]]


def mail(parameters: str, **options: Any) -> Talk:
    """A talk in which this MAIL command was accepted."""
    talk = Talk(**options)
    talk.say(HELLO)
    assert talk.say(f"{MAIL} {parameters}") == "250 2.1.0 Sender OK"
    return talk


def mailRefused(parameters: str, **options: Any) -> str:
    talk = Talk(**options)
    talk.say(HELLO)
    reply = talk.say(f"{MAIL} {parameters}")
    assert talk.state is State.IDENTIFIED
    assert "onMailFrom" not in talk.hooks()
    return reply


# --- Transcripts ---


def play(lines: Iterable[str]) -> None:
    """Play a transcript; an L{AssertionError} names the line that is not true."""
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
                setattr(self.dialogue.context.session, name, value)
            self.take(self.dialogue.open())
        return self.dialogue

    def take(self, step: Step) -> None:
        if isinstance(step, AuthFailed):
            assert self.dialogue is not None
            step = self.dialogue.answer(None)  # it is for the log alone
        self.step = step
        if isinstance(step, Challenge):
            self.said.append(f"S: {step.octets.decode()}".removesuffix("\r\n"))
        elif isinstance(step, (ReceiveMessage, StartTLS)):
            if step.reply is not None:
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
        if isinstance(self.step, Challenge) and not self.said:
            self.take(dialogue.answer(line))
            return
        self.checkNothingOpen()
        self.take(dialogue.receiveLine(line))

    def server(self, text: str, mark: str = "S:") -> None:
        self.begin()
        got = self.said.pop(0) if self.said else f"nothing, it asks {self.step}"
        assert got == f"{mark} {text}", f"the server said: {got}"

    def lastWords(self, text: str) -> None:
        self.server(text, "S.")
        assert self.begin().state is State.CLOSED

    def holds(self, text: str) -> None:
        path, _, wanted = text.partition(": ")
        value: Any = {"session": self.begin().context.session, "state": self.begin().state.value}
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
            if isinstance(self.step, StartTLS):
                dialogue.context.session.secure = True
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
        arguments = [_word(argument) for argument in step.arguments if not isinstance(argument, Session)]
        return " ".join([str(step.hook), *(argument or "<>" for argument in arguments)])
    if isinstance(step, ReceiveChunk):
        return f"chunk {step.octets}" + " first" * step.first + " last" * step.last
    if isinstance(step, DiscardChunk):
        return f"discard {step.octets}"
    if isinstance(step, Challenge):
        return "a challenge"
    return f"wait {step.seconds:g}" if isinstance(step, Wait) else _NAMES[type(step)]


def _word(argument: Any) -> str:
    if isinstance(argument, Auth):
        return f"{argument.method} {argument.username}"
    return "transport" if argument is None else str(argument)


def _result(text: str) -> Any:
    verb, _, rest = text.partition(" ")
    if verb == "ok":
        return rest or None
    if verb in ("user", "no"):
        return AuthResponse(user=rest or None)
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
