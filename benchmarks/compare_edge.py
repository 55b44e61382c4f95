"""The edge's own server against gRPC's: the same floods, clients, h2spec and load on two edges of the same build.

    make compare-edge                                 everything, about 6 minutes
    make compare-edge ARGS="floods ping settings"     some floods, or some of: floods, clients, h2spec, costs
    JSON=file make compare-edge                       also writes one object
    ROUNDS=3 SECONDS=1 make compare-edge ARGS=floods  each flood three times, for a second: steadier
    AGAINST=itself make compare-edge ARGS=floods      gRPC's server against itself: what the machine's noise is
    ONE_ADDRESS=1 make compare-edge ARGS=floods       the attacker and the member have the same address
    python -m benchmarks.compare_edge table file      that object as the tables of docs/xds.md

Both edges run in one mesh, as processes, each with a snapshot of 1,000 proxies; the attacker is a process of its own.
Under each flood a member joins each 60 ms (TCP, TLS, token, first response), whatever became of the joins before. Each
flood is aimed at one server, then at the other, and the next flood in the other order. The exit code is 1 if anything
speaks against the own server.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

import aiohttp
import msgspec

from benchmarks import edge as edge_benchmark
from benchmarks.edge import RDS_URL, quiet, throughput
from benchmarks.edge_mesh import BenchMesh, EdgeProcess, mesh
from benchmarks.idle import cpu_seconds, memory
from benchmarks.side_by_side import GRPCIO, OWN, ClientRow, Comparison, CostRow, FloodRow, Served, Spec, markdown
from benchmarks.swarm.driver import swarm
from services.xds_edge.settings import EdgeSettings
from tests.clients import envoys, h2spec, matrix
from tests.clients.plan import Row as ToldRow
from tests.floods.catalogue import FLOODS, launch
from tests.floods.dose import Target
from tests.floods.joining import Joins, join, joins
from tests.grpcio_edge.running import grpcio_edges
from tests.integration.xds_edge.names import EDGE_DNS
from tests.integration.xds_edge.world import world
from tests.programs import TOOLS, built

MODULES = {OWN: "services.xds_edge", GRPCIO: "tests.grpcio_edge"}
PROXIES = 1000
DURATION = float(os.environ.get("SECONDS", "2"))
"""Seconds of each flood on each server."""
ROUNDS = int(os.environ.get("ROUNDS", "1"))
"""How often each flood is aimed at each server; their joins count together."""
ONE_ADDRESS = bool(os.environ.get("ONE_ADDRESS"))
"""Whether the attacker has the address of the member, as behind a network that hides addresses; else another."""
SHIPPED: dict[str, object] = (
    {}
    if ONE_ADDRESS
    else {
        name.replace("_", "-"): getattr(EdgeSettings(), name)
        for name in (
            "connections_per_address",
            "waiting_connections",
            "new_connections_per_address",
            "new_connections_per_address_burst",
        )
    }
)
"""Under floods both edges have the limits per address that they are shipped with; the swarm's load needs others, and so
does a network that hides addresses (see docs/xds.md)."""
if os.environ.get("AGAINST") == "itself":
    # How much of a difference is none: both columns are gRPC's server.
    MODULES[OWN] = MODULES[GRPCIO]
GIVEN_UP = 5.0
"""Seconds after which a join is given up."""
QUIET = "none"
"""The row without a flood."""
SECTIONS = ("floods", "costs", "clients", "h2spec")
_BULK = 20
_MEMBERS = 40
"""Pods that join in turn: one alone would meet the limit of a pod's new streams."""
_ATTACKERS = 200
"""Pods that attack in turn."""
_LOOK_EVERY = 0.02


