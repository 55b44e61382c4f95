"""Metrics and remarks of a CA: what an operator reads of a rotation, of broken roots, and of a missing webhook."""

from __future__ import annotations

from shared.records.subjects import Streams
from shared.streams.memory import MemoryLogs
from shared.telemetry.metrics import Metrics
from tests.unit.ca.fake_kubernetes import FakeKubernetes
from tests.unit.ca.running import certificate_authority, tasks, wanted_event
from tests.unit.identity.cluster import Cluster, write
from tests.waiting import eventually

STREAMS = Streams()


async def test_remarks_and_gauges_name_a_broken_root_and_a_missing_webhook() -> None:
    logs, cluster, remarks, metrics = MemoryLogs(), Cluster(), dict[str, str](), Metrics()
    events = logs.stream(STREAMS.events)
    await write(events, [event for event in cluster.bookstore() if "xds-edge" not in event.name])
    await write(events, [wanted_event(cluster, "default", "cluster.local", "active")])
    await write(events, [wanted_event(cluster, "root-2", "cluster.local", "passive", "vault")])
    async with certificate_authority(logs, kube=FakeKubernetes()) as app, tasks(app.health.report(remarks.__setitem__)):
        app.health.expose(metrics)
        await eventually(lambda: remarks.get("webhook") and remarks.get("rotation"), within=10, what="the remarks")
        text = metrics.render()
        metrics.close()
    assert remarks["webhook"].endswith("is not there: new pods get no sidecar")
    assert "root root-2 cannot be used: " in remarks["rotation"]
    assert remarks["trust-bundle"] == ""
    for line in ("broken_roots 1", "webhook_missing 1", "trusted_roots 1", "log_unwritable 0", "bundles_unwritten 0"):
        assert f"\nmeshlog_ca_{line}" in text
