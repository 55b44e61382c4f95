"""What becomes of a MeshConfig, of a rendered chart's presets, and of kinds that one table answers. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

import yaml

from cli.api import Manifest
from cli.migrate.scene import Finding, Findings, Scene
from shared import support

PRESETS = {
    "preset-mesh-config": ("preset-mesh-config.json", "MeshConfig"),
    "preset-mesh-root-certificate": ("preset-mesh-root-certificate.json", "MeshRootCertificate"),
}
"""ConfigMaps of a rendered chart: where each keeps which object's specification."""
_OLDEST_ENVOY = (1, 36)
_ENVOY_TAG = re.compile(r":(?:distroless-)?v(\d+)\.(\d+)")


def mesh_config(one: Manifest, _scene: Scene) -> Findings:
    """A MeshConfig, field by field."""
    yield from fields(one.get("spec") or {})


def preset(one: Manifest, _scene: Scene) -> Findings:
    """A ConfigMap of a rendered chart that holds the MeshConfig of a new installation."""
    if one["metadata"]["name"] != "preset-mesh-config":
        return
    key, kind = PRESETS["preset-mesh-config"]
    try:
        spec = yaml.safe_load((one.get("data") or {}).get(key) or "")
    except yaml.YAMLError:
        spec = None
    if not isinstance(spec, dict):
        yield Finding("differs", f"its {key} cannot be read", "look at the MeshConfig of the cluster instead")
        return
    for verdict, text, action in fields(cast("dict[str, Any]", spec)):
        yield Finding(verdict, f"{kind}: {text}", action)


def by_table(one: Manifest) -> Findings:
    """An object of another kind, by `shared.support`."""
    found = [*_from_table(one["kind"], one.get("spec") or {})]
    yield from found or [Finding("carries over", "means the same here")]


def fields(spec: Mapping[str, Any]) -> Findings:
    """The specification of a MeshConfig, field by field."""
    images = [*_images(spec)]
    # What the image rule says replaces what the table says of the same field.
    said = {path for path, _ in images}
    found = [one for one in _from_table("MeshConfig", spec) if not one.text.startswith(tuple(said) or ("\0",))]
    found += [one for _, one in images]
    yield from found or [Finding("carries over", "means the same here")]


def _images(spec: Mapping[str, Any]) -> Iterator[tuple[str, Finding]]:
    """Images that Open Service Mesh wrote into MeshConfigs, and whose pods could not start here."""
    sidecar: Mapping[str, Any] = spec.get("sidecar") or {}
    envoy, init = str(sidecar.get("envoyImage") or ""), str(sidecar.get("initContainerImage") or "")
    if envoy and not _is_new_enough(envoy):
        oldest = ".".join(map(str, _OLDEST_ENVOY))
        text = f"sidecar.envoyImage: {envoy} may be too old for the bootstrap of sidecars here, which needs {oldest}"
        yield "sidecar.envoyImage", Finding("to do", text, "leave the field out: the default image is the one tested")
    if init:
        text = (
            f"sidecar.initContainerImage: {init} must hold the meshlog command, and Open Service Mesh's images do not"
        )
        yield "sidecar.initContainerImage", Finding("to do", text, "leave the field out")


def _is_new_enough(image: str) -> bool:
    tag = _ENVOY_TAG.search(image)
    return tag is not None and (int(tag[1]), int(tag[2])) >= _OLDEST_ENVOY


def _from_table(kind: str, spec: Mapping[str, Any]) -> Findings:
    for each in support.findings(kind, spec):
        where = each.path or "the whole object"
        note = f" ({each.support.note})" if each.support.note else ""
        match each.support.state:
            case "not yet":
                yield Finding("not yet", f"{where} is kept and has no effect{note}", "do not rely on it after the move")
            case "needless":
                yield Finding("carries over", f"{where} has no effect and needs none{note}")
            case _:
                yield Finding("differs", f"{where}: {each.support.note}")
