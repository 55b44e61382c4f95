"""Whether the images that a MeshConfig names can hold this mesh's sidecars.

Open Service Mesh wrote its own images into MeshConfigs, and its upgrades left them there. Pods with them do not start
here: the init container has no `meshlog`, and an old Envoy does not know a part of the bootstrap. Such an image is
refused where a MeshConfig is stored, and never put into a pod.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast

OLDEST_ENVOY = (1, 36)
"""Major and minor version that the bootstrap of sidecars needs."""
_VERSION = re.compile(r"(?:^|[-_])v?(\d{1,4})\.(\d{1,4})(?:\.|$|-)")
LEAVE_OUT = "leave the field out: the default image is the one tested"


class ImageJudgement(NamedTuple):
    """What is known of an image."""

    field: str
    """Below `spec`."""
    verdict: Literal["fails", "doubtful"]
    """`fails`: pods with it do not start; `doubtful`: its name does not show whether they do."""
    sentence: str


def judged(spec: Mapping[str, Any]) -> list[ImageJudgement]:
    """Judgements of the images of a MeshConfig's `spec`; none of images that are known to work."""
    part: object = spec.get("sidecar")
    sidecar = cast("Mapping[str, Any]", part if isinstance(part, dict) else {})
    found = [
        _envoy("sidecar.envoyImage", sidecar.get("envoyImage")),
        _init("sidecar.initContainerImage", sidecar.get("initContainerImage")),
    ]
    return [one for one in found if one is not None]


def envoy_fails(image: str) -> bool:
    """Whether a pod with this proxy is known not to start."""
    found = _envoy("", image)
    return found is not None and found.verdict == "fails"


def init_fails(image: str) -> bool:
    """Whether a pod with this init container is known not to start."""
    found = _init("", image)
    return found is not None and found.verdict == "fails"


def _envoy(field: str, image: object) -> ImageJudgement | None:
    if not isinstance(image, str) or not image:
        return None
    oldest = ".".join(map(str, OLDEST_ENVOY))
    repository, tag = _parts(image)
    if "windows" in repository:
        return ImageJudgement(field, "fails", f"{image[:120]} is an image for Windows, and sidecars run on Linux only")
    if repository.endswith("envoy-alpine"):
        # The last of them is 1.21.
        return ImageJudgement(field, "fails", f"{image[:120]} is older than Envoy {oldest}, which sidecars here need")
    if "openservicemesh" in repository:
        return ImageJudgement(field, "fails", f"{image[:120]} is Open Service Mesh's and holds no Envoy")
    version = _VERSION.search(tag)
    if "envoy" not in repository.rpartition("/")[2] or version is None:
        return ImageJudgement(field, "doubtful", f"{image[:120]} does not say that it holds Envoy {oldest} or newer")
    if (int(version[1]), int(version[2])) < OLDEST_ENVOY:
        return ImageJudgement(field, "fails", f"{image[:120]} is older than Envoy {oldest}, which sidecars here need")
    return None


def _init(field: str, image: object) -> ImageJudgement | None:
    if not isinstance(image, str) or not image:
        return None
    repository, _ = _parts(image)
    last = repository.rpartition("/")[2]
    if "openservicemesh" in repository or last == "init" or last.startswith("osm-"):
        return ImageJudgement(field, "fails", f"{image[:120]} is Open Service Mesh's and lacks the meshlog command")
    if "meshlog" in last:
        return None
    if "envoy" in last:
        return ImageJudgement(field, "fails", f"{image[:120]} holds Envoy and lacks the meshlog command")
    return ImageJudgement(field, "doubtful", f"{image[:120]} does not say that it holds the meshlog command")


def _parts(image: str) -> tuple[str, str]:
    """Repository and tag; the tag is empty where there is only a digest, or none."""
    named = image.partition("@")[0]
    head, slash, last = named.rpartition("/")
    name, _, tag = last.partition(":")
    return f"{head}{slash}{name}".lower(), tag.lower()
