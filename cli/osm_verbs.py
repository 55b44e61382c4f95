"""Verbs of Open Service Mesh's command that have other names here, with their counterparts. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence

_COUNTERPARTS: dict[tuple[str, ...], str] = {
    ("proxy", "get"): "`meshlog show HEAD --proxy NAMESPACE/POD` (what the sidecar was sent), or on the embedded mesh "
    "`meshlog exec NAMESPACE/POD -- curl -s 127.0.0.1:15000/config_dump`",
    ("proxy", "set"): "`meshlog exec NAMESPACE/POD -- curl -s -X POST 127.0.0.1:15000/...` on the embedded mesh, "
    "`kubectl exec` on a cluster; the level of logs is the MeshConfig's sidecar.logLevel",
    ("policy", "check-pods"): "`meshlog why-not FROM TO` (or `meshlog check -f FOLDER FROM TO` without a cluster)",
    ("policy", "check-conflicts"): "`meshlog status` and `meshlog plan -f FILE`: both name objects that are left out",
    ("verify", "ingress"): "none yet: no IngressBackend is in force",
    ("metrics", "enable"): "none yet: sidecars serve no metrics at port 15010; the control plane's are at port 9091",
    ("metrics", "disable"): "none yet: sidecars serve no metrics at port 15010",
    ("support", "error-info"): "the sentence that stands beside each code; docs/policy.md lists the codes",
    ("support", "bug-report"): "`meshlog export FILE`: the log holds everything that the mesh did, and no secret",
    ("dashboard",): "none yet: `meshlog status` and `meshlog proxies` are the overview",
    ("env",): "none: the command is configured by its options and MESHLOG_ variables, see `meshlog run SERVICE --help`",
    ("alpha", "certificate"): "`meshlog certificate rotate`",
    ("mrc",): "`meshlog certificate rotate`",
    ("ns",): "`meshlog namespace`",
    ("delete",): "`meshlog uninstall mesh`",
    ("del",): "`meshlog uninstall mesh`",
    ("certificate", "mrc"): "`meshlog certificate rotate`",
}
"""Words of an `osm` command line, and its counterpart. Verbs that kept their names are left out."""


def counterpart(arguments: Sequence[str]) -> str:
    """The counterpart of an `osm` command line, as a sentence; empty if no verb of it was renamed."""
    words = tuple(word for word in arguments if not word.startswith("-"))
    for length in (2, 1):
        found = _COUNTERPARTS.get(words[:length])
        if found is not None and len(words) >= length:
            return f"`osm {' '.join(words[:length])}` has its counterpart in {found}"
    # A group such as `proxy` without its action, or with one that is not known.
    groups = [f"`osm {' '.join(known)}`: {text}" for known, text in _COUNTERPARTS.items() if known[:1] == words[:1]]
    return "; ".join(groups)


def table() -> list[tuple[str, str]]:
    """Every command line with its counterpart, for the migration page and its test."""
    return [(f"osm {' '.join(words)}", text) for words, text in _COUNTERPARTS.items()]
