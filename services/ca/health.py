"""Metrics of the CA and remarks of its `/readyz`: expiry, rotation, broken roots, what Kubernetes lacks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from services.ca.core.rotation_monitor import RotationMonitor
from services.ca.kubernetes.bundle_distributor import WEBHOOK_KINDS, BundleDistributor
from services.ca.providers.root_registry import RootRegistry
from shared.errors import MeshlogError
from shared.names import mutating_webhook
from shared.records.certificate_records import TrustBundle
from shared.service.watch_value import Latest
from shared.telemetry.metrics import Metrics

_NAMED = 5
"""Proxies that a remark names at most."""
_REMARK_SECONDS = 1.0
"""Seconds between two updates of the remarks."""


class Health:
    """Reads the state of the CA's components for metrics and remarks."""

    def __init__(
        self,
        *,
        bundle: Latest[TrustBundle],
        roots: RootRegistry,
        rotation: RotationMonitor,
        distributor: BundleDistributor | None,
        unwritable: Callable[[], bool],
        mesh_name: str,
    ) -> None:
        """`distributor` is `None` without Kubernetes; `unwritable` returns whether the log rejects this CA's writes."""
        self._bundle = bundle
        self._roots = roots
        self._rotation = rotation
        self._distributor = distributor
        self._unwritable = unwritable
        self._webhook = mutating_webhook(mesh_name)

    def expose(self, metrics: Metrics) -> None:
        """Register the gauges."""
        gauge = metrics.gauge
        gauge(
            "meshlog_ca_issuer_expiry_seconds",
            "Seconds until the issuing certificate expires; 0: none signs.",
            self._expiry,
        )
        gauge(
            "meshlog_ca_trusted_roots",
            "Roots in the trust bundle; more than one while a rotation is under way.",
            lambda: float(self._trusted()),
        )
        gauge("meshlog_ca_broken_roots", "Roots that cannot be used now.", lambda: float(len(self._roots.problems)))
        gauge(
            "meshlog_ca_rotation_waits_seconds",
            "Seconds for which a rotation of the root has waited for the same proxies; 0: it waits for none.",
            self._rotation.waited,
        )
        gauge(
            "meshlog_ca_log_unwritable",
            "1 while the log takes no answer of this process.",
            lambda: float(self._unwritable()),
        )
        gauge(
            "meshlog_ca_webhook_missing",
            "1 while the injector's webhook is not there: new pods get no sidecar.",
            lambda: float(bool(self._webhook_missing())),
        )
        gauge(
            "meshlog_ca_bundles_unwritten",
            "Namespaces into which the newest trust bundle cannot be written.",
            lambda: float(len(self._unwritten())),
        )

    async def report(self, remark: Callable[[str, str], None]) -> None:
        """Update the remarks for ever, once a second. `remark(name, text)` sets one; an empty text removes it."""
        while True:
            remark("rotation", self._rotation_remark())
            remark("webhook", self._webhook_missing())
            remark(
                "trust-bundle", _some([f"not in namespace {name}: {why}" for name, why in self._unwritten().items()])
            )
            await asyncio.sleep(_REMARK_SECONDS)

    def _expiry(self) -> float:
        bundle = self._bundle.value
        try:
            return self._roots.signer(bundle).not_after - time.time() if bundle is not None else 0.0
        except MeshlogError:
            return 0.0

    def _trusted(self) -> int:
        bundle = self._bundle.value
        return len(bundle.roots) if bundle is not None else 0

    def _unwritten(self) -> dict[str, str]:
        return self._distributor.unwritten if self._distributor is not None else {}

    def _webhook_missing(self) -> str:
        """Return a sentence if the injector's webhook does not exist; empty if it does or is not read yet."""
        seen = self._distributor.webhooks.get(WEBHOOK_KINDS[0]) if self._distributor is not None else None
        if seen is None or self._webhook in seen:
            return ""
        return f"{self._webhook} is not there: new pods get no sidecar"

    def _rotation_remark(self) -> str:
        """Return the state of the rotation and the roots that cannot be used; empty if there is neither."""
        plan, trusted = self._rotation.plan, self._trusted()
        broken = [f"root {name} cannot be used: {why}" for name, why in sorted(self._roots.problems.items())]
        if plan is None or not (trusted > 1 or plan.waiting or broken):
            return ""
        names = _some([*broken, *plan.waiting])
        return f"{trusted} roots are trusted; {plan.step}: {plan.why}{f': {names}' if names else ''}"


def _some(names: Sequence[str]) -> str:
    return "; ".join(names[:_NAMED]) + (" and more" if len(names) > _NAMED else "")
