"""Sample hooks for smtphooks.toml: mail for some domains goes into a Maildir, all other is refused."""

from smtphooks import SMTPError
from smtphooks.stores import Maildir


class Mail(Maildir):
    """What [hooks-options] holds, it is made with."""

    def __init__(self, path, domains):
        super().__init__(path)
        self._domains = {domain.lower() for domain in domains}

    def onRcptTo(self, address, session):
        if address.domain.lower() not in self._domains:
            raise SMTPError("We take no mail for that domain", responseCode=550)
