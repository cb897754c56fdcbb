"""
Syntax: octets and text to values, and nothing but values.

The wire cuts octets into command lines and message octets; the grammar reads the argument of a command; the header of
a proxy and the attributes of XCLIENT and XFORWARD say who the client is.
These modules know no session, no options and no Twisted.
"""
