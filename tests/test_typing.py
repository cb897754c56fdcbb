"""
Type checkers, run as a user runs them: what they must accept, and what they must reject, line by line.

The files of C{tests/typed}, the blocks of C{docs/typing.rst} and the examples are checked together, with one run of
mypy and one of pyright.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import smtphooks
from tests.pages import write

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"# error\b.*$")

# Twisted is typed, except some old parts; and an example may use a library without types.
MYPY = "[mypy]\nstrict = True\nuntyped_calls_exclude = twisted\n"
PYRIGHT = {
    "typeCheckingMode": "strict",
    "reportMissingTypeStubs": False,
    **{f"reportUnknown{what}Type": False for what in ("Argument", "Lambda", "Member", "Parameter", "Variable")},
    "reportMissingParameterType": False,
    "reportUnusedFunction": False,
}

Errors = Mapping[tuple[str, int], str]


def environment() -> dict[str, str]:
    """The checkers look for packages where this Python does, and pyright runs the first Python of the path."""
    package = str(Path(smtphooks.__file__).parents[1])
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
    }


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def pyright(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its package may have to fetch the program itself, once."""
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not installed")
    tried = run("pyright", "--version", folder=tmp_path_factory.mktemp("pyright"))
    if tried.returncode:
        pytest.skip(f"pyright cannot run: {(tried.stderr.strip() or tried.stdout.strip()).splitlines()[-1]}")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all files, and nothing else of the project."""
    folder = tmp_path_factory.mktemp("cases")
    shutil.copytree(ROOT / "tests" / "typed", folder / "cases", ignore=shutil.ignore_patterns("__pycache__"))
    write("typing.rst", folder / "page")
    if (ROOT / "examples").is_dir():
        shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "mypy.ini").write_text(MYPY)
    (folder / "pyrightconfig.json").write_text(json.dumps(PYRIGHT))
    return folder


def marked(folder: Path) -> Iterator[tuple[str, int]]:
    for path in sorted(folder.rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if MARK.search(line):
                yield str(path.relative_to(folder)), number


@pytest.fixture(scope="module")
def byMypy(cases: Path) -> Errors:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    files = [str(path.relative_to(cases)) for path in sorted(cases.rglob("*.py"))]
    ran = run("mypy", "--config-file=mypy.ini", "--no-error-summary", "--hide-error-context", *files, folder=cases)
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    found: dict[tuple[str, int], str] = {}
    for match in re.finditer(r"^(.+?\.py):(\d+): (error|note): (.*)$", ran.stdout, re.MULTILINE):
        place = (match[1], int(match[2]))
        if match[3] == "error" or place in found:
            found[place] = "\n".join(filter(None, [found.get(place), match[4]]))
    return found


@pytest.fixture(scope="module")
def byPyright(cases: Path, pyright: None) -> Errors:
    ran = run("pyright", "--outputjson", "--project", ".", folder=cases)
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    return {
        (str(Path(each["file"]).relative_to(cases.resolve())), each["range"]["start"]["line"] + 1): each["message"]
        for each in json.loads(ran.stdout)["generalDiagnostics"]
        if each["severity"] == "error"
    }


def test_mypy_accepts_what_is_right_and_rejects_every_line_that_is_wrong(cases: Path, byMypy: Errors) -> None:
    wrong = set(marked(cases))
    assert {place: what for place, what in byMypy.items() if place not in wrong} == {}
    assert wrong - set(byMypy) == set()


def test_pyright_accepts_what_is_right_and_rejects_every_line_that_is_wrong(cases: Path, byPyright: Errors) -> None:
    wrong = set(marked(cases))
    assert {place: what for place, what in byPyright.items() if place not in wrong} == {}
    assert wrong - set(byPyright) == set()


def test_the_only_hook_of_an_object_is_named_if_it_is_wrong(cases: Path, byMypy: Errors, byPyright: Errors) -> None:
    lines = (cases / "cases" / "rejected.py").read_text().splitlines()
    place = ("cases/rejected.py", lines.index("SMTPServerFactory(hooks=AsTheIssueSays())  # error") + 1)
    assert 'onRcptTo: expected "OnRcptTo", got "Callable[[str], int]"' in byMypy[place]
    assert '"onRcptTo" is an incompatible type' in byPyright[place]


def test_there_are_wrong_lines_in_the_cases_and_on_the_page(cases: Path) -> None:
    places = {place for place, _ in marked(cases)}
    assert {"cases/rejected.py", "page/wrong.py"} <= places
    assert "cases/accepted.py" not in places


def test_every_public_symbol_has_a_type_that_is_known(tmp_path: Path, pyright: None) -> None:
    ran = run("pyright", "--verifytypes", "smtphooks", "--ignoreexternal", "--outputjson", folder=tmp_path)
    report = json.loads(ran.stdout)["typeCompleteness"]
    untyped = {
        symbol["name"]: [each["message"] for each in symbol["diagnostics"] if each["severity"] == "error"]
        for symbol in report["symbols"]
    }
    assert {name: messages for name, messages in untyped.items() if messages} == {}
    assert report["completenessScore"] == 1
    assert report["packageRootDirectory"] == str(Path(smtphooks.__file__).parent)
