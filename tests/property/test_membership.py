"""Compiler, injector, CA, webhook selector and command agree on which namespaces are members, whatever their labels."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cli.api import Api
from cli.cluster.connectivity import _member  # pyright: ignore[reportPrivateUsage]
from deploy.install.profile import Profile
from deploy.install.webhooks import webhook
from services.ca.facts import Facts
from services.compiler.offline import compile_events
from services.injector.decision import Namespace, decide
from shared.membership import is_member
from shared.model import ANNOTATION_INJECTION, LABEL_IGNORE, LABEL_MONITORED_BY
from shared.tokens import TokenVerifier
from tests.unit.compiler import objects

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
    facts = Facts(TokenVerifier(clock=lambda: 0.0), cluster="cluster", mesh_name=MESH, mesh_namespace="meshlog-system")
    facts.apply(objects.namespace("shop", mesh=None, labels=labels))
    facts.apply(objects.pod("shop", "web", account="web", ip="10.0.0.1"))
    return "shop" in facts.members(), bool(facts.sidecars())


def injected(labels: dict[str, str]) -> bool:
    namespace = Namespace(name="shop", labels=labels, annotations={ANNOTATION_INJECTION: "enabled"})
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


@given(LABELS)
def test_every_part_agrees_on_who_is_a_member(labels: dict[str, str]) -> None:
    member = is_member(labels, mesh_name=MESH)
    assert compiled(labels) is member
    assert injected(labels) is member
    assert certified(labels) == (member, member)
    assert selected(labels) is member
    assert told(labels) is member


def test_an_ignored_namespace_gets_neither_a_trust_bundle_nor_a_certificate() -> None:
    labels = {LABEL_MONITORED_BY: MESH, LABEL_IGNORE: "true"}
    assert certified(labels) == (False, False)
    assert not compiled(labels)


def test_a_namespace_that_is_being_deleted_stays_a_member_and_is_written_nothing_new() -> None:
    """Its pods still run; the API server takes no new object there."""
    facts = Facts(TokenVerifier(clock=lambda: 0.0), cluster="cluster", mesh_name=MESH, mesh_namespace="meshlog-system")
    event = objects.namespace("shop")
    leaving = msgspec.json.decode(cast("msgspec.Raw", event.object))
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    facts.apply(msgspec.structs.replace(event, object=msgspec.Raw(msgspec.json.encode(leaving))))
    facts.apply(objects.pod("shop", "web", account="web", ip="10.0.0.1"))
    assert facts.members() == {}
    assert facts.sidecars()
