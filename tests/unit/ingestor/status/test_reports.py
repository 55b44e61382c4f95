"""Conditions of policy objects: accepted or not and why, on how many proxies, at a bounded rate."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from services.ingestor.core.log_diff import AppliedChange
from services.ingestor.core.object_index import ObjectIndex
from services.ingestor.core.observations import KindListed, ObjectDeleted, ObjectUpdated, Projected
from services.ingestor.core.projection import project
from services.ingestor.status.ack_progress import AckProgress, ConcernedProxies
from services.ingestor.status.condition_reporter import ConditionReporter
from services.ingestor.status.conditions import StatusFacts, conditions, reason, turned_bad
from services.ingestor.status.log_follower import StatusLogFollower
from services.ingestor.status.reports import ConditionReport, ObjectEvent, Outcome, PinnedForms, ReportPace, RetryLater
from shared import projected_objects
from shared.eventlog.protocol import Draft
from shared.policy import support_matrix
from shared.records.events import Event, ObjectKey, encode, encode_object
from shared.records.pins import PIN_KIND, PIN_NAME, Pin, pin_of
from shared.records.proxy_status import NackedResource, ProxyStatus, TypeStatus
from shared.records.snapshot import CDS, Cause, Commit, Proxy, Quarantined, Resource, ViewChange, record_causes
from shared.records.subjects import Streams
from shared.service.background_task import background_task
from shared.service.lease import Tenure
from shared.streams.memory import MemoryLogs
from tests.chained import write_chained
from tests.waiting import eventually

STREAMS = Streams()
SCOPE = STREAMS.cluster_scope("c1")

KEY = ObjectKey(cluster="c1", kind="TrafficTarget", namespace="shop", name="t")
NOW = "2026-01-01T00:00:00Z"
PACE = ReportPace(
    look=0.0, settle=0.0, patience=0.0, again=60.0, most=1e6, least=1e6, news=1e6, stand_by=0.001, outage=0.001
)


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
    refusal = NackedResource(version=9, resources={}, message=refused) if refused else None
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


def reached() -> AckProgress:
    """Version 5: one resource that depends on the target, and two proxies that have it and hold 4."""
    progress = AckProgress(cluster="c1", kinds={"TrafficTarget", "MeshConfig", "Egress"})
    progress.take_commit(commit(4))
    progress.take_commit(
        commit(
            5,
            parent=4,
            resources=[resource("h1")],
            views={"k": ViewChange(put={CDS: {"web": "h1"}})},
            proxies={"c1/shop/a": proxy("a"), "c1/shop/b": proxy("b")},
            mesh_namespaces=["shop"],
        )
    )
    for pod in ("a", "b"):
        progress.take_status(status(pod, 4))
    return progress


class Written:
    """An API server that takes reports, and answers with a given outcome."""

    def __init__(self, outcome: Outcome | RetryLater = Outcome.WRITTEN) -> None:
        self.reports: list[ConditionReport] = []
        self.news: list[ObjectEvent] = []
        self.outcome: Outcome | RetryLater = outcome

    async def __call__(self, report: ConditionReport) -> Outcome | RetryLater:
        self.reports.append(report)
        return self.outcome

    async def tell(self, news: ObjectEvent) -> Outcome | RetryLater:
        self.news.append(news)
        return self.outcome

    def told(self) -> dict[str, tuple[str, str, str]]:
        return {each["type"]: (each["status"], each["reason"], each["message"]) for each in self.reports[-1].conditions}


def reporter(
    progress: AckProgress,
    written: Written,
    *,
    sequence: int = 5,
    leads: bool = True,
    index: ObjectIndex | None = None,
    pace: ReportPace = PACE,
) -> ConditionReporter:
    if index is None:
        index = ObjectIndex()
        index.enter(AppliedChange(target(), sequence))
        index.commit_round()
    return ConditionReporter(
        progress,
        index,
        written,
        written.tell,
        cluster="c1",
        kinds={"TrafficTarget", "MeshConfig", "Egress"},
        mesh_namespace="meshlog-system",
        now=lambda: NOW,
        clock=asyncio.get_running_loop().time,
        leads=lambda: leads,
        pace=pace,
    )


async def told_of(made: ConditionReporter, written: Written) -> list[tuple[str, str]]:
    """Returns the events that are written."""
    task = asyncio.create_task(made.run_events())
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    return [(one.reason, one.message) for one in written.news]


def test_a_stable_code_becomes_a_reason_that_kubernetes_takes() -> None:
    assert reason("smi/target-sources") == "TargetSources"
    assert reason("") == "Unknown"


def test_a_condition_that_says_the_same_keeps_its_time_and_those_of_others_stay() -> None:
    foreign = {"type": "Ready", "status": "True"}
    first = conditions(StatusFacts(version=5, concerned=1), generation=2, before=[foreign], now="then")
    again = conditions(StatusFacts(version=5, concerned=1, waiting=("p",)), generation=2, before=first, now="now")
    assert again[0] == foreign
    assert {each["type"]: each["lastTransitionTime"] for each in again[1:]} == {"Accepted": "then", "Programmed": "now"}
    assert turned_bad(first, again) == []


def test_what_turns_bad_is_news_once() -> None:
    bad = conditions(StatusFacts(version=5, left_out=(("smi/x-y", "is wrong"),)), generation=0, before=[], now="now")
    assert turned_bad([], bad) == [("XY", "is wrong")]
    assert turned_bad(bad, bad) == []


def test_a_view_that_moves_to_other_bytes_moves_the_objects_reach() -> None:
    progress = reached()
    assert progress.concerned(KEY, 5) == ConcernedProxies(2, ("c1/shop/a", "c1/shop/b"))
    progress.take_commit(commit(6, parent=5, proxies={"c1/shop/b": None}))
    assert progress.concerned(KEY, 5) == ConcernedProxies(1, ("c1/shop/a",))
    progress.take_status(status("a", 6, connected=False))
    assert progress.concerned(KEY, 5) == ConcernedProxies(0)
    progress.take_status(status("a", 6))
    plain = Resource(type_url=CDS, name="web", hash="h2", body=b"")
    moved = {"k": ViewChange(put={CDS: {"web": "h2"}})}
    progress.take_commit(commit(7, parent=6, resources=[plain], views=moved, retired=[(CDS, "web", "h1")]))
    assert progress.concerned(KEY, 5) == ConcernedProxies(0)


async def test_an_object_is_told_how_far_it_has_come() -> None:
    progress, written = reached(), Written()
    made = reporter(progress, written)
    made.note(ObjectUpdated(target()))
    await made.turn()
    assert written.told()["Accepted"] == ("True", "Accepted", "in force since version 5")
    assert written.told()["Programmed"] == ("False", "Progressing", "on 0 of 2 proxies; not yet on shop/a, shop/b")
    assert {each["observedGeneration"] for each in written.reports[-1].conditions} == {3}
    await made.turn()
    assert len(written.reports) == 1, "its turn comes again only after a while"


async def test_what_its_status_says_already_is_not_written() -> None:
    progress, written = reached(), Written()
    for pod in ("a", "b"):
        progress.take_status(status(pod, 5))
    made = reporter(progress, written)
    made.note(ObjectUpdated(target()))
    await made.turn()
    assert written.told()["Programmed"] == ("True", "Programmed", "on 2 of 2 proxies")
    again = reporter(progress, written)
    again.note(
        KindListed(
            kind="TrafficTarget", resource_version="9", objects=(target(conditions=written.reports[0].conditions),)
        )
    )
    await again.turn()
    assert len(written.reports) == 1


async def test_an_object_that_is_left_out_is_told_the_compilers_sentence() -> None:
    progress, written = reached(), Written()
    quarantined = Quarantined(key=KEY, code="smi/target-sources", sentence="has no sources")
    progress.take_commit(commit(6, parent=5, quarantine=[quarantined]))
    made = reporter(progress, written)
    made.note(ObjectUpdated(target()))
    await made.turn()
    assert written.told()["Accepted"] == ("False", "TargetSources", "has no sources")
    assert written.told()["Programmed"][:2] == ("False", "NotAccepted")
    assert await told_of(made, written) == [("TargetSources", "has no sources")]


async def test_a_refusal_names_the_proxy_and_what_it_said() -> None:
    progress, written = reached(), Written()
    progress.take_status(status("a", 5))
    progress.take_status(status("b", 4, refused="no such filter"))
    made = reporter(progress, written)
    made.note(ObjectUpdated(target()))
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
    monkeypatch.setattr(support_matrix, "KINDS", {**support_matrix.KINDS, "Egress": support_matrix.Support("not yet")})
    lacking = {**support_matrix.MESH_CONFIG, "sidecar.cipherSuites": support_matrix.Support("not yet")}
    monkeypatch.setattr(support_matrix, "MESH_CONFIG", lacking)
    written = Written()
    index = ObjectIndex()
    index.enter(AppliedChange(item, 5))
    index.commit_round()
    made = reporter(reached(), written, index=index)
    made.note(ObjectUpdated(item))
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
    early.note(ObjectUpdated(target()))
    other.note(ObjectUpdated(target(uid="u2")))
    standby.note(ObjectUpdated(target()))
    gone.note(ObjectUpdated(target()))
    gone.note(ObjectDeleted(kind="TrafficTarget", name=target().name, uid="u1", resource_version="8"))
    for made in (early, other, standby, gone):
        await made.turn()
    assert written.reports == []


async def test_a_status_that_the_server_does_not_take_or_keep_is_not_tried_all_the_time() -> None:
    progress, written = reached(), Written(RetryLater(0.0))
    made = reporter(progress, written)
    made.note(ObjectUpdated(target()))
    await made.turn()
    await made.turn()
    assert len(written.reports) == 2, "an outage is tried again"
    written.outcome = Outcome.REFUSED
    await made.turn()
    await made.turn()
    assert len(written.reports) == 3


OTHER = Resource(type_url=CDS, name="other", hash="o1", body=b"")


def edited(
    progress: AckProgress, written: Written, *, sequence: int, generation: int = 4, **options: Any
) -> ConditionReporter:
    """A reporter that has seen an edit of the target, which stands in the log at `sequence`."""
    item = msgspec.structs.replace(target(generation=generation), digest="edited")
    index = ObjectIndex()
    index.enter(AppliedChange(item, sequence))
    index.commit_round()
    made = reporter(progress, written, index=index, **options)
    made.note(ObjectUpdated(item))
    return made


def acknowledged(progress: AckProgress, version: int) -> AckProgress:
    for pod in ("a", "b"):
        progress.take_status(status(pod, version))
    return progress


async def test_what_changes_no_proxys_bytes_is_told_once_the_compiler_has_read_it() -> None:
    """It makes no commit: the compiler's lease names the newest compiled event."""
    progress, written = acknowledged(reached(), 5), Written()
    made = edited(progress, written, sequence=6)
    await made.turn()
    assert written.reports == []
    assert progress.take_progress(6)
    await made.turn()
    assert written.told()["Accepted"] == ("True", "Accepted", "in force since version 6")
    assert written.told()["Programmed"] == ("True", "Programmed", "on 2 of 2 proxies"), "they acknowledged 5"


