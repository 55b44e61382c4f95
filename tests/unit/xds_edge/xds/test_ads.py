"""The messages of a stream, as tables: no network, no time."""

from __future__ import annotations

import pytest

from services.xds_edge.xds.ads import GATE, AdsSession, ClassView, UnknownTypeError
from services.xds_edge.xds.resource_set import ResourceSet
from services.xds_edge.xds.subscription import MAX_NAMES, AckResult, Offer, TooManyNamesError, XdsRequest
from shared.records.snapshot import CDS, EDS, LDS, RDS, SDS
from tests.unit.xds_edge.proxy_model import ProxyModel, view


def started(first: ClassView) -> ProxyModel:
    """A session with a view, and a proxy that has sent nothing."""
    session = AdsSession()
    session.show(first, first.version)
    return ProxyModel(session)


def said(offers: list[Offer]) -> list[tuple[str, list[str], list[str]]]:
    short = {CDS: "cds", EDS: "eds", LDS: "lds", RDS: "rds", SDS: "sds"}
    return [(short[o.type_url], [name for name, _ in o.put], list(o.removed)) for o in offers]


class TestSubscriptions:
    def test_a_first_request_without_names_subscribes_to_everything(self) -> None:
        proxy = started(view(1, cds={"a": "1", "b": "1"}))
        proxy.ask(CDS)
        assert said(proxy.pump()) == [("cds", ["a", "b"], [])]

    def test_a_first_request_without_names_for_endpoints_subscribes_to_nothing(self) -> None:
        proxy = started(view(1, eds={"a": "1"}))
        proxy.ask(EDS)
        assert said(proxy.pump()) == []

    def test_named_resources_only_are_sent(self) -> None:
        proxy = started(view(1, eds={"a": "1", "b": "1"}))
        proxy.ask(EDS, ["b"])
        assert said(proxy.pump()) == [("eds", ["b"], [])]

    def test_a_named_cluster_is_no_wildcard(self) -> None:
        proxy = started(view(1, cds={"a": "1", "b": "1"}))
        proxy.ask(CDS, ["a"])
        assert said(proxy.pump()) == [("cds", ["a"], [])]

    def test_the_explicit_wildcard_covers_everything(self) -> None:
        proxy = started(view(1, cds={"a": "1", "b": "1"}))
        proxy.ask(CDS, ["a"])
        proxy.settle()
        proxy.ask(CDS, ["*"])
        assert said(proxy.pump()) == [("cds", ["b"], [])]

    def test_the_legacy_wildcard_goes_on_beside_names(self) -> None:
        proxy = started(view(1, cds={"a": "1", "b": "1"}))
        proxy.ask(CDS)
        proxy.settle()
        proxy.ask(CDS, ["a"])
        assert said(proxy.pump()) == [("cds", ["a"], [])]
        proxy.settle()
        proxy.session.show(view(2, cds={"a": "1", "b": "2"}), 2)
        assert said(proxy.pump()) == [("cds", ["b"], [])]

    def test_after_the_wildcard_ends_only_names_are_followed(self) -> None:
        proxy = started(view(1, cds={"a": "1", "b": "1"}))
        proxy.ask(CDS)
        proxy.ask(CDS, ["a"])
        proxy.settle()
        proxy.ask(CDS, unsubscribe=["*"])
        proxy.session.show(view(2, cds={"a": "2", "b": "2", "c": "2"}), 2)
        assert said(proxy.pump()) == [("cds", ["a"], [])]

    def test_an_empty_list_after_names_is_no_wildcard(self) -> None:
        proxy = started(view(1, cds={"a": "1", "b": "1"}))
        proxy.ask(CDS, ["a"])
        proxy.settle()
        proxy.ask(CDS, unsubscribe=["a"])
        proxy.ask(CDS)
        assert said(proxy.pump()) == []

    def test_wildcard_explicit_wildcard_ends_with_everything(self) -> None:
        proxy = started(view(1, cds={"a": "1", "b": "1"}))
        proxy.ask(CDS)
        proxy.settle()
        proxy.ask(CDS, ["a"], ["*"])
        proxy.settle()
        proxy.ask(CDS, ["*"], ["a"])
        proxy.settle()
        assert proxy.holds[CDS] == {"a": "1", "b": "1"}

    def test_unsubscribing_sends_nothing(self) -> None:
        proxy = started(view(1, eds={"a": "1"}))
        proxy.ask(EDS, ["a"])
        proxy.settle()
        proxy.ask(EDS, unsubscribe=["a"])
        assert said(proxy.pump()) == []

    def test_unsubscribing_an_unknown_name_is_ignored(self) -> None:
        proxy = started(view(1, cds={"a": "1"}))
        proxy.ask(CDS)
        proxy.settle()
        proxy.ask(CDS, unsubscribe=["never-heard-of"])
        assert said(proxy.pump()) == []

    def test_unsubscribing_under_a_wildcard_is_answered(self) -> None:
        """The client cannot know whether the wildcard covers the name."""
        proxy = started(view(1, cds={"a": "1"}))
        proxy.ask(CDS, ["*", "a", "x"])
        proxy.settle()
        proxy.ask(CDS, unsubscribe=["a", "x"])
        assert said(proxy.pump()) == [("cds", ["a"], ["x"])]

    def test_a_name_subscribed_again_is_sent_again(self) -> None:
        """The client may have dropped it in between."""
        proxy = started(view(1, eds={"a": "1", "b": "1"}))
        proxy.ask(EDS, ["a", "b"])
        proxy.settle()
        proxy.ask(EDS, ["a"])
        assert said(proxy.pump()) == [("eds", ["a"], [])]

    def test_a_name_that_does_not_exist_is_answered_by_a_removal(self) -> None:
        proxy = started(view(1, eds={"a": "1"}))
        proxy.ask(EDS, ["a", "x"])
        proxy.settle()
        assert [offer for offer in proxy.log if "x" in offer.removed]
        assert proxy.session.idle

    @pytest.mark.parametrize(
        ("type_url", "names"),
        [
            (CDS, ["outbound|other/db|5432", "local|15000", "denied"]),
            (EDS, ["outbound|other/db|5432~12345678", "a~", ""]),
            (LDS, ["inbound", "outbound", "other/inbound"]),
            (RDS, ["inbound|8080", "outbound|other/web|80"]),
            (
                SDS,
                [
                    "spiffe://cluster.local/ns/other/sa/db",
                    "workload/other/db-1",
                    "Workload",
                    "edge",
                    "ca",
                    "token",
                ],
            ),
        ],
    )
    def test_names_of_others_are_answered_as_those_that_do_not_exist(self, type_url: str, names: list[str]) -> None:
        """No response shows whether another workload has a resource."""
        proxy = started(view(1, cds={"a": "1"}, eds={"a": "1"}))
        proxy.session.secrets = ResourceSet({"workload": "1", "trust-bundle": "1"})
        proxy.ask(type_url, names)
        proxy.settle()
        offered = {name for offer in proxy.log for name, _ in offer.put}
        removed = {name for offer in proxy.log for name in offer.removed}
        assert offered == set()
        assert removed == set(names)

    def test_a_wildcard_for_secrets_gives_no_more_than_ones_own(self) -> None:
        proxy = started(view(1))
        proxy.session.secrets = ResourceSet({"workload": "1", "trust-bundle": "1"})
        proxy.ask(SDS, ["*"])
        proxy.settle()
        assert {name for offer in proxy.log for name, _ in offer.put} <= {"workload", "trust-bundle"}

    def test_a_name_that_comes_to_exist_is_sent(self) -> None:
        proxy = started(view(1, eds={}))
        proxy.ask(EDS, ["x"])
        proxy.settle()
        proxy.session.show(view(2, eds={"x": "1"}), 2)
        assert said(proxy.pump()) == [("eds", ["x"], [])]

    def test_more_names_than_any_proxy_needs_are_refused(self) -> None:
        proxy = started(view(1))
        with pytest.raises(TooManyNamesError):
            proxy.ask(EDS, (str(number) for number in range(MAX_NAMES + 1)))

    def test_an_unknown_type_is_refused(self) -> None:
        with pytest.raises(UnknownTypeError):
            started(view(1)).ask("type.googleapis.com/envoy.service.runtime.v3.Runtime")


