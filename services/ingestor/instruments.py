"""Registers the ingestor's metrics of its writer, reflectors and status reports."""

from __future__ import annotations

from collections.abc import Mapping

from services.ingestor.kubernetes.reflector_runner import ReflectorRunner
from services.ingestor.log.event_writer import EventWriter
from services.ingestor.status.condition_reporter import ConditionReporter
from shared.telemetry.metrics import Metrics


def register_metrics(metrics: Metrics, writer: EventWriter, runners: Mapping[str, ReflectorRunner]) -> None:
    """Register the metrics of a writer, and of reflectors by kind."""
    metrics.gauge(
        "meshlog_ingestor_facts",
        "Observations of the cluster by outcome, since the start",
        lambda: {
            (("outcome", name),): float(getattr(writer.counts, name))
            for name in ("received", "written", "unchanged", "older", "spared", "withheld")
        },
    )
    metrics.gauge(
        "meshlog_ingestor_appends",
        "Batches, refusals and epochs since the start",
        lambda: {
            (("outcome", name),): float(getattr(writer.counts, name))
            for name in ("batches", "refused", "abandoned", "epochs", "doubts", "sets", "sets_incomplete")
        },
    )
    metrics.gauge(
        "meshlog_ingestor_log_full",
        "1 while the log takes no more, because a stream or the servers' storage is full: changes wait.",
        lambda: float(writer.full),
    )
    metrics.gauge(
        "meshlog_ingestor_reflector",
        "Lists, watches and failures by kind since the start",
        lambda: {
            (("kind", kind), ("what", name)): float(getattr(runner.reflector.counts, name))
            for kind, runner in runners.items()
            for name in ("lists", "watches", "failures", "gone", "skipped")
        },
    )
    metrics.gauge(
        "meshlog_ingestor_needs_newer_build",
        "1 while the log holds an event of a newer build, and this process writes nothing.",
        lambda: float(bool(writer.newer)),
    )
    metrics.gauge(
        "meshlog_ingestor_unreadable",
        "Objects that could not be read, by kind, since the start",
        lambda: {(("kind", kind),): float(runner.unreadable) for kind, runner in runners.items()},
    )
    metrics.gauge(
        "meshlog_ingestor_withheld",
        "Living objects by kind of which the log has only the closed form: too large, or unreadable",
        lambda: {(("kind", kind),): float(count) for kind, count in writer.index.withheld().items()},
    )
    metrics.gauge(
        "meshlog_ingestor_objects",
        "Living objects in the log by kind",
        lambda: {(("kind", kind),): float(count) for kind, count in writer.index.counts().items()},
    )


def register_report_metrics(metrics: Metrics, reporter: ConditionReporter) -> None:
    """Register the metrics of the reports on policy objects."""
    metrics.gauge(
        "meshlog_ingestor_reports",
        "Statuses written back on policy objects, since the start",
        lambda: {(("outcome", outcome.value),): float(count) for outcome, count in reporter.counts.items()},
    )
    metrics.gauge(
        "meshlog_ingestor_reports_waiting",
        "Policy objects whose status waits to be computed",
        lambda: float(reporter.waiting),
    )
    metrics.gauge(
        "meshlog_ingestor_object_events",
        "Kubernetes events about objects, since the start; dropped: too many at once",
        lambda: {
            (("outcome", "told"),): float(reporter.events.written),
            (("outcome", "dropped"),): float(reporter.events.dropped),
        },
    )
