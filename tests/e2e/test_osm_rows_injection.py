"""Rows 22, 23, 28 to 30 and 35 of Open Service Mesh's acceptance list, and the order in which a pod starts.

What the injector makes of a pod is tried by what the pod can then do: real Envoys, real redirects, a kubelet that
probes. Row 31 needs a mesh that was installed: `tests/integration/install/test_lifecycle.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.e2e import rows
from tests.e2e.command import Command
from tests.e2e.injected import (
    WITHIN,
    conditions,
    configured,
    container,
    gone,
    part,
    placed,
    planned,
    pod,
    ready,
    state,
    warnings,
)
from tests.e2e.rows import BYTES, Rows, group, opens, ports
from tests.waiting import eventually

pytestmark = [pytest.mark.devcluster, pytest.mark.envoy, pytest.mark.nats, pytest.mark.timeout(170)]

SERVER = "server.app.svc.cluster.local"
PORTS: list[dict[str, Any]] = [{"port": 80, "name": "http"}, {"port": 9000, "name": "tcp"}]
FAR: list[dict[str, Any]] = [
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "far"},
        "spec": {
            "selector": {"app": "outside"},
            "ports": [{"port": 80, "name": "http"}, {"port": 9000, "name": "tcp"}],
        },
    }
    for name in ("outside", "beyond")
]


@pytest.fixture
async def far(app: Rows) -> AsyncGenerator[dict[str, str]]:
    """Two Services over a server without a sidecar, outside of the mesh: name → address."""
    outside = pod("outside", container("http:80 tcp:9000"), namespace="far", account="default")
    async with placed(app, outside, *FAR):
        await app.mesh.api.wait("/api/v1/namespaces/far/pods/outside", ready, within=WITHIN, what="outside is ready")
        found = {}
        for one in FAR:
            name = one["metadata"]["name"]
            found[name] = (await app.mesh.api.get(f"/api/v1/namespaces/far/services/{name}"))["spec"]["clusterIP"]
        yield found


async def _answers(app: Rows, who: str, addresses: dict[str, str], *, namespace: str = "app") -> list[str]:
    """HTTP to both Services, then bytes to both: `200` and `hello`, or what the sidecar did to it."""
    calls = [["http", f"http://{ip}/"] for ip in addresses.values()]
    calls += [["tcp", ip, 9000] for ip in addresses.values()]
    words = [answer.split()[0] for answer in await app.call(who, *calls, namespace=namespace)]
    return ["cut" if word in {"closed", "reset"} else word for word in words]


async def test_rows_22_and_23_what_the_mesh_config_excludes_passes_the_proxy_by(app: Rows, far: dict[str, str]) -> None:
    """An address, or a port of any address; who was created before keeps what it had."""
    traffic = {"outboundIPRangeExclusionList": [f"{far['outside']}/32"], "outboundPortExclusionList": [9000]}
    assert await _answers(app, "client", far) == ["403", "403", "cut", "cut"]
    config = rows.config(traffic=traffic)
    async with configured(app, config, rows.config(), shows=far["outside"]), placed(app, pod("spared")):
        await state(app, "spared", ready, what="is ready")
        assert await _answers(app, "spared", far) == ["200", "403", "hello", "hello"]
        assert await _answers(app, "client", far) == ["403", "403", "cut", "cut"]


async def test_row_23_what_a_pods_annotations_exclude_or_include_is_its_own_business(
    app: Rows, far: dict[str, str]
) -> None:
    by_port = pod("by-port", annotations={"outbound-port-exclusion-list": "9000, 9001"})
    by_range = pod("by-range", annotations={"outbound-ip-range-exclusion-list": f"{far['beyond']}/32,192.0.2.0/24"})
    cluster_ip = (await app.mesh.api.get("/api/v1/namespaces/app/services/server"))["spec"]["clusterIP"]
    only = pod(
        "only",
        container("http:8080 http:8081"),
        annotations={"outbound-ip-range-inclusion-list": f"{cluster_ip}/32", "inbound-port-exclusion-list": "8081"},
    )
    async with placed(app, by_port, by_range, only):
        for name in ("by-port", "by-range", "only"):
            await state(app, name, ready, what="is ready")
        assert await _answers(app, "by-port", far) == ["403", "403", "hello", "hello"]
        assert await _answers(app, "by-range", far) == ["403", "200", "cut", "hello"]
        # Only what is included goes through the proxy, which lets nothing pass here; the rest never meets it.
        assert await _answers(app, "only", far) == ["200", "200", "hello", "hello"]
        assert await app.get("only", SERVER) == {"403"}
        # Who has no sidecar reaches the excluded port, and no other.
        ip = (await app.mesh.pod("app", "only"))["status"]["podIP"]
        assert await app.get("plain", f"{ip}:8081", namespace="far") == {"200 only"}
        assert await app.get("plain", f"{ip}:8080", namespace="far") == {"reset"}


async def test_an_excluded_interface_is_left_alone_in_both_directions(app: Rows, far: dict[str, str]) -> None:
    config = rows.config(traffic={"networkInterfaceExclusionList": ["eth0"]})
    wired = pod("wired", container("http:8080"))
    async with configured(app, config, rows.config(), shows="--exclude-interfaces"), placed(app, wired):
        await state(app, "wired", ready, what="is ready")
        assert await _answers(app, "wired", far) == ["200", "200", "hello", "hello"]
        ip = (await app.mesh.pod("app", "wired"))["status"]["podIP"]
        assert await app.get("plain", f"{ip}:8080", namespace="far") == {"200 wired"}


def _every(**action: Any) -> dict[str, Any]:
    return {**action, "periodSeconds": 1}


async def test_row_28_probes_of_every_kind_find_the_application_behind_its_proxy(app: Rows) -> None:
    """HTTP, HTTPS, TCP, gRPC and exec, two containers, named ports, an answer that takes longer than a second."""
    first = container(
        "http:8080 https:8443",
        ports=[{"containerPort": 8080, "name": "web"}],
        startupProbe=_every(httpGet={"path": "/up", "port": 8443, "scheme": "HTTPS"}),
        readinessProbe=_every(httpGet={"path": "/ready?now=1", "port": "web"}),
        livenessProbe=_every(exec={"command": ["true"]}),
    )
    second = container(
        "tcp:9000 grpc:50051",
        name="second",
        startupProbe=_every(tcpSocket={"port": 9000}),
        readinessProbe=_every(grpc={"port": 50051}),
        livenessProbe=_every(tcpSocket={"port": 9000}),
    )
    patient = container("late:8090", readinessProbe=_every(httpGet={"port": 8090}, timeoutSeconds=4))
    async with placed(app, pod("mixed", first, second), pod("patient", patient)):
        made = await state(app, "mixed", ready, what="is ready")
        for name in ("main", "second"):
            assert part(made, name)["readinessProbe"]["httpGet"]["port"] == 15902, "it goes through the proxy"
        assert part(made, "main")["livenessProbe"]["exec"] == {"command": ["true"]}
        await state(app, "patient", ready, what="is ready")
        assert all(one["restartCount"] == 0 for one in made["status"]["containerStatuses"])


async def test_row_28_a_probe_that_the_application_does_not_answer_fails(app: Rows) -> None:
    """A wrong TCP port keeps a pod from being ready, a wrong gRPC port restarts it, and a timeout is the author's."""
    deaf = pod("deaf", container("tcp:9000", readinessProbe=_every(tcpSocket={"port": 9009})))
    hasty = pod("hasty", container("late:8090", readinessProbe=_every(httpGet={"port": 8090}, timeoutSeconds=1)))
    dying = pod("dying", container("tcp:9000", livenessProbe=_every(grpc={"port": 50051}, failureThreshold=2)))
    async with placed(app, deaf, hasty, dying):

        async def refused(name: str) -> bool:
            return any("Unhealthy" in one for one in await warnings(app, name))

        def restarted(one: dict[str, Any]) -> bool:
            statuses = {each["name"]: each["restartCount"] for each in one["status"].get("containerStatuses", [])}
            return statuses.get("main", 0) > 0

        for name in ("deaf", "hasty"):
            await eventually(lambda name=name: refused(name), within=WITHIN, what=f"a probe of {name} fails")
            now = await state(app, name, lambda one: one["status"]["phase"] == "Running", what="runs")
            assert conditions(now)["Ready"] == "False"
        await state(app, "dying", restarted, what="is restarted")


