"""C{smtphooks completion}: real shells complete with what it prints."""

from __future__ import annotations

import os
import pty
import select
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from smtphooks.__main__ import Options
from smtphooks.command import draining, sending, status
from smtphooks.command.completion import SHELLS, flagsOf
from tests.real.programs import PATIENCE, requires, which
from tests.test_reactor import environment

COMMAND = [sys.executable, "-m", "smtphooks", "completion"]


def script(shell: str, folder: Path) -> Path:
    done = subprocess.run([*COMMAND, shell], capture_output=True, env=environment(), check=True, timeout=PATIENCE)
    path = folder / f"completion.{shell}"
    path.write_bytes(done.stdout)
    return path


def said(command: list[str], folder: Path) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True, timeout=PATIENCE)
    return [line for line in done.stdout.splitlines() if line]


def byBash(line: str, folder: Path) -> list[str]:
    words = shlex.split(line) + ([""] if line.endswith(" ") else [])
    array = " ".join(map(shlex.quote, words))
    code = (
        f"source {script('bash', folder)}; COMP_WORDS=({array}); COMP_CWORD={len(words) - 1}; _smtphooks 2>/dev/null;"
    )
    return said(["bash", "-c", code + ' printf "%s\\n" "${COMPREPLY[@]}"'], folder)


def byFish(line: str, folder: Path) -> list[str]:
    code = f"source {script('fish', folder)}; complete -C {shlex.quote(line)} | cut -f1"
    return said(["fish", "--no-config", "-c", code], folder)


class Zsh:
    """A zsh in a terminal of its own, for completion works in no other place."""

    def __init__(self, folder: Path) -> None:
        self._terminal, inner = pty.openpty()
        environ = {**environment(), "TERM": "dumb", "HOME": str(folder)}
        self._process = subprocess.Popen(
            ["zsh", "-f", "-i"],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            cwd=folder,
            env=environ,
            start_new_session=True,
        )
        os.close(inner)
        self._say("PS1=; unsetopt zle_bracketed_paste; autoload -U compinit; compinit -u -D\n")
        self._say(f"source {script('zsh', folder)}; echo READ''Y\n")
        self._hear("READY")

    def _say(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def _hear(self, wanted: str) -> None:
        heard = ""
        while wanted not in heard:
            ready, _, _ = select.select([self._terminal], [], [], PATIENCE)
            assert ready, f"no {wanted!r} in {heard!r}"
            heard += os.read(self._terminal, 4096).decode()

    def completes(self, line: str, wanted: str) -> None:
        """Check what TAB makes of a line."""
        self._say(f"{line}\t")
        self._hear(wanted)
        self._say("\x15")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)


@pytest.mark.parametrize(
    ("shell", "complete"), [(name, by) for name, by in [("bash", byBash), ("fish", byFish)] if which(name)]
)
class TestShells:
    def test_flags_are_completed(self, tmp_path: Path, shell: str, complete: object) -> None:
        assert callable(complete)
        assert sorted(complete("smtphooks --lo", tmp_path)) == ["--log-format", "--logfile", "--logger"]
        assert complete("smtphooks --chec", tmp_path) == ["--check"]

    def test_flags_are_those_of_the_subcommand(self, tmp_path: Path, shell: str, complete: object) -> None:
        assert callable(complete)
        assert complete("smtphooks send --l", tmp_path) == ["--lmtp"]
        assert complete("smtphooks send --che", tmp_path) == []
        assert complete("smtphooks status --j", tmp_path) == ["--json"]
        assert complete("smtphooks drain --res", tmp_path) == ["--resume"]

    def test_subcommands_and_shells_are_completed(self, tmp_path: Path, shell: str, complete: object) -> None:
        assert callable(complete)
        assert complete("smtphooks se", tmp_path) == ["send"]
        assert complete("smtphooks stat", tmp_path) == ["status"]
        assert sorted(complete("smtphooks completion ", tmp_path)) == sorted(SHELLS)

    def test_values_are_completed(self, tmp_path: Path, shell: str, complete: object) -> None:
        assert callable(complete)
        (tmp_path / "mail.toml").touch()
        (tmp_path / "maildir").mkdir()
        assert "mail.toml" in complete("smtphooks --config mai", tmp_path)
        assert [name.rstrip("/") for name in complete("smtphooks --maildir mai", tmp_path)] == ["maildir"]
        assert complete("smtphooks --log-format j", tmp_path) == ["json"]
        assert sorted(complete("smtphooks send --tls st", tmp_path)) == ["starttls"]


@requires("bash")
@pytest.mark.parametrize("name", ["my mail.toml", "my*.toml"])
def test_bash_completes_a_name_with_blanks_as_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    (tmp_path / "myother.toml").touch()
    assert sorted(byBash("smtphooks --config my", tmp_path)) == sorted([name, "myother.toml"])


@requires("zsh")
def test_zsh_completes_flags_and_values(tmp_path: Path) -> None:
    zsh = Zsh(tmp_path)
    try:
        zsh.completes("smtphooks --chec", "smtphooks --check")
        zsh.completes("smtphooks se", "smtphooks send")
        zsh.completes("smtphooks completion fi", "smtphooks completion fish")
        zsh.completes("smtphooks send --tls=st", "--tls=starttls")
        zsh.completes("smtphooks send --lm", "smtphooks send --lmtp")
    finally:
        zsh.close()


def test_every_flag_has_one_line() -> None:
    for options in (Options(), sending.Options(), status.Options(), draining.Options()):
        flags = flagsOf(options)
        assert {flag.name for flag in flags} == {name for name in options.synonyms if len(name) > 1}
        for flag in flags:
            assert flag.about and "\n" not in flag.about


def test_an_unknown_shell_is_one_sentence() -> None:
    done = subprocess.run([*COMMAND, "tcsh"], capture_output=True, text=True, env=environment(), timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "smtphooks: completion wants the name of a shell: bash, fish, zsh\n"
