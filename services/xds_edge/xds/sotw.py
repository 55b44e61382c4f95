"""State-of-the-world xDS for one resource type of one stream: the counterpart of `subscriptions`; pure.

gRPC's own xDS clients speak nothing else, and Envoys may. The rules are those of Envoy's "xDS REST and gRPC protocol"
(api-docs/xds_protocol), cited as [section]. What differs from the incremental protocol:

* A request names everything that the client wants; a response of clusters or listeners holds everything that it
  should have, and what is missing there is thereby removed. Of other types only what changed is sent, and nothing is
  ever said about what is gone: the client drops it when nothing refers to it any more.
* A client that reconnects names one version for all it holds. So `version_info` is a digest of exactly those names
  and hashes: if it is that of the goal, nothing needs to be sent.
* A refusal is of a response. Of endpoints, routes and secrets the resource at fault is found in halves, as for an
  incremental client. Of clusters and listeners it cannot be: what is left out of a response is deleted, and the last
  good form of it may be gone here. So nothing of these is sent until something of them changes. The others of the
  response arrive all the same: Envoy takes up each cluster and listener that is good, whatever it says of the rest, and
  so does gRPC (gRFC A46).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from services.xds_edge.xds.nack_bisect import next_group
from services.xds_edge.xds.resource_set import UNKNOWN, ResourceSet, interned
from services.xds_edge.xds.subscription import (
    LEGACY_WILDCARD,
    WILDCARD,
    AckResult,
    Offer,
    SubscriptionState,
    XdsRequest,
)
from shared.records.snapshot import SDS

WHOLE = LEGACY_WILDCARD
"""Types whose responses hold everything: what is missing is removed."""


def version_info(type_url: str, held: ResourceSet) -> str:
    """The version of a state. Of secrets it is readable: another edge learns from it which certificate is held."""
    pairs = sorted(held.resources.items())
    if type_url == SDS:
        return ",".join(f"{name}={version}" for name, version in pairs)
    return hashlib.sha256(repr(pairs).encode()).hexdigest()[:16]


def read_version_info(text: str) -> dict[str, str]:
    """Names and versions of secrets out of a `version_info`; nothing if it is none of ours."""
    pairs = [part.partition("=") for part in text.split(",")] if "=" in text else []
    return {name: version for name, _, version in pairs[:16] if name and version}


class SotwSubscription(SubscriptionState):
    """One type of one stream."""

    __slots__ = ("_claimed", "_named", "_nonce", "_unanswered")

    def __init__(self, type_url: str) -> None:
        super().__init__(type_url)
        self._nonce = ""
        self._claimed = ""
        """`version_info` of the first request, until it is compared."""
        self._unanswered = False
        """Whether a response is due even if nothing changed."""
        self._named = False
        """Whether the client ever named a resource of the type."""

    def request(self, request: XdsRequest) -> AckResult:
        """Fold a request in; raises `TooManyNamesError`.

        [ACK and NACK; When to send an update] A request with a nonce that is not the newest was made before the
        newest response was seen. It is passed over as a whole: the client's answer to that response names again
        what it wants.
        """
        if request.nonce and request.nonce != self._nonce:
            return AckResult.STALE
        verdict = self._answer(request)
        if not self._started:
            self._started = True
            # [Resource versions] The first request of a stream carries the version accepted on an earlier one.
            self._claimed = request.version
            # [Wildcard] A client that never named anything of the type wants everything.
            self.wildcard = self.type_url in LEGACY_WILDCARD and not request.subscribe
            self._unanswered = True
            self._want(request.subscribe)
            if request.initial_versions:
                self._claimed = ""
                known = {name: held for name, held in request.initial_versions.items() if name in self.names}
                self.held, self._unanswered = ResourceSet(known), False
        else:
            self._want(request.subscribe)
        return verdict

    def _want(self, subscribed: tuple[str, ...]) -> None:
        """[How the client specifies what resources to return] Each request holds all names.

        An empty list goes on meaning everything only as long as none was ever named; later it means nothing.
        """
        names = frozenset(subscribed)
        self._check_count(names)
        if names:
            self._named = True
            self.wildcard = WILDCARD in names
            names -= {WILDCARD}
        elif self._named:
            self.wildcard = False
        if names == self.names:
            return
        added = names - self.names
        self.names = interned(names)
        if added:
            # [Resource names] What is newly named must be answered, whatever the client had before.
            self._unanswered = self.owes = True
            self.held = self.held.altered({}, added)
        if not self.wildcard:
            self.held = self.held.restrict(self.names)

    def _answer(self, request: XdsRequest) -> AckResult:
        offer = self.in_flight
        if not request.nonce or offer is None:
            # It only changes what it wants.
            return AckResult.NONE
        self.in_flight = None
        if request.error is None:
            if self.type_url in WHOLE:
                self.refused = {}
            if offer.completes:
                self.acked, self.owes = offer.version, self._unanswered
            return AckResult.ACK
        if self.type_url in WHOLE:
            self.refused = dict(offer.put)
        else:
            self._bisect(offer)
        return AckResult.NACK

    def settled(self, whole: ResourceSet) -> bool:
        """Whether the client is known to hold exactly what it should, with nothing in flight."""
        goal = self.goal(whole)
        return (
            self.in_flight is None and not self._unanswered and (self.held is goal or goal.change_from(self.held).empty)
        )

    def additions_done(self, whole: ResourceSet, *, pending: frozenset[str] = frozenset()) -> bool:
        """Whether every addition and change was accepted; removals may be left."""
        if self.in_flight is not None or self.refused or self._suspects:
            return False
        return all(name in pending for name, _ in self.goal(whole).change_from(self.held).put)

    def forget(self, names: Iterable[str]) -> None:
        """Treat these as not held, so that they are sent again."""
        self.held = self.held.altered({}, frozenset(names))

    def asks_for(self, name: str, request: XdsRequest) -> bool:
        """Whether this request, not folded in yet, must be answered with that resource."""
        return name in request.subscribe and name not in self.names

    def offer(
        self,
        whole: ResourceSet,
        *,
        version: int,
        nonce: str,
        removals: bool = True,
        pending: frozenset[str] = frozenset(),
    ) -> Offer | None:
        """The next response, or none if nothing is due; it counts as sent. See `Subscription.offer`."""
        if self.in_flight is not None:
            return None
        goal = self.goal(whole)
        if self._claimed:
            if not pending and version_info(self.type_url, goal) == self._claimed:
                self.held, self._unanswered = goal, False
            self._claimed = ""
        self._forget_old_refusals(goal)
        if self.type_url not in WHOLE:
            return self._offer_parts(goal, version, nonce, complete=not (pending & self.names))
        change = goal.change_from(self.held)
        after = goal if removals else change.kept
        gone = change.removed if removals else ()
        due = self._unanswered or bool(change.put) or bool(gone)
        completes = after is goal and not (pending & self.names)
        if not due:
            self.held = after
            if completes and not self.refused:
                self._complete(version)
            return None
        put = tuple(sorted(after.resources.items()))
        return self._made(Offer(self.type_url, version, nonce, put, gone, completes), after)

    def _offer_parts(self, goal: ResourceSet, version: int, nonce: str, *, complete: bool) -> Offer | None:
        """Of a type whose responses hold what changed.

        Nothing can be said about what is gone or never was: the client finds out by waiting.
        """
        self._unanswered = False
        if group := next_group(self._suspects, goal, self.held):
            offer = Offer(self.type_url, version, nonce, group, (), completes=False)
            return self._made(offer, self.held.altered(dict(group)))
        change = goal.change_from(self.held)
        put = tuple(pair for pair in change.put if self.refused.get(pair[0]) != pair[1])
        left = {name: UNKNOWN for name, digest in change.put if self.refused.get(name) == digest}
        after = goal.altered(left) if left else goal
        if not put:
            self.held = after
            if complete and not left:
                self._complete(version)
            return None
        return self._made(Offer(self.type_url, version, nonce, put, (), completes=complete and not left), after)

    def _made(self, offer: Offer, held: ResourceSet) -> Offer:
        self._unanswered = False
        self.held = held
        self._nonce = offer.nonce
        self.in_flight = offer
        self.sent = offer.version
        return offer
