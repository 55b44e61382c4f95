"""`meshlog run ca`: settings, keys, the log, and the CA's parts in one process."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from services.ca.assembly import CertificateAuthority
from services.ca.authority import Authority, generate_authority
from services.ca.keystore import FileKeyStore, KeyStore, SecretKeyStore
from services.ca.kube import KubeClient, KubeError
from services.ca.provider import ProviderContext, find_provider
from services.ca.settings import CaSettings
from shared import process
from shared.certificates import SigningAnswer
from shared.errors import BadInputError
from shared.eventlog.jetstream import JetStreamLogs
from shared.process import Context
from shared.telemetry.metrics import Counter

_RETRY_SECONDS = 1.0


async def serve(context: Context[CaSettings]) -> None:
    """Run the CA until it is told to stop."""
    settings = context.settings
    create_provider = find_provider(settings.provider)
    issued = context.metrics.counter("meshlog_ca_answers_total", "Signing requests answered, by the code of a refusal.")
    kubeconfig = Path(settings.kubeconfig) if settings.kubeconfig else None
    kube = await KubeClient.connect(kubeconfig) if _uses_kubernetes(settings) else None
    logs = JetStreamLogs.from_settings(settings, name=f"ca {context.instance}")
    try:
        authority = await _authority(context, kube)
        provider = await create_provider(ProviderContext(authority=authority, trust_domain=settings.trust_domain))
        context.metrics.gauge(
            "meshlog_ca_issuer_expiry_seconds",
            "Seconds until the issuing certificate expires.",
            lambda: provider.not_after - time.time(),
        )
        ca = CertificateAuthority(
            settings,
            authority=authority,
            provider=provider,
            kube=kube if settings.kubernetes else None,
            answered=partial(_count, issued),
        )
        for name, part in await ca.parts(logs, context.ready):
            context.spawn(part, name)
        await context.stopping.wait()
    finally:
        await context.cancel_parts()
        await logs.close()
        if kube is not None:
            await kube.close()


def _uses_kubernetes(settings: CaSettings) -> bool:
    """Whether the settings need the Kubernetes API; raises `BadInputError` for a key file without a path."""
    if settings.key_store == "file" and not settings.key_file:
        raise BadInputError("settings/missing", "needs --key-file, because --key-store is file", about="meshlog run ca")
    return settings.kubernetes or settings.key_store == "secret"


async def _authority(context: Context[CaSettings], kube: KubeClient | None) -> Authority:
    """The CA's keys; waits, with one line, while the Kubernetes API cannot answer."""
    settings = context.settings
    store: KeyStore
    if kube is not None and settings.key_store == "secret":
        store = SecretKeyStore(kube, namespace=settings.namespace, name=settings.key_secret)
    else:
        store = FileKeyStore(Path(settings.key_file))
    waiting = False
    while True:
        try:
            authority = await store.load_or_create(
                settings.trust_domain, partial(generate_authority, settings.trust_domain, clock=time.time)
            )
        except KubeError as error:
            if not waiting:
                context.log.warning("waiting for the CA's keys: %s", error)
            waiting = True
            context.ready("keys", False, str(error))
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            context.ready("keys", True)
            return authority


def _count(counter: Counter, answer: SigningAnswer) -> None:
    counter.add(refused=answer.refused)


def main(argv: Sequence[str]) -> int:
    """Run the CA; the result is the exit code."""
    return process.main("ca", CaSettings, serve, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
