"""What is told of a MeshRootCertificate where it is stored is what the CA would say of it, and all of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deploy.install.profile import Profile
from deploy.install.webhooks import validator
from services.ca.core.root_certificates import WantedRoot, wanted_root
from services.ca.keys.selection import key_store
from services.ca.providers.base import find_provider
from services.ca.settings import CaSettings
from shared import projected_objects
from shared.errors import BadInputError
from shared.meshconfig import root_certificate
from tests.unit.ca.fake_kubernetes import FakeKubernetes
from tests.unit.ca.test_providers import Clock, context
from tests.unit.injector.core.test_validation import answered, manifest, review
from tests.unit.shared.outputs import CLUSTER

Json = dict[str, Any]
HOME = "meshlog-system"
GROUP = ("MeshRootCertificate", "config.openservicemesh.io", "v1alpha2")
TOKEN: Json = {"secretKeyRef": {"name": "meshlog-ca", "key": "vault-token"}}
NO_KEY = "provider.vault: Object missing required field `key` - at `$.token.secretKeyRef`"


def spec(**provider: Any) -> Json:
    return {"role": "passive", "trustDomain": "cluster.local", "provider": provider}


def vault(**settings: Any) -> Json:
    return spec(vault={"host": "vault.vault", "token": TOKEN, **settings})


def issuer(**settings: Any) -> Json:
    return spec(certManager={"issuerName": "mesh", **settings})


BAD: list[tuple[Json, str]] = [
    ({}, "needs a role, a trustDomain and a provider"),
    (spec(builtin={}) | {"role": "chief"}, "needs a role, a trustDomain and a provider"),
    (spec(builtin={}) | {"trustDomain": 7}, "needs a role, a trustDomain and a provider"),
    (spec(), "needs exactly one provider"),
    (spec(builtin={}, vault={"host": "v"}), "needs exactly one provider"),
    (spec(vault=["host"]), "provider.vault must be an object"),
    (spec(builtin={}) | {"trustDomain": "Mesh/x"}, "trustDomain: the trust domain must be 1 to 255 of a-z 0-9 . _ -"),
    (spec(spire={}), "spire: is no CA provider; there are: builtin, certManager, vault"),
    (spec(builtin={"ca": []}), "provider.builtin: ca must be an object"),
    (spec(tresor={"ca": {"secretRef": "x"}}), "provider.tresor: secretRef must be an object"),
    (spec(tresor={"ca": {"secretRef": {"name": 7}}}), "provider.tresor: the name of its Secret must be a text"),
    (spec(vault={"role": "meshlog"}), "provider.vault: Object missing required field `host`"),
    (spec(vault={"host": "v"}), "provider.vault: needs a token's secretKeyRef or a role"),
    (vault(token={}), "provider.vault: Object missing required field `secretKeyRef` - at `$.token`"),
    (vault(token={"secretKeyRef": {"name": "s"}}), NO_KEY),
    (vault(token={"secretKeyRef": {"name": "", "key": "k"}}), "at `$.token.secretKeyRef.name`"),
    (vault(host=""), "at `$.host`"),
    (vault(port=70_000), "at `$.port`"),
    (vault(protocol="ftp"), "at `$.protocol`"),
    (vault(ttl="a year"), "provider.vault: ttl: 'a year' is not a duration such as 24h or 1h30m"),
    (vault(protocol="https", caBundle="none"), "provider.vault: caBundle holds no certificates"),
    (spec(certManager={}), "provider.certManager: Object missing required field `issuerName`"),
    (issuer(issuerName=""), "at `$.issuerName`"),
    (issuer(duration="90d"), "provider.certManager: duration: '90d' is not a duration such as 24h or 1h30m"),
    (issuer(caBundle="none"), "provider.certManager: caBundle holds no certificates"),
]
GOOD: list[Json] = [
    spec(builtin={}),
    spec(builtin=None),
    spec(tresor={"ca": {"secretRef": {"name": "osm-ca-bundle", "namespace": HOME}}}),
    spec(vault={"host": "vault.vault", "port": 8200, "protocol": "http", "token": TOKEN, "role": "openservicemesh"}),
    *(vault(ttl=ttl) for ttl in ("720h", "3600", "90d", "1d12h")),
    issuer(issuerKind="ClusterIssuer", duration="2160h0m0s"),
]


@pytest.mark.parametrize(("bad", "said"), BAD, ids=[said[:60] for _, said in BAD])
async def test_a_root_that_the_ca_could_not_use_is_not_stored(bad: Json, said: str) -> None:
    response = await answered(review(*GROUP, bad, namespace=HOME))
    assert not response["allowed"]
    assert said in response["status"]["message"]
    assert f"MeshRootCertificate {HOME}/one" in response["status"]["message"]


@pytest.mark.parametrize(("bad", "said"), BAD, ids=[said[:60] for _, said in BAD])
async def test_the_ca_says_the_same(bad: Json, said: str) -> None:
    """Not of the form of a trust domain: the schema of the API keeps that, and identities are refused."""
    if "trustDomain" in said and "needs" not in said:
        return
    with pytest.raises(BadInputError) as refused:
        await used(bad)
    assert refused.value.sentence in said or said in refused.value.sentence


@pytest.mark.parametrize("good", GOOD, ids=json.dumps)
async def test_a_root_that_the_ca_can_use_is_stored_without_a_word(good: Json) -> None:
    response = await answered(review(*GROUP, good, namespace=HOME))
    assert response["allowed"]
    assert not response.get("warnings")
    assert root_certificate.problems(good) == []


async def test_every_mistake_is_told_at_once() -> None:
    body = {"role": "active", "trustDomain": "A B", "provider": {"spire": {}}}
    message = (await answered(review(*GROUP, body, namespace=HOME)))["status"]["message"]
    assert "trustDomain: " in message
    assert "spire: is no CA provider" in message
    both = spec(vault={"host": "v", "ttl": "long", "protocol": "https", "caBundle": "x"})
    message = (await answered(review(*GROUP, both, namespace=HOME)))["status"]["message"]
    for mistake in ("needs a token's secretKeyRef", "ttl: 'long'", "caBundle holds no certificates"):
        assert mistake in message


async def test_what_may_not_be_meant_is_warned_of() -> None:
    told = {
        "provider.vault.token.secretKeyRef.namespace: Secrets are read in": vault(
            token={"secretKeyRef": {"name": "a", "key": "b", "namespace": "vault"}}
        ),
        "provider.tresor.ca.secretRef: names no Secret": spec(tresor={"ca": {"secretRef": {"namespace": HOME}}}),
    }
    for said, doubtful in told.items():
        response = await answered(review(*GROUP, doubtful, namespace=HOME))
        assert response["allowed"]
        assert said in str(response["warnings"])


async def test_a_change_that_the_ca_would_not_follow_is_warned_of_and_a_role_is_changed_in_silence() -> None:
    old = manifest(*GROUP, vault())
    for new, said in (
        (spec(builtin={}), True),
        (vault() | {"trustDomain": "x.example"}, True),
        (vault() | {"role": "active"}, False),
    ):
        response = await answered(review(*GROUP, new, namespace=HOME, operation="UPDATE", oldObject=old))
        assert response["allowed"]
        assert ("cannot change; make another root" in str(response.get("warnings"))) == said


async def test_a_bad_root_that_is_there_may_be_labelled_and_deleted_and_mended() -> None:
    old = manifest(*GROUP, spec(spire={}))
    for new in (spec(spire={}), spec(builtin={})):
        assert (await answered(review(*GROUP, new, operation="UPDATE", oldObject=old)))["allowed"]
    assert (await answered(review(*GROUP, {}, operation="DELETE", object=None)))["allowed"]


def test_the_webhook_is_asked_about_roots_of_the_meshs_own_namespace() -> None:
    asked = [
        hook
        for hook in validator(Profile())["webhooks"]
        if any("meshrootcertificates" in rule["resources"] for rule in hook["rules"])
    ]
    assert [hook["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for hook in asked] == [HOME]
    assert [hook["failurePolicy"] for hook in asked] == ["Ignore"]


async def used(wished: Json) -> None:
    """What the CA does with a root that is wanted, until the provider would be asked for its signature."""
    found = projected_objects.PolicyObject(metadata=projected_objects.Meta(name="r", namespace=HOME), spec=wished)
    wanted: WantedRoot = wanted_root(found, CLUSTER.event("MeshRootCertificate", HOME, "r", found))
    if wanted.provider == "builtin":
        key_store(CaSettings(key_store="secret"), FakeKubernetes(), wanted)
        return
    await find_provider(wanted.provider)(context(wanted.settings, Clock()))
