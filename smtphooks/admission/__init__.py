"""
Admission: who may come in.

Between the accepted connection and the session: the header of a trusted proxy, the limits on clients, the name of the
client in DNS.
These modules know no command and no message.
"""
