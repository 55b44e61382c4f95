"""Whether a pod is for nodes that run Windows, where no sidecar of the mesh runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

_LABELS = ("kubernetes.io/os", "beta.kubernetes.io/os")


def runs_on_windows(spec: Mapping[str, Any]) -> bool:
    """By its `os`, its node selector, its required node affinity, or options that only Windows knows.

    `spec` is that of a pod, as its author wrote it: fields that are not of the types of Kubernetes are ignored.
    """
    system = _mapping(spec.get("os")).get("name")
    if isinstance(system, str) and system:
        return system.lower() == "windows"
    selector = _mapping(spec.get("nodeSelector"))
    if any(selector.get(label) == "windows" for label in _LABELS):
        return True
    affinity = _mapping(_mapping(spec.get("affinity")).get("nodeAffinity"))
    required = _mapping(affinity.get("requiredDuringSchedulingIgnoredDuringExecution"))
    terms = list(_mappings(required.get("nodeSelectorTerms")))
    # One term that is met is enough, so each must ask for Windows.
    if terms and all(_asks(term) for term in terms):
        return True
    return "windowsOptions" in _mapping(spec.get("securityContext"))


def _asks(term: Mapping[str, Any]) -> bool:
    return any(
        one.get("key") in _LABELS and one.get("operator") == "In" and one.get("values") == ["windows"]
        for one in _mappings(term.get("matchExpressions"))
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _mappings(value: Any) -> Iterable[Mapping[str, Any]]:
    listed = cast("list[Any]", value) if isinstance(value, list) else []
    return (cast("Mapping[str, Any]", one) for one in listed if isinstance(one, dict))
