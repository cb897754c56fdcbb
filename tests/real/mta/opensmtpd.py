"""
OpenSMTPD as a server, unpacked by C{.ci/unpack-mtas}.

Its paths and users are compiled in: they are mounted where only its own processes see them.  This module knows no test.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.real.mta.contained import DOMAIN, HOST, MAX_SIZE, NOBODY, Server, unpacked
from tests.real.programs import run

_PROGRAM = "usr/sbin/smtpd"


class OpenSMTPD(Server):
    """
    Takes mail for DOMAIN and for C{here.example}.

    It has no PIPELINING, SMTPUTF8 or CHUNKING, cannot put a recipient off, and authenticates over TLS only, by PLAIN
    and LOGIN.  To a message without Date or Message-ID it adds them.
    """

    programs = (_PROGRAM,)
    _accounts = {"opensmtpd": 942, "opensmtpq": 943}

    def _prepare(self) -> None:
        self._ownMaildir()
        (self.folder / "spool").mkdir(mode=0o711)
        passwords = {name: run("openssl", "passwd", "-6", word).stdout.decode() for name, word in self.users.items()}
        (self.folder / "users").write_text("".join(f"{name} {word}" for name, word in passwords.items()))
        values = {"folder": self.folder, "port": self.port, "tlsPort": self.tlsPort, "storer": self._storer}
        text = _CONFIG.format(**values, host=HOST, domain=DOMAIN, size=MAX_SIZE, nobody=NOBODY)
        (self.folder / "smtpd.conf").write_text(text)

    def _mounts(self) -> Iterable[list[object]]:
        folder = unpacked()
        assert folder is not None
        # The machine need not have the folders that OpenSMTPD wants, and must not have its socket in /run.
        for parent in ("/run", "/var/spool", "/var/lib", "/usr/libexec"):
            yield ["mount", "-t", "tmpfs", "-o", "mode=755", "none", parent]
        yield ["mkdir", "-p", "/var/spool/smtpd", "/var/lib/opensmtpd/empty", "/usr/libexec/opensmtpd"]
        yield ["mount", "--bind", self.folder / "spool", "/var/spool/smtpd"]
        yield ["mount", "--bind", folder / "usr/libexec/opensmtpd", "/usr/libexec/opensmtpd"]

    def _hasQueue(self) -> bool:
        return any((self.folder / "spool/queue").glob("*/*"))

    def _command(self) -> list[object]:
        folder = unpacked()
        assert folder is not None
        return [folder / _PROGRAM, "-d", "-f", self.folder / "smtpd.conf"]


_CONFIG = """\
pki {host} cert "{folder}/server.pem"
pki {host} key "{folder}/server.key"
table users file:{folder}/users
table storer {{ "@" = {storer} }}
smtp max-message-size "{size}"
listen on 127.0.0.1 port {port} hostname {host} tls pki {host} auth-optional <users>
listen on 127.0.0.1 port {tlsPort} hostname {host} smtps pki {host} auth-optional <users>
action store maildir "{folder}/maildir" virtual <storer>
match from any for rcpt-to "{nobody}" reject
match from any for domain {{ "{domain}", "here.example" }} action store
"""