async def test_row_29_an_ignored_namespace_is_refused_as_a_member_and_gets_no_sidecar(
    app: Rows, rows_mesh: Command
) -> None:
    ignored: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "ignored", "labels": {"openservicemesh.io/ignore": "true"}},
    }
    async with placed(app, ignored):
        refused = rows_mesh("namespace", "add", "ignored")
        assert refused.returncode == 2
        assert "openservicemesh.io/ignore" in refused.stderr
        assert "Traceback" not in refused.stderr
        # Even labelled by hand, and with a pod that insists.
        ignored["metadata"]["labels"]["openservicemesh.io/monitored-by"] = "meshlog"
        await app.mesh.apply([ignored])
        account = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "client", "namespace": "ignored"},
        }
        await app.mesh.apply([account])
        insists = pod("insists", annotations={"sidecar-injection": "enabled"}, namespace="ignored")
        assert [one["name"] for one in (await planned(app, insists))["spec"]["containers"]] == ["main"]
        assert "initContainers" not in (await planned(app, insists))["spec"]


async def test_row_30_resources_of_the_proxy_come_from_the_mesh_config_and_concern_new_pods(app: Rows) -> None:
    limits = {"limits": {"cpu": "2", "memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "64Mi"}}
    assert not part(await planned(app, pod("probe")), "envoy").get("resources")
    config = rows.config(sidecar={"resources": limits, "logLevel": "warning"})
    async with configured(app, config, rows.config(), shows="256Mi"):
        made = await planned(app, pod("probe"))
        assert part(made, "envoy")["resources"] == limits
        assert "warning" in part(made, "envoy")["args"]
        assert not part(await app.mesh.pod("app", "client"), "envoy").get("resources")
    assert not part(await planned(app, pod("probe")), "envoy").get("resources")


async def test_row_35_a_pod_has_no_secret_of_its_own_and_leaves_nothing_behind(app: Rows, rows_mesh: Command) -> None:
    """Where Open Service Mesh had a bootstrap Secret to collect, there is none to begin with."""
    async with placed(app, pod("passing")):
        await state(app, "passing", ready, what="is ready")
        assert (await app.mesh.api.get("/api/v1/namespaces/app/secrets"))["items"] == []
        assert "passing" in rows_mesh("proxies").stdout
    configs = (await app.mesh.api.get("/api/v1/namespaces/app/configmaps"))["items"]
    assert {one["metadata"]["name"] for one in configs} <= {"kube-root-ca.crt", "meshlog-trust-bundle"}

    async def forgotten() -> bool:
        return "passing" not in rows_mesh("proxies").stdout

    await eventually(forgotten, within=WITHIN, what="the pod is no proxy any more")


def _calls_or_fails(url: str) -> list[str]:
    """One call, no second try; the exit code tells."""
    program = (
        f"import sys, urllib.request; sys.stdout.write(urllib.request.urlopen({url!r}, timeout=5).read().decode())"
    )
    return [sys.executable, "-S", "-c", program]


async def test_init_containers_and_the_application_find_the_mesh_ready_at_their_first_call(app: Rows) -> None:
    """The redirect first, then the proxy, then the pod's own init containers, then the application; one try each."""
    call = {"image": "any", "command": _calls_or_fails(f"http://{SERVER}/")}
    async with app.policy(group(), opens("server", "client")):
        job = pod(
            "job",
            {"name": "main", **call},
            initContainers=[{"name": "migrate", **call}],
            restartPolicy="Never",
        )
        async with placed(app, job):
            ended = await state(
                app, "job", lambda one: one.get("status", {}).get("phase") in ("Succeeded", "Failed"), what="ends"
            )
            # The proxy does not keep a pod alive whose application has done its work.
            assert ended["status"]["phase"] == "Succeeded", json.dumps(ended["status"])
            order = [one["name"] for one in ended["spec"]["initContainers"]]
            assert order == ["meshlog-init", "envoy", "migrate"]


@pytest.mark.long
async def test_a_member_of_a_stateful_set_comes_back_under_its_name_with_another_address(app: Rows) -> None:
    keep: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "keep", "namespace": "app"}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "keep", "namespace": "app"},
            "spec": {"clusterIP": "None", "selector": {"app": "keep"}, "ports": [{"port": 9000, "name": "tcp-keep"}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "keep", "namespace": "app"},
            "spec": {
                "replicas": 2,
                "serviceName": "keep",
                "selector": {"matchLabels": {"app": "keep"}},
                "template": {
                    "metadata": {"labels": {"app": "keep"}},
                    "spec": pod("keep", container("tcp:9000"), account="keep")["spec"],
                },
            },
        },
    ]
    calls = [["tcp", f"keep-{number}.keep.app.svc.cluster.local", 9000] for number in (0, 1)]
    async with app.policy(ports(9000), opens("keep", "client", by=BYTES)), placed(app, *keep):
        await app.available("keep", kind="statefulsets")

        async def reached() -> bool:
            return await app.call("client", *calls) == ["hello", "hello"]

        await eventually(reached, within=WITHIN, what="both members answer by name")
        path = "/api/v1/namespaces/app/pods/keep-0"
        before = await app.mesh.api.get(path)
        await app.mesh.api.request("DELETE", path)

        def anew(one: dict[str, Any]) -> bool:
            return one["metadata"]["uid"] != before["metadata"]["uid"] and ready(one)

        after = await state(app, "keep-0", anew, what="comes back")
        assert after["status"]["podIP"] != before["status"]["podIP"]
        await eventually(reached, within=WITHIN, what="both answer again")
    await gone(app, path)