async def test_proxies_that_needed_nothing_hold_it_whatever_comes_for_others() -> None:
    """They never acknowledge that far."""
    progress, written = acknowledged(reached(), 5), Written()
    elsewhere = {"other": ViewChange(put={CDS: {"other": "o1"}})}
    progress.take_commit(commit(7, parent=5, resources=[OTHER], views=elsewhere))
    made = edited(progress, written, sequence=6)
    await made.turn()
    assert written.told()["Programmed"] == ("True", "Programmed", "on 2 of 2 proxies")
    progress.take_commit(
        commit(8, parent=7, resources=[resource("h2")], views={"k": ViewChange(put={CDS: {"web": "h2"}})})
    )
    assert progress.concerned(KEY, 6) == ConcernedProxies(2), "what comes later is another matter"
    assert progress.concerned(KEY, 8) == ConcernedProxies(2, ("c1/shop/a", "c1/shop/b"))
    progress.take_status(status("a", 8))
    assert progress.concerned(KEY, 8) == ConcernedProxies(2, ("c1/shop/b",))


async def test_who_starts_from_a_keyframe_knows_who_lags_from_the_commits_before_it() -> None:
    seven = commit(7, parent=5, resources=[OTHER], views={"other": ViewChange(put={CDS: {"other": "o1"}})})
    mine = msgspec.structs.replace(seven, views={"k": ViewChange(put={CDS: {"web": "h1"}})})
    for before, waiting in ((seven, ()), (mine, ("c1/shop/a", "c1/shop/b"))):
        progress = AckProgress(cluster="c1", kinds={"TrafficTarget"})
        acknowledged(progress, 5)
        whole = commit(
            9,
            resources=[resource("h1")],
            views={"k": ViewChange(put={CDS: {"web": "h1"}}), "other": ViewChange(put={})},
            proxies={"c1/shop/a": proxy("a"), "c1/shop/b": proxy("b")},
            mesh_namespaces=["shop"],
        )
        progress.take_commit(whole)
        progress.recall([commit(5, parent=4), before, commit(9, parent=7)])
        assert progress.concerned(KEY, 6) == ConcernedProxies(2, waiting)
        assert progress.concerned(KEY, 5) == ConcernedProxies(2)


