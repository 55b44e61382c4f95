"""State of the world, as tables of sessions and as a property: no network, no time."""

from __future__ import annotations

import random

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from hypothesis import given, settings
from hypothesis import strategies as st

from services.xds_edge.xds import wire
from services.xds_edge.xds.ads import AdsSession, ClassView
from services.xds_edge.xds.request_decode import decode_sotw
from services.xds_edge.xds.response_cache import ResponseCache
from services.xds_edge.xds.sotw import SotwSubscription, read_version_info, version_info
from services.xds_edge.xds.subscription import MAX_NAMES, WILDCARD, AckResult, Offer, TooManyNamesError, XdsRequest
from services.xds_edge.xds.variants import SotwVariant
from shared.records.snapshot import CDS, EDS, LDS, RDS, SDS, TYPE_URLS
from tests.unit.xds_edge.proxy_model import view

WHOLE = {CDS, LDS}


class Client:
    """What a SotW client holds, as the protocol defines it, independent of our server."""

    def __init__(self, first: ClassView, *, holds: dict[str, dict[str, str]] | None = None) -> None:
        self.session = AdsSession(SotwSubscription)
        self.session.show(first, first.version)
        self.holds: dict[str, dict[str, str]] = holds or {}
        self.names: dict[str, set[str]] = {}
        self.named: set[str] = set()
        self.nonces: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self.unanswered: list[tuple[Offer, str]] = []
        self.log: list[Offer] = []

    def ask(self, type_url: str, *names: str) -> AckResult:
        self.names[type_url] = set(names)
        return self._log_refusal(type_url)

    def _log_refusal(self, type_url: str, error: str | None = None) -> AckResult:
        names = self.names[type_url]
        held = self.holds.setdefault(type_url, {})
        verdict = self.session.request(
            XdsRequest(
                type_url=type_url,
                subscribe=tuple(sorted(names)),
                nonce=self.nonces.get(type_url, ""),
                version=self.versions.get(type_url, ""),
                error=error,
            )
        )
        # Names that only a stale request contained were never applied.
        if names and verdict is not AckResult.STALE:
            self.named.add(type_url)
        if (names or type_url in self.named) and WILDCARD not in names:
            for name in [name for name in held if name not in names]:
                del held[name]
        return verdict

    def pump(self, now: float = 0.0) -> list[Offer]:
        offers = self.session.offers(now)
        self.unanswered += [
            (offer, version_info(offer.type_url, self.session.subscriptions[offer.type_url].held)) for offer in offers
        ]
        self.log += offers
        return offers

    def answer(self, error: str | None = None) -> AckResult:
        offer, version = self.unanswered.pop(0)
        self.nonces[offer.type_url] = offer.nonce
        if error is None:
            self.versions[offer.type_url] = version
            held = self.holds[offer.type_url]
            if offer.type_url in WHOLE:
                held.clear()
            held.update(offer.put)
        return self._log_refusal(offer.type_url, error)

    def settle(self, now: float = 0.0) -> None:
        for _ in range(500):
            self.pump(now)
            if not self.unanswered:
                return
            self.answer()
        raise AssertionError("the session does not come to rest")


def sent(offers: list[Offer]) -> list[tuple[str, list[str]]]:
    short = {CDS: "cds", EDS: "eds", LDS: "lds", RDS: "rds", SDS: "sds"}
    return [(short[offer.type_url], [name for name, _ in offer.put]) for offer in offers]


