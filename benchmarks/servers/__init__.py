"""
Servers that accept every message and drop it, one for each peer, started with C{PORT MODE FOLDER [VARIANT]}.

C{MODE} is C{smtp} or C{lmtp}; C{FOLDER} has C{key.pem} and C{cert.pem}.  A server that has callbacks has one that
accepts a recipient and one that gets the whole message.  None looks up names; with AUTH, every user may log in.  Only
smtphooks' service logs.
"""
