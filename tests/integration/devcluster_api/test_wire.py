"""HTTP as clients see it: status codes, media types, authentication, lists and watches."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import pytest
import yaml

from deploy.devcluster.apiserver import ApiServer
from deploy.devcluster.apiserver.http.container_logs import PodLogOptions
from tests.integration.devcluster_api.client import MAPS, PODS, Client, serving
from tests.unit.devcluster_api.objects import config_map, definition, deployment, pod, thing
from tests.waiting import eventually


async def put_maps(client: Client, *names: str) -> None:
    for name in names:
        assert (await client.call("POST", MAPS, config_map(name)))[0] == 201


# --- who may call -----------------------------------------------------------------------------------------------------


async def test_nobody_gets_in_without_a_token_that_is_believed(client: Client) -> None:
    for token in ("", "wrong", "a.b.c"):
        status, body = await client.call("GET", "/api/v1/namespaces", token=token)
        assert (status, body["reason"], body["kind"]) == (401, "Unauthorized", "Status")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/livez", "/version", "/openid/v1/jwks"])
async def test_health_version_and_keys_are_open_to_everyone(client: Client, path: str) -> None:
    assert (await client.call("GET", path, token="", accept="*/*"))[0] == 200


async def test_token_keys_are_refused_to_who_takes_plain_json_only_as_kubernetes_does(client: Client) -> None:
    path = "/openid/v1/jwks"
    assert (await client.call("GET", path, token="", accept="application/json"))[0] == 406
    takes = "application/json, application/jwk-set+json"
    assert (await client.call("GET", path, token="", accept=takes))[0] == 200


async def test_a_pods_token_gets_in_and_is_remembered_by_name(client: Client) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "me"}}
    await client.call("POST", "/api/v1/namespaces/default/serviceaccounts", account)
    path = "/api/v1/namespaces/default/serviceaccounts/me/token"
    status, made = await client.call("POST", path, {"spec": {"expirationSeconds": 600}})
    assert status == 201
    review = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    _status, seen = await client.call("POST", review, {}, token=made["status"]["token"])
    assert seen["status"]["userInfo"]["username"] == "system:serviceaccount:default:me"
    status, made = await client.call("POST", path, {"spec": {"audiences": ["meshlog"]}})
    assert (await client.call("GET", PODS, token=made["status"]["token"]))[0] == 401
    status, made = await client.call("POST", path, {"spec": {"expirationSeconds": 5}})
    assert (status, made["reason"]) == (422, "Invalid")


async def test_a_token_review_says_whom_a_token_proves(client: Client) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "me"}}
    await client.call("POST", "/api/v1/namespaces/default/serviceaccounts", account)
    token = client.api.issue_token("default", "me", audiences=["meshlog"]).token
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    _status, seen = await client.call("POST", path, {"spec": {"token": token, "audiences": ["meshlog"]}})
    assert seen["status"]["authenticated"]
    assert seen["status"]["audiences"] == ["meshlog"]
    assert token not in json.dumps(seen)
    _status, seen = await client.call("POST", path, {"spec": {"token": token}})
    assert not seen["status"]["authenticated"]


async def test_the_kubeconfig_is_enough_to_get_in(client: Client) -> None:
    config = yaml.safe_load(client.api.kubeconfig(client.url))
    assert config["clusters"][0]["cluster"]["server"] == client.url
    assert (await client.call("GET", "/api", token=config["users"][0]["user"]["token"]))[0] == 200


async def test_it_listens_on_a_socket_that_it_is_given() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    api = ApiServer(sockets=[listening])
    await api.start()
    try:
        context = ssl.create_default_context(cadata=api.ca_pem)
        async with aiohttp.ClientSession() as session:
            url = f"https://localhost:{listening.getsockname()[1]}/healthz"
            async with session.get(url, ssl=context) as answer:
                assert await answer.text() == "ok"
    finally:
        await api.stop()


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "media", "status", "reason"),
    [
        ("GET", "/api/v1/nothings", None, "application/json", 404, "NotFound"),
        ("GET", "/apis/example.org/v1/things", None, "application/json", 404, "NotFound"),
        ("GET", "/nowhere", None, "application/json", 404, "NotFound"),
        ("GET", "/api/v1/pods/x", None, "application/json", 404, "NotFound"),
        ("GET", f"{PODS}/missing", None, "application/json", 404, "NotFound"),
        ("POST", "/api/v1/pods", pod(), "application/json", 405, "MethodNotAllowed"),
        ("PUT", PODS, pod(), "application/json", 405, "MethodNotAllowed"),
        ("POST", PODS, b"{", "application/json", 400, "BadRequest"),
        ("POST", PODS, b"\xff", "application/json", 400, "BadRequest"),
        ("POST", PODS, b"[]", "application/json", 400, "BadRequest"),
        ("POST", PODS, b"[" * 5000 + b"]" * 5000, "application/json", 400, "BadRequest"),
        ("POST", PODS, b'{"a":' * 400 + b"1" + b"}" * 400, "application/json", 400, "BadRequest"),
        ("POST", PODS, {**pod(), "kind": "Deployment"}, "application/json", 400, "BadRequest"),
        ("POST", PODS, b"<pod/>", "application/xml", 415, "UnsupportedMediaType"),
        ("POST", PODS, b"a: &a [1]\nb: *a", "application/yaml", 400, "BadRequest"),
        ("PATCH", f"{PODS}/x", b"{}", "application/json", 415, "UnsupportedMediaType"),
        ("GET", f"{PODS}?labelSelector=a=b=c", None, "application/json", 400, "BadRequest"),
        ("GET", f"{PODS}?fieldSelector=spec.image=x", None, "application/json", 400, "BadRequest"),
        ("GET", f"{PODS}?limit=x", None, "application/json", 400, "BadRequest"),
        ("GET", f"{PODS}?resourceVersion=x", None, "application/json", 400, "BadRequest"),
        ("GET", f"{PODS}?resourceVersion=999999", None, "application/json", 504, "Timeout"),
        ("GET", f"{PODS}?continue=xyz", None, "application/json", 400, "BadRequest"),
        ("GET", f"{PODS}?watch=1&resourceVersion=999999", None, "application/json", 504, "Timeout"),
        ("POST", f"{PODS}?dryRun=Some", pod(), "application/json", 422, "Invalid"),
        ("POST", f"{PODS}?fieldValidation=Hard", pod(), "application/json", 422, "Invalid"),
    ],
)
async def test_a_bad_request_is_answered_with_a_status(  # noqa: PLR0917 (the columns of the table)
    client: Client, method: str, path: str, body: Any, media: str, status: int, reason: str
) -> None:
    found, said = await client.call(method, path, body, media=media)
    assert (found, said["kind"], said["status"], said["reason"]) == (status, "Status", "Failure", reason), said
    assert said["message"]
    assert said["code"] == status


async def test_a_body_over_three_mebibytes_is_refused(client: Client) -> None:
    status, said = await client.call("POST", MAPS, b" " * (3 * 1024 * 1024 + 1))
    assert (status, said["reason"]) == (413, "RequestEntityTooLarge")

    async def endless() -> AsyncGenerator[bytes]:
        for _ in range(64):
            yield b" " * 65536

    headers = {"Authorization": f"Bearer {client.api.accounts.admin_token}"}
    async with client.session.post(client.url + MAPS, data=endless(), headers=headers) as answer:
        assert answer.status == 413
    big = config_map(big="x" * (2 * 1024 * 1024))
    assert (await client.call("POST", MAPS, big))[0] == 201


async def test_unknown_fields_are_refused_warned_about_or_dropped(client: Client) -> None:
    body = {**config_map(), "date": {}}
    status, said = await client.call("POST", f"{MAPS}?fieldValidation=Strict", body)
    assert (status, said["message"]) == (400, 'strict decoding error: unknown field "date"')
    async with client.session.post(
        f"{client.url}{MAPS}", json=body, headers={"Authorization": f"Bearer {client.api.accounts.admin_token}"}
    ) as answer:
        assert answer.status == 201
        assert answer.headers["Warning"] == '299 - "unknown field \\"date\\""'
        assert "date" not in await answer.json()


async def test_an_invalid_object_names_each_field(client: Client) -> None:
    obj = deployment(replicas=-1)
    obj["spec"]["template"]["spec"]["containers"][0]["image"] = ""
    status, said = await client.call("POST", "/apis/apps/v1/namespaces/default/deployments", obj)
    assert (status, said["reason"]) == (422, "Invalid")
    assert said["details"]["group"] == "apps"
    assert {cause["field"] for cause in said["details"]["causes"]} == {
        "spec.replicas",
        "spec.template.spec.containers[0].image",
    }


async def test_a_dry_run_stores_nothing(client: Client) -> None:
    status, made = await client.call("POST", f"{MAPS}?dryRun=All", config_map())
    assert (status, made["metadata"]["name"]) == (201, "m")
    assert (await client.call("GET", f"{MAPS}/m"))[0] == 404


# --- lists ------------------------------------------------------------------------------------------------------------


async def test_pages_of_a_list_show_one_moment(client: Client) -> None:
    await put_maps(client, "a", "b", "c", "d", "e")
    _status, first = await client.call("GET", f"{MAPS}?limit=2")
    assert first["metadata"]["remainingItemCount"] == 3
    await client.call("DELETE", f"{MAPS}/d")
    await put_maps(client, "bb")
    found = [one["metadata"]["name"] for one in first["items"]]
    token = first["metadata"]["continue"]
    while token:
        _status, page = await client.call("GET", f"{MAPS}?limit=2&continue={token}")
        found += [one["metadata"]["name"] for one in page["items"]]
        assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        token = page["metadata"].get("continue")
    assert found == ["a", "b", "c", "d", "e"]


async def test_selectors_choose(client: Client) -> None:
    await put_maps(client, "a", "b")
    labelled = {"metadata": {"labels": {"x": "y"}}}
    await client.call("PATCH", f"{MAPS}/b", labelled, media="application/merge-patch+json")
    for query in ("labelSelector=x%3Dy", "fieldSelector=metadata.name%3Db"):
        _status, found = await client.call("GET", f"/api/v1/configmaps?{query}")
        assert [one["metadata"]["name"] for one in found["items"]] == ["b"]


async def test_a_table_has_columns_and_rows(client: Client) -> None:
    await client.call("POST", PODS, pod())
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    _status, made = await client.call("GET", PODS, accept=accept)
    assert made["kind"] == "Table"
    assert [one["name"] for one in made["columnDefinitions"]][:4] == ["Name", "Ready", "Status", "Restarts"]
    assert made["rows"][0]["cells"][:4] == ["p", "0/1", "Pending", "0"]
    assert made["rows"][0]["object"]["kind"] == "PartialObjectMetadata"


async def test_deleting_a_collection_deletes_what_is_selected(client: Client) -> None:
    await put_maps(client, "a", "b")
    await client.call("DELETE", f"{MAPS}?fieldSelector=metadata.name%3Da")
    _status, left = await client.call("GET", MAPS)
    assert [one["metadata"]["name"] for one in left["items"]] == ["b"]


# --- watches ----------------------------------------------------------------------------------------------------------


async def test_a_watch_shows_changes_in_order_from_a_version_on(client: Client) -> None:
    await put_maps(client, "a")
    _status, found = await client.call("GET", MAPS)
    version = found["metadata"]["resourceVersion"]
    await put_maps(client, "b")
    async with client.watch(f"{MAPS}?resourceVersion={version}") as watch:
        await client.call("DELETE", f"{MAPS}/a")
        await put_maps(client, "c")
        assert await watch.names(3) == [("ADDED", "b"), ("DELETED", "a"), ("ADDED", "c")]


async def test_a_watch_without_a_version_starts_with_what_is_there(client: Client) -> None:
    await put_maps(client, "a", "b")
    async with client.watch(MAPS) as watch:
        assert await watch.names(2) == [("ADDED", "a"), ("ADDED", "b")]


async def test_a_selecting_watch_sees_objects_come_and_go(client: Client) -> None:
    await put_maps(client, "a")
    async with client.watch(f"{MAPS}?labelSelector=x%3Dy") as watch:
        for labels in ({"x": "y"}, {"x": "y", "z": "1"}, {"x": None}):
            change = {"metadata": {"labels": labels}}
            await client.call("PATCH", f"{MAPS}/a", change, media="application/merge-patch+json")
        assert await watch.names(3) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


async def test_an_idle_watch_gets_bookmarks_with_the_newest_version(client: Client) -> None:
    async with client.watch(f"{MAPS}?allowWatchBookmarks=true&resourceVersion=1") as watch:
        await client.call("POST", PODS, pod())
        kind, obj = await watch.next()
        assert (kind, obj["kind"]) == ("BOOKMARK", "ConfigMap")
        assert int(obj["metadata"]["resourceVersion"]) >= client.api.store.revision - 1


async def test_a_watch_list_says_where_the_list_ends(client: Client) -> None:
    await put_maps(client, "a")
    query = "sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    async with client.watch(f"{MAPS}?{query}") as watch:
        assert await watch.names(1) == [("ADDED", "a")]
        kind, obj = await watch.next()
        assert kind == "BOOKMARK"
        assert obj["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_a_watch_from_too_long_ago_is_gone(client: Client) -> None:
    """The window of these tests is 20 changes."""
    await put_maps(client, *(f"m{number}" for number in range(25)))
    async with client.watch(f"{MAPS}?resourceVersion=5") as watch:
        kind, said = await watch.next()
        assert (kind, said["code"], said["reason"]) == ("ERROR", 410, "Expired")
        assert await watch.ended()


async def test_a_watch_ends_after_its_time(client: Client) -> None:
    async with client.watch(f"{MAPS}?timeoutSeconds=1&resourceVersion=1") as watch:
        assert await watch.ended()


async def test_a_watch_in_another_version_sees_that_version(client: Client) -> None:
    await client.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition())
    await client.call("POST", "/apis/example.org/v1/namespaces/default/things", thing(size=1))
    async with client.watch("/apis/example.org/v1beta1/things") as watch:
        _kind, obj = await watch.next()
        assert obj["apiVersion"] == "example.org/v1beta1"


async def test_a_watcher_that_leaves_is_forgotten(client: Client) -> None:
    journal = client.api.store.journal("configmaps")
    async with client.watch(f"{MAPS}?resourceVersion=1"):
        await eventually(lambda: journal.watchers, within=5, what="the watch to wait")
    await eventually(lambda: not journal.watchers, within=5, what="the watch to be forgotten")


async def test_a_change_set_reaches_a_watcher_back_to_back(client: Client) -> None:
    items = [config_map("a"), config_map("b"), config_map("c")]
    async with client.watch(f"{MAPS}?resourceVersion=1") as watch:
        status, made = await client.call("POST", "/apis/meshlog.io/v1/changesets", {"kind": "List", "items": items})
        assert status == 200
        seen = [(await watch.next())[1] for _ in range(3)]
    versions = [int(one["metadata"]["resourceVersion"]) for one in seen]
    assert versions == list(range(versions[0], versions[0] + 3))
    assert [one["metadata"]["resourceVersion"] for one in made["items"]] == [str(one) for one in versions]


# --- what else clients do ---------------------------------------------------------------------------------------------


async def test_scale_reads_and_writes_replicas(client: Client) -> None:
    path = "/apis/apps/v1/namespaces/default/deployments"
    await client.call("POST", path, deployment())
    change = {"spec": {"replicas": 4}}
    status, made = await client.call("PATCH", f"{path}/d/scale", change, media="application/merge-patch+json")
    assert (status, made["kind"], made["spec"]["replicas"]) == (200, "Scale", 4)
    assert made["status"]["selector"] == "app=a"
    bad = {"spec": {"replicas": -1}}
    assert (await client.call("PATCH", f"{path}/d/scale", bad, media="application/merge-patch+json"))[0] == 422


async def test_events_of_the_new_api_are_stored_as_core_events(client: Client) -> None:
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "e", "namespace": "default"},
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
        "note": "it happened",
        "reason": "Happened",
        "type": "Normal",
    }
    status, made = await client.call("POST", "/apis/events.k8s.io/v1/namespaces/default/events", event)
    assert (status, made["note"]) == (201, "it happened")
    _status, core = await client.call("GET", "/api/v1/namespaces/default/events/e")
    assert (core["message"], core["involvedObject"]["name"]) == ("it happened", "p")


async def test_a_log_is_streamed_from_who_keeps_it(client: Client) -> None:
    await client.call("POST", PODS, pod())
    assert (await client.call("GET", f"{PODS}/p/log"))[0] == 501

    async def source(namespace: str, name: str, options: PodLogOptions) -> AsyncGenerator[bytes]:
        yield f"{namespace}/{name}/{options.container}/{options.tail_lines}\n".encode()
        yield b"end\n"

    client.api.log_source = source
    status, text = await client.call("GET", f"{PODS}/p/log?tailLines=5")
    assert (status, text) == (200, "default/p/c/5\nend\n")
    assert (await client.call("GET", f"{PODS}/p/log?container=other"))[0] == 400


async def test_options_of_a_log_are_checked_and_moments_passed_on(client: Client) -> None:
    await client.call("POST", PODS, pod())
    asked: list[PodLogOptions] = []

    async def source(_namespace: str, _name: str, options: PodLogOptions) -> AsyncGenerator[bytes]:
        asked.append(options)
        yield b""

    client.api.log_source = source
    since = "sinceTime=2026-01-02T03:04:05%2B01:00"
    assert (await client.call("GET", f"{PODS}/p/log?{since}&timestamps=true&limitBytes=7"))[0] == 200
    assert (asked[0].since, asked[0].timestamps, asked[0].limit_bytes) == (1767319445.0, True, 7)
    before = time.time()
    assert (await client.call("GET", f"{PODS}/p/log?sinceSeconds=60"))[0] == 200
    assert asked[1].since is not None
    assert before - 60 <= asked[1].since <= time.time() - 60
    for query, status, sentence in (
        ("sinceSeconds=0", 422, "sinceSeconds: Invalid value: 0: must be greater than 0"),
        ("limitBytes=0", 422, "limitBytes: Invalid value: 0: must be greater than 0"),
        (f"sinceSeconds=1&{since}", 422, "at most one of `sinceTime` or `sinceSeconds`"),
        ("sinceTime=yesterday", 400, 'invalid value "yesterday" of sinceTime'),
        ("sinceTime=2026-01-02T03:04:05", 400, "of sinceTime"),
    ):
        refused = await client.call("GET", f"{PODS}/p/log?{query}")
        assert (refused[0], sentence in refused[1]["message"]) == (status, True), refused
    assert len(asked) == 2


async def test_openapi_v2_is_there_and_knows_no_type(client: Client) -> None:
    status, document = await client.call("GET", "/openapi/v2")
    assert (status, document["swagger"], document["definitions"]) == (200, "2.0", {})


async def test_discovery_names_every_kind_and_follows_definitions(client: Client) -> None:
    _status, core = await client.call("GET", "/api/v1")
    assert {"pods", "pods/status", "pods/log", "serviceaccounts/token"} <= {one["name"] for one in core["resources"]}
    await client.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition())
    _status, groups = await client.call("GET", "/apis")
    found = {one["name"]: one["preferredVersion"]["version"] for one in groups["groups"]}
    assert found["example.org"] == "v1"
    _status, things = await client.call("GET", "/apis/example.org/v1")
    assert [one["name"] for one in things["resources"]] == ["things", "things/status"]
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
    _status, all_groups = await client.call("GET", "/apis", accept=accept)
    assert all_groups["kind"] == "APIGroupDiscoveryList"
    assert "example.org" in {one["metadata"]["name"] for one in all_groups["items"]}
    _status, index = await client.call("GET", "/openapi/v3")
    _status, document = await client.call("GET", index["paths"]["apis/example.org/v1"]["serverRelativeURL"])
    assert "/apis/example.org/v1/namespaces/{namespace}/things" in document["paths"]


async def test_a_thousand_pods_are_listed_fast() -> None:
    """Each is encoded once, and then only copied: the second list costs little more than sending it."""
    async with serving() as client:
        for number in range(1000):
            await client.api.cluster.create("pods", pod(f"p{number}"))
        await client.call("GET", PODS)
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with client.session.get(
            client.url + PODS, headers={"Authorization": f"Bearer {client.api.accounts.admin_token}"}
        ) as answer:
            raw = await answer.read()
        assert len(raw) > 500_000
        assert loop.time() - started < 1.0