class Side:
    """One of the two edges under attack."""

    def __init__(self, made: BenchMesh, edge: EdgeProcess) -> None:
        token = made.world.issuer.token
        self.edge = edge
        self.members = [
            (self._target(made, token("bench", "default", f"p{number}", f"u{number}")), f"bench/p{number}")
            for number in range(_MEMBERS)
        ]
        # What attacks after authentication is a workload with a bulky snapshot.
        names = [_assailant(number) for number in range(_ATTACKERS)]
        self._attackers = [self._target(made, token("bench", "default", name, name)) for name in names]
        self._attacks = 0

    def _attack(self) -> Target:
        """Each from an address and by a pod of its own, so that none finds its allowance spent by the one before."""
        self._attacks += 1
        here = f"127.0.{self._attacks // 250 + 1}.{self._attacks % 250 + 1}"
        attacker = self._attackers[self._attacks % _ATTACKERS]
        return msgspec.structs.replace(attacker, sources=() if ONE_ADDRESS else (here,))

    def _target(self, made: BenchMesh, token: str) -> Target:
        return Target(port=self.edge.port, authority=EDGE_DNS, roots=str(made.roots), token=token)

    async def flooded(self, name: str) -> tuple[Served, list[float]]:
        """What a member and the machine notice of a flood, and how long each join took."""
        pid = self.edge.pid
        _forget_peak(pid)
        before, cpu, began = memory(pid)[0], cpu_seconds(pid), time.monotonic()
        found, lag, sent, closed = Joins(), 0.0, 0, 0
        async with self._looked_at() as looks:
            if name == QUIET:
                found = await joins(self.members, duration=DURATION, within=GIVEN_UP)
            else:
                async with launch(name, self._attack(), duration=DURATION) as attack:
                    found = await joins(self.members, duration=DURATION, within=GIVEN_UP)
                    count = await attack.over()
                    sent, closed = count.sent, count.closed
        lag = max(looks, default=0.0)
        share = (cpu_seconds(pid) - cpu) / (time.monotonic() - began)
        noticed = Served(
            lag=lag,
            cpu=share,
            grown=max(0.0, _peak(pid) - before),
            sent=sent,
            closed=closed,
            stuck=not await self._recovered(),
        )
        return noticed, found.seconds

    @contextlib.asynccontextmanager
    async def _looked_at(self) -> AsyncGenerator[list[float]]:
        """Ask the edge's event loop for a sign of life again and again; how long each took."""
        looks: list[float] = []

        async def look(session: aiohttp.ClientSession) -> None:
            while True:
                began = time.monotonic()
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(self.edge.health) as answer:
                        await answer.read()
                looks.append(time.monotonic() - began)
                await asyncio.sleep(_LOOK_EVERY)

        async with aiohttp.ClientSession() as session:
            task = asyncio.ensure_future(look(session))
            try:
                yield looks
            finally:
                task.cancel()
                await asyncio.wait({task})

    async def _recovered(self) -> bool:
        """Whether members are served at once again within 10 s; if not, the edge is started anew."""
        deadline = time.monotonic() + 10
        good = 0
        while time.monotonic() < deadline:
            member, node = self.members[good]
            good = good + 1 if await join(member, node=node, within=2) < 0.1 else 0
            if good == 3:
                return True
        await self.edge.kill()
        await self.edge.start()
        return False