async def test_without_those_commits_a_proxy_lags_that_was_sent_more_than_it_holds() -> None:
    progress = AckProgress(cluster="c1", kinds={"TrafficTarget"})
    acknowledged(progress, 5)
    types = {CDS: TypeStatus(sent=8, acked=5)}
    progress.take_status(msgspec.structs.replace(status("b", 5), types=types))
    whole = commit(
        9,
        resources=[resource("h1")],
        views={"k": ViewChange(put={CDS: {"web": "h1"}})},
        proxies={"c1/shop/a": proxy("a"), "c1/shop/b": proxy("b")},
    )
    progress.take_commit(whole)
    assert progress.concerned(KEY, 6) == ConcernedProxies(2, ("c1/shop/b",))


async def test_what_was_acknowledged_of_an_earlier_epoch_is_no_version_of_this_one() -> None:
    progress = AckProgress(cluster="c1", kinds={"TrafficTarget"})
    whole = commit(
        9,
        resources=[resource("h1")],
        views={"k": ViewChange(put={CDS: {"web": "h1"}})},
        proxies={"c1/shop/a": proxy("a"), "c1/shop/b": proxy("b")},
    )
    progress.take_commit(msgspec.structs.replace(whole, epoch="00000002-b"))
    progress.take_status(msgspec.structs.replace(status("a", 500), epoch="00000001-a"))
    progress.take_status(msgspec.structs.replace(status("b", 9), epoch="00000002-b"))
    assert progress.concerned(KEY, 6) == ConcernedProxies(2, ("c1/shop/a",))


