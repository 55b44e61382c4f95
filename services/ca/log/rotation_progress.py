"""Reads from the log what a rotation waits for: acknowledgements of proxies and renewed certificates.

It is read only during a rotation. A proxy counts while its pod exists, it subscribes to the secret in question, and its
certificate has not expired, even if it is connected to no edge: it still talks to its peers. A pod with a sidecar but
without a status counts as well: it starts, or the log lost its status, so what it trusts is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from services.ca.core.cluster_state import ClusterState
from shared.errors import MeshlogError
from shared.eventlog.protocol import EventLog
from shared.records.certificate_records import (
    CorruptMessageError,
    TrustBundle,
    TrustedRoot,
    decode_answer,
    decode_bundle,
)
from shared.records.events import read
from shared.records.proxy_status import ProxyStatus, status_in
from shared.records.snapshot import SDS, SECRET_TRUST_BUNDLE, SECRET_WORKLOAD
from shared.records.subjects import Streams


class _FirstEvent(NamedTuple):
    """The first event of an object: where the compiler learned of it."""

    sequence: int
    epoch: str


class FleetProgress:
    """The newest status of every proxy, and the newest certificates of the control plane's servers."""

    def __init__(
        self,
        *,
        status: EventLog,
        certs: EventLog,
        events: EventLog,
        streams: Streams,
        state: ClusterState,
        cluster: str,
        namespace: str,
        serving_accounts: Sequence[str],
        bundle_subject: str,
        clock: Callable[[], float],
        skew: float,
        lifetime: float,
    ) -> None:
        """`cluster` and `namespace` are those of the control plane and of the MeshRootCertificates.

        `serving_accounts` are the accounts of its servers; `skew` is the largest difference of clocks in seconds;
        `lifetime` is that of certificates in seconds, unless the MeshConfig sets one.
        """
        self._status = status
        self._certs = certs
        self._events = events
        self._streams = streams
        self._state = state
        self._cluster = cluster
        self._namespace = namespace
        self._serving_accounts = serving_accounts
        self._bundle_subject = bundle_subject
        self._clock = clock
        self._skew = skew
        self._lifetime = lifetime
        self._proxies: list[ProxyStatus] = []
        self._unreported: list[str] = []
        """Pods with a sidecar of which the log has no status."""
        self._renewed: dict[str, int] = {}
        """Pod uid → serial of the bundle of its newest certificate that was signed since the signer changed."""
        self._read_to = 0
        self._signing_since = 0
        self._first_events: dict[str, _FirstEvent] = {}
        """By name of the root."""

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
        self._unreported = sorted(name for uid, name in self._state.sidecars().items() if uid not in reported)
        await self._read_issued(held)
        for member in held.members:
            if member.trust_domain != held.trust_domain:
                await self._read_first_event(member.name)

    def uncompiled(self, root: TrustedRoot) -> list[str]:
        """Return the proxies that do not hold a version that contains the event of this root."""
        first = self._first_events.get(root.name)
        if first is None:
            return [f"{root.name}: the log does not tell of it yet"]
        late = [one for one in self._active() if one.acked_in(first.epoch) < first.sequence]
        return [_waits(one, f"does not accept {root.trust_domain} yet") for one in late] + self._without_status()

    def untrusting(self, serial: int) -> list[str]:
        """Return the proxies that have not acknowledged this bundle or a later one."""
        late = [one for one in self._active() if one.uses(SECRET_TRUST_BUNDLE) and one.bundle < serial]
        return [_waits(one, "has not acknowledged the new trust bundle") for one in late] + self._without_status()

    def unrenewed(self, serial: int) -> list[str]:
        """Return the proxies and servers that may still use a certificate signed under an older bundle."""
        proxies = [
            _waits(one, "uses a certificate of the old root")
            for one in self._active()
            if one.uses(SECRET_WORKLOAD) and one.certificate_bundle < serial
        ]
        servers = [
            f"{name}: serves with a certificate of the old root"
            for uid, name in sorted(self._state.pods_of(self._namespace, self._serving_accounts).items())
            if self._renewed.get(uid, 0) < serial
        ]
        return proxies + servers + self._without_status()

    def _active(self) -> list[ProxyStatus]:
        """Return the proxies that use secrets now."""
        now = self._clock()
        return [
            one
            for one in self._proxies
            if SDS in one.types
            and self._state.alive(one.cluster, one.namespace, one.pod, one.uid)
            and (one.connected or self._until(one) + self._skew > now)
        ]

    def _until(self, away: ProxyStatus) -> float:
        """Return when the certificate of a disconnected proxy expires, in seconds since 1970.

        The proxy reports the version of its secret itself and may lie, so the longest lifetime that the CA issues
        bounds the result, counted from the end of its stream.
        """
        longest = max(self._lifetime, self._state.longest_lifetime)
        return min(float(away.certificate_until), away.since / 1e9 + longest)

    def _without_status(self) -> list[str]:
        return [f"{name}: has a sidecar that no edge has reported yet" for name in self._unreported]

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

    async def _read_first_event(self, name: str) -> None:
        """Find the first event of the existing object: its trust domain does not change after that."""
        if name in self._first_events:
            return
        first: dict[str, _FirstEvent] = {}
        newest = ""
        async for record in self._events.read(
            subjects=self._streams.event_subject(self._cluster, "MeshRootCertificate", self._namespace, name)
        ):
            try:
                newest = read(record).uid
            except MeshlogError:
                # Damaged, or written by a newer build: use the records before it.
                continue
            first.setdefault(newest, _FirstEvent(record.sequence, record.epoch))
        if newest:
            self._first_events[name] = first[newest]

    async def _sequence_of(self, serial: int) -> int:
        """Return the sequence of the bundle with this serial; 1 if the log does not contain it any more."""
        async for record in self._certs.read(subjects=self._bundle_subject):
            try:
                if decode_bundle(record.payload).serial == serial:
                    return record.sequence
            except CorruptMessageError:
                continue
        return 1


def _waits(proxy: ProxyStatus, why: str) -> str:
    away = "" if proxy.connected else " (not connected now)"
    return f"{proxy.namespace}/{proxy.pod}: {why}{away}"
