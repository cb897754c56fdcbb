"""Blocks of code are found in pages, with their names."""

from __future__ import annotations

from pathlib import Path

from tests.pages import Block, blocksOf, define

PAGE = """\
Title
=====

.. code-block:: python
    :name: a.py

    x = 1

    y = 2

Text.

.. code-block:: console

    $ smtphooks

- In a list:

  .. code-block:: toml
      :name: conf/b.toml

      size = 1
"""


def test_blocks_are_found_with_kind_and_name(tmp_path: Path) -> None:
    page = tmp_path / "page.rst"
    page.write_text(PAGE)
    assert blocksOf(page) == [
        Block("python", "a.py", "x = 1\n\ny = 2\n"),
        Block("console", None, "$ smtphooks\n"),
        Block("toml", "conf/b.toml", "size = 1\n"),
    ]
    assert blocksOf(page, "toml") == [Block("toml", "conf/b.toml", "size = 1\n")]


def test_a_block_is_run_beside_the_files_of_its_page(tmp_path: Path) -> None:
    page = tmp_path / "page.rst"
    page.write_text(PAGE)
    assert define(page, "a.py", tmp_path).y == 2
    assert (tmp_path / "conf" / "b.toml").read_text() == "size = 1\n"
