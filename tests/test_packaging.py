"""What is shipped: twistd finds the plugin wherever smtphooks is installed, and it costs other services nothing."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

import smtphooks
from tests.real.programs import Program, freePort, tcp
from tests.test_reactor import environment

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
    for name in ("contrib", "smtphooks", "twisted"):
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
    assert "\nLicense-Expression: MIT\n" in metadata and "\nLicense-File: LICENSE\n" in metadata
    assert {line.split()[1].rstrip(",") for line in metadata.splitlines() if line.startswith("Project-URL:")} == {
        "Documentation",
        "Changelog",
        "Source",
        "Issues",
    }
    samples = {path.relative_to(ROOT / "contrib") for path in (ROOT / "contrib").rglob("*") if path.is_file()}
    (data,) = installed.glob("*.data/data/share/smtphooks")
    assert {path.relative_to(data) for path in data.rglob("*") if path.is_file()} == {
        path for path in samples if "__pycache__" not in path.parts
    }
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


# --- the container ---

CONTAINER = (ROOT / "Containerfile").read_text()


def instructions(name: str) -> list[str]:
    """The instructions of this name in the last stage of the Containerfile."""
    last = CONTAINER[CONTAINER.rindex("\nFROM ") :]
    return re.findall(rf"^{name} (.+)$", last, re.MULTILINE)


def test_the_container_runs_as_no_root() -> None:
    """By number: an orchestrator cannot tell who a name is."""
    (user,) = instructions("USER")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)


def test_the_container_does_what_it_says(tmp_path: Path) -> None:
    (command,), (arguments,) = instructions("ENTRYPOINT"), instructions("CMD")
    assert json.loads(command) == ["smtphooks"]
    port = json.loads(arguments)[-1].removeprefix("tcp:")
    assert instructions("EXPOSE") == [port] and f", {port}," in instructions("HEALTHCHECK")[0]
    said = output("-m", "smtphooks", "--check", *json.loads(arguments), folder=tmp_path, path=ROOT)
    assert f'endpoint = "tcp:{port}"' in said


@pytest.mark.parametrize("where", ["the port of a server", "a port where none listens"])
def test_the_health_check_tells_a_server_from_none(where: str) -> None:
    """As the container runs it, but for the port."""
    check = json.loads(instructions("HEALTHCHECK")[0].partition("CMD ")[2])
    port = freePort()
    code = check[2].replace("2525", str(port))
    assert code != check[2]
    done = None
    with tempfile.TemporaryDirectory() as folder:
        server = Program([sys.executable, "-m", "smtphooks", "--listen", tcp(port)], environment(), Path(folder))
        try:
            server.waitForLine("listening on")
            if where != "the port of a server":
                server.terminate()
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=PATIENCE)
        finally:
            server.kill()
    assert (done.returncode == 0) is (where == "the port of a server")
