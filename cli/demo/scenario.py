"""The acts of the demo and their checks.

Each act changes the mesh through the API and observes real traffic through real Envoys. No check is decided by data of
the control plane, except for how fast a change arrived.
"""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from cli.arrival.attached_mesh import AttachedMesh, NotArrivedError
from cli.demo.display import Display
from cli.demo.report import DemoCheck, DemoReport
from cli.kubernetes.manifest_files import Manifest, read_manifests
from shared.names import CA, COMPILER, INGESTOR, MESH_NAMESPACE, XDS_EDGE

MANIFESTS = Path(__file__).parents[2] / "deploy" / "demo" / "manifests"
STORE = "http://bookstore.bookstore.svc.cluster.local:14001"
LOAD = ("python", "-P", "-m", "deploy.demo.apps.load")
HOLD = ("python", "-P", "-m", "deploy.demo.apps.hold", "database.database.svc.cluster.local", "5432")
SPLIT_REQUESTS = 800
SPLIT_TOLERANCE = 8.0
"""Percentage points. With 800 requests, a fair 50/50 split deviates by this much once in 200,000 runs."""
WORKLOADS = (
    ("bookbuyer", "bookbuyer"),
    ("bookthief", "bookthief"),
    ("bookstore", "bookstore-v1"),
    ("bookstore", "bookstore-v2"),
    ("bookwarehouse", "bookwarehouse"),
    ("database", "database"),
    ("outside", "passerby"),
)
VICTIMS = (XDS_EDGE, COMPILER, INGESTOR, CA, "nats")
LOAD_RATE = 50
"""Requests a second while processes are killed."""


