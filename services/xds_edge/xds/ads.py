"""The order between the types of one stream: whole versions, make before break; pure, and the same for both protocols.

[Eventual consistency considerations] clusters first, then their endpoints, then listeners, then routes, and only
when nothing refers to them any more the stale clusters, endpoints and routes go. Listeners and routes wait for the
ACK of new clusters: Envoy gives it when they have warmed, so no route ever points at a cluster that is not there.
They do not wait for ever (`GATE`): a permission that was taken back must not hang on a cluster that does not warm.

Secrets belong to no version; they are answered whenever they are asked for or change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from services.xds_edge.xds.delta import DeltaSubscription
from services.xds_edge.xds.resource_set import NOTHING, ResourceSet
from services.xds_edge.xds.sotw import SotwSubscription
from services.xds_edge.xds.subscription import AckResult, Offer, XdsRequest
from shared.errors import MeshlogError
from shared.records.snapshot import CDS, EDS, LDS, RDS, SDS, TYPE_URLS

GATE = 2.0
"""Seconds that listeners and routes wait for the ACK of the clusters that they may refer to."""

SERVED = frozenset((*TYPE_URLS, SDS))


class UnknownTypeError(MeshlogError):
    """The client asks for a type that the mesh has not."""


class ClassView:
    """What the proxies of one class should hold at a version: shared by their streams, never changed once made."""

    __slots__ = ("selections", "version", "workload_class")

    def __init__(self, workload_class: str, version: int, selections: Mapping[str, ResourceSet]) -> None:
        self.workload_class = workload_class
        self.version = version
        self.selections = selections

    def of(self, type_url: str) -> ResourceSet:
        """The resources of one type."""
        return self.selections.get(type_url, NOTHING)


AnySubscription = DeltaSubscription | SotwSubscription
"""The rules of one type: incremental, or state of the world."""


class AdsSession:
    """One stream: requests in, offers out."""

    __slots__ = (
        "_follow",
        "_gate",
        "_nonce",
        "_waits",
        "complete",
        "epoch",
        "pending_secrets",
        "secrets",
        "subscriptions",
        "version",
        "view",
    )

    def __init__(self, follow: Callable[[str], AnySubscription] = DeltaSubscription) -> None:
        """`follow` makes the subscription of a type, and so chooses the protocol."""
        self._follow = follow
        self.view: ClassView | None = None
        self.version = 0
        """Snapshot version that `view` is known to be true for; 0: nothing to serve yet."""
        self.epoch = ""
        """Epoch of that version."""
        self.secrets = NOTHING
        self.pending_secrets: frozenset[str] = frozenset()
        """Secrets that exist but are not there yet: nothing is said about them."""
        self.subscriptions: dict[str, AnySubscription] = {}
        self.complete = 0
        """Newest version that the proxy holds completely, over all types that the mesh renders or it asked for."""
        self._nonce = 0
        self._gate: float | None = None
        self._waits = False

    def request(self, request: XdsRequest) -> AckResult:
        """Fold in what the proxy says. Raises `UnknownTypeError` and `TooManyNamesError`."""
        subscription = self.subscriptions.get(request.type_url)
        if subscription is None:
            if request.type_url not in SERVED:
                raise UnknownTypeError(
                    "xds/unknown-type", "is no type that this mesh serves", about=repr(request.type_url[:200])
                )
            subscription = self.subscriptions[request.type_url] = self._follow(request.type_url)
        verdict = subscription.request(request)
        if self.version and verdict is not AckResult.NONE:
            self._judge()
        return verdict

    def show(self, view: ClassView, version: int, epoch: str = "") -> None:
        """Serve this view from now on; it is true for `version` of an epoch."""
        self.view = view
        self.version = version
        if epoch != self.epoch:
            # Versions of an epoch may be those of the one before again, for something else.
            self.epoch = epoch
            self.complete = 0
            for subscription in self.subscriptions.values():
                subscription.begin_epoch()

    def offers(self, now: float) -> list[Offer]:
        """Every response that may be sent now, in order; they count as sent. `now`: seconds of a steady clock."""
        if self.view is None:
            return []
        found: list[Offer] = []
        self._offer(SDS, found, self.secrets, pending=self.pending_secrets)
        view = self.view
        if self._offer(CDS, found, view.of(CDS), removals=False):
            self._warm(found[-1])
        self._offer(EDS, found, view.of(EDS), removals=False)
        if self._gate_open(now):
            self._offer(LDS, found, view.of(LDS))
            self._offer(RDS, found, view.of(RDS), removals=False)
            if self._additions_done(LDS) and self._additions_done(RDS):
                for type_url in (CDS, RDS, EDS):
                    self._offer(type_url, found, view.of(type_url))
        self._judge()
        return found

    @property
    def wake_at(self) -> float | None:
        """When `offers` must be asked again though nothing happened, by the clock given to it."""
        return self._gate if self._waits else None

    @property
    def idle(self) -> bool:
        """Whether the proxy holds all that it asked for, with nothing in flight."""
        if not self.version:
            return False
        for type_url, subscription in self.subscriptions.items():
            whole = self.whole(type_url)
            if subscription.settled_on is whole and subscription.in_flight is None:
                continue
            if not subscription.settled(whole):
                return False
        return True

    def acked(self, type_url: str) -> int:
        """Newest version of which the proxy holds everything of this type.

        A type that it has not asked for counts as held only if there is nothing of it. While names are unanswered
        that it has asked for, no version is held that was not held before: what it has just accepted may be what made
        it ask, as a new cluster does for its endpoints and a new listener for its routes.
        """
        subscription = self.subscriptions.get(type_url)
        if subscription is not None:
            return min(subscription.acked, self.complete) if subscription.owes else subscription.acked
        return 0 if self.view is None or self.whole(type_url).resources else self.version

    def whole(self, type_url: str) -> ResourceSet:
        """What there is of a type for this client."""
        if type_url == SDS:
            return self.secrets
        return self.view.of(type_url) if self.view is not None else NOTHING

    def _offer(
        self,
        type_url: str,
        found: list[Offer],
        whole: ResourceSet,
        *,
        removals: bool = True,
        pending: frozenset[str] = frozenset(),
    ) -> bool:
        subscription = self.subscriptions.get(type_url)
        if subscription is None or subscription.in_flight is not None:
            return False
        if subscription.settled_on is whole:
            subscription.acked = max(subscription.acked, self.version)
            return False
        offer = subscription.offer(
            whole, version=self.version, nonce=str(self._nonce + 1), removals=removals, pending=pending
        )
        if offer is None:
            return False
        self._nonce += 1
        found.append(offer)
        return True

    def _warm(self, clusters: Offer) -> None:
        """Send the endpoints of changed clusters with them, though they did not change.

        [Resource warming] "Warming of Cluster is completed only when a new ClusterLoadAssignment response is supplied
        by management server even though there is no change in endpoints." A cluster whose endpoints have a name of
        their own needs nothing: it asks for them.
        """
        endpoints = self.subscriptions.get(EDS)
        if endpoints is not None:
            endpoints.forget(name for name, _ in clusters.put)

    def _additions_done(self, type_url: str) -> bool:
        subscription = self.subscriptions.get(type_url)
        return subscription is None or subscription.additions_done(self.whole(type_url))

    def _gate_open(self, now: float) -> bool:
        clusters = self.subscriptions.get(CDS)
        sent = clusters.in_flight if clusters is not None else None
        # While a removal is under way, what came to be wanted since could not be sent.
        if clusters is None or sent is None or not (sent.put or clusters.lacks(self.whole(CDS))):
            self._gate = None
            self._waits = False
            return True
        if self._gate is None:
            self._gate = now + GATE
        self._waits = now < self._gate
        return not self._waits

    def _judge(self) -> None:
        # Every type the mesh renders counts, also one that the proxy has yet to ask for; secrets once asked for, so
        # that the mark falls back when a proxy begins to ask for them.
        newest, subscriptions = self.version, self.subscriptions
        for type_url in SERVED:
            subscription = subscriptions.get(type_url)
            if subscription is not None:
                acked = min(subscription.acked, self.complete) if subscription.owes else subscription.acked
            elif type_url == SDS:
                continue
            else:
                acked = self.acked(type_url)
            newest = min(newest, acked)
        self.complete = newest
