"""Explains which resources one proxy holds and from which events, without compiling other proxies.

Questions about the past ask of one proxy in a mesh of thousands. Queries run on demand, so only what that proxy needs
is computed; the rest of the state is just inputs.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.compiler.derive.classes import ProxyEntry, WorkloadClass, proxy
from services.compiler.envoy_names import ObjectName
from services.compiler.ir import Rendered
from services.compiler.mesh_state import MeshSettings, MeshState
from services.compiler.reduce import reduce
from services.compiler.views.sidecar import Ref
from services.compiler.views.view_refs import view
from shared.records.events import Event
from shared.records.snapshot import Cause, ResourceId


class ProxyExplanation:
    """A state, and one pod in it."""

    def __init__(self, settings: MeshSettings, pod: ObjectName) -> None:
        self.pod = pod
        self._mesh = MeshState(settings)

    def fold(self, events: Iterable[tuple[Event, int]]) -> None:
        """Take events with their sequences; of policy those that are in force, and no pins."""
        for event, sequence in events:
            reduce(self._mesh, event, sequence)

    def find(self, identity: ResourceId) -> Ref | None:
        """How a resource of the proxy is made, if the proxy holds exactly this one."""
        entry: ProxyEntry | None = proxy(self._mesh, self.pod)
        if entry is None:
            return None
        held = view(self._mesh, entry.workload_class)
        for ref in (*held.outbound, *held.own):
            found: Rendered = ref.factory(self._mesh, *ref.arguments)
            if (found.type_url, found.name, found.hash) == identity:
                return ref
        return None

    def made_from(self, ref: Ref) -> set[Cause]:
        """The events that the bytes of a resource were made from."""
        engine = self._mesh.engine
        found: set[Cause] = engine.explain(ref.factory, self._mesh, *ref.arguments)
        if ref.arguments and isinstance(ref.arguments[0], WorkloadClass):
            found |= engine.explain(proxy, self._mesh, self.pod)
        return found

    def reached_by(self) -> set[Cause]:
        """The events that decide which resources the proxy holds."""
        engine = self._mesh.engine
        found: set[Cause] = engine.explain(proxy, self._mesh, self.pod)
        entry: ProxyEntry | None = proxy(self._mesh, self.pod)
        return found if entry is None else found | engine.explain(view, self._mesh, entry.workload_class)
