"""
The table of hooks: the name of each, what it is called with, and what its result and its refusal mean.

A new hook is a row of L{HOOKS} here; a protocol, and a member of two others, in C{hooktypes.py}; and in C{hooks.py} a
method of C{ISMTPHooks} and of C{Hooks}, and an attribute of C{HookAttributes}.
This module knows no dialogue and no types of arguments, and not how a hook is called.
"""

from __future__ import annotations

import attrs

from smtphooks.replies import Situation


@attrs.frozen
class Hook:
    """
    A row of the table.

    @ivar arguments: the names of what the hook is called with.
    @ivar situation: the codes of a refusal that names none.  None: the hook cannot refuse; what it raises is logged.
    @ivar isResultUsed: the result decides something, or is the text of a reply.
    @ivar mayAnswerFalse: False is a result like others.  Elsewhere it is a fault: other libraries refuse with it.
    """

    name: str
    arguments: tuple[str, ...]
    situation: Situation | None = None
    isResultUsed: bool = attrs.field(kw_only=True)
    mayAnswerFalse: bool = attrs.field(kw_only=True)

    @isResultUsed.default
    def _isResultUsed(self) -> bool:
        return self.situation is not None

    @mayAnswerFalse.default
    def _mayAnswerFalse(self) -> bool:
        return not self.isResultUsed


# In the order of a connection's life.  RFC 3463 and the registry of RFC 5248: one reply code means different things in
# different places (552 at RCPT is a full mailbox, after DATA a large message), hence enhanced codes for each hook.
_ROWS = (
    Hook(
        "onConnect",
        ("session",),
        Situation(554, {450: "4.7.1", 451: "4.7.1"}, closes=True),
        isResultUsed=False,
    ),
    Hook(
        "onSecure",
        ("transport", "session"),
        Situation(554, {450: "4.7.1", 451: "4.7.1", 550: "5.7.5", 554: "5.7.5"}, closes=True),
        isResultUsed=False,
    ),
    Hook("onHelo", ("hostname", "session"), Situation(550, {450: "4.7.1"})),
    Hook(
        "onAuth",
        ("auth", "session"),
        Situation(535, {450: "4.7.0", 451: "4.7.0", 454: "4.7.0", 534: "5.7.9", 550: "5.7.8", 554: "5.7.8"}),
        mayAnswerFalse=True,
    ),
    Hook(
        "onMailFrom",
        ("address", "session"),
        Situation(550, {450: "4.1.8", 451: "4.3.0", 452: "4.3.1", 552: "5.3.4", 553: "5.1.7"}),
    ),
    Hook(
        "onRcptTo",
        ("address", "session"),
        Situation(550, {450: "4.2.0", 452: "4.2.2", 550: "5.1.1", 551: "5.1.6", 552: "5.2.2", 553: "5.1.3"}),
    ),
    Hook("onData", ("stream", "session"), Situation(450, {450: "4.3.0", 452: "4.3.1", 552: "5.3.4", 554: "5.6.0"})),
    Hook("onReset", ("session",)),
    Hook("onVrfy", ("text", "session"), Situation(550, {550: "5.1.1", 551: "5.1.6", 553: "5.1.4"})),
    Hook("onClose", ("session",)),
    Hook("onError", ("failure", "session")),
    Hook("onReply", ("verb", "reply", "session")),
)

HOOKS = {hook.name: hook for hook in _ROWS}
HOOK_NAMES = tuple(HOOKS)
SITUATIONS = {hook.name: hook.situation for hook in _ROWS if hook.situation is not None}

# What else the server calls of an object of hooks, but which no function of its own can stand for: what a message goes
# through on its way to onData, and the life of the object.
FURTHER: dict[str, tuple[str, ...]] = {
    "inspectData": ("stream", "session"),
    "filterData": ("stream", "session"),
    "onStart": ("service",),
    "onStop": ("service",),
}
ARGUMENTS = {**{hook.name: hook.arguments for hook in _ROWS}, **FURTHER}
