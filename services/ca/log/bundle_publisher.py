"""Publishes the trust bundle in the log: the roots that members trust, and the public keys to seal tokens to.

Each append expects the last sequence, so that two replicas cannot publish different bundles over each other: the slower
one reads again. The bundle is published again twice a day under its serial, because the stream drops old records.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable

from shared.eventlog.protocol import Checkpoint, Draft, EventLog, Record
from shared.identity.bundle import BundleFollower
from shared.identity.bundle_rules import InvalidBundleError, check_bundle
from shared.records.certificate_records import CorruptMessageError, TrustBundle, decode_bundle, encode
from shared.records.subjects import Streams
from shared.service.watch_value import Latest

_log = logging.getLogger(__name__)
AGAIN_SECONDS = 86400.0
"""Age in seconds that the record of the bundle must not reach; it is published again at half of it."""


class BundlePublisher:
    """Reads and publishes the bundle of one mesh."""

    def __init__(
        self,
        certs: EventLog,
        *,
        streams: Streams,
        trust_domain: str,
        published: Latest[TrustBundle] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`trust_domain` is that of the settings: the subject keeps it even if another trust domain signs.

        The publisher sets each bundle that it reads or publishes in `published`.
        """
        self._certs = certs
        self.subject = streams.bundle_subject(trust_domain)
        self._clock = clock
        self._tip: Checkpoint | None = None
        self._highest = 0
        """Highest serial read: after a loss of the log, serials must not go back."""
        self._newest: Record | None = None
        self.published: Latest[TrustBundle] = published if published is not None else Latest()
        """The newest bundle that was read from the log or published."""

    async def read(self) -> TrustBundle | None:
        """Return the bundle in the log, or `None` if there is none or it cannot be read. Raises `EventLogError`."""
        self._tip = await self._certs.tip(self.subject)
        self._newest = await self._certs.last(self.subject)
        try:
            held = decode_bundle(self._newest.payload) if self._newest is not None else None
            if held is not None:
                check_bundle(held)
        except (CorruptMessageError, InvalidBundleError) as error:
            _log.error("the bundle in the log is replaced: %s", error)
            return None
        if held is not None:
            self._highest = max(self._highest, held.serial)
            self.published.set(held)
        return held

    @property
    def ageing(self) -> bool:
        """Whether the bundle must be published again, so that the stream does not drop it."""
        return self._newest is not None and self._clock() - self._newest.time / 1e9 >= AGAIN_SECONDS / 2

    def next_serial(self, held: TrustBundle | None) -> int:
        """Return the serial for a bundle that follows this one. Serials grow even across a loss of the log."""
        return max(int(self._clock()), self._highest + 1, held.serial + 1 if held is not None else 0)

    async def publish(self, bundle: TrustBundle) -> None:
        """Replace the bundle that was read last.

        Raises `StaleWriterError` if another replica has published since (read again), and other `EventLogError`.
        """
        assert self._tip is not None, "read before you publish"
        draft = Draft(subject=self.subject, payload=encode(bundle))
        epoch = "" if self._tip.epoch else secrets.token_hex(8)
        await self._certs.append([draft], scope=self.subject, after=self._tip, epoch=epoch)
        self._highest = max(self._highest, bundle.serial)
        self.published.set(bundle)
        _log.info("published trust bundle %d with %d roots", bundle.serial, len(bundle.roots))

    async def adopt(self, bundles: BundleFollower) -> None:
        """Set each newer bundle that another replica publishes, for ever: this one then signs with the new root."""
        async for bundle in bundles.changes():
            known = self.published.value
            if known is None or bundle.serial > known.serial:
                self.published.set(bundle)
