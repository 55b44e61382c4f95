"""Computes which connections a change ends: Envoy keeps those of filter chains that stay, and no others.

If only filter chains of a listener change, Envoy updates it in place and the connections of unchanged chains stay
(`ListenerMessageUtil::filterChainOnlyChange` in Envoy). Any other change of a listener, or its removal, ends all of
its connections. A proxy that moves to another class is compared with the view of the new class. A proxy that leaves
the mesh receives no more configuration and keeps the last. Verified with a real Envoy
(`tests/integration/history/test_draining.py`).
"""

from __future__ import annotations

import msgspec
from envoy.config.listener.v3.listener_pb2 import Listener

from shared.records.snapshot import LDS, Snapshot

DEFAULT_CHAIN = "default"
"""Name for the chain that takes the connections which no other chain matches."""


class Drain(msgspec.Struct, frozen=True):
    """A listener whose connections a change ends."""

    workload_class: str
    becomes: str
    """The class that these proxies move to; the same class if they stay."""
    proxies: int
    listener: str
    chains: tuple[str, ...]
    """Filter chains whose connections end; empty if all connections of the listener end."""
    goes: bool
    """Whether the listener is removed."""


class Drains(msgspec.Struct, frozen=True):
    """The listeners whose connections end, and the proxies that leave the mesh."""

    found: list[Drain]
    leaving: list[str]
    """Proxies (`NS/POD`) that leave the mesh: they keep their connections and their last configuration."""


def draining(before: Snapshot, after: Snapshot) -> Drains:
    """Return every listener of a proxy whose change ends connections."""
    moves: dict[tuple[str, str], int] = {}
    leaving: list[str] = []
    for key, proxy in sorted(before.proxies.items()):
        now = after.proxies.get(key)
        if now is None:
            leaving.append(key.partition("/")[2])
        else:
            move = proxy.workload_class, now.workload_class
            moves[move] = moves.get(move, 0) + 1
    found: list[Drain] = []
    for (was, becomes), proxies in moves.items():
        old, new = before.views[was].get(LDS, {}), after.views[becomes].get(LDS, {})
        for name, digest in sorted(old.items()):
            chains = _ended_by(before, after, name, digest, new.get(name, ""))
            if chains is not None:
                found.append(Drain(was, becomes, proxies, name, chains, goes=name not in new))
    return Drains(found, leaving)


def ended(old: Listener, new: Listener | None) -> tuple[str, ...] | None:
    """Return the names of the chains whose connections end: empty if all connections end, None if none does."""
    if new is None:
        return ()
    was, now = _chains(old), _chains(new)
    chains = tuple(sorted(name for name in was if now.get(name) != was[name]))
    if _without_chains(old) != _without_chains(new):
        return ()
    return chains or None


def _ended_by(before: Snapshot, after: Snapshot, name: str, old: str, new: str) -> tuple[str, ...] | None:
    if old == new:
        return None
    listener = Listener.FromString(before.resources[LDS, name, old].body)
    if listener.HasField("api_listener"):
        return None  # of a gRPC library, which keeps its connections
    return ended(listener, Listener.FromString(after.resources[LDS, name, new].body) if new else None)


def _chains(listener: Listener) -> dict[str, bytes]:
    found = {chain.name: chain.SerializeToString(deterministic=True) for chain in listener.filter_chains}
    if listener.HasField("default_filter_chain"):
        found[DEFAULT_CHAIN] = listener.default_filter_chain.SerializeToString(deterministic=True)
    return found


def _without_chains(listener: Listener) -> bytes:
    rest = Listener()
    rest.CopyFrom(listener)
    del rest.filter_chains[:]
    rest.ClearField("default_filter_chain")
    return rest.SerializeToString(deterministic=True)
