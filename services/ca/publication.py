"""The trust bundle in the log: what members trust, and the keys that reach this CA.

Written with an expected last sequence, so that two replicas cannot publish different bundles over each other. The
serial grows with each change; it starts from the clock, so that it also grows over a loss of the log. An unchanged
bundle is written again once a day and keeps its serial: the stream drops old records, and this one must stay.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable

import msgspec

from shared.certificates import CorruptMessageError, SealingKey, TrustBundle, decode_bundle, encode
from shared.eventlog.protocol import Checkpoint, Draft, DuplicateError, EventLog, EventLogError, StaleWriterError
from shared.latest import Latest
from shared.subjects import Streams

_LOGGER = logging.getLogger("meshlog.ca.publication")
_AGAIN_SECONDS = 86400.0
_RETRY_SECONDS = 1.0


class BundlePublisher:
    """Keeps the bundle of one trust domain in the log; `run` it as a task."""

    def __init__(
        self,
        certs: EventLog,
        *,
        streams: Streams,
        trust_domain: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._certs = certs
        self._subject = streams.bundle_subject(trust_domain)
        self._trust_domain = trust_domain
        self._clock = clock
        self.published: Latest[TrustBundle] = Latest()
        """The bundle as it stands in the log."""

    async def run(self, roots: list[str], sealing_keys: list[SealingKey]) -> None:
        """Publish these roots (PEM, the signing one first) and keys, and see to it that they stay published."""
        while True:
            try:
                self.published.set(await self.publish(roots, sealing_keys))
                delay = _AGAIN_SECONDS
            except (StaleWriterError, DuplicateError):
                delay = 0.0
            except EventLogError as error:
                _LOGGER.warning("the trust bundle cannot be published now: %s", error)
                delay = _RETRY_SECONDS
            await asyncio.sleep(delay)

    async def publish(self, roots: list[str], sealing_keys: list[SealingKey]) -> TrustBundle:
        """Write the bundle unless it stands in the log and is fresh; the bundle that is there afterwards.

        Raises `StaleWriterError` if somebody else wrote meanwhile: look again.
        """
        tip = await self._certs.tip(self._subject)
        newest = await self._certs.last(self._subject)
        held = None
        try:
            held = decode_bundle(newest.payload) if newest is not None else None
        except CorruptMessageError as error:
            _LOGGER.error("the bundle in the log is replaced: %s", error)  # noqa: TRY400 (no bug of ours)
        wanted = TrustBundle(trust_domain=self._trust_domain, serial=0, roots=roots, sealing_keys=sealing_keys)
        if held is not None and msgspec.structs.replace(held, serial=0) == wanted:
            if newest is not None and self._clock() - newest.time / 1e9 < _AGAIN_SECONDS / 2:
                return held
            wanted = held
        else:
            serial = max(int(self._clock()), held.serial + 1 if held is not None else 0)
            wanted = msgspec.structs.replace(wanted, serial=serial)
        await self._append(wanted, tip)
        _LOGGER.info("published trust bundle %d with %d roots", wanted.serial, len(roots))
        return wanted

    async def _append(self, bundle: TrustBundle, after: Checkpoint) -> None:
        draft = Draft(subject=self._subject, payload=encode(bundle))
        epoch = "" if after.epoch else secrets.token_hex(8)
        await self._certs.append([draft], scope=self._subject, after=after, epoch=epoch)
