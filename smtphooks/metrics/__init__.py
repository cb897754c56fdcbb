"""
Metrics: what a server does, counted for Prometheus.

It needs the extra C{metrics}.  A factory without metrics knows nothing of this folder, and pays nothing for it.
This folder knows no configuration.
"""

from smtphooks.metrics.metrics import Metrics

__all__ = ["Metrics"]
