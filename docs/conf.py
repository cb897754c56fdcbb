"""
The documentation as Sphinx builds it: C{make docs}.

The pages are in this folder, what Sphinx must know beyond them in C{_ext}.  Nothing is fetched from the network, so the
build gives the same everywhere.  With the tag C{noapi} the pages of the API are left out, which take the most time.
This module knows no page by name.
"""

import pkgutil
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_ext")]

from inventory import write  # noqa: E402

import smtphooks  # noqa: E402

project = "smtphooks"
author = "the authors of smtphooks"
copyright = f"{author}; MIT licence"
version = release = smtphooks.__version__

extensions = ["flowdocs", "optiondocs", "statedocs", "links"]
exclude_patterns = ["_ext", "_build"]
nitpicky = True
highlight_language = "none"

html_theme = "furo"
html_title = f"smtphooks {version}"
html_copy_source = False

# --- The API, by pydoctor ---

# What users import from; all other modules are shown only to those who ask for private names.
PUBLIC = ("client", "layers", "metrics", "optiontypes", "reactor", "replies", "sasl", "sasl.portal", "stores", "testing")  # fmt: skip # noqa: E501 - the test reads it in one line


def privacy() -> list[str]:
    """The modules that are no part of the API; the names in C{smtphooks} itself are public, wherever they are made."""
    found = [
        module.name.removeprefix("smtphooks.") for module in pkgutil.walk_packages(smtphooks.__path__, "smtphooks.")
    ]
    return [f"--privacy=PRIVATE:smtphooks.{name}" for name in found if name not in PUBLIC]


if not tags.has("noapi"):  # type: ignore[name-defined] # noqa: F821 - Sphinx defines it
    extensions.append("pydoctor.sphinx_ext.build_apidocs")
    pydoctor_args = [
        "--project-name=smtphooks",
        f"--project-version={version}",
        f"--project-base-dir={DOCS.parent}",
        "--docformat=epytext",
        "--html-output={outdir}/api",
        *(f"--intersphinx-file={path}" for path in write(DOCS / "_build" / "inventories")),
        *privacy(),
        str(DOCS.parent / "smtphooks"),
    ]