class TestReconnects:
    def test_what_is_held_is_not_sent_again(self) -> None:
        proxy = started(view(5, cds={"a": "1"}, eds={"a": "1"}, lds={"l": "1"}, rds={"r": "1"}))
        proxy.ask(CDS, initial={"a": "1"})
        proxy.ask(EDS, ["a"], initial={"a": "1"})
        proxy.ask(LDS, initial={"l": "1"})
        proxy.ask(RDS, ["r"], initial={"r": "1"})
        assert said(proxy.pump()) == []
        assert proxy.session.complete == 5

    def test_only_what_differs_is_sent(self) -> None:
        proxy = started(view(5, cds={"a": "2", "b": "1"}))
        proxy.ask(CDS, initial={"a": "1", "b": "1"})
        assert said(proxy.pump()) == [("cds", ["a"], [])]

    def test_what_is_no_more_is_removed(self) -> None:
        proxy = started(view(5, cds={"a": "1"}))
        proxy.ask(CDS, initial={"a": "1", "gone": "1"})
        assert said(proxy.pump()) == [("cds", [], ["gone"])]

    def test_versions_of_resources_that_were_never_ours_do_not_confuse(self) -> None:
        proxy = started(view(5, eds={"a": "1"}))
        proxy.ask(EDS, ["a"], initial={"a": "from-another-server", "not-subscribed": "1"})
        assert said(proxy.pump()) == [("eds", ["a"], [])]

    def test_versions_count_in_the_first_request_only(self) -> None:
        proxy = started(view(5, eds={"a": "1", "b": "1"}))
        proxy.ask(EDS, ["a"])
        proxy.settle()
        proxy.ask(EDS, ["b"], initial={"b": "1"})
        assert said(proxy.pump()) == [("eds", ["b"], [])]


