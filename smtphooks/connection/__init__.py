"""
One connection: what it waits for, the hooks that it asks, the message that it receives, what it writes, and its time.

These modules join the wire, the dialogue and the transport of Twisted.  What a command means is the dialogue's to say,
how many connections there are is the factory's.
"""
