"""Containers that could send past the proxy: refused as its user, warned of with what undoes the redirect."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import msgspec
import pytest

from services.injector.core import probes as probing
from services.injector.core.patch import unclaimed, warnings, with_sidecar
from services.injector.core.privileges import check
from shared.errors import BadInputError
from shared.eventlog.memory import MemoryLog
from shared.meshconfig.pods import MeshSpec
from shared.projected_objects import ANNOTATION_INJECTION, ANNOTATION_SIDECAR
from tests.unit.injector.http.test_webhook import asked, namespace, told, webhook, write
from tests.unit.injector.pods import INSTALLATION, pod


def spec(place: str, security: dict[str, Any], pod_security: dict[str, Any] | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"containers": [{"name": "web"}]}
    made[place] = [*made.get(place, []), {"name": "odd", "securityContext": security}]
    return made | ({"securityContext": pod_security} if pod_security else {})


@pytest.mark.parametrize("place", ["containers", "initContainers", "ephemeralContainers"])
def test_no_container_may_run_as_the_proxys_user(place: str) -> None:
    with pytest.raises(BadInputError, match="container odd: runs as user 1500"):
        check(spec(place, {"runAsUser": 1500}), INSTALLATION)
    with pytest.raises(BadInputError, match="runs as user 1500"):
        check(spec(place, {}, {"runAsUser": 1500}), INSTALLATION)
    assert check(spec(place, {"runAsUser": 1501}), INSTALLATION) == []
    assert check(spec(place, {"runAsUser": 0}, {"runAsUser": 7}), INSTALLATION) == []


def test_a_user_of_the_pod_that_every_container_replaces_is_none() -> None:
    made = {"securityContext": {"runAsUser": 1500}, "containers": [{"name": "a", "securityContext": {"runAsUser": 1}}]}
    assert check(made, INSTALLATION) == []


def test_raw_sockets_undo_the_redirect_where_a_mark_tells_the_proxys_packets() -> None:
    raw = spec("containers", {"capabilities": {"add": ["NET_RAW"]}})
    assert check(raw, INSTALLATION) == []
    (warning,) = check(raw, msgspec.structs.replace(INSTALLATION, proxy_mark=7))
    assert "NET_RAW" in warning


@pytest.mark.parametrize(
    ("security", "what"),
    [
        ({"privileged": True}, "all privileges"),
        ({"capabilities": {"add": ["NET_ADMIN"]}}, "NET_ADMIN"),
        ({"capabilities": {"add": ["CAP_NET_ADMIN"]}}, "CAP_NET_ADMIN"),
        ({"capabilities": {"add": ["net_admin", "CHOWN"]}}, "NET_ADMIN"),
        ({"capabilities": {"add": ["ALL"], "drop": ["ALL"]}}, "ALL"),
    ],
)
def test_what_can_undo_the_redirect_is_warned_of_or_refused_by_a_setting(security: dict[str, Any], what: str) -> None:
    (warning,) = check(spec("containers", security), INSTALLATION)
    assert what in warning
    strict = msgspec.structs.replace(INSTALLATION, refuse_net_admin=True)
    with pytest.raises(BadInputError, match=what):
        check(spec("initContainers", security), strict)


@pytest.mark.parametrize("odd", [7, "x", [], {"capabilities": 7}, {"capabilities": {"add": "ALL"}}, {"runAsUser": "x"}])
def test_a_security_context_of_any_shape_is_left_to_the_api_server(odd: Any) -> None:
    assert check({"containers": [{"name": "a", "securityContext": odd}, 7], "securityContext": odd}, INSTALLATION) == []


def test_hooks_of_the_kubelet_and_headers_that_are_not_sent_are_warned_of() -> None:
    made = pod()
    (container,) = made["spec"]["containers"]
    container["lifecycle"] = {"postStart": {"httpGet": {"port": 80}}, "preStop": {"exec": {"command": ["true"]}}}
    container["readinessProbe"]["httpGet"]["httpHeaders"].append({"name": "Upgrade", "value": "x"})
    hook, header = warnings(made, INSTALLATION)
    assert "lifecycle.postStart" in hook
    assert header == "container web: readinessProbe is sent without upgrade"
    assert warnings(with_sidecar(made, INSTALLATION, MeshSpec()), INSTALLATION) == [hook, header]


@pytest.mark.parametrize("seconds", ["x", None, [], True, -1, 1e400, 2**31])
def test_a_kept_probe_of_any_shape_makes_a_bootstrap_with_durations(seconds: Any) -> None:
    """An annotation keeps it, so that no API server has checked it."""
    made = with_sidecar(pod(), INSTALLATION, MeshSpec())
    kept = json.loads(made["metadata"]["annotations"]["sidecar.meshlog.io/probes"])
    for probe in kept["web"].values():
        probe |= {"timeoutSeconds": seconds, "periodSeconds": seconds}
    made["metadata"]["annotations"]["sidecar.meshlog.io/probes"] = json.dumps(kept)
    again = with_sidecar(made, INSTALLATION, MeshSpec())
    (proxy,) = [each for each in again["spec"]["initContainers"] if each["name"] == "envoy"]
    assert "e+" not in proxy["args"][1]
    container = made["spec"]["containers"][0]
    assert probing.restore(container, {"readinessProbe": "x"}) == container


def test_a_claim_to_have_a_sidecar_is_taken_from_a_pod_that_gets_none() -> None:
    claims = pod(**{ANNOTATION_SIDECAR: "mine", "own": "kept"})
    bare = unclaimed(claims)
    assert bare is not None
    assert bare["metadata"]["annotations"] == {"own": "kept"}
    assert bare["spec"] == claims["spec"]
    assert unclaimed(pod()) is None


async def test_the_webhook_refuses_warns_and_takes_claims_away() -> None:
    log = MemoryLog()
    await write(log, "Namespace", "", "shop", namespace())
    hook, known = webhook(log)
    task = asyncio.create_task(known.run())
    refused = pod()
    refused["spec"]["securityContext"] = {"runAsUser": 1500}
    answer = await told(hook, asked(refused))
    assert not answer["allowed"]
    assert "runs as user 1500" in answer["status"]["message"]
    warned = pod()
    warned["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    answer = await told(hook, asked(warned))
    assert answer["allowed"]
    assert "all privileges" in answer["warnings"][0]
    claims = pod(**{ANNOTATION_SIDECAR: "mine", ANNOTATION_INJECTION: "disabled"})
    (operation,) = json.loads(base64.b64decode((await told(hook, asked(claims)))["patch"]))
    assert operation == {
        "op": "replace",
        "path": "/metadata/annotations",
        "value": {ANNOTATION_INJECTION: "disabled"},
    }
    running = pod(**{ANNOTATION_SIDECAR: "0.1.0"})
    running["spec"]["ephemeralContainers"] = [{"name": "debug", "securityContext": {"runAsUser": 1500}}]
    joined = asked(running, operation="UPDATE", subResource="ephemeralcontainers")
    assert not (await told(hook, joined))["allowed"]
    running["spec"]["ephemeralContainers"][0]["securityContext"]["runAsUser"] = 0
    joined = asked(running, operation="UPDATE", subResource="ephemeralcontainers")
    assert (await told(hook, joined))["allowed"]
    task.cancel()


@pytest.mark.parametrize("number", [15000, 15001, 15003, 15901, 15902, 15903])
@pytest.mark.parametrize("place", ["containers", "initContainers"])
def test_no_container_may_have_a_port_where_the_proxy_listens(place: str, number: int) -> None:
    made = pod()
    made["spec"][place][0]["ports"] = [{"containerPort": number, "protocol": "TCP"}]
    with pytest.raises(BadInputError, match=f"has port {number}, where its proxy listens"):
        with_sidecar(made, INSTALLATION, MeshSpec())


def test_ports_that_are_kept_for_the_proxy_are_warned_of_and_all_others_are_free() -> None:
    """UDP is not redirected, and nothing of the proxy listens to it."""
    made = pod()
    made["spec"]["containers"][0]["ports"] = [
        {"containerPort": 15010, "name": "a"},
        {"containerPort": 15011, "name": "b"},
        {"containerPort": 15001, "name": "c", "protocol": "UDP"},
    ]
    del made["spec"]["containers"][0]["readinessProbe"]
    with_sidecar(made, INSTALLATION, MeshSpec())
    (told,) = warnings(made, INSTALLATION)
    assert "port 15010 is kept for the proxy (15000 to 15010 and 15900 to 15999)" in told
