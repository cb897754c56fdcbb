"""The site: Sphinx builds it without a warning, and no link within it leads nowhere."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import smtphooks.layers
import smtphooks.stores
from tests.pages import DOCS, blocksOf
from tests.test_readme import BASE, LINKS, ROOT

sys.path.append(str(DOCS / "_ext"))
from inventory import NAMES, write
from links import Page, brokenLinks


def build(source: Path, site: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """What C{make docs} runs, but for the pages of the API, which take the most time."""
    command = ["-m", "sphinx", "-n", "-W", "--keep-going", "-q", "-t", "noapi", *more, "-b", "html"]
    return subprocess.run([sys.executable, *command, str(source), str(site)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = build(DOCS, folder, "-d", str(tmp_path_factory.mktemp("doctrees")))
    assert (built.returncode, built.stderr) == (0, "")
    return folder


def test_no_link_within_the_site_is_broken(site: Path) -> None:
    assert [*brokenLinks(site)] == []


def test_every_page_is_in_the_contents(site: Path) -> None:
    pages = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.rst") if "_build" not in path.parts}
    assert pages == {path.relative_to(site) for path in site.rglob("*.html")} - {
        Path("genindex.html"),
        Path("search.html"),
    }


@pytest.mark.parametrize("link", LINKS)
def test_the_links_of_the_readme_lead_into_the_site(site: Path, link: str) -> None:
    page, _, anchor = link.removeprefix(BASE).partition("#")
    assert anchor in Page((site / page).read_text()).anchors


def test_every_option_has_an_anchor(site: Path) -> None:
    anchors = Page((site / "options.html").read_text()).anchors
    assert {"option-size", "option-maxClients", "option-hideSTARTTLS"} <= anchors


@pytest.mark.parametrize("name", [*smtphooks.layers.__all__, *smtphooks.stores.__all__])
def test_every_option_of_a_layer_or_store_has_an_anchor(site: Path, name: str) -> None:
    made = getattr(smtphooks.layers, name, None) or getattr(smtphooks.stores, name)
    page = f"{'layers' if name in smtphooks.layers.__all__ else 'stores'}/{name.lower()}.html"
    anchors = Page((site / page).read_text()).anchors
    options = {*inspect.signature(made).parameters}
    assert {anchor for anchor in anchors if anchor.startswith(f"option-{name}-")} == {
        f"option-{name}-{option}" for option in options
    }


@pytest.mark.parametrize("link", ["gone.html", "a.html#gone", "#gone", "../outside.html"])
def test_a_broken_link_is_found(tmp_path: Path, link: str) -> None:
    (tmp_path / "a.html").write_text('<p id="here">a</p>')
    (tmp_path / "b.html").write_text(
        f'<a href="a.html#here">a</a><a href="{link}">b</a><a href="https://example.org/">c</a>'
    )
    (sentence,) = brokenLinks(tmp_path)
    assert sentence.startswith(f"b.html links to {link}, which ")


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "conf.py").write_text(f"import sys\nsys.path.append({str(DOCS / '_ext')!r})\nextensions = ['links']\n")
    (tmp_path / "index.rst").write_text("Title\n=====\n\n`There <gone.html>`_\n")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode == 1
    assert "index.html links to gone.html, which is not there" in built.stderr


def test_what_pages_import_from_is_public_in_the_api() -> None:
    (public,) = re.findall(r"^PUBLIC = (.*)", (DOCS / "conf.py").read_text(), re.MULTILINE)
    pages = [path for path in DOCS.rglob("*.rst") if "_build" not in path.parts]
    blocks = [block.text for page in pages for block in blocksOf(page, "python")]
    imported = {name for text in blocks for name in re.findall(r"^ *(?:from|import) smtphooks\.([\w.]+)", text, re.M)}
    assert len(imported) > 3
    assert imported <= {*ast.literal_eval(public)}


def test_names_of_others_have_an_inventory(tmp_path: Path) -> None:
    arguments = write(tmp_path)
    assert [argument.partition("::")[2] for argument in arguments] == [*NAMES]


def test_make_docs_builds_the_same() -> None:
    # The tests may be run by make themselves, which would then speak of folders as well.
    command = ["make", "--no-print-directory", "--dry-run", "docs"]
    said = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    assert said.splitlines()[-1].endswith("-m sphinx -n -W --keep-going -q -b html docs docs/_build/html")
