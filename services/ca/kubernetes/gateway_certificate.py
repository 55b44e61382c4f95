"""Issues the certificate of an ingress gateway outside the mesh: MeshConfig `certificate.ingressGateway`.

Key and certificate are stored in a Secret of type kubernetes.io/tls, which gateways read; the CA keeps neither. The
audit trail records which Secret was written, so that any replica can renew or remove it later.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable

from services.ca.core.cluster_state import ClusterState
from services.ca.core.kube_api import KubeApi, KubeError
from services.ca.kubernetes.bundle_distributor import MANAGER, bundle_pem
from services.ca.providers.leaf import issue_leaf
from services.ca.providers.root_registry import RootRegistry
from shared.errors import MeshlogError
from shared.eventlog.protocol import Draft, EventLog
from shared.eventlog.view import LogView
from shared.meshconfig.certificate_spec import GatewayCertificateSpec
from shared.records.certificate_records import AuditNote, CorruptMessageError, TrustBundle, decode_note, encode
from shared.records.subjects import Streams
from shared.service.watch_value import Latest

_log = logging.getLogger(__name__)
WHAT = "ingress-gateway"
STORED = "ingress-gateway/stored"
REMOVED = "ingress-gateway/removed"
RENEW_LEFT = 1 / 3
"""Part of the lifetime that is left when the certificate is renewed."""
_PACE_SECONDS = 30.0
_RETRY_SECONDS = 5.0


class GatewayCertificate:
    """Keeps the Secret current; `run` it as a task."""

    def __init__(
        self,
        kube: KubeApi,
        *,
        state: ClusterState,
        roots: RootRegistry,
        bundle: Latest[TrustBundle],
        certs: EventLog,
        streams: Streams,
        clock: Callable[[], float],
    ) -> None:
        self._kube = kube
        self._state = state
        self._roots = roots
        self._bundle = bundle
        self._certs = certs
        self._subject = streams.audit_subject(WHAT)
        self._clock = clock

    async def run(self, view: LogView) -> None:
        """Reconcile when the MeshConfig changes, every 30 s if there is a certificate, and 5 s after a failure."""
        await view.caught_up.wait()
        await self._bundle.wait()
        while True:
            changed = view.next_change()
            seen = self._state.gateway
            pause = _PACE_SECONDS if seen is not None else None
            try:
                await self.reconcile()
            except MeshlogError as error:
                pause = _RETRY_SECONDS
                _log.warning("the ingress gateway's certificate is not current: %s", error)
            try:
                async with asyncio.timeout(pause):
                    while self._state.gateway == seen:
                        await changed.wait()
                        changed = view.next_change()
            except TimeoutError:
                continue

    async def reconcile(self) -> None:
        """Issue, renew or remove the certificate if due. Raises `MeshlogError` if that is not possible now."""
        wish, held = self._state.gateway, await self._held()
        if held is not None and (wish is None or held.asked_for != _place(wish)):
            await self._remove(held)
            held = None
        if wish is not None and (held is None or self._due(wish, held)):
            await self._store(wish)

    async def _held(self) -> AuditNote | None:
        record = await self._certs.last(self._subject)
        try:
            note = decode_note(record.payload) if record is not None else None
        except CorruptMessageError:
            return None
        return note if note is not None and note.code == STORED else None

    def _due(self, wish: GatewayCertificateSpec, held: AuditNote) -> bool:
        bundle = self._bundle.value
        resigned = bundle is not None and held.bundle_serial < bundle.signing_since
        return tuple(held.names) != wish.names or resigned or held.until - self._clock() < wish.lifetime * RENEW_LEFT

    async def _store(self, wish: GatewayCertificateSpec) -> None:
        bundle = await self._bundle.wait()
        leaf = await issue_leaf(
            self._roots.signer(bundle),
            identity=None,
            dns_names=wish.names,
            now=self._clock(),
            lifetime=wish.lifetime,
        )
        files = {
            "tls.crt": "".join(leaf.chain).encode(),
            "tls.key": leaf.key_pem,
            "ca.crt": bundle_pem(bundle).encode(),
        }
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": wish.secret,
                "namespace": wish.namespace,
                "labels": {"app.kubernetes.io/managed-by": MANAGER},
            },
            "type": "kubernetes.io/tls",
            "data": {name: base64.b64encode(content).decode() for name, content in files.items()},
        }
        path = _path(_place(wish))
        answer = await self._kube.request(
            "PATCH",
            path,
            query={"fieldManager": MANAGER, "force": "true"},
            body=secret,
            content_type="application/apply-patch+yaml",
        )
        if answer.status not in {200, 201}:
            raise KubeError.of("PATCH", path, answer)
        serial = f"serial {leaf.template.serial:x}"
        await self._note(
            AuditNote(
                WHAT,
                STORED,
                serial,
                asked_for=_place(wish),
                bundle_serial=bundle.serial,
                names=list(wish.names),
                until=leaf.template.not_after,
            )
        )

    async def _remove(self, held: AuditNote) -> None:
        path = _path(held.asked_for)
        answer = await self._kube.request("DELETE", path)
        if answer.status not in {200, 202, 404}:
            raise KubeError.of("DELETE", path, answer)
        await self._note(AuditNote(WHAT, REMOVED, asked_for=held.asked_for))

    async def _note(self, note: AuditNote) -> None:
        await self._certs.publish(Draft(subject=self._subject, payload=encode(note)))
        _log.info("%s", note.code, extra={"secret": note.asked_for, "names": note.names, "until": note.until})


def _place(wish: GatewayCertificateSpec) -> str:
    return f"{wish.namespace}/{wish.secret}"


def _path(place: str) -> str:
    namespace, _, name = place.partition("/")
    return f"/api/v1/namespaces/{namespace}/secrets/{name}"
