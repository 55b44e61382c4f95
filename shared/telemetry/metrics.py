"""Metrics: OpenTelemetry instruments, read as Prometheus text on `/metrics`.

An OpenTelemetry counter costs 6 µs an addition, too much for what happens per push. So counters here are plain
numbers behind observable instruments, read only on request; histograms are OpenTelemetry's own, with
boundaries in seconds. The text exposition is rendered from the SDK's in-memory reader: the Prometheus exporter
package would bring a second registry and its own server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from opentelemetry.metrics import CallbackOptions, Histogram, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    Gauge,
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    NumberDataPoint,
    Sum,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Boundaries for durations, in seconds."""

_KINDS = ((Sum, "counter"), (Gauge, "gauge"), (HistogramData, "histogram"))

Labels = tuple[tuple[str, str], ...]


class Counter:
    """A number that only grows, by labels; adding is a dictionary update."""

    def __init__(self) -> None:
        self._values: dict[Labels, float] = {}

    def add(self, amount: float = 1, **labels: str) -> None:
        """Count `amount` more."""
        key = tuple(sorted(labels.items()))
        self._values[key] = self._values.get(key, 0) + amount

    def value(self, **labels: str) -> float:
        """What was counted under these labels."""
        return self._values.get(tuple(sorted(labels.items())), 0)

    def observe(self, _options: CallbackOptions) -> Iterable[Observation]:
        """What the instrument reads."""
        return [Observation(value, dict(labels)) for labels, value in (self._values or {(): 0}).items()]


class Metrics:
    """The instruments of one process. Names are spelt as Prometheus shows them: `meshlog_…`, with their unit."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider(metric_readers=[self._reader], shutdown_on_exit=False)
        self._meter = self._provider.get_meter("meshlog")

    def counter(self, name: str, description: str) -> Counter:
        """A counter; its name ends in `_total`."""
        counter = Counter()
        self._meter.create_observable_counter(name, [counter.observe], description=description)
        return counter

    def gauge(self, name: str, description: str, read: Callable[[], float | Mapping[Labels, float]]) -> None:
        """Register a number that is read on request, or one for each set of labels."""

        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            value = read()
            if isinstance(value, int | float):
                return [Observation(value)]
            return [Observation(number, dict(labels)) for labels, number in value.items()]

        self._meter.create_observable_gauge(name, [observe], description=description)

    def histogram(self, name: str, description: str, boundaries: Sequence[float] = SECONDS) -> Histogram:
        """A distribution; `record(value, {"label": …})`. For what happens at most some hundred times a second."""
        return self._meter.create_histogram(
            name, description=description, explicit_bucket_boundaries_advisory=list(boundaries)
        )

    def render(self) -> str:
        """All of them in the Prometheus text format 0.0.4."""
        data = self._reader.get_metrics_data()
        if data is None:
            return ""
        lines = [
            line
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for line in _lines(metric)
        ]
        return "\n".join(lines) + "\n" if lines else ""

    def close(self) -> None:
        """Let go of the instruments."""
        self._provider.shutdown()


def _lines(metric: Metric) -> list[str]:
    data = metric.data
    kind = next((name for form, name in _KINDS if isinstance(data, form)), "untyped")
    description = metric.description.replace("\\", r"\\").replace("\n", r"\n") if metric.description else ""
    lines = [f"# HELP {metric.name} {description}", f"# TYPE {metric.name} {kind}"]
    for point in data.data_points:
        labels = {str(key): str(value) for key, value in (point.attributes or {}).items()}
        if isinstance(point, HistogramDataPoint):
            lines += _histogram_lines(metric.name, labels, point)
        elif isinstance(point, NumberDataPoint):
            lines.append(f"{metric.name}{_label_text(labels)} {_number(point.value)}")
    return lines


def _histogram_lines(name: str, labels: dict[str, str], point: HistogramDataPoint) -> list[str]:
    lines: list[str] = []
    seen = 0
    for boundary, count in zip((*point.explicit_bounds, float("inf")), point.bucket_counts, strict=True):
        seen += count
        bound = {"le": "+Inf" if boundary == float("inf") else _number(boundary)}
        lines.append(f"{name}_bucket{_label_text(labels | bound)} {seen}")
    lines.append(f"{name}_sum{_label_text(labels)} {_number(point.sum)}")
    lines.append(f"{name}_count{_label_text(labels)} {point.count}")
    return lines


def _label_text(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    escaped = (
        (key, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n"))
        for key, value in sorted(labels.items())
    )
    return "{" + ",".join(f'{key}="{value}"' for key, value in escaped) + "}"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
