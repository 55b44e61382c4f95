"""Views: which resources each workload class holds.

A view names resources by the query that renders them (`Ref`), not by their bytes: when endpoints change, one
resource is rendered again and no view is. Resources with the same content for every class are one query for all.
"""

from __future__ import annotations

from typing import NamedTuple

from services.compiler.derive.classes import WorkloadClass
from services.compiler.derive.policy.reachable_services import Scope, scope_of
from services.compiler.engine import Query, query
from services.compiler.ir import Rendered
from services.compiler.mesh_state import MeshState
from services.compiler.views import proxyless, sidecar
from services.compiler.views.sidecar import Ref


class ViewRefs(NamedTuple):
    """What a class holds."""

    outbound: tuple[Ref, ...]
    """Shared with every class of the same scope."""
    own: tuple[Ref, ...]


@query
def view(mesh: MeshState, workload_class: WorkloadClass) -> ViewRefs:
    """What a workload class holds."""
    account = workload_class.account
    if workload_class.proxyless and account is not None:
        refs = (Ref(factory, arguments) for factory, arguments in proxyless.resources(mesh, account))
        return ViewRefs(outbound=tuple(refs), own=())
    if account is None:
        scope = Scope(None, workload_class.namespaces, workload_class.dual)
    else:
        scope = scope_of(mesh, account, workload_class.dual)
    return ViewRefs(outbound=sidecar.outbound_refs(mesh, scope), own=sidecar.own_refs(mesh, workload_class))


FACTORIES: tuple[Query[MeshState, ..., Rendered], ...] = (*sidecar.FACTORIES, *proxyless.FACTORIES)
"""Every query that renders a resource."""
