"""Incremental xDS for one resource type of one stream: what is subscribed, held, offered, refused; pure.

The rules are those of Envoy's "xDS REST and gRPC protocol" (api-docs/xds_protocol) and of the comments in
`envoy/service/discovery/v3/discovery.proto`; each is cited where it is kept, as [section]. How the types of one
stream wait for each other is `session`'s business.

One response of a type is in flight at a time, so a proxy that is slow is offered the newest state next, never the
backlog, and what is remembered of it stays bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

import msgspec

from services.xds_edge.xds.nack_bisect import Group, doubted, narrowed, next_group
from services.xds_edge.xds.resource_set import NOTHING, UNKNOWN, ResourceChange, ResourceSet, asking, interned
from shared.errors import MeshlogError
from shared.records.snapshot import CDS, LDS

WILDCARD = "*"
LEGACY_WILDCARD = frozenset((CDS, LDS))
"""Types for which a first request without names subscribes to everything."""

MAX_NAMES = 100_000
"""Names that one stream may subscribe to in one type, and that one request may name: far beyond a sidecar's need."""


class TooManyNamesError(MeshlogError):
    """The client subscribed to more names than any proxy needs."""


class XdsRequest(msgspec.Struct, frozen=True):
    """A `DeltaDiscoveryRequest`, as far as it matters; or a `DiscoveryRequest`, whose names are all in `subscribe`."""

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] = {}
    nonce: str = ""
    error: str | None = None
    """`error_detail.message`; none: no error."""
    version: str = ""
    """`version_info` of a `DiscoveryRequest`: what the client accepted last, maybe on an earlier stream."""


class Offer(msgspec.Struct, frozen=True, eq=False):
    """A response that was sent, or is about to be."""

    type_url: str
    version: int
    nonce: str
    put: tuple[tuple[str, str], ...]
    """(name, hash)."""
    removed: tuple[str, ...]
    completes: bool
    """Whether a proxy that accepts it holds everything of this type at `version`."""
    change: ResourceChange | None = None
    """Set if its additions are those of a shared change, with all of its removals or none: the frames are spliced
    once for all streams."""


class AckResult(Enum):
    """What a request said about the response in flight."""

    NONE = "none"
    ACK = "ack"
    NACK = "nack"
    STALE = "stale"
    """It answered another response than the one in flight, or none that was ever sent."""


