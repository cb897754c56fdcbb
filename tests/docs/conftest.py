"""Fixtures of the tests of pages."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, which a test writes the files of its page into."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
