"""All services, the webhook selector and the command agree on which namespaces are members, whatever their labels."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.cluster.connectivity import _member  # pyright: ignore[reportPrivateUsage]
from cli.kubernetes.api_client import Api
from cli.migrate.context import MigrationContext
from deploy.install.profile import Profile
from deploy.install.webhooks import webhook
from services.ca.core.cluster_state import ClusterState
from services.compiler.core.offline import compile_events
from services.ingestor.core.observations import ObjectUpdated
from services.injector.core.decision import NamespaceMeta, decide
from shared.identity.service_account_tokens import TokenVerifier
from shared.membership import is_member, mesh_of
from shared.projected_objects import ANNOTATION_INJECTION, LABEL_IGNORE, LABEL_MONITORED_BY
from tests.unit.compiler import objects
from tests.unit.ingestor.status.test_reports import Written, acknowledged, commit, namespace, reached, reporter, target

MESH = "meshlog"
LABELS = st.fixed_dictionaries(
    {},
    optional={
        LABEL_MONITORED_BY: st.sampled_from(["", MESH, "another", "Meshlog"]),
        LABEL_IGNORE: st.sampled_from(["", "true", "false"]),
        "app": st.just("x"),
    },
)


def compiled(labels: dict[str, str]) -> bool:
    made = [
        objects.namespace("shop", mesh=None, labels=labels),
        objects.pod("shop", "web", account="web", ip="10.0.0.1"),
    ]
    return bool(compile_events(made).proxies)


def certified(labels: dict[str, str]) -> tuple[bool, bool]:
    """Whether the CA writes the trust bundle there, and whether it counts a sidecar of it for rotations."""
    facts = ClusterState(
        TokenVerifier(clock=lambda: 0.0), cluster="cluster", mesh_name=MESH, mesh_namespace="meshlog-system"
    )
    facts.apply(objects.namespace("shop", mesh=None, labels=labels))
    facts.apply(objects.pod("shop", "web", account="web", ip="10.0.0.1"))
    return "shop" in facts.members(), bool(facts.sidecars())


def injected(labels: dict[str, str]) -> bool:
    namespace = NamespaceMeta(name="shop", labels=labels, annotations={ANNOTATION_INJECTION: "enabled"})
    return decide({}, namespace, mesh_name=MESH, mesh_namespace="meshlog-system").inject


def selected(labels: dict[str, str]) -> bool:
    """By the webhook's selector, read as Kubernetes does."""
    (hook,) = webhook(Profile(mesh_name=MESH))["webhooks"]
    expressions: list[dict[str, Any]] = hook["namespaceSelector"]["matchExpressions"]
    assert list(hook["namespaceSelector"]) == ["matchExpressions"]
    return all(_holds(one, labels) for one in expressions)


def _holds(expression: dict[str, Any], labels: dict[str, str]) -> bool:
    if expression["operator"] == "DoesNotExist":
        return expression["key"] not in labels
    assert expression["operator"] == "In"
    return labels.get(expression["key"]) in expression["values"]


def told(labels: dict[str, str]) -> bool:
    """By `meshlog verify connectivity`."""

    class _Api:
        async def request(self, _method: str, _path: str) -> tuple[int, dict[str, Any]]:
            return 200, {"metadata": {"labels": labels}}

    return asyncio.run(_member(cast("Api", _Api()), "shop", MESH)).fine


def moved(labels: dict[str, str]) -> bool:
    """By `meshlog migrate`, which asks for members of any mesh."""
    namespace = {"kind": "Namespace", "metadata": {"name": "shop", "labels": labels}}
    return MigrationContext([namespace], complete=True).is_member("shop")


def left(labels: dict[str, str]) -> bool:
    """By the ingestor: whether an object in it that has conditions of ours is reported as outside of every mesh."""

    async def judge() -> bool:
        reach, written = acknowledged(reached(), 5), Written()
        made = reporter(reach, written)
        made.note(ObjectUpdated(namespace(labels)))
        made.note(ObjectUpdated(target(conditions=[{"type": "Accepted", "status": "True", "reason": "Accepted"}])))
        reach.take_commit(commit(reach.version + 1, parent=reach.version, mesh_namespaces=[]))
        await made.turn()
        return bool(written.reports)

    return asyncio.run(judge())


TABLE = (
    ({}, None),
    ({"app": "x"}, None),
    ({LABEL_MONITORED_BY: MESH}, MESH),
    ({LABEL_MONITORED_BY: "another"}, "another"),
    ({LABEL_MONITORED_BY: "Meshlog"}, "Meshlog"),
    ({LABEL_MONITORED_BY: ""}, ""),
    ({LABEL_MONITORED_BY: MESH, LABEL_IGNORE: "true"}, None),
    ({LABEL_MONITORED_BY: MESH, LABEL_IGNORE: "false"}, None),
    ({LABEL_MONITORED_BY: MESH, LABEL_IGNORE: ""}, None),
    ({LABEL_MONITORED_BY: "another", LABEL_IGNORE: "true"}, None),
    ({LABEL_IGNORE: "true"}, None),
)


@pytest.mark.parametrize(("labels", "mesh"), TABLE)
def test_the_table_of_namespaces_is_judged_alike(labels: dict[str, str], mesh: str | None) -> None:
    assert mesh_of(labels) == mesh
    assert is_member(labels, mesh_name=MESH) is (mesh == MESH)
    _agree(labels)


@given(LABELS)
def test_every_part_agrees_on_which_namespace_is_a_member(labels: dict[str, str]) -> None:
    _agree(labels)


def _agree(labels: dict[str, str]) -> None:
    member = is_member(labels, mesh_name=MESH)
    assert compiled(labels) is member
    assert injected(labels) is member
    assert certified(labels) == (member, member)
    assert selected(labels) is member
    assert told(labels) is member
    assert moved(labels) is (mesh_of(labels) is not None)
    assert left(labels) is (mesh_of(labels) is None)


def test_an_ignored_namespace_gets_neither_a_trust_bundle_nor_a_certificate() -> None:
    labels = {LABEL_MONITORED_BY: MESH, LABEL_IGNORE: "true"}
    assert certified(labels) == (False, False)
    assert not compiled(labels)


def test_a_namespace_that_is_being_deleted_stays_a_member_and_is_written_nothing_new() -> None:
    """Its pods still run; the API server takes no new object there."""
    facts = ClusterState(
        TokenVerifier(clock=lambda: 0.0), cluster="cluster", mesh_name=MESH, mesh_namespace="meshlog-system"
    )
    event = objects.namespace("shop")
    leaving = msgspec.json.decode(cast("msgspec.Raw", event.object))
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    facts.apply(msgspec.structs.replace(event, object=msgspec.Raw(msgspec.json.encode(leaving))))
    facts.apply(objects.pod("shop", "web", account="web", ip="10.0.0.1"))
    assert facts.members() == {}
    assert facts.sidecars()
