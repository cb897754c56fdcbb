"""
Running servers: each on a free port, on the servers' core, with a certificate of its own, and killed afterwards.

This module knows how a server starts and ends, not what is measured.
"""

from __future__ import annotations

import datetime
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks import load, measure
from benchmarks.peers import BUILT, ROOT, Peer, environment

_POLLING = 0.02


@dataclass(frozen=True)
class Server:
    """
    @ivar offers: the keywords in its reply to EHLO.
    """

    peer: Peer
    pid: int
    port: int
    mode: str
    offers: frozenset[str]

    @property
    def greeting(self) -> str:
        return "LHLO" if self.mode == "lmtp" else "EHLO"


def makeCertificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mx.example")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@contextmanager
def started(peers: Iterable[Peer], mode: str, idle: float = 1.0) -> Iterator[dict[Peer, Server]]:
    """
    Servers for some peers, each with its idle connections.

    @param idle: the fraction of these connections that is made.
    """
    with ExitStack() as stack:
        # Not in the system's temporary folder, which may be in memory: stores are measured too.
        BUILT.mkdir(exist_ok=True)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=BUILT, ignore_cleanup_errors=True)))
        makeCertificate(folder)
        processes = [(peer, *stack.enter_context(_process(peer, mode, folder))) for peer in peers]
        servers = {peer: _answering(peer, process, port, mode, ready) for peer, process, port, ready in processes}
        for peer, server in servers.items():
            for connection in load.connections(server.port, round(peer.idle * idle), server.greeting):
                stack.callback(connection.close)
        yield servers


@contextmanager
def _process(peer: Peer, mode: str, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, socket.socket]]:
    port = _freePort()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        # What systemd has as well, see sd_notify(3); the name is an abstract one.
        name = f"smtphooks-benchmark-{port}"
        ready.bind(f"\0{name}")
        ready.settimeout(measure.TIMEOUT)
        process = subprocess.Popen(
            peer.command(port, mode, folder),
            cwd=ROOT,
            env={**environment(), "NOTIFY_SOCKET": f"@{name}"},
            stdout=subprocess.DEVNULL,
            preexec_fn=measure.childOn(*measure.coresOf(peer.cores > 0)),
        )
        try:
            yield process, port, ready
        finally:
            _end(peer, process)


def _end(peer: Peer, process: subprocess.Popen[bytes]) -> None:
    # There is nothing to save, but a supervisor has workers to end.
    if peer.cores:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(measure.TIMEOUT)
    process.kill()
    process.wait()


def _answering(peer: Peer, process: subprocess.Popen[bytes], port: int, mode: str, ready: socket.socket) -> Server:
    end = time.monotonic() + measure.TIMEOUT
    while process.poll() is None and time.monotonic() < end:
        try:
            connection = load.Connection(port, "LHLO" if mode == "lmtp" else "EHLO")
        except ConnectionRefusedError:
            time.sleep(_POLLING)
            continue
        connection.expect((220,))
        offers = connection.hello()
        connection.close()
        # One worker may answer while others still start.
        while peer.cores and b"READY=1" not in ready.recv(4096):
            pass
        measure.checkCores(process.pid, peer.cores > 0)
        return Server(peer, process.pid, port, mode, offers)
    raise SystemExit(f"{peer.name} does not start: {process.args!r}")


def _freePort() -> int:
    with socket.socket() as probe:
        probe.bind((load.HOST, 0))
        return int(probe.getsockname()[1])