class DeltaSubscription:
    """One type of one stream."""

    __slots__ = (
        "_crossed",
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
        """Explicitly subscribed, beside the wildcard if that is on."""
        self.held = NOTHING
        """What the proxy has once it accepts what is in flight; `UNKNOWN` where that is not known."""
        self.in_flight: Offer | None = None
        self.refused: dict[str, str] = {}
        """Name → hash that the proxy refused: not offered again until it changes."""
        self.sent = 0
        self.acked = 0
        """Newest version of which the proxy holds all that it had asked for when that was found."""
        self.owes = False
        """Whether it has asked for more since, which is not answered and accepted yet."""
        self.settled_on: ResourceSet | None = None
        """The selection about which there is nothing left to say: a look at it can be spared."""
        self._crossed = False
        self._goal: tuple[ResourceSet, frozenset[str], ResourceSet] | None = None
        self._started = False
        self._suspects: list[Group] = []

    # What the proxy says

    def request(self, request: XdsRequest) -> AckResult:
        """Fold a request in.

        Raises `TooManyNamesError`, after which the stream is of no use.
        """
        self.settled_on = None
        verdict = self._answer(request)
        if not self._started:
            self._start(request)
        elif request.subscribe:
            self._subscribe(request.subscribe)
        if request.unsubscribe:
            self._unsubscribe(request.unsubscribe)
        return verdict

    def _start(self, request: XdsRequest) -> None:
        """Take the first request of the type on this stream.

        [Wildcard, "for historical reasons"] Without names it subscribes to everything, if its type has wildcards.
        [discovery.proto, initial_resource_versions] Only here the versions count that the proxy holds from an
        earlier stream; what it holds in our version is not sent again.
        """
        self._started = True
        initial = request.initial_versions
        if not request.subscribe:
            self.wildcard = self.type_url in LEGACY_WILDCARD
        self._subscribe(request.subscribe, known=initial)
        if self.wildcard:
            kept = dict(initial)
        else:
            kept = {name: version for name, version in initial.items() if name in self.names}
        if kept:
            self.held = ResourceSet({**self.held.resources, **kept})

    def _subscribe(self, subscribed: Iterable[str], *, known: Mapping[str, str] | None = None) -> None:
        """Add subscriptions.

        [discovery.proto, resource_names_subscribe] Each name must be answered, also if it was subscribed or sent
        before: the client may have dropped it in between. Hence `UNKNOWN`, which differs from any hash.
        [Knowing when a requested resource does not exist] A name that we do not have is answered by a removal.
        """
        names = set(subscribed)
        if not names:
            return
        if WILDCARD in names:
            names.discard(WILDCARD)
            self.wildcard = True
        self.names = interned(self.names | names)
        if len(self.names) > MAX_NAMES:
            raise TooManyNamesError(
                "xds/too-many-names", f"subscribes to more than {MAX_NAMES} names", about=self.type_url
            )
        asked = names - known.keys() if known else names
        for name in asked:
            self.refused.pop(name, None)
        if asked:
            self.owes = True
            first = self.held is NOTHING and len(self.names) == len(asked)
            self.held = asking(self.names) if first else self.held.altered(dict.fromkeys(asked, UNKNOWN))

    def _unsubscribe(self, unsubscribed: Iterable[str]) -> None:
        """Take subscriptions back; names that were not subscribed are ignored.

        [Unsubscribing from resources] Nothing is sent for it, the client has dropped the resource by itself; but
        under a wildcard that goes on it cannot know whether the wildcard covers the name: it is told.
        """
        names = set(unsubscribed)
        self._crossed = self.in_flight is not None
        if WILDCARD in names:
            names.discard(WILDCARD)
            # The legacy wildcard ends too: "once the client does explicitly subscribe [or unsubscribe]".
            self.wildcard = False
            self.names = interned(self.names - names)
            self.held = self.held.restrict(self.names)
            return
        gone = names & self.names
        if not gone:
            return
        self.names = interned(self.names - gone)
        if self.wildcard:
            self.held = self.held.altered(dict.fromkeys(gone, UNKNOWN))
        else:
            self.held = self.held.altered({}, frozenset(gone))
        for name in gone:
            self.refused.pop(name, None)

    def _answer(self, request: XdsRequest) -> AckResult:
        """Read the ACK or NACK in a request.

        [ACK/NACK semantics summary] The nonce names the response, `error_detail` makes it a NACK. A nonce that is
        not the one in flight is stale or foreign: it says nothing, while subscriptions beside it still count.
        """
        if not request.nonce:
            return AckResult.NONE
        offer = self.in_flight
        if offer is None or offer.nonce != request.nonce:
            return AckResult.STALE
        self.in_flight = None
        if self._crossed:
            self._recall(offer)
        if request.error is None:
            if offer.completes:
                self.acked = offer.version
                self.owes = self.owes and UNKNOWN in self.held.resources.values()
            return AckResult.ACK
        self._refuse(offer)
        return AckResult.NACK

    def _recall(self, offer: Offer) -> None:
        """Notice resources that the proxy unsubscribed, and subscribed again, while they were on their way to it."""
        self._crossed = False
        arrived = {
            name: UNKNOWN
            for name, _ in offer.put
            if name not in self.held.resources and (self.wildcard or name in self.names)
        }
        if arrived:
            self.held = self.held.altered(arrived)

    def _refuse(self, offer: Offer) -> None:
        """Find the resource that is at fault, so that the others still arrive; a removal counts as done."""
        self.held = doubted(self.held, offer.put)
        self.refused.update(narrowed(offer.put, self._suspects))

    # What to say to it

    def goal(self, whole: ResourceSet) -> ResourceSet:
        """The part of what there is that the proxy is subscribed to."""
        if self.wildcard:
            return whole
        if self._goal is None or self._goal[0] is not whole or self._goal[1] is not self.names:
            self._goal = (whole, self.names, whole.restrict(self.names))
        return self._goal[2]

    def settled(self, whole: ResourceSet) -> bool:
        """Whether the proxy is known to hold exactly what it should, with nothing in flight."""
        if self.in_flight is not None:
            return False
        goal = self.goal(whole)
        if self.held is goal:
            self.settled_on = whole
            return True
        return goal.change_from(self.held).empty

    def additions_done(self, whole: ResourceSet, *, pending: frozenset[str] = frozenset()) -> bool:
        """Whether every addition and change was accepted; removals may be left."""
        if self.in_flight is not None or self.refused or self._suspects:
            return False
        if self.settled_on is whole:
            return True
        goal = self.goal(whole)
        return self.held is goal or all(name in pending for name, _ in goal.change_from(self.held).put)

    def lacks(self, whole: ResourceSet) -> bool:
        """Whether something was added or changed that is not even on its way."""
        return bool(self.goal(whole).change_from(self.held).put)

    def forget(self, names: Iterable[str]) -> None:
        """Treat these as not held, so that they are offered again."""
        again = {name: UNKNOWN for name in names if self.held.resources.get(name)}
        if again:
            self.settled_on = None
            self.held = self.held.altered(again)

    def begin_anew(self) -> None:
        """Forget what was acknowledged, not what is held: other versions come from here on."""
        self.acked = self.sent = 0
        if self.in_flight is not None:
            self.in_flight = msgspec.structs.replace(self.in_flight, completes=False)

    def asks_for(self, name: str, request: XdsRequest) -> bool:
        """Whether this request, not folded in yet, must be answered with that resource."""
        return self._started and name in request.subscribe

    def offer(
        self,
        whole: ResourceSet,
        *,
        version: int,
        nonce: str,
        removals: bool = True,
        pending: frozenset[str] = frozenset(),
    ) -> Offer | None:
        """The next response, or none if nothing is due; it counts as sent.

        `removals` allows resources to be taken away now; a name that the proxy asked for and that does not exist is
        answered in any case. `pending` names exist but are not ready: nothing is said about them yet.
        """
        if self.in_flight is not None:
            return None
        goal = self.goal(whole)
        if self.held is goal:
            self.acked, self.owes = max(self.acked, version), False
            self.settled_on = whole
            return None
        if self.refused:
            self.refused = {name: digest for name, digest in self.refused.items() if goal.resources.get(name) == digest}
        offer = self._next_suspects(goal, version, nonce) or self._next_change(
            goal, version, nonce, removals=removals, pending=pending
        )
        if offer is not None:
            self.in_flight = offer
            self.sent = version
        return offer

    def _next_suspects(self, goal: ResourceSet, version: int, nonce: str) -> Offer | None:
        group = next_group(self._suspects, goal, self.held)
        if not group:
            return None
        self.held = self.held.altered(dict(group))
        return self._made(version, nonce, group, (), completes=False)

    def _next_change(
        self, goal: ResourceSet, version: int, nonce: str, *, removals: bool, pending: frozenset[str]
    ) -> Offer | None:
        change = goal.change_from(self.held)
        put, removed = change.put, change.removed
        if change.empty:
            self.held = goal
            self.acked, self.owes = max(self.acked, version), False
            return None
        if not self.refused and not pending and (removals or not removed):
            self.held = goal
            return self._made(version, nonce, put, removed, completes=True, change=change)
        if self.refused:
            put = tuple(pair for pair in put if self.refused.get(pair[0]) != pair[1])
        if pending:
            put = tuple(pair for pair in put if pair[0] not in pending)
            removed = tuple(name for name in removed if name not in pending)
        if not removals:
            removed = tuple(name for name in removed if change.held[name] == UNKNOWN)
        if not put and not removed:
            return None
        if put == change.put and not removed:
            self.held = change.kept
            return self._made(version, nonce, put, (), completes=False, change=change)
        self.held = self.held.altered(dict(put), frozenset(removed))
        return self._made(version, nonce, put, removed, completes=False)

    def _made(
        self,
        version: int,
        nonce: str,
        put: tuple[tuple[str, str], ...],
        removed: tuple[str, ...],
        *,
        completes: bool,
        change: ResourceChange | None = None,
    ) -> Offer:
        return Offer(
            type_url=self.type_url,
            version=version,
            nonce=nonce,
            put=put,
            removed=removed,
            completes=completes,
            change=change,
        )
