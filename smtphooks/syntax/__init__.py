"""
Syntax: octets and text in, values out.

The wire cuts octets into command lines and message octets; the grammar parses the argument of a command; the PROXY
header and the attributes of XCLIENT and XFORWARD carry a proxy's information about its client; a list of networks says
which peers may send them.
These modules know no session, no options and no Twisted.
"""
