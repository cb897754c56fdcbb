"""What is shipped: twistd finds the plugin wherever smtphooks is installed, and it costs other services nothing."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import smtphooks

ROOT = Path(smtphooks.__file__).parents[1]
PATIENCE = 60.0


def output(*arguments: object, folder: Path, path: Path) -> str:
    """The output of Python, run in this folder with this path in PYTHONPATH."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(path)},
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_plugins_import_nothing_heavy(tmp_path: Path) -> None:
    """twistd imports every plugin at every start."""
    script = (
        "import sys, twisted.plugin, twisted.plugins\n"
        "import twisted.application.service, twisted.application.reactors\n"
        "before = set(sys.modules)\n"
        "import twisted.plugins.smtphooks_plugin, twisted.plugins.smtphooks_reactor\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    plugins = ["twisted.plugins.smtphooks_plugin", "twisted.plugins.smtphooks_reactor"]
    assert output("-c", script, folder=tmp_path, path=ROOT).split() == plugins


@pytest.mark.parametrize("module", ["smtphooks.service.tap", "smtphooks.__main__"])
def test_the_service_imports_no_reactor(tmp_path: Path, module: str) -> None:
    """An import would install the default reactor, before twistd or the command has chosen one."""
    script = f"import sys, {module}; print('twisted.internet.reactor' in sys.modules)"
    assert output("-c", script, folder=tmp_path, path=ROOT) == "False\n"


def test_the_plugins_folder_is_not_a_package() -> None:
    """An __init__.py here would hide Twisted's own plugins."""
    assert not list((ROOT / "twisted").rglob("__init__.py"))


def test_the_wheel_contains_the_plugins_and_the_command(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "README.rst", "LICENSE", "pytest_smtphooks.py"):
        shutil.copy(ROOT / name, source)
    for name in ("smtphooks", "twisted"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
    build = "import setuptools.build_meta as backend; backend.build_wheel('dist')"
    output("-c", build, folder=source, path=source)
    (wheel,) = (source / "dist").glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    assert sorted(path.name for path in (installed / "twisted").rglob("*.py")) == [
        "smtphooks_plugin.py",
        "smtphooks_reactor.py",
    ]
    assert (installed / "smtphooks" / "py.typed").exists()
    modules = {path.relative_to(source) for path in (source / "smtphooks").rglob("*.py")}
    assert {path.relative_to(installed) for path in (installed / "smtphooks").rglob("*.py")} == modules
    metadata = next(installed.glob("*.dist-info/METADATA")).read_text()
    assert f"Version: {smtphooks.__version__}\n" in metadata
    assert (installed / "pytest_smtphooks.py").exists()
    points = configparser.ConfigParser()
    points.read(next(installed.glob("*.dist-info/entry_points.txt")))
    assert {section: dict(points[section]) for section in points.sections()} == {
        "console_scripts": {"smtphooks": "smtphooks.__main__:main"},
        "pytest11": {"smtphooks": "pytest_smtphooks"},
    }

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    twistd = Path(sys.executable).parent / "twistd"
    assert "smtphooks " in output(twistd, "--help", folder=elsewhere, path=installed)
    assert "[[listener]]" in output(twistd, "-n", "smtphooks", "--check", folder=elsewhere, path=installed)
    assert "smtphooks\t" in output(twistd, "--help-reactors", folder=elsewhere, path=installed)
    assert "[[listener]]" in output("-m", "smtphooks", "--check", folder=elsewhere, path=installed)
    assert "@pytest.mark.smtphooks(**options)" in output("-m", "pytest", "--markers", folder=elsewhere, path=installed)
