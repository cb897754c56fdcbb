"""
A DNS server on loopback, as a process of its own that a test can stop: a list, a key, and two domains with policies.

Beside what is in L{RECORDS} no name exists.
"""

from __future__ import annotations

from twisted.internet import reactor
from twisted.names import dns

from tests.layers.signing import RECORD
from tests.layers.zones import text
from tests.layers.zoneserver import NameServer

LISTED = "9.9.9.9"

RECORDS = {
    "2.0.0.127.zen.example.org": [dns.Record_A("127.0.0.2")],
    "9.9.9.9.zen.example.org": [dns.Record_A("127.0.0.2"), text("https://zen.example.org/why")],
    # The domain of an honest sender, whom others pretend to be.
    "example.com": [text("v=spf1 ip4:192.0.2.1 -all")],
    "test._domainkey.example.com": [text(RECORD)],
    "_dmarc.example.com": [text("v=DMARC1; p=reject")],
}

if __name__ == "__main__":
    print("answering on", NameServer(RECORDS).address, flush=True)
    reactor.run()  # type: ignore[attr-defined]
