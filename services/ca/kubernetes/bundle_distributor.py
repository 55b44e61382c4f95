"""Distributes the trust bundle to consumers that do not read the log: pods and the API server.

Pods mount a ConfigMap of their namespace; the API server reads the webhook configurations. The distributor remembers
what it wrote by namespace and uid. It writes again if the bundle or the namespace changes, and every five minutes in
case an object was deleted. Failures are retried one by one, so that a namespace that refuses delays no other.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import AsyncIterable, Callable, Mapping
from typing import Any

import msgspec

from services.ca.core.kube_api import KubeApi, KubeError
from shared.io.decoding import UndecodableError, decode
from shared.names import CA, LABEL_INJECT_CA, TRUST_BUNDLE, TRUST_BUNDLE_KEY
from shared.records.certificate_records import TrustBundle
from shared.service.watch_value import Latest
from shared.timing.backoff import Backoff

_log = logging.getLogger(__name__)
MANAGER = CA
WEBHOOK_KINDS = ("mutatingwebhookconfigurations", "validatingwebhookconfigurations")
_ADMISSION = "/apis/admissionregistration.k8s.io/v1"
CLUSTER_BUNDLES = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles"
_RESYNC_SECONDS = 300.0
_CONFIG_MAP_BACKOFF = Backoff(first=2.0, longest=30.0)
_WEBHOOK_BACKOFF = Backoff(first=1.0, longest=30.0)
_WATCH_SECONDS = 600
_PACE_SECONDS = 0.5
"""Shortest time between two lists of the webhooks in seconds; the watch reports changes in between."""


class _NamedMeta(msgspec.Struct, frozen=True):
    name: str


class _ClientConfig(msgspec.Struct, frozen=True, rename="camel"):
    ca_bundle: str = ""


class _ConfiguredWebhook(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    client_config: _ClientConfig = _ClientConfig()


class _WebhookConfiguration(msgspec.Struct, frozen=True):
    metadata: _NamedMeta
    webhooks: list[_ConfiguredWebhook] = []


class _WebhookListMeta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _WebhookList(msgspec.Struct, frozen=True):
    metadata: _WebhookListMeta = _WebhookListMeta()
    items: list[_WebhookConfiguration] = []


def bundle_pem(bundle: TrustBundle) -> str:
    """Return all roots as one PEM text."""
    return "".join(root if root.endswith("\n") else root + "\n" for root in bundle.roots)


def config_map(namespace: str, bundle: TrustBundle) -> dict[str, Any]:
    """Return the ConfigMap that pods mount."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": TRUST_BUNDLE,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": MANAGER},
        },
        "data": {TRUST_BUNDLE_KEY: bundle_pem(bundle)},
    }


def webhook_patch(webhooks: list[_ConfiguredWebhook], ca_bundle: str) -> list[dict[str, Any]]:
    """Return the JSON patch that sets this bundle in every webhook, empty if all have it.

    Its `test` operations guard against a reordered list.
    """
    patch: list[dict[str, Any]] = []
    for index, webhook in enumerate(webhooks):
        if webhook.client_config.ca_bundle != ca_bundle:
            patch.append({"op": "test", "path": f"/webhooks/{index}/name", "value": webhook.name})
            patch.append({"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": ca_bundle})
    return patch


