"""What a rotation waits for, read from the log: what proxies acknowledged, whose certificates were renewed.

Read only while a rotation is under way. A proxy counts while its pod is there, it asks for the secret in question, and
its certificate has not expired, also when it is connected to no edge: it still speaks to its peers. A pod with a
sidecar of which no report is known counts too: it starts, or the log lost what was reported, and then nobody can say
what that proxy trusts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.ca.core.cluster_state import ClusterState
from shared.errors import MeshlogError
from shared.eventlog.protocol import EventLog
from shared.records.certificates import CorruptMessageError, TrustBundle, TrustedRoot, decode_answer, decode_bundle
from shared.records.events import read
from shared.records.proxy_status import ProxyStatus, status_in
from shared.records.snapshot import SDS, SECRET_TRUST_BUNDLE, SECRET_WORKLOAD
from shared.records.subjects import Streams


class FleetProgress:
    """The newest report of every proxy, and the control plane's own certificates."""

    def __init__(
        self,
        *,
        status: EventLog,
        certs: EventLog,
        events: EventLog,
        streams: Streams,
        facts: ClusterState,
        home: tuple[str, str],
        bundle_subject: str,
        serving: tuple[str, Sequence[str]],
        clock: Callable[[], float],
        skew: float,
        lifetime: float,
    ) -> None:
        """`home`: cluster and namespace of the MeshRootCertificates.

        `serving`: namespace and accounts of the control plane's servers; `skew`: how far clocks may differ;
        `lifetime`: seconds that certificates live where MeshConfig says nothing.
        """
        self._status = status
        self._certs = certs
        self._events = events
        self._streams = streams
        self._facts = facts
        self._home = home
        self._bundle_subject = bundle_subject
        self._serving = serving
        self._clock = clock
        self._skew = skew
        self._lifetime = lifetime
        self._proxies: list[ProxyStatus] = []
        self._silent: list[str] = []
        """Pods with a sidecar that no edge has reported."""
        self._renewed: dict[str, int] = {}
        """Pod uid → serial of the bundle of its newest certificate, of those signed since the last change of signer."""
        self._read_to = 0
        self._signing_since = 0
        self._told: dict[str, tuple[int, str]] = {}
        """Root → sequence and epoch of the event that told the compiler of it first."""

    async def refresh(self, held: TrustBundle) -> None:
        """Read the log. Raises `EventLogError`."""
        records = await self._status.last_per_subject(self._streams.all_status)
        found: list[ProxyStatus] = []
        for record in records:
            status = status_in(record, self._streams)
            if status is not None:
                found.append(status)
        self._proxies = found
        reported = {one.uid for one in found}
        self._silent = sorted(name for uid, name in self._facts.sidecars().items() if uid not in reported)
        await self._read_issued(held)
        for member in held.members:
            if member.trust_domain != held.trust_domain:
                await self._read_told(member.name)

    def uncompiled(self, root: TrustedRoot) -> list[str]:
        """Proxies that do not hold a version with the event of this root in it."""
        told = self._told.get(root.name)
        if told is None:
            return [f"{root.name}: the log does not tell of it yet"]
        sequence, epoch = told
        late = [one for one in self._living() if one.acked_in(epoch) < sequence]
        return [_laggard(one, f"does not accept {root.trust_domain} yet") for one in late] + self._unheard()

    def untrusting(self, serial: int) -> list[str]:
        """Proxies that have not acknowledged this bundle or a later one."""
        late = [one for one in self._living() if one.uses(SECRET_TRUST_BUNDLE) and one.bundle < serial]
        return [_laggard(one, "has not acknowledged the new trust bundle") for one in late] + self._unheard()

    def unrenewed(self, serial: int) -> list[str]:
        """Whoever may still use a certificate signed under an older bundle."""
        proxies = [
            _laggard(one, "uses a certificate of the old root")
            for one in self._living()
            if one.uses(SECRET_WORKLOAD) and one.certificate_bundle < serial
        ]
        namespace, accounts = self._serving
        servers = [
            f"{name}: serves with a certificate of the old root"
            for uid, name in sorted(self._facts.pods_of(namespace, accounts).items())
            if self._renewed.get(uid, 0) < serial
        ]
        return proxies + servers + self._unheard()

    def _living(self) -> list[ProxyStatus]:
        """Proxies that use secrets now."""
        now = self._clock()
        return [
            one
            for one in self._proxies
            if SDS in one.types
            and self._facts.alive(one.cluster, one.namespace, one.pod, one.uid)
            and (one.connected or self._until(one) + self._skew > now)
        ]

    def _until(self, away: ProxyStatus) -> float:
        """When the certificate of a proxy that is away expires.

        The proxy itself says so, by the version of the secret that it names to its edge, and may lie. What it held
        when its stream ended lasts no longer than the longest certificate that the CA gives.
        """
        longest = max(self._lifetime, self._facts.longest_lifetime)
        return min(float(away.certificate_until), away.since / 1e9 + longest)

    def _unheard(self) -> list[str]:
        return [f"{name}: has a sidecar that no edge has reported yet" for name in self._silent]

    async def _read_issued(self, held: TrustBundle) -> None:
        if self._signing_since != held.signing_since:
            self._signing_since = held.signing_since
            self._renewed.clear()
            self._read_to = await self._sequence_of(held.signing_since) - 1
        async for record in self._certs.read(start=self._read_to + 1, subjects=self._streams.all_issued):
            self._read_to = record.sequence
            try:
                answer = decode_answer(record.payload)
            except CorruptMessageError:
                continue
            if answer.pod_uid and not answer.refused:
                self._renewed[answer.pod_uid] = max(self._renewed.get(answer.pod_uid, 0), answer.bundle_serial)

    async def _read_told(self, name: str) -> None:
        """Find the first event of the object that there is now: its trust domain never changes after that."""
        if name in self._told:
            return
        cluster, namespace = self._home
        first: dict[str, tuple[int, str]] = {}
        newest = ""
        async for record in self._events.read(
            subjects=self._streams.event_subject(cluster, "MeshRootCertificate", namespace, name)
        ):
            try:
                newest = read(record).uid
            except MeshlogError:
                # Damaged, or of a newer build: the ones before it tell.
                continue
            first.setdefault(newest, (record.sequence, record.epoch))
        if newest:
            self._told[name] = first[newest]

    async def _sequence_of(self, serial: int) -> int:
        """Where in the log the bundle with this serial stands; the beginning if it is there no more."""
        async for record in self._certs.read(subjects=self._bundle_subject):
            try:
                if decode_bundle(record.payload).serial == serial:
                    return record.sequence
            except CorruptMessageError:
                continue
        return 1


def _laggard(proxy: ProxyStatus, why: str) -> str:
    away = "" if proxy.connected else " (not connected now)"
    return f"{proxy.namespace}/{proxy.pod}: {why}{away}"
