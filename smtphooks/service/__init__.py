"""
The service: what C{smtphooks} and C{twistd smtphooks} run, its configuration file, its log and its reports to systemd.

A file is read (C{reading}) and checked (C{checking}, with C{loading} and C{checkers}), its effective form printed
(C{effective}, C{toml}); the flags (C{tap}) start the listeners (C{listeners}), each of which is an L{SMTPService
<smtphooks.service.service.SMTPService>}.
These modules make factories and listen with them; they know nothing of the dialogue.
"""
