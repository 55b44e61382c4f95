"""The newest trust bundle, as the CA publishes it in the log.

The newest record of the subject is the truth, whatever its serial: after a loss of the log the CA publishes again. One
that nobody could trust by (`shared.svid.trust`) is skipped, and the last good one stays in force.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from shared.certificates import CorruptMessageError, TrustBundle, decode_bundle
from shared.eventlog.protocol import EventLog, EventLogError, Record
from shared.latest import Latest
from shared.subjects import Streams
from shared.svid.trust import InvalidBundleError, check_bundle

_log = logging.getLogger(__name__)
_RETRY_SECONDS = 0.3


class BundleFollower:
    """Follows the bundle of one trust domain; `run` it as a task."""

    def __init__(self, certs: EventLog, *, streams: Streams, trust_domain: str) -> None:
        self._certs = certs
        self._subject = streams.bundle_subject(trust_domain)
        self._latest: Latest[TrustBundle] = Latest()

    @property
    def current(self) -> TrustBundle | None:
        """The newest bundle; none before the first."""
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
        while True:
            try:
                newest = await self._certs.last(self._subject)
                if newest is not None:
                    self._take(newest)
                start = newest.sequence + 1 if newest is not None else 1
                async for record in self._certs.follow(start=start, subjects=self._subject):
                    self._take(record)
            except EventLogError as error:
                _log.warning("the trust bundle cannot be followed now: %s", error)
            await asyncio.sleep(_RETRY_SECONDS)

    def _take(self, record: Record) -> None:
        try:
            bundle = decode_bundle(record.payload)
            check_bundle(bundle)
        except (CorruptMessageError, InvalidBundleError) as error:
            _log.error("record %d is skipped: %s", record.sequence, error)
        else:
            self._latest.set(bundle)
