"""docs/tutorial.rst: followed word for word, what it shows and says is what happens."""

from __future__ import annotations

import os
import re
import shlex
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.pages import blocksOf, write
from tests.real.programs import PATIENCE, ROOT, Maildir, Service, eventually, freePort, requires, tcp, which
from tests.real.test_opendkim import startNames

PAGE = "tutorial.rst"
COMMANDS = [line[2:] for block in blocksOf(PAGE, "console") for line in block.text.splitlines()]
FILES = {block.name: block.text for block in blocksOf(PAGE) if block.name is not None}
COMMAND = f"{shlex.quote(sys.executable)} -m smtphooks"

# What a test cannot do: it has no package index, no systemd, and no name in the DNS.
NOT_RUN = [
    "sudo apt install python3-venv unbound swaks openssl",
    "sudo python3 -m venv /opt/smtphooks",
    'sudo /opt/smtphooks/bin/pip install "smtphooks[authentication]"',
    "export PATH=/opt/smtphooks/bin:$PATH",
    "mkdir mx && cd mx",
    "smtphooks --config mx.toml",
    "sudo systemctl daemon-reload",
    "sudo apt install certbot",
    'sudo certbot certonly --standalone -d mx.example.org --deploy-hook "systemctl try-restart smtphooks"',
    "sudo systemctl enable --now smtphooks",
    "sudo journalctl -u smtphooks -f",
]
CHECK = "smtphooks --config mx.toml --check"
TRY = COMMANDS[COMMANDS.index("smtphooks --config mx.toml") + 1 : COMMANDS.index("sudo mkdir /etc/smtphooks")]
MOVE = [line for line in COMMANDS[len(TRY) :] if re.match("sudo (mkdir|cp|sed|/opt/smtphooks/bin/smtphooks)|cat", line)]
OUTSIDE = "swaks --server mx.example.org --tls --from you@example.net --to ann@example.org"

LISTED, HONEST = "9.9.9.9", "9.9.9.10"
ZONE = {
    "2.0.0.127.zen.spamhaus.org": ["127.0.0.2"],
    "9.9.9.9.zen.spamhaus.org": ["127.0.0.4"],
    "example.net": ["v=spf1 ip4:9.9.9.10 -all"],
}

pytestmark = requires("swaks", "openssl")


def shell(command: str, folder: Path, status: int = 0) -> str:
    """Run a line of the page with a shell."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == status, f"{command}: {done.stdout}"
    return done.stdout


def change(file: Path, **changes: str) -> None:
    """Replace texts of a file, each of which must be there."""
    text = file.read_text()
    for said, changed in changes.items():
        assert said in text
        text = text.replace(said, changed)
    file.write_text(text)


@pytest.fixture
def programs() -> Iterator[ExitStack]:
    with ExitStack() as programs:
        yield programs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder C{mx}, with the files of the page."""
    folder = tmp_path / "mx"
    write(PAGE, folder)
    return folder


def start(config: Path, port: int, programs: ExitStack) -> Service:
    service = Service(config.parent, ["--config", config.name], [tcp(port)])
    programs.callback(service.terminate)
    return service


def test_every_command_is_known_to_this_file() -> None:
    assert sorted(COMMANDS) == sorted([*NOT_RUN, CHECK, *TRY, *MOVE, OUTSIDE])
    assert [command.split()[0] for command in TRY] == ["swaks", "swaks", "ls", "openssl"]
    assert len(MOVE) == 6


def test_extra_that_is_installed_is_the_one_of_the_layer() -> None:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert "authentication" in config["options.extras_require"]


def test_check_says_what_the_page_shows(folder: Path) -> None:
    said = shell(CHECK.replace("smtphooks", COMMAND, 1), folder)
    shown = next(block.text for block in blocksOf(PAGE, "text") if block.text.startswith("# "))
    assert said.startswith(shown)


def test_trial_on_2525_goes_as_the_page_says(folder: Path, programs: ExitStack) -> None:
    port = freePort()
    _, names = startNames(ZONE, programs)
    change(folder / "mx.toml", **{'"tcp:2525"': f'"{tcp(port)}"', 'servers = ["127.0.0.1"]': f'servers = ["{names}"]'})
    service = start(folder / "mx.toml", port, programs)

    here = [command.replace(":2525", f":{port}") for command in TRY]
    accepted = shell(here[0], folder)
    assert "250 2.0.0 Stored as " in accepted
    assert "=== TLS started" in accepted
    assert "550 5.1.1 Recipient address rejected: user unknown" in shell(here[1], folder, status=24)
    assert len(shell(here[2], folder).split()) == 1
    assert "CN = mx.example.org" in shell(here[3], folder)

    (stored,) = Maildir(folder / "maildir").messages()
    assert stored.deliveredTo == ["ann@example.org"]
    service.waitForLine("no certificate for mx.example.org", "self-signed")
    for line in FILES["log.txt"].splitlines():
        pattern = re.sub(r"\\\[[0-9a-f]{20}\\\]", r"\\[[0-9a-f]{20}\\]", re.escape(line))
        pattern = re.sub(r"\d+(?=\\ (ms|octets|commands))", r"\\d+", pattern)
        assert re.search(pattern, service.output), f"{line}\n{service.output}"


