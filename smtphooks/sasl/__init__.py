"""
SASL: the mechanisms of AUTH (RFC 4422), what they ask C{onAuth}, and who may ask how often.

A mechanism turns challenges and responses into an attempt to authenticate; a hook or a Portal of C{twisted.cred}
decides on it.
These modules know no command, no reply to one and no connection.
"""
