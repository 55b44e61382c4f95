"""Compiles the state at a version with proposed changes applied, and compares it with that state."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cli.calls.directory import Directory
from cli.history.changes import VersionDifference, between
from cli.history.recompile import compiled, compiler_of
from cli.history.timeline import Timeline, in_force, living
from cli.kubernetes.api_client import Manifest
from cli.kubernetes.manifest_files import ObjectId
from cli.offline.compilation import admission_warnings
from cli.plan.affected_scope import affected_scope, part_to_ask
from cli.plan.draining import Drains, draining
from cli.plan.observed_calls import ObservedCall, ObservedCalls, judged
from cli.plan.proposal import keys_of, propose
from cli.plan.reachability import CallChanges, changed_calls
from shared.records.pins import PIN_KIND
from shared.records.snapshot import Quarantined, Snapshot


class ChangePlan(msgspec.Struct, frozen=True):
    """The effects of applying a change."""

    version: int
    before: Snapshot
    after: Snapshot
    difference: VersionDifference
    calls: CallChanges
    seen: ObservedCalls
    drains: Drains
    left_out: list[Quarantined]
    """Objects that would be newly quarantined."""
    warnings: list[str]
    """Warnings of admission for objects without effect, or with an unintended one."""
    ignored: list[str]
    pinned: bool
    whole: bool
    """Whether `before` and `after` hold every proxy of the mesh, not only those that the change can affect."""

    @property
    def nothing(self) -> bool:
        """Whether the change affects no proxy."""
        return self.difference.nothing


async def plan(
    timeline: Timeline,
    version: int,
    put: list[Manifest],
    drop: list[ObjectId],
    *,
    whole: bool = False,
    seen: Sequence[ObservedCall] = (),
) -> ChangePlan:
    """Compile the state at a version, then the proposed one, and return the differences. Raises `BadInputError`.

    Compiles only the proxies that the change can affect, unless `whole` is set or calls are given as `seen`.
    """
    about = timeline.source.about
    asked = keys_of(about, put, drop)
    known = living(await timeline.state(version, part_to_ask(about, asked)))
    proposal = propose(about, known, put, drop)
    concerned = None if whole or seen else affected_scope(about, known, proposal.events)
    state = living(await timeline.state(version, concerned.part if concerned else None))
    serves = concerned.serves(state, proposal.events) if concerned else _everybody
    compiler = compiler_of(about, sorted(state.values(), key=lambda item: item.sequence), serves=serves)
    before = compiled(compiler)
    for sequence, event in enumerate(proposal.events, max((item.sequence for item in state.values()), default=0) + 1):
        compiler.fold(event, sequence)
    after = compiled(compiler, copied(before))
    difference = between(before, after)
    was = Directory((item.event for item in state.values()), cluster=about.cluster)
    now_state = {**{key: item.event for key, item in state.items()}, **{event.key: event for event in proposal.events}}
    now = Directory((event for event in now_state.values() if event.object is not None), cluster=about.cluster)
    policy = [*(item.event for item in in_force({**state, **known}.values()).values()), *proposal.events]
    return ChangePlan(
        version=version,
        before=before,
        after=after,
        difference=difference,
        seen=judged(seen, (before, was), (after, now)),
        calls=changed_calls((before, was), (after, now), difference, policy),
        drains=draining(before, after),
        left_out=difference.newly_left_out,
        warnings=[*admission_warnings(put, about.namespace)],
        ignored=proposal.ignored,
        pinned=any(key.kind == PIN_KIND for key in known),
        whole=concerned is None,
    )


def _everybody(_: object) -> bool:
    return True


def copied(snapshot: Snapshot) -> Snapshot:
    """Return an independent copy of a snapshot."""
    found = Snapshot()
    found.apply(snapshot.keyframe())
    found.version = snapshot.version
    return found
