"""RBAC over the wire: a service account may do what a rule says, by verb, group, name, namespace and path."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.devcluster_api.client import MAPS, PODS, Client

RBAC = "/apis/rbac.authorization.k8s.io/v1"
HOME = "/api/v1/namespaces/default"


async def account(client: Client, name: str, rules: list[dict[str, Any]], *, everywhere: bool = False) -> str:
    """A service account with these rules; returns its token."""
    assert (await client.call("POST", f"{HOME}/serviceaccounts", {"metadata": {"name": name}}))[0] == 201
    kind, root = ("ClusterRole", RBAC) if everywhere else ("Role", f"{RBAC}/namespaces/default")
    plural = kind.lower()
    role = {"metadata": {"name": name}, "rules": rules}
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}],
    }
    assert (await client.call("POST", f"{root}/{plural}s", role))[0] == 201
    assert (await client.call("POST", f"{root}/{plural}bindings", binding))[0] == 201
    return client.api.issue_token("default", name).token


def rule(groups: str, resources: str, verbs: str, *names: str) -> dict[str, Any]:
    made = {"apiGroups": groups.split(",") if groups else [""], "resources": resources.split(), "verbs": verbs.split()}
    return {**made, "resourceNames": list(names)} if names else made


async def test_who_has_no_rule_is_refused_in_kubernetes_words(client: Client) -> None:
    token = await account(client, "nobody", [])
    status, body = await client.call("GET", PODS, token=token)
    assert (status, body["reason"]) == (403, "Forbidden")
    who = "system:serviceaccount:default:nobody"
    assert body["message"] == (
        f'pods is forbidden: User "{who}" cannot list resource "pods" in API group "" in the namespace "default"'
    )
    status, body = await client.call("GET", "/apis/apps/v1/deployments", token=token)
    assert body["message"].endswith('cannot list resource "deployments" in API group "apps" at the cluster scope')


async def test_everybody_known_may_read_discovery_the_issuer_and_about_himself(client: Client) -> None:
    token = await account(client, "reader", [])
    for path in ("/api", "/apis", "/apis/apps/v1", "/openapi/v3", "/version"):
        assert (await client.call("GET", path, token=token))[0] == 200, path
    assert (await client.call("GET", "/openid/v1/jwks", token=token, accept="application/jwk-set+json"))[0] == 200
    review = {"spec": {"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}}}
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    status, body = await client.call("POST", path, review, token=token)
    assert (status, body["status"]["allowed"]) == (201, False)


@pytest.mark.parametrize(
    ("method", "path", "needs"),
    [
        ("GET", PODS, "list"),
        ("GET", f"{PODS}?watch=true&timeoutSeconds=1", "watch"),
        ("GET", f"{PODS}/p", "get"),
        ("POST", PODS, "create"),
        ("PUT", f"{PODS}/p", "update"),
        ("PATCH", f"{PODS}/p", "patch"),
        ("DELETE", f"{PODS}/p", "delete"),
        ("DELETE", PODS, "deletecollection"),
    ],
)
async def test_each_request_needs_its_verb_and_no_other(client: Client, method: str, path: str, needs: str) -> None:
    verbs = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"]
    right = await account(client, "right", [rule("", "pods", needs)])
    wrong = await account(client, "wrong", [rule("", "pods", " ".join(verb for verb in verbs if verb != needs))])
    media = "application/merge-patch+json" if method == "PATCH" else "application/json"
    data = None if method in {"GET", "DELETE"} else b"{}"
    answered: list[bool] = []
    for token in (wrong, right):
        headers = {"Authorization": f"Bearer {token}", "Content-Type": media}
        async with client.session.request(method, client.url + path, data=data, headers=headers) as answer:
            answered.append(answer.status != 403)
    assert answered == [False, True]


async def test_a_rule_with_names_holds_for_these_alone(client: Client) -> None:
    token = await account(client, "named", [rule("", "configmaps", "get list patch create", "mine")])
    applied = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine"}, "data": {"a": "b"}}
    media, query = "application/apply-patch+yaml", "?fieldManager=test"
    assert (await client.call("PATCH", f"{MAPS}/mine{query}", applied, media=media, token=token))[0] == 201
    other = {**applied, "metadata": {"name": "other"}}
    assert (await client.call("PATCH", f"{MAPS}/other{query}", other, media=media, token=token))[0] == 403
    assert (await client.call("POST", MAPS, other, token=token))[0] == 403, "a create by POST has no name"
    assert (await client.call("GET", MAPS, token=token))[0] == 403, "a list is about all of them"
    assert (await client.call("GET", f"{MAPS}?fieldSelector=metadata.name=mine", token=token))[0] == 200


async def test_to_apply_what_is_not_there_needs_the_right_to_create_it(client: Client) -> None:
    token = await account(client, "patcher", [rule("", "configmaps", "patch")])
    applied = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "new"}}
    path = f"{MAPS}/new?fieldManager=test"
    status, body = await client.call("PATCH", path, applied, media="application/apply-patch+yaml", token=token)
    assert status == 403
    assert "cannot create" in body["message"]


async def test_a_role_ends_at_its_namespace_and_a_subresource_is_a_resource_of_its_own(client: Client) -> None:
    token = await account(client, "home", [rule("", "pods", "*")])
    assert (await client.call("GET", "/api/v1/pods", token=token))[0] == 403
    assert (await client.call("GET", "/api/v1/namespaces/kube-system/pods", token=token))[0] == 403
    merge = "application/merge-patch+json"
    assert (await client.call("PATCH", f"{PODS}/p/status", {}, media=merge, token=token))[0] == 403


async def test_a_cluster_role_holds_everywhere_and_use_of_its_rules_is_noted(client: Client) -> None:
    rules = [rule("", "pods", "list"), rule("apps", "deployments", "list")]
    token = await account(client, "wide", rules, everywhere=True)
    assert (await client.call("GET", "/api/v1/namespaces/kube-system/pods", token=token))[0] == 200
    assert (await client.call("GET", "/api/v1/pods", token=token))[0] == 200
    used = {
        granted.rule: verbs for granted, verbs in client.api.authorizer.usage.items() if granted.role.endswith("wide")
    }
    assert used == {0: {"list pods"}}


async def test_can_i_answers_for_others_as_the_api_would_decide(client: Client) -> None:
    await account(client, "asked", [rule("", "pods", "get", "p")])
    for name, allowed in (("p", True), ("q", False)):
        attributes = {"verb": "get", "resource": "pods", "namespace": "default", "name": name}
        spec = {"user": "system:serviceaccount:default:asked", "resourceAttributes": attributes}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        assert (await client.call("POST", path, {"spec": spec}))[1]["status"]["allowed"] is allowed
