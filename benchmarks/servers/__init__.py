"""
Servers that take every message and drop it, one for each peer, started as C{PORT MODE FOLDER [VARIANT]}.

C{MODE} is C{smtp} or C{lmtp}; C{FOLDER} has C{key.pem} and C{cert.pem}.  Each reads the whole message, logs nothing,
looks up no names and takes any user's AUTH PLAIN, so that what is compared is the same work.
"""
