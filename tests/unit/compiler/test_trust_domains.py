"""While the trust domain changes, identities of both are accepted, and of no other."""

from __future__ import annotations

from services.compiler.derive.membership import spiffe_ids, trust_domains
from services.compiler.mesh_state import MeshSettings, MeshState
from services.compiler.reduce import reduce
from shared.policy.object_name import ObjectName
from shared.projected_objects import Meta, PolicyObject
from shared.records.events import APPLIED, DELETED, SCHEMA, Event, encode_object

BUYER = ObjectName("bookstore", "bookbuyer")


def root(name: str, domain: str, *, gone: bool = False, role: str = "active") -> Event:
    spec = {"role": role, "trustDomain": domain, "provider": {"builtin": {}}}
    meta = Meta(name=name, namespace="meshlog-system", uid=f"uid-{name}")
    return Event(
        schema=SCHEMA,
        cluster="cluster",
        kind="MeshRootCertificate",
        namespace="meshlog-system",
        name=name,
        uid=f"uid-{name}",
        resource_version="1",
        operation=DELETED if gone else APPLIED,
        object=None if gone else encode_object(PolicyObject(metadata=meta, spec=spec)),
    )


def test_trust_domains_are_those_of_the_roots_that_there_are() -> None:
    mesh = MeshState(MeshSettings())
    assert trust_domains(mesh) == ("cluster.local",)
    for sequence, (event, wanted) in enumerate(
        [
            (root("default", "cluster.local"), ("cluster.local",)),
            (root("root-2", "example.org", role="passive"), ("cluster.local", "example.org")),
            (root("default", "cluster.local", role="inactive"), ("cluster.local", "example.org")),
            (root("default", "cluster.local", gone=True), ("example.org",)),
            (root("root-2", "example.org", gone=True), ("cluster.local",)),
        ],
        1,
    ):
        reduce(mesh, event, sequence)
        assert trust_domains(mesh) == wanted


def test_an_account_has_an_identity_in_each() -> None:
    mesh = MeshState(MeshSettings())
    reduce(mesh, root("a", "cluster.local"), 1)
    reduce(mesh, root("b", "example.org"), 2)
    assert spiffe_ids(mesh, BUYER) == (
        "spiffe://cluster.local/ns/bookstore/sa/bookbuyer",
        "spiffe://example.org/ns/bookstore/sa/bookbuyer",
    )
    assert spiffe_ids(mesh, ObjectName("bookstore", "with/slash")) == ()
