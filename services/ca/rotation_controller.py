"""Walks the state machine of `rotation`: looks, plans, publishes, and says what it waits for.

Any number of replicas may walk at once: a step is an append that expects the bundle it was planned from.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from services.ca.core.cluster_state import ClusterState
from services.ca.core.rotation_plan import RotationFacts, RotationPlan, first_bundle, plan
from services.ca.log.bundle_publisher import BundlePublisher
from services.ca.providers.root_registry import RootRegistry
from shared.eventlog.protocol import Draft, DuplicateError, EventLog, EventLogError, StaleWriterError
from shared.eventlog.view import LogView
from shared.records.certificates import AuditNote, TrustBundle, TrustedRoot, encode
from shared.records.subjects import Streams

_log = logging.getLogger(__name__)
PACE_SECONDS = 1.0
"""Between two looks while a rotation is under way."""
IDLE_SECONDS = 60.0
NAMED = 20
"""How many of those that are waited for a note names."""


class RotationProgress(Protocol):
    """What steps wait for: `progress.FleetProgress`."""

    async def refresh(self, held: TrustBundle) -> None:
        """Look anew. Raises `EventLogError`."""
        ...

    def untrusting(self, serial: int) -> list[str]:
        """Who has not acknowledged this bundle."""
        ...

    def uncompiled(self, root: TrustedRoot) -> list[str]:
        """Whose configuration does not accept the trust domain of a root."""
        ...

    def unrenewed(self, serial: int) -> list[str]:
        """Who may use a certificate of an older bundle."""
        ...


class RotationController:
    """`run` it as a task; the bundle is in `publisher.published`."""

    def __init__(
        self,
        *,
        roots: RootRegistry,
        facts: ClusterState,
        view: LogView,
        publisher: BundlePublisher,
        progress: RotationProgress,
        undistributed: Callable[[int], list[str]],
        certs: EventLog,
        streams: Streams,
        trust_domain: str,
        looked: Callable[[RotationPlan], None] = lambda _: None,
        failed: Callable[[EventLogError], None] = lambda _: None,
    ) -> None:
        """`undistributed` names places outside the log that do not hold a bundle yet.

        `looked` is told of each look and what came of it, `failed` of each that the log did not let end.
        """
        self._roots = roots
        self._facts = facts
        self._view = view
        self._publisher = publisher
        self._progress = progress
        self._undistributed = undistributed
        self._certs = certs
        self._streams = streams
        self._trust_domain = trust_domain
        self._looked = looked
        self._failed = failed
        self._told: AuditNote | None = None

    async def run(self) -> None:
        """Walk for ever."""
        await self._view.caught_up.wait()
        while True:
            changed = self._view.next_change()
            try:
                delay = await self.step()
            except (StaleWriterError, DuplicateError):
                delay = 0.0
            except EventLogError as error:
                _log.warning("the trust bundle cannot be seen to now: %s", error)
                self._failed(error)
                delay = PACE_SECONDS
            try:
                async with asyncio.timeout(delay):
                    await changed.wait()
                    # Facts of a busy cluster change all the time; a plan needs no more than one look a second.
                    await asyncio.sleep(min(delay, PACE_SECONDS))
            except TimeoutError:
                pass

    async def step(self) -> float:
        """One look, and at most one step; seconds until the next look. Raises `EventLogError`."""
        held = await self._publisher.read()
        candidates = await self._roots.candidates(self._facts.roots, held)
        serial = self._publisher.next_serial(held)
        if (held is None or not held.members) and not self._facts.told:
            return PACE_SECONDS
        if held is None or not held.members:
            bundle = first_bundle(
                candidates, trust_domain=self._trust_domain, serial=serial, key_type=self._facts.key_type
            )
            if bundle is None:
                reason = "; ".join(f"{name}: {why}" for name, why in sorted(self._roots.problems.items()))
                _log.warning("there is no root to publish yet: %s", reason or "none is active")
                return PACE_SECONDS
            await self._publisher.publish(bundle)
            first = RotationPlan(bundle=bundle, step="first", why="the first trust bundle")
            self._looked(first)
            await self._tell(first)
            return 0.0
        if _under_way(held, candidates_differ=_differ(held, self._facts)):
            await self._progress.refresh(held)
        found = plan(
            held,
            candidates,
            RotationFacts(
                untrusting=self._untrusting,
                uncompiled=self._progress.uncompiled,
                unrenewed=self._progress.unrenewed,
            ),
            serial=serial,
            key_type=self._facts.key_type,
        )
        if found.bundle is not held or self._publisher.ageing:
            await self._publisher.publish(found.bundle)
        self._looked(found)
        await self._tell(self._with_problems(found))
        return IDLE_SECONDS if found.step in {"steady", "refused"} else PACE_SECONDS

    def _untrusting(self, serial: int) -> list[str]:
        return self._undistributed(serial) + self._progress.untrusting(serial)

    def _with_problems(self, found: RotationPlan) -> RotationPlan:
        broken = [f"{name}: {why}" for name, why in sorted(self._roots.problems.items())]
        if not broken:
            return found
        return msgspec.structs.replace(
            found, step="refused" if found.step == "steady" else found.step, waiting=(*broken, *found.waiting)
        )

    async def _tell(self, found: RotationPlan) -> None:
        """Note a step, and what is waited for whenever that changes."""
        note = AuditNote(
            what="rotation",
            code=f"rotation/{found.step}",
            why=found.why,
            bundle_serial=found.bundle.serial,
            waiting=list(found.waiting[:NAMED]),
            waiting_count=len(found.waiting),
        )
        if note == self._told:
            return
        if self._told is not None or found.step != "steady":
            _log.info("rotation: %s", found.step, extra={"why": found.why, "waiting": note.waiting_count})
        await self._certs.publish(Draft(subject=self._streams.audit_subject("rotation"), payload=encode(note)))
        self._told = note


def _differ(held: TrustBundle, facts: ClusterState) -> bool:
    return {member.name for member in held.members} != {one.name for one in facts.roots if one.role != "inactive"}


def _under_way(held: TrustBundle, *, candidates_differ: bool) -> bool:
    """Whether a step may be due that asks for facts."""
    return len(held.members) > 1 or candidates_differ
