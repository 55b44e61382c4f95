"""What proxies hold while a version arrives: an edge sends it in parts, and each proxy is somewhere on the way.

The parts are sent in the order that Envoy asks for (make before break): clusters, endpoints, listeners, routes, each
added to what is held, but listeners replace; then clusters, routes and endpoints that are no longer used go.
"""

from __future__ import annotations

import msgspec

from shared.records.snapshot import CDS, EDS, LDS, RDS, Snapshot

ADDED, REPLACED = (CDS, EDS, LDS, RDS), (LDS, CDS, RDS, EDS)
STAGES = 1 + len(ADDED) + len(REPLACED) - 1
"""Stage 0: everything is as before; the last: everything is as after."""

Names = dict[str, dict[str, str]]


def _held(before: Names, after: Names, stage: int) -> Names:
    held = {kind: dict(names) for kind, names in before.items()}
    for kind in ADDED[:stage]:
        old = {} if kind == LDS else before.get(kind, {})
        held[kind] = {**old, **after.get(kind, {})}
    for kind in REPLACED[: max(0, stage - len(ADDED) + 1)] if stage > len(ADDED) else ():
        held[kind] = dict(after.get(kind, {}))
    return held


def between(before: Snapshot, after: Snapshot, stage: int) -> Snapshot:
    """The mesh when every proxy has got this far; one that comes has all of its own, one that goes keeps its own."""
    found = Snapshot()
    found.trust_domain = after.trust_domain
    found.resources = {**before.resources, **after.resources}
    for key in {*before.proxies, *after.proxies}:
        old, new = before.proxies.get(key), after.proxies.get(key)
        there = new or old
        assert there is not None
        first = before.views[old.workload_class] if old else after.views[there.workload_class]
        last = after.views[new.workload_class] if new else first
        # A class of its own for each proxy: two that share one now may not have shared one before.
        found.views[key] = _held(first, last, stage)
        found.proxies[key] = msgspec.structs.replace(there, workload_class=key)
    return found
