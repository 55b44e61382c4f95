"""Runs the state machine of root rotation: reads the bundle, plans, publishes, and notes what it waits for.

Any number of replicas may run it at once: a step is an append that expects the bundle from which it was planned.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from services.ca.core.cluster_state import ClusterState
from services.ca.core.rotation_plan import (
    Candidate,
    RotationFacts,
    RotationPlan,
    RotationStep,
    first_bundle,
    plan,
)
from services.ca.log.bundle_publisher import BundlePublisher
from services.ca.providers.root_registry import RootRegistry
from shared.eventlog.protocol import Draft, DuplicateError, EventLog, EventLogError, StaleWriterError
from shared.eventlog.view import LogView
from shared.records.certificate_records import AuditNote, TrustBundle, TrustedRoot, encode
from shared.records.subjects import Streams

_log = logging.getLogger(__name__)
PACE_SECONDS = 1.0
"""Seconds between two steps during a rotation."""
IDLE_SECONDS = 60.0
"""Seconds between two steps otherwise, unless the state of the cluster changes."""
NAMED = 20
"""Proxies that a note names at most."""


class RotationProgress(Protocol):
    """What the steps wait for: `rotation_progress.FleetProgress`."""

    async def refresh(self, held: TrustBundle) -> None:
        """Read the log again. Raises `EventLogError`."""
        ...

    def untrusting(self, serial: int) -> list[str]:
        """Return the proxies that have not acknowledged this bundle."""
        ...

    def uncompiled(self, root: TrustedRoot) -> list[str]:
        """Return the proxies whose configuration does not accept the trust domain of a root."""
        ...

    def unrenewed(self, serial: int) -> list[str]:
        """Return the workloads that may use a certificate of an older bundle."""
        ...


class RotationController:
    """Rotates roots; `run` it as a task. The bundle is in `publisher.published`."""

    def __init__(
        self,
        *,
        roots: RootRegistry,
        state: ClusterState,
        view: LogView,
        publisher: BundlePublisher,
        progress: RotationProgress,
        undistributed: Callable[[int], list[str]],
        certs: EventLog,
        streams: Streams,
        trust_domain: str,
        planned: Callable[[RotationPlan], None] = lambda _: None,
        failed: Callable[[EventLogError], None] = lambda _: None,
    ) -> None:
        """`undistributed` returns the places outside the log that do not hold a bundle yet.

        `planned` is called with each plan, `failed` with each error of the log that ended a step.
        """
        self._roots = roots
        self._state = state
        self._view = view
        self._publisher = publisher
        self._progress = progress
        self._undistributed = undistributed
        self._certs = certs
        self._streams = streams
        self._trust_domain = trust_domain
        self._planned = planned
        self._failed = failed
        self._noted: AuditNote | None = None

    async def run(self) -> None:
        """Step for ever."""
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
                    # A busy cluster changes all the time; one plan a second is enough.
                    await asyncio.sleep(min(delay, PACE_SECONDS))
            except TimeoutError:
                pass

    async def step(self) -> float:
        """Plan, and take at most one step. Returns the seconds until the next. Raises `EventLogError`."""
        held = await self._publisher.read()
        candidates = await self._roots.candidates(self._state.roots, held)
        serial = self._publisher.next_serial(held)
        if held is None or not held.members:
            return await self._publish_first(candidates, serial)
        if len(held.members) > 1 or _goal_differs(held, self._state):
            await self._progress.refresh(held)
        facts = RotationFacts(
            untrusting=self._untrusting,
            uncompiled=self._progress.uncompiled,
            unrenewed=self._progress.unrenewed,
        )
        found = plan(held, candidates, facts, serial=serial, key_type=self._state.key_type)
        if found.bundle is not held or self._publisher.ageing:
            await self._publisher.publish(found.bundle)
        self._planned(found)
        await self._note(self._with_problems(found))
        return IDLE_SECONDS if found.step in {RotationStep.STEADY, RotationStep.REFUSED} else PACE_SECONDS

    async def _publish_first(self, candidates: list[Candidate], serial: int) -> float:
        """Publish the first bundle, once the log contains our cluster and a root can be used."""
        if not self._state.known:
            return PACE_SECONDS
        bundle = first_bundle(candidates, trust_domain=self._trust_domain, serial=serial, key_type=self._state.key_type)
        if bundle is None:
            reason = "; ".join(f"{name}: {why}" for name, why in sorted(self._roots.problems.items()))
            _log.warning("there is no root to publish yet: %s", reason or "none is active")
            return PACE_SECONDS
        await self._publisher.publish(bundle)
        first = RotationPlan(bundle=bundle, step=RotationStep.FIRST, why="the first trust bundle")
        self._planned(first)
        await self._note(first)
        return 0.0

    def _untrusting(self, serial: int) -> list[str]:
        return self._undistributed(serial) + self._progress.untrusting(serial)

    def _with_problems(self, found: RotationPlan) -> RotationPlan:
        broken = [f"{name}: {why}" for name, why in sorted(self._roots.problems.items())]
        if not broken:
            return found
        step = RotationStep.REFUSED if found.step is RotationStep.STEADY else found.step
        return msgspec.structs.replace(found, step=step, waiting=(*broken, *found.waiting))

    async def _note(self, found: RotationPlan) -> None:
        """Append a note of each step, and whenever what it waits for changes."""
        note = AuditNote(
            what="rotation",
            code=f"rotation/{found.step}",
            why=found.why,
            bundle_serial=found.bundle.serial,
            waiting=list(found.waiting[:NAMED]),
            waiting_count=len(found.waiting),
        )
        if note == self._noted:
            return
        if self._noted is not None or found.step is not RotationStep.STEADY:
            _log.info("rotation: %s", found.step, extra={"why": found.why, "waiting": note.waiting_count})
        await self._certs.publish(Draft(subject=self._streams.audit_subject("rotation"), payload=encode(note)))
        self._noted = note


def _goal_differs(held: TrustBundle, state: ClusterState) -> bool:
    """Return whether the bundle contains other roots than the MeshRootCertificates configure."""
    return {member.name for member in held.members} != {one.name for one in state.roots if one.role != "inactive"}
