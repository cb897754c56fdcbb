"""
SASL: the mechanisms of AUTH (RFC 4422), what they ask C{onAuth}, and how often a client may fail.

A mechanism turns challenges and responses into an attempt to authenticate; a hook or a Portal of C{twisted.cred}
decides on it.
These modules know no command and no connection.
"""
