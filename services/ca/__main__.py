"""`meshlog run ca`: settings, keys, the log, and the CA's parts in one process."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from services.ca.app import App
from services.ca.core.root_certificates import WantedRoot
from services.ca.keys.store import SECRET_KEY, FileKeyStore, KeyStore, SecretKeyStore
from services.ca.kubernetes.client import KubeApi, KubeClient
from services.ca.providers.base import find_provider
from services.ca.providers.root_registry import DEFAULT_ROOT
from services.ca.settings import CaSettings
from shared.errors import BadInputError, MeshlogError
from shared.eventlog.jetstream.log import JetStreamLogs
from shared.meshconfig.root_certificate import key_secret
from shared.records.certificates import SigningAnswer
from shared.service import process
from shared.service.process import Context
from shared.telemetry.metrics import Counter

_NAMED = 5
"""Proxies that a remark names."""


async def serve(context: Context[CaSettings]) -> None:
    """Run the CA until it is told to stop."""
    settings = context.settings
    find_provider(settings.provider)
    issued = context.metrics.counter("meshlog_ca_answers_total", "Signing requests answered, by the code of a refusal.")
    kubeconfig = Path(settings.kubeconfig) if settings.kubeconfig else None
    kube = await KubeClient.connect(kubeconfig) if _uses_kubernetes(settings) else None
    logs = JetStreamLogs.from_settings(settings, name=f"ca {context.instance}")
    context.count_foreign(logs.foreign)
    try:
        ca = App(
            settings,
            store=partial(key_store, settings, kube),
            kube=kube if settings.kubernetes else None,
            answered=partial(_count, issued),
        )
        _measure(context, ca)
        for name, part in await ca.parts(logs, context.ready):
            context.spawn(part, name)
        context.spawn(_remark(context, ca), "remarks")
        await context.stopping.wait()
    finally:
        await context.cancel_parts()
        await logs.close()
        if kube is not None:
            await kube.close()


def _measure(context: Context[CaSettings], ca: App) -> None:
    """What is to be seen of the CA's roots: how long they last, how many are trusted, what does not work."""

    def expiry() -> float:
        bundle = ca.bundle.value
        try:
            return ca.roots.signer(bundle).not_after - time.time() if bundle is not None else 0.0
        except MeshlogError:
            return 0.0

    def trusted() -> float:
        bundle = ca.bundle.value
        return float(len(bundle.roots)) if bundle is not None else 0.0

    gauge = context.metrics.gauge
    gauge("meshlog_ca_issuer_expiry_seconds", "Seconds until the issuing certificate expires; 0: none signs.", expiry)
    gauge(
        "meshlog_ca_trusted_roots", "Roots in the trust bundle; more than one while a rotation is under way.", trusted
    )
    gauge("meshlog_ca_broken_roots", "Roots that cannot be used now.", lambda: float(len(ca.roots.problems)))
    gauge(
        "meshlog_ca_rotation_waits_seconds",
        "Seconds for which a rotation of the root has waited for the same proxies; 0: it waits for none.",
        ca.waited,
    )
    gauge(
        "meshlog_ca_log_unwritable",
        "1 while the log takes no answer of this process.",
        lambda: float(ca.writes is not None and bool(ca.writes.trouble)),
    )
    gauge(
        "meshlog_ca_webhook_missing",
        "1 while the injector's webhook is not there: new pods get no sidecar.",
        lambda: float(bool(ca.webhook_missing())),
    )
    gauge(
        "meshlog_ca_bundles_unwritten",
        "Namespaces into which the newest trust bundle cannot be written.",
        lambda: float(len(ca.distributor.unwritten) if ca.distributor is not None else 0),
    )


async def _remark(context: Context[CaSettings], ca: App) -> None:
    """Have `/readyz` tell of roots, and of what Kubernetes lacks."""
    while True:
        context.remark("rotation", _rotation(ca))
        context.remark("webhook", ca.webhook_missing())
        unwritten = ca.distributor.unwritten if ca.distributor is not None else {}
        context.remark("trust-bundle", _some([f"not in namespace {name}: {why}" for name, why in unwritten.items()]))
        await asyncio.sleep(1.0)


def _rotation(ca: App) -> str:
    """A rotation that is under way, and roots that cannot be used; empty: none is."""
    plan, bundle = ca.plan, ca.bundle.value
    trusted = len(bundle.roots) if bundle is not None else 0
    broken = [f"root {name} cannot be used: {why}" for name, why in sorted(ca.roots.problems.items())]
    if plan is None or not (trusted > 1 or plan.waiting or broken):
        return ""
    names = _some([*broken, *plan.waiting])
    return f"{trusted} roots are trusted; {plan.step}: {plan.why}{f': {names}' if names else ''}"


def _some(names: Sequence[str]) -> str:
    return "; ".join(names[:_NAMED]) + (" and more" if len(names) > _NAMED else "")


def key_store(settings: CaSettings, kube: KubeApi | None, wanted: WantedRoot) -> KeyStore:
    """Where the keys of a root live: an entry of the CA's Secret (or of the one it names), or a file of its own."""
    default = wanted.name == DEFAULT_ROOT
    if kube is not None and settings.key_store == "secret":
        return SecretKeyStore(
            kube,
            namespace=settings.namespace,
            name=key_secret(wanted.settings, about=wanted.name) or settings.key_secret,
            entry=SECRET_KEY if default else f"{wanted.name}.json",
        )
    path = Path(settings.key_file)
    return FileKeyStore(path if default else path.with_name(f"{path.stem}-{wanted.name}{path.suffix}"))


def _uses_kubernetes(settings: CaSettings) -> bool:
    """Whether the settings need the Kubernetes API; raises `BadInputError` for a key file without a path."""
    if settings.key_store == "file" and not settings.key_file:
        raise BadInputError("settings/missing", "needs --key-file, because --key-store is file", about="meshlog run ca")
    return settings.kubernetes or settings.key_store == "secret"


def _count(counter: Counter, answer: SigningAnswer) -> None:
    counter.add(refused=answer.refused)


def main(argv: Sequence[str]) -> int:
    """Run the CA; the result is the exit code."""
    return process.main("ca", CaSettings, serve, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
