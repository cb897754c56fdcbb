"""
TLS: certificates and keys, OpenSSL's contexts made of them, what a peer showed in a handshake, and why one failed.

These modules know options and sessions as values; they know no command and no connection beyond pyOpenSSL's.
"""
