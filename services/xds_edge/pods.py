"""Whether the pod of a token is still there, also of a pod without a proxy: the snapshot says, or the log.

A token outlives its pod by up to an hour. Streams of discovery follow the snapshot, which has every pod with a proxy.
Who asks for client status may be a pod without one (a console), which only the log knows.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from services.xds_edge.admission import StreamRefusedError
from services.xds_edge.fleet import Fleet
from shared import events
from shared.errors import MeshlogError
from shared.eventlog.protocol import EventLog, EventLogError
from shared.model import Pod
from shared.snapshot import proxy_key
from shared.subjects import Streams
from shared.tokens import WorkloadToken

_BELIEVED = 2.0
"""Seconds that an answer of the log is believed."""
_KEPT = 1024
_ANSWER_WITHIN = 3.0
_ENDED = {"Succeeded", "Failed"}


class Pods:
    """The pods of all clusters."""

    def __init__(self, fleet: Fleet, *, streams: Streams, clock: Callable[[], float] = time.monotonic) -> None:
        self._fleet = fleet
        self._streams = streams
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], tuple[float, bool]] = OrderedDict()
        self.log: EventLog | None = None
        """The events; none before the log was reached."""

    async def require(self, claims: WorkloadToken) -> None:
        """Raise `StreamRefusedError` unless the pod of a token is there."""
        if not await self._alive(claims):
            raise StreamRefusedError("PERMISSION_DENIED", "stream/pod-gone", "the pod is gone")

    async def _alive(self, claims: WorkloadToken) -> bool:
        proxy = self._fleet.proxy(proxy_key(claims.cluster, claims.namespace, claims.pod_name))
        if proxy is not None:
            return proxy.uid == claims.pod_uid
        subject = self._streams.event_subject(claims.cluster, "Pod", claims.namespace, claims.pod_name)
        key, now = (subject, claims.pod_uid), self._clock()
        at, alive = self._known.get(key, (float("-inf"), False))
        if now - at >= _BELIEVED:
            alive = await self._ask(subject, claims.pod_uid)
            self._known[key] = (now, alive)
            self._known.move_to_end(key)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return alive

    async def _ask(self, subject: str, uid: str) -> bool:
        if self.log is None:
            raise StreamRefusedError("UNAVAILABLE", "stream/log-away", "the log that knows the pod cannot be reached")
        try:
            async with asyncio.timeout(_ANSWER_WITHIN):
                record = await self.log.last(subject)
            event = events.decode(record.payload) if record is not None else None
        except (EventLogError, TimeoutError) as error:
            raise StreamRefusedError(
                "UNAVAILABLE", "stream/log-away", "the log that knows the pod cannot be reached"
            ) from error
        except MeshlogError:
            return False
        if event is None or event.uid != uid or event.object is None:
            return False
        try:
            return msgspec.json.decode(event.object, type=Pod).status.phase not in _ENDED
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False
