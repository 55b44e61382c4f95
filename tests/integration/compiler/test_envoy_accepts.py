"""Real Envoy reads every view that the compiler makes of a mesh that has a bit of everything."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToJson
from hypothesis import HealthCheck, given, settings

from cli.offline.static_bootstrap import TlsMaterial, bootstrap, stand_in
from services.compiler.core.offline import compile_events
from shared.projected_objects import ServicePort
from shared.records.events import Event
from shared.records.snapshot import Snapshot
from tests.oracle.meshes import Mesh, meshes
from tests.programs import envoy_binary
from tests.unit.compiler import objects

pytestmark = pytest.mark.envoy


@pytest.fixture(scope="module")
def material() -> TlsMaterial:
    return stand_in("cluster.local")


def everything() -> list[Event]:
    """The bookstore, with a headless service, a split by requests, server-first bytes and long expressions."""
    return [
        *objects.bookstore(),
        objects.service("store", "nodes", ip="None", selector={"app": "store"}, ports=[ServicePort(port=8080)]),
        objects.slices("store", "nodes", {"v1-0": "10.244.2.1", "v2-0": "10.244.2.2"}),
        objects.service(
            "store",
            "store-tcp",
            ip="10.96.1.9",
            selector={"app": "store"},
            ports=[ServicePort(port=25, name="tcp-server-first-x", target_port=2525)],
        ),
        objects.slices("store", "store-tcp", {"v1-0": "10.244.2.1"}, ports={"tcp-server-first-x": 2525}),
        objects.route_group(
            "store",
            "long",
            {
                "name": "a",
                "pathRegex": "/[a-z]{200}",
                "methods": ["GET", "M-SEARCH"],
                "headers": {"host": "a.*", "x-a": "b{150}"},
            },
        ),
        objects.target(
            "store",
            "long",
            destination="store-v1",
            sources=[("buy", "buyer"), ("store", "store-v1")],
            rules=[("HTTPRouteGroup", "long", []), ("TCPRoute", "db", [])],
        ),
        objects.tcp_route("store", "smtp", 2525, 8080),
        objects.target(
            "store", "smtp", destination="store-v1", sources=[("buy", "buyer")], rules=[("TCPRoute", "smtp", [])]
        ),
        objects.split(
            "store", "by-request", root="store-v1", backends={"store-v2": 1, "store-v1": 3}, matches=["routes"]
        ),
        objects.split("store", "bytes", root="store-tcp", backends={"store-tcp": 1}),
    ]


def validate(snapshot: Snapshot, workload_class: str, material: TlsMaterial, directory: Path) -> str:
    path = directory / "bootstrap.json"
    path.write_text(MessageToJson(bootstrap(snapshot, workload_class, material), preserving_proto_field_name=True))
    done = subprocess.run(
        [envoy_binary(), "--mode", "validate", "-c", str(path), "-l", "error", "--use-dynamic-base-id"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize(
    ("permissive", "egress"), [(False, False), (True, True)], ids=["SMI mode", "permissive mode with egress"]
)
def test_envoy_accepts_every_view(permissive: bool, egress: bool, material: TlsMaterial, tmp_path: Path) -> None:  # noqa: FBT001
    snapshot = compile_events([*everything(), objects.mesh_config(permissive=permissive, egress=egress)])
    assert len(snapshot.views) == (3 if permissive else 5), "in permissive mode accounts share views"
    for workload_class in sorted(snapshot.views):
        assert validate(snapshot, workload_class, material, tmp_path) == "", workload_class


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(mesh=meshes())
def test_envoy_accepts_every_view_of_random_meshes(mesh: Mesh, material: TlsMaterial, tmp_path: Path) -> None:
    snapshot = compile_events(mesh.events)
    for workload_class in sorted(snapshot.views):
        assert validate(snapshot, workload_class, material, tmp_path) == "", workload_class