class TestAnswers:
    def test_one_response_of_a_type_is_in_flight(self) -> None:
        proxy = started(view(1, cds={"a": "1"}))
        proxy.ask(CDS)
        proxy.pump()
        proxy.session.show(view(2, cds={"a": "2"}), 2)
        assert said(proxy.pump()) == []

    def test_a_slow_proxy_gets_the_newest_not_the_backlog(self) -> None:
        proxy = started(view(1, cds={"a": "1"}))
        proxy.ask(CDS)
        proxy.pump()
        for version in range(2, 10):
            proxy.session.show(view(version, cds={"a": str(version)}), version)
            proxy.pump()
        proxy.answer()
        (offer,) = proxy.pump()
        assert offer.put == (("a", "9"),)

    @pytest.mark.parametrize("nonce", ["0", "99", "not-a-number"])
    def test_a_stale_or_foreign_nonce_says_nothing(self, nonce: str) -> None:
        proxy = started(view(1, cds={"a": "1"}))
        proxy.ask(CDS)
        proxy.pump()
        assert proxy.session.request(XdsRequest(type_url=CDS, nonce=nonce, error="refused")) is AckResult.STALE
        assert proxy.answer() is AckResult.ACK
        assert proxy.session.acked(CDS) == 1

    def test_a_nonce_of_another_type_says_nothing(self) -> None:
        proxy = started(view(1, cds={"a": "1"}, lds={"l": "1"}))
        proxy.ask(CDS)
        (offer,) = proxy.pump()
        assert proxy.session.request(XdsRequest(type_url=LDS, nonce=offer.nonce)) is AckResult.STALE

    def test_subscriptions_beside_a_stale_nonce_count(self) -> None:
        proxy = started(view(1, eds={"a": "1"}))
        proxy.session.request(XdsRequest(type_url=EDS, subscribe=("a",), nonce="stale"))
        assert said(proxy.session.offers(0.0)) == [("eds", ["a"], [])]

    def test_an_error_without_a_nonce_is_no_answer(self) -> None:
        proxy = started(view(1, cds={"a": "1"}))
        proxy.ask(CDS)
        proxy.pump()
        assert proxy.session.request(XdsRequest(type_url=CDS, error="?")) is AckResult.NONE

    def test_a_second_ack_of_the_same_response_is_stale(self) -> None:
        proxy = started(view(1, cds={"a": "1"}))
        proxy.ask(CDS)
        (offer,) = proxy.pump()
        proxy.answer()
        assert proxy.session.request(XdsRequest(type_url=CDS, nonce=offer.nonce)) is AckResult.STALE


