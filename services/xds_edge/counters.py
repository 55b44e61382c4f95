"""Counters of the edge. Hot counters are plain integers that `/metrics` reads on request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from shared.telemetry.metrics import Metrics


class EdgeCounters:
    """The counters of one edge."""

    def __init__(self) -> None:
        self.streams = 0
        self.opened = 0
        self.pushes = 0
        self.resources = 0
        self.removals = 0
        self.pushed_bytes = 0
        self.acks = 0
        self.nacks = 0
        self.stale_answers = 0
        self.node_mismatches = 0
        self.address_mismatches = 0
        self.write_timeouts = 0
        self.inconsistencies = 0
        self.refused: Counter[str] = Counter()
        """Streams that the edge refused or ended, by code."""
        self.closed: Counter[str] = Counter()
        """Connections that the edge refused or ended, by reason."""

    def expose(self, metrics: Metrics, *, version: Callable[[], int]) -> None:
        """Expose them under `meshlog_edge_…`."""
        gauge = metrics.gauge
        gauge("meshlog_edge_streams", "Open xDS streams.", lambda: self.streams)
        gauge("meshlog_edge_snapshot_version", "Version of the snapshot that is served.", version)
        for name, description in (
            ("opened", "Streams opened."),
            ("pushes", "Responses sent."),
            ("resources", "Resources sent."),
            ("removals", "Removals sent."),
            ("pushed_bytes", "Bytes of responses sent."),
            ("acks", "Responses accepted by proxies."),
            ("nacks", "Responses refused by proxies."),
            ("stale_answers", "Answers to responses that were not in flight."),
            ("node_mismatches", "Streams whose node id was not that of their token's pod."),
            ("address_mismatches", "Streams that came from another address than their token's pod has."),
            ("write_timeouts", "Streams ended because their proxy did not read."),
            ("inconsistencies", "Inconsistencies found in snapshots, with check_snapshots."),
        ):
            # Counters by nature; read like gauges, because the numbers live in plain attributes.
            gauge(f"meshlog_edge_{name}_total", description, lambda name=name: int(getattr(self, name)))
        gauge(
            "meshlog_edge_refused_streams_total",
            "Streams refused or ended by the edge, by code.",
            lambda: {(("code", code),): float(count) for code, count in self.refused.items()},
        )
        gauge(
            "meshlog_edge_refused_connections_total",
            "Connections refused or ended by the edge, by reason.",
            lambda: {(("reason", reason),): float(count) for reason, count in self.closed.items()},
        )
