"""Incremental xDS for one resource type of one stream: what is subscribed, held, in flight and refused.

Pure. The rules are those of Envoy's "xDS REST and gRPC protocol" (api-docs/xds_protocol) and of the comments in
`envoy/service/discovery/v3/discovery.proto`; each is cited where it is kept, as [section]. `ads` has the order between
the types of one stream.

One response of a type is in flight at a time. So a slow proxy receives the newest state next, never a backlog, and the
state kept for it stays bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from services.xds_edge.xds.nack_bisect import next_group
from services.xds_edge.xds.resource_set import NOTHING, UNKNOWN, ResourceChange, ResourceSet, asking, interned
from services.xds_edge.xds.subscription import (
    LEGACY_WILDCARD,
    WILDCARD,
    AckResult,
    Offer,
    SubscriptionState,
    XdsRequest,
)


class DeltaSubscription(SubscriptionState):
    """The incremental subscription of one type of one stream."""

    __slots__ = ("_crossed",)

    def __init__(self, type_url: str) -> None:
        super().__init__(type_url)
        self._crossed = False
        """Whether the proxy unsubscribed from something while a response was in flight."""

    # Requests

    def request(self, request: XdsRequest) -> AckResult:
        """Apply a request. Raises `TooManyNamesError`, after which the stream must end."""
        self.settled_on = None
        result = self._answer(request)
        if not self._started:
            self._start(request)
        elif request.subscribe:
            self._subscribe(request.subscribe)
        if request.unsubscribe:
            self._unsubscribe(request.unsubscribe)
        return result

    def _start(self, request: XdsRequest) -> None:
        """Apply the first request of the type on this stream.

        [Wildcard, "for historical reasons"] Without names it subscribes to everything, if the type has wildcards.
        [discovery.proto, initial_resource_versions] Only here the versions count that the proxy holds from an earlier
        stream; resources that it holds in the current version are not sent again.
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

        [discovery.proto, resource_names_subscribe] Each name must be answered, even if it was subscribed or sent
        before: the client may have dropped it in between. Hence `UNKNOWN`, which differs from any hash. [Knowing when a
        requested resource does not exist] A name that does not exist is answered by a removal.
        """
        names = set(subscribed)
        if not names:
            return
        if WILDCARD in names:
            names.discard(WILDCARD)
            self.wildcard = True
        self.names = interned(self.names | names)
        self._check_count(self.names)
        asked = names - known.keys() if known else names
        for name in asked:
            self.refused.pop(name, None)
        if asked:
            self.owes = True
            first = self.held is NOTHING and len(self.names) == len(asked)
            self.held = asking(self.names) if first else self.held.altered(dict.fromkeys(asked, UNKNOWN))

    def _unsubscribe(self, unsubscribed: Iterable[str]) -> None:
        """Remove subscriptions; names that were not subscribed are ignored.

        [Unsubscribing from resources] Nothing is sent, because the client has dropped the resource. But while a
        wildcard remains, the client cannot know whether the wildcard covers the name, so the resource is sent again.
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
        """Apply the ACK or NACK in a request.

        [ACK/NACK semantics summary] The nonce identifies the response, `error_detail` makes it a NACK. A nonce that is
        not in flight is stale or foreign: it acknowledges nothing, while subscriptions in the same request still count.
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
        self._bisect(offer)
        return AckResult.NACK

    def _recall(self, offer: Offer) -> None:
        """Notice resources that the proxy unsubscribed, and subscribed again, while they were in flight."""
        self._crossed = False
        arrived = {
            name: UNKNOWN
            for name, _ in offer.put
            if name not in self.held.resources and (self.wildcard or name in self.names)
        }
        if arrived:
            self.held = self.held.altered(arrived)

    # Responses

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
        """Whether every addition and change was accepted; removals may be due."""
        if self.in_flight is not None or self.refused or self._suspects:
            return False
        if self.settled_on is whole:
            return True
        goal = self.goal(whole)
        return self.held is goal or all(name in pending for name, _ in goal.change_from(self.held).put)

    def forget(self, names: Iterable[str]) -> None:
        """Treat these resources as not held, so that they are sent again."""
        again = {name: UNKNOWN for name in names if self.held.resources.get(name)}
        if again:
            self.settled_on = None
            self.held = self.held.altered(again)

    def asks_for(self, name: str, request: XdsRequest) -> bool:
        """Whether this request, which is not applied yet, must be answered with that resource."""
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
        """The next response, or None if none is due; it counts as sent.

        `removals` allows removals now; a requested name that does not exist is answered in any case. `pending` names
        are not available yet: no response mentions them.
        """
        if self.in_flight is not None:
            return None
        goal = self.goal(whole)
        if self.held is goal:
            self._complete(version)
            self.settled_on = whole
            return None
        self._forget_old_refusals(goal)
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
        return self._offer(version, nonce, group, (), completes=False)

    def _next_change(
        self, goal: ResourceSet, version: int, nonce: str, *, removals: bool, pending: frozenset[str]
    ) -> Offer | None:
        change = goal.change_from(self.held)
        if change.empty:
            self.held = goal
            self._complete(version)
            return None
        if not self.refused and not pending and (removals or not change.removed):
            self.held = goal
            return self._offer(version, nonce, change.put, change.removed, completes=True, change=change)
        return self._part_of(change, version, nonce, removals=removals, pending=pending)

    def _part_of(
        self, change: ResourceChange, version: int, nonce: str, *, removals: bool, pending: frozenset[str]
    ) -> Offer | None:
        """The part of a change that may be sent now, without refused and pending resources."""
        put, removed, refused = change.put, change.removed, self.refused
        if refused or pending:
            put = tuple(pair for pair in put if refused.get(pair[0]) != pair[1] and pair[0] not in pending)
        if pending or not removals:
            removed = tuple(
                name for name in removed if name not in pending and (removals or change.held[name] == UNKNOWN)
            )
        if not put and not removed:
            return None
        if put == change.put and not removed:
            self.held = change.kept
            return self._offer(version, nonce, put, (), completes=False, change=change)
        self.held = self.held.altered(dict(put), frozenset(removed))
        return self._offer(version, nonce, put, removed, completes=False)

    def _offer(
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
