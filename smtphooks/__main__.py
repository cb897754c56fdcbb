"""
The command C{smtphooks}, also C{python -m smtphooks}: the service in the foreground, on the leaner reactor.

C{smtphooks send}, C{status}, C{drain} and C{completion} are commands of their own, in the folder C{command}.

It is C{twistd -n --pidfile= --reactor=smtphooks smtphooks} in one command: the flags of the service, and those
of twistd that make sense for it, in one list.  twistd's own code does the rest: it logs, drops privileges and runs the
reactor.
This module knows flags of twistd's; it knows neither the configuration nor what the flags of the service mean.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from twisted.application.app import ReactorSelectionMixin
from twisted.application.service import ServiceMaker
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError
from twisted.python.util import gidFromString, uidFromString
from twisted.scripts._twistd_unix import ServerOptions
from twisted.scripts.twistd import runApp

from smtphooks.command import completion, draining, sending, status
from smtphooks.command.versions import printVersions
from smtphooks.reactor import install
from smtphooks.service import tap
from smtphooks.service.reading import DEFAULT_ENDPOINT, DEFAULT_MAILDIR
from smtphooks.service.settings import ConfigError, cause


def _user(name: str) -> int:
    try:
        return int(uidFromString(name))
    except LookupError:
        raise UsageError(f"--uid is {name}, it wants a user of this system") from None


def _group(name: str) -> int:
    try:
        return int(gidFromString(name))
    except LookupError:
        raise UsageError(f"--gid is {name}, it wants a group of this system") from None


def _mask(octal: str) -> int:
    try:
        return int(octal, 8)
    except ValueError:
        raise UsageError(f"--umask is {octal}, it wants octal digits such as 027") from None


def _checkPidfile(path: str) -> None:
    """
    Check that no process of this pid file runs, and that it can be written.

    twistd does so too, but speaks of twistd, and at length.

    @raise ConfigError: if it is not so.
    """
    try:
        with open(path) as file:
            os.kill(int(file.read()), 0)
    except (FileNotFoundError, ProcessLookupError):  # twistd removes the file of a process that has ended
        if not os.access(os.path.dirname(os.path.abspath(path)), os.W_OK):
            raise ConfigError(f"--pidfile {path} cannot be written, name another file") from None
    except (ValueError, OverflowError):
        raise ConfigError(f"--pidfile {path} has something else than a process id, name another file") from None
    except OSError as error:
        raise ConfigError(f"--pidfile {path} cannot be checked ({error.strerror}), name another file") from None
    else:
        raise ConfigError(f"--pidfile {path} is that of a process that runs, end it or name another file")


_HELP = f"""\
Usage: smtphooks [flags]                         an SMTP and LMTP server
       smtphooks send --to ADDRESS [HOST:PORT]   send a message; send --help
       smtphooks status, smtphooks drain         see workers, drain them; --help
       smtphooks completion {"|".join(completion.SHELLS)}       print what a shell needs
Without flags it listens on {DEFAULT_ENDPOINT}, takes mail for
anyone and stores it in ./{DEFAULT_MAILDIR}.  Flags win over the configuration file.
  --config FILE, --check   read this configuration; check it, print it and exit
  --traceback           if it is wrong, show the lines of Python that led there
  --listen ENDPOINT     listen on this, such as tcp:25; can be given again
  --hooks MODULE:NAME   use these hooks
  --maildir FOLDER      store messages in this Maildir
  --auth CHECKER        ask for users, such as file:passwd; can be given again;
                        more with --help-auth and --help-auth-type NAME
  --lmtp, --workers N   speak LMTP; serve with N processes, auto: one for a core
  -l, --logfile FILE    write the log to this file, and not to stdout
  --log-format FORMAT   text (the default), or json: one object a line
  --logger NAME         write the log with what this factory of observers makes
  --pidfile FILE        write the process id to this file
  -u, --uid USER, -g, --gid GROUP   run as these, once all listeners listen
  --umask OCTAL, --chroot FOLDER    create files with this mask; change the root
  -r, --reactor NAME    run on this reactor of Twisted's; see --help-reactors
  --version, --help     print the versions of smtphooks and Python; print this
"""


_COMMANDS: dict[str, Any] = {"send": sending, "status": status, "drain": draining}


class Options(tap.Options, ReactorSelectionMixin):
    """The flags of C{smtphooks}: those of the service, and those of twistd's that make sense for it."""

    command = "smtphooks"

    # The names are twistd's, under which it is given their values.
    optParameters: list[list[Any]] = [
        ["chroot", None, None, "Change the root folder to this one, before listening."],
        ["gid", "g", None, "Run as this group, once all listeners listen.", _group],
        ["logfile", "l", None, "Write the log to this file, and not to stdout."],
        ["logger", None, None, "Write the log with what this makes, a factory of log observers: package.module.name."],
        ["pidfile", None, None, "Write the process id to this file."],
        ["uid", "u", None, "Run as this user, once all listeners listen.", _user],
        ["umask", None, None, "Create files with this mask, in octal.", _mask],
    ]

    def opt_reactor(self, shortName: str) -> None:
        """Run on this reactor of Twisted's, such as asyncio, and not on smtphooks' own; --help-reactors lists them."""
        ReactorSelectionMixin.opt_reactor(self, shortName)

    opt_r = opt_reactor

    def opt_version(self) -> None:
        """Print the versions of smtphooks, Twisted and Python, and exit."""
        printVersions()

    def __str__(self) -> str:
        """The help, on one screen, of 24 lines of 80 columns; Twisted's would have a line or two for each flag."""
        return _HELP

    def postOptions(self) -> None:
        """Install the reactor, before the modules of hooks are imported, which may import it."""
        if "reactor" not in self:
            install()
        tap.Options.postOptions(self)

    def forTwistd(self) -> ServerOptions:
        """
        Options of twistd's, as if it had parsed C{twistd -n --pidfile= … smtphooks …}.

        @raise UsageError: if the factory of log observers cannot be imported.
        @raise ConfigError: if the pid file is another process', or cannot be written.
        """
        if self["pidfile"] is not None and self["chroot"] is None:
            _checkPidfile(self["pidfile"])
        twistd = ServerOptions()
        twistd.update({name: self[name] for name, *_ in self.optParameters}, nodaemon=True)
        twistd.subCommand, twistd.subOptions = "smtphooks", self
        self.parent: UsageOptions | None = twistd
        twistd.loadedPlugins = {"smtphooks": ServiceMaker("smtphooks", tap.__name__, "", "smtphooks")}
        twistd.postOptions()
        return twistd


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run the command, until the service ends.

    @param arguments: the flags; None for those of the process.
    @raise SystemExit: if it ends with another status than 0, or only prints something.
    """
    given = sys.argv[1:] if arguments is None else [*arguments]
    command, *rest = given or [""]
    if command in _COMMANDS:
        _COMMANDS[command].main(rest)
    elif command == "completion":
        commands: dict[str, UsageOptions] = {name: module.Options() for name, module in _COMMANDS.items()}
        completion.main(rest, {"": Options(), **commands})
    else:
        _serve(given)


def _serve(arguments: Sequence[str]) -> None:
    options = Options()
    options.parseOptions(arguments)
    with tap.oneSentence(options.isTraced):
        twistd = options.forTwistd()
        try:
            runApp(twistd)
        except OSError as error:
            raise ConfigError(f"it cannot start ({cause(error)}), check --chroot, --logfile and --pidfile") from None


if __name__ == "__main__":
    main()
