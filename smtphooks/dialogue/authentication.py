"""
The commands that make a connection trusted: AUTH (RFC 4954) and STARTTLS (RFC 3207).

A handler gets the dialogue and the argument of the command, yields what it must know first and returns the reply.
This module knows base64 and the order of things; what is in a response only the mechanism knows, and neither ever says
it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Generator
from typing import Any

from smtphooks import replies
from smtphooks.dialogue import transaction
from smtphooks.dialogue.context import Context, refusalBy
from smtphooks.dialogue.steps import Ask, AuthFailed, Challenge, Question, StartTLS, Task, Wait
from smtphooks.replies import Reply, SMTPError
from smtphooks.sasl.auth import Auth, AuthResponse, decodeBase64
from smtphooks.syntax.wire import LineFault

# RFC 4954 section 4: octets of a line with base64, CRLF included.
AUTH_LINE_LENGTH = 12288

# Seconds that a failure costs the client: the first one, and what it grows to by doubling.
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 16.0

_SYNTAX_ERRORS = (500, 501)

_UNDECODABLE = "Cannot decode the response"


def auth(context: Context, argument: str) -> Task:
    """RFC 4954 section 4."""
    session, options = context.session, context.options
    if not context.mechanisms.hasHook():
        return replies.NOT_IMPLEMENTED
    if session.user is not None:
        return replies.ALREADY_AUTHENTICATED
    if context.inTransaction:
        return replies.NOT_IN_TRANSACTION
    if _isBarred(context):
        return replies.TOO_MANY_AUTH_FAILURES
    name, _, initial = argument.partition(" ")
    if not name:
        return replies.AUTH_SYNTAX
    if not session.secure and not options.allowInsecureAuth:
        return replies.ENCRYPTION_REQUIRED
    mechanism = context.mechanisms.find(name, session)
    if mechanism is None:
        return replies.UNKNOWN_MECHANISM
    isHidden = getattr(mechanism, "hidesRefusals", False)
    response = yield from _exchange(context, mechanism.exchange(_initial(initial), session), isHidden)
    if response is None:
        return replies.TOO_MANY_AUTH_FAILURES
    if not response.accepts:
        refusal = failureReply(response)
        if refusal.code >= 500:
            yield from _failed(context, refusal)
        return refusal
    session.user = response.user
    context.counts.authFailures = 0
    return Reply(235, response.message or "Authentication successful", "2.7.0")


def _isBarred(context: Context) -> bool:
    # The address of now: behind a proxy it is that of the client, once XCLIENT has said so.
    return context.failuresByAddress.isBarred(context.session.remoteAddress)


def _count(context: Context, reply: Reply) -> Generator[Question, Any, None]:
    """
    An attempt has failed: it counts, and is logged, once and as soon as that is known.

    The client may leave before it has its reply, or learn it from a challenge (RFC 7628 section 3.2.3).
    """
    if not context.command.hasFailed:
        context.command.hasFailed = True
        context.failuresByAddress.add(context.session.remoteAddress)
        yield AuthFailed(reply)


def _failed(context: Context, reply: Reply) -> Generator[Question, Any, None]:
    """A client that guesses passwords shall not do it fast, nor from many connections; no other client waits."""
    yield from _count(context, reply)
    context.counts.authFailures += 1
    yield Wait(min(_FIRST_DELAY * 2 ** (context.counts.authFailures - 1), _LONGEST_DELAY))


def _initial(text: str) -> bytes | None:
    if not text:
        return None
    # RFC 4954 section 4: a response that is there but empty is written "=".
    return b"" if text == "=" else decodeBase64(text, _UNDECODABLE)


def failureReply(response: AuthResponse) -> Reply:
    """The reply to an attempt that failed."""
    error = SMTPError(response.message or "Authentication credentials invalid", response.responseCode)
    return refusalBy("onAuth", error)


def _exchange(
    context: Context, exchange: Generator[bytes | Auth, Any, AuthResponse], isHidden: bool
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
    hook = "parameter"  # what the mechanism raises is at first a fault of the response
    while True:
        try:
            wanted = resume(answer)
        except StopIteration as end:
            result: AuthResponse = end.value
            return result
        except SMTPError as error:
            reply = refusalBy(hook, error)
            # Neither what is refused only for now nor, from a mechanism, what is malformed is a guess that failed.
            if reply.code >= 500 and (error is refusal or reply.code not in _SYNTAX_ERRORS):
                yield from _failed(context, reply)
            raise
        resume = exchange.send
        if isinstance(wanted, Auth):
            # The exchanges of many connections may have begun before the first of them failed.
            if _isBarred(context):
                return None
            hook = "onAuth"
            context.command.attempt = wanted
            try:
                answer = yield from askOnAuth(context, wanted)
                if not answer.accepts and not isHidden and (reply := failureReply(answer)).code >= 500:
                    yield from _count(context, reply)
            except SMTPError as error:
                if not isHidden and (reply := refusalBy(hook, error)).code >= 500:
                    yield from _count(context, reply)
                # For the mechanism to hide, if the client could learn from it which users there are.
                resume, answer = exchange.throw, (refusal := error)
            continue
        line = yield Challenge(b"334 %s\r\n" % b64encode(wanted))
        try:
            answer = _response(line)
        except SMTPError as error:
            # For the mechanism to let pass, if all is decided already.
            resume, answer = exchange.throw, error


def askOnAuth(context: Context, attempt: Auth) -> Generator[Question, Any, AuthResponse]:
    """Ask C{onAuth}."""
    answer = yield Ask("onAuth", (attempt, context.session))
    response = answer if isinstance(answer, AuthResponse) else AuthResponse(user=answer or None)
    context.command.refuser = "" if response.accepts else "onAuth"
    return response


def _response(line: bytes | LineFault) -> bytes:
    if isinstance(line, LineFault):
        # RFC 4954 section 6 has a code of its own for this.
        raise SMTPError("Authentication exchange line is too long or has a bare line end", 500, "5.5.6")
    if line == b"*":
        raise SMTPError("Authentication cancelled", 501, "5.7.0")
    return decodeBase64(line, _UNDECODABLE)


def starttls(context: Context, argument: str) -> Task:
    """RFC 3207 section 4."""
    if context.session.secure:
        return replies.ALREADY_SECURE
    yield from transaction.abandon(context)
    return (yield from secure(context, StartTLS(replies.READY_FOR_TLS)))


def secure(context: Context, step: StartTLS) -> Task:
    """Begin TLS; nothing of what the client said before is believed after it (section 4.2)."""
    transport = yield step
    context.startAnew()
    yield Ask("onSecure", (transport, context.session))
    return ()