class TestRefusals:
    def test_a_refused_resource_is_not_sent_until_it_changes(self) -> None:
        proxy = started(view(1, cds={"a": "1"}))
        proxy.ask(CDS)
        proxy.settle()
        proxy.refuses = lambda digest: digest == "bad"
        proxy.session.show(view(2, cds={"a": "bad"}), 2)
        proxy.settle()
        proxy.session.show(view(3, cds={"a": "bad", "b": "1"}), 3)
        assert said(proxy.pump()) == [("cds", ["b"], [])]
        proxy.settle()
        proxy.session.show(view(4, cds={"a": "good", "b": "1"}), 4)
        assert said(proxy.pump()) == [("cds", ["a"], [])]
        proxy.settle()
        assert proxy.session.acked(CDS) == 4

    def test_a_rollback_to_what_it_had_is_sent_again(self) -> None:
        """A proxy that refuses a response may have kept a part of it."""
        proxy = started(view(1, cds={"a": "1"}))
        proxy.ask(CDS)
        proxy.settle()
        proxy.refuses = lambda digest: digest == "bad"
        proxy.session.show(view(2, cds={"a": "bad"}), 2)
        proxy.settle()
        proxy.session.show(view(3, cds={"a": "1"}), 3)
        assert said(proxy.pump()) == [("cds", ["a"], [])]

    def test_the_others_of_a_refused_response_still_arrive(self) -> None:
        wanted = {str(number): "1" for number in range(20)}
        proxy = started(view(1, cds={**wanted, "7": "bad", "13": "bad"}))
        proxy.refuses = lambda digest: digest == "bad"
        proxy.ask(CDS)
        proxy.settle()
        assert proxy.holds[CDS] == {name: "1" for name in wanted if name not in {"7", "13"}}
        assert proxy.session.subscriptions[CDS].refused == {"7": "bad", "13": "bad"}
        assert proxy.session.acked(CDS) == 0

    def test_a_refused_removal_is_not_repeated(self) -> None:
        proxy = started(view(1, lds={"a": "1", "b": "1"}))
        proxy.ask(LDS)
        proxy.settle()
        proxy.session.show(view(2, lds={"a": "1"}), 2)
        (offer,) = proxy.pump()
        proxy.unanswered.clear()
        proxy.session.request(XdsRequest(type_url=LDS, nonce=offer.nonce, error="no"))
        assert said(proxy.pump()) == []

    def test_asking_for_a_refused_resource_is_answered(self) -> None:
        proxy = started(view(1, eds={"a": "bad"}))
        proxy.refuses = lambda _digest: True
        proxy.ask(EDS, ["a"])
        proxy.settle()
        proxy.ask(EDS, ["a"])
        assert said(proxy.pump()) == [("eds", ["a"], [])]

    def test_clusters_stay_while_the_listener_that_frees_them_is_refused(self) -> None:
        """P7: the proxy keeps its last good listener, which may still use them."""
        proxy = started(view(1, cds={"old": "1"}, lds={"l": "old"}))
        proxy.ask(CDS)
        proxy.ask(LDS)
        proxy.settle()
        proxy.refuses = lambda digest: digest == "bad"
        proxy.session.show(view(2, cds={}, lds={"l": "bad"}), 2)
        proxy.settle()
        assert proxy.holds[CDS] == {"old": "1"}
        proxy.session.show(view(3, cds={}, lds={"l": "good"}), 3)
        proxy.settle()
        assert proxy.holds[CDS] == {}


