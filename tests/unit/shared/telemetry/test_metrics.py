"""Metrics as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.telemetry.metrics import Metrics


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    made = Metrics()
    yield made
    made.close()


def test_a_counter_shows_its_sum_by_labels(metrics: Metrics) -> None:
    counter = metrics.counter("meshlog_pushes_total", "Pushes.")
    counter.add(kind="eds")
    counter.add(2, kind="eds")
    counter.add(kind='od"d\n')
    text = metrics.render()
    assert "# HELP meshlog_pushes_total Pushes.\n# TYPE meshlog_pushes_total counter\n" in text
    assert 'meshlog_pushes_total{kind="eds"} 3\n' in text
    assert 'meshlog_pushes_total{kind="od\\"d\\n"} 1\n' in text
    assert counter.value(kind="eds") == 3


def test_a_counter_that_counted_nothing_is_zero(metrics: Metrics) -> None:
    metrics.counter("meshlog_errors_total", "Errors.")
    assert "meshlog_errors_total 0\n" in metrics.render()


def test_gauges_are_read_when_somebody_asks(metrics: Metrics) -> None:
    value = [1.5]
    metrics.gauge("meshlog_version", "Version.", lambda: value[0])
    metrics.gauge("meshlog_streams", "Streams.", lambda: {(("edge", "a"),): 2, (("edge", "b"),): 3})
    assert "meshlog_version 1.5\n" in metrics.render()
    value[0] = 2
    text = metrics.render()
    assert "meshlog_version 2\n" in text
    assert 'meshlog_streams{edge="a"} 2\nmeshlog_streams{edge="b"} 3\n' in text


def test_a_histogram_counts_up_to_each_boundary(metrics: Metrics) -> None:
    histogram = metrics.histogram("meshlog_compile_seconds", "Compiles.", (0.1, 1.0))
    for seconds in (0.05, 0.5, 7.0):
        histogram.record(seconds, {"kind": "full"})
    text = metrics.render()
    assert 'meshlog_compile_seconds_bucket{kind="full",le="0.1"} 1\n' in text
    assert 'meshlog_compile_seconds_bucket{kind="full",le="1"} 2\n' in text
    assert 'meshlog_compile_seconds_bucket{kind="full",le="+Inf"} 3\n' in text
    assert 'meshlog_compile_seconds_sum{kind="full"} 7.55\n' in text
    assert 'meshlog_compile_seconds_count{kind="full"} 3\n' in text
