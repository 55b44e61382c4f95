"""The compiled result: which class holds which resource under which name, kept as the queries' answers change.

Three ripples, each only as wide as its change: pods → classes, classes → views (resources by reference), resources →
bytes. What was touched since the last published commit is remembered, so that the difference costs no more.
"""

from __future__ import annotations

import msgspec

from services.compiler.derive.budgets.fit import FOREIGN, Item
from services.compiler.derive.classes import ProxyEntry, WorkloadClass, proxy
from services.compiler.derive.membership import members
from services.compiler.derive.policy.reachable_services import left_out
from services.compiler.derive.policy.route_groups import Problem
from services.compiler.derive.proxyless import left_out as proxyless_left_out
from services.compiler.engine import QueryNode
from services.compiler.ir import Rendered
from services.compiler.mesh_state import MeshState
from services.compiler.time_slices import Steps
from services.compiler.views.sidecar import Ref
from services.compiler.views.view_refs import FACTORIES, ViewRefs, view
from shared.policy.object_name import ObjectName
from shared.records.snapshot import Cause, Proxy, ResourceId, proxy_key

Names = dict[str, dict[str, str]]
"""Type URL → name → hash."""


class PendingChanges(msgspec.Struct):
    """What may differ from the last published commit."""

    classes: dict[str, set[tuple[str, str]] | None] = msgspec.field(
        default_factory=dict[str, set[tuple[str, str]] | None]
    )
    """Class → (type URL, name) of what its view may hold otherwise; none: anything."""
    proxies: set[str] = msgspec.field(default_factory=set[str])
    bodies: set[ResourceId] = msgspec.field(default_factory=set[ResourceId])

    def name(self, workload_class: str, found: Rendered) -> None:
        """A class may hold something else, or nothing, under the name of this resource."""
        names = self.classes.setdefault(workload_class, set())
        if names is not None:
            names.add((found.type_url, found.name))


