"""The composition of one edge: what it serves, and what it follows in the log. `__main__` has signals and settings.

All parts that need the log are made in `attach`, because the log may be reached late or not at all: an edge that finds
its last good state on disk serves that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

from services.xds_edge.admission.authentication import StreamAdmission
from services.xds_edge.admission.load_shedding import LoadShedding
from services.xds_edge.admission.pod_presence import PodPresence
from services.xds_edge.admission.rate_limit import LoadWatch, StreamRate
from services.xds_edge.admission.token_issuers import IssuerFold, issuers_view
from services.xds_edge.admission.token_origin import TokenOrigin
from services.xds_edge.counters import EdgeCounters
from services.xds_edge.grpc.server import DiscoveryServer
from services.xds_edge.grpc.stream_services import StreamLimits, StreamServices
from services.xds_edge.http2.keepalive import Http2Limits
from services.xds_edge.limits.pod_usage import PodLimits
from services.xds_edge.proxy_status.reporter import StatusReporter
from services.xds_edge.readiness import EdgeReadiness, Ready, Remark
from services.xds_edge.sds.serving_key_pair import ServingKeyPair
from services.xds_edge.sds.workload_secrets import WorkloadSecrets
from services.xds_edge.settings import EdgeSettings
from services.xds_edge.snapshot.fleet import Fleet
from services.xds_edge.snapshot.last_good import LastGoodState
from services.xds_edge.snapshot.snapshot_check import SnapshotCheck
from services.xds_edge.snapshot.snapshot_follower import SnapshotFollower
from services.xds_edge.tcp.connection_gate import ConnectionCaps
from services.xds_edge.xds.response_cache import ResponseCache
from shared.eventlog.protocol import Logs
from shared.identity.bundle import BundleFollower
from shared.identity.service_account_tokens import TokenVerifier
from shared.identity.serving_certificate import ServingCertificate
from shared.identity.spiffe import SpiffeId
from shared.identity.svid import IssuedSvid
from shared.identity.svid_requester import CertificateRequester
from shared.records.certificate_records import TrustBundle
from shared.records.snapshot import Commit
from shared.telemetry import traces

_log = logging.getLogger(__name__)

Spawn = Callable[[Coroutine[Any, Any, None], str], object]


class LogClients(NamedTuple):
    """The parts that exist once the log was reached."""

    snapshots: SnapshotFollower
    requester: CertificateRequester


class App:
    """One edge."""

    def __init__(
        self,
        settings: EdgeSettings,
        *,
        instance: str,
        ready: Ready = lambda _n, _r, _w: None,
        remark: Remark = lambda _n, _w: None,
    ) -> None:
        self.settings = settings
        self.instance = instance
        streams = settings.streams
        self.counters = EdgeCounters()
        self.fleet = Fleet()
        self.verifier = TokenVerifier()
        self.readiness = EdgeReadiness(self.fleet, self.verifier, ready=ready, remark=remark)
        self.last_good = LastGoodState(Path(settings.state_dir) if settings.state_dir else None, self.fleet)
        self.secrets = WorkloadSecrets(self._issue)
        self.reporter = StatusReporter(streams=streams, edge=instance, trace_headers=self._trace_headers)
        self.serving = ServingKeyPair(Path(settings.key_dir) if settings.key_dir else None)
        self.admission = _admission(settings, self.verifier, self.readiness)
        origin = TokenOrigin(settings.peer_address, self.counters)
        self.pods = PodPresence(self.fleet, origin, streams=streams)
        self.server = _server(
            settings,
            StreamServices(
                fleet=self.fleet,
                responses=ResponseCache(self.fleet.body),
                secrets=self.secrets,
                reporter=self.reporter,
                counters=self.counters,
                origin=origin,
                edge=instance,
                limits=StreamLimits(write_timeout=settings.write_timeout, patience=settings.patience),
            ),
            self.admission,
            self.pods,
        )
        self._check = SnapshotCheck(self.fleet, self.counters) if settings.check_snapshots else None
        self._log_clients: LogClients | None = None
        self._attached = asyncio.Event()

    def load(self) -> bool:
        """Read the last good state from disk; true if it has a snapshot, and a certificate to serve with."""
        state = self.last_good.load()
        if state is None:
            return False
        if state.keyframe is not None:
            self.fleet.apply(state.keyframe)
            if self._check is not None:
                self._check.check(state.keyframe)
        for cluster, issuer in state.issuers.items():
            self.verifier.set_issuer(cluster, issuer)
        if state.bundle is not None:
            self._set_bundle(state.bundle)
        return self.serving.load(now=time.time()) and self.fleet.version > 0

    async def attach(self, logs: Logs, spawn: Spawn) -> None:
        """Follow the log and report to it; waits while the log cannot be reached."""
        settings, streams, readiness = self.settings, self.settings.streams, self.readiness
        snapshots = SnapshotFollower(
            snapshots=await logs.open(streams.snapshots),
            keyframes=await logs.open(streams.keyframes),
            streams=streams,
            fleet=self.fleet,
            applied=self._applied,
            caught_up=readiness.caught_up,
            lost=readiness.log_lost,
            checkpoint=self.last_good.loaded.checkpoint,
            stuck=readiness.stuck,
        )
        self.pods.log = events = await logs.open(streams.events)
        issuers = IssuerFold(self.verifier, changed=self._issuers_changed)
        issuers.restore(self.last_good.loaded.issuers)
        issuers_current = issuers_view(events, issuers, streams=streams, cluster=settings.cluster)
        self.last_good.checkpoint, self.last_good.issuers = lambda: snapshots.checkpoint, lambda: issuers.known
        certs = await logs.open(streams.certs)
        bundles = BundleFollower(certs, streams=streams, trust_domain=settings.trust_domain)
        requester = CertificateRequester(
            csrs=await logs.open(streams.csrs),
            certs=certs,
            streams=streams,
            instance=self.instance,
            cluster=settings.cluster,
            bundles=bundles,
        )
        serving = ServingCertificate(
            requester,
            token_path=Path(settings.token_file),
            spiffe_id=SpiffeId(
                trust_domain=settings.trust_domain,
                namespace=settings.namespace,
                service_account=settings.service_account,
            ),
        )
        self._log_clients = LogClients(snapshots, requester)
        self._attached.set()
        spawn(issuers_current.run(), "token issuers")
        spawn(snapshots.run(), "snapshots")
        spawn(bundles.run(), "trust bundle")
        spawn(self._follow_bundles(bundles), "trust bundle to proxies")
        spawn(requester.run(), "certificate answers")
        spawn(serving.run(), "own certificate")
        spawn(self.serving.follow(serving), "own certificate to server")
        spawn(self.reporter.run(await logs.open(streams.status)), "status")
        spawn(self.last_good.run(), "last good state")

    async def listen(self) -> None:
        """Open the port, once there is a certificate to serve with."""
        await self.serving.wait()
        settings = self.settings
        await self.server.start(settings.host, settings.port, lambda: self.serving.current)
        self.readiness.listening()
        _log.info("serving on port %d", self.server.port)

    async def confirm_or_trust_disk(self) -> None:
        """Serve the snapshot from disk if the log does not confirm it in time."""
        await asyncio.sleep(self.settings.confirm_within)
        self.readiness.trust_disk()

    @property
    def gaps(self) -> int:
        """How often commits were found lost or damaged."""
        return self._log_clients.snapshots.restarts if self._log_clients is not None else 0

    @property
    def unanswered(self) -> int:
        """Signing requests that have waited for an answer for longer than they should."""
        return self._log_clients.requester.unanswered() if self._log_clients is not None else 0

    @property
    def behind(self) -> bool:
        """Whether commits are missing, so that the last good snapshot is served."""
        return self._log_clients is not None and self._log_clients.snapshots.gap

    async def stop(self) -> None:
        """Hand the streams over to other edges, write the last statuses, save the last good state."""
        await self.server.drain(self.settings.drain)
        if self._attached.is_set():
            try:
                async with asyncio.timeout(1.0):
                    await self.reporter.flushed()
            except TimeoutError:
                _log.warning("some proxies' last status could not be written")
        await self.last_good.save()

    async def _issue(self, token: str, spiffe_id: SpiffeId) -> IssuedSvid:
        await self._attached.wait()
        assert self._log_clients is not None
        return await self._log_clients.requester.request(token, spiffe_id)

    async def _follow_bundles(self, bundles: BundleFollower) -> None:
        async for bundle in bundles.changes():
            self._set_bundle(bundle)
            self.last_good.changed()

    def _set_bundle(self, bundle: TrustBundle) -> None:
        self.last_good.bundle = bundle
        if self.secrets.set_bundle(bundle):
            self.fleet.wake_all()

    def _applied(self, commit: Commit) -> None:
        if any(proxy is None for proxy in commit.proxies.values()) or commit.parent == 0:
            self.secrets.forget(self._alive)
        if self._check is not None:
            self._check.check(commit)
        self.last_good.changed()
        _log.debug("version %d", commit.version)

    def _alive(self, key: str, uid: str) -> bool:
        proxy = self.fleet.proxy(key)
        return proxy is not None and proxy.uid == uid

    def _issuers_changed(self) -> None:
        self.last_good.changed()
        self.readiness.issuers_changed()

    def _trace_headers(self) -> dict[str, str]:
        """Headers that make an acknowledgement part of the trace of the change."""
        if not self.fleet.traceparent:
            return {}
        with traces.span("acknowledged", parent=self.fleet.traceparent, version=self.fleet.version) as span:
            return traces.inject(traceparent=span.traceparent)


def connection_caps(settings: EdgeSettings) -> ConnectionCaps:
    """How many connections the settings allow."""
    return ConnectionCaps(
        connections=settings.connections,
        per_address=settings.connections_per_address,
        waiting=settings.waiting_connections,
        unproven=settings.unproven_connections,
        hello_within=settings.handshake_timeout,
        new_per_address=settings.new_connections_per_address,
        new_per_address_burst=settings.new_connections_per_address_burst,
    )


def _admission(settings: EdgeSettings, verifier: TokenVerifier, readiness: EdgeReadiness) -> StreamAdmission:
    rate = StreamRate(rate=settings.new_streams, burst=settings.new_streams_burst)
    return StreamAdmission(
        verifier,
        rate=rate,
        watch=LoadWatch(rate, ceiling=settings.new_streams, shedding=LoadShedding(readiness.set_load)),
        version=lambda: readiness.served_version,
    )


def _server(
    settings: EdgeSettings, services: StreamServices, admission: StreamAdmission, pods: PodPresence
) -> DiscoveryServer:
    return DiscoveryServer(
        services,
        admission,
        Http2Limits(
            max_connection_age=settings.max_connection_age,
            prove_within=settings.prove_within,
            idle=settings.idle_timeout,
            write_timeout=settings.write_timeout,
            max_request=settings.request_bytes,
        ),
        caps=connection_caps(settings),
        pod_limits=PodLimits(streams=settings.streams_per_pod, all_streams=settings.most_streams),
        unread=settings.unread_bytes,
        handshake_within=settings.handshake_timeout,
        reuse_port=settings.reuse_port,
        mesh_namespace=settings.namespace,
        pods=pods,
    )
