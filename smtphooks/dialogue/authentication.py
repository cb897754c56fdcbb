"""
The commands that make a connection trusted: AUTH (RFC 4954) and STARTTLS (RFC 3207).

Both have several steps: a handler yields what it must know first and returns the reply.
This module carries challenges and responses; only the mechanism knows what is in them, and no reply ever tells.
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

# Seconds that the client waits after a failure: after the first, and the most that doubling leads to.
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 16.0

_SYNTAX_ERRORS = (500, 501)

_UNDECODABLE = "Cannot decode the response"


def auth(context: Context, argument: str, answer: None) -> Task:
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
            yield from _slowDown(context, refusal)
        return refusal
    session.user = response.user
    context.counts.authFailures = 0
    return Reply(235, response.message or "Authentication successful", "2.7.0")


def _isBarred(context: Context) -> bool:
    # The current address: behind a proxy, that of the client once XCLIENT has given it.
    return context.failuresByAddress.isBarred(context.session.remoteAddress)


def _countFailure(context: Context, reply: Reply) -> Generator[Question, Any, None]:
    """
    Count and log a failed attempt, once and as soon as it has failed.

    The client may leave before it gets the reply, or learn of the failure from a challenge (RFC 7628 section 3.2.3).
    """
    if not context.command.hasFailed:
        context.command.hasFailed = True
        context.failuresByAddress.add(context.session.remoteAddress)
        yield AuthFailed(reply)


def _slowDown(context: Context, reply: Reply) -> Generator[Question, Any, None]:
    """Count a failure and let the client wait for it, so that guessing passwords takes time."""
    yield from _countFailure(context, reply)
    context.counts.authFailures += 1
    yield Wait(min(_FIRST_DELAY * 2 ** (context.counts.authFailures - 1), _LONGEST_DELAY))


def _initial(text: str) -> bytes | None:
    if not text:
        return None
    # RFC 4954 section 4: an initial response that is present but empty is written "=".
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

    A refusal by the hook counts at once, as a challenge may tell the client of it.

    @param isHidden: the mechanism hides which users exist.  Then a refusal counts at the end only, or a client that
        breaks off could tell them by what has been counted.
    @return: None if the client's address has been barred meanwhile.
    """
    resume: Callable[[Any], bytes | Auth] = exchange.send
    answer: bytes | AuthResponse | SMTPError | None = None
    refusal: SMTPError | None = None  # by the hook
    hook = "parameter"  # until the hook is asked, an error of the mechanism is about the response
    while True:
        try:
            wanted = resume(answer)
        except StopIteration as end:
            result: AuthResponse = end.value
            return result
        except SMTPError as error:
            reply = refusalBy(hook, error)
            # Neither a temporary refusal nor a malformed response is a failed guess.
            if reply.code >= 500 and (error is refusal or reply.code not in _SYNTAX_ERRORS):
                yield from _slowDown(context, reply)
            raise
        resume = exchange.send
        if isinstance(wanted, Auth):
            # The client may have begun exchanges on many connections before the first of them failed.
            if _isBarred(context):
                return None
            hook = "onAuth"
            context.command.attempt = wanted
            try:
                answer = yield from askOnAuth(context, wanted)
                if not answer.accepts and not isHidden and (reply := failureReply(answer)).code >= 500:
                    yield from _countFailure(context, reply)
            except SMTPError as error:
                if not isHidden and (reply := refusalBy(hook, error)).code >= 500:
                    yield from _countFailure(context, reply)
                # The mechanism may hide it, if it would tell the client which users exist.
                resume, answer = exchange.throw, (refusal := error)
            continue
        line = yield Challenge(b"334 %s\r\n" % b64encode(wanted))
        try:
            answer = _response(line)
        except SMTPError as error:
            # The mechanism may ignore it, if the hook has decided already.
            resume, answer = exchange.throw, error


def askOnAuth(context: Context, attempt: Auth) -> Generator[Question, Any, AuthResponse]:
    """Ask C{onAuth}, whose answer may be the user itself."""
    answer = yield Ask("onAuth", (attempt, context.session))
    response = answer if isinstance(answer, AuthResponse) else AuthResponse(user=answer or None)
    context.command.refuser = "" if response.accepts else "onAuth"
    return response


def _response(line: bytes | LineFault) -> bytes:
    if isinstance(line, LineFault):
        # The enhanced code is that of RFC 4954 section 6.
        raise SMTPError("Authentication exchange line is too long or has a bare line end", 500, "5.5.6")
    if line == b"*":
        raise SMTPError("Authentication cancelled", 501, "5.7.0")
    return decodeBase64(line, _UNDECODABLE)


def starttls(context: Context, argument: str, answer: None) -> Task:
    """RFC 3207 section 4."""
    if context.session.secure:
        return replies.ALREADY_SECURE
    yield from transaction.abandon(context)
    return (yield from secure(context, StartTLS(replies.READY_FOR_TLS)))


def secure(context: Context, step: StartTLS) -> Task:
    """Begin TLS, and forget all that the client has said before (section 4.2)."""
    transport = yield step
    context.startAnew()
    yield Ask("onSecure", (transport, context.session))
    return ()
