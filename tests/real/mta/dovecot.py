"""
Dovecot as an LMTP server, with the authentication service that a Postfix can use.

This module knows no test.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time

from tests.real.mta.contained import DOMAIN, HOST, LATER, NOBODY, Server

# Accepted by RCPT, and refused for its message: over quota.
FULL = f"full@{DOMAIN}"

_TOKEN_KEY = b"what only the issuer of tokens and Dovecot know"


class Dovecot(Server):
    """
    Takes mail for everybody except NOBODY, LATER and FULL over LMTP, each into a Maildir of its own.

    @ivar saslSocket: the path of the socket of its authentication service, for a PostfixServer.
    """

    programs = ("dovecot", "/usr/lib/dovecot/lmtp")

    def _prepare(self) -> None:
        self._maildir.mkdir()
        self._own(self._maildir)
        self.path = str(self.folder / "lmtp.sock")
        self.saslSocket = str(self.folder / "auth.sock")
        (self.folder / "users").write_text(
            "".join(f"{name}:{{PLAIN}}{word}::::::\n" for name, word in self.users.items())
        )
        place = f"{self._maildir}/full::userdb_quota=maildir:all userdb_quota_rule=*:bytes=10"
        (self.folder / "full").write_text(f"{FULL}::65534:65534::{place}\n")
        (self.folder / "refused").write_text(f"{NOBODY}:::::::\n")
        (self.folder / "later").write_text(f"{LATER}::65534:65534::{self._maildir}/later::userdb_tempfail=later\n")
        keys = self.folder / "keys/default/HS256"
        keys.mkdir(parents=True)
        (keys / "default").write_text(base64.b64encode(_TOKEN_KEY).decode())
        (self.folder / "oauth2.conf").write_text(_OAUTH2.format(folder=self.folder))
        values = {"folder": self.folder, "port": self.port, "tlsPort": self.tlsPort, "storer": self._storer}
        text = _CONFIG.format(**values, host=HOST, maildir=self._maildir)
        (self.folder / "dovecot.conf").write_text(text)

    def _command(self) -> list[object]:
        return ["dovecot", "-F", "-c", self.folder / "dovecot.conf"]

    def token(self, user: str, seconds: float = 3600.0) -> str:
        """A token for XOAUTH2 and OAUTHBEARER, which is valid for this time."""
        now = int(time.time())
        claims = {"iss": "tests", "sub": user, "email": user, "iat": now, "nbf": now, "exp": int(now + seconds)}
        parts = [_base64(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
        signature = hmac.digest(_TOKEN_KEY, ".".join(parts).encode(), hashlib.sha256)
        return ".".join([*parts, _base64(signature)])


def _base64(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).decode().rstrip("=")


_CONFIG = """\
protocols = lmtp
listen = 127.0.0.1
hostname = {host}
base_dir = {folder}/run
state_dir = {folder}/state
log_path = /dev/stderr
info_log_path = /dev/stderr
auth_verbose = yes
auth_failure_delay = 0
ssl = yes
ssl_cert = <{folder}/server.pem
ssl_key = <{folder}/server.key
disable_plaintext_auth = no
login_trusted_networks = 127.0.0.0/8
auth_mechanisms = plain login cram-md5 scram-sha-1 scram-sha-256 xoauth2 oauthbearer
mail_location = maildir:~
mail_fsync = never
first_valid_uid = 1
lmtp_save_to_detail_mailbox = no
lda_mailbox_autocreate = yes
default_vsz_limit = 0

service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {port}
  }}
  inet_listener lmtps {{
    address = 127.0.0.1
    port = {tlsPort}
    ssl = yes
  }}
  unix_listener {folder}/lmtp.sock {{
    mode = 0666
  }}
}}
# Otherwise an address from which wrong passwords come waits longer each time.
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service auth {{
  unix_listener {folder}/auth.sock {{
    mode = 0666
  }}
}}

passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {folder}/users
  mechanisms = plain login cram-md5 scram-sha-1 scram-sha-256
}}
passdb {{
  driver = oauth2
  args = {folder}/oauth2.conf
  mechanisms = xoauth2 oauthbearer
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {folder}/full
  result_success = return-ok
  result_failure = continue
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {folder}/refused
  result_success = return-fail
  result_failure = continue
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {folder}/later
  result_success = return-fail
  result_failure = continue
}}
userdb {{
  driver = static
  args = uid={storer} gid=nogroup home={maildir}/%u allow_all_users=yes
}}
protocol lmtp {{
  mail_plugins = quota
}}
"""

_OAUTH2 = """\
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={folder}/keys/
username_attribute = email
"""
