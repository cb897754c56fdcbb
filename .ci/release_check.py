#!/usr/bin/env python3
"""
Check what would be released: build sdist and wheel, and use the wheel as a stranger would, with each Python here.

It works on the files that git knows, in a folder of its own.  Each Python from 3.10 on gets an empty virtual
environment, in which the wheel is installed and a message received, far from the source tree.  The wheel must be the
same whether it is built from the tree or from the sdist, and the sdist must have all that its tests import.
The argument, if there is one, is the folder to leave sdist and wheel in.
"""

from __future__ import annotations

import email
import os
import shutil
import smtplib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST, NEWEST = 10, 20
PATIENCE = 300

# What the tests of others import must need nothing that the wheel does not bring.
FOR_TESTS = """
import smtplib, smtphooks.testing
with smtphooks.testing.SMTPServerThread() as server, smtplib.SMTP(server.host, server.port) as client:
    client.sendmail("ann@example.org", ["joe@example.org"], "Subject: x")
    assert server.messages
"""


def run(*command: object, folder: Path, **more: str) -> str:
    """The output of a program, which must succeed; it sees no PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env={**environment, **more}, text=True, timeout=PATIENCE,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}")
    return done.stdout


def pythons() -> dict[str, str]:
    """The path of each Python that is here, by version; those that pyenv has are found as well."""
    folders = [*os.environ["PATH"].split(os.pathsep), *map(str, Path.home().glob(".pyenv/versions/*/bin"))]
    found: dict[str, str] = {}
    for minor in range(OLDEST, NEWEST):
        for folder in folders:
            path = shutil.which(f"python3.{minor}", path=folder)
            # What pyenv puts in PATH may stand for a version that is not chosen here, and what Debian does for one
            # without venv.
            if path and subprocess.run([path, "-c", "import ensurepip"], capture_output=True).returncode == 0:
                found.setdefault(f"3.{minor}", path)
    return found


def build(folder: Path) -> tuple[Path, Path]:
    """Make sdist and wheel of what git knows; their paths."""
    tree = folder / "tree"
    for name in run("git", "ls-files", folder=ROOT).splitlines():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", folder=tree)
    (sdist,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder / "again", folder=tree)
    (again,) = (folder / "again").glob("*.whl")
    if contents(wheel) != contents(again):
        raise SystemExit("the wheel of the sdist is not that of the tree")
    checkFiles(wheel)
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel, folder=folder)
    return sdist, wheel


def checkFiles(wheel: Path) -> None:
    """The wheel has every module and sample that git knows, and nothing else."""
    known = run("git", "ls-files", "smtphooks", "twisted", "contrib", "pytest_smtphooks.py", folder=ROOT).split()
    (data,) = {name.partition(".data/")[0] for name in contents(wheel) if ".data/" in name} or {""}
    wanted = {name.replace("contrib/", f"{data}.data/data/share/smtphooks/", 1) for name in known}
    shipped = {name for name in contents(wheel) if ".dist-info/" not in name}
    if wanted != shipped:
        raise SystemExit(f"the wheel lacks {sorted(wanted - shipped)}, and has {sorted(shipped - wanted)} besides")


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("RECORD")}


def collectTests(sdist: Path, folder: Path) -> str:
    """Every test of the sdist can be imported; how many there are."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "sdist", filter="data")
    (root,) = (folder / "sdist").iterdir()
    said = run(sys.executable, "-m", "pytest", "--collect-only", "-q", folder=root, PYTHONPATH=str(root))
    return said.splitlines()[-1]


def use(wheel: Path, python: str, folder: Path) -> str:
    """Install the wheel, see the plugin, and receive a message; the version that says hello."""
    environment = folder / "venv"
    run(python, "-m", "venv", environment, folder=folder)
    binaries = environment / "bin"
    run(binaries / "pip", "install", "--quiet", wheel, folder=folder)
    if "smtphooks " not in run(binaries / "twistd", "--help", folder=folder):
        raise SystemExit(f"{python}: twistd does not see the plugin")
    if not (environment / "share/smtphooks/smtphooks.toml").exists():
        raise SystemExit(f"{python}: the samples of contrib are not there")
    run(binaries / "python", "-c", FOR_TESTS, folder=folder)
    receive([binaries / "twistd", "-n", "--pidfile=", "--reactor=smtphooks", "smtphooks"], folder)
    receive([binaries / "smtphooks"], folder)
    return run(binaries / "smtphooks", "--version", folder=folder).strip()


def receive(command: list[object], folder: Path) -> None:
    """Run a server, and send it a message, which must then lie in its Maildir."""
    shutil.rmtree(folder / "maildir", ignore_errors=True)
    server = subprocess.Popen(
        [*map(str, command), "--listen", "tcp:0:interface=127.0.0.1"], cwd=folder, text=True, stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    try:
        port = None
        while port is None:
            line = server.stdout.readline()
            if not line:
                raise SystemExit(f"{command[0]} does not start")
            if "listening on" in line:
                port = int(line.rpartition(":")[2].rstrip(")\n"))
        with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
            client.sendmail("ann@example.org", ["joe@example.org"], "Subject: release\r\n\r\nHello\r\n")
        (stored,) = (folder / "maildir/new").iterdir()
        if email.message_from_bytes(stored.read_bytes())["Subject"] != "release":
            raise SystemExit(f"{command[0]} has stored something else")
    finally:
        server.terminate()
        server.communicate()
    if server.returncode:
        raise SystemExit(f"{command[0]} ends with status {server.returncode}")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sdist, wheel = build(folder)
        print(f"{sdist.name} and {wheel.name} are built, and twine has no complaint")
        print(f"the sdist has its tests: {collectTests(sdist, folder)}")
        found = pythons()
        for version in found:
            (folder / version).mkdir()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            said = pool.map(lambda version: use(wheel, found[version], folder / version), found)
            for version, hello in zip(found, said, strict=True):
                print(f"Python {version} has received messages: {hello}")
        for target in sys.argv[1:]:
            Path(target).mkdir(exist_ok=True)
            for path in (sdist, wheel):
                shutil.copy(path, target)


if __name__ == "__main__":
    main()
