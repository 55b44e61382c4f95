"""Rows 1 to 18 of the acceptance list of Open Service Mesh, on one mesh, with the refusals that its users expect."""

from __future__ import annotations

import sys

import pytest

from cli.api import ApiRefusedError
from tests.e2e import rows
from tests.e2e.rows import BYTES, Rows, group, opens, ports, split

pytestmark = [pytest.mark.devcluster, pytest.mark.envoy, pytest.mark.nats, pytest.mark.timeout(170)]


def host(name: str) -> str:
    return f"{name}.app.svc.cluster.local"


def pods(answers: set[str]) -> int:
    """How many pods answered; every answer must be one."""
    assert all(answer.startswith("200 ") for answer in answers), answers
    return len(answers)


async def test_rows_1_to_3_and_6_a_client_reaches_what_a_traffic_target_opens(app: Rows) -> None:
    """By name, with and without a Service of its own, every replica, headless too; a wrong path is a 403."""
    assert await app.get("client", host("server")) == {"closed"}
    narrow = group("some", pathRegex="/foo", methods=["GET"])
    targets = [group(), narrow, opens("server", "client"), opens("server", "other", by=("HTTPRouteGroup", "some"))]
    async with app.policy(*targets):
        assert pods(await app.get("client", host("server"), times=30)) == 2
        assert pods(await app.get("client", f"{host('nodes')}:8080")) == 1
        assert pods(await app.get("other", host("server"), "/foo")) == 1
        assert await app.get("other", host("server"), "/anything") == {"403"}
        assert await app.get("plain", host("server"), namespace="far") == {"closed"}
    assert await app.get("client", host("server")) == {"closed"}


async def test_rows_4_and_5_permissive_mode_is_switched_live(app: Rows) -> None:
    """Who has no sidecar stays outside; a TrafficTarget holds when the mode ends."""
    for _ in range(2):
        assert await app.get("client", host("server")) == {"closed"}
        async with app.permissive():
            assert pods(await app.get("client", host("server"))) == 1
            assert pods(await app.get("other", host("server"))) == 1
            assert await app.get("plain", host("server"), namespace="far") == {"closed"}
    async with app.policy(group(), opens("server", "client")):
        async with app.permissive():
            assert pods(await app.get("other", host("server"))) == 1
        assert pods(await app.get("client", host("server"))) == 1
        assert await app.get("other", host("server")) == {"closed"}


async def test_rows_7_and_8_a_traffic_target_of_another_namespace_opens_nothing(app: Rows) -> None:
    """It is refused when it is created, or, where nobody checks, ignored."""
    astray = opens("server", "client", namespace="far")
    async with app.policy(group(), opens("server", "other")):
        try:
            await app.mesh.apply([astray])
        except ApiRefusedError as error:
            assert "namespace" in str(error)  # noqa: PT017 (both outcomes are right; the claim is the next one)
        assert await app.get("client", host("server")) == {"closed"}


async def test_rows_9_to_11_a_split_spreads_over_leaves_that_share_an_account(app: Rows) -> None:
    """HTTP and bytes; leaves are reached directly too; a root that is its own backend is no loop."""
    targets = [group(), ports(), opens("leaf", "client"), opens("leaf", "client", by=BYTES)]
    async with app.policy(*targets):
        async with app.policy(split("leaves", v1=50, v2=50)):
            assert pods(await app.get("client", host("leaves"), times=40)) == 2
            assert pods(await app.get("client", host("v1"))) == 1
            assert set(await app.call("client", *[["tcp", host("leaves"), 9000]] * 5)) == {"hello"}
        async with app.policy(split("leaves", v1=0, v2=100)):
            (only,) = await app.get("client", host("leaves"), times=10)
            assert only.startswith("200 v2-")
        async with app.policy(split("leaves", leaves=50, v1=50)):
            assert pods(await app.get("client", host("leaves"), times=40)) == 2
            assert await app.call("client", ["tcp", host("leaves"), 9000]) == ["hello"]
    async with app.permissive(), app.policy(split("leaves", v1=50, v2=50)):
        assert pods(await app.get("client", host("leaves"), times=40)) == 2


