"""The state of the cluster is a fold of the log, and decides which workloads may get a certificate."""

from __future__ import annotations

import pytest

from services.ca.core.cluster_state import ClusterState
from services.ca.log.cluster_state_follower import cluster_state_view
from shared.errors import MeshlogError
from shared.identity.service_account_tokens import TokenVerifier
from shared.records.events import Event
from shared.records.subjects import Streams
from shared.streams.memory import MemoryLogs
from tests.unit.ca.running import tasks
from tests.unit.identity.cluster import Cluster, write
from tests.waiting import eventually

NOW = 1_700_000_000.0


def folded(cluster: Cluster, *more: Event) -> tuple[ClusterState, TokenVerifier]:
    verifier = TokenVerifier(clock=lambda: NOW)
    facts = ClusterState(verifier, cluster="devcluster", mesh_name="meshlog", mesh_namespace="meshlog-system")
    for event in [*cluster.bookstore(), *more]:
        facts.apply(event)
    return facts, verifier


CLUSTER = Cluster(now=NOW)


def test_a_living_pod_of_a_member_namespace_is_accepted() -> None:
    facts, verifier = folded(CLUSTER)
    assert facts.rejection(verifier.verify(CLUSTER.token())) is None
    edge = CLUSTER.token("meshlog-system", "meshlog-xds-edge", "meshlog-xds-edge-1")
    assert facts.rejection(verifier.verify(edge)) is None


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (CLUSTER.gone("Pod", "bookstore", "bookbuyer-1"), "token/unknown-pod"),
        (CLUSTER.pod_event("bookstore", "bookbuyer-1", "bookbuyer", uid="another"), "token/unknown-pod"),
        (CLUSTER.pod_event("bookstore", "bookbuyer-1", "bookthief"), "token/unknown-pod"),
        (CLUSTER.pod_event("bookstore", "bookbuyer-1", "bookbuyer", phase="Succeeded"), "token/unknown-pod"),
        (CLUSTER.pod_event("bookstore", "bookbuyer-1", "bookbuyer", phase="Failed"), "token/unknown-pod"),
        (CLUSTER.gone("Namespace", "", "bookstore"), "token/not-a-member"),
        (CLUSTER.namespace_event("bookstore", monitored_by=""), "token/not-a-member"),
        (CLUSTER.namespace_event("bookstore", monitored_by="another-mesh"), "token/not-a-member"),
        (CLUSTER.gone("ServiceAccount", "bookstore", "bookbuyer"), "token/unknown-account"),
        (CLUSTER.account_event("bookstore", "bookbuyer", uid="another"), "token/unknown-account"),
    ],
)
def test_one_change_is_a_reason_to_reject(event: Event, code: str) -> None:
    facts, verifier = folded(CLUSTER, event)
    rejection = facts.rejection(verifier.verify(CLUSTER.token()))
    assert rejection is not None
    assert rejection.code == code


def test_the_bundle_goes_to_members_and_the_meshs_own_namespace() -> None:
    facts, _ = folded(
        CLUSTER,
        CLUSTER.namespace_event("other", monitored_by=""),
        CLUSTER.namespace_event("leaving", leaving=True),
        Cluster("elsewhere").namespace_event("far"),
    )
    assert facts.members() == {"bookstore": "uid-bookstore", "meshlog-system": "uid-meshlog-system"}


def test_mesh_config_sets_the_lifetime_and_nonsense_keeps_the_last_good_one() -> None:
    def config(value: object) -> Event:
        return CLUSTER.config_event({"certificate": {"serviceCertValidityDuration": value}})

    facts, _ = folded(CLUSTER, config("1h30m"))
    assert facts.lifetime == 5400
    for nonsense in ("soon", "", 7, "-1h"):
        with pytest.raises(MeshlogError):
            facts.apply(config(nonsense))
        assert facts.lifetime == 5400
    facts.apply(CLUSTER.config_event({}))
    assert facts.lifetime is None


async def test_the_view_reads_what_is_there_then_what_comes() -> None:
    logs = MemoryLogs()
    log = logs.stream(Streams().events)
    await write(log, CLUSTER.bookstore())
    facts, verifier = folded(CLUSTER)
    facts.clear()
    view = cluster_state_view(log, facts, streams=Streams())
    async with tasks(view.run()):
        await view.caught_up.wait()
        token = verifier.verify(CLUSTER.token())
        assert facts.rejection(token) is None
        await write(log, [CLUSTER.gone("Pod", "bookstore", "bookbuyer-1")])
        await eventually(lambda: facts.rejection(token), within=5, what="the pod is gone")


async def test_a_new_epoch_forgets_what_it_does_not_tell_again() -> None:
    logs = MemoryLogs()
    log = logs.stream(Streams().events)
    await write(log, CLUSTER.bookstore())
    facts, verifier = folded(CLUSTER)
    token = verifier.verify(CLUSTER.token())
    view = cluster_state_view(log, facts, streams=Streams())
    again = [event for event in CLUSTER.bookstore() if event.name != "bookbuyer-1"]
    async with tasks(view.run()):
        await view.caught_up.wait()
        await write(log, again, epoch="epoch-2")
        await eventually(lambda: facts.rejection(token), within=5, what="the pod of the old epoch is gone")
    late, _ = folded(CLUSTER)
    other = cluster_state_view(log, late, streams=Streams())
    async with tasks(other.run()):
        await other.caught_up.wait()
        assert late.rejection(token) is not None


async def test_an_object_that_cannot_be_read_leaves_the_others() -> None:
    facts, verifier = folded(CLUSTER)
    bad = CLUSTER.event("Pod", "bookstore", "bookbuyer-1", {"metadata": 7})
    with pytest.raises(MeshlogError):
        facts.apply(bad)
    assert facts.rejection(verifier.verify(CLUSTER.token())) is None
