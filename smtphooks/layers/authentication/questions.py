"""
Questions to the DNS, for functions that cannot wait: they are run again and again, each time with more answers.

In: a function of L{Answers}, and a Twisted resolver.  Out: what the function returns once no answer is missing.
Where it looks up what is not known yet, the question is noted and an exception ends the run; the questions are asked
through the resolver, all at once; the function is run again.  So it must have no side effects, and ask the same if it
is told the same.
Rules kept here: a zone can make a look-up fail, but neither raise anything else than L{TemporaryFailure}, nor take
longer than the timeout, nor ask for more than a bounded number of questions and octets.
This module knows no SPF, no DKIM, no session and no option.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.interfaces import IReactorTime, IResolver
from twisted.python.failure import Failure

from smtphooks.awaiting import Waiting

T = TypeVar("T")

# As numbers (RFC 1035 section 3.2.2, RFC 3596): twisted.names is loaded only if it is used.
_CNAME = 5
_KINDS = {"A": 1, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "SPF": 99}
_INTERNET = 1

EXISTS = "EXISTS"  # the kind of L{Answers.exists}; an answer of any records says that the name exists

_NAME_OCTETS = 253  # RFC 1035 section 2.3.4, without the length octets of the wire
# A label may have any octets, but nothing that is asked for here is beyond printable ASCII.
_NAME = re.compile(r"(?:[ -\-/-~]{1,63}\.)*[ -\-/-~]{1,63}")

# Bounds for what a hostile zone may answer.  SPF allows 10 MX (RFC 7208 section 4.6.4) and must see that there are
# more; the TXT records of a domain are many, as sites put their verifications there.  A key of RSA with 4096 bits, or
# all the networks of a large provider, take fewer octets.
_RECORDS = 100
_TEXT_OCTETS = 4096
_ANSWER_OCTETS = 16384

_ALIASES = 8  # CNAMEs behind one another
_AT_ONCE = 16  # each query opens a socket

# SPF asks for up to 10 terms, 10 hosts for each of them, and 10 explanations (RFC 7208 section 4.6.4).
QUESTIONS = 150
TIMEOUT = 20.0  # RFC 7208 section 4.6.4 wants at least this time for all of SPF

Question = tuple[str, str]


class TemporaryFailure(Exception):
    """The DNS cannot tell now: no answer before the timeout, a server that failed, too many questions."""


class Unknown(Exception):
    """The answer is not known yet.  Code between L{Answers.lookUp} and L{settled} may swallow this exception."""


class Answers:
    """
    What is known of the DNS, for one message or connection.

    @ivar missing: the questions that could not be answered, in the order in which they were asked.
    """

    def __init__(self) -> None:
        self.missing: dict[Question, None] = {}
        self._known: dict[Question, list[Any] | TemporaryFailure] = {}

    def lookUp(self, name: str, kind: str) -> list[Any]:
        """
        Look up a name.

        @param name: the name; case and a dot at its end do not matter.
        @param kind: C{"TXT"} or C{"SPF"}, for the octets of each record, its strings joined; C{"A"}, C{"AAAA"} for
            addresses as text; C{"MX"} for pairs of preference and host name; C{"PTR"} for host names.
        @return: no records, if there are none, or no such name, or if this cannot be a name.
        @raise TemporaryFailure: if it cannot be found out now.
        @raise Unknown: if it is not known yet; the question is noted in C{missing}.
        """
        question = (_canonical(name), kind)
        if not isName(question[0]):
            return []
        known = self._known.get(question)
        if known is None:
            self.missing[question] = None
            raise Unknown(f"{kind} of {question[0]}")
        if isinstance(known, TemporaryFailure):
            raise TemporaryFailure(*known.args)  # a new one, or its traceback would grow
        return list(known)

    def exists(self, name: str) -> bool:
        """
        Whether there is such a name in the DNS, even if it has no records (RFC 8020).

        @raise TemporaryFailure: as L{lookUp}.
        @raise Unknown: as L{lookUp}.
        """
        return bool(self.lookUp(name, EXISTS))

    def learn(self, name: str, kind: str, answer: Iterable[Any] | TemporaryFailure) -> None:
        """Note an answer: its records, or that it cannot be found out."""
        self._known[_canonical(name), kind] = answer if isinstance(answer, TemporaryFailure) else list(answer)


def isName(name: str) -> bool:
    """Whether the DNS can be asked for this name: ASCII, not too long, no empty label."""
    return len(name) <= _NAME_OCTETS and _NAME.fullmatch(name) is not None


def _canonical(name: str) -> str:
    return name.lower().removesuffix(".")


def together(*functions: Callable[[Answers], T]) -> Callable[[Answers], list[T]]:
    """One function for several, so that the questions of all of them are asked at once."""

    def run(answers: Answers) -> list[T]:
        results = []
        for function in functions:
            try:
                results.append(function(answers))
            except Unknown:  # it is noted
                continue
        return results

    return run


async def settled(
    function: Callable[[Answers], T],
    answers: Answers,
    resolver: IResolver,
    clock: IReactorTime,
    timeout: float = TIMEOUT,
    limit: int = QUESTIONS,
) -> T:
    """
    Run a function until none of its questions is open.

    @param answers: what is known before, to which the answers are added.
    @param clock: measures the timeout.
    @param timeout: seconds for all questions together; each may take half of what is left of them.  What is open then
        is a temporary failure, and the function is run with that to its end.
    @param limit: the number of questions; further ones are a temporary failure.
    @return: what the function returns; what it raises is raised, unless a question was open.
    """
    asking = _Asking(resolver, clock, timeout)
    while True:
        answers.missing.clear()
        try:
            result = function(answers)
        except Exception:
            # The note tells whether an answer is missing: pyspf and dkimpy hide some exceptions behind their own.
            if not answers.missing:
                raise
        if not answers.missing:
            return result
        questions = list(answers.missing)[:_AT_ONCE]
        limit -= len(questions)
        if limit < 0:
            found: list[Any] = [TemporaryFailure("too many questions to the DNS")] * len(questions)
        else:
            found = await asking.answersTo(questions)
        for (name, kind), answer in zip(questions, found, strict=True):
            answers.learn(name, kind, answer)


class _Asking:
    """Asks a resolver until a deadline."""

    def __init__(self, resolver: IResolver, clock: IReactorTime, timeout: float) -> None:
        self._resolver = resolver
        self._clock = clock
        self._deadline = clock.seconds() + timeout

    async def answersTo(self, questions: list[Question]) -> list[Any]:
        """For each its records, or the L{TemporaryFailure}."""
        asked = [Deferred.fromCoroutine(self._answerTo(name, kind)) for name, kind in questions]
        gathered = gatherResults(asked, consumeErrors=True)
        waiting: Waiting[list[Any]] = Waiting(lambda _: gathered.cancel())
        gathered.chainDeferred(waiting)
        try:
            return await waiting
        except FirstError as first:
            # All failures are answers but one: the caller was cancelled.
            first.subFailure.raiseException()

    async def _answerTo(self, name: str, kind: str) -> list[Any] | TemporaryFailure:
        try:
            if kind == EXISTS:
                return [] if await self._ask(name, "A") is None else [True]
            return await self._follow(name, kind)
        except TemporaryFailure as failure:
            return failure

    async def _follow(self, name: str, kind: str) -> list[Any]:
        """Ask for a name, and for the name that it is an alias of, unless the resolver has done so itself."""
        records: list[tuple[str, int, Any]] = []
        for _ in range(_ALIASES + 1):
            if not any(owner == name for owner, _, _ in records):
                records = await self._ask(name, kind) or []
            found = _valuesOf(records, name, _KINDS[kind])
            alias = _valuesOf(records, name, _CNAME)
            if found or not alias or not isName(alias[0]):
                return _bounded(found)
            name = alias[0]
        return []  # RFC 1034 section 3.6.2: a loop, or a chain that is too long, is an error of the zone

    async def _ask(self, name: str, kind: str) -> list[tuple[str, int, Any]] | None:
        """The records of one answer: owner, number of the kind, value.  None if there is no such name."""
        # Half of the time that is left, so that a name whose servers are dead leaves some for what is asked after it.
        left = (self._deadline - self._clock.seconds()) / 2
        late = TemporaryFailure(f"no answer in time about {kind} of {name}")
        if left <= 0:
            raise late
        from twisted.names import dns

        waiting: Deferred[Any] = Deferred()
        try:
            query = self._resolver.query(dns.Query(name.encode(), _KINDS[kind]), _timeouts(left))
        except Exception as fault:
            raise TemporaryFailure(f"cannot ask about {kind} of {name}: {fault}") from fault
        # Other sessions may wait for the same query of the resolver: it is not cancelled, it ends by itself.
        query.addErrback(_withoutAnswer, f"{kind} of {name}").chainDeferred(waiting)
        waiting.addTimeout(
            left, self._clock, lambda *_: Failure(TemporaryFailure(f"no answer in time about {kind} of {name}"))
        )
        headers: list[Any] | None = (await waiting)[0]
        return None if headers is None else [record for header in headers for record in _recordOf(header)]


def _withoutAnswer(failure: Failure, what: str) -> tuple[None]:
    """No records, if there is no such name; any other failure is temporary."""
    from twisted.names import error

    if failure.check(error.DNSNameError, error.AuthoritativeDomainError):
        return (None,)
    raise TemporaryFailure(f"the DNS cannot tell {what}: {type(failure.value).__name__}")


def _recordOf(header: Any) -> list[tuple[str, int, Any]]:
    """Owner, number of the kind and value of a record, in a list that is empty for a kind that nobody has asked for."""
    owner, payload = _text(header.name), header.payload
    if payload is None or header.type != payload.TYPE or header.cls != _INTERNET:
        return []
    if header.type == _CNAME:
        return [(owner, _CNAME, _text(payload.name))]
    if header.type == _KINDS["A"]:
        return [(owner, header.type, socket.inet_ntop(socket.AF_INET, payload.address))]
    if header.type == _KINDS["AAAA"]:
        return [(owner, header.type, socket.inet_ntop(socket.AF_INET6, payload.address))]
    if header.type == _KINDS["MX"]:
        return [(owner, header.type, (payload.preference, _text(payload.name)))]
    if header.type == _KINDS["PTR"]:
        return [(owner, header.type, _text(payload.name))]
    if header.type in (_KINDS["TXT"], _KINDS["SPF"]):
        octets = b"".join(payload.data)
        return [(owner, header.type, octets)] if len(octets) <= _TEXT_OCTETS else []
    return []


def _text(name: Any) -> str:
    """A name from the DNS in canonical form."""
    return _canonical(name.name.decode("latin-1"))


def _valuesOf(records: list[tuple[str, int, Any]], name: str, kind: int) -> list[Any]:
    return [value for owner, what, value in records if owner == name and what == kind]


def _bounded(values: list[Any]) -> list[Any]:
    """As many of the values as may be kept."""
    octets = 0
    for number, value in enumerate(values[:_RECORDS]):
        octets += len(value)
        if octets > _ANSWER_OCTETS:
            return values[:number]
    return values[:_RECORDS]


def _timeouts(left: float) -> Sequence[Any]:
    """For the resolver: seconds until a query is sent again, as datagrams get lost, and then until it fails."""
    return (left / 10, left * 3 / 10, left * 6 / 10)
