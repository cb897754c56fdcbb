"""
Postfix: an instance that relays to the servers of a test, and one that takes mail from its clients.

This module knows no test, and nothing of what it relays to.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from pathlib import Path

from tests.real.mta.contained import DOMAIN, HOST, LATER, MAX_SIZE, NOBODY, Server, modeOf
from tests.real.programs import Program, eventually, freePort, run, which

# No service runs in a chroot, which would need copies of the system's files.
_SERVICES = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
lmtp unix - - n - - lmtp
smtp unix - - n - - smtp
tlsmgr unix - - n 1000? 1 tlsmgr
error unix - - n - - error
retry unix - - n - - error
showq unix n - n - - showq
postlog unix-dgram n - n - 1 postlogd
"""


def _write(folder: Path, port: int, settings: dict[str, object], services: str) -> Path:
    """
    Write the configuration, and make the folders that it names.

    @return: the folder of the configuration.
    """
    config = folder / "etc"
    for new in (config, folder / "spool", folder / "data"):
        new.mkdir()
    # Postfix requires that its own user owns the data directory.
    shutil.chown(folder / "data", "postfix")
    common: dict[str, object] = {
        "compatibility_level": "3.6",
        "queue_directory": folder / "spool",
        "data_directory": folder / "data",
        "maillog_file": "/dev/stdout",
        "mydestination": "",
        "mynetworks": "127.0.0.0/8",
        "inet_interfaces": "127.0.0.1",
        "inet_protocols": "ipv4",
        "disable_dns_lookups": "yes",
        "smtpd_peername_lookup": "no",
        "alias_maps": "",
        "local_recipient_maps": "",
        "notify_classes": "",
    }
    lines = [f"{name} = {value}\n" for name, value in {**common, **settings}.items()]
    (config / "main.cf").write_text("".join(lines))
    (config / "master.cf").write_text(_SERVICES.format(port=port) + services)
    return config


def _isIdle(config: Path) -> bool:
    return b"queue is empty" in run("postqueue", "-c", config, "-p").stdout


class Postfix:
    """
    An instance that accepts mail over SMTP and relays it to other servers, one for each domain.

    @ivar port: where it accepts mail.
    """

    def __init__(
        self, folder: Path, destinations: dict[str, str], transport: str = "lmtp", services: str = "", **more: object
    ) -> None:
        """
        @param destinations: domain to the address of its server, which need not listen yet.
        @param transport: the protocol of these servers, C{"lmtp"} or C{"smtp"}.
        @param services: further lines of master.cf.
        @param more: further settings of main.cf.
        """
        self.port = freePort()
        transports = ", ".join(f"{{ {domain} = {transport}:{place} }}" for domain, place in destinations.items())
        settings = {
            "myhostname": "postfix.example",
            "relay_domains": ", ".join(destinations),
            "relay_recipient_maps": "",
            "transport_maps": f"inline:{{ {transports} }}",
            **more,
        }
        self._config = _write(folder, self.port, settings, services)
        postfix = which("postfix")
        assert postfix is not None
        self._program = Program([postfix, "-c", str(self._config), "start-fg"], os.environ, folder)
        try:
            self._program.waitForLine("daemon started")
        except AssertionError:
            self.stop()
            raise

    def waitForLine(self, *parts: str) -> None:
        """Wait until its log has a line with all of these parts."""
        self._program.waitForLine(*parts)

    def flush(self) -> None:
        """Try again to deliver all that is in its queue."""
        run("postqueue", "-c", self._config, "-f")

    def waitUntilIdle(self) -> None:
        """Wait until its queue is empty."""
        eventually(lambda: _isIdle(self._config), "an empty queue of Postfix")

    def stop(self) -> None:
        """Stop it, with all processes that it has started."""
        run("postfix", "-c", self._config, "stop", status=None)
        self._program.terminate()


class PostfixServer(Server):
    """
    An instance that takes mail for DOMAIN and for C{here.example}, where the senders of its notifications are.

    It offers all that Postfix has: XCLIENT, XFORWARD, SMTPUTF8, CHUNKING, DSN; and AUTH with a socket for SASL.
    """

    programs = ("postfix", "postqueue")
    _storer = "postfix"

    def __init__(self, saslSocket: str | None = None, **more: object) -> None:
        """
        @param saslSocket: the path of the socket of Dovecot's authentication service.
        @param more: further settings of main.cf.
        """
        self._saslSocket = saslSocket
        self._more = more
        super().__init__()

    def _prepare(self) -> None:
        self._ownMaildir()
        storer = pwd.getpwnam(self._storer)
        refusals = {NOBODY: "550 5.1.1 No such user here", LATER: "450 4.2.0 Try again later"}
        settings: dict[str, object] = {
            "myhostname": HOST,
            # Without, it takes no address of IPv6 with XCLIENT either.
            "inet_protocols": "all",
            "message_size_limit": MAX_SIZE,
            "mailbox_size_limit": 0,
            "virtual_mailbox_limit": 0,
            "virtual_mailbox_domains": f"{DOMAIN}, here.example",
            "virtual_mailbox_maps": f"static:{self._maildir.name}/",
            "virtual_mailbox_base": self.folder,
            "virtual_minimum_uid": 1,
            "virtual_uid_maps": f"static:{storer.pw_uid}",
            "virtual_gid_maps": f"static:{storer.pw_gid}",
            "smtpd_recipient_restrictions": f"check_recipient_access {_inline(refusals)}, reject_unauth_destination",
            # What it stores is what it was sent.
            "local_header_rewrite_clients": "",
            # Tests send faulty commands on purpose.
            "smtpd_error_sleep_time": 0,
            "smtpd_hard_error_limit": 1000,
            "smtpd_soft_error_limit": 1000,
            "smtpd_client_connection_count_limit": 0,
            "default_process_limit": 100,
            "smtpd_authorized_xclient_hosts": "127.0.0.1",
            "smtpd_authorized_xforward_hosts": "127.0.0.1",
            "smtpd_tls_security_level": "may",
            "smtpd_tls_cert_file": self.folder / "server.pem",
            "smtpd_tls_key_file": self.folder / "server.key",
            "smtpd_tls_loglevel": 1,
        }
        if self._saslSocket:
            settings |= {
                "smtpd_sasl_auth_enable": "yes",
                "smtpd_sasl_type": "dovecot",
                "smtpd_sasl_path": self._saslSocket,
                "smtpd_sasl_security_options": "noanonymous",
            }
        implicit = f"127.0.0.1:{self.tlsPort} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes\n"
        self._config = _write(self.folder, self.port, {**settings, **self._more}, implicit + _VIRTUAL)

    def _command(self) -> list[object]:
        return ["postfix", "-c", self._config, "start-fg"]

    def start(self) -> None:
        """Start it, and wait until it listens."""
        # After a SIGKILL this file is left; Postfix would look for the process that it names.
        (self.folder / "spool/pid/master.pid").unlink(missing_ok=True)
        super().start()

    def _hasQueue(self) -> bool:
        queues = [self.folder / "spool" / name for name in ("maildrop", "incoming", "active", "deferred")]
        # A message that is complete may be executed, by this convention of Postfix.
        return any(modeOf(file) & stat.S_IXUSR for queue in queues for file in queue.rglob("[0-9A-F]*"))


_VIRTUAL = "virtual unix - n n - - virtual\n"


def _inline(entries: dict[str, str]) -> str:
    return f"inline:{{ {', '.join(f'{{ {key} = {value} }}' for key, value in entries.items())} }}"
