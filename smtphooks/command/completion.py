"""
C{smtphooks completion}: what a shell needs to complete flags and their values, made of the lists of flags.

Flags in, the text of a script for bash, fish or zsh out.  A new flag is completed without a change here, unless its
values are files or words.
This module knows what flags there are, and not what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from smtphooks.service.tap import oneSentence

FILES, FOLDERS = "files", "folders"
# What the value of a flag is; a list is that of the words.  Any other flag with a value has nothing to complete.
_VALUES: Mapping[str, str | Sequence[str]] = {
    "ca": FILES,
    "chroot": FOLDERS,
    "config": FILES,
    "control": FILES,
    "file": FILES,
    "log-format": ("text", "json"),
    "logfile": FILES,
    "maildir": FOLDERS,
    "pidfile": FILES,
    "reactor": ("asyncio", "epoll", "poll", "select", "smtphooks"),
    "tls": ("auto", "no", "starttls", "implicit"),
}
SHELLS = ("bash", "fish", "zsh")


@attrs.frozen
class Flag:
    """
    A flag, as shells see it.

    @ivar letter: its short form, C{""} for none.
    @ivar about: one line.
    @ivar value: None if it has none, else C{FILES}, C{FOLDERS} or its words, of which there may be none.
    """

    name: str
    letter: str
    about: str
    value: str | Sequence[str] | None


def flagsOf(options: UsageOptions) -> list[Flag]:
    """The flags of a command, sorted by name."""
    letters = {name: letter for letter, name in options.synonyms.items() if len(letter) == 1}
    takers = {name.rstrip("=") for name in options.longOpt if name.endswith("=")}
    flags = []
    for name in sorted({name for name in options.synonyms if len(name) > 1}):
        about = options.docs.get(name) or (getattr(options, f"opt_{name.replace('-', '_')}").__doc__ or "")
        value = _VALUES.get(name, ()) if name in takers else None
        flags.append(Flag(name, letters.get(name, ""), " ".join(about.split()).split("; ")[0].rstrip("."), value))
    return flags


def main(arguments: Sequence[str], commands: Mapping[str, UsageOptions]) -> None:
    """
    Print a script.

    @param arguments: the name of a shell.
    @param commands: the flags of each subcommand, and those of the command itself under C{""}.
    @raise SystemExit: with a sentence if there is no such shell.
    """
    with oneSentence():
        if len(arguments) != 1 or arguments[0] not in SHELLS:
            raise UsageError(f"completion wants the name of a shell: {', '.join(SHELLS)}")
    flags = {name: flagsOf(options) for name, options in commands.items()}
    print({"bash": _bash, "fish": _fish, "zsh": _zsh}[arguments[0]](flags), end="")


def _bash(commands: Mapping[str, Sequence[Flag]]) -> str:
    names = [*filter(None, commands), "completion"]
    lines = [
        '# For bash: eval "$(smtphooks completion bash)"',
        "_smtphooks() {",
        '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command="" flags=""',
        # bash takes = for a word of its own.
        '    [[ $word == = ]] && word=""',
        '    [[ $before == = ]] && before="${COMP_WORDS[COMP_CWORD-2]}"',
        f'    case "${{COMP_WORDS[1]}}" in {"|".join(names)}) command="${{COMP_WORDS[1]}}";; esac',
        '    case "$command $before" in',
    ]
    for command, flags in commands.items():
        for flag in flags:
            if flag.value is not None:
                forms = [f'"{command} --{flag.name}"', *([f'"{command} -{flag.letter}"'] if flag.letter else [])]
                lines.append(f"        {'|'.join(forms)}) {_bashValue(flag.value)} return;;")
    lines.append('    esac\n    case "$command" in')
    for command, flags in commands.items():
        words = [f"--{flag.name}" for flag in flags]
        words += [] if command else names
        lines.append(f'        "{command}") flags="{" ".join(words)}";;')
    lines += [
        f'        completion) flags="{" ".join(SHELLS)}";;',
        "    esac",
        '    COMPREPLY=($(compgen -W "$flags" -- "$word"))',
        "}",
        "complete -F _smtphooks smtphooks",
    ]
    return "\n".join(lines) + "\n"


def _bashValue(value: str | Sequence[str]) -> str:
    # One name a line: a name may hold blanks, which bash would split, and a * that it would expand.
    if value == FILES:
        return 'compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word");'
    if value == FOLDERS:
        return 'compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$word");'
    return f'COMPREPLY=($(compgen -W "{" ".join(value)}" -- "$word"));'


def _fish(commands: Mapping[str, Sequence[Flag]]) -> str:
    names = [*filter(None, commands), "completion"]
    lines = ["# For fish: smtphooks completion fish | source", "complete -c smtphooks -f"]
    for name in names:
        lines.append(f"complete -c smtphooks -n __fish_is_first_arg -a {name}")
    lines.append(f"complete -c smtphooks -n '__fish_seen_subcommand_from completion' -a '{' '.join(SHELLS)}'")
    for command, flags in commands.items():
        condition = f"{'' if command else 'not '}__fish_seen_subcommand_from {command or ' '.join(names)}"
        for flag in flags:
            letter = f" -s {flag.letter}" if flag.letter else ""
            about = flag.about.replace("\\", "\\\\").replace("'", "\\'")
            lines.append(
                f"complete -c smtphooks -n '{condition}' -l {flag.name}{letter}{_fishValue(flag.value)} -d '{about}'"
            )
    return "\n".join(lines) + "\n"


def _fishValue(value: str | Sequence[str] | None) -> str:
    if value is None:
        return ""
    if value == FILES:
        return " -r -F"
    return " -x -a '(__fish_complete_directories)'" if value == FOLDERS else f" -x -a '{' '.join(value)}'"


def _zsh(commands: Mapping[str, Sequence[Flag]]) -> str:
    names = [*filter(None, commands), "completion"]
    lines = [
        "#compdef smtphooks",
        '# For zsh: eval "$(smtphooks completion zsh)"',
        "_smtphooks() {",
        "    local -a flags",
        f"    if [[ CURRENT -eq 2 && $words[2] != -* ]]; then compadd -- {' '.join(names)}; return; fi",
        '    case "$words[2]" in',
        f"    completion) (( CURRENT == 3 )) && compadd -- {' '.join(SHELLS)}; return;;",
    ]
    for command, flags in sorted(commands.items(), reverse=True):  # the pattern that fits all stands last
        # _arguments takes a subcommand for the first argument of none.
        shift = "shift words; (( CURRENT-- )); " if command else ""
        lines.append(f"    {command or '*'}) {shift}flags=(")
        lines += [f"        '{form}'" for flag in flags for form in _zshForms(flag)]
        lines.append("    );;")
    lines += ["    esac", "    _arguments -S -s $flags", "}", "compdef _smtphooks smtphooks"]
    return "\n".join(lines) + "\n"


def _zshForms(flag: Flag) -> list[str]:
    """A flag, and its letter, as _arguments takes them."""
    about = "".join(character if character not in "[]:'\\" else " " for character in flag.about)
    if flag.value is None:
        value = ""
    elif flag.value == FILES:
        value = ":file:_files"
    else:
        value = ":folder:_files -/" if flag.value == FOLDERS else f":value:({' '.join(flag.value)})"
    long = f"*--{flag.name}{'' if flag.value is None else '='}[{about}]{value}"
    return [long, f"*-{flag.letter}{'' if flag.value is None else '+'}[{about}]{value}"] if flag.letter else [long]
