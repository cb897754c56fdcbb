"""
Admission: which clients are let in, and under which address and name.

Between the accepted connection and the session: the PROXY header of a trusted proxy, the limits on clients, and the
client's host name in DNS.
These modules know no command and no message.
"""