def _forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _peak(pid: int) -> float:
    """The highest resident memory since it was forgotten, MB."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def _together(rounds: Sequence[tuple[Served, list[float]]]) -> Served:
    """Several rounds as one."""
    found = Joins(seconds=[one for _, seconds in rounds for one in seconds])
    noticed = [one for one, _ in rounds]
    return Served(
        joins=len(found.seconds),
        unserved=found.unserved,
        p50=found.p50,
        worst=found.worst,
        usual_worst=statistics.median(Joins(seconds=seconds).worst for _, seconds in rounds),
        lag=max(one.lag for one in noticed),
        cpu=sum(one.cpu for one in noticed) / len(noticed),
        grown=max(one.grown for one in noticed),
        sent=sum(one.sent for one in noticed),
        closed=sum(one.closed for one in noticed),
        stuck=any(one.stuck for one in noticed),
    )


async def floods(names: Sequence[str]) -> AsyncGenerator[FloodRow]:
    """Each flood on both servers."""
    with tempfile.TemporaryDirectory(prefix="meshlog-compare-") as name:
        async with mesh(Path(name), PROXIES) as made:
            bulk = {f"bulk-{number}": os.urandom(256 * 1024) for number in range(_BULK)}
            await made.publisher.add([_assailant(number) for number in range(_ATTACKERS)], "bulky", bulk)
            async with _edge(made, OWN, **SHIPPED) as own, _edge(made, GRPCIO, **SHIPPED) as grpcio:
                sides = [(OWN, Side(made, own)), (GRPCIO, Side(made, grpcio))]
                for number, flood in enumerate(names):
                    found: dict[str, list[tuple[Served, list[float]]]] = {OWN: [], GRPCIO: []}
                    for turn in range(number, number + ROUNDS):
                        for side, aimed in sides if turn % 2 else reversed(sides):
                            found[side].append(await aimed.flooded(flood))
                    yield FloodRow(flood, _together(found[OWN]), _together(found[GRPCIO]))


def _assailant(number: int) -> str:
    return f"bulky-{number}"


def _edge(made: BenchMesh, side: str, **limits: object) -> contextlib.AbstractAsyncContextManager[EdgeProcess]:
    settings: dict[str, object] = {
        "instance": f"edge-{side}",
        "state-dir": f"{made.directory}/{side}",
        "key-dir": f"{made.directory}/{side}/key",
        **limits,
    }
    return made.edge(module=MODULES[side], **settings)


async def costs() -> list[CostRow]:
    """What a push with its ACK costs, and an idle stream."""
    figures: dict[str, tuple[float, float]] = {}
    for side in (OWN, GRPCIO):
        with tempfile.TemporaryDirectory(prefix="meshlog-compare-") as name:
            async with mesh(Path(name), PROXIES) as made, _edge(made, side) as edge:
                empty = memory(edge.pid)[0]
                async with swarm(
                    made.target(edge), made.proxies(PROXIES), processes=edge_benchmark.SWARM_PROCESSES, ramp=1000
                ) as load:
                    await load.until(
                        lambda r: r.connected >= PROXIES and r.types.get(RDS_URL, 0) >= PROXIES, within=180
                    )
                    await quiet(load)
                    stream = (memory(edge.pid)[0] - empty) * 1000 / PROXIES
                    rows = await throughput(made, edge, load, PROXIES)
                    figures[side] = (rows[0].figure, round(stream, 1))
    pushes, streams = zip(figures[OWN], figures[GRPCIO], strict=True)
    return [
        CostRow(f"push + ACK, {PROXIES} proxies", *pushes, "per second of the edge's CPU"),
        CostRow(f"memory per idle stream, {PROXIES} proxies", *streams, "kB"),
    ]


async def clients() -> tuple[list[ClientRow], list[str]]:
    """Every case of every client that is there, and the names of those that are not."""
    rows: list[ClientRow] = []
    commands = matrix.commands()
    for client, command in commands.items():
        if command is None:
            continue
        told: dict[str, list[ToldRow]] = {}
        for side in (OWN, GRPCIO):
            with tempfile.TemporaryDirectory(prefix="meshlog-compare-") as name, _server(side):
                async with matrix.clients_world(Path(name)) as (_, plan):
                    told[side] = await matrix.run(client, command, plan, Path(name))
        rows += _paired(client, told)
    told = {}
    for side in (OWN, GRPCIO):
        with tempfile.TemporaryDirectory(prefix="meshlog-compare-") as name:
            told[side] = await envoys.run("grpcio" if side == GRPCIO else "own", Path(name))
    rows += _paired(envoys.CLIENT, told)
    return rows, [client for client, command in commands.items() if command is None]


def _paired(client: str, told: Mapping[str, Sequence[ToldRow]]) -> list[ClientRow]:
    found = {
        side: {row.case: "" if row.passed else row.detail or "failed" for row in rows} for side, rows in told.items()
    }
    return [
        ClientRow(
            client,
            case,
            own=not (detail := found[OWN].get(case, "it was not tried")),
            grpcio=not found[GRPCIO].get(case, "it was not tried"),
            detail=detail,
        )
        for case in dict.fromkeys([*found[OWN], *found[GRPCIO]])
    ]


async def specified() -> dict[str, Spec]:
    """h2spec, where it is there."""
    if built("h2spec") is None:
        return {}
    found: dict[str, Spec] = {}
    for side, answering in ((OWN, h2spec.answering), (GRPCIO, h2spec.grpcio_answering)):
        with tempfile.TemporaryDirectory(prefix="meshlog-compare-") as name, answering():
            async with world(Path(name)) as made:
                edge = await made.edge()
                verdict = await h2spec.run(str(TOOLS / "h2spec"), edge.server.port, patience=1)
        found[side] = Spec(verdict.passed, h2spec.CASES, verdict.failed)
    return found


def _server(side: str) -> contextlib.AbstractContextManager[None]:
    return grpcio_edges() if side == GRPCIO else contextlib.nullcontext()


async def compare(sections: Sequence[str], names: Sequence[str]) -> Comparison:
    """Measure, and print the progress."""
    found = Comparison(date=dt.datetime.now(dt.UTC).date().isoformat())
    if "floods" in sections:
        async for row in floods(names):
            found.floods.append(row)
            _say(_line(row))
    if "costs" in sections:
        found.costs = await costs()
    if "h2spec" in sections:
        found.h2spec = await specified()
        shares = [f"{side} {one.passed} of {one.cases}" for side, one in found.h2spec.items()]
        _say(f"h2spec: {', '.join(shares) or 'it is not here: make edge-clients'}")
    if "clients" in sections:
        found.clients, found.missing = await clients()
        for client in found.missing:
            _say(f"{client} is not here: make edge-clients")
    return found


def _line(row: FloodRow) -> str:
    def side(one: Served) -> str:
        return (
            f"{one.p50 * 1000:7.1f} {one.worst * 1000:8.1f} ms ({one.joins:2d}) lag {one.lag * 1000:6.0f} ms "
            f"cpu {100 * one.cpu:3.0f} % {one.grown:+5.0f} MB sent {one.sent:>9,}"
        )

    return f"{row.flood:<20} {side(row.own)} | {side(row.grpcio)} {row.lost}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """Compare what is asked for; 2 for what there is not."""
    if arguments[:1] == ["table"]:
        print(markdown(msgspec.json.decode(Path(arguments[1]).read_bytes(), type=Comparison)))
        return 0
    if unknown := [word for word in arguments if word not in {*SECTIONS, *FLOODS, QUIET}]:
        _say(f"compare-edge: there is no {unknown[0]!r}; one of {', '.join((*SECTIONS, QUIET, *FLOODS))}")
        return 2
    named = [word for word in arguments if word in FLOODS or word == QUIET]
    sections = [word for word in arguments if word in SECTIONS] or (["floods"] if named else list(SECTIONS))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    found = asyncio.run(compare(sections, named or [QUIET, *FLOODS]))
    print(markdown(found))
    against = found.against()
    print(
        "\n" + "\n".join(f"against the own server: {one}" for one in against) if against else "\nthe own server stays"
    )
    if path := os.environ.get("JSON"):
        Path(path).write_bytes(msgspec.json.encode(found))
    return 1 if against else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
