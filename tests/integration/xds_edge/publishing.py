"""A compiler that publishes what a test gives it."""

from __future__ import annotations

from shared.eventlog.protocol import Logs
from shared.records import chunked_payload
from shared.records.snapshot import (
    FORMAT,
    Commit,
    Proxy,
    Resource,
    ResourceId,
    Snapshot,
    ViewChange,
    encode_commit,
    resource_hash,
)
from tests.integration.xds_edge.names import CLUSTER, STREAMS


class TestCompiler:
    """Publishes whole states as commits: each the difference to the one before."""

    __test__ = False

    def __init__(self, logs: Logs) -> None:
        self._logs = logs
        self.snapshot = Snapshot()
        self.version = 0
        self._alone = False

    async def publish(
        self,
        classes: dict[str, dict[str, dict[str, bytes]]],
        proxies: dict[str, tuple[str, str]],
        *,
        accounts: dict[str, str] | None = None,
    ) -> int:
        """`classes`: class → type → name → body; `proxies`: namespace/pod → (uid, class)."""
        self.version += 1
        resources: dict[ResourceId, Resource] = {}
        views: dict[str, dict[str, dict[str, str]]] = {}
        for name, types in classes.items():
            views[name] = {}
            for type_url, bodies in types.items():
                views[name][type_url] = {}
                for resource, body in bodies.items():
                    digest = resource_hash(type_url, body)
                    views[name][type_url][resource] = digest
                    resources[type_url, resource, digest] = Resource(
                        type_url=type_url, name=resource, hash=digest, body=body
                    )
        entries = {
            f"{CLUSTER}/{pod}": Proxy(
                cluster=CLUSTER,
                namespace=pod.split("/")[0],
                pod=pod.split("/")[1],
                uid=uid,
                service_account=(accounts or {}).get(pod, "default"),
                workload_class=workload_class,
            )
            for pod, (uid, workload_class) in proxies.items()
        }
        commit = self._difference(resources, views, entries)
        self.snapshot.apply(commit)
        await self._append(commit, epoch="commits-1")
        return self.version

    async def publish_alone(
        self, classes: dict[str, dict[str, dict[str, bytes]]], proxies: dict[str, tuple[str, str]]
    ) -> int:
        """The same as a commit with parent 0 that starts an epoch of commits."""
        self.snapshot = Snapshot()
        self._alone = True
        return await self.publish(classes, proxies)

    async def _append(self, commit: Commit, *, epoch: str) -> None:
        log = await self._logs.open(STREAMS.snapshots)
        tip = await log.tip(STREAMS.snapshot_subject)
        starts = self._alone or not tip.epoch
        self._alone = False
        await log.append(
            chunked_payload.split(encode_commit(commit), STREAMS.snapshot_subject, version=self.version),
            scope=STREAMS.snapshot_subject,
            after=tip,
            epoch=f"{epoch}-{self.version}" if starts else "",
        )

    async def keyframe(self) -> None:
        log = await self._logs.open(STREAMS.keyframes)
        tip = await log.tip(STREAMS.keyframe_subject)
        await log.append(
            chunked_payload.split(
                encode_commit(self.snapshot.keyframe()), STREAMS.keyframe_subject, version=self.snapshot.version
            ),
            scope=STREAMS.keyframe_subject,
            after=tip,
            epoch="" if tip.epoch else "keyframes-1",
        )

    def _difference(
        self,
        resources: dict[ResourceId, Resource],
        views: dict[str, dict[str, dict[str, str]]],
        proxies: dict[str, Proxy],
    ) -> Commit:
        held = self.snapshot
        changes: dict[str, ViewChange | None] = {}
        for name in sorted(views.keys() | held.views.keys()):
            if name not in views:
                changes[name] = None
                continue
            before, after = held.views.get(name, {}), views[name]
            put = {
                type_url: {n: d for n, d in names.items() if before.get(type_url, {}).get(n) != d}
                for type_url, names in after.items()
            }
            dropped = {
                type_url: sorted(n for n in names if n not in after.get(type_url, {}))
                for type_url, names in before.items()
            }
            change = ViewChange(
                put={t: n for t, n in put.items() if n}, dropped={t: n for t, n in dropped.items() if n}
            )
            if change.put or change.dropped or name not in held.views:
                changes[name] = change
        entries: dict[str, Proxy | None] = {k: p for k, p in proxies.items() if held.proxies.get(k) != p}
        entries |= dict.fromkeys(held.proxies.keys() - proxies.keys())
        return Commit(
            format=FORMAT,
            version=self.version,
            parent=held.version,
            epoch="events-1",
            build="test",
            resources=[r for key, r in resources.items() if key not in held.resources],
            retired=[key for key in held.resources if key not in resources],
            views=changes,
            proxies=entries,
        )
