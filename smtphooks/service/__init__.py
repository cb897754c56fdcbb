"""
The service: C{twistd smtphooks}, its configuration file, and what a service manager is told.

These modules make factories and listen with them; they know nothing of the dialogue.
"""
