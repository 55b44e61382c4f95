"""Which connections a change ends: Envoy keeps those of filter chains that stay, and of no others.

A listener of which only filter chains change is changed in place: the connections of the chains that stay, stay
(`ListenerMessageUtil::filterChainOnlyChange` in Envoy). Anything else in it that changes, or the listener's own end,
ends all of its connections. A proxy that moves to another class is compared with what the new class holds, and one
that leaves the mesh is told nothing any more: it keeps what it holds. Tried with a real Envoy
(`tests/integration/history/test_draining.py`).
"""

from __future__ import annotations

import msgspec
from envoy.config.listener.v3.listener_pb2 import Listener

from shared.records.snapshot import LDS, Snapshot

DEFAULT_CHAIN = "default"
"""What the chain is called that takes what no other does."""


class Drain(msgspec.Struct, frozen=True):
    """A listener that would let connections end."""

    workload_class: str
    becomes: str
    """The class that these proxies move to; the same if they stay."""
    proxies: int
    listener: str
    chains: tuple[str, ...]
    """Filter chains whose connections end; empty: those of all."""
    goes: bool
    """Whether the listener is not there any more."""


class Drains(msgspec.Struct, frozen=True):
    """All that ends, and what no longer follows."""

    found: list[Drain]
    leaving: list[str]
    """Proxies (`NS/POD`) that are no longer of the mesh: they keep their connections, and what they hold."""


def draining(before: Snapshot, after: Snapshot) -> Drains:
    """Every listener of a proxy that changes in a way that ends connections."""
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
    """Names of the chains that end; empty: all of them; none: nothing ends."""
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
