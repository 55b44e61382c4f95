"""Decides whether a pod gets a sidecar, by the rules of Open Service Mesh.

A pod gets one if its namespace is a member, neither ignored nor one of the cluster's own, the pod uses neither the
host's network nor Windows, and an annotation enables it. The pod's annotation overrides its namespace's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from shared.errors import BadInputError
from shared.kubernetes.windows_nodes import runs_on_windows
from shared.membership import is_member
from shared.projected_objects import ANNOTATION_INJECTION

_YES = frozenset({"enabled", "yes", "true"})
_NO = frozenset({"disabled", "no", "false"})
_ON_HOST, _ON_WINDOWS = "the pod is on the host's network", "the pod is for nodes that run Windows"
_CLUSTERS_OWN = frozenset({"kube-system", "kube-public"})


class NamespaceMeta(msgspec.Struct, frozen=True):
    """The part of a namespace that the decision depends on."""

    name: str
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}


class InjectionDecision(msgspec.Struct, frozen=True):
    """Whether a pod gets a sidecar, and why."""

    inject: bool
    why: str
    warning: str = ""
    """A warning for the pod's author; empty for none."""


def decide(
    pod: Mapping[str, Any], namespace: NamespaceMeta, *, mesh_name: str, mesh_namespace: str
) -> InjectionDecision:
    """Decide whether this pod gets a sidecar. Raises `BadInputError` for an annotation that is neither yes nor no."""
    if namespace.name in _CLUSTERS_OWN or namespace.name == mesh_namespace:
        return InjectionDecision(inject=False, why=f"namespace {namespace.name} never has sidecars")
    if not is_member(namespace.labels, mesh_name=mesh_name):
        return InjectionDecision(inject=False, why=f"namespace {namespace.name} is no member of mesh {mesh_name}")
    enabled = _enabled_by((pod.get("metadata") or {}).get("annotations") or {}, about="the pod")
    spec = pod.get("spec") or {}
    for hindered, why in ((spec.get("hostNetwork"), _ON_HOST), (runs_on_windows(spec), _ON_WINDOWS)):
        if hindered:
            warning = f"{why}, so it gets no sidecar: it is outside of the mesh, and members do not take its calls"
            default = namespace.annotations.get(ANNOTATION_INJECTION, "").strip().lower() in _YES
            asked = default if enabled is None else enabled
            return InjectionDecision(inject=False, why=why, warning=warning if asked else "")
    if enabled is not None:
        return InjectionDecision(inject=enabled, why=f"the pod's annotation {ANNOTATION_INJECTION} says so")
    if _enabled_by(namespace.annotations, about=f"namespace {namespace.name}"):
        return InjectionDecision(inject=True, why="its namespace says so")
    return InjectionDecision(inject=False, why="neither the pod nor its namespace asks for a sidecar")


def _enabled_by(annotations: Mapping[str, str], *, about: str) -> bool | None:
    """Return the value of the annotation; `None` without one. Raises `BadInputError` if it is neither yes nor no."""
    value = annotations.get(ANNOTATION_INJECTION)
    if value is None:
        return None
    word = value.strip().lower()
    if word in _YES or word in _NO:
        return word in _YES
    raise BadInputError(
        "inject/annotation",
        f"annotation {ANNOTATION_INJECTION} is {value[:60]!r}; use enabled or disabled",
        about=about,
    )
