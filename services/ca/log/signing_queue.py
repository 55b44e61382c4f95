"""Takes signing requests from `MESH_CSRS` and appends the answers to `MESH_CERTS`.

Delivery is at least once: the queue redelivers a request without a stored answer, to this or to another replica. Each
answer has the subject of its request, so a redelivered request with a stored answer is finished.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from services.ca.core.issuer import Issuer
from shared.eventlog.protocol import Draft, EventLog, EventLogError, Job
from shared.records.certificate_records import (
    CorruptMessageError,
    SigningAnswer,
    SigningRequest,
    TrustBundle,
    decode_answer,
    decode_request,
    encode,
)
from shared.records.subjects import Streams
from shared.service.watch_value import Latest

_log = logging.getLogger(__name__)
GROUP = "ca"
IN_FLIGHT = 256
"""Requests that are served at once: enough to hide the log's latency. The rest waits in the queue for any replica."""


class SigningQueue:
    """Serves signing requests; `run` it as a task."""

    def __init__(
        self,
        *,
        csrs: EventLog,
        certs: EventLog,
        streams: Streams,
        issuer: Issuer,
        bundle: Latest[TrustBundle],
        answered: Callable[[SigningAnswer], None] = lambda _: None,
        failed: Callable[[EventLogError], None] = lambda _: None,
    ) -> None:
        """`bundle` holds the newest published bundle; `answered` is called with each answer, for metrics.

        `failed` is called with the error of each answer that the log rejected.
        """
        self._csrs = csrs
        self._certs = certs
        self._streams = streams
        self._issuer = issuer
        self._bundle = bundle
        self._answered = answered
        self._failed = failed

    async def run(self) -> None:
        """Take and answer requests. Ends only by cancellation or by a bug."""
        free = asyncio.Semaphore(IN_FLIGHT)

        async def serve(job: Job) -> None:
            try:
                await self._serve(job)
            finally:
                free.release()

        async with asyncio.TaskGroup() as group:
            await free.acquire()
            async for job in self._csrs.take(GROUP):
                group.create_task(serve(job))
                await free.acquire()

    async def _serve(self, job: Job) -> None:
        try:
            request = decode_request(job.record.payload)
        except CorruptMessageError as error:
            _log.warning("request %d is dropped: %s", job.record.sequence, error)
            await self._finish(job)
            return
        if job.record.subject != self._streams.csr_subject(request.requester):
            _log.warning("request %d is dropped: its subject is not its requester's", job.record.sequence)
            await self._finish(job)
            return
        try:
            if await self._is_answered(request):
                await self._finish(job)
                return
            answer = await self._answer(request)
            subject = self._streams.issued_subject(request.requester, request.id)
            await self._certs.publish(Draft(subject=subject, payload=encode(answer), message_id=f"answer-{request.id}"))
            self._answered(answer)
        except EventLogError as error:
            _log.warning("request %s goes back to the queue: %s", request.id[:64], error)
            self._failed(error)
            return
        await self._finish(job)

    async def _answer(self, request: SigningRequest) -> SigningAnswer:
        try:
            return await self._issuer.answer(request, await self._bundle.wait())
        except Exception:  # noqa: BLE001 (logged, and the request refused)
            # A bug. The request is refused and logged: its redeliveries must not end the CA again and again.
            _log.exception("request %s failed by a bug", request.id[:64])
            return SigningAnswer(id=request.id, refused="ca/internal", retry_after=30.0)

    async def _is_answered(self, request: SigningRequest) -> bool:
        """Return whether the log contains the answer to a request that this process has signed before."""
        if not self._issuer.seen(request):
            return False
        stored = await self._certs.last(self._streams.issued_subject(request.requester, request.id))
        try:
            return stored is not None and not decode_answer(stored.payload).refused
        except CorruptMessageError:
            return False

    async def _finish(self, job: Job) -> None:
        try:
            await job.done()
        except EventLogError as error:
            _log.debug("a finished request may come again: %s", error)