def test_service_on_port_25_goes_as_the_page_says(folder: Path, tmp_path: Path, programs: ExitStack) -> None:
    for name in ("system", "credentials"):
        (tmp_path / name).mkdir()
    certificate = Authority().server("mx.example.org")
    (tmp_path / "credentials" / "key.pem").write_text(certificate.key)
    (tmp_path / "credentials" / "cert.pem").write_text(certificate.cert)
    places = {
        "/etc/systemd/system": str(tmp_path / "system"),
        "/etc/smtphooks": str(tmp_path / "etc"),
        "/var/lib/smtphooks": str(tmp_path / "state"),
        "/opt/smtphooks/bin/smtphooks": COMMAND,
    }
    for command in MOVE:
        line = command.removeprefix("sudo ").replace("| sudo ", "| ")
        for said, here in places.items():
            line = line.replace(said, here)
        shell(line, folder)
    assert (tmp_path / "system" / "smtphooks.service").read_text() == FILES["smtphooks.service"]

    port = freePort()
    _, names = startNames(ZONE, programs)
    config = tmp_path / "etc" / "mx.toml"
    assert 'endpoint = "tcp:25"\n' in config.read_text()
    change(
        config,
        **{
            '"tcp:25"': f'"{tcp(port)}"',
            "/run/credentials/smtphooks.service": str(tmp_path / "credentials"),
            'servers = ["127.0.0.1"]': f'servers = ["{names}"]',
            # The clients of this test come from other places by XCLIENT.
            "authOptional = true": 'authOptional = true\nuseXClient = ["127.0.0.1"]',
        },
    )
    service = start(config, port, programs)

    assert "=== TLS started" in shell(OUTSIDE.replace("mx.example.org", f"127.0.0.1:{port}", 1), folder)
    assert "self-signed" not in service.output
    assert offer(port, HONEST, "ann@example.org")[0] == 250
    assert offer(port, LISTED, "ann@example.org") == (550, "5.7.1 Client 9.9.9.9 is listed by zen.spamhaus.org")
    assert offer(port, LISTED, "postmaster@example.org")[0] == 250
    assert offer(port, HONEST, "nobody@example.org")[0] == 550

    change(tmp_path / "etc" / "recipients.txt", **{"bob@": "carol@example.org\nbob@"})
    eventually(lambda: offer(port, HONEST, "carol@example.org")[0] == 250, "the file is read again")

    # swaks from 127.0.0.1 was exempt; of the others SPF was recorded, and nothing was refused for it.
    messages = Maildir(tmp_path / "state" / "maildir").messages()
    fields = [m.content for m in messages if b"Authentication-Results: mx.example.org" in m.content]
    assert [len(messages), len(fields)] == [4, 3]
    assert [sum(result in field for field in fields) for result in (b"spf=pass", b"spf=fail")] == [2, 1]


def offer(port: int, client: str, recipient: str) -> tuple[int, str]:
    """Send a message as a client of the Internet would; the last reply."""
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as connection:
        connection.ehlo("proxy.example")
        assert connection.docmd("XCLIENT", f"ADDR={client} NAME=mail.example.net")[0] == 220
        connection.ehlo("mail.example.net")
        assert connection.mail("you@example.net")[0] == 250
        code, text = connection.rcpt(recipient)
        if code == 250:
            code, text = connection.data(b"From: you@example.net\r\nSubject: hello\r\n\r\nhello\r\n")
        return code, text.decode()


def test_own_store_of_the_page_stores_and_prints(folder: Path, programs: ExitStack) -> None:
    port = freePort()
    change(
        folder / "mx.toml",
        **{'"tcp:2525"': f'"{tcp(port)}"', "smtphooks.stores:Maildir": "mailhooks:Mine"},
    )
    service = start(folder / "mx.toml", port, programs)
    shell(TRY[0].replace(":2525", f":{port}"), folder)
    service.waitForLine("stored mail of you@example.net")
    assert len(Maildir(folder / "maildir").messages()) == 1


@requires("systemd-analyze")
def test_systemd_finds_nothing_wrong_in_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "smtphooks.service"
    unit.write_text(re.sub(r"/opt/smtphooks/bin/\w+", str(which("true")), FILES["smtphooks.service"]))
    said = subprocess.run(
        [str(which("systemd-analyze")), "verify", "--man=no", unit],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    # systemd-analyze may also complain of other units of this machine.
    complaints = [line for line in said.stdout.splitlines() if "smtphooks" in line]
    assert (said.returncode, complaints) == (0, [])


def test_unit_and_configuration_agree() -> None:
    unit = FILES["smtphooks.service"]
    given = set(re.findall(r"LoadCredential=(\S+):", unit))
    assert set(re.findall(r"/run/credentials/smtphooks\.service/([\w.]+)", FILES["tls.toml"])) == given
    assert "--config /etc/smtphooks/mx.toml" in unit
    (state,) = re.findall(r"StateDirectory=(\S+)", unit)
    assert f"/var/lib/{state}/maildir" in " ".join(MOVE)