async def test_a_proxy_that_comes_holds_nothing_until_it_says_so() -> None:
    progress = acknowledged(reached(), 5)
    progress.take_commit(commit(6, parent=5, proxies={"c1/shop/n": proxy("n")}))
    progress.take_status(msgspec.structs.replace(status("n", 0), types={}))
    assert progress.concerned(KEY, 5) == ConcernedProxies(3, ("c1/shop/n",))
    progress.take_status(status("n", 6))
    assert progress.concerned(KEY, 5) == ConcernedProxies(3)


async def test_the_generation_that_is_told_is_the_one_that_was_judged() -> None:
    """A newer edit is in the cluster and not in force yet: no condition is written about either form."""
    progress, written = acknowledged(reached(), 5), Written()
    made = edited(progress, written, sequence=6, generation=4)
    progress.take_progress(6)
    await made.turn()
    assert {each["observedGeneration"] for each in written.reports[-1].conditions} == {4}
    made.note(ObjectUpdated(msgspec.structs.replace(target(generation=5), digest="edited again")))
    await made.turn()
    assert len(written.reports) == 1


async def test_a_proxy_that_lags_for_a_moment_is_not_mentioned() -> None:
    progress, written = reached(), Written()
    made = reporter(progress, written, pace=msgspec.structs.replace(PACE, patience=0.05))
    made.note(ObjectUpdated(target()))
    await made.turn()
    assert written.reports == []
    acknowledged(progress, 5)
    await made.turn()
    assert written.reports == [], "it is looked at when the moment is over"
    await asyncio.sleep(0.06)
    await made.turn()
    assert written.told()["Programmed"] == ("True", "Programmed", "on 2 of 2 proxies")
    slow = reporter(reached(), written, pace=msgspec.structs.replace(PACE, patience=0.05))
    slow.note(ObjectUpdated(target()))
    await slow.turn()
    await asyncio.sleep(0.06)
    await slow.turn()
    assert written.told()["Programmed"][1] == "Progressing"


async def test_what_a_pin_keeps_out_of_force_is_told_so_and_what_it_keeps_in_force_is_not() -> None:
    progress, written = acknowledged(reached(), 5), Written()
    made = reporter(progress, written)
    made.note(ObjectUpdated(target()))
    made.pin(PinnedForms(version=3, forms={}))
    await made.turn()
    assert written.told()["Accepted"][:2] == ("False", "Pinned")
    assert "pinned to version 3" in written.told()["Accepted"][2]
    assert written.told()["Programmed"][:2] == ("False", "NotAccepted")
    assert await told_of(made, written) == [], "whoever pinned knows"
    kept = reporter(progress, written)
    kept.note(ObjectUpdated(target()))
    kept.pin(PinnedForms(version=3, forms={("TrafficTarget", target().name): ("u1", target().digest)}))
    await kept.turn()
    assert written.told()["Accepted"][:2] == ("True", "Accepted")
    kept.pin(None)
    await kept.turn()
    assert written.told()["Accepted"][:2] == ("True", "Accepted")


