"""Whatever a client requests and whenever views change, it ends with exactly the resources that its view names."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from services.xds_edge.xds.ads import AdsSession
from services.xds_edge.xds.subscription import WILDCARD
from shared.records.snapshot import CDS, EDS, LDS, RDS, TYPE_URLS
from tests.unit.xds_edge.proxy_model import ProxyModel, view

NAMES = ["a", "b", "c", "d"]


def _random_view(chance: random.Random) -> dict[str, dict[str, str]]:
    return {
        short: {name: chance.choice("123") + chance.choice(["", "!"]) for name in NAMES if chance.random() < 0.6}
        for short in ("cds", "eds", "lds", "rds")
    }


def _expected(proxy: ProxyModel, type_url: str, names: dict[str, str]) -> dict[str, str]:
    wanted = proxy.subscribed[type_url]
    return {name: digest for name, digest in names.items() if WILDCARD in wanted or name in wanted}


@settings(max_examples=400, deadline=None)
@given(seed=st.integers(min_value=0, max_value=2**32), refuses=st.booleans(), steps=st.integers(1, 60))
def test_it_ends_with_exactly_what_the_view_names(seed: int, refuses: bool, steps: int) -> None:  # noqa: FBT001
    chance = random.Random(seed)  # noqa: S311
    session = AdsSession()
    proxy = ProxyModel(session, (lambda digest: digest.endswith("!")) if refuses else None)
    version, now = 0, 0.0
    names: dict[str, dict[str, str]] = {}
    for _ in range(steps):
        now += chance.random()
        match chance.randrange(5):
            case 0:
                version += 1
                names = _random_view(chance)
                session.show(view(version, **names), version)
            case 1:
                picked = [WILDCARD, *NAMES, "x"]
                type_url = chance.choice(TYPE_URLS)
                initial = {name: chance.choice("123") for name in NAMES if chance.random() < 0.5}
                first = type_url not in proxy.subscribed
                proxy.ask(
                    type_url,
                    chance.sample(picked, chance.randrange(3)),
                    chance.sample(picked, chance.randrange(3)),
                    **({"initial": initial} if first else {}),
                )
            case 2 if proxy.unanswered:
                proxy.answer(chance.choice(proxy.unanswered))
            case _:
                proxy.pump(now)
    version += 1
    names = _random_view(chance)
    if refuses:
        names = {short: {n: d.rstrip("!") for n, d in held.items()} for short, held in names.items()}
    session.show(view(version, **names), version)
    proxy.settle(now + 100)
    for short, type_url in (("cds", CDS), ("eds", EDS), ("lds", LDS), ("rds", RDS)):
        if type_url in proxy.subscribed:
            assert proxy.holds[type_url] == _expected(proxy, type_url, names[short])
            assert session.acked(type_url) == version
    assert session.idle


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(min_value=0, max_value=2**32))
def test_a_stream_that_follows_is_sent_each_change_once(seed: int) -> None:
    """P5: nothing is sent whose bytes did not change for this proxy."""
    chance = random.Random(seed)  # noqa: S311
    session = AdsSession()
    proxy = ProxyModel(session)
    held: dict[tuple[str, str], str] = {}
    for type_url in TYPE_URLS:
        proxy.ask(type_url, [WILDCARD])
    for version in range(1, 12):
        session.show(view(version, **_random_view(chance)), version)
        while offers := proxy.pump():
            clusters = {name for offer in offers if offer.type_url == CDS for name, _ in offer.put}
            for offer in offers:
                for name, digest in offer.put:
                    # Endpoints travel with their cluster when that changes: Envoy warms it by them.
                    warming = offer.type_url == EDS and name in clusters
                    assert warming or held.get((offer.type_url, name)) != digest
                    held[offer.type_url, name] = digest
                for name in offer.removed:
                    del held[offer.type_url, name]
            while proxy.unanswered:
                proxy.answer(chance.choice(proxy.unanswered))


def _consistent_view(chance: random.Random) -> dict[str, dict[str, str]]:
    """Listeners and routes whose hashes are the names of the clusters that they lead to, and just these clusters."""
    routes = {name: "".join(chance.sample(NAMES, chance.randrange(3))) for name in NAMES if chance.random() < 0.6}
    listeners = {name: chance.choice(["", *NAMES]) for name in routes}
    clusters = dict.fromkeys("".join([*routes.values(), *listeners.values()]), chance.choice("123"))
    return {"cds": clusters, "eds": dict(clusters), "lds": listeners, "rds": routes}


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(min_value=0, max_value=2**32))
def test_a_proxy_never_holds_what_leads_to_a_cluster_that_it_lacks(seed: int) -> None:
    """P4: make before break, however often the view changes while it takes up, in order, what it was sent."""
    chance = random.Random(seed)  # noqa: S311
    session = AdsSession()
    proxy = ProxyModel(session)
    for type_url in TYPE_URLS:
        proxy.ask(type_url, [WILDCARD])
    for version in range(1, 12):
        session.show(view(version, **_consistent_view(chance)), version)
        # It is at rest before some changes and in the middle of the last one before others.
        for _ in range(chance.choice([1, 2, 5, 100])):
            if not proxy.pump() and not proxy.unanswered:
                break
            proxy.answer()
            listeners, routes = proxy.holds[LDS], proxy.holds[RDS]
            led_to = "".join([*listeners.values(), *(routes.get(name, "") for name in listeners)])
            assert set(led_to) <= proxy.holds[CDS].keys()
