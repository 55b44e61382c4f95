"""The MeshConfig of a new mesh."""

from __future__ import annotations

from typing import Any

from deploy.install.profile import Profile
from shared.names import MESH_CONFIG


def mesh_config(profile: Profile, *, permissive: bool) -> dict[str, Any]:
    """The MeshConfig of a new mesh: Open Service Mesh's fields, with what is in force here."""
    return {
        "apiVersion": "config.openservicemesh.io/v1alpha2",
        "kind": "MeshConfig",
        "metadata": {"name": MESH_CONFIG, "namespace": profile.namespace},
        "spec": {
            "sidecar": {"logLevel": "error", "localProxyMode": "Localhost"},
            "traffic": {"enablePermissiveTrafficPolicyMode": permissive},
            "certificate": {"serviceCertValidityDuration": "24h"},
        },
    }
