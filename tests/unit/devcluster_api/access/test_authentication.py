"""Service-account tokens: what they say, and when they stop being believed."""

from __future__ import annotations

import base64
import json

import jwt
import pytest

from deploy.devcluster.apiserver import ApiServer
from deploy.devcluster.cluster_api import KubeApiError
from tests.unit.devcluster_api.conftest import Clock
from tests.unit.devcluster_api.objects import pod


@pytest.fixture
async def account(api: ApiServer) -> ApiServer:
    await api.cluster.create("serviceaccounts", {"metadata": {"name": "buyer", "namespace": "default"}})
    await api.cluster.create("pods", pod(serviceAccountName="buyer", nodeName="node"))
    return api


def issue(api: ApiServer, **options: str) -> str:
    return api.issue_token("default", "buyer", audiences=["meshlog"], **options).token  # type: ignore[arg-type]


async def test_a_token_says_what_kubernetes_tokens_say(account: ApiServer) -> None:
    token = issue(account, pod="p")
    key = jwt.PyJWK(account.accounts.keys()["keys"][0])
    claims = jwt.decode(token, key.key, algorithms=["ES256"], audience="meshlog", options={"verify_exp": False,
                        "verify_iat": False, "verify_nbf": False})  # fmt: skip
    assert claims["iss"] == "https://kubernetes.default.svc.cluster.local"
    assert claims["sub"] == "system:serviceaccount:default:buyer"
    assert claims["kubernetes.io"]["pod"]["name"] == "p"
    assert claims["kubernetes.io"]["serviceaccount"]["uid"]
    assert {"aud", "exp", "iat", "nbf", "jti"} <= set(claims)
    assert jwt.get_unverified_header(token)["kid"] == account.accounts.keys()["keys"][0]["kid"]


async def test_the_published_keys_hold_nothing_private(account: ApiServer) -> None:
    assert set(account.accounts.keys()["keys"][0]) == {"kty", "crv", "x", "y", "use", "alg", "kid"}


async def test_a_token_proves_its_account_for_its_audience_only(account: ApiServer) -> None:
    found = account.accounts.authenticate(issue(account, pod="p"), ["meshlog", "other"])
    assert found is not None
    caller, audiences = found
    assert (caller.username, audiences) == ("system:serviceaccount:default:buyer", ["meshlog"])
    assert caller.extra["authentication.kubernetes.io/pod-name"] == ("p",)
    assert account.accounts.authenticate(issue(account, pod="p")) is None, "it is not for the API"
    assert account.accounts.authenticate(issue(account, pod="p"), ["other"]) is None


async def test_a_token_dies_with_its_time(account: ApiServer, clock: Clock) -> None:
    token = issue(account)
    clock.now += 3599
    assert account.accounts.authenticate(token, ["meshlog"])
    clock.now += 2
    assert account.accounts.authenticate(token, ["meshlog"]) is None


async def test_a_token_dies_with_its_pod_even_if_another_has_its_name(account: ApiServer) -> None:
    token = issue(account, pod="p")
    await account.cluster.delete("pods", "default", "p", grace_seconds=0)
    assert account.accounts.authenticate(token, ["meshlog"]) is None
    await account.cluster.create("pods", pod(serviceAccountName="buyer"))
    assert account.accounts.authenticate(token, ["meshlog"]) is None


async def test_a_token_dies_with_its_account(account: ApiServer) -> None:
    token = issue(account)
    await account.cluster.delete("serviceaccounts", "default", "buyer")
    assert account.accounts.authenticate(token, ["meshlog"]) is None


async def test_a_changed_token_proves_nobody(account: ApiServer) -> None:
    token = issue(account)
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    claims["sub"] = "system:serviceaccount:kube-system:admin"
    forged = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    unsigned = jwt.encode(claims, "", algorithm="none")
    for bad in (f"{head}.{forged}.{signature}", unsigned, "", "x", token + "x", "a" * 20_000):
        assert account.accounts.authenticate(bad, ["meshlog"]) is None


@pytest.mark.parametrize(
    ("name", "bound", "uid", "status"),
    [("nobody", "", "", 404), ("buyer", "nowhere", "", 404), ("buyer", "p", "wrong", 409)],
)
async def test_a_token_is_for_what_exists(account: ApiServer, name: str, bound: str, uid: str, status: int) -> None:
    with pytest.raises(KubeApiError) as refusal:
        account.issue_token("default", name, pod=bound, pod_uid=uid)
    assert refusal.value.status == status


async def test_a_token_is_not_bound_to_another_accounts_pod(account: ApiServer) -> None:
    await account.cluster.create("serviceaccounts", {"metadata": {"name": "thief", "namespace": "default"}})
    with pytest.raises(KubeApiError, match="different serviceaccount name"):
        account.issue_token("default", "thief", pod="p")
