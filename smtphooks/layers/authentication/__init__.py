"""
Authentication of senders: what the layer C{SenderAuthentication} is made of.

C{questions} runs pure functions until the DNS has answered all they ask; C{spf}, C{dkimcheck}, C{arccheck} and C{dmarc}
are such functions, C{messagescan} and C{bodyhash} read the message for them, and C{authenticationresults} writes down
what they found.  Nothing here knows a connection or a hook.
"""
