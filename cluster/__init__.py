"""Three receivers behind HAProxy, C{make cluster}: machines are lost under load, and what had a 250 must be there."""
