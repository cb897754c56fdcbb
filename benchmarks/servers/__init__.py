"""
Servers that accept every message and drop it, one for each peer, started with C{PORT MODE FOLDER [VARIANT]}.

C{MODE} is C{smtp} or C{lmtp}; C{FOLDER} has C{key.pem} and C{cert.pem}.  Each reads the whole message, logs nothing,
looks up no names and accepts AUTH PLAIN of any user, so that all do the same work.
"""
