"""Why a policy object is left out."""

from __future__ import annotations

from shared.errors import MeshlogError


class PolicyError(MeshlogError):
    """The object cannot be compiled. Its code is stable, its sentence contains what to do."""
