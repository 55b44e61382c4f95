"""Whose an address is: no object of one namespace takes the traffic of another's."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from services.compiler.core.offline import compile_events
from shared.projected_objects import EndpointSlice, ServicePort
from shared.records.events import Event
from tests.unit.compiler import objects
from tests.unit.compiler.test_views import Told, told

WEB = "10.244.3.1"
"""Address of a pod of a namespace outside the mesh."""
EARLY, LATE = "2025-01-01T00:00:00Z", "2026-06-01T00:00:00Z"
MINE = "10.244.7.1"
"""Address of the tenant's pod."""


def tenant(*more: Event, address: str = WEB, split: bool = True) -> list[Event]:
    """A tenant who captures: a headless Service, a slice with that address for the own pod, and a foreign source."""
    everything = ("HTTPRouteGroup", "all", [])
    return [
        objects.namespace("red"),
        objects.pod("red", "echo", account="echo", ip=MINE, labels={"app": "echo"}, created=EARLY),
        objects.service("red", "sink", ip="10.96.7.1", selector={"app": "echo"}, ports=[ServicePort(port=80)]),
        objects.slices("red", "sink", {"echo": MINE}, ports={"": 80}),
        objects.service("red", "evil", ip="None", selector={}, ports=[ServicePort(port=80)], created=EARLY),
        objects.slices("red", "evil", {"echo": address}, ports={"": 80}),
        *([objects.split("red", "evil", root="evil", backends={"sink": 1})] if split else []),
        objects.route_group("red", "all", {"name": "all", "pathRegex": ".*", "methods": ["*"]}),
        objects.target("red", "evil", destination="echo", sources=[("buy", "buyer")], rules=[everything]),
        *more,
    ]


def addresses(found: Told) -> dict[str, list[str]]:
    """Filter chain → addresses that lead into it."""
    return {
        name: [part.address_prefix for part in chain.filter_chain_match.prefix_ranges]
        for name, chain in found.chains("outbound").items()
        if name.startswith("outbound|")
    }


def of_red(found: Told) -> set[str]:
    """Addresses that lead to the tenant."""
    return {each for name, each_of in addresses(found).items() if name.startswith("outbound|red/") for each in each_of}


def test_the_tenant_is_told_to_callers_by_its_own_addresses() -> None:
    """So that the tests below do not pass because nothing of it is told."""
    assert of_red(told("buy/buyer-0", *tenant(address=MINE))) == {MINE, "10.96.7.1"}


@pytest.mark.parametrize(
    "address",
    [
        WEB,
        "10.244.2.1",  # a pod of the mesh
        "10.96.1.2",  # a Service of the mesh
        "10.96.0.1",  # a Service of nobody yet
        "203.0.113.9",
        "169.254.169.254",
        "127.0.0.1",
        "::ffff:10.244.7.1",
        "10.244.7.1/0",
        "10.244.7.01",
        "",
        "nonsense",
    ],
)
@pytest.mark.parametrize("permissive", [False, True])
def test_an_endpoint_counts_only_at_an_address_of_its_pod(address: str, permissive: bool) -> None:  # noqa: FBT001
    """An EndpointSlice is written by its namespace's user: address and pod need not belong together."""
    config = objects.mesh_config(permissive=permissive, egress=True)
    found = told("buy/buyer-0", *tenant(address=address), config)
    assert of_red(found) == {"10.96.7.1"}
    assert not any(address in others for name, others in addresses(found).items() if "|red/" in name)


def test_a_foreign_address_is_no_endpoint_either() -> None:
    """A Service with a ClusterIP would send its callers there."""
    plain = objects.service("red", "evil", ip="10.96.7.2", selector={}, ports=[ServicePort(port=80)])
    found = told("buy/buyer-0", *tenant(plain, split=False))
    assert found.endpoints("outbound|red/evil|80") == []
    assert told("buy/buyer-0", *tenant(plain, split=False, address=MINE)).endpoints("outbound|red/evil|80") == [MINE]


def without_reference(event: Event) -> Event:
    piece = msgspec.json.decode(event.object or b"", type=EndpointSlice)
    bare = [msgspec.structs.replace(endpoint, target_ref=None) for endpoint in piece.endpoints]
    value = msgspec.structs.replace(piece, endpoints=bare)
    return objects.event("EndpointSlice", event.namespace, event.name, value)


@pytest.mark.parametrize(
    "piece",
    [
        without_reference(objects.slices("red", "evil", {"echo": MINE}, ports={"": 80})),
        objects.slices("red", "evil", {"echo": MINE}, ports={"": 80}, kind="Node"),
        objects.slices("red", "evil", {"echo": MINE}, ports={"": 80}, pod_namespace="store"),
        objects.slices("red", "evil", {"other": MINE}, ports={"": 80}),
        objects.slices("red", "evil", {"echo": MINE}, ports={"": 80}, family="FQDN"),
    ],
    ids=["no reference", "a node", "a pod of another namespace", "no such pod", "a host name"],
)
def test_an_address_without_a_pod_of_the_namespace_is_never_meshed(piece: Event) -> None:
    assert of_red(told("buy/buyer-0", *tenant(piece))) == {"10.96.7.1"}


