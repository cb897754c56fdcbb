"""Every block of code in every page: programs run, configurations pass, commands have flags that exist."""

from __future__ import annotations

import json
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority, Pair
from tests.pages import DOCS, Block, blocksOf, write

ROOT = DOCS.parent
PAGES = [
    str(path.relative_to(DOCS))
    for path in [
        *sorted(DOCS.rglob("*.rst")),
        *(DOCS / f"../{name}.rst" for name in ("README", "SECURITY", "CONTRIBUTING")),
    ]
    if "_build" not in path.parts
]

# Files of other programs, which the test of their page checks with these, and what is only shown.
OTHERS = {"ini", "javascript", "sh", "sql", "text", "json", "yaml", "nginx", "html", "docker", "diff"}

# Blocks that need more than the files of their page, each with the test that runs them.
ELSEWHERE: dict[tuple[str, str], str] = {
    ("howto/asyncio.rst", "inside.py"): "tests/docs/howto/test_asyncio.py",  # it runs a loop of its own, for ever
    # It names a user and a program that not every system has.
    ("howto/delivery-by-a-program.rst", "lda.toml"): "tests/docs/howto/test_delivery_by_a_program.py",
    ("howto/submission.rst", "scram.toml"): "tests/docs/howto/test_submission.py",  # the page makes its secret first
}

BLOCKS = [(page, block) for page in PAGES for block in blocksOf(page)]
NEEDED = [(page, block) for page, block in BLOCKS if block.kind in ("python", "toml")]


def commandsOf(block: Block) -> Iterator[list[str]]:
    """The commands of ours in a block, each without what surrounds it."""
    text = block.text.replace("\\\n", " ")
    for line in text.splitlines():
        if line.startswith("$ "):
            inner = re.findall(r"\$\(([^)]*)\)", line)
            for part in [*inner, *re.split(r"\s(?:\||&&|;|>|2>|&)(?:\s|$)", line[2:])]:
                words = shlex.split(part, comments=True)
                while words and (re.match(r"\w+=", words[0]) or words[0] == "sudo"):
                    words = words[1:]
                if words[:3] == ["python", "-m", "smtphooks"]:
                    words = words[2:]
                if words and Path(words[0]).name in ("smtphooks", "twistd"):
                    yield [Path(words[0]).name, *(word for word in words[1:] if word != "[flags]")]


CONSOLES = [(page, block) for page, block in BLOCKS if block.kind == "console"]
COMMANDS = [(page, command) for page, block in CONSOLES for command in commandsOf(block)]


def test_blocks_are_found() -> None:
    assert len(NEEDED) > 40
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("page", PAGES)
def test_kinds_are_known_and_what_can_be_run_is_named(page: str) -> None:
    for block in blocksOf(page):
        assert block.kind in {"python", "toml", "console", *OTHERS}, block
        assert block.name or block.kind not in ("python", "toml"), block
    names = [block.name for block in blocksOf(page) if block.name]
    assert len(names) == len(set(names))
    assert len(blocksOf(page)) == len(re.findall(r"^ *\.\. code-block::", (DOCS / page).read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", sorted({page for page, _ in CONSOLES}))
def test_a_console_shows_commands(page: str) -> None:
    for block in blocksOf(page, "console"):
        assert block.text.startswith("$ "), block


def test_a_block_that_is_run_elsewhere_is_named_there() -> None:
    for (page, name), test in ELSEWHERE.items():
        if (page, name) in {(other, block.name) for other, block in BLOCKS}:
            text = (ROOT / test).read_text()
            assert name in text


# --- Running them ---


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """What each block, by page and name, and each command has said; nothing if it has succeeded."""
    tasks: dict[tuple[str, str], list[object]] = {}
    for page in PAGES:
        folder = tmp_path_factory.mktemp("page")
        write(page, folder)
        prepare(page, folder)
        for block in blocksOf(page):
            if block.kind in ("python", "toml") and (page, block.name) not in ELSEWHERE and not isForeign(block):
                tasks[page, str(block.name)] = [str(folder), block.kind, [block.name]]
        for other, command in COMMANDS:
            if other == page:
                tasks[page, shlex.join(command)] = [str(folder), "console", command]
    answers = tmp_path_factory.mktemp("said") / "said.json"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.docs.runblocks", str(answers)],
        input=json.dumps([*tasks.values()]).encode(),
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
        check=True,
    )
    return dict(zip(tasks, json.loads(answers.read_text()), strict=True))


def isForeign(block: Block) -> bool:
    """Is it of another program, such as one that a page shows before the move to smtphooks?"""
    return block.name == "pyproject.toml" or str(block.name).startswith("before/")


# Folders that a page takes for granted: they are that of the page here.
ABSOLUTE = ("/etc/smtphooks", "/run/credentials/smtphooks.service", "/var/lib/smtphooks", "/var/mail")


# What a configuration has; tables without it belong into a file of the reader's that has the rest.
_WHOLE = re.compile(r"^\[(options|auth|\[listener)\]", re.MULTILINE)


def prepare(page: str, folder: Path) -> None:
    """Make what the configurations of a page name and no page shows: keys, certificates, passwords, recipients."""
    pair = Authority().server("mx.example.org")
    for path in [*folder.rglob("*.toml"), *folder.rglob("*.py")]:
        text = path.read_text()
        if path.suffix == ".py":
            makeFiles(text, folder, pair)
            continue
        for absolute in ABSOLUTE:
            text = text.replace(absolute, str(folder))
        if not _WHOLE.search(text):
            discard = "discard = true\n" if "[[layer]]" in text else ""
            text = f"{discard}{text}\n[options]\nauthOptional = true\n"
        path.write_text(text)
        makeFiles(text, folder, pair)


def makeFiles(text: str, folder: Path, pair: Pair) -> None:
    """Make the files that a text names, and the folder that claims are kept in."""
    for name in re.findall(r'^claims = "([^"]+)"', text, re.MULTILINE):
        (folder / name).mkdir()
    for name in re.findall(r'"(?:file:)?([^"\s:]*(?:\.pem|\.txt|\.db|\.secret)|(?:[^"\s:]*/)?passwd)"', text):
        make(folder / name, pair)


def make(file: Path, pair: Pair) -> None:
    if file.exists() or file.suffix == ".db":
        if file.name == "users.db":
            sqlite3.connect(file).execute("CREATE TABLE users (address)")
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".pem":
        file.write_text(pair.key if "key" in file.name else pair.cert)
    else:
        texts = {
            "passwd": "ann:correct horse\n",
            "scram.secret": "0123456789abcdef\n",
            "webhook.secret": "0123456789abcdef\n",
            "token.txt": "0123456789abcdef\n",
        }
        file.write_text(texts.get(file.name, "ann@example.org\n"))


@pytest.mark.parametrize(("page", "block"), NEEDED, ids=[f"{page}-{block.name}" for page, block in NEEDED])
def test_a_program_runs_and_a_configuration_passes(page: str, block: Block, said: dict[tuple[str, str], str]) -> None:
    if block.kind == "python":
        compile(block.text, str(block.name), "exec")
    if (page, block.name) not in ELSEWHERE and not isForeign(block):
        assert said[page, str(block.name)] == ""


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page}-{shlex.join(words)}" for page, words in COMMANDS])
def test_a_command_has_flags_that_exist(page: str, command: list[str], said: dict[tuple[str, str], str]) -> None:
    assert said[page, shlex.join(command)] == ""
