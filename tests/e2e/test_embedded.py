"""`meshlog up` and what a person then does: kubectl, bad input, a second `up`, a crash, `down`."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.arrival.attached_mesh import attached
from cli.kubernetes.manifest_files import read_manifests
from shared.records.subjects import Streams
from tests.e2e.command import Command, mentioning

pytestmark = [pytest.mark.devcluster, pytest.mark.nats]

REFUSED = """
apiVersion: split.smi-spec.io/v1alpha2
kind: TrafficSplit
metadata: {name: x, namespace: default}
spec: {service: 7, backends: nothing}
"""
TRACED = """
apiVersion: v1
kind: Namespace
metadata:
  name: traced
  labels: {openservicemesh.io/monitored-by: meshlog}
  annotations: {openservicemesh.io/sidecar-injection: enabled}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: server, namespace: traced}
spec:
  replicas: 1
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec: {containers: [{name: main, image: any, command: [sleep, infinity], ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: traced}
spec: {selector: {app: server}, ports: [{port: 80, appProtocol: http}]}
"""
POLICY = """
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {name: all, namespace: traced}
spec: {matches: [{name: all, pathRegex: "/.*", methods: ["*"]}]}
---
apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata: {name: anybody, namespace: traced}
spec:
  destination: {kind: ServiceAccount, name: default, namespace: traced}
  sources: [{kind: ServiceAccount, name: default, namespace: traced}]
  rules: [{kind: HTTPRouteGroup, name: all}]
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """One embedded mesh for the tests of this module."""
    command = Command(tmp_path_factory.mktemp("e2e") / "state")
    started = command("up", "--edges", "1")
    assert started.returncode == 0, started.stderr
    yield command
    ended = command("down")
    assert (ended.returncode, mentioning(str(command.state))) == (0, []), ended.stderr


def test_up_prints_the_kubeconfig_and_status_finds_it(mesh: Command) -> None:
    assert mesh("status", "-o", "kubeconfig").stdout.strip() == str(mesh.state / "kubeconfig")
    state = json.loads(mesh("status", "-o", "json").stdout)
    assert state["running"] is True
    assert (mesh.state / "kubeconfig").stat().st_mode & 0o777 == 0o600


def test_a_second_up_is_refused_in_one_sentence(mesh: Command) -> None:
    second = mesh("up")
    assert second.returncode == 2
    assert "a mesh runs already" in second.stderr
    assert len(second.stderr.strip().splitlines()) == 1


def test_a_port_in_use_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = Command(tmp_path / "state")
        refused = command("up", "--api-port", str(taken.getsockname()[1]))
    assert refused.returncode == 2
    assert "is in use by another program" in refused.stderr
    assert mentioning(str(command.state)) == []


def test_yaml_that_does_not_parse_exits_2_with_its_line(mesh: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: 1\n\tb: 2\n")
    refused = mesh("apply", "-f", str(tmp_path / "bad.yaml"))
    assert refused.returncode == 2
    assert "line 2" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_object_that_the_schema_refuses_exits_2_with_the_field(mesh: Command, tmp_path: Path) -> None:
    (tmp_path / "refused.yaml").write_text(REFUSED)
    refused = mesh("apply", "-f", str(tmp_path / "refused.yaml"))
    assert refused.returncode == 2
    assert "spec.service" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_pod_that_is_not_there_exits_2(mesh: Command) -> None:
    assert mesh("exec", "default/none", "--", "true").returncode == 2
    assert mesh("logs", "default/none").returncode == 2


def test_the_name_of_a_workload_will_do_for_a_command_in_one_of_its_pods(mesh: Command) -> None:
    by_workload = mesh("exec", "meshlog-system/meshlog-compiler", "--", "hostname")
    assert by_workload.stdout.startswith("meshlog-compiler-"), by_workload.stderr
    assert f"in meshlog-system/{by_workload.stdout.strip()}" in by_workload.stderr


def test_a_command_in_a_pod_gives_its_output_and_its_exit_code(mesh: Command) -> None:
    listing = mesh.run(["kubectl", "get", "pods", "-n", "meshlog-system", "-o", "name"]) if _kubectl() else None
    if listing is None:
        pytest.skip("kubectl is not on this machine")
    pod = next(line for line in listing.stdout.splitlines() if "compiler" in line).removeprefix("pod/")
    done = mesh("exec", f"meshlog-system/{pod}", "--", "sh", "-c", "hostname; exit 7")
    assert (done.stdout.strip(), done.returncode) == (pod, 7)
    assert '"service":"compiler"' in mesh("logs", f"meshlog-system/{pod}").stdout


@pytest.mark.envoy
def test_a_change_and_its_acknowledgement_are_one_trace(mesh: Command, tmp_path: Path) -> None:
    (tmp_path / "traced.yaml").write_text(TRACED)
    assert mesh("apply", "-f", str(tmp_path / "traced.yaml")).returncode == 0
    (tmp_path / "policy.yaml").write_text(POLICY)

    async def trace_ids() -> tuple[str, str]:
        async with attached() as handle:
            path = "/apis/apps/v1/namespaces/traced/deployments/server"
            await handle.api.wait(path, lambda one: "availableReplicas" in one["status"], within=30, what="no server")
            arrival = await handle.change(put=read_manifests(tmp_path / "policy.yaml"))
            assert arrival.rollout.concerned == 1
            streams = Streams()
            change = await handle.record(streams.event_subject("devcluster", "TrafficTarget", "traced", "anybody"))
            (key,) = handle.tracker.snapshot.proxies
            acknowledged = await handle.record(streams.status_subject(*key.split("/")))
            return change.headers["traceparent"].split("-")[1], acknowledged.headers["traceparent"].split("-")[1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MESHLOG_STATE", str(mesh.state))
        changed, acknowledged = asyncio.run(trace_ids())
    assert changed == acknowledged


def test_no_mesh_is_said_in_one_sentence(tmp_path: Path) -> None:
    command = Command(tmp_path / "none")
    for verb in (["status"], ["apply", "-f", "x.yaml"], ["exec", "a/b", "--", "true"]):
        refused = command(*verb)
        assert refused.returncode == 2, verb
        assert "Traceback" not in refused.stderr
    assert command("down").returncode == 0


@pytest.mark.parametrize("victim", ["deploy.devcluster.launch.launcher", "nats-server", "-m deploy.devcluster "])
def test_after_kill_9_of_any_part_down_leaves_nothing(tmp_path: Path, victim: str) -> None:
    command = Command(tmp_path / "state")
    started = command("up", "--edges", "1")
    assert started.returncode == 0, started.stderr
    inside = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and _of(entry, victim, command.state)]
    assert inside
    os.kill(int(inside[0].name), signal.SIGKILL)
    assert command("down").returncode == 0
    assert mentioning(str(command.state)) == []


def _of(entry: Path, victim: str, state: Path) -> bool:
    """Whether a process is that part of the mesh of this state directory, by its ancestors' command lines."""
    try:
        line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        if victim not in line:
            return False
        while str(state) not in line and entry.name != "1":
            entry = Path("/proc") / (entry / "stat").read_text().rpartition(")")[2].split()[1]
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return False
    return str(state) in line


def _kubectl() -> bool:
    return shutil.which("kubectl") is not None