def test_a_pod_of_another_namespace_is_not_borrowed_by_its_name() -> None:
    """The slice's reference says the namespace; both namespaces have a pod of that name."""
    twin = objects.pod("store", "echo", account="db", ip="10.244.2.9")
    piece = objects.slices("red", "evil", {"echo": "10.244.2.9"}, ports={"": 80}, pod_namespace="store")
    assert of_red(told("buy/buyer-0", *tenant(twin, piece))) == {"10.96.7.1"}


def test_the_address_of_a_pod_on_its_nodes_network_is_the_nodes() -> None:
    """A whole node listens there: its kubelet, and what others run on its network."""
    node = "192.168.0.5"
    own = objects.pod("red", "echo", account="echo", ip=node, labels={"app": "echo"}, host_network=True)
    found = told("buy/buyer-0", *tenant(own, address=node))
    assert node not in of_red(found)


def test_a_pod_that_was_given_a_nodes_address_before_the_node_has_it_no_more() -> None:
    node = objects.pod("kube-system", "cni", account="cni", ip=MINE, host_network=True, created=EARLY, sidecar=False)
    assert of_red(told("buy/buyer-0", *tenant(node, address=MINE))) == {"10.96.7.1"}


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_has_no_address(phase: str) -> None:
    """Its status keeps one that another pod has by now."""
    ended = objects.pod("red", "echo", account="echo", ip=MINE, phase=phase, labels={"app": "echo"})
    assert not of_red(told("buy/buyer-0", *tenant(ended, address=MINE)))


@pytest.mark.parametrize(
    ("created", "deleted", "kept"),
    [(LATE, "", False), (EARLY, "", False), ("2024-01-01T00:00:00Z", "", True), ("2024-01-01T00:00:00Z", LATE, True)],
    ids=["newer", "as old", "older", "older and on its way out"],
)
def test_of_two_pods_with_one_address_the_newer_has_it(created: str, deleted: str, kept: bool) -> None:  # noqa: FBT001
    """An address is given again only after its pod has lost it, whatever a finalizer keeps in the API."""
    other = objects.pod("outside", "web", account="web", ip=MINE, sidecar=False, created=created, deleted=deleted)
    assert (MINE in of_red(told("buy/buyer-0", *tenant(other, address=MINE)))) is kept


def test_a_pod_that_a_finalizer_keeps_has_lost_its_address_even_to_an_older_one() -> None:
    kept = objects.pod(
        "red", "echo", account="echo", ip=MINE, labels={"app": "echo"}, created=LATE, deleted="2026-07-01T00:00:00Z"
    )
    other = objects.pod("outside", "web", account="web", ip=MINE, sidecar=False, created=EARLY)
    assert of_red(told("buy/buyer-0", *tenant(kept, other, address=MINE))) == {"10.96.7.1"}


def test_one_address_in_two_spellings_is_one_address() -> None:
    """Envoy refuses a listener in which two chains match the same."""
    spelt = {"one": "fd00::71", "two": "FD00:0::71"}
    mesh: list[Event] = [
        objects.pod("red", "echo", account="echo", ip=MINE, ips=[MINE, "fd00:0:0::71"], labels={"app": "echo"})
    ]
    for name, address in spelt.items():
        mesh += [
            objects.service("red", name, ip="None", selector={}, ports=[ServicePort(port=80)]),
            objects.slices("red", name, {"echo": address}, ports={"": 80}, family="IPv6"),
        ]
    found = addresses(told("buy/buyer-0", *tenant(*mesh, address=MINE)))
    assert found["outbound|red/one|80"] == ["fd00::71"]
    assert "outbound|red/two|80" not in found


def claiming(ip: str, *, created: str = EARLY, more: Sequence[str] = ()) -> Event:
    """The tenant's Service, with a ClusterIP of somebody else."""
    return objects.service("red", "sink", ip=ip, cluster_ips=[ip, *more], selector={"app": "echo"}, created=created)


OWNER = objects.service("outside", "web", ip="10.96.3.1", created="2025-06-01T00:00:00Z")
"""A Service of a namespace outside the mesh."""


