"""Advice on each object of an Open Service Mesh installation: carries over, differs, is missing, or must go.

Pure: objects in, advice out. `shared.policy.support_matrix` lists what Meshlog supports. The modules beside this one
model how Open Service Mesh treats an object that it half understands (a rule without matches, a target in the wrong
namespace), because there a migration changes which calls are allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from cli.kubernetes.api_client import Manifest
from cli.migrate import chart, mesh_config, policy, workload_advice
from cli.migrate.context import VERDICTS, Advice, MigrationContext, MigrationFindings, labels_of, namespace_of
from shared.membership import is_member
from shared.policy import support_matrix

_CLUSTER_KINDS = frozenset(
    {"Namespace", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", chart.HELM_VALUES}
)

_RULES: Mapping[str, Callable[[Manifest, MigrationContext], MigrationFindings]] = {
    "Namespace": workload_advice.namespace,
    "Pod": workload_advice.workload,
    "Service": workload_advice.service,
    "Deployment": workload_advice.deployment,
    "StatefulSet": workload_advice.workload,
    "DaemonSet": workload_advice.workload,
    "ReplicaSet": workload_advice.workload,
    "Job": workload_advice.workload,
    "CronJob": workload_advice.workload,
    "MutatingWebhookConfiguration": workload_advice.webhook,
    "ValidatingWebhookConfiguration": workload_advice.webhook,
    "TrafficTarget": policy.traffic_target,
    "HTTPRouteGroup": policy.route_group,
    "TrafficSplit": policy.split,
    "MeshConfig": mesh_config.mesh_config,
    "MeshRootCertificate": workload_advice.root,
    "ConfigMap": mesh_config.preset,
    chart.HELM_VALUES: chart.values,
}


def advise(objects: Sequence[Manifest], mesh_name: str, *, complete: bool = True) -> list[Advice]:
    """Advice on every object that a mesh reads, in the order of `VERDICTS`, then by name.

    `mesh_name` is the mesh to move to: its members have moved already. `complete`: whether these are all objects of a
    cluster, so that a namespace which is not among them does not exist.
    """
    scene = MigrationContext(objects, complete=complete)
    found = [advice for one in objects if not _has_moved(one, mesh_name) for advice in _of(one, scene)]
    return sorted(found, key=lambda one: (VERDICTS.index(one.verdict), one.object))


def _has_moved(one: Manifest, mesh_name: str) -> bool:
    return one["kind"] == "Namespace" and is_member(labels_of(one), mesh_name=mesh_name)


def _of(one: Manifest, scene: MigrationContext) -> Iterator[Advice]:
    rule = _RULES.get(one["kind"])
    title = f"{one['kind']} {_place(one)}"
    if rule is not None:
        found = rule(one, scene)
    elif one["kind"] in support_matrix.KINDS:
        found = mesh_config.by_table(one)
    else:
        return
    for verdict, text, action in found:
        yield Advice(title, verdict, text, action)


def _place(one: Manifest) -> str:
    name = str(one["metadata"]["name"])
    return name if one["kind"] in _CLUSTER_KINDS else f"{namespace_of(one)}/{name}"
