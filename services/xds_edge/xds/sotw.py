"""State-of-the-world xDS for one resource type of one stream: the counterpart of `delta`.

Pure. gRPC's own xDS clients have no other variant, and Envoys may use it. The rules are those of Envoy's "xDS REST and
gRPC protocol" (api-docs/xds_protocol), cited as [section]. The differences to the incremental variant:

* A request names everything that the client subscribes to. A response of clusters or listeners contains everything that
  the client should hold, and so removes everything that it lacks. Of other types only changes are sent, and never a
  removal: the client drops a resource when nothing refers to it any more.
* A client that reconnects names one version for everything that it holds. So `version_info` is a digest of exactly
  these names and hashes: if it equals that of the goal, nothing is sent.
* A NACK refuses a whole response. Of endpoints, routes and secrets the refused resource is found by bisection, as for
  an incremental client. Of clusters and listeners it cannot be: a resource that is missing in a response is deleted,
  and its last good form may not exist here any more. So none of them are sent until one of them changes. The others of
  the response take effect all the same: Envoy applies each valid cluster and listener of a refused response, and so
  does gRPC (gRFC A46).
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
"""Types whose responses contain everything: a resource that is missing is removed."""


def version_info(type_url: str, held: ResourceSet) -> str:
    """The version of a resource set.

    Of secrets it is readable, so that another edge learns which certificate the client holds.
    """
    pairs = sorted(held.resources.items())
    if type_url == SDS:
        return ",".join(f"{name}={version}" for name, version in pairs)
    return hashlib.sha256(repr(pairs).encode()).hexdigest()[:16]


def read_version_info(text: str) -> dict[str, str]:
    """Names and versions of secrets in a `version_info`; empty if an edge did not write it."""
    pairs = [part.partition("=") for part in text.split(",")] if "=" in text else []
    return {name: version for name, _, version in pairs[:16] if name and version}


class SotwSubscription(SubscriptionState):
    """The state-of-the-world subscription of one type of one stream."""

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
        """Apply a request; raises `TooManyNamesError`.

        [ACK and NACK; When to send an update] A request with a nonce that is not the newest was sent before the client
        received the newest response. It is ignored: the client's answer to that response names all subscriptions again.
        """
        if request.nonce and request.nonce != self._nonce:
            return AckResult.STALE
        result = self._answer(request)
        if not self._started:
            self._started = True
            # [Resource versions] The first request of a stream carries the version accepted on an earlier one.
            self._claimed = request.version
            # [Wildcard] A client that never named a resource of the type subscribes to everything.
            self.wildcard = self.type_url in LEGACY_WILDCARD and not request.subscribe
            self._unanswered = True
            self._want(request.subscribe)
            if request.initial_versions:
                self._claimed = ""
                known = {name: held for name, held in request.initial_versions.items() if name in self.names}
                self.held, self._unanswered = ResourceSet(known), False
        else:
            self._want(request.subscribe)
        return result

    def _want(self, subscribed: tuple[str, ...]) -> None:
        """[How the client specifies what resources to return] Each request contains all names.

        An empty list means everything only as long as no request had names; later it means nothing.
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
            # [Resource names] A new name must be answered, whatever the client held before.
            self._unanswered = self.owes = True
            self.held = self.held.altered({}, added)
        if not self.wildcard:
            self.held = self.held.restrict(self.names)

    def _answer(self, request: XdsRequest) -> AckResult:
        offer = self.in_flight
        if not request.nonce or offer is None:
            # It only changes subscriptions.
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
        """Whether every addition and change was accepted; removals may be due."""
        if self.in_flight is not None or self.refused or self._suspects:
            return False
        return all(name in pending for name, _ in self.goal(whole).change_from(self.held).put)

    def forget(self, names: Iterable[str]) -> None:
        """Treat these resources as not held, so that they are sent again."""
        self.held = self.held.altered({}, frozenset(names))

    def asks_for(self, name: str, request: XdsRequest) -> bool:
        """Whether this request, which is not applied yet, must be answered with that resource."""
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
        """The next response, or None if none is due; it counts as sent. See `DeltaSubscription.offer`."""
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
        return self._send(Offer(self.type_url, version, nonce, put, gone, completes), after)

    def _offer_parts(self, goal: ResourceSet, version: int, nonce: str, *, complete: bool) -> Offer | None:
        """The next response of a type whose responses contain only changes.

        Removals and missing names cannot be expressed: the client finds out by waiting.
        """
        self._unanswered = False
        if group := next_group(self._suspects, goal, self.held):
            offer = Offer(self.type_url, version, nonce, group, (), completes=False)
            return self._send(offer, self.held.altered(dict(group)))
        change = goal.change_from(self.held)
        put = tuple(pair for pair in change.put if self.refused.get(pair[0]) != pair[1])
        left = {name: UNKNOWN for name, digest in change.put if self.refused.get(name) == digest}
        after = goal.altered(left) if left else goal
        if not put:
            self.held = after
            if complete and not left:
                self._complete(version)
            return None
        return self._send(Offer(self.type_url, version, nonce, put, (), completes=complete and not left), after)

    def _send(self, offer: Offer, held: ResourceSet) -> Offer:
        self._unanswered = False
        self.held = held
        self._nonce = offer.nonce
        self.in_flight = offer
        self.sent = offer.version
        return offer
