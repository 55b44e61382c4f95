"""An edge, assembled: what it knows, what it follows, what it serves. Signals and settings are `__main__`'s.

Everything that needs the log is in `attach`, because the log may come later, or not at all: an edge that finds its
last good state on disk serves it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from services.xds_edge.admission.authentication import LoadWatch, StreamAdmission, StreamRate
from services.xds_edge.admission.load_shedding import LoadShedding
from services.xds_edge.admission.pod_presence import PodPresence
from services.xds_edge.admission.token_issuers import IssuerFold, issuers_view
from services.xds_edge.admission.token_origin import TokenOrigin
from services.xds_edge.counters import EdgeCounters
from services.xds_edge.grpc.ads_stream import StreamLimits, StreamServices
from services.xds_edge.grpc.server import DiscoveryServer
from services.xds_edge.http2.keepalive import ConnectionLimits
from services.xds_edge.limits.pod_usage import PodLimits
from services.xds_edge.proxy_status.reporter import StatusReporter
from services.xds_edge.sds.serving_key_pair import ServingKeyPair
from services.xds_edge.sds.workload_secrets import WorkloadSecrets
from services.xds_edge.settings import EdgeSettings
from services.xds_edge.snapshot import disk_cache
from services.xds_edge.snapshot.disk_cache import LastGood
from services.xds_edge.snapshot.fleet import Fleet
from services.xds_edge.snapshot.follower import SnapshotFollower
from services.xds_edge.tcp.connection_gate import ConnectionCaps
from services.xds_edge.xds.response_cache import ResponseCache
from shared.eventlog.protocol import EMPTY, Logs
from shared.identity.service_account_tokens import TokenVerifier
from shared.identity.spiffe import SpiffeId
from shared.records.certificates import TrustBundle
from shared.records.consistency import Checker
from shared.records.snapshot import Commit
from shared.svid import BundleFollower, CertificateRequester, IssuedSvid, ServingCertificate
from shared.telemetry import traces

_log = logging.getLogger(__name__)

SAVE_DELAY = 1.0
"""Seconds that a change waits before it is saved, so that a burst is saved once."""
SAVE_SHARE = 50
"""A save is followed by a pause of this many times its duration: at most 2 % of the time goes into saving."""

MOST_LOGGED = 20
"""Inconsistencies of one version that are logged."""

Spawn = Callable[[Coroutine[Any, Any, None], str], object]
Ready = Callable[[str, bool, str], None]


def caps_of(settings: EdgeSettings) -> ConnectionCaps:
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


class App:
    """One edge."""

    def __init__(
        self,
        settings: EdgeSettings,
        *,
        instance: str,
        ready: Ready = lambda _n, _r, _w: None,
        remark: Callable[[str, str], None] = lambda _n, _w: None,
    ) -> None:
        self.settings = settings
        self.instance = instance
        self._ready = ready
        self._remark = remark
        self._directory = Path(settings.state_dir) if settings.state_dir else None
        streams = settings.streams
        self.counters = EdgeCounters()
        self.fleet = Fleet()
        self._checker = Checker() if settings.check_snapshots else None
        self.verifier = TokenVerifier()
        self.secrets = WorkloadSecrets(self._issue)
        self.reporter = StatusReporter(streams=streams, edge=instance, trace_headers=self._trace_headers)
        self.serving = ServingKeyPair(Path(settings.key_dir) if settings.key_dir else None)
        pace = StreamRate(rate=settings.new_streams, burst=settings.new_streams_burst)
        self.admission = StreamAdmission(
            self.verifier,
            pace=pace,
            watch=LoadWatch(pace, ceiling=settings.new_streams, shedding=LoadShedding(self._set_load)),
            version=lambda: self.fleet.version if self.may_serve else 0,
        )
        origin = TokenOrigin(settings.peer_address, self.counters)
        self.services = StreamServices(
            fleet=self.fleet,
            responses=ResponseCache(self.fleet.body),
            secrets=self.secrets,
            reporter=self.reporter,
            counters=self.counters,
            origin=origin,
            edge=instance,
            limits=StreamLimits(write_timeout=settings.write_timeout, patience=settings.patience),
        )
        self.pods = PodPresence(self.fleet, origin, streams=streams)
        self.server = DiscoveryServer(
            self.services,
            self.admission,
            ConnectionLimits(
                max_connection_age=settings.max_connection_age,
                prove_within=settings.prove_within,
                idle=settings.idle_timeout,
                write_timeout=settings.write_timeout,
                max_request=settings.request_bytes,
            ),
            caps=caps_of(settings),
            pod_limits=PodLimits(streams=settings.streams_per_pod, all_streams=settings.most_streams),
            unread=settings.unread_bytes,
            handshake_within=settings.handshake_timeout,
            reuse_port=settings.reuse_port,
            mesh_namespace=settings.namespace,
            pods=self.pods,
        )
        self.may_serve = False
        """Whether there is a snapshot that proxies may be served: the log confirmed it, or it is away for too long."""
        self._checkpoint = EMPTY
        self._bundle: TrustBundle | None = None
        self._known_issuers = {}
        self._requester: CertificateRequester | None = None
        self._attached = asyncio.Event()
        self._snapshots: SnapshotFollower | None = None
        self._issuers: IssuerFold | None = None
        self._changed = asyncio.Event()
        self._unready()

    def load(self) -> bool:
        """Take up what the disk has; true if there is a snapshot to serve and a certificate to serve it with."""
        if self._directory is None:
            return False
        state = disk_cache.read(self._directory)
        if state is None:
            return False
        if state.keyframe is not None:
            self.fleet.apply(state.keyframe)
            self._check(state.keyframe)
            self._checkpoint = state.checkpoint
        self._known_issuers = dict(state.issuers)
        for cluster, issuer in state.issuers.items():
            self.verifier.set_issuer(cluster, issuer)
        if state.bundle is not None:
            self._set_bundle(state.bundle)
        return self.serving.load(now=time.time()) and self.fleet.version > 0

    async def attach(self, logs: Logs, spawn: Spawn) -> None:
        """Follow the log and report to it; waits for the log if it cannot be reached."""
        settings, streams = self.settings, self.settings.streams
        snapshots = SnapshotFollower(
            snapshots=await logs.open(streams.snapshots),
            keyframes=await logs.open(streams.keyframes),
            streams=streams,
            fleet=self.fleet,
            applied=self._applied,
            caught_up=self._caught_up,
            lost=self._log_lost,
            checkpoint=self._checkpoint,
            stuck=self._report_stuck,
        )
        self.pods.log = events = await logs.open(streams.events)
        issuers = IssuerFold(self.verifier, changed=self._issuers_changed)
        issuers.restore(self._known_issuers)
        issuers_current = issuers_view(events, issuers, streams=streams, cluster=settings.cluster)
        self._snapshots, self._issuers = snapshots, issuers
        certs = await logs.open(streams.certs)
        bundles = BundleFollower(certs, streams=streams, trust_domain=settings.trust_domain)
        self._requester = CertificateRequester(
            csrs=await logs.open(streams.csrs),
            certs=certs,
            streams=streams,
            instance=self.instance,
            cluster=settings.cluster,
            bundles=bundles,
        )
        serving = ServingCertificate(
            self._requester,
            token_path=Path(settings.token_file),
            spiffe_id=SpiffeId(
                trust_domain=settings.trust_domain,
                namespace=settings.namespace,
                service_account=settings.service_account,
            ),
        )
        self._attached.set()
        spawn(issuers_current.run(), "token issuers")
        spawn(snapshots.run(), "snapshots")
        spawn(bundles.run(), "trust bundle")
        spawn(self._follow_bundles(bundles), "trust bundle to proxies")
        spawn(self._requester.run(), "certificate answers")
        spawn(serving.run(), "own certificate")
        spawn(self.serving.follow(serving), "own certificate to server")
        spawn(self.reporter.run(await logs.open(streams.status)), "status")
        spawn(self._save_changes(), "last good state")

    async def listen(self) -> None:
        """Serve, as soon as there is a certificate to serve with."""
        await self.serving.wait()
        settings = self.settings
        await self.server.start(settings.host, settings.port, lambda: self.serving.current)
        self._ready("certificate", True, "")
        _log.info("serving on port %d", self.server.port)

    async def confirm_or_trust_disk(self) -> None:
        """Serve the snapshot from disk if the log does not answer in time."""
        await asyncio.sleep(self.settings.confirm_within)
        if not self.may_serve and self.fleet.version:
            _log.warning("the log is away: serving the last good snapshot, version %d", self.fleet.version)
            self._begin_serving()

    @property
    def gaps(self) -> int:
        """How often commits were found lost or damaged."""
        return self._snapshots.restarts if self._snapshots is not None else 0

    @property
    def unanswered(self) -> int:
        """How many signing requests wait for their answer longer than they should."""
        return self._requester.unanswered() if self._requester is not None else 0

    @property
    def behind(self) -> bool:
        """Whether commits are missing: the snapshot is the last good one, and newer ones cannot be reached."""
        return self._snapshots is not None and self._snapshots.gap

    async def stop(self) -> None:
        """Hand the streams over, write what is unwritten, keep the last good state."""
        await self.server.drain(self.settings.drain)
        if self._attached.is_set():
            try:
                async with asyncio.timeout(1.0):
                    await self.reporter.flushed()
            except TimeoutError:
                _log.warning("some proxies' last status could not be written")
        await self.save()

    async def save(self) -> None:
        """Write the last good state to disk, if there is a directory for it."""
        if self._directory is None or not self.fleet.version:
            return
        # Encoded here, in one go, because the snapshot is folded on this loop; only the disk is waited for elsewhere.
        content = disk_cache.encode(
            LastGood(
                format=disk_cache.FORMAT,
                checkpoint=self._snapshots.checkpoint if self._snapshots is not None else self._checkpoint,
                keyframe=self.fleet.snapshot.keyframe(),
                issuers=self._issuers.known if self._issuers is not None else self._known_issuers,
                bundle=self._bundle,
            )
        )
        try:
            await asyncio.to_thread(disk_cache.write, self._directory, content)
        except OSError as error:
            _log.warning("the last good state cannot be written: %s", error)

    async def _save_changes(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(SAVE_DELAY)
            self._changed.clear()
            began = time.monotonic()
            await self.save()
            await asyncio.sleep((time.monotonic() - began) * SAVE_SHARE)

    async def _issue(self, token: str, spiffe_id: SpiffeId) -> IssuedSvid:
        await self._attached.wait()
        assert self._requester is not None
        return await self._requester.request(token, spiffe_id)

    async def _follow_bundles(self, bundles: BundleFollower) -> None:
        async for bundle in bundles.changes():
            self._set_bundle(bundle)
            self._changed.set()

    def _set_bundle(self, bundle: TrustBundle) -> None:
        self._bundle = bundle
        if self.secrets.set_bundle(bundle):
            self.fleet.wake_all()

    def _applied(self, commit: Commit) -> None:
        if any(proxy is None for proxy in commit.proxies.values()) or commit.parent == 0:
            self.secrets.forget(self._alive)
        self._check(commit)
        self._changed.set()
        _log.debug("version %d", commit.version)

    def _check(self, commit: Commit) -> None:
        """Log and count what is inconsistent in a snapshot since this commit, if the settings ask for that.

        It is served all the same: a proxy takes what it can of it, and no older version is there to go back to.
        """
        if self._checker is None:
            return
        found = self._checker.check(self.fleet.snapshot, commit.views.keys() if commit.parent else None)
        self.counters.inconsistencies += len(found)
        for sentence in found[:MOST_LOGGED]:
            _log.error("version %d is inconsistent: %s", commit.version, sentence)

    def _alive(self, key: str, uid: str) -> bool:
        proxy = self.fleet.proxy(key)
        return proxy is not None and proxy.uid == uid

    def _caught_up(self) -> None:
        if not self.fleet.confirmed:
            self.fleet.confirmed = True
            _log.info("caught up at version %d", self.fleet.version)
            self._begin_serving()
            self.fleet.wake_all()

    def _log_lost(self) -> None:
        """Others may know newer versions from now on: a proxy that comes from them is left alone until we do."""
        self.fleet.confirmed = False

    def _begin_serving(self) -> None:
        self.may_serve = True
        if self.verifier.clusters:
            self._ready("snapshot", True, "")

    def _report_stuck(self, why: str) -> None:
        """A version that only a newer build reads: what is held is served on, for a proxy that comes has no better.

        So this edge stays ready: in an upgrade that begins with the compiler all edges are old.
        """
        self._remark("snapshot", why)
        if not self.fleet.version:
            self._ready("snapshot", False, why or "no snapshot yet")
        self.fleet.wake_all()

    def _set_load(self, may_be_sent: bool) -> None:  # noqa: FBT001 (a `Tell`)
        if not may_be_sent:
            _log.warning("busy with the proxies that it has: new ones should be sent to other edges for a while")
        self._ready("load", may_be_sent, "busy with the proxies that it has")

    def _issuers_changed(self) -> None:
        self._changed.set()
        if self.may_serve:
            self._ready("snapshot", True, "")

    def _unready(self) -> None:
        self._ready("snapshot", False, "no snapshot, or no issuer of tokens is known, yet")
        self._ready("certificate", False, "no certificate to serve with yet")

    def _trace_headers(self) -> dict[str, str]:
        """What a proxy acknowledges joins the trace of the change."""
        if not self.fleet.traceparent:
            return {}
        with traces.span("acknowledged", parent=self.fleet.traceparent, version=self.fleet.version) as span:
            return traces.inject(traceparent=span.traceparent)
