"""A histogram: durations fall into buckets, each of which counts those below it too."""

from __future__ import annotations

from smtphooks.metrics.histogram import BOUNDS, Histogram


def test_each_bucket_counts_what_is_not_above_its_edge() -> None:
    histogram = Histogram()
    for seconds in (0.001, 0.002, 60.0, 61.0):
        histogram.observe(seconds)
    buckets = dict(histogram.buckets())
    assert buckets["0.001"] == 1
    assert buckets["0.005"] == 2
    assert buckets["30.0"] == 2
    assert buckets["60.0"] == 3
    assert buckets["+Inf"] == 4
    assert histogram.sum == 121.003


def test_the_edges_rise() -> None:
    assert list(BOUNDS) == sorted(set(BOUNDS))
