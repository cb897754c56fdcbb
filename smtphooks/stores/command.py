"""
The store that hands each message to a program, on its standard input, as Postfix's pipe(8) does.

In: the stream and the session of C{onData}.  Out: what the exit status of the program says, as sysexits.h has it.
Rule: a message is accepted only if the program has read all of it and ended with 0; a part of a message never looks
whole to it.
This module knows no signals and no pipes, and not what a program does with a message.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger

from smtphooks.awaiting import Waiting
from smtphooks.currentreactor import currentReactor
from smtphooks.errors import OptionError
from smtphooks.hooks import Unavailable
from smtphooks.optionkinds import NotShown, count, isText, option, seconds, withOptions
from smtphooks.replies import HOOK_FAILED, SMTPError
from smtphooks.session import Address, Session
from smtphooks.stores.commandargv import (
    checkArgv,
    filledArgv,
    filledEnvironment,
    groupsOf,
    isPerRecipient,
    pathOf,
)
from smtphooks.stores.commandprocess import KILL_DELAY, Budget, CommandProcess, Invocation
from smtphooks.stores.turns import Turns
from smtphooks.stream import MessageStream

log: Logger = Logger()


def _isArgument(value: Any) -> bool:
    return isText(value) and "\0" not in value


def _isEnvironment(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        _isArgument(name) and name and "=" not in name and _isArgument(text) for name, text in value.items()
    )


def _isAccount(value: Any) -> bool:
    return (isText(value) and value != "") or (type(value) is int and value >= 0)


def _isRelative(text: str) -> bool:
    return text.startswith(("./", "../"))


@withOptions
class Command:
    """
    Hooks that run a program for each message, C{smtphooks.stores.Command}; in TOML C{smtphooks.stores:Command}.

    @ivar argv: the program and its arguments, in which C{${sender}}, C{${recipient}} and others stand for values.
    @ivar concurrency: messages whose programs run at the same time, 0 for no limit.
    @ivar waitTimeout: seconds that another message waits for its turn.
    @ivar timeout: seconds that the programs of one message may take, without those in which the client is waited for.
    @ivar environment: variables of the program.
    @ivar directory: its working folder.
    @ivar user: whom it runs as, by name or number, if the server runs as root; C{group} its group, if not the user's.
    @raise OptionError: for a wrong value, a program that is not there, and an unknown user or group.
    """

    argv: Sequence[str] = option(
        attrs.NOTHING,
        "a list of texts, the program first",
        lambda value: isinstance(value, tuple) and bool(value) and all(map(_isArgument, value)),
        converter=lambda value: tuple(value) if isinstance(value, (list, tuple)) else value,
        isPath=_isRelative,
    )
    concurrency: int = count(20, "messages")
    waitTimeout: float = seconds(60)
    timeout: float = seconds(300)
    environment: Mapping[str, str] = option(
        dict,
        "a table of names and texts",
        _isEnvironment,
        show=lambda value: NotShown("(not shown)") if value else value,
        isSecret=True,
    )
    directory: str = option("/", "the path of a folder", lambda value: _isArgument(value) and value, isPath=isText)
    user: str | int | None = option(None, "the name or number of a user", _isAccount)
    group: str | int | None = option(None, "the name or number of a group", _isAccount)
    clock: Any = attrs.field(default=None, init=False, repr=False)

    if TYPE_CHECKING:

        def __init__(self, argv: Sequence[str], **options: Any) -> None: ...

    def __attrs_post_init__(self) -> None:
        checkArgv(self.argv)
        self._program = _programOf(self.argv[0], pathOf(self.environment))
        self.name: str = self.argv[0]
        if not os.path.isdir(self.directory):
            raise OptionError(
                "option directory is {!r}, there is no such folder", self.directory, options=["directory"]
            )
        self._account = _accountOf(self.user, self.group)
        self._variables = {**self._account.variables, **self.environment}
        self._isPerRecipient = isPerRecipient(self.argv)
        self._turns = Turns(self.concurrency)
        self._processes: set[CommandProcess] = set()

    async def onStop(self, service: object) -> None:
        """Kill what still runs; there is no connection any more, and so nobody that waits for it."""
        for process in tuple(self._processes):
            process.killNow()
            waiting = process.whenOver()
            waiting.addTimeout(KILL_DELAY, self.clock or currentReactor())
            try:
                await waiting
            except DeferredTimeout:
                log.warn("{program} does not end although it was killed", program=self.name)

    async def onData(self, stream: MessageStream, session: Session) -> list[SMTPError | None] | None:
        """
        Run the program.

        @return: over LMTP a result for each recipient, in order.
        @raise SMTPError: what the program refuses; 552 for a message above the limit.
        @raise Unavailable: if the program does not run, ends in any other way, or takes too long.
        """
        clock = self.clock or currentReactor()
        try:
            await self._turns.take(self.waitTimeout, clock)
        except DeferredTimeout:
            raise Unavailable(f"{self.name} runs {self.concurrency} times, and none has ended in time") from None
        delivery = _Delivery(self, session, Budget(self.timeout, clock))
        try:
            results = await delivery.deliver(stream)
        finally:
            # A program that is being killed keeps its place.
            delivery.whenOver().addCallback(self._turns.leave)
        if session.lmtp:
            return results
        refusals = [result for result in results if result is not None]
        if refusals:
            # Of several one that asks the client to try again: what was delivered comes twice then, and none is lost.
            raise min(refusals, key=lambda error: (error.responseCode or 450) // 100)
        return None

    def recipientsOf(self, session: Session) -> list[list[Address]]:
        """The recipients of a message, in groups: for each the program runs once."""
        recipients = session.envelope.rcptTo
        if session.lmtp or self._isPerRecipient:
            return [[address] for address in recipients]
        return groupsOf(recipients)

    def invocationFor(self, session: Session, recipients: Sequence[Address]) -> Invocation:
        """
        What is run for some recipients.

        @raise SMTPError: if it must not be.
        """
        return Invocation(
            program=os.fsencode(self._program),
            argv=filledArgv(self.argv, session, recipients),
            environment=filledEnvironment(self._variables, session, recipients),
            directory=self.directory,
            user=self._account.numbers,
            isBinary=session.envelope.bodyType == "binarymime",
        )

    def begin(self) -> CommandProcess:
        """A process for one run, which is killed with the service."""
        process = CommandProcess(self.name, self.clock or currentReactor())
        self._processes.add(process)
        return process

    def ended(self, process: CommandProcess) -> None:
        """It has ended."""
        self._processes.discard(process)


class _Delivery:
    """The delivery of one message: one run, or one after the other."""

    def __init__(self, store: Command, session: Session, budget: Budget) -> None:
        self._store = store
        self._session = session
        self._budget = budget
        self._process: CommandProcess | None = None

    def whenOver(self) -> Waiting[None]:
        """Fires when none of its programs runs."""
        if self._process is not None:
            return self._process.whenOver()
        waiting: Waiting[None] = Waiting()
        waiting.callback(None)
        return waiting

    async def deliver(self, stream: MessageStream) -> list[SMTPError | None]:
        """The result for each group of recipients."""
        groups = self._store.recipientsOf(self._session)
        if len(groups) == 1:
            return [await self._run(stream, groups[0])]
        spool = await stream.spool()
        return [await self._runForSome(spool.open(), group) for group in groups]

    async def _runForSome(self, stream: MessageStream, recipients: Sequence[Address]) -> SMTPError | None:
        """Run it for some of several groups: a fault is theirs alone."""
        try:
            return await self._run(stream, recipients)
        except Unavailable as error:
            session = self._session
            log.error("{error} [{session}]", error=str(error), session=session.id, peer=session.remoteAddress)
            return HOOK_FAILED.asError()
        finally:
            stream.discard()

    async def _run(self, stream: MessageStream, recipients: Sequence[Address]) -> SMTPError | None:
        session = self._session
        try:
            what = self._store.invocationFor(session, recipients)
        except SMTPError as refusal:
            return refusal
        received = session.receivedHeader(recipients[0] if len(recipients) == 1 else None)
        stream.prepend(received.encode(errors="replace"))
        if self._budget.left == 0:
            raise Unavailable(f"{self._store.name} has no time left for this recipient")
        process = self._process = self._store.begin()
        try:
            outcome = await process.run(currentReactor(), what, stream, self._budget)
        finally:
            process.whenOver().addCallback(lambda _: self._store.ended(process))
        log.info(
            "{outcome}, {octets} octets [{session}]",
            outcome=outcome.described(self._store.name),
            octets=stream.byteLength,
            session=session.id,
            peer=session.remoteAddress,
        )
        return None if outcome.isSuccess else outcome.refusal(self._store.name)


@attrs.frozen
class _Account:
    """
    Whom programs run as.

    @ivar numbers: C{"UID:GID:GROUP,GROUP…"}, or C{""} for the user of the server.
    @ivar variables: what the environment says of the user.
    """

    numbers: str = ""
    variables: Mapping[str, str] = attrs.field(factory=dict)


def _accountOf(user: str | int | None, group: str | int | None) -> _Account:
    """
    @raise OptionError: if there is no such user or group.
    """
    if user is None:
        if group is not None:
            raise OptionError("option group is {!r}, it wants option user as well", group, options=["group"])
        return _Account()
    entry = _entryOf(user, "user", pwd.getpwuid, pwd.getpwnam)
    gid = entry.pw_gid if group is None else _entryOf(group, "group", grp.getgrgid, grp.getgrnam).gr_gid
    groups = ",".join(map(str, os.getgrouplist(entry.pw_name, gid)))
    variables = {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name, "SHELL": "/bin/sh"}
    return _Account(f"{entry.pw_uid}:{gid}:{groups}", variables)


def _entryOf(value: str | int, name: str, byNumber: Callable[[int], Any], byName: Callable[[str], Any]) -> Any:
    try:
        return byNumber(value) if isinstance(value, int) else byName(value)
    except (KeyError, OverflowError):
        raise OptionError(f"option {name} is {{!r}}, there is no such {name}", value, options=[name]) from None


def _programOf(name: str, path: str) -> str:
    """
    The path of a program.

    @raise OptionError: if it is not there, or cannot be run.
    """
    found = shutil.which(os.path.abspath(name) if "/" in name else name, path=path)
    if found is None:
        why = "it is no program that may be run, see its mode" if os.path.exists(name) else "there is no such program"
        raise OptionError(f"option argv begins with {{!r}}, {why}", name, options=["argv"])
    return found