class Scenario:
    """The demo against one running mesh."""

    def __init__(self, mesh: AttachedMesh, view: Display, *, system_namespace: str = MESH_NAMESPACE) -> None:
        self._mesh = mesh
        self._view = view
        self._system = system_namespace
        self.report = DemoReport()

    async def tell(self) -> None:
        """Run every act, in order; an act that raises is a check that did not hold, and ends the demo."""
        acts: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("The bookstore opens", self.open),
            ("1  No policy: nothing passes", self.nothing_passes),
            ("2  TrafficTargets: the buyer buys, the thief does not", self.access),
            ("3  A TrafficSplit shifts", self.split),
            ("4  Who are you?", self.identity),
            ("5  The database's TCP route", self.tcp_route),
            ("6  The control plane dies under load", self.resilience),
        ]
        for title, act in acts:
            self._view.act(title)
            try:
                await act()
            except Exception as error:  # noqa: BLE001 (any error of an act is the act's result, and is shown)
                detail = f"{type(error).__name__}: {error}"
                self.check(title, held=False, figure=0, unit="", detail=detail)
                return

    def check(self, name: str, *, held: bool, figure: float, unit: str, detail: str = "") -> None:
        """Record one result."""
        check = DemoCheck(name=name, held=held, figure=figure, unit=unit, detail=detail)
        self.report.checks.append(check)
        self._view.checked(check)

    # -- changes and calls ------------------------------------------------------------------------------------

    async def change(self, what: str, *, put: Sequence[Manifest] = (), drop: Sequence[Manifest] = ()) -> None:
        """Make a change, wait for its last acknowledgement, and record how long that took: check 8."""
        self._view.doing(what)
        try:
            arrival = await self._mesh.change(put=put, drop=drop)
        except NotArrivedError as error:
            self.check(f"arrived: {what}", held=False, figure=0, unit="ms", detail=str(error))
            raise
        count = arrival.rollout.concerned
        self.check(
            f"arrived: {what}",
            held=count > 0,
            figure=arrival.milliseconds,
            unit=f"ms to the last of {count} ACKs",
            detail="" if count else "no proxy was concerned",
        )

    async def call(self, who: tuple[str, str], url: str, *, requests: int = 20) -> dict[str, Any]:
        """Send requests from inside a pod; returns the results."""
        command = await self._mesh.start(*who, [*LOAD, url, "--requests", str(requests)])
        return json.loads((await command.finish(within=60)).splitlines()[-1])

    async def settled(self, who: tuple[str, str], url: str, expected: str, *, within: float = 10.0) -> dict[str, Any]:
        """Send requests until one has the expected outcome, then 20 more, which are returned."""
        deadline = time.monotonic() + within
        while True:
            first = await self.call(who, url, requests=1)
            if expected in first["outcomes"] or time.monotonic() > deadline:
                return await self.call(who, url)

    # -- the acts ---------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Apply the workloads and wait for them."""
        began = time.monotonic()
        self._view.doing("applying the mesh's configuration and six workloads")
        await self._mesh.apply(read_manifests(MANIFESTS / "00-mesh.yaml"))
        await self._mesh.apply(read_manifests(MANIFESTS / "10-workloads.yaml"))
        for namespace, name in WORKLOADS:
            self._view.doing(f"waiting for {name}")
            await self._available(namespace, name, within=60)
        sidecars = 0
        for namespace, app in WORKLOADS:
            pod = await self._mesh.pod(namespace, app)
            started = [*pod["status"].get("initContainerStatuses", []), *pod["status"].get("containerStatuses", [])]
            sidecars += any(one["name"] == "envoy" and "running" in one["state"] for one in started)
        self.check(
            "six workloads run behind real Envoys, one client without",
            held=sidecars == 6,
            figure=round(time.monotonic() - began, 1),
            unit="s until all were ready",
            detail="" if sidecars == 6 else f"{sidecars} sidecars are running",
        )

    async def nothing_passes(self) -> None:
        """Check 1."""
        self._view.doing("the buyer and the thief call, and no policy allows it")
        denied = {"403", "closed", "reset"}
        for who in ("bookbuyer", "bookthief"):
            result = await self.call((who, who), f"{STORE}/books-bought")
            self.check(
                f"without policy the {who.removeprefix('book')} is denied at once",
                held=result["requests"] == 20 and set(result["outcomes"]) <= denied,
                figure=result["longest_ms"],
                unit="ms at the longest",
                detail=f"{result['outcomes']}",
            )

    async def access(self) -> None:
        """Check 2."""
        put = read_manifests(MANIFESTS / "20-access.yaml") + read_manifests(MANIFESTS / "30-database.yaml")
        await self.change("TrafficTargets and routes", put=put)
        self._view.doing("buying")
        for who, path, expected, name in (
            ("bookbuyer", "/buy-a-book", "200", "the buyer buys"),
            ("bookthief", "/books-bought", "200", "the thief may look"),
            ("bookthief", "/buy-a-book", "403", "the thief gets 403 where it may not call"),
        ):
            result = await self.settled((who, who), STORE + path, expected)
            self.check(
                name,
                held=result["outcomes"] == {expected: 20},
                figure=result["outcomes"].get(expected, 0),
                unit=f"of {result['requests']} calls gave {expected}",
                detail="" if result["outcomes"] == {expected: 20} else f"{result['outcomes']} {result['failures']}",
            )

    async def split(self) -> None:
        """Check 3."""
        for first, second in ((100, 0), (50, 50), (0, 100)):
            await self.change(f"split {first}/{second}", put=[_weighted(first, second)])
            self._view.doing(f"counting {SPLIT_REQUESTS} requests at {first}/{second}")
            result = await self.call(("bookbuyer", "bookbuyer"), f"{STORE}/books-bought", requests=SPLIT_REQUESTS)
            share = 100 * result["stores"].get("v1", 0) / max(1, result["requests"])
            held = result["ok"] == SPLIT_REQUESTS and abs(share - first) <= SPLIT_TOLERANCE
            self.check(
                f"split {first}/{second}",
                held=held,
                figure=round(share, 1),
                unit=f"% of {result['requests']} requests went to v1",
                detail="" if held else f"{result['outcomes']} {result['failures']}",
            )
        await self.change("split 50/50 again", put=[_weighted(50, 50)])

    async def identity(self) -> None:
        """Check 4."""
        self._view.doing("reading both sidecars' certificates")
        for who in (("bookbuyer", "bookbuyer"), ("bookstore", "bookstore-v1")):
            uris, _ = await self._certificate(who)
            expected = f"spiffe://cluster.local/ns/{who[0]}/sa/{who[1]}"
            self.check(
                f"{who[1]} presents a SPIFFE certificate",
                held=uris == [expected],
                figure=len(uris),
                unit="URI in its certificate",
                detail=", ".join(uris),
            )
        seen = await self.call(("bookbuyer", "bookbuyer"), f"{STORE}/books-bought", requests=1)
        client = json.loads(seen["body"]).get("client", "") if seen["ok"] else str(seen["outcomes"])
        self.check(
            "the store was told who called, by the buyer's certificate",
            held="URI=spiffe://cluster.local/ns/bookbuyer/sa/bookbuyer" in client,
            figure=seen["ok"],
            unit="call",
            detail="" if "URI=spiffe" in client else client,
        )
        plain = await self.call(("outside", "passerby"), f"{STORE}/books-bought")
        self.check(
            "plaintext from the client without a sidecar is reset",
            held=plain["requests"] == 20 and set(plain["outcomes"]) <= {"reset", "closed"},
            figure=plain["ok"],
            unit=f"of {plain['requests']} calls passed",
            detail=f"{plain['outcomes']}",
        )

    async def tcp_route(self) -> None:
        """Check 5."""
        buyer = ("bookbuyer", "bookbuyer")
        before = await self.settled(buyer, f"{STORE}/buy-a-book", "200")
        self.check(
            "books are written to the database over TCP",
            held=before["outcomes"] == {"200": 20},
            figure=before["ok"],
            unit="of 20 purchases reached the database",
            detail="" if before["ok"] == 20 else f"{before['outcomes']} {before['body'][:200]}",
        )
        held = await self._mesh.start("bookwarehouse", "bookwarehouse", HOLD)
        await held.line(within=10)
        policy = read_manifests(MANIFESTS / "30-database.yaml")
        target = [manifest for manifest in policy if manifest["kind"] == "TrafficTarget"]
        await self.change("the database's policy goes", drop=target)
        gone_at = time.time()
        after = await self.settled(buyer, f"{STORE}/buy-a-book", "503")
        self.check(
            "without its policy the TCP route carries nothing",
            held=after["outcomes"] == {"503": 20},
            figure=after["ok"],
            unit="of 20 purchases reached the database",
            detail="" if after["outcomes"] == {"503": 20} else f"{after['outcomes']}",
        )
        self._view.doing("waiting for the held connection to be cut")
        cut = json.loads((await held.finish(within=20)).splitlines()[-1])
        self.check(
            "a TCP connection that was open is cut",
            held=cut["outcome"] != "hung" and cut["answers"] > 0,
            figure=round(max(0.0, cut["cut_at"] - gone_at), 1),
            unit="s after the policy went",
            detail=cut["outcome"],
        )
        await self.change("the database's policy is back", put=target)
        back = await self.settled(buyer, f"{STORE}/buy-a-book", "200")
        self.check(
            "with its policy back it carries again",
            held=back["outcomes"] == {"200": 20},
            figure=back["ok"],
            unit="of 20 purchases reached the database",
            detail="" if back["ok"] == 20 else f"{back['outcomes']} {back['body'][:200]}",
        )

    async def resilience(self) -> None:
        """Checks 6 and 7: one load while processes are killed and both ends renew their certificates."""
        ends = (("bookbuyer", "bookbuyer"), ("bookstore", "bookstore-v1"))
        load = await self._mesh.start(
            "bookbuyer", "bookbuyer", [*LOAD, f"{STORE}/books-bought", "--rate", str(LOAD_RATE)]
        )
        await load.line(within=10)
        serials = {who: (await self._certificate(who))[1] for who in ends}
        recovered = 0
        for victim in VICTIMS:
            self._view.doing(f"kill -9 {victim}")
            await self._kill(victim)
            recovered += 1
        self.check(
            "killed with kill -9 and restarted by their supervisor",
            held=recovered == len(VICTIMS),
            figure=recovered,
            unit="processes: an edge, the compiler, the ingestor, the CA, NATS",
        )
        await self.change("a split made after the killing", put=[_weighted(30, 70)])
        renewed = 0
        for who in ends:
            self._view.doing(f"waiting for the certificate of {who[1]} to be renewed")
            renewed += await self._renewed(who, serials[who], within=60)
        result = json.loads((await load.end_input(within=20)).splitlines()[-1])
        failed = result["requests"] - result["ok"]
        self.check(
            "requests that failed while the control plane died",
            held=failed == 0 and result["requests"] > LOAD_RATE,
            figure=failed,
            unit=f"of {result['requests']}",
            detail="" if failed == 0 else f"{result['outcomes']} {result['failures']}",
        )
        self.check(
            "certificates of both ends were renewed under that load",
            held=renewed == len(ends) and failed == 0,
            figure=renewed,
            unit="of 2",
        )

    # -- reading and killing ----------------------------------------------------------------------------------

    async def _available(self, namespace: str, name: str, *, within: float) -> None:
        await self._mesh.api.wait(
            f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}",
            lambda one: one.get("status", {}).get("availableReplicas", 0) >= one["spec"]["replicas"],
            within=within,
            what=f"{namespace}/{name} is not available",
        )

    async def _certificate(self, who: tuple[str, str]) -> tuple[list[str], str]:
        """The URIs and the serial of a sidecar's workload certificate, read from its admin interface."""
        answer = await self.call(who, "http://127.0.0.1:15000/certs", requests=1)
        for one in json.loads(answer["body"])["certificates"]:
            for leaf in one.get("cert_chain", []):
                uris = [san["uri"] for san in leaf.get("subject_alt_names", []) if "uri" in san]
                if uris:
                    return uris, leaf["serial_number"]
        return [], ""

    async def _renewed(self, who: tuple[str, str], serial: str, *, within: float) -> int:
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            if (await self._certificate(who))[1] not in {"", serial}:
                return 1
            await asyncio.sleep(1)
        return 0

    async def _kill(self, deployment: str) -> None:
        """Kill one replica's process and wait until its supervisor has restarted it and it is ready."""
        path = f"/api/v1/namespaces/{self._system}/pods"
        listing = await self._mesh.api.get(path, params={"labelSelector": f"app.kubernetes.io/name={deployment}"})
        pod = listing["items"][0]
        name, restarts = pod["metadata"]["name"], pod["status"]["containerStatuses"][0]["restartCount"]
        await self._mesh.kill(self._system, name)
        await self._mesh.api.wait(
            f"{path}/{name}",
            lambda one: (
                one["status"]["containerStatuses"][0]["restartCount"] > restarts
                and one["status"]["containerStatuses"][0]["ready"]
            ),
            within=30,
            what=f"{deployment} did not come back",
        )


def _weighted(first: int, second: int) -> Manifest:
    """The TrafficSplit of the demo with these weights."""
    split = copy.deepcopy(read_manifests(MANIFESTS / "40-split.yaml")[0])
    for backend, weight in zip(split["spec"]["backends"], (first, second), strict=True):
        backend["weight"] = weight
    return split
