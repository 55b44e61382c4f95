"""Secrets of proxies, served like any other resource: `workload` (certificate and key) and `trust-bundle`.

The edge generates a proxy's key and has it certified through the log with the proxy's own token. Key and certificate
stay in memory: no file, log or message contains a key.

**The version of a secret carries the state of its holder.** The version of a `workload` secret contains when it is due
for renewal, the bundle under which it was signed, and a hash of the identity. A proxy that reconnects (to this edge,
another one, or a restarted one) names the version that it holds. So an edge that never saw the certificate knows that
it is still valid, and neither sends nor requests one. A proxy that reports a false version harms only itself.

A renewal needs a valid token. The token of a stream was valid when the stream was opened, and `max_connection_age`
keeps streams younger than tokens. If a token did expire, the stream is ended so that the proxy reconnects with a fresh
one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable

import msgspec
from cryptography import x509

from services.xds_edge.xds import wire
from services.xds_edge.xds.resource_set import NOTHING, ResourceSet
from shared.errors import MeshlogError
from shared.identity.renewal import renewal_delay, retry_delay
from shared.identity.service_account_tokens import WorkloadToken
from shared.identity.spiffe import SpiffeId
from shared.identity.svid import IssuedSvid
from shared.identity.svid_requester import SigningRefusedError
from shared.records.certificate_records import TrustBundle
from shared.records.snapshot import SDS, SECRET_TRUST_BUNDLE, SECRET_WORKLOAD, resource_hash
from shared.timing.backoff import Backoff

_log = logging.getLogger(__name__)

_VERSION = re.compile(r"w1\.([0-9]{1,12})\.([0-9]{1,12})\.([0-9]{1,12})\.([0-9a-f]{8})\.[0-9a-f]{16}")
_LAST_DAY = 253_402_300_799
"""The end of the year 9999, in seconds since 1970: the last date of the calendar."""
SIGNED_AT_ONCE = 64
"""Signing requests of one edge that are under way at a time."""
BUNDLES_KNOWN = 16
RESIGN_SHARE = 0.1
RESIGN_WINDOW = 60.0
"""After a change of the signing root certificates are renewed within this many seconds, spread evenly, and within
`RESIGN_SHARE` of their lifetime: a fleet never sends all requests in one second, and a rotation does not wait longer
than necessary."""
_REFUSED = Backoff(first=60.0, longest=60.0, jitter=(0.5, 1.5))
"""Seconds until a request that the CA refused is repeated: the reasons may have changed."""


Issue = Callable[[str, SpiffeId], Awaitable[IssuedSvid]]
"""Obtains a certificate with a new key for the identity that a token proves: `shared.identity.CertificateRequester`."""


class ServedCertificate(msgspec.Struct, frozen=True):
    """A certificate as it is served."""

    version: str
    body: bytes
    """The `Secret`, which contains the private key."""
    renew_at: float
    """Seconds since 1970."""
    lifetime: float
    bundle_serial: int = 0

    def __repr__(self) -> str:
        return f"ServedCertificate({self.version})"


def secret_version(renew_at: float, until: float, bundle_serial: int, identity: SpiffeId, body: bytes) -> str:
    """The version of a `workload` secret."""
    hashes = f"{_identity_hash(identity)}.{resource_hash(SDS, body)}"
    return f"w1.{int(renew_at)}.{int(until)}.{bundle_serial}.{hashes}"


def certified(version: str) -> tuple[int, int]:
    """The bundle and the end of the certificate in a `workload` secret's version; zeros if it is malformed.

    The proxy reports the version, so it proves nothing. `WorkloadSecrets.certified` limits it to plausible values.
    """
    match = _VERSION.fullmatch(version)
    return (int(match[3]), int(match[2])) if match is not None else (0, 0)


def still_good(version: str, identity: SpiffeId, now: float) -> float:
    """When the certificate that a proxy holds in this version is due for renewal; 0 if it must be replaced now."""
    match = _VERSION.fullmatch(version)
    if match is None or match[4] != _identity_hash(identity):
        return 0.0
    renew_at = float(match[1])
    return renew_at if renew_at > now else 0.0


def _identity_hash(identity: SpiffeId) -> str:
    return hashlib.sha256(str(identity).encode()).hexdigest()[:8]


class WorkloadSecrets:
    """The secrets of all proxies of this edge."""

    def __init__(
        self,
        issue: Issue,
        *,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
        at_once: int = SIGNED_AT_ONCE,
    ) -> None:
        self.issue = issue
        self.clock = clock
        self.chance = chance
        self.signing = asyncio.Semaphore(at_once)
        self.issued = 0
        self.failed = 0
        self.roots: tuple[str, bytes] | None = None
        """Version and body of the trust bundle, or None before the first."""
        self.bundle: TrustBundle | None = None
        self._roots_until = _LAST_DAY
        """When the last of its roots expires, in seconds since 1970: no certificate is valid for longer."""
        self._serials: OrderedDict[str, int] = OrderedDict()
        """Version of a trust bundle → serial of the newest bundle with these roots, for the newest few."""
        self._kept: dict[tuple[str, str], ServedCertificate] = {}

    def set_bundle(self, bundle: TrustBundle) -> bool:
        """Serve these roots from now on; returns whether the roots or the signing root changed."""
        signing_before = self.bundle.signing_since if self.bundle is not None else bundle.signing_since
        self.bundle = bundle
        self._roots_until = _last_end(bundle.roots)
        # Sorted, so that a change of the signing root alone does not change the secret.
        body = wire.trust_secret(SECRET_TRUST_BUNDLE, "".join(sorted(bundle.roots)).encode())
        before = self.roots
        self.roots = (resource_hash(SDS, body), body)
        self._serials[self.roots[0]] = bundle.serial
        self._serials.move_to_end(self.roots[0])
        while len(self._serials) > BUNDLES_KNOWN:
            self._serials.popitem(last=False)
        return before != self.roots or signing_before != bundle.signing_since

    def serial_of(self, version: str) -> int:
        """Serial of the bundle that a proxy holds in this version; 0 if this edge has not seen it."""
        return self._serials.get(version, 0)

    def certified(self, version: str) -> tuple[int, int]:
        """As `certified`, limited to the current bundle and the end of its roots."""
        if self.bundle is None:
            return 0, 0
        serial, until = certified(version)
        return min(serial, self.bundle.serial), min(until, self._roots_until)

    def renews_at(self, version: str, identity: SpiffeId) -> float:
        """As `still_good`; a time after the end of all roots is never in a version of an edge."""
        renew_at = still_good(version, identity, self.clock())
        return renew_at if self.bundle is None or renew_at <= self._roots_until else 0.0

    def in_force(self, identity: SpiffeId) -> SpiffeId:
        """The identity in the trust domain of the current bundle."""
        domain = self.bundle.trust_domain if self.bundle is not None else identity.trust_domain
        return SpiffeId(domain, identity.namespace, identity.service_account)

    def open(
        self, key: str, token: str, claims: WorkloadToken, *, changed: Callable[[], None], stale: Callable[[], None]
    ) -> ProxySecrets:
        """The secrets of one stream; `changed` is called after a change, `stale` if the token cannot renew any more."""
        return ProxySecrets(self, key, token, claims, changed=changed, stale=stale)

    def kept(self, key: str, uid: str) -> ServedCertificate | None:
        """The certificate that this edge holds for a pod, or None."""
        return self._kept.get((key, uid))

    def keep(self, key: str, uid: str, certificate: ServedCertificate) -> None:
        """Hold a certificate while its pod exists, even over a reconnect."""
        self._kept[key, uid] = certificate

    def forget(self, alive: Callable[[str, str], bool]) -> None:
        """Drop the certificates of pods that are gone."""
        for key, uid in [entry for entry in self._kept if not alive(*entry)]:
            del self._kept[key, uid]


class ProxySecrets:
    """The secrets of one stream."""

    def __init__(
        self,
        shared: WorkloadSecrets,
        key: str,
        token: str,
        claims: WorkloadToken,
        *,
        changed: Callable[[], None],
        stale: Callable[[], None],
    ) -> None:
        self._shared = shared
        self._key = key
        self._token = token
        self._claims = claims
        self._changed = changed
        self._stale = stale
        self._identity: SpiffeId | None = None
        self._certificate: ServedCertificate | None = None
        self._adopted = ""
        self._resigning = 0
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._selection = NOTHING
        self._pending: frozenset[str] = frozenset((SECRET_WORKLOAD, SECRET_TRUST_BUNDLE))

    def __repr__(self) -> str:
        return f"ProxySecrets({self._key})"

    @property
    def selection(self) -> ResourceSet:
        """The secrets that the proxy should hold, by name and version."""
        return self._selection

    @property
    def pending(self) -> frozenset[str]:
        """Names that are not available yet."""
        return self._pending

    def body(self, _type_url: str, name: str, digest: str) -> bytes:
        """The bytes of a secret of `selection`. Raises `LookupError` for any other."""
        certificate, roots = self._certificate, self._shared.roots
        if name == SECRET_WORKLOAD and certificate is not None and certificate.version == digest:
            return certificate.body
        if name == SECRET_TRUST_BUNDLE and roots is not None and roots[0] == digest:
            return roots[1]
        raise LookupError(f"secret {name} has no body in version {digest}")

    def want(self, identity: SpiffeId, holds: str = "") -> None:
        """Obtain a certificate if needed; `holds`: the version that the proxy reports as held."""
        if self._identity is not None:
            return
        self._identity = identity
        now = self._shared.clock()
        kept = self._shared.kept(self._key, self._claims.pod_uid)
        renew_at = self._shared.renews_at(holds, identity)
        if kept is not None and (kept.version == holds or not renew_at):
            self._use(kept)
        elif renew_at:
            self._adopted = holds
            self._schedule(renew_at - now)
        else:
            self._renew()
        self.refresh()

    def refresh(self) -> None:
        """Apply a new trust bundle; if its signing root is another one, renew soon."""
        self._follow_signer()
        found: dict[str, str] = {}
        version = self._certificate.version if self._certificate is not None else self._adopted
        if version:
            found[SECRET_WORKLOAD] = version
        if self._shared.roots is not None:
            found[SECRET_TRUST_BUNDLE] = self._shared.roots[0]
        if found != self._selection.resources:
            self._selection = ResourceSet(found)
            self._pending = frozenset({SECRET_WORKLOAD, SECRET_TRUST_BUNDLE} - found.keys())

    def _follow_signer(self) -> None:
        bundle, version = self._shared.bundle, self._certificate.version if self._certificate else self._adopted
        if bundle is None or not version or self._identity is None or self._resigning == bundle.signing_since:
            return
        self._resigning = bundle.signing_since
        serial, until = certified(version)
        if serial >= bundle.signing_since:
            return
        left = until - self._shared.clock()
        self._schedule(self._shared.chance() * max(0.0, min(RESIGN_WINDOW, RESIGN_SHARE * left)))

    def resend(self) -> None:
        """Obtain a certificate to send: the proxy requests the one that it was believed to hold."""
        if self._certificate is None and self._adopted:
            self._adopted = ""
            self._renew()
            self.refresh()

    def close(self) -> None:
        """Stop renewing."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _use(self, certificate: ServedCertificate) -> None:
        self._certificate = certificate
        self._schedule(certificate.renew_at - self._shared.clock())

    def _schedule(self, delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, delay), self._renew)

    def _renew(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._obtain(), name=f"certificate of {self._key}")
            self._task.add_done_callback(_report_crash)

    async def _obtain(self) -> None:
        """Request until there is a new certificate; the current one stays in use."""
        shared = self._shared
        assert self._identity is not None
        failures = 0
        while True:
            if self._claims.expires_at <= shared.clock():
                self._stale()
                return
            identity = shared.in_force(self._identity)
            try:
                async with shared.signing:
                    svid = await shared.issue(self._token, identity)
            except SigningRefusedError as error:
                _log.warning("no certificate for %s: %s", self._key, error)
                shared.failed += 1
                await asyncio.sleep(_REFUSED.delay(0, shared.chance))
            except MeshlogError as error:
                failures += 1
                shared.failed += 1
                _log.warning("no certificate for %s (try %d): %s", self._key, failures, error)
                lifetime = self._certificate.lifetime if self._certificate is not None else 60.0
                await asyncio.sleep(retry_delay(failures, lifetime, shared.chance))
            else:
                break
        shared.issued += 1
        self._identity = identity
        certificate = served(svid, identity, now=shared.clock(), chance=shared.chance)
        shared.keep(self._key, self._claims.pod_uid, certificate)
        self._adopted = ""
        self._use(certificate)
        self.refresh()
        self._changed()


def served(svid: IssuedSvid, identity: SpiffeId, *, now: float, chance: Callable[[], float]) -> ServedCertificate:
    """A certificate as it is served, with the time of its renewal in its version."""
    body = wire.certificate_secret(SECRET_WORKLOAD, svid.chain_pem, svid.key_pem)
    renew_at = now + renewal_delay(svid.lifetime, chance)
    return ServedCertificate(
        version=secret_version(renew_at, now + svid.lifetime, svid.bundle_serial, identity, body),
        body=body,
        renew_at=renew_at,
        lifetime=svid.lifetime,
        bundle_serial=svid.bundle_serial,
    )


def _last_end(roots: Iterable[str]) -> int:
    """When the last of these certificates (PEM) expires, in seconds since 1970."""
    ends: list[float] = []
    for root in roots:
        with contextlib.suppress(ValueError):
            ends.append(x509.load_pem_x509_certificate(root.encode()).not_valid_after_utc.timestamp())
    return int(max(ends, default=_LAST_DAY))


def _report_crash(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("%s ended: %r", task.get_name(), error, exc_info=error)
