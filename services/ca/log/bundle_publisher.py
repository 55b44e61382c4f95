"""The trust bundle in the log: what members trust, and the keys that reach this CA.

Written with an expected last sequence, so that two replicas cannot publish different bundles over each other: who was
slower looks again. A bundle is written again once a day with its serial: the stream drops old records, and this one
must stay.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable

from shared.eventlog.protocol import Checkpoint, Draft, EventLog, Record
from shared.identity.bundle_rules import InvalidBundleError, check_bundle
from shared.records.certificates import CorruptMessageError, TrustBundle, decode_bundle, encode
from shared.records.subjects import Streams
from shared.service.watch_value import Latest

_log = logging.getLogger(__name__)
AGAIN_SECONDS = 86400.0


class BundlePublisher:
    """The bundle of one mesh, as it stands in the log."""

    def __init__(
        self, certs: EventLog, *, streams: Streams, trust_domain: str, clock: Callable[[], float] = time.time
    ) -> None:
        """`trust_domain` is the one of the settings: the subject keeps it, also when another one signs."""
        self._certs = certs
        self.subject = streams.bundle_subject(trust_domain)
        self._clock = clock
        self._tip: Checkpoint | None = None
        self._highest = 0
        """Highest serial that was seen: a log that is lost must not lead this process back."""
        self._newest: Record | None = None
        self.published: Latest[TrustBundle] = Latest()
        """The bundle as it was last seen in the log."""

    async def read(self) -> TrustBundle | None:
        """The bundle in the log; none if there is none that can be read. Raises `EventLogError`."""
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
        """Whether the bundle read last should be written again, so that the stream does not drop it."""
        return self._newest is not None and self._clock() - self._newest.time / 1e9 >= AGAIN_SECONDS / 2

    def next_serial(self, held: TrustBundle | None) -> int:
        """The serial for a bundle that follows this one: grows also over a loss of the log."""
        return max(int(self._clock()), self._highest + 1, held.serial + 1 if held is not None else 0)

    async def publish(self, bundle: TrustBundle) -> None:
        """Put a bundle over the one that was read last.

        Raises `StaleWriterError` if somebody else wrote meanwhile (look again), and other `EventLogError`.
        """
        assert self._tip is not None, "read before you publish"
        draft = Draft(subject=self.subject, payload=encode(bundle))
        epoch = "" if self._tip.epoch else secrets.token_hex(8)
        await self._certs.append([draft], scope=self.subject, after=self._tip, epoch=epoch)
        self._highest = max(self._highest, bundle.serial)
        self.published.set(bundle)
        _log.info("published trust bundle %d with %d roots", bundle.serial, len(bundle.roots))
