"""Rows 1 to 18 of the acceptance list of Open Service Mesh, on one mesh, with the refusals that its users expect."""

from __future__ import annotations

import sys

import pytest

from shared.errors import BadInputError
from tests.e2e import rows
from tests.e2e.rows import ALL, BYTES, Rows, group, opens, ports, split

pytestmark = [pytest.mark.devcluster, pytest.mark.envoy, pytest.mark.nats, pytest.mark.timeout(170)]


def host(name: str) -> str:
    return f"{name}.app.svc.cluster.local"


def pods(answers: set[str]) -> int:
    """How many pods answered; every answer must be one."""
    assert all(answer.startswith("200 ") for answer in answers), answers
    return len(answers)


CUT = {"closed", "reset"}
"""What a connection of bytes looks like that a sidecar ends: which of the two depends on what was on its way."""


async def test_rows_1_to_3_and_6_a_client_reaches_what_a_traffic_target_opens(app: Rows) -> None:
    """By name, with and without a Service of its own, every replica, headless too; a wrong path is a 403."""
    assert await app.get("client", host("server")) == {"403"}
    narrow = group("some", pathRegex="/foo", methods=["GET"])
    targets = [group(), narrow, opens("server", "client"), opens("server", "other", by=("HTTPRouteGroup", "some"))]
    async with app.policy(*targets):
        assert pods(await app.get("client", host("server"), times=30)) == 2
        (each,) = await app.call("client", ["each", host("nodes"), 8080])
        assert len({name for name in each.split() if name.startswith("server-")}) == 2, each
        assert pods(await app.get("other", host("server"), "/foo")) == 1
        assert await app.get("other", host("server"), "/anything") == {"403"}
        assert await app.get("other", host("leaves")) == {"403"}, "a service that nobody opened to it"
        assert await app.get("plain", host("server"), namespace="far") == {"reset"}
    assert await app.get("client", host("server")) == {"403"}


async def test_rows_4_and_5_permissive_mode_is_switched_live(app: Rows) -> None:
    """Who has no sidecar stays outside; a TrafficTarget holds when the mode ends."""
    for _ in range(2):
        assert await app.get("client", host("server")) == {"403"}
        async with app.permissive():
            assert pods(await app.get("client", host("server"))) == 1
            assert pods(await app.get("other", host("server"))) == 1
            assert await app.get("plain", host("server"), namespace="far") == {"reset"}
    async with app.policy(group(), opens("server", "client")):
        async with app.permissive():
            assert pods(await app.get("other", host("server"))) == 1
        assert pods(await app.get("client", host("server"))) == 1
        assert await app.get("other", host("server")) == {"403"}
    assert await app.get("client", host("server")) == {"403"}


async def test_rows_7_and_8_a_traffic_target_of_another_namespace_opens_nothing(app: Rows) -> None:
    """In a namespace of the mesh it is refused when it is created; elsewhere nobody checks, and nobody obeys."""
    async with app.policy(group(), opens("server", "other")):
        with pytest.raises(BadInputError, match="move it to namespace app"):
            await app.mesh.apply([opens("server", "client", namespace="near")])
        elsewhere = [group(namespace="far"), opens("server", "client", namespace="far")]
        await app.mesh.apply(elsewhere)
        assert await app.get("client", host("server")) == {"403"}
        assert pods(await app.get("other", host("server"))) == 1
        for manifest in elsewhere:
            await app.mesh.api.delete(manifest)


async def test_row_9_a_split_spreads_over_leaves_of_different_accounts(app: Rows) -> None:
    """For every client, HTTP and bytes, in both modes; each leaf is reached directly too."""
    leaves = [opens(account, "client", "other", by=by) for account in ("leaf", "leaf3") for by in (ALL, BYTES)]
    spread = split("leaves", v1=34, v2=33, v3=33)
    async with app.policy(group(), ports(), *leaves, spread):
        for who in ("client", "other"):
            assert pods(await app.get(who, host("leaves"), times=60)) == 3
            greeted = set(await app.call(who, *[["first", host("leaves"), 9000]] * 60))
            assert {greeting[:7] for greeting in greeted} == {"220 v1-", "220 v2-", "220 v3-"}
        for leaf in ("v1", "v2", "v3"):
            (only,) = await app.get("client", host(leaf), times=5)
            assert only.startswith(f"200 {leaf}-")
        assert await app.get("client", host("server")) == {"403"}
    async with app.permissive(), app.policy(spread):
        assert pods(await app.get("other", host("leaves"), times=60)) == 3
    assert await app.get("client", host("leaves")) == {"403"}


async def test_row_10_a_split_spreads_over_leaves_that_share_an_account(app: Rows) -> None:
    async with app.policy(group(), opens("leaf", "client")):
        async with app.policy(split("leaves", v1=50, v2=50)):
            assert pods(await app.get("client", host("leaves"), times=40)) == 2
        async with app.policy(split("leaves", v1=0, v2=100)):
            (only,) = await app.get("client", host("leaves"), times=10)
            assert only.startswith("200 v2-")
        async with app.policy(split("leaves", v1=0, v2=0)):
            assert await app.get("client", host("leaves")) == {"503"}, "nobody gets a share"


async def test_row_11_a_root_that_is_its_own_backend_is_no_loop(app: Rows) -> None:
    """As the only backend, and beside another; HTTP and bytes."""
    async with app.policy(group(), ports(), opens("leaf", "client"), opens("leaf", "client", by=BYTES)):
        for weights in ({"leaves": 50, "v1": 50}, {"leaves": 100}):
            await app.change(put=[split("leaves", **weights)])
            answers = await app.get("client", host("leaves"), times=60)
            assert {answer[:6] for answer in answers if answer.startswith("200")} == {"200 v1", "200 v2"}
            greeted = await app.call("client", *[["first", host("leaves"), 9000]] * 60)
            assert {one[:6] for one in greeted if one.startswith("220")} == {"220 v1", "220 v2"}
        await app.mesh.api.delete(split("leaves"))  # which changes nothing any more