class CompiledResult:
    """The compiled result of one mesh."""

    def __init__(self, mesh: MeshState) -> None:
        self.mesh = mesh
        self.proxies: dict[str, Proxy] = {}
        """By `shared.records.snapshot.proxy_key`."""
        self.views: dict[str, Names] = {}
        """By id of the class."""
        self.members: list[str] = []
        """Namespaces of the mesh, sorted."""
        self.failures: dict[tuple[str, str], str] = {}
        """What could not be derived, (where, what) → error: a bug of ours. The former result stays."""
        self.touched = PendingChanges()
        self._members = mesh.engine.observe(members, mesh)
        self._pods: dict[ObjectName, QueryNode] = {}
        self._classes: dict[WorkloadClass, set[ObjectName]] = {}
        self._class_of: dict[ObjectName, WorkloadClass] = {}
        self._emptied: set[WorkloadClass] = set()
        """Classes whose last pod went, unless another came."""
        self._view_nodes: dict[WorkloadClass, QueryNode] = {}
        self._refs_of: dict[WorkloadClass, ViewRefs] = {}
        self._holders: dict[Ref, set[str]] = {}
        """By id of the class: it is what views are known by, and costs something to make."""
        self._ref_nodes: dict[Ref, QueryNode] = {}
        self.left_out: dict[QueryNode, dict[Item, Problem]] = {}
        """Objects of other namespaces that exceed the budget of proxies, by the query that found them."""
        self._left_out_nodes: dict[WorkloadClass, QueryNode] = {}
        self._rendered: dict[Ref, Rendered] = {}
        self._refs_of_body: dict[ResourceId, dict[Ref, None]] = {}

    # Which pods there are

    def watch_pod(self, pod: ObjectName) -> None:
        """A pod exists: from now on its proxy, if it has one, is part of the result."""
        if pod not in self._pods:
            self._pods[pod] = self.mesh.engine.observe(proxy, self.mesh, pod)

    def forget_pod(self, pod: ObjectName) -> None:
        """A pod is gone."""
        node = self._pods.pop(pod, None)
        if node is not None:
            self.mesh.engine.release(node)
            self._move(pod, None)

    # Refreshing

    def refreshing(self) -> Steps[None]:
        """Bring everything up to date with the inputs, in steps."""
        engine = self.mesh.engine
        for node in engine.refresh(members):
            self.members = list(node.value)
        for node in (yield from engine.refreshing(proxy)):
            if not self._failed(node):
                self._move(node.arguments[0], node.value)
        yield from self._refresh_views()
        for query in (left_out, proxyless_left_out):
            for node in (yield from engine.refreshing(query)):
                if not self._failed(node):
                    self._leave_out(node)
        for factory in FACTORIES:
            for node in (yield from engine.refreshing(factory)):
                if not self._failed(node):
                    self._change_bytes(Ref(factory, node.arguments), node.value)
        engine.forget_unused()

    def _refresh_views(self) -> Steps[None]:
        engine = self.mesh.engine
        gone = sorted((one for one in self._emptied if not self._classes[one]), key=lambda one: one.id)
        self._emptied.clear()
        for node in (yield from engine.refreshing(view)):
            # A class whose last pod has just gone is dropped below: its view is not needed.
            if self._classes.get(node.arguments[0]) and not self._failed(node):
                self._change_view(node.arguments[0], node.value)
                yield
        for workload_class in gone:
            self._drop_class(workload_class)

    def _leave_out(self, node: QueryNode) -> None:
        foreign = {item: problem for item, problem in node.value.items() if problem[0] == FOREIGN}
        if foreign and node.observers:
            self.left_out[node] = foreign
        else:
            self.left_out.pop(node, None)

    def _failed(self, node: QueryNode) -> bool:
        key = (node.query.name, str(node.arguments))
        if node.error is None:
            self.failures.pop(key, None)
            return False
        self.failures[key] = f"{type(node.error).__name__}: {node.error}"
        return True

    def _move(self, pod: ObjectName, entry: ProxyEntry | None) -> None:
        """A pod's proxy came, went, or changed its class."""
        cluster = self.mesh.settings.cluster
        key = proxy_key(cluster, pod.namespace, pod.name)
        before = self._class_of.pop(pod, None)
        if before is not None:
            self._classes[before].discard(pod)
            if not self._classes[before]:
                self._emptied.add(before)
        if entry is None:
            if self.proxies.pop(key, None) is not None:
                self.touched.proxies.add(key)
            return
        after = entry.workload_class
        self._class_of[pod] = after
        if after not in self._classes:
            self._classes[after] = set()
            self._view_nodes[after] = self.mesh.engine.observe(view, self.mesh, after)
            if after.account is not None:
                asked = proxyless_left_out if after.proxyless else left_out
                self._left_out_nodes[after] = self.mesh.engine.observe(asked, self.mesh, after.account)
        self._classes[after].add(pod)
        self.proxies[key] = Proxy(
            cluster=cluster,
            namespace=pod.namespace,
            pod=pod.name,
            uid=entry.uid,
            service_account=entry.account.name,
            workload_class=after.id,
            addresses=entry.addresses,
        )
        self.touched.proxies.add(key)

    def _change_view(self, workload_class: WorkloadClass, now: ViewRefs) -> None:
        before = self._refs_of.get(workload_class)
        old = {*before.outbound, *before.own} if before else set[Ref]()
        new = {*now.outbound, *now.own}
        identity = workload_class.id
        names = self.views.setdefault(identity, {})
        self.touched.classes.setdefault(identity, set())
        for ref in old - new:
            self._let_go(ref, identity, names)
        for ref in new - old:
            holders = self._holders.setdefault(ref, set())
            holders.add(identity)
            if ref not in self._ref_nodes:
                self._ref_nodes[ref] = self.mesh.engine.observe(ref.factory, self.mesh, *ref.arguments)
            found = self._rendered.get(ref)
            if found is not None:
                names.setdefault(found.type_url, {})[found.name] = found.hash
                self.touched.name(identity, found)
        self._refs_of[workload_class] = now

    def _let_go(self, ref: Ref, workload_class: str, names: Names | None) -> None:
        found = self._rendered.get(ref)
        if found is not None and names is not None:
            names[found.type_url].pop(found.name, None)
            self.touched.name(workload_class, found)
        holders = self._holders[ref]
        holders.discard(workload_class)
        if not holders:
            del self._holders[ref]
            self.mesh.engine.release(self._ref_nodes.pop(ref))
            if found is not None:
                del self._rendered[ref]
                self._forget_body(ref, found)

    def _drop_class(self, workload_class: WorkloadClass) -> None:
        del self._classes[workload_class]
        self.mesh.engine.release(self._view_nodes.pop(workload_class))
        asking = self._left_out_nodes.pop(workload_class, None)
        if asking is not None:
            self.mesh.engine.release(asking)
            if not asking.observers:
                self.left_out.pop(asking, None)
        held, identity = self._refs_of.pop(workload_class, None), workload_class.id
        for ref in {*held.outbound, *held.own} if held else set[Ref]():
            self._let_go(ref, identity, None)
        self.views.pop(identity, None)
        self.touched.classes[identity] = None

    def _change_bytes(self, ref: Ref, now: Rendered) -> None:
        holders = self._holders.get(ref)
        if holders is None:
            return
        before = self._rendered.get(ref)
        self._rendered[ref] = now
        if before is not None:
            self._forget_body(ref, before)
        identity = (now.type_url, now.name, now.hash)
        self._refs_of_body.setdefault(identity, {})[ref] = None
        self.touched.bodies.add(identity)
        for workload_class in holders:
            names = self.views[workload_class]
            if before is not None and before.name != now.name:
                names[before.type_url].pop(before.name, None)
                self.touched.name(workload_class, before)
            names.setdefault(now.type_url, {})[now.name] = now.hash
            self.touched.name(workload_class, now)

    def _forget_body(self, ref: Ref, found: Rendered) -> None:
        identity = (found.type_url, found.name, found.hash)
        refs = self._refs_of_body[identity]
        refs.pop(ref, None)
        if not refs:
            del self._refs_of_body[identity]
        self.touched.bodies.add(identity)

    # Reading

    def body(self, identity: ResourceId) -> bytes | None:
        """The bytes of a resource, if some view holds it."""
        refs = self._refs_of_body.get(identity)
        return self._rendered[next(iter(refs))].body if refs else None

    def bodies(self) -> set[ResourceId]:
        """Every resource that some view holds."""
        return set(self._refs_of_body)

    def made_by(self, identity: ResourceId) -> str:
        """The query that made a resource, with its arguments; empty if no view holds it."""
        refs = self._refs_of_body.get(identity)
        ref = next(iter(refs)) if refs else None
        return "" if ref is None else f"{ref.factory.name}({', '.join(map(str, ref.arguments))})"

    def causes(self, identity: ResourceId) -> list[Cause]:
        """The events that the bytes of a resource were made from, sorted."""
        found: set[Cause] = set()
        for ref in self._refs_of_body.get(identity, ()):
            found |= self.mesh.engine.provenance(self._ref_nodes[ref])
            # What a class is made of is in its proxies: a port is open because of a service, for example.
            if ref.arguments and isinstance(ref.arguments[0], WorkloadClass):
                pods = self._classes.get(ref.arguments[0])
                if pods:
                    found |= self.mesh.engine.provenance(self._pods[min(pods)])
        return sorted(found)
