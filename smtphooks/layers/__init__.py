"""
Layers: ready-made hooks objects, each of which decides one thing about clients, recipients or messages.

Each can be used alone or beside others, in C{hooks=[…]} or as a C{[[layer]]} of the configuration; C{RedisCounts} and
C{RedisTriplets} are options of such layers.  They import only what users' own layers can import, and know nothing of
one another.
"""

from smtphooks.layers.clamav import ClamAV
from smtphooks.layers.dnslists import DNSLists
from smtphooks.layers.greylist import Greylist
from smtphooks.layers.ratelimit import RateLimit
from smtphooks.layers.recipients import Recipients
from smtphooks.layers.redis.counts import RedisCounts
from smtphooks.layers.redis.triplets import RedisTriplets
from smtphooks.layers.rspamd import Rspamd
from smtphooks.layers.senderauthentication import SenderAuthentication

__all__ = [
    "ClamAV",
    "DNSLists",
    "Greylist",
    "RateLimit",
    "Recipients",
    "RedisCounts",
    "RedisTriplets",
    "Rspamd",
    "SenderAuthentication",
]
