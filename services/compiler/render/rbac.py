"""Access rules of one inbound port: what lets a request, or a connection, through. Everything else is denied.

Requests are decided by one set of policies on a catch-all route, each with all its conditions, so that the order of
routes never matters: two groups of overlapping paths for different callers add up.
"""

from __future__ import annotations

from collections.abc import Sequence

from envoy.config.rbac.v3.rbac_pb2 import RBAC, Permission, Policy, Principal
from envoy.type.matcher.v3.path_pb2 import PathMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from services.compiler.ir import Grant
from services.compiler.render.matchers import exact, header, method_headers, path_expression
from shared.policy.model import HttpMatch

_ANY = Permission(any=True)


def concerns(grant: Grant, port: int) -> bool:
    """Whether a grant applies to a port of the pod."""
    return grant.ports is None or port in grant.ports


def _principals(grant: Grant) -> list[Principal]:
    return [
        Principal(authenticated=Principal.Authenticated(principal_name=exact(identity))) for identity in grant.sources
    ]


def _permission(match: HttpMatch) -> Permission:
    conditions: list[Permission] = []
    if match.path:
        path = PathMatcher(path=StringMatcher(safe_regex=path_expression(match.path)))
        conditions.append(Permission(url_path=path))
    conditions.extend(Permission(header=matcher) for matcher in method_headers(match))
    conditions.extend(Permission(header=header(name, pattern)) for name, pattern in match.headers)
    if not conditions:
        return _ANY
    if len(conditions) == 1:
        return conditions[0]
    return Permission(and_rules=Permission.Set(rules=conditions))


def nothing() -> RBAC:
    """Deny everything: an allow list without entries."""
    return RBAC(action=RBAC.Action.ALLOW)


def everyone() -> RBAC:
    """Let every proven member of the mesh through: permissive mode."""
    rules = nothing()
    member = Principal(authenticated=Principal.Authenticated())
    rules.policies["permissive"].CopyFrom(Policy(permissions=[_ANY], principals=[member]))
    return rules


def policy(grant: Grant) -> bytes:
    """What a grant lets through, to any port that it concerns: made once, and put into the rules of each port."""
    permissions = [_ANY] if grant.requests is None else [_permission(match) for match in grant.requests]
    found = Policy(permissions=permissions, principals=_principals(grant))
    return found.SerializeToString(deterministic=True)


Policies = Sequence[tuple[Grant, bytes]]
"""Grants, each with its `policy`."""


def for_requests(policies: Policies, port: int) -> RBAC:
    """Rules for HTTP requests to a port."""
    return _rules([(grant, body) for grant, body in policies if concerns(grant, port)])


def _rules(policies: Policies) -> RBAC:
    rules = nothing()
    for grant, body in policies:
        rules.policies[str(grant.target)].MergeFromString(body)
    return rules


def headers(grants: Sequence[Grant], port: int) -> frozenset[str]:
    """Headers by which `for_requests` decides."""
    return frozenset(
        name for grant in grants if concerns(grant, port) for match in grant.requests or () for name, _ in match.headers
    )


def opens_bytes(grant: Grant, port: int) -> bool:
    """Whether a grant lets connections through whose content we cannot read: not if it asks for HTTP requests."""
    return concerns(grant, port) and grant.requests is None


def for_connections(policies: Policies, port: int) -> RBAC:
    """Rules for connections to a port that is bytes to us."""
    return _rules([(grant, body) for grant, body in policies if opens_bytes(grant, port)])


def callers(grants: Sequence[Grant], port: int) -> list[str]:
    """Identities that `for_connections` lets through, sorted."""
    return sorted({identity for grant in grants if opens_bytes(grant, port) for identity in grant.sources})
