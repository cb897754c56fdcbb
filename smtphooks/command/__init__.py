"""
What the command C{smtphooks} does besides serving: sending a message, and completion in shells.

Each module is one subcommand; C{__main__} chooses it.
They know no hooks and no configuration.
"""
