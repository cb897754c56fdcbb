"""Loading the operator's code: a sentence on an error in it names the line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.defer import succeed
from twisted.python.failure import Failure

from smtphooks.service import loading
from smtphooks.service.loading import lineOf, loadExtensions, loadHooks, searchIn
from smtphooks.service.settings import ConfigError, HooksSettings
from smtphooks.stores.maildir import Maildir


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the operator in sys.path."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    searchIn([str(tmp_path)])
    yield tmp_path
    for name in set(sys.modules) - before:
        if name in ("mine", "other"):
            del sys.modules[name]


def refusal(folder: Path, text: str, **options: object) -> str:
    (folder / "mine.py").write_text(text)
    with pytest.raises(ConfigError) as caught:
        loadHooks(HooksSettings("hooks", "mine:Mine", options))
    return str(caught.value).replace(str(folder), "<folder>")


CONSTRUCTOR = (
    "import json, attrs\nfrom twisted.internet.endpoints import serverFromString\n"
    "from smtphooks.stores.maildir import Maildir\n"
    "Checked = attrs.make_class('Checked', {'x': attrs.field(validator=attrs.validators.instance_of(int))})\n"
    "class Mine(Maildir):\n  def __init__(self):\n"
)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("    raise ValueError('bad')\n", 7),
        ("    self.load()\n  def load(self):\n    1 / 0\n", 9),
        ("    json.loads('{')\n", 7),  # the standard library is not named
        ("    super().__init__('/dev/null')\n", 7),  # nor is smtphooks
        ("    serverFromString(None, 'nonsense')\n", 7),  # nor is another library
        ("    Checked('x')\n", 7),
        ("    try:\n      1 / 0\n    except Exception as error:\n      raise ValueError from error\n", 10),
    ],
)
def test_a_constructor_that_crashes_shows_the_operators_line(folder: Path, body: str, line: int) -> None:
    said = refusal(folder, CONSTRUCTOR + body)
    assert said.startswith("hooks: calling mine:Mine failed, correct it or [hooks-options]: ")
    assert said.endswith(f" (<folder>/mine.py, line {line})")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("1 / 0\n", "ZeroDivisionError: division by zero (<folder>/mine.py, line 1)"),
        ("\nimport nowhere\n", "ModuleNotFoundError: No module named 'nowhere' (<folder>/mine.py, line 2)"),
        ("\n\nimport other\n", "ValueError: odd (<folder>/other.py, line 2)"),
        ("\n\nx = = 1\n", "(<folder>/mine.py, line 3)"),
    ],
)
def test_a_module_that_cannot_be_imported_shows_its_line(folder: Path, text: str, end: str) -> None:
    (folder / "other.py").write_text("\nraise ValueError('odd')\n")
    said = refusal(folder, text)
    assert said.startswith("hooks: module mine cannot be imported, correct it, its name or PYTHONPATH: ")
    assert said.endswith(end)


@pytest.mark.parametrize("libraries", ["site-packages", "dist-packages"])
def test_hooks_that_are_installed_as_a_library_show_their_line(folder: Path, libraries: str) -> None:
    installed = folder / libraries
    installed.mkdir()
    searchIn([str(installed)])
    said = refusal(installed, "class Mine:\n  def __init__(self):\n    1 / 0\n")
    assert said.endswith(" (<folder>/mine.py, line 3)")


def test_a_library_that_fails_is_not_named(folder: Path) -> None:
    (folder / "site-packages").mkdir()
    (folder / "site-packages" / "other.py").write_text("def fail():\n  1 / 0\n")
    searchIn([str(folder / "site-packages")])
    said = refusal(folder, "import other\nclass Mine:\n  def __init__(self):\n    other.fail()\n")
    assert said.endswith(" (<folder>/mine.py, line 4)")


def test_a_module_that_is_not_there_has_no_line() -> None:
    with pytest.raises(ConfigError) as caught:
        loadHooks(HooksSettings("hooks", "nowhere:Mine"))
    assert str(caught.value).endswith("ModuleNotFoundError: No module named 'nowhere'")


def test_a_crash_outside_the_operators_code_has_no_line() -> None:
    with pytest.raises(ConfigError) as caught:
        loadHooks(HooksSettings("hooks", "smtphooks.stores:Maildir", {"path": "/dev/null"}))
    assert "/dev/null is not a folder" in str(caught.value)
    assert ", line " not in str(caught.value)


def test_twisted_through_which_a_crash_has_come_is_not_named() -> None:
    def crash(result: object) -> None:
        raise OSError("odd")

    # As if it were the code of a ready-made layer.
    crash.__code__ = crash.__code__.replace(co_filename=loading.__file__)
    failures: list[Failure] = []
    succeed(None).addCallback(crash).addErrback(failures.append)
    error = failures[0].value
    assert isinstance(error, OSError) and error.__traceback__ is not None
    assert lineOf(error) == ""


def test_wrong_arguments_are_the_configurations_fault_and_have_no_line(folder: Path) -> None:
    said = refusal(folder, "class Mine:\n  def __init__(self): ...\n", users=5)
    assert said == (
        "hooks: calling mine:Mine failed, correct it or [hooks-options]: TypeError: Mine.__init__() got an unexpected"
        " keyword argument 'users'"
    )


def test_a_class_is_called_and_an_object_is_used_as_it_is(folder: Path) -> None:
    path = str(folder / "mail")
    made = loadHooks(HooksSettings("hooks", "smtphooks.stores:Maildir", {"path": path}))
    assert isinstance(made, Maildir)
    assert loadHooks(HooksSettings("hooks", "json.decoder:JSONDecodeError.__doc__")) is json.JSONDecodeError.__doc__


def test_folders_are_searched_after_all_else_and_in_their_order() -> None:
    before = list(sys.path)
    searchIn(["/b", "/a", "/b", before[0]])
    assert sys.path == [*before, "/b", "/a"]


def test_options_without_extensions_stay_as_they_are() -> None:
    assert loadExtensions("[options]", {"size": 5}) == {"size": 5}