@pytest.mark.parametrize("permissive", [False, True])
@pytest.mark.parametrize(
    ("claimed", "created", "owner"),
    [
        ("10.96.1.2", LATE, []),
        ("10.96.3.1", LATE, [OWNER]),
        ("10.96.3.1", "2025-06-01T00:00:00Z", [OWNER]),
        ("10.244.2.1", EARLY, []),
        ("10.244.3.1", EARLY, []),
        ("169.254.169.254", EARLY, []),
        ("127.0.0.1", EARLY, []),
        ("nonsense", EARLY, []),
        ("", EARLY, []),
    ],
    ids=[
        "of a Service",
        "outside the mesh",
        "as old",
        "a pod",
        "a pod outside",
        "metadata",
        "loopback",
        "text",
        "none",
    ],
)
def test_a_cluster_address_leads_to_its_owner_alone(
    claimed: str,
    created: str,
    owner: list[Event],
    permissive: bool,  # noqa: FBT001
) -> None:
    config = objects.mesh_config(permissive=permissive, egress=True)
    before = addresses(told("buy/buyer-0", config))
    mesh = tenant(claiming(claimed, created=created), *owner, config, address=MINE)
    after = addresses(told("buy/buyer-0", *mesh))
    assert {name: each for name, each in after.items() if "|red/" not in name} == before
    assert claimed not in after.get("outbound|red/sink|80", [])


def test_the_second_of_the_cluster_addresses_is_a_claim_too() -> None:
    found = addresses(told("buy/buyer-0", *tenant(claiming("10.96.7.1", more=["10.96.1.2"], created=LATE))))
    assert found["outbound|red/sink|80"] == ["10.96.7.1"]
    assert found["outbound|store/store-v1|80"] == ["10.96.1.2"]


def test_an_address_comes_back_to_who_is_left() -> None:
    """Claims are judged anew when the owner goes."""
    mesh = tenant(claiming("10.96.3.1", created=LATE), OWNER, address=MINE)
    assert "10.96.3.1" not in of_red(told("buy/buyer-0", *mesh))
    assert "10.96.3.1" in of_red(told("buy/buyer-0", *mesh, objects.deleted("Service", "outside", "web")))


def test_every_request_of_a_chain_meets_the_one_host_of_its_routes() -> None:
    """The address has chosen the service: no name of a namespace or Service can claim a host name."""
    snapshot = compile_events([*objects.bookstore(), *tenant(address=MINE)])
    found = Told(snapshot, "buy/buyer-0")
    for name in found.names(RouteConfiguration):
        (host,) = found.get(RouteConfiguration, name).virtual_hosts
        assert list(host.domains) == ["*"]


def sentences(*mesh: Event) -> list[tuple[str, str, str]]:
    """What is wrong with Services: name, code, sentence."""
    found = compile_events([*objects.bookstore(), *mesh]).quarantine
    return [(str(one.key), one.code, one.sentence) for one in found if one.key.kind == "Service"]


def test_who_owns_what_is_claimed_raises_no_word() -> None:
    assert sentences(*tenant(address=MINE)) == []


def test_a_claim_that_is_refused_is_named_with_the_owner() -> None:
    def said(claimed: str, created: str = LATE) -> str:
        ((name, code, sentence),) = sentences(*tenant(claiming(claimed, created=created), OWNER, address=MINE))
        assert (name, code) == ("Service red/sink", "service/address")
        return sentence

    assert said("10.96.3.1") == (
        "has the cluster address 10.96.3.1, which Service outside/web has, the older one; it is not called there"
    )
    assert "which pod store/v1-0 has" in said("10.244.2.1")
    assert "which no Service can have" in said("169.254.169.254")
    assert "which another Service, as old, has too" in said("10.96.3.1", "2025-06-01T00:00:00Z")


def test_an_endpoint_that_is_left_out_is_named_with_what_the_pod_has() -> None:
    assert sentences(*tenant()) == [
        (
            "Service red/evil",
            "service/endpoint",
            f"has an endpoint at '{WEB}' for pod red/echo, whose own is {MINE}: it is left out",
        )
    ]
    other = objects.pod("outside", "web", account="web", ip=MINE, sidecar=False, created=LATE)
    assert "whose address another pod or a node has by now" in sentences(*tenant(other, address=MINE))[0][2]
    node = objects.pod("red", "echo", account="echo", ip=MINE, labels={"app": "echo"}, host_network=True)
    assert "which is on its node's network" in sentences(*tenant(node, address=MINE))[0][2]


def test_a_slice_that_comes_before_its_pods_address_is_no_mistake() -> None:
    """Pods and slices are watched apart."""
    waiting = objects.pod("red", "echo", account="echo", ip="", labels={"app": "echo"}, phase="Pending")
    assert sentences(*tenant(waiting, address=MINE)) == []


def test_of_many_endpoints_that_are_left_out_a_few_are_named() -> None:
    many = {f"echo-{number}": WEB for number in range(20)}
    pods = [objects.pod("red", name, account="echo", ip=f"10.244.8.{n + 1}") for n, name in enumerate(many)]
    assert len(sentences(*tenant(*pods, objects.slices("red", "evil", many)))) == 5
