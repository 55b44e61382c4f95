"""A proxy that keeps what it is sent, for tests without a network. It may refuse resources, as Envoy does."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from services.xds_edge.xds.ads import AdsSession, ClassView
from services.xds_edge.xds.resource_set import ResourceSet
from services.xds_edge.xds.subscription import WILDCARD, AckResult, Offer, XdsRequest
from shared.records.snapshot import TYPE_URLS


def view(version: int, **types: dict[str, str]) -> ClassView:
    """A view by short type names: `view(1, cds={"a": "1"})`."""
    full = {"cds": TYPE_URLS[0], "eds": TYPE_URLS[1], "lds": TYPE_URLS[2], "rds": TYPE_URLS[3]}
    return ClassView("class", version, {full[short]: ResourceSet(names) for short, names in types.items()})


def _nothing(_digest: str) -> bool:
    return False


class ProxyModel:
    """What a delta client holds and is subscribed to, as the protocol defines it, independent of our server."""

    def __init__(self, session: AdsSession, refuses: Callable[[str], bool] | None = None) -> None:
        """`refuses` returns whether the proxy refuses the resource with a hash."""
        self.session = session
        self.refuses: Callable[[str], bool] = refuses or _nothing
        self.holds: dict[str, dict[str, str]] = {}
        self.subscribed: dict[str, set[str]] = {}
        self.unanswered: list[Offer] = []
        self.log: list[Offer] = []

    def ask(
        self, type_url: str, subscribe: Iterable[str] = (), unsubscribe: Iterable[str] = (), **more: dict[str, str]
    ) -> AckResult:
        subscribe, unsubscribe = tuple(subscribe), tuple(unsubscribe)
        wanted = self.subscribed.get(type_url)
        if wanted is None:
            wanted = self.subscribed[type_url] = set()
            if not subscribe and type_url in TYPE_URLS[0::2]:
                wanted.add(WILDCARD)
        wanted |= set(subscribe)
        wanted -= set(unsubscribe)
        held = self.holds.setdefault(type_url, dict(more.get("initial", {})))
        if WILDCARD not in wanted:
            for name in [name for name in held if name not in wanted]:
                del held[name]
        return self.session.request(
            XdsRequest(
                type_url=type_url,
                subscribe=subscribe,
                unsubscribe=unsubscribe,
                initial_versions=more.get("initial", {}),
            )
        )

    def pump(self, now: float = 0.0) -> list[Offer]:
        """Let the server send what it will."""
        offers = self.session.offers(now)
        self.unanswered += offers
        self.log += offers
        return offers

    def answer(self, offer: Offer | None = None, *, asking: Callable[[], object] = lambda: None) -> AckResult:
        """Accept or refuse the oldest response, or this one, whole.

        `asking` is called in between: Envoy asks for what its new resources refer to before it acknowledges them.
        """
        offer = offer or self.unanswered[0]
        self.unanswered.remove(offer)
        held = self.holds[offer.type_url]
        wanted = self.subscribed[offer.type_url]
        bad = [name for name, digest in offer.put if self.refuses(digest)]
        for name in offer.removed:
            held.pop(name, None)
        if not bad:
            for name, digest in offer.put:
                if WILDCARD in wanted or name in wanted:
                    held[name] = digest
        asking()
        error = f"no: {', '.join(bad)}" if bad else None
        return self.session.request(XdsRequest(type_url=offer.type_url, nonce=offer.nonce, error=error))

    def settle(self, now: float = 0.0, limit: int = 500) -> None:
        """Answer until nothing more comes."""
        for _ in range(limit):
            self.pump(now)
            if not self.unanswered:
                return
            self.answer()
        raise AssertionError("the session does not come to rest")
