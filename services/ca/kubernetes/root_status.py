"""Writes the status of each MeshRootCertificate: whether it signs, is trusted, and what it waits for.

`kubectl get mrc` shows a rotation, and `kubectl wait --for=condition=Ready mrc/root-2` returns after a step of it. The
status follows from the bundle and the specifications, so all replicas write the same. Failed writes are retried.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

import msgspec

from services.ca.core.cluster_state import ClusterState
from services.ca.core.kube_api import KubeApi, KubeError
from services.ca.core.root_certificates import WantedRoot
from services.ca.core.rotation_plan import RotationPlan
from services.ca.kubernetes.bundle_distributor import MANAGER
from services.ca.providers.root_registry import RootRegistry
from shared.service.watch_value import Latest
from shared.timing.backoff import Backoff

_log = logging.getLogger(__name__)
_BACKOFF = Backoff(first=1.0, longest=30.0)
NAMED = 3
"""Proxies that a status names at most."""


class RotationOutcome(msgspec.Struct, frozen=True):
    """One plan of the state machine, with its inputs."""

    plan: RotationPlan
    wanted: tuple[WantedRoot, ...]
    problems: dict[str, str]
    """Roots that cannot be used now, with the reason."""


def root_status(root: WantedRoot, seen: RotationOutcome) -> dict[str, Any]:
    """Return the `status` of one MeshRootCertificate."""
    bundle, problem = seen.plan.bundle, seen.problems.get(root.name, "")
    places = [member.name for member in bundle.members]
    signs = places[:1] == [root.name]
    trusted = root.name in places
    ready = not problem and {"active": signs, "passive": trusted and not signs, "inactive": not trusted}[root.role]
    state = "broken" if problem else "signing" if signs else "trusted" if trusted else "unused"
    since = bundle.members[places.index(root.name)].since if trusted else bundle.serial
    message = "" if ready else problem or _waiting(seen.plan)
    return {
        "state": state,
        "message": message,
        "conditions": [
            _condition("Trusted", trusted, since),
            _condition("Signing", signs, bundle.signing_since if trusted else bundle.serial),
            _condition(
                "Ready", ready, bundle.serial, message, "AsWished" if ready else "Broken" if problem else "Waiting"
            ),
        ],
    }


def _waiting(plan: RotationPlan) -> str:
    names = "; ".join(plan.waiting[:NAMED])
    more = f" and {len(plan.waiting) - NAMED} more" if len(plan.waiting) > NAMED else ""
    return f"{plan.why}: {names}{more}" if plan.why and names else plan.why or f"{names}{more}"


def _condition(kind: str, holds: bool, since: int, message: str = "", reason: str = "") -> dict[str, Any]:  # noqa: FBT001
    return {
        "type": kind,
        "status": "True" if holds else "False",
        "reason": reason or (kind if holds else f"Not{kind}"),
        "message": message,
        # The serials of bundles are times, so that all replicas write the same.
        "lastTransitionTime": datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


class RootStatusWriter:
    """Writes the statuses; `run` it as a task, and `record` each plan."""

    def __init__(self, kube: KubeApi, *, namespace: str, state: ClusterState, roots: RootRegistry) -> None:
        self._kube = kube
        self._state = state
        self._roots = roots
        self._collection = f"/apis/config.openservicemesh.io/v1alpha2/namespaces/{namespace}/meshrootcertificates"
        self._seen: Latest[RotationOutcome] = Latest()
        self._written: dict[tuple[str, str], dict[str, Any]] = {}

    def record(self, plan: RotationPlan) -> None:
        """Record a plan, whose outcome `run` writes."""
        self._seen.set(RotationOutcome(plan, tuple(self._state.roots), dict(self._roots.problems)))

    async def run(self) -> None:
        """Write each new outcome, for ever. A failed write is retried with the newest outcome."""
        async for _ in self._seen.changes():
            delays = _BACKOFF.delays()
            while not await self.write():
                pause = delays.next()
                await asyncio.sleep(pause)

    async def write(self) -> bool:
        """Write each status that differs from the last one written. Returns whether all are written."""
        seen = await self._seen.wait()
        living = {(one.name, one.created) for one in seen.wanted}
        self._written = {key: status for key, status in self._written.items() if key in living}
        complete = True
        for root in seen.wanted:
            status, key = root_status(root, seen), (root.name, root.created)
            if self._written.get(key) == status:
                continue
            try:
                await self._patch(root.name, status)
                self._written[key] = status
            except KubeError as error:
                complete = False
                _log.warning("the status of root %s is not written yet: %s", root.name, error)
        return complete

    async def _patch(self, name: str, status: dict[str, Any]) -> None:
        path = f"{self._collection}/{name}/status"
        answer = await self._kube.request(
            "PATCH",
            path,
            query={"fieldManager": MANAGER},
            body={"status": status},
            content_type="application/merge-patch+json",
        )
        # 404: the object was deleted in the meantime.
        if answer.status not in {200, 404}:
            raise KubeError.of("PATCH", path, answer)
