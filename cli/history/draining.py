"""Which connections a change ends: Envoy keeps those of filter chains that stay, and of no others."""

from __future__ import annotations

import msgspec
from envoy.config.listener.v3.listener_pb2 import Listener

from cli.history.changes import Difference
from shared.snapshot import LDS, Snapshot


class Drain(msgspec.Struct, frozen=True):
    """A listener of a class that would let connections end."""

    workload_class: str
    listener: str
    chains: tuple[str, ...]
    """Filter chains whose connections end; empty: those of all."""


def draining(before: Snapshot, after: Snapshot, difference: Difference) -> list[Drain]:
    """Every listener that changes in a way that ends connections."""
    found: list[Drain] = []
    for workload_class, changes in difference.classes.items():
        for change in changes:
            if change.type_url != LDS or not change.before or not change.after:
                continue
            old = Listener.FromString(before.resources[LDS, change.name, change.before].body)
            new = Listener.FromString(after.resources[LDS, change.name, change.after].body)
            chains = _ended(old, new)
            if chains is not None:
                found.append(Drain(workload_class, change.name, chains))
    return found


def _ended(old: Listener, new: Listener) -> tuple[str, ...] | None:
    """Names of the chains that end; empty: all of them; none: nothing ends."""
    was = {chain.name: chain.SerializeToString(deterministic=True) for chain in old.filter_chains}
    now = {chain.name: chain.SerializeToString(deterministic=True) for chain in new.filter_chains}
    ended = tuple(sorted(name for name in was if now.get(name) != was[name]))
    for listener in (old, new):
        del listener.filter_chains[:]
    if old != new:
        return ()
    return ended or None
