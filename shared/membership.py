"""Membership of a namespace in a mesh: one rule for every service, command and manifest. Pure.

A namespace is a member if its label `openservicemesh.io/monitored-by` names the mesh and it does not carry the label
`openservicemesh.io/ignore`, whatever the value of that one. A namespace that is being deleted stays a member until it
is gone: its pods still run. The mesh's own namespace is no member; its services are known by their accounts.

The labels are read nowhere else (`tests/unit/shared/test_membership.py` searches for them), so that no two parts can
disagree. `match_expressions` is the rule in the form in which the API server applies it for the injector's webhook.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.projected_objects import LABEL_IGNORE, LABEL_MONITORED_BY


def is_ignored(labels: Mapping[str, str]) -> bool:
    """Whether a namespace with these labels is kept out of every mesh."""
    return LABEL_IGNORE in labels


def named_mesh(labels: Mapping[str, str]) -> str | None:
    """Return the mesh that the labels of a namespace name, also if it is ignored; None if they name none."""
    return labels.get(LABEL_MONITORED_BY)


def mesh_of(labels: Mapping[str, str]) -> str | None:
    """Return the mesh that a namespace with these labels is a member of; None if it is a member of none."""
    return None if is_ignored(labels) else named_mesh(labels)


def is_member(labels: Mapping[str, str], *, mesh_name: str) -> bool:
    """Whether a namespace with these labels is a member of the mesh."""
    return mesh_of(labels) == mesh_name


def match_expressions(mesh_name: str) -> list[dict[str, Any]]:
    """Return `is_member` as the `matchExpressions` of a Kubernetes label selector."""
    return [
        {"key": LABEL_MONITORED_BY, "operator": "In", "values": [mesh_name]},
        {"key": LABEL_IGNORE, "operator": "DoesNotExist"},
    ]


def naming_selector(mesh_name: str = "") -> str:
    """Return the label selector of namespaces that name the mesh, ignored ones too; an empty name selects any mesh."""
    return f"{LABEL_MONITORED_BY}={mesh_name}" if mesh_name else LABEL_MONITORED_BY