async def test_rows_12_and_13_bytes_and_servers_that_speak_first(app: Rows) -> None:
    """TCPRoutes open bytes and close them again, as permissive mode does."""
    echo, mail = ["tcp", host("server"), 9000], ["first", host("mail"), 25]
    async with app.policy(ports(9000, 2525), opens("server", "client", by=BYTES)):
        echoed, greeting = await app.call("client", echo, mail)
        assert (echoed, greeting[:11]) == ("hello", "220 server-")
        assert set(await app.call("other", echo, mail)) <= CUT
    assert set(await app.call("client", echo, mail)) <= CUT
    async with app.policy(ports(9000), opens("server", "client", by=BYTES)):
        echoed, greeting = await app.call("client", echo, mail)
        assert echoed == "hello"
        assert greeting in CUT, "a port that the route does not name: not a byte of the greeting"
    async with app.permissive():
        echoed, greeting = await app.call("client", echo, mail)
        assert (echoed, greeting[:11]) == ("hello", "220 server-")
    assert set(await app.call("client", echo, mail)) <= CUT


async def test_row_14_grpc_is_opened_by_requests(app: Rows) -> None:
    say, say_other = (group("say", pathRegex=path, methods=["POST"]) for path in ("/test.Echo/Say", "/test.Echo/No"))
    by = ("HTTPRouteGroup", "say")
    async with app.policy(say, opens("server", "client", by=by)):
        assert (await app.call("client", ["grpc", host("rpc"), 50051]))[0].startswith("hello server-")
        await app.change(put=[say_other])
        assert await app.call("client", ["grpc", host("rpc"), 50051]) == ["PERMISSION_DENIED"]
    assert await app.call("client", ["grpc", host("rpc"), 50051]) == ["PERMISSION_DENIED"]


async def test_row_15_tls_of_the_applications_own_passes_through(app: Rows) -> None:
    """By gRPC and by HTTPS: the client sees the application's certificate, and a TCPRoute decides."""
    calls = [["grpcs", host("rpc-tls"), 50443], ["https", host("web-tls"), 443]]
    async with app.policy(ports(50443, 8443), opens("server", "client", by=BYTES)):
        said, got = await app.call("client", *calls)
        assert said.startswith("hello server-")
        assert got.startswith("server-")
        assert got.endswith(" by its own certificate")
        assert set(await app.call("other", *calls)) <= CUT | {"SSLEOFError"}
    assert set(await app.call("client", *calls)) <= CUT | {"SSLEOFError"}


async def test_rows_16_and_17_several_ports_and_several_services(app: Rows) -> None:
    """Named and remapped ports; where nobody listens is a 503, no other port's answer; two Services over one pod."""
    async with app.policy(group(), opens("server", "client")):
        assert pods(await app.get("client", f"{host('several')}:82", times=10)) == 2
        assert await app.get("client", f"{host('several')}:83", times=5) == {"503"}
        assert pods(await app.get("client", f"{host('twin')}:81", times=10)) == 2
        assert pods(await app.get("client", host("server"), times=10)) == 2


async def test_a_pod_calls_itself_through_its_own_service_if_policy_lets_it(app: Rows) -> None:
    async with app.policy(group(), opens("client", "other")):
        assert await app.get("client", host("client")) == {"403"}
        async with app.policy(opens("client", "client")):
            assert pods(await app.get("client", host("client"))) == 1


async def test_row_18_three_members_of_a_stateful_set_find_each_other_by_name(app: Rows) -> None:
    """They listen on their own addresses only (local proxy mode PodIP); clients call them by a Service."""
    await app.mesh.apply([rows.config(pod_ip=True), *rows.quorum()])
    await app.available("zk", kind="statefulsets")
    names = [f"zk-{number}" for number in range(3)]
    peers = [["tcp", f"{name}.{host('zk')}", port] for name in names for port in (2888, 3888)]
    clients = [["first", host("zk-client"), 2181]] * 12
    routes = [
        ports(2181, 2888, 3888),
        ports(2181, name="client"),
        opens("zk", "zk", by=BYTES),
        opens("zk", "client", by=("TCPRoute", "client")),
    ]
    async with app.policy(*routes):
        for name in names:
            assert await app.call("zk", *peers, pod=name) == ["hello"] * 6, f"{name} finds all members, itself too"
        assert set(await app.call("client", *clients)) == {f"220 {name}" for name in names}
        assert set(await app.call("client", *peers)) <= CUT
        assert set(await app.call("other", *peers, clients[0])) <= CUT
    await app.mesh.apply([rows.config()])


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_rows_2_and_9_at_their_full_size(app: Rows) -> None:
    """Five clients of five pods each call one server of five pods, and five leaves of two pods each behind a root."""
    clients, leaves = [f"c{number}" for number in range(5)], [f"w{number}" for number in range(5)]
    async with app.placed(*rows.many(clients, leaves)):
        targets = [group(), *(opens(name, *clients) for name in ("big", *leaves))]
        async with app.policy(*targets, split("root", **dict.fromkeys(leaves, 20))):
            for name in clients:
                for pod in await app.pods(name):
                    assert pods(await app.get(name, host("big"), times=60, pod=pod)) == 5
                assert pods(await app.get(name, host("root"), times=150)) == 10
                for leaf in leaves:
                    assert pods(await app.get(name, host(leaf), times=20)) == 2


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
