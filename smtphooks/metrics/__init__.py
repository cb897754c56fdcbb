"""
Metrics: what a server does, counted for Prometheus.

It needs the extra C{metrics}.  A factory without metrics knows nothing of this folder, and pays nothing for it.
It knows no configuration.
"""
