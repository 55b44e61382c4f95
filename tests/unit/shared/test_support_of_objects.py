"""Every field of the kinds that are in force against bytes: it has an effect unless the table of support says not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec
import pytest

from services.ca.core.root_certificates import wanted_root
from shared import projected_objects
from shared.meshconfig.root_certificate import CertManagerSettings, VaultSettings
from shared.policy import support_matrix
from tests.unit.compiler import objects
from tests.unit.shared.outputs import CLUSTER, CRDS, Json, Mesh, leaves, schema_of

TARGET: Json = {
    "destination": {"kind": "ServiceAccount", "name": "store-v1", "namespace": "store"},
    "sources": [{"kind": "ServiceAccount", "name": "thief", "namespace": "buy"}],
    "rules": [{"kind": "HTTPRouteGroup", "name": "routes", "matches": ["browse"]}],
}
BINDING: Json = {"schemes": {"serviceAccount": "thief"}}
BY_BINDING = objects.target(
    "buy",
    "by-binding",
    destination="buyer",
    sources=[],
    rules=[("TCPRoute", "any", [])],
    subjects={"sources": [{"kind": "IdentityBinding", "name": "b", "namespace": "buy"}]},
)
ANY_PORT = objects.tcp_route("buy", "any")
BUYERS = [
    objects.service("buy", "buyers", ip="10.96.1.9", selector={"app": "buyer"}),
    objects.slices("buy", "buyers", {"buyer-0": "10.244.1.1"}),
]
SELECTOR: Json = {"matchExpressions": [{"key": "app", "operator": "In", "values": ["thief"]}]}
SPLIT: Json = {
    "service": "store",
    "backends": [{"service": "store-v1", "weight": 90}, {"service": "store-v2", "weight": 10}],
    "matches": [{"kind": "HTTPRouteGroup", "name": "routes"}],
}
GROUP: Json = {
    "matches": [
        {"name": "browse", "pathRegex": "/books", "methods": ["GET"], "headers": {"a": "b"}},
        {"name": "buy", "pathRegex": "/buy.*", "methods": ["GET"]},
    ]
}
ROUTE: Json = {"matches": {"name": "m", "ports": [5432]}}

Place = tuple[str, str, str]
"""Kind, namespace and name of the object that is flipped."""
FLIPS: Mapping[str, tuple[Place, Json, Mapping[str, Callable[[Json], object]]]] = {
    "TrafficTarget": (
        ("TrafficTarget", "store", "thief-v1"),
        TARGET,
        {
            "destination.kind": lambda spec: spec["destination"].update(kind="IdentityBinding"),
            "destination.name": lambda spec: spec["destination"].update(name="store-v2"),
            "destination.namespace": lambda spec: spec["destination"].update(namespace="buy"),
            "destination.port": lambda spec: spec["destination"].update(port=9999),
            "rules[].kind": lambda spec: spec["rules"][0].update(kind="TCPRoute"),
            "rules[].name": lambda spec: spec["rules"][0].update(name="none"),
            "rules[].matches": lambda spec: spec["rules"][0].update(matches=["buy"]),
            "specs[].kind": lambda spec: _renamed(spec, kind="TCPRoute"),
            "specs[].name": lambda spec: _renamed(spec, name="none"),
            "specs[].matches": lambda spec: _renamed(spec, matches=["buy"]),
            "sources[].kind": lambda spec: spec["sources"][0].update(kind="IdentityBinding"),
            "sources[].name": lambda spec: spec["sources"][0].update(name="buyer"),
            "sources[].namespace": lambda spec: spec["sources"][0].update(namespace="store"),
        },
    ),
    "HTTPRouteGroup": (
        ("HTTPRouteGroup", "store", "routes"),
        GROUP,
        {
            "matches[].name": lambda spec: spec["matches"][0].update(name="other"),
            "matches[].pathRegex": lambda spec: spec["matches"][0].update(pathRegex="/other"),
            "matches[].methods": lambda spec: spec["matches"][0].update(methods=["PUT"]),
            "matches[].headers": lambda spec: spec["matches"][0].update(headers={"a": "c"}),
        },
    ),
    "TCPRoute": (
        ("TCPRoute", "store", "db"),
        ROUTE,
        {
            "matches.name": lambda spec: spec["matches"].update(name="other"),
            "matches.ports": lambda spec: spec["matches"].update(ports=[1]),
        },
    ),
    "TrafficSplit": (
        ("TrafficSplit", "store", "canary"),
        SPLIT,
        {
            "service": lambda spec: spec.update(service="store-v1"),
            "backends[].service": lambda spec: spec["backends"][0].update(service="store"),
            "backends[].weight": lambda spec: spec["backends"][0].update(weight=1),
            "matches[].apiGroup": lambda spec: spec["matches"][0].update(apiGroup="specs.smi-spec.io"),
            "matches[].kind": lambda spec: spec["matches"][0].pop("kind"),
            "matches[].name": lambda spec: spec["matches"][0].update(name="none"),
        },
    ),
    "IdentityBinding": (
        ("IdentityBinding", "buy", "b"),
        BINDING,
        {
            "schemes.serviceAccount": lambda spec: spec["schemes"].update(serviceAccount="other"),
            "schemes.spiffeIdentities": lambda spec: spec["schemes"].update(
                spiffeIdentities=["cluster.local/ns/buy/sa/buyer"]
            ),
            "schemes.podLabelSelector.matchLabels": lambda spec: spec.update(
                schemes={"podLabelSelector": {"matchLabels": {"app": "buyer"}}}
            ),
            "schemes.podLabelSelector.matchExpressions[].key": lambda spec: _expression(spec, key="none"),
            "schemes.podLabelSelector.matchExpressions[].operator": lambda spec: _expression(spec, operator="NotIn"),
            "schemes.podLabelSelector.matchExpressions[].values": lambda spec: _expression(spec, values=["buyer"]),
        },
    ),
}
BASES: Mapping[str, Json] = {
    "schemes.podLabelSelector.matchExpressions": {"schemes": {"podLabelSelector": SELECTOR}},
    "specs[]": {**{key: value for key, value in TARGET.items() if key != "rules"}, "specs": TARGET["rules"]},
}
"""Where another form is what the flip starts from, by the beginning of the field."""


def _renamed(spec: Json, **changes: Any) -> None:
    spec["specs"][0].update(changes)


def _expression(spec: Json, **changes: Any) -> None:
    spec["schemes"]["podLabelSelector"]["matchExpressions"][0].update(changes)


def _fields_of(kind: str) -> list[str]:
    path = next(path for path in CRDS.glob("*.yaml") if f"kind: {kind}\n" in path.read_text())
    return [field for field, _ in leaves(schema_of(path.name))]


def _cases() -> list[tuple[str, str]]:
    return [(kind, field) for kind in FLIPS for field in _fields_of(kind)]


@pytest.mark.parametrize(("kind", "field"), _cases())
def test_a_field_of_an_object_has_the_effect_that_its_row_says(kind: str, field: str) -> None:
    (_, namespace, name), usual, flips = FLIPS[kind]
    base = next((base for start, base in BASES.items() if field.startswith(start)), usual)
    flipped = json.loads(json.dumps(base))
    flips[field](flipped)
    row = support_matrix.FIELDS.get(kind, {}).get(field, support_matrix.KINDS[kind])
    version = {"TrafficTarget": objects.ACCESS, "TrafficSplit": objects.SPLIT}.get(kind, objects.SPECS)
    made = Mesh([*objects.bookstore(), *BUYERS, ANY_PORT, BY_BINDING])

    def sent(spec: Json) -> str:
        return made.take(
            objects.policy(kind, namespace, name, spec, api_version=version, created="2026-01-01T00:00:00Z")
        )

    assert (sent(base) != sent(flipped)) == (row.state in {"works", "differs"})


@pytest.mark.parametrize("kind", [kind for kind, row in support_matrix.KINDS.items() if row.state == "not yet"])
def test_a_kind_that_has_no_effect_yet_changes_no_byte(kind: str) -> None:
    made = Mesh(objects.bookstore())
    before = made.take()
    spec = {"sources": [{"kind": "ServiceAccount", "name": "buyer", "namespace": "buy"}], "hosts": ["x"], "port": 1}
    version = objects.SPECS if kind == "UDPRoute" else "policy.openservicemesh.io/v1alpha1"
    assert (
        made.take(objects.policy(kind, "store", "one", spec, api_version=version, created="2026-01-01T00:00:00Z"))
        == before
    )


def test_what_providers_of_roots_do_not_read_has_a_row() -> None:
    """A field of a root's provider that its settings do not hold has no effect."""
    rows = support_matrix.FIELDS["MeshRootCertificate"]
    for provider, settings in (("vault", VaultSettings), ("certManager", CertManagerSettings)):
        known = {field.encode_name for field in msgspec.structs.fields(cast("type[msgspec.Struct]", settings))}
        for field in _fields_of("MeshRootCertificate"):
            if field.startswith(f"provider.{provider}.") and f"provider.{provider}.token" not in field:
                assert (field.split(".")[2] in known) == (field not in rows), field


def test_the_root_that_is_wanted_is_the_same_whether_spiffe_is_asked_for_or_not() -> None:
    def wanted(spec: Json) -> object:
        meta = projected_objects.Meta(name="r", namespace="meshlog-system")
        found = projected_objects.PolicyObject(metadata=meta, spec=spec)
        return wanted_root(found, CLUSTER.event("MeshRootCertificate", "meshlog-system", "r", found))

    spec = {"role": "active", "trustDomain": "a.example", "provider": {"tresor": {}}}
    assert wanted(spec) == wanted({**spec, "spiffeEnabled": True})
    assert wanted(spec) != wanted({**spec, "role": "passive"})
    assert wanted(spec) != wanted({**spec, "trustDomain": "b.example"})
