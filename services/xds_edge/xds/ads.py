"""The order of responses between the types of one stream: whole versions, make before break.

Pure, and the same for both xDS variants. [Eventual consistency considerations] Clusters come first, then their
endpoints, then listeners, then routes. Stale clusters, endpoints and routes are removed only when nothing refers to
them any more. Listeners and routes wait for the ACK of new clusters: Envoy sends it when the clusters are warm, so no
route ever refers to a cluster that is missing. They wait for at most `GATE` seconds: the withdrawal of a permission
must not depend on a cluster that does not warm.

Secrets belong to no version. They are sent when they are requested or change.
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
    """The client requests a type that the mesh does not serve."""


class ClassView:
    """What the proxies of one workload class should hold at a version; immutable and shared by their streams."""

    __slots__ = ("selections", "version", "workload_class")

    def __init__(self, workload_class: str, version: int, selections: Mapping[str, ResourceSet]) -> None:
        self.workload_class = workload_class
        self.version = version
        self.selections = selections

    def of(self, type_url: str) -> ResourceSet:
        """The resources of one type."""
        return self.selections.get(type_url, NOTHING)


AnySubscription = DeltaSubscription | SotwSubscription
"""The subscription of one type, in either xDS variant."""


class AdsSession:
    """The state of one stream: requests are applied, responses are offered."""

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
        """`follow` makes the subscription of a type, and so decides the xDS variant."""
        self._follow = follow
        self.view: ClassView | None = None
        self.version = 0
        """Snapshot version for which `view` is known to be true; 0 before the first view."""
        self.epoch = ""
        """Epoch of that version."""
        self.secrets = NOTHING
        self.pending_secrets: frozenset[str] = frozenset()
        """Names of secrets that are not available yet: no response mentions them."""
        self.subscriptions: dict[str, AnySubscription] = {}
        self.complete = 0
        """Newest version that the proxy holds completely, over all types that the mesh renders or it requested."""
        self._nonce = 0
        self._gate: float | None = None
        self._waits = False

    def request(self, request: XdsRequest) -> AckResult:
        """Apply a request. Raises `UnknownTypeError` and `TooManyNamesError`."""
        subscription = self.subscriptions.get(request.type_url)
        if subscription is None:
            if request.type_url not in SERVED:
                raise UnknownTypeError(
                    "xds/unknown-type", "is no type that this mesh serves", about=repr(request.type_url[:200])
                )
            subscription = self.subscriptions[request.type_url] = self._follow(request.type_url)
        result = subscription.request(request)
        if self.version and result is not AckResult.NONE:
            self._update_complete()
        return result

    def show(self, view: ClassView, version: int, epoch: str = "") -> None:
        """Serve this view, which is true for `version` of an epoch."""
        self.view = view
        self.version = version
        if epoch != self.epoch:
            # The same version numbers may occur in two epochs, with different content.
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
        self._update_complete()
        return found

    @property
    def wake_at(self) -> float | None:
        """When `offers` must be called again without any other cause, by the same clock; None if it need not."""
        return self._gate if self._waits else None

    @property
    def idle(self) -> bool:
        """Whether the proxy holds everything that it requested, with nothing in flight."""
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

        A type that the proxy has not requested counts as held only if there are no resources of it. While requested
        names are unanswered, no version counts as held that did not count before: the accepted response may be the
        cause of the request, as a new cluster is for its endpoints and a new listener for its routes.
        """
        subscription = self.subscriptions.get(type_url)
        if subscription is not None:
            return min(subscription.acked, self.complete) if subscription.owes else subscription.acked
        return 0 if self.view is None or self.whole(type_url).resources else self.version

    def whole(self, type_url: str) -> ResourceSet:
        """All resources of a type for this client."""
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
        """Send the endpoints of changed clusters with them, even if the endpoints did not change.

        [Resource warming] "Warming of Cluster is completed only when a new ClusterLoadAssignment response is supplied
        by management server even though there is no change in endpoints." A cluster whose endpoints have another name
        needs nothing: the client requests them.
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
        # While a removal is in flight, resources added since could not be sent.
        if clusters is None or sent is None or not (sent.put or clusters.lacks(self.whole(CDS))):
            self._gate = None
            self._waits = False
            return True
        if self._gate is None:
            self._gate = now + GATE
        self._waits = now < self._gate
        return not self._waits

    def _update_complete(self) -> None:
        # Every type that the mesh renders counts, even before the proxy requests it. Secrets count once requested, so
        # that the watermark falls back when a proxy first requests them.
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
