"""What the oracle expects of one call, in terms that the interpreter of rendered bytes and real Envoys both answer."""

from __future__ import annotations

from fractions import Fraction

from cli.calls.matching import HttpRequest
from tests.oracle.meshes import Offered
from tests.oracle.smi import Ask, Cluster, Name


def split_key(key: str) -> Name:
    """Namespace and name of a proxy's pod."""
    _, namespace, name = key.split("/")
    return namespace, name


def identity_of(account: Name) -> str:
    """What the certificate of an account says."""
    return f"spiffe://cluster.local/ns/{account[0]}/sa/{account[1]}"


def request_of(ask: Ask) -> HttpRequest:
    """The same request for the interpreter."""
    return HttpRequest(method=ask.method, path=ask.path, headers=ask.headers)


def expected(
    cluster: Cluster, caller: Name, service: Offered, address: tuple[str, int], ask: Ask | None
) -> tuple[dict[Name, Fraction], set[tuple[str, Name, int, bool]]]:
    """Shares of the backends, and every pod that a call may arrive at: backend, pod, port, whether it may."""
    host, port = address
    root = (service.namespace, service.name)
    shares = cluster.spread(root, port, ask)
    ways: set[tuple[str, Name, int, bool]] = set()
    for backend in shares:
        pods = cluster.behind(backend, port)
        if service.headless and backend == root:
            target = next(target for number, target, _ in service.ports if number == port)
            addressed = [pod for pod, _ in cluster.behind_or_not(root, port) if cluster.pod_at(host) == pod]
            pods = [(pod, target) for pod in addressed]
        ways.update((backend[1], pod, number, cluster.may(caller, pod, number, ask)) for pod, number in pods)
    return shares, ways
