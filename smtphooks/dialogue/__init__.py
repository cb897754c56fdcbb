"""
The dialogue: the state machine of SMTP and LMTP.

In: a command line, or the answer to what was asked.  Out: a reply, or a question without whose answer the dialogue does
not go on.  A table says when each command is allowed, handlers say what it means, extensions add to both.
These modules know no socket, no Deferred and no Twisted.
"""
