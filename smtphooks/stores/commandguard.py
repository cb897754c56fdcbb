"""
The guard of a program that takes a message: a small program of its own between the server and that program.

In: the message on descriptor 0; on descriptor 4 a W when it is whole, or a K to end it all; both ends of the program's
standard input on 5 and 6.  Out: on descriptor 3 the line C{passed} when the program was given the whole message, and
one that says how it ended.
Rule: the program sees the end of a message only if the message is whole.  If the server is killed, the guard kills the
program, which would otherwise take the part that it has got for the whole; if the guard is killed, the server does.
This module knows no mail, imports nothing of smtphooks, and is run as a script: C{python -I -S}.
"""

from __future__ import annotations

import fcntl
import os
import select
import sys
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    # The module signal would import enum, and double the time that this program needs to start.
    import _signal as signal

_MESSAGE, _STATUS, _CONTROL, _THEIRS, _OURS = 0, 3, 4, 5, 6
_BLOCK = 65536

# The guard outlives a SIGTERM that the whole group gets, to say how the program ended.
_IGNORED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE)


def main(arguments: list[str]) -> None:
    """
    Run a program.

    @param arguments: its working folder; C{"UID:GID:GROUP,GROUP…"} or C{""}; its path; and its arguments, from its name
        on.
    """
    directory, user, program, *argv = arguments
    os.setsid()
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    woken, waking = os.pipe()
    os.set_blocking(waking, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(waking)
    for descriptor in (_STATUS, _CONTROL, _THEIRS, _OURS):
        os.set_inheritable(descriptor, False)
    pid = os.fork()
    if pid == 0:
        _become(directory, user, program, argv)
    os.set_blocking(_OURS, False)
    status, isPassed = _pass(pid, woken)
    _say(_outcome(status, isPassed and not _unread()))
    if not isPassed:
        # What the program has left behind may read on, and must not find an end here either.
        os.killpg(0, signal.SIGKILL)


def _become(directory: str, user: str, program: str, argv: list[str]) -> None:
    try:
        os.dup2(_THEIRS, 0)
        for number in (*_IGNORED, signal.SIGXFSZ):  # Python ignores two of them in every process
            signal.signal(number, signal.SIG_DFL)
        if user:
            uid, gid, groups = user.split(":")
            os.setgroups([int(group) for group in groups.split(",")])
            os.setgid(int(gid))
            os.setuid(int(uid))
        os.chdir(directory)
        os.execv(program, argv)
    except OSError as error:
        _say(f"failed {error}\n".encode(errors="replace"))
    finally:
        os._exit(127)


def _pass(pid: int, woken: int) -> tuple[int, bool]:
    """
    Pass the message on until the program ends.

    @return: the wait status, and whether the program was given the whole message and its end.
    """
    data = b""
    isWhole = isEnded = isPassed = False
    isWatched = True
    while True:
        reading = [woken]
        if isWatched:
            reading.append(_CONTROL)
        if not (data or isEnded):
            reading.append(_MESSAGE)
        ready, writable, _ = select.select(reading, [_OURS] if data else [], [])
        if woken in ready:
            os.read(woken, 64)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return status, isPassed
        if _CONTROL in ready:
            told = os.read(_CONTROL, 16)
            isWatched = bool(told)
            isWhole = isWhole or b"W" in told
            if b"K" in told or not (told or isWhole):  # the server wants it, or has gone
                os.killpg(0, signal.SIGKILL)
        if _MESSAGE in ready:
            data = os.read(_MESSAGE, _BLOCK)
            isEnded = not data
        if writable:
            data = data[os.write(_OURS, data) :]
        if isWhole and isEnded and not isPassed:
            isPassed = True
            os.close(_OURS)
            # The server holds this end as well, in case this process is killed, and closes it now.
            _say(b"passed\n")


def _say(line: bytes) -> None:
    try:
        os.write(_STATUS, line)
    except BrokenPipeError:
        return  # the server has gone, when the message was whole


def _unread() -> bool:
    """Has the program left octets in its pipe?"""
    return any(fcntl.ioctl(_THEIRS, termios.FIONREAD, bytes(4)))


def _outcome(status: int, isRead: bool) -> bytes:
    if os.WIFSIGNALED(status):
        return b"signal %d\n" % os.WTERMSIG(status)
    code = os.WEXITSTATUS(status)
    return b"exit %d\n" % code if code or isRead else b"unread\n"


if __name__ == "__main__":
    main(sys.argv[1:])