class BundleDistributor:
    """Writes the bundle into ConfigMaps and webhook configurations; run each loop as a task."""

    def __init__(
        self,
        kube: KubeApi,
        *,
        bundle: Latest[TrustBundle],
        members: Callable[[], dict[str, str]],
        clock: Callable[[], float] = time.time,
        settle: float = 0.0,
        cluster_bundle: str = "",
    ) -> None:
        """`bundle` holds the newest bundle; `members` returns the namespaces that get it, with their uids.

        `settle` is the time in seconds that kubelets may take to refresh mounted ConfigMaps, which they do not report.
        `cluster_bundle` is the name of a ClusterTrustBundle that is kept current, too; empty for none.
        """
        self._clock = clock
        self._settle = settle
        self._cluster_bundle = cluster_bundle
        self._kube = kube
        self._bundle = bundle
        self._members = members
        self._written: dict[str, tuple[str, int]] = {}
        """Namespace → its uid, and serial of the bundle that was written there."""
        self._held: dict[str, tuple[int, float]] = {}
        """Kind of place → serial of the bundle that all of them hold, and since when."""
        self._shown: dict[str, TrustBundle] = {}
        """Kind of webhooks → the bundle that was written there last."""
        self.webhooks: dict[str, frozenset[str]] = {}
        """Kind → names of the configurations that hold the bundle. A kind that was not listed yet is missing."""
        self.unwritten: dict[str, str] = {}
        """Namespace → why the newest bundle cannot be written there."""
        self._woken = asyncio.Event()

    def undistributed(self, serial: int) -> list[str]:
        """Return the kinds of places that have not held this bundle (or a later one) for `settle` seconds yet."""
        now = self._clock()
        late: list[str] = []
        for kind in ("configmaps", *WEBHOOK_KINDS):
            held, since = self._held.get(kind, (0, now))
            if held < serial:
                late.append(f"{kind}: do not all hold the new trust bundle yet")
            elif now - since < self._settle:
                late.append(f"{kind}: kubelets get {self._settle:g} s to refresh what they mounted")
        return late

    def _note_held(self, kind: str, serial: int) -> None:
        if self._held.get(kind, (0, 0.0))[0] < serial:
            self._held[kind] = (serial, self._clock())

    def wake(self) -> None:
        """Request a reconciliation: members or bundle may have changed."""
        self._woken.set()

    async def wake_by(self, changes: AsyncIterable[object]) -> None:
        """Request a reconciliation at each change, for ever."""
        async for _ in changes:
            self.wake()

    async def run_config_maps(self) -> None:
        """Reconcile at each request, after failures, and every five minutes. Never returns."""
        delays = _CONFIG_MAP_BACKOFF.delays()
        while True:
            self._woken.clear()
            complete = await self.reconcile_config_maps()
            if complete:
                delays.reset()
            try:
                async with asyncio.timeout(_RESYNC_SECONDS if complete else delays.next()):
                    await self._woken.wait()
            except TimeoutError:
                if complete:
                    self._written.clear()

    async def reconcile_config_maps(self) -> bool:
        """Write what is missing or old. Returns whether everything is current."""
        bundle, members = await self._bundle.wait(), self._members()
        for gone in self._written.keys() - members.keys() - {CLUSTER_BUNDLES}:
            del self._written[gone]
        self.unwritten = {name: why for name, why in self.unwritten.items() if name in members}
        complete = True
        for namespace, uid in sorted(members.items()):
            if self._written.get(namespace) == (uid, bundle.serial):
                continue
            try:
                await self._write(namespace, bundle)
                self._written[namespace] = (uid, bundle.serial)
                self.unwritten.pop(namespace, None)
            except KubeError as error:
                complete = False
                self.unwritten[namespace] = str(error)
                _log.warning("the trust bundle is not in namespace %s yet: %s", namespace, error)
        if self._cluster_bundle and self._written.get(CLUSTER_BUNDLES) != ("", bundle.serial):
            complete = await self._write_cluster_bundle(bundle) and complete
        if complete:
            self._note_held("configmaps", bundle.serial)
        return complete

    async def run_webhooks(self, kind: str) -> None:
        """Keep the webhook configurations of one kind current: list, write, watch. Never returns."""
        delays = _WEBHOOK_BACKOFF.delays()
        while True:
            try:
                version = await self.reconcile_webhooks(kind)
                delays.reset()
                await asyncio.sleep(_PACE_SECONDS)
                await self._wait_for_change(kind, version)
            except KubeError as error:
                _log.warning("%s are not current: %s", kind, error)
                await asyncio.sleep(delays.next())

    async def reconcile_webhooks(self, kind: str) -> str:
        """Write the bundle into every labelled configuration.

        Returns the resource version of the list. Raises `KubeError`.
        """
        path = f"{_ADMISSION}/{kind}"
        answer = await self._kube.request("GET", path, query={"labelSelector": f"{LABEL_INJECT_CA}=true"})
        if answer.status != 200:
            raise KubeError.of("GET", path, answer)
        try:
            found = decode(_WebhookList, answer.body)
        except UndecodableError as error:
            raise KubeError("kube/answer", "the list cannot be read", about=path) from error
        bundle = await self._bundle.wait()
        ca_bundle = base64.b64encode(bundle_pem(bundle).encode()).decode()
        for configuration in found.items:
            patch = webhook_patch(configuration.webhooks, ca_bundle)
            if patch:
                await self._patch(f"{path}/{configuration.metadata.name}", patch)
                _log.info("wrote the trust bundle into %s", configuration.metadata.name)
        self._shown[kind] = bundle
        self.webhooks[kind] = frozenset(one.metadata.name for one in found.items if one.webhooks)
        self._note_held(kind, bundle.serial)
        return found.metadata.resource_version

    async def _wait_for_change(self, kind: str, version: str) -> None:
        query: Mapping[str, str] = {
            "watch": "1",
            "labelSelector": f"{LABEL_INJECT_CA}=true",
            "resourceVersion": version,
            "timeoutSeconds": str(_WATCH_SECONDS),
        }

        async def changed() -> None:
            async for _ in self._kube.watch(f"{_ADMISSION}/{kind}", query=query):
                return

        watching = asyncio.ensure_future(changed())
        renewed = asyncio.ensure_future(self._other_than(self._shown.get(kind)))
        try:
            await asyncio.wait([watching, renewed], return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
        finally:
            for task in (watching, renewed):
                task.cancel()
            await asyncio.gather(watching, renewed, return_exceptions=True)

    async def _other_than(self, shown: TrustBundle | None) -> None:
        """Wait for another bundle. One that was published while `shown` was written counts, too."""
        async for bundle in self._bundle.changes():
            if bundle != shown:
                return

    async def _write_cluster_bundle(self, bundle: TrustBundle) -> bool:
        """Write the ClusterTrustBundle if the API has that kind (KEP 3257). Returns whether nothing is left to do."""
        path = f"{CLUSTER_BUNDLES}/{self._cluster_bundle}"
        body = {
            "apiVersion": "certificates.k8s.io/v1beta1",
            "kind": "ClusterTrustBundle",
            "metadata": {"name": self._cluster_bundle},
            "spec": {"trustBundle": bundle_pem(bundle)},
        }
        try:
            answer = await self._kube.request(
                "PATCH",
                path,
                query={"fieldManager": MANAGER, "force": "true"},
                body=body,
                content_type="application/apply-patch+yaml",
            )
            if answer.status not in {200, 201, 404}:
                raise KubeError.of("PATCH", path, answer)
        except KubeError as error:
            _log.warning("the ClusterTrustBundle is not current: %s", error)
            return False
        self._written[CLUSTER_BUNDLES] = ("", bundle.serial)
        return True

    async def _write(self, namespace: str, bundle: TrustBundle) -> None:
        path = f"/api/v1/namespaces/{namespace}/configmaps/{TRUST_BUNDLE}"
        answer = await self._kube.request(
            "PATCH",
            path,
            query={"fieldManager": MANAGER, "force": "true"},
            body=config_map(namespace, bundle),
            content_type="application/apply-patch+yaml",
        )
        if answer.status not in {200, 201}:
            raise KubeError.of("PATCH", path, answer)

    async def _patch(self, path: str, patch: list[dict[str, Any]]) -> None:
        answer = await self._kube.request(
            "PATCH",
            path,
            query={"fieldManager": MANAGER},
            body=patch,
            content_type="application/json-patch+json",
        )
        if answer.status not in {200, 201}:
            raise KubeError.of("PATCH", path, answer)