class TestSubscriptions:
    def test_a_client_that_names_nothing_wants_everything(self) -> None:
        client = Client(view(1, cds={"a": "1", "b": "1"}))
        client.ask(CDS)
        assert sent(client.pump()) == [("cds", ["a", "b"])]

    def test_names_are_all_that_is_wanted(self) -> None:
        client = Client(view(1, lds={"a": "1", "b": "1"}))
        client.ask(LDS, "a")
        assert sent(client.pump()) == [("lds", ["a"])]

    def test_a_change_of_one_cluster_sends_all_of_them(self) -> None:
        client = Client(view(1, cds={"a": "1", "b": "1"}))
        client.ask(CDS)
        client.settle()
        client.session.show(view(2, cds={"a": "1", "b": "2"}), 2)
        assert sent(client.pump()) == [("cds", ["a", "b"])]

    def test_a_change_of_endpoints_sends_only_what_changed(self) -> None:
        client = Client(view(1, eds={"a": "1", "b": "1"}))
        client.ask(EDS, "a", "b")
        client.settle()
        client.session.show(view(2, eds={"a": "1", "b": "2"}), 2)
        assert sent(client.pump()) == [("eds", ["b"])]

    def test_a_further_name_is_answered(self) -> None:
        client = Client(view(1, eds={"a": "1", "b": "1"}))
        client.ask(EDS, "a")
        client.settle()
        client.ask(EDS, "a", "b")
        assert sent(client.pump()) == [("eds", ["b"])]

    def test_a_listener_that_does_not_exist_is_answered_by_its_absence(self) -> None:
        client = Client(view(1, lds={"a": "1"}))
        client.ask(LDS, "x")
        assert sent(client.pump()) == [("lds", [])]
        client.answer()
        client.session.show(view(2, lds={"x": "1"}), 2)
        assert sent(client.pump()) == [("lds", ["x"])]

    def test_an_empty_list_after_names_means_nothing(self) -> None:
        client = Client(view(1, cds={"a": "1", "b": "1"}))
        client.ask(CDS, "a")
        client.settle()
        client.ask(CDS)
        client.settle()
        client.session.show(view(2, cds={"a": "2", "b": "2"}), 2)
        assert sent(client.pump()) == []

    def test_a_removed_cluster_is_left_out_once_nothing_refers_to_it(self) -> None:
        client = Client(view(1, cds={"a": "1", "b": "1"}, rds={"r": "1"}))
        client.ask(CDS)
        client.ask(RDS, "r")
        client.settle()
        client.session.show(view(2, cds={"b": "1", "c": "1"}, rds={"r": "2"}), 2)
        assert sent(client.pump()) == [("cds", ["a", "b", "c"])]
        client.answer()
        assert sent(client.pump()) == [("rds", ["r"])]
        client.answer()
        assert sent(client.pump()) == [("cds", ["b", "c"])]

    def test_too_many_names_are_refused(self) -> None:
        client = Client(view(1))
        with pytest.raises(TooManyNamesError):
            client.ask(EDS, *(str(number) for number in range(MAX_NAMES + 1)))