class TestOrder:
    def test_make_before_break(self) -> None:
        proxy = started(view(1, cds={"old": "1"}, eds={"old": "1"}, lds={"l": "1"}, rds={"r": "1"}))
        for type_url, names in ((CDS, []), (EDS, ["old", "new"]), (LDS, []), (RDS, ["r"])):
            proxy.ask(type_url, names)
        proxy.settle()
        proxy.session.show(view(2, cds={"new": "1"}, eds={"new": "1"}, lds={"l": "2"}, rds={"r": "2"}), 2)
        steps: list[list[tuple[str, list[str], list[str]]]] = []
        while offers := proxy.pump():
            steps.append(said(offers))
            while proxy.unanswered:
                proxy.answer()
        assert steps == [
            [("cds", ["new"], []), ("eds", ["new"], [])],
            [("lds", ["l"], []), ("rds", ["r"], [])],
            [("cds", [], ["old"]), ("eds", [], ["old"])],
        ]
        assert proxy.session.complete == 2

    def test_what_is_wanted_again_while_its_removal_is_under_way_comes_before_what_leads_to_it(self) -> None:
        """A policy taken away and given back at once: the listener would have met no cluster."""
        proxy = started(view(1, cds={"a": "1"}))
        proxy.ask(CDS)
        proxy.ask(LDS)
        proxy.settle()
        proxy.session.show(view(2), 2)
        assert said(proxy.pump()) == [("cds", [], ["a"])]
        proxy.session.show(view(3, cds={"a": "1"}, lds={"leads-to-a": "1"}), 3)
        assert said(proxy.pump()) == []
        proxy.answer()
        assert said(proxy.pump()) == [("cds", ["a"], [])]
        proxy.answer()
        assert said(proxy.pump()) == [("lds", ["leads-to-a"], [])]

    def test_listeners_do_not_wait_for_ever_for_clusters(self) -> None:
        """A permission that was taken back must not hang on a cluster that never warms."""
        proxy = started(view(1, cds={"a": "1"}, lds={"l": "1"}))
        proxy.ask(CDS)
        proxy.ask(LDS)
        assert said(proxy.pump(100.0)) == [("cds", ["a"], [])]
        assert proxy.session.wake_at == 100.0 + GATE
        assert said(proxy.pump(100.0 + GATE)) == [("lds", ["l"], [])]
        assert proxy.session.wake_at is None

    def test_a_changed_cluster_is_sent_with_its_endpoints(self) -> None:
        """Envoy warms it only when endpoints arrive, changed or not."""
        proxy = started(view(1, cds={"a": "1", "b": "1"}, eds={"a": "1", "b": "1"}))
        proxy.ask(CDS)
        proxy.ask(EDS, ["a", "b"])
        proxy.settle()
        proxy.session.show(view(2, cds={"a": "2", "b": "1"}, eds={"a": "1", "b": "1"}), 2)
        assert said(proxy.pump()) == [("cds", ["a"], []), ("eds", ["a"], [])]
        proxy.settle()
        assert proxy.session.complete == 2
        assert proxy.session.idle

    def test_nothing_is_said_before_there_is_a_view(self) -> None:
        session = AdsSession()
        session.request(XdsRequest(type_url=CDS))
        assert session.offers(0.0) == []
        assert session.complete == 0

    def test_a_secret_that_is_not_ready_is_not_denied(self) -> None:
        proxy = started(view(1))
        proxy.session.pending_secrets = frozenset({"workload"})
        proxy.session.secrets = ResourceSet({"trust-bundle": "1"})
        proxy.ask(SDS, ["workload", "trust-bundle", "what"])
        assert said(proxy.pump()) == [("sds", ["trust-bundle"], ["what"])]
        proxy.settle()
        assert proxy.session.complete == 0
        proxy.session.pending_secrets = frozenset()
        proxy.session.secrets = ResourceSet({"trust-bundle": "1", "workload": "1"})
        assert said(proxy.pump()) == [("sds", ["workload"], [])]
        proxy.settle()
        assert proxy.session.complete == 1


