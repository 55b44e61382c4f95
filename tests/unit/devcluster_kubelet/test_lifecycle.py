"""The life of a pod, from binding to burial, as the API shows it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Obj
from shared.service import inotify
from tests.unit.devcluster_kubelet.machine import Node, PlayedProcess, container, node, pod, ready, status_of
from tests.waiting import eventually


async def delete(stage: Node, name: str = "pod", *, grace: int | None = None) -> None:
    await stage.cluster.delete("pods", "default", name, grace_seconds=grace)


async def test_a_pod_is_bound_started_and_ready(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        await stage.run(pod())
        found = await stage.until("ready", ready)
        assert found["spec"]["nodeName"] == "devcluster"
        assert found["status"]["podIP"] == "10.244.0.2"
        assert found["status"]["phase"] == "Running"
        conditions = {each["type"]: each["status"] for each in found["status"]["conditions"]}
        assert conditions == dict.fromkeys(("PodScheduled", "Initialized", "ContainersReady", "Ready"), "True")


async def test_init_containers_run_in_order_and_sidecars_before_the_rest(tmp_path: Path) -> None:
    """A sidecar must have started, by its startup probe, before the next container is started."""
    async with node(tmp_path) as stage:
        answers = iter([1, 1, 0])
        stage.machine.on_execute = lambda process: process.end(next(answers))
        probe = {"exec": {"command": ["ask"]}, "periodSeconds": 1}
        init = [
            container("first"),
            container("proxy", restartPolicy="Always", startupProbe=probe),
            container("second"),
        ]
        await stage.run(pod(initContainers=init))
        first = await stage.until_started("first")
        assert [process.argv[-1] for process in stage.machine.started] == ["first"]
        first.end(0)
        second = await stage.until_started("second")
        assert len(stage.machine.executed) == 3, "the startup probe was asked until it succeeded"
        found = await stage.pod()
        assert found["status"]["phase"] == "Pending"
        second.end(0)
        found = await stage.until("ready", ready)
        assert [process.argv[-1] for process in stage.machine.started] == ["first", "proxy", "second", "main"]
        assert status_of(found, "first")["state"]["terminated"]["reason"] == "Completed"
        assert status_of(found, "proxy")["started"]


async def test_a_hook_after_the_start_holds_up_the_containers_that_come_later(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        hooks: list[PlayedProcess] = []
        stage.machine.on_execute = hooks.append
        proxy = container("proxy", lifecycle={"postStart": {"exec": {"command": ["hold"]}}})
        await stage.run(pod(proxy, container("late")))
        await eventually(lambda: hooks, within=5, what="the hook runs")
        assert [process.argv[-1] for process in stage.machine.started] == ["proxy"]
        hooks[0].end(0)
        await stage.until_started("late")


async def test_a_container_that_cannot_start_holds_up_no_other(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        missing = {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k"}}}
        await stage.run(pod(container("stuck", env=[missing]), container("late")))
        await stage.until_started("late")


async def test_at_deletion_sidecars_end_last_and_the_last_started_first(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        init = [container(name, restartPolicy="Always") for name in ("logger", "proxy")]
        await stage.run(pod(initContainers=init))
        main, proxy, logger = [await stage.until_started(name) for name in ("main", "proxy", "logger")]
        await stage.until("ready", ready)
        main.stubborn = proxy.stubborn = True
        await delete(stage)
        await eventually(lambda: main.signals == [signal.SIGTERM], within=5, what="main is asked to end")
        assert (proxy.signals, logger.signals) == ([], [])
        main.end(0)
        await eventually(lambda: proxy.signals == [signal.SIGTERM], within=5, what="then the proxy")
        assert logger.signals == []
        proxy.end(0)
        await stage.until_gone()
        assert logger.signals[0] == signal.SIGTERM
        assert all(sandbox.removed for sandbox in stage.machine.sandboxes.values())
        assert list((tmp_path / "pods").iterdir()) == []


async def test_who_ignores_sigterm_is_killed_when_the_grace_is_over(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        await stage.run(pod(terminationGracePeriodSeconds=1))
        main = await stage.until_started("main")
        main.stubborn = True
        await stage.until("ready", ready)
        await delete(stage)
        await stage.until_gone()
        assert main.signals == [signal.SIGTERM, signal.SIGKILL]


async def test_a_forced_deletion_kills_at_once(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        await stage.run(pod())
        main = await stage.until_started("main")
        main.stubborn = True
        await delete(stage, grace=0)
        await eventually(lambda: not main.running, within=5, what="the process is gone")
        await eventually(
            lambda: all(sandbox.removed for sandbox in stage.machine.sandboxes.values()),
            within=5,
            what="the sandbox too",
        )
        assert main.signals[0] == signal.SIGKILL


async def test_pre_stop_runs_before_sigterm(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        stage.machine.on_execute = lambda _: None
        await stage.run(pod(container(lifecycle={"preStop": {"exec": {"command": ["drain"]}}})))
        main = await stage.until_started("main")
        await stage.until("ready", ready)
        await delete(stage)
        hook = await eventually(lambda: next(iter(stage.machine.executed), None), within=5, what="the hook runs")
        assert main.signals == []
        hook.end(0)
        await stage.until_gone()
        assert main.signals[0] == signal.SIGTERM


async def test_a_killed_container_is_unready_at_once_and_restarted_at_once(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        await stage.run(pod(container(readinessProbe={"exec": {"command": ["ask"]}, "periodSeconds": 60})))
        main = await stage.until_started("main")
        await stage.until("ready", ready)
        stage.machine.on_execute = lambda process: process.end(1)
        main.end(137)
        found = await stage.until("not ready", lambda found: not ready(found))
        await stage.until_started("main", times=2)
        found = await stage.until("restarted", lambda found: status_of(found, "main")["restartCount"] == 1)
        ended = status_of(found, "main")["lastState"]["terminated"]
        assert (ended["exitCode"], ended["reason"], ended["signal"]) == (137, "Error", 9)


async def test_who_fails_again_and_again_waits_longer_and_longer(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        stage.machine.on_start = lambda process: process.end(1)
        await stage.run(pod())
        found = await stage.until(
            "in back-off",
            lambda found: (
                "waiting" in status_of(found, "main")["state"]
                and found["status"].get("podIP")
                and status_of(found, "main")["restartCount"]
            ),
        )
        assert status_of(found, "main")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        assert len(stage.machine.started) == 2, "the first restart did not wait"


@pytest.mark.parametrize(
    ("policy", "code", "phase"),
    [("Never", 0, "Succeeded"), ("Never", 3, "Failed"), ("OnFailure", 0, "Succeeded")],
)
async def test_a_pod_that_does_not_restart_ends(tmp_path: Path, policy: str, code: int, phase: str) -> None:
    """Its sidecars are ended when the containers have."""
    async with node(tmp_path) as stage:
        init = [container("proxy", restartPolicy="Always")]
        await stage.run(pod(restartPolicy=policy, initContainers=init))
        (await stage.until_started("main")).end(code)
        found = await stage.until(phase, lambda found: found["status"]["phase"] == phase)
        assert stage.machine.running("proxy") == []
        assert not ready(found)
        await delete(stage)
        await stage.until_gone()


async def test_a_failed_init_container_fails_a_pod_that_never_restarts(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        await stage.run(pod(restartPolicy="Never", initContainers=[container("first")]))
        (await stage.until_started("first")).end(2)
        await stage.until("failed", lambda found: found["status"]["phase"] == "Failed")
        assert [process.argv[-1] for process in stage.machine.started] == ["first"]


async def test_a_command_that_does_not_exist_is_named(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        await stage.run(pod(container(command=["missing"])))
        found = await stage.until("told", lambda found: status_of(found, "main")["lastState"])
        ended = status_of(found, "main")["lastState"]["terminated"]
        assert (ended["exitCode"], ended["reason"]) == (127, "StartError")
        assert "missing: No such file" in ended["message"]


async def test_a_container_without_a_command_says_what_to_do(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        spec = container()
        del spec["command"]
        await stage.run(pod(spec))
        found = await stage.until("told", lambda found: _reason(found) == "CreateContainerError")
        assert "does not pull images" in status_of(found, "main")["state"]["waiting"]["message"]


async def test_liveness_restarts_and_readiness_takes_out_of_service(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        probe = {"periodSeconds": 1, "failureThreshold": 1}
        live = probe | {"exec": {"command": ["live"]}}
        able = probe | {"exec": {"command": ["able"]}}
        codes = {"live": 0, "able": 0}
        stage.machine.on_execute = lambda process: process.end(codes[process.argv[0]])
        await stage.run(pod(container(livenessProbe=live, readinessProbe=able)))
        main = await stage.until_started("main")
        await stage.until("ready", ready)
        codes["able"] = 1
        await stage.until("not ready", lambda found: not ready(found))
        assert main.running
        codes["live"] = 1
        await eventually(lambda: not main.running, within=5, what="the container is ended")
        codes |= {"live": 0, "able": 0}
        found = await stage.until("ready again", ready)
        assert "Liveness probe failed" in status_of(found, "main")["lastState"]["terminated"]["message"]


async def test_a_readiness_gate_of_somebody_else_is_waited_for_and_kept(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        await stage.run(pod(readinessGates=[{"conditionType": "meshlog.io/synced"}]))
        found = await stage.until("containers ready", lambda found: _condition(found, "ContainersReady") == "True")
        assert not ready(found)
        gate: Obj = {"type": "meshlog.io/synced", "status": "True"}
        conditions = [*found["status"]["conditions"], gate]
        change: Obj = {"status": {"conditions": conditions}}
        await stage.cluster.patch("pods", "default", "pod", change, subresource="status")
        found = await stage.until("ready", ready)
        assert _condition(found, "meshlog.io/synced") == "True"


async def test_a_namesake_that_follows_at_once_gets_a_life_of_its_own(tmp_path: Path) -> None:
    """As a StatefulSet does it: the same name, another uid."""
    async with node(tmp_path) as stage:
        await stage.run(pod())
        await stage.until("ready", ready)
        await delete(stage)
        await stage.until_gone()
        await stage.run(pod())
        found = await stage.until("ready", ready)
        assert object_fields.uid(found) in stage.machine.sandboxes
        assert len(stage.machine.sandboxes) == 2


async def test_the_status_is_written_only_when_it_changes(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        await stage.run(pod(container(readinessProbe={"exec": {"command": ["ask"]}, "periodSeconds": 1})))
        before = await stage.until("ready", ready)
        asked = len(stage.machine.executed)
        await eventually(lambda: len(stage.machine.executed) >= asked + 2, within=5, what="two more probes")
        assert (await stage.pod())["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


async def test_what_happens_to_a_pod_is_told_as_events(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        stage.machine.on_start = lambda process: process.end(1)
        await stage.run(pod())

        async def told() -> bool:
            events, _ = await stage.cluster.list("events", "default")
            return any(event["reason"] == "BackOff" and event["involvedObject"]["name"] == "pod" for event in events)

        await eventually(told, within=5, what="the back-off is told")


def _reason(found: Obj) -> str:
    return status_of(found, "main")["state"].get("waiting", {}).get("reason", "")


def _condition(found: Obj, kind: str) -> str:
    condition = object_fields.condition(found, kind)
    return condition["status"] if condition else ""


async def test_a_sidecar_that_would_find_no_inotify_instance_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An Envoy without one ends with an assertion that tells nobody what to do."""
    free = [False]
    monkeypatch.setattr(inotify, "room", lambda: free[0])
    async with node(tmp_path) as stage:
        await stage.run(pod(container(command=["envoy"])))
        found = await stage.until("told", lambda found: _reason(found) == "CreateContainerError")
        assert "fs.inotify.max_user_instances" in status_of(found, "main")["state"]["waiting"]["message"]
        assert not stage.machine.started
