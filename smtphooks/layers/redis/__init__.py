"""
Redis: what layers count and remember, shared by several machines.

Its classes are public in C{smtphooks.layers}; what is in here is imported without the library of the extra, which is
loaded with the first connection.
"""
