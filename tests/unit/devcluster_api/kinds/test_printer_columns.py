"""What `kubectl get` prints."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.devcluster.apiserver.kinds.custom import json_path
from deploy.devcluster.apiserver.kinds.printer_columns import BUILT_IN, duration
from deploy.devcluster.cluster_api import Obj
from tests.unit.devcluster_api.objects import pod

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (5, "5s"), (119, "119s"), (120, "2m"), (301, "5m1s"), (3600, "60m"), (4 * 3600, "4h"),
     (5 * 3600 + 60, "5h1m"), (30 * 3600, "30h"), (3 * 86400, "3d"), (3 * 86400 + 7200, "3d2h"), (400 * 86400, "400d"),
     (800 * 86400, "2y")],
)  # fmt: skip
def test_ages_are_spelt_as_kubectl_spells_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def cells(obj: Obj) -> dict[str, Any]:
    return {column.name: column.cell(obj, NOW) for column in BUILT_IN["pods"]}


def state(**fields: Any) -> dict[str, Any]:
    return {"name": "c", "ready": False, "restartCount": 0, "state": fields}


SIDECAR = {"name": "envoy", "image": "e", "restartPolicy": "Always"}


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        ({}, "Pending"),
        ({"phase": "Running", "containerStatuses": [state(running={})]}, "Running"),
        ({"containerStatuses": [state(waiting={"reason": "CrashLoopBackOff"})]}, "CrashLoopBackOff"),
        ({"phase": "Failed", "containerStatuses": [state(terminated={"exitCode": 3})]}, "ExitCode:3"),
        ({"initContainerStatuses": [{**state(waiting={"reason": "PodInitializing"}), "name": "envoy"}]}, "Init:0/1"),
        ({"initContainerStatuses": [{**state(terminated={"exitCode": 1, "reason": "Error"}), "name": "envoy"}]},
         "Init:Error"),
        ({"phase": "Running", "initContainerStatuses": [{**state(running={}), "name": "envoy", "started": True}]},
         "Running"),
    ],
)  # fmt: skip
def test_a_pods_status_is_what_stops_it(status: dict[str, Any], shown: str) -> None:
    obj = {**pod(initContainers=[SIDECAR]), "status": status}
    assert cells(obj)["Status"] == shown


def test_a_sidecar_counts_as_a_container() -> None:
    statuses = {
        "containerStatuses": [{"name": "c", "ready": True, "restartCount": 2}],
        "initContainerStatuses": [{"name": "envoy", "ready": True, "restartCount": 0}],
    }
    obj = {**pod(initContainers=[SIDECAR]), "status": statuses}
    assert (cells(obj)["Ready"], cells(obj)["Restarts"]) == ("2/2", "2")


def test_a_pod_that_is_going_says_so() -> None:
    obj = pod()
    obj["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    assert cells(obj)["Status"] == "Terminating"


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".a.b", [1]), (".l[*].n", ["x", "y"]), (".l[1].n", ["y"]), (".l[9].n", []), (".missing.b", []),
        ("['a'].b", [1]), ('.l[?(@.n=="y")].v', [5]), (".m['k/x']", ["z"]),
    ],
)  # fmt: skip
def test_json_paths_of_printed_columns(path: str, found: list[Any]) -> None:
    obj = {"a": {"b": 1}, "l": [{"n": "x"}, {"n": "y", "v": 5}], "m": {"k/x": "z"}}
    assert json_path(obj, path) == found