class TestAnswers:
    def test_an_ack_moves_the_watermark(self) -> None:
        client = Client(view(3, cds={"a": "1"}))
        client.ask(CDS)
        client.pump()
        assert client.answer() is AckResult.ACK
        assert client.session.acked(CDS) == 3

    def test_a_version_is_not_held_before_the_names_that_it_made_the_client_ask_for_are_answered(self) -> None:
        client = Client(view(1, lds={"l": "1"}, rds={"r": "1"}))
        client.ask(LDS, "l")
        client.ask(RDS, "r")
        client.settle()
        assert client.session.complete == 1
        client.session.show(view(2, lds={"l": "2"}, rds={"r": "1", "s": "1"}), 2)
        client.pump()
        client.ask(RDS, "r", "s")
        client.answer()
        assert client.session.complete == 1
        client.pump()
        assert client.session.complete == 1
        client.answer()
        assert client.session.complete == 2

    def test_a_stale_nonce_is_passed_over_with_all_that_it_says(self) -> None:
        client = Client(view(1, eds={"a": "1", "b": "1"}))
        client.ask(EDS, "a")
        client.settle()
        client.session.show(view(2, eds={"a": "2", "b": "1"}), 2)
        client.pump()
        # Names change while a response is on its way: the ACK of that response repeats them.
        assert client.ask(EDS, "a", "b") is AckResult.STALE
        assert sent(client.pump()) == []
        assert client.answer() is AckResult.ACK
        assert sent(client.pump()) == [("eds", ["b"])]

    def test_a_foreign_nonce_says_nothing(self) -> None:
        client = Client(view(1, cds={"a": "1"}))
        client.ask(CDS)
        client.pump()
        client.nonces[CDS] = "never-sent"
        assert client.ask(CDS) is AckResult.STALE
        assert client.session.acked(CDS) == 0

    def test_a_refused_response_is_not_repeated_until_something_changes(self) -> None:
        client = Client(view(1, lds={"a": "bad"}))
        client.ask(LDS)
        client.pump()
        assert client.answer("no good") is AckResult.NACK
        assert sent(client.pump()) == []
        assert client.session.acked(LDS) == 0
        assert client.session.subscriptions[LDS].refused == {"a": "bad"}
        client.session.show(view(2, lds={"a": "good"}), 2)
        assert sent(client.pump()) == [("lds", ["a"])]
        client.answer()
        assert client.session.acked(LDS) == 2

    def test_the_others_of_refused_routes_still_arrive(self) -> None:
        """One bad route configuration of many is found in halves; it alone is not sent again until it changes."""
        routes = {str(n): "bad" if n in {7, 13} else "1" for n in range(20)}
        client = Client(view(1, rds=routes))
        client.ask(RDS, *routes)
        for _ in range(40):
            if not client.pump() and not client.unanswered:
                break
            offer, _version = client.unanswered[0]
            client.answer("no" if any(digest == "bad" for _, digest in offer.put) else None)
        assert client.holds[RDS] == {name: digest for name, digest in routes.items() if digest != "bad"}
        assert client.session.subscriptions[RDS].refused == {"7": "bad", "13": "bad"}
        assert client.session.acked(RDS) == 0
        assert not client.session.idle
        client.session.show(view(2, rds=routes | {"1": "2"}), 2)
        assert [offer.put for offer in client.pump()] == [(("1", "2"),)]
        client.answer()
        client.session.show(view(3, rds=dict.fromkeys(routes, "3")), 3)
        client.settle()
        assert client.holds[RDS] == dict.fromkeys(routes, "3")
        assert client.session.acked(RDS) == 3
        assert client.session.subscriptions[RDS].refused == {}

    def test_a_refusal_does_not_stop_the_other_types(self) -> None:
        client = Client(view(1, lds={"a": "bad"}, eds={"e": "1"}))
        client.ask(LDS)
        client.ask(EDS, "e")
        client.pump()
        client.answer()
        client.answer("no good")
        client.session.show(view(2, lds={"a": "bad"}, eds={"e": "2"}), 2)
        assert sent(client.pump()) == [("eds", ["e"])]

    def test_one_response_of_a_type_is_on_its_way_at_a_time(self) -> None:
        client = Client(view(1, eds={"a": "1"}))
        client.ask(EDS, "a")
        client.pump()
        for version in (2, 3, 4):
            client.session.show(view(version, eds={"a": str(version)}), version)
            assert sent(client.pump()) == []
        client.answer()
        assert [offer.put for offer in client.pump()] == [(("a", "4"),)]


