"""HTTPRouteGroups in force: those whose expressions are any, as many of a namespace as its budget compiles.

The oldest come first. From the first that is beyond the budget on, no expression of the namespace is compiled, so that
a namespace costs no more however many groups it has. A group that is left out is as one that is not there: it grants
nothing, and matches nothing.
"""

from __future__ import annotations

from services.compiler.derive.membership import is_member
from services.compiler.engine import exception_query, query
from services.compiler.mesh_state import MeshState
from services.compiler.time_slices import Steps, finished
from shared.policy.model import RouteGroup
from shared.policy.object_name import ObjectName
from shared.policy.route_groups import judge, work_of

Problem = tuple[str, str]
"""Stable code, sentence."""


@query
def route_group(mesh: MeshState, name: ObjectName) -> RouteGroup | None:
    """A group in force."""
    found = mesh.route_groups.get(name)
    return None if found is None or name in left_out(mesh, name.namespace) else found


@exception_query
def left_out(mesh: MeshState, namespace: str) -> dict[ObjectName, Problem]:
    """Groups of a namespace that are not in force, and why."""
    return finished(judging(mesh, namespace))


def judging(mesh: MeshState, namespace: str) -> Steps[dict[ObjectName, Problem]]:
    """`left_out` in steps, one for each group: run before it, this leaves it little to do."""
    budgets, found = mesh.settings.budgets, dict[ObjectName, Problem]()
    if not is_member(mesh, namespace):
        return found
    matches = work = 0
    beyond = ""
    for name in _by_age(mesh, namespace):
        count, reading = _size(mesh, name)
        matches, work = matches + count, work + reading
        if matches > budgets.namespace_matches:
            beyond = beyond or f"{matches} matches, more than {budgets.namespace_matches}"
        elif work <= budgets.namespace_expressions and not beyond:
            size, problem = _judged(mesh, name)
            work += size
            if problem is not None:
                found[name] = problem
        if work > budgets.namespace_expressions:
            beyond = beyond or f"expressions of a size of {work}, more than {budgets.namespace_expressions}"
        if beyond:
            found[name] = ("budget/namespace", _SENTENCE.format(namespace=namespace, what=beyond))
        yield
    return found


_SENTENCE = (
    "is left out: the HTTPRouteGroups of namespace {namespace}, the oldest first, come to {what}; "
    "delete some, or write simpler ones"
)


def _by_age(mesh: MeshState, namespace: str) -> list[ObjectName]:
    aged: list[tuple[str, ObjectName]] = []
    for name in mesh.groups_of_namespace.get(namespace):
        group = mesh.route_groups.get(name)
        aged.append((group.created if group is not None else "", name))
    return [name for _, name in sorted(aged)]


@query
def _size(mesh: MeshState, name: ObjectName) -> tuple[int, int]:
    """Matches of a group, and what reading its expressions costs."""
    group = mesh.route_groups.get(name)
    return (0, 0) if group is None else (len(group.matches), work_of(group))


@query
def _judged(mesh: MeshState, name: ObjectName) -> tuple[int, Problem | None]:
    """Program size of what was compiled of a group, and why it is not in force."""
    group = mesh.route_groups.get(name)
    if group is None:
        return 0, None
    size, refusal = judge(group, mesh.settings.budgets)
    return size, None if refusal is None else (refusal.code, refusal.sentence)
