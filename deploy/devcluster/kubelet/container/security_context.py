"""Converts a container's `securityContext` to the confinement of its processes. Pure.

Only one user id is mapped, so `runAsUser` has no effect; capabilities are the boundary.
"""

from __future__ import annotations

from collections.abc import Iterable

from deploy.devcluster.cluster_api import Obj
from deploy.devcluster.runtime import DEFAULT_CAPABILITIES, Confinement


def confinement_of(container: Obj) -> Confinement:
    """Default capabilities minus dropped plus added ones; a privileged container has all."""
    context: Obj = container.get("securityContext") or {}
    read_only = bool(context.get("readOnlyRootFilesystem"))
    if context.get("privileged"):
        return Confinement(capabilities=frozenset({"ALL"}), read_only_root=read_only)
    asked: Obj = context.get("capabilities") or {}
    dropped, added = _names(asked.get("drop")), _names(asked.get("add"))
    kept = frozenset[str]() if "ALL" in dropped else DEFAULT_CAPABILITIES - dropped
    return Confinement(capabilities=kept | added, read_only_root=read_only)


def _names(given: Iterable[str] | None) -> frozenset[str]:
    return frozenset(name.upper().removeprefix("CAP_") for name in given or ())
