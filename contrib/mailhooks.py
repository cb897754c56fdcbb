"""Sample hooks for smtphooks.toml: mail for some domains is stored in a Maildir, all other is rejected."""

from smtphooks import SMTPError
from smtphooks.stores import Maildir


class Mail(Maildir):
    """Made with the keys of [hooks-options]."""

    def __init__(self, path, domains):
        super().__init__(path)
        self._domains = {domain.lower() for domain in domains}

    def onRcptTo(self, address, session):
        if address.domain.lower() not in self._domains:
            raise SMTPError("We take no mail for that domain", responseCode=550)
