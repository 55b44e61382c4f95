"""Whether the pod of a token still exists, including pods without a proxy: from the snapshot, else from the log.

A token outlives its pod by up to an hour. Discovery streams follow the snapshot, which contains every pod with a proxy.
A client of CSDS may be a pod without a proxy (a console), which only the log contains.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from services.xds_edge.admission.token_origin import TokenOrigin
from services.xds_edge.errors import Code, StreamRefusedError
from services.xds_edge.snapshot.fleet import Fleet
from shared.errors import MeshlogError
from shared.eventlog.protocol import EventLog, EventLogError
from shared.identity.service_account_tokens import WorkloadToken
from shared.io.addresses import canonical
from shared.io.decoding import UndecodableError, decode
from shared.projected_objects import Pod
from shared.records import events
from shared.records.snapshot import proxy_key
from shared.records.subjects import Streams

_BELIEVED = 2.0
"""Seconds for which an answer of the log is cached."""
_KEPT = 1024
_ANSWER_WITHIN = 3.0
_ENDED = {"Succeeded", "Failed"}


class PresentPod(NamedTuple):
    """A pod that exists."""

    addresses: tuple[str, ...] | None
    """None if the pod uses its node's network."""


class PodPresence:
    """The pods of all clusters."""

    def __init__(
        self, fleet: Fleet, origin: TokenOrigin, *, streams: Streams, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fleet = fleet
        self._origin = origin
        self._streams = streams
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], tuple[float, PresentPod | None]] = OrderedDict()
        self.log: EventLog | None = None
        """The stream of events, or None before the log was reached."""

    async def require(self, claims: WorkloadToken, address: str = "") -> None:
        """Raise `StreamRefusedError` unless the pod of a token exists and may use the client address given."""
        key = proxy_key(claims.cluster, claims.namespace, claims.pod_name)
        proxy = self._fleet.proxy(key)
        if proxy is not None:
            found = PresentPod(proxy.addresses) if proxy.uid == claims.pod_uid else None
        else:
            found = await self._from_log(claims)
        if found is None:
            raise StreamRefusedError(Code.PERMISSION_DENIED, "stream/pod-gone", "the pod is gone")
        self._origin.check(key, address, found.addresses)

    async def _from_log(self, claims: WorkloadToken) -> PresentPod | None:
        subject = self._streams.event_subject(claims.cluster, "Pod", claims.namespace, claims.pod_name)
        key, now = (subject, claims.pod_uid), self._clock()
        at, found = self._known.get(key, (float("-inf"), None))
        if now - at >= _BELIEVED:
            found = await self._ask(subject, claims.pod_uid)
            self._known[key] = (now, found)
            self._known.move_to_end(key)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return found

    async def _ask(self, subject: str, uid: str) -> PresentPod | None:
        if self.log is None:
            raise _away()
        try:
            async with asyncio.timeout(_ANSWER_WITHIN):
                record = await self.log.last(subject)
            event = events.decode(record.payload) if record is not None else None
        except (EventLogError, TimeoutError) as error:
            raise _away() from error
        except MeshlogError:
            return None
        if event is None or event.uid != uid or event.object is None:
            return None
        try:
            return _found(decode(Pod, event.object))
        except UndecodableError:
            return None


def _found(pod: Pod) -> PresentPod | None:
    if pod.status.phase in _ENDED:
        return None
    if pod.spec.host_network:
        return PresentPod(None)
    texts = (pod.status.pod_ip, *(each.ip for each in pod.status.pod_ips))
    return PresentPod(tuple(one for text in texts if (one := canonical(text)) is not None))


def _away() -> StreamRefusedError:
    return StreamRefusedError(Code.UNAVAILABLE, "stream/log-away", "the log that knows the pod cannot be reached")
