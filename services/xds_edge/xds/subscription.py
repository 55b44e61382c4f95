"""What both xDS variants share about one resource type of one stream: its requests, responses and subscription state.

Pure. `delta` and `sotw` have the rules of their variant; `ads` has the order between the types of a stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import msgspec

from services.xds_edge.xds.nack_bisect import Group, doubted, narrowed
from services.xds_edge.xds.resource_set import NOTHING, ResourceChange, ResourceSet
from shared.errors import MeshlogError
from shared.records.snapshot import CDS, LDS

WILDCARD = "*"
LEGACY_WILDCARD = frozenset((CDS, LDS))
"""Types for which a first request without names subscribes to everything."""

MAX_NAMES = 100_000
"""Names that one stream may subscribe to in one type, and that one request may contain; a sidecar needs far fewer."""


class TooManyNamesError(MeshlogError):
    """The client subscribed to more names than any proxy needs."""


class XdsRequest(msgspec.Struct, frozen=True):
    """The fields used of a `DeltaDiscoveryRequest`; or of a `DiscoveryRequest`, with its names in `subscribe`."""

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] = {}
    nonce: str = ""
    error: str | None = None
    """`error_detail.message`, or None if there is no error."""
    version: str = ""
    """`version_info` of a `DiscoveryRequest`: the version that the client accepted last, maybe on an earlier stream."""


class Offer(msgspec.Struct, frozen=True, eq=False):
    """A response that was sent, or is about to be sent."""

    type_url: str
    version: int
    nonce: str
    put: tuple[tuple[str, str], ...]
    """(name, hash)."""
    removed: tuple[str, ...]
    completes: bool
    """Whether a proxy that accepts it holds everything of this type at `version`."""
    change: ResourceChange | None = None
    """Set if `put` is that of a shared change, with all of its removals or none: the frames are spliced once for all
    streams."""


class AckResult(Enum):
    """What a request acknowledges."""

    NONE = "none"
    """Nothing: it only subscribes or unsubscribes."""
    ACK = "ack"
    NACK = "nack"
    STALE = "stale"
    """A response that is not in flight, or was never sent."""


class SubscriptionState:
    """The subscription of one type of one stream: names, what the proxy holds, and the response in flight."""

    __slots__ = (
        "_goal",
        "_started",
        "_suspects",
        "acked",
        "held",
        "in_flight",
        "names",
        "owes",
        "refused",
        "sent",
        "settled_on",
        "type_url",
        "wildcard",
    )

    def __init__(self, type_url: str) -> None:
        self.type_url = type_url
        self.wildcard = False
        self.names: frozenset[str] = frozenset()
        """Subscribed explicitly, beside the wildcard."""
        self.held = NOTHING
        """What the proxy holds once it accepts the response in flight; `UNKNOWN` where that is not known."""
        self.in_flight: Offer | None = None
        self.refused: dict[str, str] = {}
        """Name → hash that the proxy refused; not sent again until the hash changes. Of a state-of-the-world response
        of clusters or listeners: everything in it."""
        self.sent = 0
        """Version of the newest response."""
        self.acked = 0
        """Newest version of which the proxy held everything that it was subscribed to at that time."""
        self.owes = False
        """Whether the proxy has requested more since, and has not accepted the response yet."""
        self.settled_on: ResourceSet | None = None
        """The resource set for which no response is due: it need not be compared again."""
        self._goal: tuple[ResourceSet, frozenset[str], ResourceSet] | None = None
        self._started = False
        """Whether the first request of the type has arrived."""
        self._suspects: list[Group] = []

    def goal(self, whole: ResourceSet) -> ResourceSet:
        """The part of `whole` that the proxy is subscribed to."""
        if self.wildcard:
            return whole
        if self._goal is None or self._goal[0] is not whole or self._goal[1] is not self.names:
            self._goal = (whole, self.names, whole.restrict(self.names))
        return self._goal[2]

    def lacks(self, whole: ResourceSet) -> bool:
        """Whether an added or changed resource is not even in flight."""
        return bool(self.goal(whole).change_from(self.held).put)

    def begin_epoch(self) -> None:
        """Forget what was acknowledged, not what is held: versions start again."""
        self.acked = self.sent = 0
        if self.in_flight is not None:
            self.in_flight = msgspec.structs.replace(self.in_flight, completes=False)

    def _check_count(self, names: frozenset[str]) -> None:
        if len(names) > MAX_NAMES:
            raise TooManyNamesError(
                "xds/too-many-names", f"subscribes to more than {MAX_NAMES} names", about=self.type_url
            )

    def _complete(self, version: int) -> None:
        """The proxy holds everything at `version` without another response."""
        self.acked, self.owes = max(self.acked, version), False

    def _forget_old_refusals(self, goal: ResourceSet) -> None:
        """Keep only refusals of resources that are still wanted unchanged."""
        if self.refused:
            self.refused = {name: digest for name, digest in self.refused.items() if goal.resources.get(name) == digest}

    def _bisect(self, offer: Offer) -> None:
        """Search the refused resource by sending halves, so that the others still arrive; a removal counts as done."""
        self.held = doubted(self.held, offer.put)
        self.refused.update(narrowed(offer.put, self._suspects))