class TestWatermarks:
    def test_a_version_that_changes_nothing_counts_at_once(self) -> None:
        proxy = started(view(1, cds={"a": "1"}))
        proxy.ask(CDS)
        proxy.settle()
        proxy.session.show(view(2, cds={"a": "1"}), 2)
        assert said(proxy.pump()) == []
        assert proxy.session.acked(CDS) == 2

    def test_a_type_not_asked_for_holds_the_watermark_back(self) -> None:
        proxy = started(view(1, cds={"a": "1"}, lds={"l": "1"}))
        proxy.ask(CDS)
        proxy.settle()
        assert proxy.session.complete == 0
        proxy.ask(LDS)
        proxy.settle()
        assert proxy.session.complete == 1

    def test_the_ack_of_an_older_response_counts_for_its_version(self) -> None:
        proxy = started(view(1, cds={"a": "1"}))
        proxy.ask(CDS)
        proxy.pump()
        proxy.session.show(view(2, cds={"a": "2"}), 2)
        proxy.answer()
        assert proxy.session.acked(CDS) == 1

    def test_a_version_is_not_held_before_the_names_that_it_made_the_proxy_ask_for_are_answered(self) -> None:
        """Envoy asks for a new listener's routes before it acknowledges the listener; then both are on their way."""
        proxy = started(view(1, lds={"l": "1"}, rds={"r": "1"}))
        proxy.ask(LDS)
        proxy.ask(RDS, ["r"])
        proxy.settle()
        assert proxy.session.complete == 1
        proxy.session.show(view(2, lds={"l": "1", "m": "1"}, rds={"r": "1", "s": "1"}), 2)
        proxy.pump()
        proxy.answer(asking=lambda: proxy.ask(RDS, ["s"]))
        assert (proxy.session.complete, proxy.session.acked(RDS)) == (1, 1)
        proxy.pump()
        assert (proxy.session.complete, proxy.session.acked(RDS)) == (1, 1)
        proxy.answer()
        assert (proxy.session.complete, proxy.session.acked(RDS)) == (2, 2)

    def test_a_refused_resource_that_was_asked_for_holds_the_watermark_back(self) -> None:
        proxy = started(view(1, lds={"l": "1"}, rds={"r": "1"}))
        proxy.refuses = {"bad"}.__contains__
        proxy.ask(LDS)
        proxy.ask(RDS, ["r"])
        proxy.settle()
        proxy.session.show(view(2, lds={"l": "2"}, rds={"r": "1", "s": "bad"}), 2)
        proxy.pump()
        proxy.answer(asking=lambda: proxy.ask(RDS, ["s"]))
        proxy.settle()
        assert proxy.session.acked(RDS) == 1
        proxy.session.show(view(3, lds={"l": "2"}, rds={"r": "1", "s": "2"}), 3)
        proxy.settle()
        assert proxy.session.complete == 3

    def test_asking_for_more_of_a_version_that_is_held_does_not_take_it_back(self) -> None:
        proxy = started(view(1, lds={"l": "1"}, rds={"r": "1", "s": "1"}))
        proxy.ask(LDS)
        proxy.ask(RDS, ["r"])
        proxy.settle()
        proxy.ask(RDS, ["s"])
        assert proxy.session.complete == 1
        proxy.settle()
        assert proxy.session.complete == 1

    def test_in_another_epoch_it_begins_anew_and_nothing_is_sent_again(self) -> None:
        """Also the ACK of what was sent in the epoch before is none of a version of this one."""
        proxy = started(view(500, cds={"a": "1"}, lds={"l": "1"}))
        proxy.ask(CDS)
        proxy.ask(LDS)
        proxy.settle()
        proxy.session.show(view(501, cds={"a": "2"}, lds={"l": "1"}), 501)
        proxy.pump()
        assert proxy.session.complete == 500
        proxy.session.show(view(30, cds={"a": "3"}, lds={"l": "1"}), 30, "later")
        assert (proxy.session.complete, proxy.session.acked(CDS), proxy.session.acked(LDS)) == (0, 0, 0)
        proxy.answer()
        assert proxy.session.complete == 0
        assert said(proxy.pump()) == [("cds", ["a"], [])]
        assert proxy.session.complete == 0
        proxy.settle()
        assert proxy.session.complete == 30

    def test_it_never_moves_back(self) -> None:
        proxy = started(view(1, cds={"a": "1"}))
        seen = [0]
        proxy.ask(CDS)
        for version in range(1, 30):
            proxy.session.show(view(version, cds={"a": str(version // 3)}), version)
            proxy.pump()
            if version % 2 and proxy.unanswered:
                proxy.answer()
            seen.append(proxy.session.acked(CDS))
        assert seen == sorted(seen)
