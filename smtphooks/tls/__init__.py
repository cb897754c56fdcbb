"""
TLS: certificates and keys, OpenSSL contexts made of them, what a peer showed in a handshake, and why one failed.

These modules know options and sessions as values.  They know no command, and no connection but pyOpenSSL's.
"""
