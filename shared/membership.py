"""Who belongs to a mesh, and which MeshConfig is its own: one rule for every service and command. Pure.

A namespace is a member if its label `openservicemesh.io/monitored-by` names the mesh and it does not carry the label
`openservicemesh.io/ignore`, whatever that one's value. One that is being deleted stays a member until it is gone: its
pods still run. The mesh's own namespace is no member, and its services are known by their accounts.
"""

from __future__ import annotations

from collections.abc import Mapping

from shared.model import LABEL_IGNORE, LABEL_MONITORED_BY

MESH_CONFIG = "osm-mesh-config"
"""Name of the MeshConfig that is in force, in the mesh's own namespace."""


def is_member(labels: Mapping[str, str], *, mesh_name: str) -> bool:
    """Whether a namespace with these labels belongs to the mesh."""
    return labels.get(LABEL_MONITORED_BY) == mesh_name and LABEL_IGNORE not in labels