async def test_rows_12_to_15_bytes_server_first_and_grpc(app: Rows) -> None:
    """TCPRoutes open bytes and close them again; a server may speak first; gRPC by requests, and as bytes."""
    calls = [["tcp", host("server"), 9000], ["first", host("mail"), 25], ["grpc", host("rpc-bytes"), 50052]]
    routes = [ports(9000, 2525), opens("server", "client", by=BYTES)]
    async with app.policy(*routes):
        echo, greeting, _ = await app.call("client", *calls)
        assert (echo, greeting[:11]) == ("hello", "220 server-")
        assert await app.call("other", calls[0]) == ["closed"]
    assert await app.call("client", *calls[:2]) == ["closed", "closed"]
    async with app.permissive():
        assert (await app.call("client", calls[1]))[0].startswith("220 server-")
    say = group("say", pathRegex="/test.Echo/Say", methods=["POST"])
    async with app.policy(say, opens("server", "client", by=("HTTPRouteGroup", "say"))):
        assert (await app.call("client", ["grpc", host("rpc"), 50051]))[0].startswith("hello server-")


async def test_rows_16_and_17_several_ports_and_several_services(app: Rows) -> None:
    """Named and remapped ports; where nobody listens is a 503, no other port's answer; two Services over one pod."""
    async with app.policy(group(), opens("server", "client")):
        assert pods(await app.get("client", f"{host('several')}:82")) == 1
        assert await app.get("client", f"{host('several')}:83") == {"503"}
        assert pods(await app.get("client", f"{host('twin')}:81")) == 1
        assert pods(await app.get("client", host("server"))) == 1


async def test_a_pod_calls_itself_through_its_own_service_if_policy_lets_it(app: Rows) -> None:
    async with app.policy(group(), opens("client", "other")):
        assert await app.get("client", host("client")) == {"closed"}
        async with app.policy(opens("client", "client")):
            assert pods(await app.get("client", host("client"))) == 1


async def test_row_18_members_of_a_stateful_set_find_each_other_by_name(app: Rows) -> None:
    """They listen on their own addresses only: local proxy mode PodIP."""
    await app.mesh.apply([rows.config(pod_ip=True), *rows.quorum()])
    await app.available("zk", kind="statefulsets")
    async with app.policy(ports(2888), opens("zk", "zk", by=BYTES)):
        peers = [["tcp", f"zk-{number}.{host('zk')}", 2888] for number in (0, 1)]
        assert await app.call("zk", *peers) == ["hello", "hello"]
        assert await app.call("other", *peers) == ["closed", "closed"]
    await app.mesh.apply([rows.config()])


async def _outlive(app: Rows, changes: int) -> None:
    mail = ports(2525, name="mail")
    targets = [group(), ports(9000), mail, opens("server", "client"), opens("server", "client", by=BYTES)]
    async with app.policy(*targets):
        hold = [sys.executable, "-S", rows.APPS, "hold", host("server"), "80", "9000"]
        held = await app.mesh.start("app", "client", hold)
        assert await held.line(within=10) == "HTTP/1.1 101 Switching Protocols"
        unrelated = [
            [opens("leaf", "client")],  # a chain of the caller's listener comes and goes
            [opens("server", "other", by=("TCPRoute", "mail"))],  # a chain of the server's listener changes
            [opens("client", "other")],  # what the caller itself offers
            [opens("leaf", "client"), split("leaves", v1=1, v2=1)],
        ]
        for index in range(changes // 2):
            change = unrelated[index % len(unrelated)]
            await app.mesh.change(put=change)
            await app.change(drop=change[::-1])
        said = await held.end_input(within=20)
    assert '"broken": ""' in said, said


async def test_connections_outlive_changes_that_do_not_concern_them(app: Rows) -> None:
    """A WebSocket and a connection of bytes, in use, through real Envoys whose listeners change."""
    await _outlive(app, 16)


@pytest.mark.long
async def test_connections_outlive_100_changes_that_do_not_concern_them(app: Rows) -> None:
    await _outlive(app, 100)
