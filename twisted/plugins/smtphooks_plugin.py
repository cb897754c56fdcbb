"""
Tells twistd that there is a service named smtphooks.

twistd imports this at every start, whichever service it is started for; so what the service needs is imported later.
"""

from twisted.application.service import ServiceMaker

smtphooks = ServiceMaker(
    "smtphooks", "smtphooks.service.tap", "An SMTP and LMTP server decided by lifecycle hooks.", "smtphooks"
)
