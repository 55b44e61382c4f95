"""Finds the refused resource of a response by bisection.

Pure. A NACK refuses a response, not a resource, and clients differ in what they keep of it. So halves of the response
are sent again, until a response of one resource is refused.
"""

from __future__ import annotations

from services.xds_edge.xds.resource_set import UNKNOWN, ResourceSet

Group = tuple[tuple[str, str], ...]
"""(name, hash) of resources that were, or will be, in one response."""


def doubted(held: ResourceSet, put: Group) -> ResourceSet:
    """What a client holds after it refused these resources: it may hold any of them."""
    unknown = {name: UNKNOWN for name, _ in put if name in held.resources}
    return held.altered(unknown) if unknown else held


def narrowed(put: Group, suspects: list[Group]) -> Group:
    """The refused resource if it was alone in the response; else empty, and the halves become the next suspects."""
    if len(put) <= 1:
        return put
    middle = len(put) // 2
    suspects += [put[middle:], put[:middle]]
    return ()


def next_group(suspects: list[Group], goal: ResourceSet, held: ResourceSet) -> Group:
    """The suspects to send next: those that are still wanted and still in doubt."""
    while suspects:
        group = tuple(
            (name, digest)
            for name, digest in suspects.pop()
            if goal.resources.get(name) == digest and held.resources.get(name) == UNKNOWN
        )
        if group:
            return group
    return ()
