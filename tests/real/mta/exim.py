"""
Exim as a server, unpacked by C{.ci/unpack-mtas}.

Debian's one insists on a user that only these processes see.  This module knows no test.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.real.mta.contained import DOMAIN, HOST, MAX_SIZE, Server, unpacked

_PROGRAM = "usr/sbin/exim4"


class Exim(Server):
    """
    Takes mail for DOMAIN and for C{here.example}, where the senders of its notifications are.

    One file holds all recipients of a message.  It offers SMTPUTF8, CHUNKING, DSN, and AUTH PLAIN, LOGIN and CRAM-MD5.
    """

    programs = (_PROGRAM,)
    _accounts = {"Debian-exim": 941}
    _storer = "Debian-exim"

    def __init__(self, users: Mapping[str, str] | None = None, **more: object) -> None:
        """
        @param users: passwords of those who may authenticate.
        @param more: further settings of its main section.
        """
        self._more = {"smtp_accept_max": 500, **more}
        super().__init__(users)

    def _prepare(self) -> None:
        self._ownMaildir()
        for name in ("spool", "log"):
            (self.folder / name).mkdir()
            self._own(self.folder / name)
        self._own(self.folder / "server.key")
        (self.folder / "users").write_text("".join(f"{name}: {password}\n" for name, password in self.users.items()))
        values = {"program": _program(), "folder": self.folder, "port": self.port, "tlsPort": self.tlsPort}
        text = _CONFIG.format(**values, host=HOST, domain=DOMAIN, size=MAX_SIZE)
        more = "".join(f"{name} = {value}\n" for name, value in self._more.items())
        (self.folder / "exim.conf").write_text(more + text + (_AUTHENTICATORS % {"folder": self.folder}))

    def _command(self) -> list[object]:
        # -q: what is in the queue after a kill is delivered at once.
        return [_program(), "-C", self.folder / "exim.conf", "-bdf", "-q10s"]

    def _hasQueue(self) -> bool:
        return any((self.folder / "spool/input").rglob("*-H"))

    def _logged(self) -> str:
        return "".join(file.read_text(errors="replace") for file in sorted((self.folder / "log").glob("*log")))


def _program() -> Path:
    folder = unpacked()
    assert folder is not None
    return folder / _PROGRAM


# It gives up its privileges before it delivers, because a server that is not at its own path never has them again.
_CONFIG = """\
exim_path = {program}
keep_environment = LD_LIBRARY_PATH : PATH
primary_hostname = {host}
spool_directory = {folder}/spool
log_file_path = {folder}/log/%slog
pid_file_path = {folder}/spool/exim.pid
log_selector = +smtp_protocol_error +smtp_syntax_error +received_recipients +tls_sni
deliver_drop_privilege
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port} : {tlsPort}
tls_on_connect_ports = {tlsPort}
tls_advertise_hosts = *
tls_certificate = {folder}/server.pem
tls_privatekey = {folder}/server.key
auth_advertise_hosts = *
dsn_advertise_hosts = *
host_lookup =
message_size_limit = {size}
check_spool_space = 0
check_log_space = 0
smtp_accept_queue_per_connection = 0
smtp_max_synprot_errors = 1000
smtp_accept_max_nonmail = 1000
bounce_return_size_limit = 10K
acl_smtp_rcpt = rcpt
acl_smtp_data = accept
domainlist here = {domain} : here.example

begin acl

rcpt:
  deny local_parts = nobody
       message = 550 5.1.1 No such user here
  defer local_parts = later
       message = 450 4.2.0 Try again later
  accept domains = +here
  deny message = 550 5.7.1 Relaying denied

begin routers

store:
  driver = accept
  domains = +here
  transport = store

begin transports

store:
  driver = appendfile
  maildir_format
  directory = {folder}/maildir
  create_directory = false
  return_path_add
  envelope_to_add
  message_prefix =
  message_suffix =
  batch_max = 1000

begin retry

* * F,1h,10s

"""

_AUTHENTICATORS = """\
begin authenticators

plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${if eq{$auth3}{${lookup{$auth2}lsearch{%(folder)s/users}{$value}fail}}}
  server_set_id = $auth2

login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = <| Username: | Password:
  server_condition = ${if eq{$auth2}{${lookup{$auth1}lsearch{%(folder)s/users}{$value}fail}}}
  server_set_id = $auth1

cram:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = ${lookup{$auth1}lsearch{%(folder)s/users}{$value}fail}
  server_set_id = $auth1
"""
