"""Advice on a MeshConfig, on a rendered chart's presets, and on kinds that the support matrix covers. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import yaml

from cli.kubernetes.api_client import Manifest
from cli.migrate.context import MigrationContext, MigrationFinding, MigrationFindings
from shared.meshconfig import images
from shared.meshconfig.spec_problems import problems
from shared.policy import support_matrix

PRESETS = {
    "preset-mesh-config": ("preset-mesh-config.json", "MeshConfig"),
    "preset-mesh-root-certificate": ("preset-mesh-root-certificate.json", "MeshRootCertificate"),
}
"""ConfigMaps of a rendered chart, with the key and the object whose specification it holds."""


def mesh_config(one: Manifest, _scene: MigrationContext) -> MigrationFindings:
    """A MeshConfig, field by field."""
    yield from fields(one.get("spec") or {})


def preset(one: Manifest, _scene: MigrationContext) -> MigrationFindings:
    """A ConfigMap of a rendered chart that holds the MeshConfig of a new installation."""
    if one["metadata"]["name"] != "preset-mesh-config":
        return
    key, kind = PRESETS["preset-mesh-config"]
    try:
        spec = yaml.safe_load((one.get("data") or {}).get(key) or "")
    except yaml.YAMLError:
        spec = None
    if not isinstance(spec, dict):
        yield MigrationFinding("differs", f"its {key} cannot be read", "look at the MeshConfig of the cluster instead")
        return
    for verdict, text, action in fields(cast("dict[str, Any]", spec)):
        yield MigrationFinding(verdict, f"{kind}: {text}", action)


def by_table(one: Manifest) -> MigrationFindings:
    """An object of another kind, by `shared.policy.support_matrix`."""
    found = [*_from_table(one["kind"], one.get("spec") or {})]
    yield from found or [MigrationFinding("carries over", "means the same here")]


def fields(spec: Mapping[str, Any]) -> MigrationFindings:
    """The specification of a MeshConfig, field by field."""
    unfit = [*_images(spec)]
    # A finding on an image replaces the support matrix's finding on the same field.
    image_paths = {path for path, _ in unfit}
    found = [one for one in _from_table("MeshConfig", spec) if not one.text.startswith(tuple(image_paths) or ("\0",))]
    found += [one for _, one in unfit]
    found += [
        MigrationFinding("to do", f"is refused here: {sentence}", "mend it before the move")
        for code, sentence in problems(spec)
        if code != "mesh/image"
    ]
    yield from found or [MigrationFinding("carries over", "means the same here")]


def _images(spec: Mapping[str, Any]) -> Iterator[tuple[str, MigrationFinding]]:
    """Images that Open Service Mesh wrote into MeshConfigs, and whose pods could not start here."""
    for one in images.judged(spec):
        refused = "; it is refused here, and never put into a pod" if one.verdict == "fails" else ""
        yield one.field, MigrationFinding("to do", f"{one.field}: {one.sentence}{refused}", images.LEAVE_OUT)


def _from_table(kind: str, spec: Mapping[str, Any]) -> MigrationFindings:
    for each in support_matrix.findings(kind, spec):
        where = each.path or "the whole object"
        note = f" ({each.support.note})" if each.support.note else ""
        match each.support.state:
            case "not yet":
                yield MigrationFinding(
                    "not yet", f"{where} is kept and has no effect{note}", "do not rely on it after the move"
                )
            case "needless":
                yield MigrationFinding("carries over", f"{where} has no effect and needs none{note}")
            case _:
                yield MigrationFinding("differs", f"{where}: {each.support.note}")
