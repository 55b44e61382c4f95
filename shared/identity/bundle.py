"""Follows the newest trust bundle that the CA publishes in the log.

The newest record of the subject is in force, whatever its serial: after a loss of the log the CA publishes again. An
invalid bundle (`shared.identity.bundle_rules`) is skipped, and the last good one stays in force.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from shared.eventlog.fold import Epoch
from shared.eventlog.protocol import EventLog, Record
from shared.eventlog.view import LogView
from shared.identity.bundle_rules import check_bundle
from shared.records.certificate_records import TrustBundle, decode_bundle
from shared.records.subjects import Streams
from shared.service.watch_value import Latest


class BundleFold:
    """Keeps the newest valid bundle."""

    def __init__(self) -> None:
        self.latest: Latest[TrustBundle] = Latest()

    def reset(self, _epoch: Epoch) -> None:
        """Keep the bundle until the CA publishes again: certificates cannot be checked without one."""

    def fold(self, record: Record) -> bool:
        """Take a bundle. Raises `CorruptMessageError`, `InvalidBundleError`."""
        bundle = decode_bundle(record.payload)
        check_bundle(bundle)
        self.latest.set(bundle)
        return True


class BundleFollower:
    """Follows the bundle of one trust domain; `run` it as a task."""

    def __init__(self, certs: EventLog, *, streams: Streams, trust_domain: str) -> None:
        newest, subject = BundleFold(), streams.bundle_subject(trust_domain)
        self._latest = newest.latest
        self._view = LogView(certs, newest, name="the trust bundle", subjects=(subject,), streams=streams)

    @property
    def current(self) -> TrustBundle | None:
        """The newest bundle; None before the first."""
        return self._latest.value

    async def wait(self) -> TrustBundle:
        """The newest bundle, as soon as the CA has published one."""
        return await self._latest.wait()

    async def at_least(self, serial: int) -> TrustBundle:
        """The newest bundle, as soon as its serial is `serial` or more."""
        while True:
            bundle = await self._latest.wait()
            if bundle.serial >= serial:
                return bundle
            await self._latest.changed()

    def changes(self) -> AsyncIterator[TrustBundle]:
        """The newest bundle now and after each change, for ever."""
        return self._latest.changes()

    async def run(self) -> None:
        """Follow for ever; outages and a lost stream are waited out, the last bundle stays in force."""
        await self._view.run()
