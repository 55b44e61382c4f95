"""Lists the objects of a cluster that the compiler reads, as the events that an ingestor would write."""

from __future__ import annotations

from cli.kubernetes.api_client import Api
from cli.migrate.inventory import custom, listed
from cli.offline.simulated_cluster import CLUSTER, as_they_are
from shared.records.events import Event

__all__ = ["CLUSTER", "read"]

_KINDS = (("/api/v1", "namespaces"), ("/api/v1", "services"), ("/api/v1", "pods"))
_SLICES = ("/apis/discovery.k8s.io/v1", "endpointslices")
_CUSTOM = {
    "access.smi-spec.io": ("traffictargets", "identitybindings"),
    "specs.smi-spec.io": ("httproutegroups", "tcproutes", "udproutes"),
    "split.smi-spec.io": ("trafficsplits",),
    "config.openservicemesh.io": ("meshconfigs", "meshrootcertificates"),
}


async def read(api: Api) -> list[Event]:
    """List everything, once; a kind that the cluster does not have has no objects. Raises `ApiRefusedError`."""
    found = [one for root, plural in (*_KINDS, _SLICES) for one in await listed(api, root, plural)]
    for group, plurals in _CUSTOM.items():
        found += await custom(api, group, plurals)
    return as_they_are(found)
