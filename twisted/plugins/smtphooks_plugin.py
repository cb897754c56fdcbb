"""
The plugin by which twistd finds the service C{smtphooks}.

twistd imports this module at every start, for any service; so the modules of the service are imported later, by name.
"""

from twisted.application.service import ServiceMaker

smtphooks = ServiceMaker(
    "smtphooks", "smtphooks.service.tap", "An SMTP and LMTP server decided by lifecycle hooks.", "smtphooks"
)
