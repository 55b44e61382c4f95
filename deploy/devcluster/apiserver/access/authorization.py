"""RBAC: evaluates the stored Roles and bindings for each request.

Service accounts have the same rights as on Kubernetes, so that tests find a rule that an installation lacks. `usage`
records which rules allowed a request, so that tests also find a rule that no component needs. Not implemented:
aggregated ClusterRoles, impersonation, and the check against escalation (granting rights that the user lacks).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from deploy.devcluster.apiserver.object_store import Store
from deploy.devcluster.apiserver.status_errors import StatusError
from deploy.devcluster.apiserver.user_info import UserInfo
from deploy.devcluster.cluster_api import Obj

GROUP = "rbac.authorization.k8s.io"
_MASTERS = "system:masters"


class Attributes(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes of a request: a verb on a resource, or on a non-resource path."""

    verb: str
    group: str = ""
    resource: str = ""
    """Plural, with `/SUBRESOURCE` if there is one. Empty for a non-resource path."""
    namespace: str = ""
    name: str = ""
    path: str = ""

    def sentence(self, caller: UserInfo) -> str:
        """The message of the 403 response, as Kubernetes words it."""
        if not self.resource:
            return f'forbidden: User "{caller.username}" cannot {self.verb} path "{self.path}"'
        shown = f"{self.resource.partition('/')[0]}{f'.{self.group}' if self.group else ''}"
        about = f'{shown} "{self.name}"' if self.name else shown
        where = f'in the namespace "{self.namespace}"' if self.namespace else "at the cluster scope"
        return (
            f'{about} is forbidden: User "{caller.username}" cannot {self.verb} resource "{self.resource}" '
            f'in API group "{self.group}" {where}'
        )


class GrantingRule(msgspec.Struct, frozen=True):
    """The rule that allows a request."""

    role: str
    """`ClusterRole/meshlog-ingestor`, `Role/meshlog-system/meshlog-ca`."""
    rule: int
    """Index of the rule in the role, from 0."""


class Authorizer:
    """Authorizes requests against the current state of the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.usage: dict[GrantingRule, set[str]] = {}
        """Requests that each rule has allowed, as `verb resource` or `verb path`."""
        self.refused: set[str] = set()
        """Messages of rejected requests."""

    def check(self, caller: UserInfo, wanted: Attributes) -> None:
        """Raises 403 unless a rule allows the request."""
        if not self.allowed(caller, wanted):
            self.refused.add(wanted.sentence(caller))
            plural = wanted.resource.partition("/")[0]
            details = {"kind": plural, "name": wanted.name, "group": wanted.group}
            shown = {key: value for key, value in details.items() if value}
            raise StatusError(403, "Forbidden", wanted.sentence(caller), details=shown)

    def allowed(self, caller: UserInfo, wanted: Attributes) -> bool:
        """True if a rule allows the request; records the rule in `usage`."""
        if _MASTERS in caller.groups:
            return True
        granted = self.grant(caller, wanted)
        if granted is not None:
            self.usage.setdefault(granted, set()).add(f"{wanted.verb} {wanted.resource or wanted.path}")
        return granted is not None

    def grant(self, caller: UserInfo, wanted: Attributes) -> GrantingRule | None:
        """Returns the first rule that allows the request, or None."""
        for role, rules in self._roles(caller, wanted.namespace):
            for index, rule in enumerate(rules):
                if _covers(rule, wanted):
                    return GrantingRule(role, index)
        return None

    def rules(self, caller: UserInfo, namespace: str) -> list[dict[str, Any]]:
        """All rules that apply to the caller in a namespace."""
        if _MASTERS in caller.groups:
            return [
                {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
                {"verbs": ["*"], "nonResourceURLs": ["*"]},
            ]
        return [rule for _role, rules in self._roles(caller, namespace) for rule in rules]

    def _roles(self, caller: UserInfo, namespace: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        for stored in self._store.items(f"clusterrolebindings.{GROUP}"):
            if _binds(stored.obj, caller, ""):
                yield from self._role(stored.obj, "")
        if namespace:
            for stored in self._store.items(f"rolebindings.{GROUP}", namespace):
                if _binds(stored.obj, caller, namespace):
                    yield from self._role(stored.obj, namespace)

    def _role(self, binding: Obj, namespace: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        reference = binding.get("roleRef") or {}
        kind, name = reference.get("kind", ""), reference.get("name", "")
        if kind == "ClusterRole":
            found, title = self._store.get(f"clusterroles.{GROUP}", "", name), f"ClusterRole/{name}"
        else:
            found, title = self._store.get(f"roles.{GROUP}", namespace, name), f"Role/{namespace}/{name}"
        if found is not None:
            yield title, found.obj.get("rules") or []


def _binds(binding: Obj, caller: UserInfo, namespace: str) -> bool:
    for subject in binding.get("subjects") or []:
        kind, name = subject.get("kind"), subject.get("name", "")
        if kind == "Group" and name in caller.groups:
            return True
        if kind == "User" and name == caller.username:
            return True
        if kind == "ServiceAccount":
            home = subject.get("namespace") or namespace
            if caller.username == f"system:serviceaccount:{home}:{name}":
                return True
    return False


def _covers(rule: dict[str, Any], wanted: Attributes) -> bool:
    if not _names(rule, "verbs", wanted.verb):
        return False
    if not wanted.resource:
        return any(_path_fits(pattern, wanted.path) for pattern in rule.get("nonResourceURLs") or [])
    if not _names(rule, "apiGroups", wanted.group):
        return False
    resources: list[str] = rule.get("resources") or []
    _plural, slash, subresource = wanted.resource.partition("/")
    fits = "*" in resources or wanted.resource in resources or (slash and f"*/{subresource}" in resources)
    only: list[str] = rule.get("resourceNames") or []
    return bool(fits) and (not only or wanted.name in only)


def _names(rule: dict[str, Any], field: str, value: str) -> bool:
    values: list[str] = rule.get(field) or []
    return "*" in values or value in values


def _path_fits(pattern: str, path: str) -> bool:
    return pattern in {"*", path} or (pattern.endswith("*") and path.startswith(pattern[:-1]))
