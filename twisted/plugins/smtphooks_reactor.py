"""
The plugin by which Twisted's programs find the reactor C{smtphooks}, as in C{twistd --reactor smtphooks}.

Twisted imports this module to list its reactors; so the module of the reactor is imported later, by name.
"""

from twisted.application.reactors import Reactor

smtphooks = Reactor("smtphooks", "smtphooks.reactor", "epoll(7) based reactor, without a logging context for reads.")
