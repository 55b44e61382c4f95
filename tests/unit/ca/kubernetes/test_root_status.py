"""The status of each MeshRootCertificate shows its state, whether that is the goal, and what it waits for."""

from __future__ import annotations

from typing import Any

import pytest

from services.ca import rotation_controller
from services.ca.core.root_certificates import WantedRoot
from services.ca.core.rotation_plan import Role, RotationPlan, RotationStep
from services.ca.kubernetes.root_status import RotationOutcome, root_status
from shared.records.certificate_records import TrustBundle, TrustedRoot
from shared.records.subjects import Streams
from shared.streams.memory import MemoryLogs
from tests.unit.ca.fake_kubernetes import FakeKubernetes
from tests.unit.ca.running import certificate_authority, wanted_event
from tests.unit.identity.cluster import Cluster, write
from tests.waiting import eventually

STREAMS = Streams()
ROOTS = "/apis/config.openservicemesh.io/v1alpha2/namespaces/meshlog-system/meshrootcertificates"
WAITING = RotationPlan(
    TrustBundle(
        "cluster.local", 30, ["A", "B"], [], [TrustedRoot("a", "cluster.local", 10), TrustedRoot("b", "x.org", 20)], 15
    ),
    RotationStep.DISTRIBUTING,
    why="b signs as soon as every proxy trusts it",
    waiting=("shop/1: late", "shop/2: late", "shop/3: late", "shop/4: late", "shop/5: late"),
)


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state machine steps often, so that no test waits for a pause."""
    monkeypatch.setattr(rotation_controller, "PACE_SECONDS", 0.05)


def wanted(name: str, role: Role) -> WantedRoot:
    return WantedRoot(name, role, "cluster.local", "builtin", {}, "")


def holding(status: dict[str, Any]) -> list[str]:
    return [one["type"] for one in status["conditions"] if one["status"] == "True"]


@pytest.mark.parametrize(
    ("name", "role", "state", "true"),
    [
        ("a", "active", "signing", ["Trusted", "Signing", "Ready"]),
        ("a", "passive", "signing", ["Trusted", "Signing"]),
        ("a", "inactive", "signing", ["Trusted", "Signing"]),
        ("b", "active", "trusted", ["Trusted"]),
        ("b", "passive", "trusted", ["Trusted", "Ready"]),
        ("b", "inactive", "trusted", ["Trusted"]),
        ("c", "active", "unused", []),
        ("c", "passive", "unused", []),
        ("c", "inactive", "unused", ["Ready"]),
    ],
)
def test_a_root_is_ready_when_it_is_what_its_role_asks_for(name: str, role: Role, state: str, true: list[str]) -> None:
    status = root_status(wanted(name, role), RotationOutcome(WAITING, (), {}))
    assert (status["state"], holding(status)) == (state, true)
    ready = "Ready" in true
    assert bool(status["message"]) is not ready
    assert status["conditions"][2]["reason"] == ("AsWished" if ready else "Waiting")


def test_who_is_waited_for_is_named_and_counted() -> None:
    status = root_status(wanted("b", "active"), RotationOutcome(WAITING, (), {}))
    assert status["message"] == (
        "b signs as soon as every proxy trusts it: shop/1: late; shop/2: late; shop/3: late and 2 more"
    )


def test_a_root_that_cannot_be_used_says_why() -> None:
    status = root_status(wanted("a", "active"), RotationOutcome(WAITING, (), {"a": "Vault is sealed"}))
    assert (status["state"], status["message"], holding(status)) == (
        "broken",
        "Vault is sealed",
        ["Trusted", "Signing"],
    )
    assert status["conditions"][2]["reason"] == "Broken"


def test_times_are_those_of_the_bundles() -> None:
    """Replicas that write at different times write the same."""
    times = [
        one["lastTransitionTime"][-3:]
        for one in root_status(wanted("b", "passive"), RotationOutcome(WAITING, (), {}))["conditions"]
    ]
    assert times == ["20Z", "15Z", "30Z"]


async def test_a_rotation_shows_on_the_objects_and_an_outage_of_the_api_only_delays_it() -> None:
    logs, cluster, kube = MemoryLogs(), Cluster(), FakeKubernetes()
    events = logs.stream(STREAMS.events)
    # Without the edge: the rotation would wait for it, and this test runs none.
    await write(events, [event for event in cluster.bookstore() if "xds-edge" not in event.name])
    await write(events, [wanted_event(cluster, "default", "cluster.local", "active")])

    def state(name: str) -> str:
        return kube.objects.get(f"{ROOTS}/{name}/status", {}).get("status", {}).get("state", "")

    async with certificate_authority(logs, kube=kube, distribution_settle=0.0):
        await eventually(lambda: state("default") == "signing", within=10, what="the first root signs")
        kube.refusing.add(f"{ROOTS}/root-2/status")
        await write(events, [wanted_event(cluster, "root-2", "cluster.local", "passive")])
        asked = ("PATCH", f"{ROOTS}/root-2/status")
        await eventually(lambda: asked in kube.requests, within=10, what="the status is tried")
        assert state("root-2") == ""
        kube.refusing.clear()
        await eventually(lambda: state("root-2") == "trusted", within=10, what="the status is written")
        wishes = [wanted_event(cluster, *one) for one in _WISHES]
        await write(events, wishes)
        await eventually(
            lambda: (state("default"), state("root-2")) == ("unused", "signing"), within=20, what="the end"
        )


_WISHES = (("default", "cluster.local", "inactive"), ("root-2", "cluster.local", "active"))