def namespace(labels: Mapping[str, str]) -> Projected:
    value = {"metadata": {"name": "shop", "uid": "n", "resourceVersion": "7", "labels": dict(labels)}}
    return project("Namespace", json.dumps(value).encode(), api_version="v1", source="watch")


@pytest.mark.parametrize("monitored", ["", "another"])
async def test_in_a_namespace_that_has_left_an_object_says_that_it_has_no_effect(monitored: str) -> None:
    """No condition is written in another mesh's namespace: that mesh owns its conditions."""
    progress, written = acknowledged(reached(), 5), Written()
    accepted = [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "x"}]
    for conditions_before in ([], accepted):
        made = reporter(progress, written)
        made.note(ObjectUpdated(namespace({projected_objects.LABEL_MONITORED_BY: monitored} if monitored else {})))
        made.note(ObjectUpdated(target(conditions=conditions_before)))
        progress.take_commit(commit(progress.version + 1, parent=progress.version, mesh_namespaces=[]))
        await made.turn()
    if monitored:
        assert written.reports == []
        return
    assert len(written.reports) == 1, "a stranger's object is let alone"
    assert written.told()["Accepted"][:2] == ("False", "NotAMember")


async def test_what_is_left_out_and_has_no_status_of_ours_gets_an_event_once() -> None:
    progress, written = reached(), Written()
    key = ObjectKey(cluster="c1", kind="Service", namespace="shop", name="web")
    left_out = Quarantined(key=key, code="object/too-large", sentence="has 900000 bytes")
    progress.take_commit(commit(6, parent=5, quarantine=[left_out]))
    value = {"metadata": {"name": "web", "namespace": "shop", "uid": "us", "resourceVersion": "9"}, "spec": {}}
    index = ObjectIndex()
    index.enter(AppliedChange(project("Service", json.dumps(value).encode(), api_version="v1", source="watch"), 5))
    made = reporter(progress, written, index=index)
    await made.turn()
    progress.take_commit(commit(7, parent=6))
    await made.turn()
    assert await told_of(made, written) == [("TooLarge", "has 900000 bytes")]
    assert (written.news[0].kind, written.news[0].uid) == ("Service", "us")
    progress.take_commit(commit(8, parent=7, quarantine=[]))
    await made.turn()
    progress.take_commit(commit(9, parent=8, quarantine=[left_out]))
    await made.turn()
    assert len(await told_of(made, written)) == 2, "it is news again"


async def test_a_reporter_hears_how_far_the_compiler_is_and_what_is_pinned() -> None:
    logs, written = MemoryLogs(STREAMS), Written()
    progress = acknowledged(reached(), 5)
    made = edited(progress, written, sequence=6, pace=msgspec.structs.replace(PACE, again=0.0))
    hearing = StatusLogFollower(progress, made, STREAMS, outage=0.01)
    leases, log = logs.stream(STREAMS.leases), logs.stream(STREAMS.events)
    subject = STREAMS.lease_subject("compiler")
    async with (
        background_task(hearing.follow_progress(leases)),
        background_task(hearing.follow_pin(log, "c1")),
        background_task(made.run()),
    ):
        for payload in (b"nonsense", tenure(reached=4), tenure(ttl=0.0, reached=9), tenure(reached=6)):
            await write_chained(leases, Draft(subject, payload), scope=subject)
        await eventually(lambda: written.reports, within=5, what="the status is written")
        assert progress.compiled == 6
        event = pin_event(pin_of(3, "because", []))
        first = msgspec.structs.replace(event, kind="ServiceAccount", name="web", object=None, operation="deleted")
        for each in (first, event):  # a pin may not begin an epoch
            await write_chained(log, Draft(each.subject(STREAMS), encode(each)), scope=SCOPE)
        await eventually(lambda: written.told()["Accepted"][1] == "Pinned", within=5, what="the pin is told")


def tenure(*, ttl: float = 1.5, reached: int) -> bytes:
    return msgspec.json.encode(Tenure(instance="i", incarnation="x", ttl=ttl, reached=reached))


def pin_event(pin: Pin) -> Event:
    return Event(
        schema=1,
        cluster="c1",
        kind=PIN_KIND,
        namespace="",
        name=PIN_NAME,
        uid="p",
        resource_version="p",
        operation="applied",
        object=encode_object(pin),
    )
