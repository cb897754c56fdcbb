"""
The commands that make a connection trusted: AUTH (RFC 4954) and STARTTLS (RFC 3207).

A handler gets the dialogue and the argument of the command, yields what it must know first and returns the reply.
This module knows base64 and the order of things; what is in a response only the mechanism knows, and neither ever says
it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from smtphooks import replies
from smtphooks.dialogue import transaction
from smtphooks.dialogue.steps import Ask, AuthFailed, Challenge, Question, StartTLS, Task, Wait
from smtphooks.hooks import SITUATIONS
from smtphooks.replies import Reply, SMTPError
from smtphooks.sasl.mechanisms import Auth, AuthResponse
from smtphooks.sasl.scram import maybeBase64
from smtphooks.syntax.wire import LineFault

if TYPE_CHECKING:
    from smtphooks.dialogue.engine import Dialogue

# RFC 4954 section 4: octets of a line with base64, CRLF included.
AUTH_LINE_LENGTH = 12288

# Seconds that a failure costs the client: the first one, and what it grows to by doubling.
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 16.0

_SYNTAX_ERRORS = (500, 501)


def auth(dialogue: Dialogue, argument: str) -> Task:
    """RFC 4954 section 4."""
    session, options = dialogue.session, dialogue.options
    if not dialogue.mechanisms.isJudged():
        return replies.NOT_IMPLEMENTED
    if session.user is not None:
        return replies.ALREADY_AUTHENTICATED
    if dialogue.inTransaction:
        return replies.NOT_IN_TRANSACTION
    if _isBarred(dialogue):
        return replies.TOO_MANY_AUTH_FAILURES
    name, _, initial = argument.partition(" ")
    if not name:
        return replies.AUTH_SYNTAX
    if not session.secure and not options.allowInsecureAuth:
        return replies.ENCRYPTION_REQUIRED
    mechanism = dialogue.mechanisms.find(name, session)
    if mechanism is None:
        return replies.UNKNOWN_MECHANISM
    isHidden = getattr(mechanism, "hidesRefusals", False)
    response = yield from _exchange(dialogue, mechanism.exchange(_initial(initial), session), isHidden)
    if response is None:
        return replies.TOO_MANY_AUTH_FAILURES
    if not response.accepts:
        refusal = refusalOf(response)
        if refusal.code >= 500:
            yield from _failed(dialogue, refusal)
        return refusal
    session.user = response.user
    dialogue.authenticationFailures = 0
    return Reply(235, response.message or "Authentication successful", "2.7.0")


def _isBarred(dialogue: Dialogue) -> bool:
    # The address of now: behind a proxy it is that of the client, once XCLIENT has said so.
    return dialogue.failuresByAddress.isBarred(dialogue.session.remoteAddress)


def _count(dialogue: Dialogue, reply: Reply) -> Generator[Question, Any, None]:
    """
    An attempt has failed: it counts, and is logged, once and as soon as that is known.

    The client may leave before it has its reply, or learn it from a challenge (RFC 7628 section 3.2.3).
    """
    if not dialogue.hasFailed:
        dialogue.hasFailed = True
        dialogue.failuresByAddress.add(dialogue.session.remoteAddress)
        yield AuthFailed(reply)


def _failed(dialogue: Dialogue, reply: Reply) -> Generator[Question, Any, None]:
    """A client that guesses passwords shall not do it fast, nor from many connections; no other client waits."""
    yield from _count(dialogue, reply)
    dialogue.authenticationFailures += 1
    yield Wait(min(_FIRST_DELAY * 2 ** (dialogue.authenticationFailures - 1), _LONGEST_DELAY))


def _initial(text: str) -> bytes | None:
    if not text:
        return None
    # RFC 4954 section 4: a response that is there but empty is written "=".
    return b"" if text == "=" else _decode(text)


def refusalOf(response: AuthResponse) -> Reply:
    """The reply to an attempt that failed."""
    error = SMTPError(response.message or "Authentication credentials invalid", response.responseCode)
    return error.reply(SITUATIONS["onAuth"])


def _exchange(
    dialogue: Dialogue, exchange: Generator[bytes | Auth, Any, AuthResponse], isHidden: bool
) -> Generator[Question, Any, AuthResponse | None]:
    """
    Carry challenges and responses between the mechanism and the client, and attempts to the hook.

    What the hook refuses counts at once, as a challenge may say so to the client; but not where the mechanism hides
    which users there are (C{isHidden}), or a client that breaks off could tell them by what has been counted.

    Returns None if the client's address has been barred meanwhile.
    """
    resume: Callable[[Any], bytes | Auth] = exchange.send
    answer: bytes | AuthResponse | SMTPError | None = None
    refusal: SMTPError | None = None  # that of the hook
    situation = replies.PARAMETER_SITUATION
    while True:
        try:
            wanted = resume(answer)
        except StopIteration as end:
            result: AuthResponse = end.value
            return result
        except SMTPError as error:
            reply = error.reply(situation)
            # Neither what is refused only for now nor, from a mechanism, what is malformed is a guess that failed.
            if reply.code >= 500 and (error is refusal or reply.code not in _SYNTAX_ERRORS):
                yield from _failed(dialogue, reply)
            raise
        resume = exchange.send
        if isinstance(wanted, Auth):
            # The exchanges of many connections may have begun before the first of them failed.
            if _isBarred(dialogue):
                return None
            situation = SITUATIONS["onAuth"]
            dialogue.attempt = wanted
            try:
                answer = yield from judge(dialogue, wanted)
                if not answer.accepts and not isHidden and (reply := refusalOf(answer)).code >= 500:
                    yield from _count(dialogue, reply)
            except SMTPError as error:
                if not isHidden and (reply := error.reply(situation)).code >= 500:
                    yield from _count(dialogue, reply)
                # For the mechanism to hide, if the client could learn from it which users there are.
                resume, answer = exchange.throw, (refusal := error)
            continue
        line = yield Challenge(b"334 %s\r\n" % b64encode(wanted))
        try:
            answer = _response(line)
        except SMTPError as error:
            # For the mechanism to let pass, if all is decided already.
            resume, answer = exchange.throw, error


def judge(dialogue: Dialogue, attempt: Auth) -> Generator[Question, Any, AuthResponse]:
    """Ask C{onAuth}."""
    answer = yield Ask("onAuth", (attempt, dialogue.session))
    response = answer if isinstance(answer, AuthResponse) else AuthResponse(user=answer or None)
    dialogue.refuser = "" if response.accepts else "onAuth"
    return response


def _response(line: bytes | LineFault) -> bytes:
    if isinstance(line, LineFault):
        # RFC 4954 section 6 has a code of its own for this.
        raise SMTPError("Authentication exchange line is too long or has a bare line end", 500, "5.5.6")
    if line == b"*":
        raise SMTPError("Authentication cancelled", 501, "5.7.0")
    return _decode(line)


def _decode(text: str | bytes) -> bytes:
    octets = maybeBase64(text)
    if octets is None:
        raise SMTPError("Cannot decode the response", 501, "5.5.2")
    return octets


def starttls(dialogue: Dialogue, argument: str) -> Task:
    """RFC 3207 section 4."""
    if dialogue.session.secure:
        return replies.ALREADY_SECURE
    yield from transaction.abandon(dialogue)
    return (yield from secure(dialogue, StartTLS(replies.READY_FOR_TLS)))


def secure(dialogue: Dialogue, step: StartTLS) -> Task:
    """Begin TLS; nothing of what the client said before is believed after it (section 4.2)."""
    transport = yield step
    dialogue.startAnew()
    try:
        yield Ask("onSecure", (transport, dialogue.session))
    except SMTPError as refusal:
        return refusal.reply(SITUATIONS["onSecure"]).closing()
    return ()