class TestReconnect:
    def test_a_client_that_is_up_to_date_is_sent_nothing(self) -> None:
        shown = view(1, cds={"a": "1"}, eds={"a": "1"}, lds={"l": "1"}, rds={"r": "1"})
        first = Client(shown)
        for type_url, names in ((CDS, ()), (EDS, ("a",)), (LDS, ()), (RDS, ("r",))):
            first.ask(type_url, *names)
        first.settle()
        again = Client(view(1, cds={"a": "1"}, eds={"a": "1"}, lds={"l": "1"}, rds={"r": "1"}), holds=first.holds)
        again.versions = first.versions
        for type_url, names in first.names.items():
            again.ask(type_url, *names)
        assert sent(again.pump()) == []
        assert again.session.complete == 1

    def test_a_client_that_is_behind_is_sent_what_changed(self) -> None:
        first = Client(view(1, cds={"a": "1"}, eds={"a": "1"}))
        first.ask(CDS)
        first.ask(EDS, "a")
        first.settle()
        again = Client(view(2, cds={"a": "1"}, eds={"a": "2"}), holds=first.holds)
        again.versions = first.versions
        again.ask(CDS)
        again.ask(EDS, "a")
        assert sent(again.pump()) == [("eds", ["a"])]

    def test_the_version_of_secrets_can_be_read(self) -> None:
        subscription = SotwSubscription(SDS)
        held = view(1, cds={"workload": "w1.5", "trust-bundle": "abc"}).of(CDS)
        text = version_info(SDS, held)
        assert read_version_info(text) == held.resources
        subscription.request(
            XdsRequest(SDS, ("trust-bundle", "workload"), version=text, initial_versions=read_version_info(text))
        )
        assert subscription.offer(held, version=1, nonce="1") is None
        assert subscription.acked == 1


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(min_value=0, max_value=2**32), steps=st.integers(1, 60))
def test_whatever_it_says_it_ends_with_exactly_what_its_view_names(seed: int, steps: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    names = ["a", "b", "c", "d"]

    def shown(version: int) -> tuple[ClassView, dict[str, dict[str, str]]]:
        found = {
            short: {name: chance.choice("123") for name in names if chance.random() < 0.6}
            for short in ("cds", "eds", "lds", "rds")
        }
        return view(version, **found), found

    first, there = shown(1)
    client = Client(first)
    version, now = 1, 0.0
    for _ in range(steps):
        now += chance.random()
        match chance.randrange(5):
            case 0:
                version += 1
                newest, there = shown(version)
                client.session.show(newest, version)
            case 1:
                client.ask(chance.choice(TYPE_URLS), *chance.sample([*names, "x"], chance.randrange(4)))
            case 2 if client.unanswered:
                # A removal cannot be refused.
                client.answer("no" if client.unanswered[0][0].put and chance.random() < 0.2 else None)
            case _:
                client.pump(now)
    version += 1
    newest, there = shown(version)
    # Something changes everywhere, so that what stands refused is offered again.
    for found in there.values():
        found.update(dict.fromkeys(found, f"v{version}"))
    client.session.show(view(version, **there), version)
    while client.unanswered:
        client.answer()
    client.settle(now + 100)
    for short, type_url in (("cds", CDS), ("eds", EDS), ("lds", LDS), ("rds", RDS)):
        subscription = client.session.subscriptions.get(type_url)
        if subscription is None:
            continue
        wanted = {n: d for n, d in there[short].items() if subscription.wildcard or n in client.names[type_url]}
        held = client.holds[type_url]
        if type_url not in WHOLE:
            # A removal is never sent; the client drops the resource when nothing refers to it.
            held = {name: digest for name, digest in held.items() if name in there[short]}
        assert held == wanted
        assert client.session.acked(type_url) == version


def test_bytes_are_those_of_the_library() -> None:
    ours = wire.sotw_response("v", CDS, [b"one", b""], "n")
    theirs = DiscoveryResponse(version_info="v", type_url=CDS, nonce="n")
    for body in (b"one", b""):
        theirs.resources.add(type_url=CDS, value=body)
    assert ours == theirs.SerializeToString(deterministic=True)


def test_a_request_is_read() -> None:
    message = DiscoveryRequest(
        type_url=SDS, version_info="workload=w1", resource_names=["workload"], response_nonce="n"
    )
    message.node.id = "me"
    message.error_detail.message = "no"
    request, node = decode_sotw(message.SerializeToString())
    assert (request.subscribe, request.nonce, request.error, node) == (("workload",), "n", "no", "me")
    assert request.initial_versions == {"workload": "w1"}


def test_a_cluster_about_to_go_is_sent_once_more_though_the_snapshot_has_it_no_longer() -> None:
    bodies = {(CDS, "a", "1"): b"A", (CDS, "b", "1"): b"B"}

    def body(type_url: str, name: str, digest: str) -> bytes:
        return bodies[type_url, name, digest]

    world = SotwVariant(ResponseCache(body))
    held = view(1, cds={"a": "1", "b": "1"}).of(CDS)
    world.write(Offer(CDS, 1, "1", (("a", "1"), ("b", "1")), (), completes=True), held, body)
    del bodies[CDS, "a", "1"]
    (payload,) = world.write(Offer(CDS, 2, "2", (("a", "1"), ("b", "1")), (), completes=False), held, body)
    assert [one.value for one in DiscoveryResponse.FromString(payload).resources] == [b"A", b"B"]
