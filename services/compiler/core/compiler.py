"""The compiler: events in, commits out. Pure; `services.compiler.log.publisher` gives it the log.

The three steps of DESIGN are modules: `reduce` folds an event into the state, `derive` answers queries over it,
`render` makes bytes. This class only holds them together and keeps what belongs to the next commit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from services.compiler.core.commit import CommitMetadata, difference, everything
from services.compiler.core.pin_filter import PinFilter
from services.compiler.core.result import CompiledResult
from services.compiler.derive.membership import is_member
from services.compiler.derive.policy.problems import (
    Problem,
    binding_problems,
    config_problems,
    group_problems,
    namespace_problems,
    service_problems,
    split_problems,
    target_problems,
    udp_problems,
)
from services.compiler.derive.policy.route_groups import judging
from services.compiler.engine import Query, QueryNode
from services.compiler.mesh_state import MeshSettings, MeshState
from services.compiler.reduce import reduce
from services.compiler.time_slices import Steps, finished
from shared.build import VERSION
from shared.names import MESH_CONFIG
from shared.policy.object_name import ObjectName
from shared.projected_objects import ANNOTATION_ESCAPED_SLASHES, ANNOTATION_FORWARDERS, ANNOTATION_PERMISSIVE
from shared.records.events import APPLIED, Event, ObjectKey
from shared.records.snapshot import Cause, Commit, Quarantined, Snapshot

_PROBLEMS: dict[str, Query[MeshState, ..., tuple[Problem, ...]]] = {
    "TrafficTarget": target_problems,
    "TrafficSplit": split_problems,
    "HTTPRouteGroup": group_problems,
    "IdentityBinding": binding_problems,
    "UDPRoute": udp_problems,
    "Service": service_problems,
    "Namespace": namespace_problems,
    "MeshConfig": config_problems,
}

_READ_ANNOTATIONS = frozenset({ANNOTATION_PERMISSIVE, ANNOTATION_ESCAPED_SLASHES, ANNOTATION_FORWARDERS})
"""Annotations of a Namespace that may be wrong."""

MAX_CAUSES = 1000
"""Events that a commit names; a commit after a long outage or a first start names only the newest."""


class Compiler:
    """Compiles the events of one cluster."""

    def __init__(
        self,
        settings: MeshSettings,
        *,
        build: str = VERSION,
        serves: Callable[[ObjectName], bool] = lambda _: True,
        recording: bool = True,
    ) -> None:
        """`serves` selects the pods whose proxies are compiled; `recording` adds the causes to each resource.

        A question about a few proxies needs neither the other proxies nor the causes.
        """
        self._serves = serves
        self._recording = recording
        self.settings = settings
        self.build = build
        self.version = 0
        """Sequence of the last event folded."""
        self.epoch = ""
        self._mesh = MeshState(settings)
        self._derived = CompiledResult(self._mesh)
        self._unjudged: set[str] = set()
        """Namespaces of which route groups have changed."""
        self._problem_nodes: dict[ObjectKey, QueryNode] = {}
        self._problems: dict[ObjectKey, tuple[Problem, ...]] = {}
        self._pinning = PinFilter()
        self._causes: deque[Cause] = deque(maxlen=MAX_CAUSES)
        self._traceparents: deque[tuple[int, str]] = deque(maxlen=MAX_CAUSES)
        self._knows_touched = False

    @property
    def runs(self) -> int:
        """How many queries have run: what tests and benchmarks count."""
        return self._mesh.engine.runs

    @property
    def answers(self) -> int:
        """How many answers of queries are kept."""
        return len(self._mesh.engine)

    @property
    def failures(self) -> dict[tuple[str, str], str]:
        """Queries that failed by a bug of ours, and how; their former results stay."""
        return self._derived.failures

    @property
    def pinned(self) -> bool:
        """Whether a pin holds newer policy back."""
        return self._pinning.in_force

    @property
    def lacks_mesh_config(self) -> bool:
        """Whether the mesh has no MeshConfig, so that the defaults are in force."""
        return self._mesh.mesh_configs.peek(ObjectName(self.settings.namespace, MESH_CONFIG)) is None

    @property
    def oldest_traceparent(self) -> str:
        """Trace context of the oldest event that is in no commit yet: the next compile is part of its trace."""
        return self._traceparents[0][1] if self._traceparents else ""

    def fold(self, event: Event, sequence: int, *, epoch: str = "", traceparent: str = "") -> None:
        """Take the next event. Fold whole atomic batches before `commit`."""
        self.version = sequence
        self.epoch = epoch or self.epoch
        self._causes.append(
            Cause(key=event.key, uid=event.uid, resource_version=event.resource_version, sequence=sequence)
        )
        if traceparent:
            self._traceparents.append((sequence, traceparent))
        for item, at in self._pinning.steps(event, sequence):
            self._fold(item, at)

    def _fold(self, event: Event, sequence: int) -> None:
        reduce(self._mesh, event, sequence)
        if event.kind == "HTTPRouteGroup":
            self._unjudged.add(event.namespace)
        exists = event.operation == APPLIED
        if event.kind == "Pod":
            pod = ObjectName(event.namespace, event.name)
            if exists and self._serves(pod):
                self._derived.watch_pod(pod)
            else:
                self._derived.forget_pod(pod)
        elif event.kind in _PROBLEMS:
            self._watch_policy(event.key, exists=exists and self._may_have_problems(event.key))

    def _may_have_problems(self, key: ObjectKey) -> bool:
        """Most Namespaces can have none."""
        if key.kind == "Namespace":
            namespace = self._mesh.namespaces.peek(key.name)
            return namespace is not None and not _READ_ANNOTATIONS.isdisjoint(namespace.metadata.annotations)
        return True

    def _watch_policy(self, key: ObjectKey, *, exists: bool) -> None:
        node = self._problem_nodes.get(key)
        if exists and node is None:
            query = _PROBLEMS[key.kind]
            self._problem_nodes[key] = self._mesh.engine.observe(query, self._mesh, ObjectName(key.namespace, key.name))
        elif not exists and node is not None:
            self._mesh.engine.release(self._problem_nodes.pop(key))
            self._problems.pop(key, None)

    def _judge(self) -> Steps[None]:
        """Bring up to date what is wrong with objects, in steps."""
        for namespace in sorted(self._unjudged):
            yield from judging(self._mesh, namespace)
        self._unjudged.clear()
        for kind, query in _PROBLEMS.items():
            for node in (yield from self._mesh.engine.refreshing(query)):
                name: ObjectName = node.arguments[0]
                key = ObjectKey(self.settings.cluster, kind, name.namespace, name.name)
                problems = node.value if node.error is None else (("compiler/failed", str(node.error)),)
                if problems and key in self._problem_nodes:
                    self._problems[key] = problems
                else:
                    self._problems.pop(key, None)

    def _quarantine(self) -> list[Quarantined]:
        found = [rejected for key, rejected in self._mesh.rejected.items() if self._is_told(key)]
        found.extend(
            Quarantined(key=key, code=code, sentence=sentence)
            for key, problems in self._problems.items()
            for code, sentence in problems
        )
        found.extend(self._foreign())
        for (query_name, arguments), error in self._derived.failures.items():
            key = ObjectKey(self.settings.cluster, query_name, "", arguments)
            found.append(Quarantined(key=key, code="compiler/failed", sentence=error))
        if self._pinning.rejected is not None:
            found.append(self._pinning.rejected)
        return sorted(found)

    def _is_told(self, key: ObjectKey) -> bool:
        """Whether an object that is left out is the mesh's business."""
        home = key.name if key.kind == "Namespace" else key.namespace
        return not home or home == self.settings.namespace or is_member(self._mesh, home)

    def _foreign(self) -> Iterable[Quarantined]:
        """What does not fit into proxies of other namespaces: each object once for each of these namespaces."""
        cluster = self.settings.cluster
        return {
            Quarantined(key=ObjectKey(cluster, kind, name.namespace, name.name), code=code, sentence=sentence)
            for left_out in self._derived.left_out.values()
            for (kind, name), (code, sentence) in left_out.items()
        }

    def result(self) -> CompiledResult:
        """The compiled result of the events folded so far, for readers that do not commit. Read only."""
        finished(self.warming())
        return self._derived

    def commit(self, published: Snapshot, *, always: bool = False) -> Commit | None:
        """What leads from the published snapshot to the events folded so far; none if nothing differs, but `always`.

        Call `accept` once it stands in the log, or `doubt` if the published snapshot was read anew.
        """
        return finished(self.committing(published, always=always))

    def committing(self, published: Snapshot, *, always: bool = False) -> Steps[Commit | None]:
        """`commit` in steps. Fold nothing before the last of them."""
        yield from self._judge()
        yield from self._derived.refreshing()
        quarantine = self._quarantine()
        touched = self._derived.touched if self._knows_touched else everything(self._derived, published)
        stamp = CommitMetadata(
            version=self.version,
            epoch=self.epoch,
            build=self.build,
            causes=tuple(cause for cause in self._causes if cause.sequence > published.version),
            traceparents=tuple(dict.fromkeys(text for at, text in self._traceparents if at > published.version)),
        )
        recording = self._recording
        return (
            yield from difference(
                self._derived, quarantine, published, touched, stamp, recording=recording, always=always
            )
        )

    def warming(self) -> Steps[None]:
        """Bring every answer up to date without saying what changed, in steps: what a standby does with its time."""
        yield from self._derived.refreshing()

    def accept(self) -> None:
        """The last commit stands in the log (or there was nothing to commit): the next one starts from there."""
        self._derived.touched = type(self._derived.touched)()
        self._causes.clear()
        self._traceparents.clear()
        self._knows_touched = True

    def doubt(self) -> None:
        """The published snapshot is another than we thought: compare everything at the next commit."""
        self._knows_touched = False
