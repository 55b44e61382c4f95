"""What is wrong with policy objects that can be read: named, with what their user should do."""

from __future__ import annotations

from services.compiler.derive.membership import is_member, spiffe_id
from services.compiler.derive.offers import port, ports
from services.compiler.derive.splits import split_of
from services.compiler.engine import query
from services.compiler.mesh import Mesh
from shared.policy.model import Rule
from shared.policy.names import ObjectName

Problem = tuple[str, str]
"""Stable code, sentence."""


def _rule_problem(mesh: Mesh, namespace: str, rule: Rule) -> Problem | None:
    name = ObjectName(namespace, rule.name)
    if rule.kind == "TCPRoute":
        if mesh.tcp_routes.get(name) is None:
            return "smi/route-missing", f"names TCPRoute {name}, which is not there; the rule grants nothing"
        return None
    group = mesh.route_groups.get(name)
    if group is None:
        return "smi/route-missing", f"names HTTPRouteGroup {name}, which is not there; the rule grants nothing"
    present = {match.name for match in group.matches}
    for wanted in rule.matches:
        if wanted not in present:
            return "smi/match-missing", f"names match {wanted!r}, which HTTPRouteGroup {name} does not have"
    return None


@query
def target_problems(mesh: Mesh, name: ObjectName) -> tuple[Problem, ...]:
    """What is wrong with a traffic target."""
    target = mesh.targets.get(name)
    if target is None or not is_member(mesh, name.namespace):
        return ()
    found = [problem for rule in target.rules if (problem := _rule_problem(mesh, name.namespace, rule)) is not None]
    found.extend(
        ("smi/source-name", f"source {source} can have no SPIFFE identity; it is left out")
        for source in target.sources
        if spiffe_id(mesh, source) is None
    )
    return tuple(dict.fromkeys(found))


@query
def split_problems(mesh: Mesh, name: ObjectName) -> tuple[Problem, ...]:
    """What is wrong with a traffic split."""
    split = mesh.splits.get(name)
    if split is None or not is_member(mesh, name.namespace):
        return ()
    root = ObjectName(name.namespace, split.root)
    winner = split_of(mesh, root)
    if winner is not None and winner != name:
        return (
            ("smi/split-conflict", f"root {root} is split by {winner} already, which is older; this has no effect"),
        )
    offered = ports(mesh, root)
    if not offered:
        return (("smi/split-root", f"root {root} is no Service with TCP ports in the mesh; nothing is split"),)
    found: list[Problem] = []
    for backend in split.backends:
        service = ObjectName(name.namespace, backend.service)
        lacking = [item.number for item in offered if port(mesh, service, item.number) is None]
        if lacking:
            listed = ", ".join(map(str, lacking))
            found.append(
                ("smi/split-port", f"backend {service} does not offer port {listed} of the root; it is left out there")
            )
    if not any(backend.weight for backend in split.backends):
        found.append(("smi/split-weightless", "all weights are 0: nothing passes; give a backend a weight"))
    found.extend(
        ("smi/route-missing", f"names HTTPRouteGroup {group}, which is not there; it matches nothing")
        for group in split.matches
        if mesh.route_groups.get(ObjectName(name.namespace, group)) is None
    )
    return tuple(found)
