"""The story that docs/history.md tells: the paths of a store are changed, and the buyer's calls end with 403.

The log is made anew for each run, by the live code, on a clock of its own: so what the commands print of it is the same
each time, down to the times.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec

from shared.eventlog.protocol import Draft, EventLog
from shared.records.events import Event, EventOrigin
from shared.records.proxy_status import ProxyStatus, TypeStatus, encode_status
from shared.records.snapshot import CDS, EDS, LDS, RDS
from tests.property.history.worlds import STREAMS, exported, recorded
from tests.unit.compiler import objects

BEGAN = 1_795_239_120_000_000_000
"""2026-11-21 05:32:00 UTC, nanoseconds since 1970."""
_STEP = 1_200_000
_ACKED = BEGAN + 52_400_000
"""When every proxy that is connected had acknowledged the last version."""
_NEVER_CONNECTED = "buyer-0"
CHANGED = objects.route_group(
    "store",
    "routes",
    {"name": "browse", "pathRegex": "/catalogue", "methods": ["GET"]},
    {"name": "purchase", "pathRegex": "/buy.*", "methods": ["GET", "POST"], "headers": {"client": "buyer.*"}},
)
"""`buy` is called `purchase` now, and `/books` is `/catalogue`."""


def by(manager: str, event: Event) -> Event:
    """An event as that manager's doing."""
    return msgspec.structs.replace(event, origin=EventOrigin(manager=manager))


def _clock() -> Iterator[int]:
    now = BEGAN
    while True:
        now += _STEP
        yield now


async def write(path: Path) -> None:
    """Export the log of the story."""
    ticks = _clock()
    first = [by("helm", event) for event in (objects.mesh_config(), *objects.bookstore())]
    slices = next(event for event in objects.bookstore() if event.kind == "EndpointSlice" and "v1" in event.name)
    moved = [by("kube-controller-manager", one) for one in (objects.answered_at(8081), slices)]
    source = await recorded([first, *([one] for one in moved), [by("kubectl", CHANGED)]], clock=lambda: next(ticks))
    head = [record async for record in source.events.read()][-1].sequence
    for pod in objects.bookstore():
        if pod.kind != "Pod" or pod.namespace == "outside" or pod.name == _NEVER_CONNECTED:
            continue
        status = ProxyStatus(
            cluster=pod.cluster,
            namespace=pod.namespace,
            pod=pod.name,
            uid=pod.uid,
            service_account=pod.name.partition("-")[0],
            edge="edge-1",
            connected=True,
            since=BEGAN,
            types={kind: TypeStatus(acked=head, acked_at=_ACKED) for kind in (CDS, EDS, LDS, RDS)},
        )
        subject = STREAMS.status_subject(pod.cluster, pod.namespace, pod.name)
        log = cast("EventLog", source.status)
        await log.publish(Draft(subject, encode_status(status)))
    (await exported(source, path)).close()
