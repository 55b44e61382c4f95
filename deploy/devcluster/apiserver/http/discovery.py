"""Discovery and OpenAPI documents: groups, versions, resources and schemas, as `kubectl` reads them."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from deploy.devcluster.apiserver.http.openapi_schemas import published
from deploy.devcluster.apiserver.kinds.builtin_schemas import Schema
from deploy.devcluster.apiserver.kinds.kind_registry import KindRegistry, ResourceKind

VERSION = {
    "major": "1",
    "minor": "33",
    "gitVersion": "v1.33.0",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2025-04-23T00:00:00Z",
    "goVersion": "none",
    "compiler": "none",
    "platform": "linux/amd64",
}
VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_Virtual = tuple[str, str, str, str, bool]

VIRTUAL: tuple[_Virtual, ...] = (
    ("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", False),
    ("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", False),
    ("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False),
    ("authorization.k8s.io", "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview", False),
    ("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", False),
    ("authorization.k8s.io", "v1", "localsubjectaccessreviews", "LocalSubjectAccessReview", True),
    ("events.k8s.io", "v1", "events", "Event", True),
)
"""(group, version, plural, kind, namespaced) of resources that can only be created; they are not stored."""


def subresources(kind: ResourceKind) -> list[tuple[str, str, str, list[str]]]:
    """(name, group/version, kind, verbs) of a kind's subresources."""
    found: list[tuple[str, str, str, list[str]]] = []
    if kind.status:
        found.append(("status", "", kind.kind, ["get", "patch", "update"]))
    if kind.scale:
        found.append(("scale", "autoscaling/v1", "Scale", ["get", "patch", "update"]))
    match kind.resource:
        case "pods":
            found += [
                ("log", "", "Pod", ["get"]),
                ("binding", "v1", "Binding", ["create"]),
                ("eviction", "policy/v1", "Eviction", ["create"]),
            ]
        case "serviceaccounts":
            found.append(("token", "authentication.k8s.io/v1", "TokenRequest", ["create"]))
        case "namespaces":
            found.append(("finalize", "", "Namespace", ["update"]))
        case _:
            pass
    return found


