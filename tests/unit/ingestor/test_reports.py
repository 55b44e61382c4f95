"""What policy objects are told: accepted or not and why, on how many proxies, at a bounded pace."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from services.ingestor.book import Book
from services.ingestor.conditions import Verdict, conditions, news, reason
from services.ingestor.difference import Applied
from services.ingestor.facts import Listed, Observed, Projected, Vanished
from services.ingestor.projection import project
from services.ingestor.reach import Reach
from services.ingestor.reporter import Outcome, Pace, Report, Reporter
from shared import support
from shared.events import ObjectKey
from shared.snapshot import CDS, Cause, Commit, Proxy, Quarantined, Resource, ViewChange, record_causes
from shared.status import ProxyStatus, Refusal, TypeStatus

KEY = ObjectKey(cluster="c1", kind="TrafficTarget", namespace="shop", name="t")
NOW = "2026-01-01T00:00:00Z"
PACE = Pace(look=0.0, write=0.0, again=60.0, refused=600.0, stand_by=0.001, outage=0.001)


def target(*, conditions: Sequence[dict[str, Any]] = (), generation: int = 3, uid: str = "u1") -> Projected:
    value = {
        "apiVersion": "access.smi-spec.io/v1alpha3",
        "kind": "TrafficTarget",
        "metadata": {
            "name": "t",
            "namespace": "shop",
            "uid": uid,
            "resourceVersion": "7",
            "generation": generation,
        },
        "spec": {"sources": []},
        "status": {"conditions": list(conditions)},
    }
    return project("TrafficTarget", json.dumps(value).encode(), api_version="", source="watch")


def commit(version: int, *, parent: int = 0, **changes: Any) -> Commit:
    return Commit(format=1, version=version, parent=parent, epoch="e", build="b", **changes)


def resource(digest: str) -> Resource:
    cause = Cause(key=KEY, uid="u1", resource_version="7", sequence=5)
    return Resource(type_url=CDS, name="web", hash=digest, body=b"", recorded=record_causes([cause]))


def proxy(pod: str, workload_class: str = "k") -> Proxy:
    return Proxy(cluster="c1", namespace="shop", pod=pod, uid=pod, service_account="web", workload_class=workload_class)


def status(pod: str, acked: int, *, connected: bool = True, refused: str = "") -> ProxyStatus:
    refusal = Refusal(version=9, resources={}, message=refused) if refused else None
    types = {CDS: TypeStatus(sent=acked, acked=acked, refusal=refusal)}
    return ProxyStatus(
        cluster="c1",
        namespace="shop",
        pod=pod,
        uid=pod,
        service_account="web",
        edge="e",
        connected=connected,
        since=0,
        types=types,
    )


def reached() -> Reach:
    """Version 5: one resource that depends on the target, and two proxies that have it."""
    reach = Reach(cluster="c1", kinds={"TrafficTarget"})
    reach.take_commit(
        commit(
            5,
            resources=[resource("h1")],
            views={"k": ViewChange(put={CDS: {"web": "h1"}})},
            proxies={"c1/shop/a": proxy("a"), "c1/shop/b": proxy("b")},
            mesh_namespaces=["shop"],
        )
    )
    for pod in ("a", "b"):
        reach.take_status(status(pod, 4))
    return reach


class Written:
    """An API server that takes reports, and answers as told."""

    def __init__(self, outcome: Outcome = "written") -> None:
        self.reports: list[Report] = []
        self.outcome: Outcome = outcome

    async def __call__(self, report: Report) -> Outcome:
        self.reports.append(report)
        return self.outcome

    def told(self) -> dict[str, tuple[str, str, str]]:
        return {each["type"]: (each["status"], each["reason"], each["message"]) for each in self.reports[-1].conditions}


def reporter(
    reach: Reach, written: Written, *, sequence: int = 5, leads: bool = True, book: Book | None = None
) -> Reporter:
    if book is None:
        book = Book()
        book.decide(Applied(target(), sequence))
        book.keep()
    return Reporter(
        reach,
        book,
        written,
        cluster="c1",
        kinds={"TrafficTarget", "MeshConfig", "Egress"},
        mesh_namespace="meshlog-system",
        now=lambda: NOW,
        clock=asyncio.get_running_loop().time,
        leads=lambda: leads,
        pace=PACE,
    )


def test_a_stable_code_becomes_a_reason_that_kubernetes_takes() -> None:
    assert reason("smi/target-sources") == "TargetSources"
    assert reason("") == "Unknown"


def test_a_condition_that_says_the_same_keeps_its_time_and_those_of_others_stay() -> None:
    foreign = {"type": "Ready", "status": "True"}
    first = conditions(Verdict(version=5, concerned=1), generation=2, before=[foreign], now="then")
    again = conditions(Verdict(version=5, concerned=1, waiting=("p",)), generation=2, before=first, now="now")
    assert again[0] == foreign
    assert {each["type"]: each["lastTransitionTime"] for each in again[1:]} == {"Accepted": "then", "Programmed": "now"}
    assert news(first, again) == []


def test_what_turns_bad_is_news_once() -> None:
    bad = conditions(Verdict(version=5, left_out=(("smi/x-y", "is wrong"),)), generation=0, before=[], now="now")
    assert news([], bad) == [("XY", "is wrong")]
    assert news(bad, bad) == []


def test_a_view_that_moves_to_other_bytes_moves_the_objects_reach() -> None:
    reach = reached()
    assert reach.concerned(KEY) == {"c1/shop/a", "c1/shop/b"}
    reach.take_commit(commit(6, parent=5, proxies={"c1/shop/b": None}))
    assert reach.concerned(KEY) == {"c1/shop/a"}
    reach.take_status(status("a", 6, connected=False))
    assert reach.concerned(KEY) == set()
    reach.take_status(status("a", 6))
    plain = Resource(type_url=CDS, name="web", hash="h2", body=b"")
    moved = {"k": ViewChange(put={CDS: {"web": "h2"}})}
    reach.take_commit(commit(7, parent=6, resources=[plain], views=moved, retired=[(CDS, "web", "h1")]))
    assert reach.concerned(KEY) == set()


async def test_an_object_is_told_how_far_it_has_come() -> None:
    reach, written = reached(), Written()
    made = reporter(reach, written)
    made.note(Observed(target()))
    await made.turn()
    assert written.told()["Accepted"] == ("True", "Accepted", "in force since version 5")
    assert written.told()["Programmed"] == ("False", "Progressing", "on 0 of 2 proxies; not yet on shop/a, shop/b")
    assert {each["observedGeneration"] for each in written.reports[-1].conditions} == {3}
    await made.turn()
    assert len(written.reports) == 1, "its turn comes again only after a while"


async def test_what_its_status_says_already_is_not_written() -> None:
    reach, written = reached(), Written()
    for pod in ("a", "b"):
        reach.take_status(status(pod, 5))
    made = reporter(reach, written)
    made.note(Observed(target()))
    await made.turn()
    assert written.told()["Programmed"] == ("True", "Programmed", "on 2 of 2 proxies")
    again = reporter(reach, written)
    again.note(
        Listed(kind="TrafficTarget", resource_version="9", objects=(target(conditions=written.reports[0].conditions),))
    )
    await again.turn()
    assert len(written.reports) == 1


async def test_an_object_that_is_left_out_is_told_the_compilers_sentence() -> None:
    reach, written = reached(), Written()
    quarantined = Quarantined(key=KEY, code="smi/target-sources", sentence="has no sources")
    reach.take_commit(commit(6, parent=5, quarantine=[quarantined]))
    made = reporter(reach, written)
    made.note(Observed(target()))
    await made.turn()
    assert written.told()["Accepted"] == ("False", "TargetSources", "has no sources")
    assert written.reports[0].news == (("TargetSources", "has no sources"),)


async def test_a_refusal_names_the_proxy_and_what_it_said() -> None:
    reach, written = reached(), Written()
    reach.take_status(status("a", 5))
    reach.take_status(status("b", 4, refused="no such filter"))
    made = reporter(reach, written)
    made.note(Observed(target()))
    await made.turn()
    assert written.told()["Programmed"] == ("False", "Refused", "on 1 of 2 proxies; shop/b refused it: no such filter")


def mesh_config() -> Projected:
    value = {
        "metadata": {"name": "osm-mesh-config", "namespace": "shop", "uid": "u1", "resourceVersion": "7"},
        "spec": {"traffic": {"enablePermissiveTrafficPolicyMode": True}, "sidecar": {"cipherSuites": ["x"]}},
    }
    return project("MeshConfig", json.dumps(value).encode(), api_version="v1", source="watch")


def egress() -> Projected:
    value = {"metadata": {"name": "t", "namespace": "shop", "uid": "u1", "resourceVersion": "7"}, "spec": {}}
    return project("Egress", json.dumps(value).encode(), api_version="v1", source="watch")


@pytest.mark.parametrize(
    ("item", "condition"),
    [
        (mesh_config(), ("Supported", "False", "NotSupportedYet", "not supported yet: sidecar.cipherSuites")),
        (egress(), ("Accepted", "False", "NotSupportedYet", "")),
    ],
    ids=["a field", "a kind"],
)
async def test_what_this_build_lacks_is_said(
    item: Projected, condition: tuple[str, str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever works by now, a build may lack it.
    monkeypatch.setattr(support, "KINDS", {**support.KINDS, "Egress": support.Support("not yet")})
    lacking = {**support.MESH_CONFIG, "sidecar.cipherSuites": support.Support("not yet")}
    monkeypatch.setattr(support, "MESH_CONFIG", lacking)
    written = Written()
    book = Book()
    book.decide(Applied(item, 5))
    book.keep()
    made = reporter(reached(), written, book=book)
    made.note(Observed(item))
    await made.turn()
    name, status, why, message = condition
    told = written.told()[name]
    assert told[:2] == (status, why)
    assert message in told[2]


async def test_nothing_is_said_before_the_version_is_compiled_nor_of_another_uid_nor_by_a_standby() -> None:
    written = Written()
    early = reporter(reached(), written, sequence=6)
    other = reporter(reached(), written)
    standby = reporter(reached(), written, leads=False)
    gone = reporter(reached(), written)
    early.note(Observed(target()))
    other.note(Observed(target(uid="u2")))
    standby.note(Observed(target()))
    gone.note(Observed(target()))
    gone.note(Vanished(kind="TrafficTarget", name=target().name, uid="u1", resource_version="8"))
    for made in (early, other, standby, gone):
        await made.turn()
    assert written.reports == []


async def test_a_status_that_the_server_does_not_take_or_keep_is_not_tried_all_the_time() -> None:
    reach, written = reached(), Written("later")
    made = reporter(reach, written)
    made.note(Observed(target()))
    await made.turn()
    await made.turn()
    assert len(written.reports) == 2, "an outage is tried again"
    written.outcome = "refused"
    await made.turn()
    await made.turn()
    assert len(written.reports) == 3