class DiscoveryDocuments:
    """Documents about the registered kinds, rendered once per epoch of the registry."""

    def __init__(self, kinds: KindRegistry) -> None:
        self._kinds = kinds
        self._epoch = -1
        self._memo: dict[str, bytes] = {}

    def _once(self, name: str, make: Any) -> bytes:
        if self._epoch != self._kinds.epoch:
            self._memo.clear()
            self._epoch = self._kinds.epoch
        if name not in self._memo:
            self._memo[name] = msgspec.json.encode(make())
        return self._memo[name]

    def _groups(self) -> dict[str, list[str]]:
        """Versions by group, preferred first."""
        groups: dict[str, list[str]] = {}
        for kind in self._kinds:
            names = groups.setdefault(kind.group, [])
            names += [one.name for one in kind.versions if one.served and one.name not in names]
        for group, version, *_rest in VIRTUAL:
            if version not in groups.setdefault(group, []):
                groups[group].append(version)
        return groups

    def core(self) -> bytes:
        """`/api`."""
        return self._once("core", lambda: {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})

    def groups(self) -> bytes:
        """`/apis`."""
        return self._once(
            "groups",
            lambda: {
                "kind": "APIGroupList",
                "apiVersion": "v1",
                "groups": [_group(name, versions) for name, versions in self._groups().items() if name],
            },
        )

    def group(self, name: str) -> bytes | None:
        """`/apis/GROUP`."""
        versions = self._groups().get(name)
        if versions is None or not name:
            return None
        return self._once(f"group {name}", lambda: {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)})

    def resources(self, group: str, version: str) -> bytes | None:
        """`/api/v1` or `/apis/GROUP/VERSION`."""
        if version not in self._groups().get(group, ()):
            return None
        return self._once(f"resources {group}/{version}", lambda: self._resource_list(group, version))

    def _resource_list(self, group: str, version: str) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        for kind in self._kinds:
            if kind.group != group or kind.version(version) is None:
                continue
            row: dict[str, Any] = {
                "name": kind.plural,
                "singularName": kind.singular,
                "namespaced": kind.namespaced,
                "kind": kind.kind,
                "verbs": VERBS,
            }
            if kind.short_names:
                row["shortNames"] = list(kind.short_names)
            if kind.categories:
                row["categories"] = list(kind.categories)
            rows.append(row)
            for name, api_version, kind_name, verbs in subresources(kind):
                below: dict[str, Any] = {"name": f"{kind.plural}/{name}", "singularName": "", "kind": kind_name}
                below |= {"namespaced": kind.namespaced, "verbs": verbs}
                if api_version:
                    below["group"], _, below["version"] = api_version.rpartition("/")
                rows.append(below)
        for its_group, its_version, plural, kind_name, namespaced in VIRTUAL:
            if (its_group, its_version) == (group, version):
                row = {"name": plural, "singularName": kind_name.lower(), "kind": kind_name, "verbs": ["create"]}
                rows.append({**row, "namespaced": namespaced})
        group_version = f"{group}/{version}" if group else version
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": rows}

    def aggregated(self, *, core: bool) -> bytes:
        """Aggregated discovery (`apidiscovery.k8s.io/v2`) of the core group or of all named groups."""
        return self._once(f"aggregated {core}", lambda: self._aggregated(core=core))

    def _aggregated(self, *, core: bool) -> dict[str, Any]:
        items: list[dict[str, Any]] = []
        for group, versions in self._groups().items():
            if (not group) is not core:
                continue
            listed = [
                {
                    "version": version,
                    "freshness": "Current",
                    "resources": _nested(self._resource_list(group, version)["resources"], group, version),
                }
                for version in versions
            ]
            items.append({"metadata": {"name": group or None, "creationTimestamp": None}, "versions": listed})
        return {
            "kind": "APIGroupDiscoveryList",
            "apiVersion": "apidiscovery.k8s.io/v2",
            "metadata": {},
            "items": items,
        }

    # --- OpenAPI v3 -----------------------------------------------------------------------------------------------

    def openapi_index(self) -> bytes:
        """`/openapi/v3`: paths of the documents, each with a hash of its content."""

        def make() -> dict[str, Any]:
            paths: dict[str, Any] = {}
            for group, versions in self._groups().items():
                for version in versions:
                    path = f"apis/{group}/{version}" if group else f"api/{version}"
                    document = self.openapi(group, version) or b""
                    digest = hashlib.sha256(document).hexdigest()[:32].upper()
                    paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
            return {"paths": paths}

        return self._once("openapi", make)

    def openapi(self, group: str, version: str) -> bytes | None:
        """One OpenAPI v3 document: operations and schemas of the kinds of a group version."""
        if version not in self._groups().get(group, ()):
            return None
        return self._once(f"openapi {group}/{version}", lambda: self._document(group, version))

    def _document(self, group: str, version: str) -> dict[str, Any]:
        paths: dict[str, Any] = {}
        schemas: dict[str, Any] = {}
        base = f"/apis/{group}/{version}" if group else f"/api/{version}"
        for kind in self._kinds:
            found = kind.version(version)
            if kind.group != group or found is None:
                continue
            name = (
                ".".join([*reversed(group.split(".")), version, kind.kind]) if group else f"core.{version}.{kind.kind}"
            )
            identity = {"group": group, "version": version, "kind": kind.kind}
            schemas[name] = {**published(kind, found, schemas), "x-kubernetes-group-version-kind": [identity]}
            place = f"{base}/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else f"{base}/{kind.plural}"
            reference = {"$ref": f"#/components/schemas/{name}"}
            paths[place] = {
                "get": _operation("list", identity, reference),
                "post": _operation("post", identity, reference),
            }
            paths[f"{place}/{{name}}"] = {
                "get": _operation("get", identity, reference),
                "put": _operation("put", identity, reference),
                "patch": _operation("patch", identity, reference, custom=kind.custom),
            }
        info = {"title": "Kubernetes", "version": VERSION["gitVersion"]}
        return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}


def _group(name: str, versions: list[str]) -> dict[str, Any]:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def _nested(rows: list[dict[str, Any]], group: str, version: str) -> list[dict[str, Any]]:
    nested: dict[str, dict[str, Any]] = {}
    for row in rows:
        plural, _, below = row["name"].partition("/")
        kind = {"group": row.get("group", group), "version": row.get("version", version), "kind": row["kind"]}
        if below:
            entry = {"subresource": below, "responseKind": kind, "verbs": row["verbs"]}
            nested[plural].setdefault("subresources", []).append(entry)
            continue
        nested[plural] = {
            "resource": plural,
            "responseKind": kind,
            "scope": "Namespaced" if row["namespaced"] else "Cluster",
            "singularResource": row["singularName"],
            "verbs": row["verbs"],
            **{key: row[key] for key in ("shortNames", "categories") if key in row},
        }
    return list(nested.values())


def _operation(verb: str, identity: dict[str, str], schema: Schema, *, custom: bool = False) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "x-kubernetes-action": verb,
        "x-kubernetes-group-version-kind": identity,
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": schema}}}},
    }
    if verb in {"post", "put", "patch"}:
        operation["parameters"] = [
            {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
            for name in ("dryRun", "fieldManager", "fieldValidation")
        ]
        media = ["application/json"]
        if verb == "patch":
            media = ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"]
            media += [] if custom else ["application/strategic-merge-patch+json"]
        operation["requestBody"] = {"content": {one: {"schema": schema} for one in media}}
    return operation
