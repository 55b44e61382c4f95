"""The compiler on meshes of 100, 1,000 and (ARGS=full) 10,000 services of 10 pods: from scratch, and one change each.

5 traffic targets for 10 services, one split for 20. A change is folded and committed ten times, there and back; the
figure is the median, in CPU time: one thread does it all, and nothing waits. `grows` is the exponent k of
cost ~ services**k through all sizes.
"""

from __future__ import annotations

import gc
import math
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap

from benchmarks.table import Result, Row
from cli.offline.static_bootstrap import bootstrap, stand_in
from services.compiler.core.compiler import Compiler
from services.compiler.mesh_state import MeshSettings
from shared.projected_objects import ServicePort
from shared.records.events import Event
from shared.records.snapshot import LDS, Snapshot
from tests.unit.compiler import objects

SIZES = (100, 1000)
FULL = (100, 1000, 10000)
PODS = 10
ROUNDS = 10
PER_NAMESPACE = 50


def run() -> Result:
    """Every size in turn; ARGS=full adds the largest."""
    sizes = FULL if "full" in sys.argv else SIZES
    rows: list[Row] = []
    costs: dict[str, list[float]] = {}
    for size in sizes:
        for what, figure, unit, budget in _size(size):
            limit = budget
            if what == "one endpoint change" and size > 1000:
                limit = f"<= {2 * costs[what][-1]:.2f} ms (2x of a tenth)"
            rows.append(Row(what=f"{size} services: {what}", figure=figure, unit=unit, budget=limit))
            if unit == "ms":
                costs.setdefault(what, []).append(figure)
    for what, figures in costs.items():
        exponent = _exponent(sizes, figures)
        rows.append(Row(what=f"{what}: grows", figure=round(exponent, 2), unit="exponent", budget=_growth(what)))
    return Result(name="compile", command=f"make bench-compile{' ARGS=full' if sizes == FULL else ''}", rows=rows)


def _exponent(sizes: Sequence[int], figures: Sequence[float]) -> float:
    """The slope of a line through all of them, both axes logarithmic."""
    xs, ys = [math.log(size) for size in sizes], [math.log(figure) for figure in figures]
    return statistics.linear_regression(xs, ys).slope


def _growth(what: str) -> str:
    return "<= 0.3 (2x at ten times the mesh)" if what.startswith("one ") else ""


def names(index: int) -> tuple[str, str]:
    """Namespace and name of a service."""
    return f"ns{index // PER_NAMESPACE}", f"s{index}"


def address(index: int, *, base: int = 10) -> str:
    """A distinct address for each index."""
    return f"{base}.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}"


def pod(index: int, replica: int, *, name: str = "") -> Event:
    """A pod of a service."""
    namespace, service = names(index)
    return objects.pod(
        namespace,
        name or f"{service}-{replica}",
        account=service,
        ip=address(index * (PODS + 2) + replica + 1),
        labels={"app": service},
    )


def endpoints(index: int, count: int = PODS, *, unready: int | None = None) -> Event:
    """The slice of a service."""
    namespace, service = names(index)
    found = {f"{service}-{replica}": address(index * (PODS + 2) + replica + 1) for replica in range(count)}
    return objects.slices(namespace, service, found, unready=[] if unready is None else [f"{service}-{unready}"])


def target(index: int, size: int, *, match: str = "get") -> Event:
    """A traffic target that opens a service to three others."""
    namespace, service = names(index)
    choice = random.Random(index)
    sources = [names(choice.randrange(size)) for _ in range(3)]
    return objects.target(
        namespace,
        f"t-{service}",
        destination=service,
        sources=sorted(set(sources)),
        rules=[("HTTPRouteGroup", "routes", [match])],
    )


def weights(index: int, first: int) -> Event:
    """A split of a service over itself and its neighbour."""
    namespace, service = names(index)
    return objects.split(
        namespace, f"split-{service}", root=service, backends={service: first, names(index + 1)[1]: 100 - first}
    )


def mesh(size: int) -> Iterator[Event]:
    """All events of a mesh."""
    for number in range(math.ceil(size / PER_NAMESPACE)):
        yield objects.namespace(f"ns{number}")
        matches = [{"name": "get", "pathRegex": "/a.*", "methods": ["GET"]}, {"name": "all", "pathRegex": "/.*"}]
        yield objects.route_group(f"ns{number}", "routes", *matches)
    for index in range(size):
        namespace, service = names(index)
        yield objects.service(
            namespace, service, ip=address(index + 1, base=172), ports=[ServicePort(port=80, target_port=8080)]
        )
        for replica in range(PODS):
            yield pod(index, replica)
        yield endpoints(index)
        if index % 2 == 0:
            yield target(index, size)
        if index % 20 == 0:
            yield weights(index, 90)


class _Bench:
    def __init__(self, events: list[Event]) -> None:
        self.compiler, self.snapshot = Compiler(MeshSettings()), Snapshot()
        self.sequence = 0
        self.rendered = 0
        self.seconds = self.apply(*events)

    def apply(self, *events: Event) -> float:
        """Fold and commit; seconds of that."""
        began = time.process_time()
        for event in events:
            self.sequence += 1
            self.compiler.fold(event, self.sequence)
        commit = self.compiler.commit(self.snapshot)
        elapsed = time.process_time() - began
        self.rendered = 0
        if commit is not None:
            self.snapshot.apply(commit)
            self.rendered = len(commit.resources)
        self.compiler.accept()
        return elapsed

    def there_and_back(self, there: list[Event], back: list[Event], rounds: int = ROUNDS) -> tuple[float, int]:
        """Milliseconds of one change, and the resources that it rendered."""
        taken: list[float] = []
        rendered = 0
        for _ in range(rounds):
            taken.append(self.apply(*there))
            rendered = max(rendered, self.rendered)
            taken.append(self.apply(*back))
        return round(statistics.median(taken) * 1000, 3), rendered


def _size(size: int) -> Iterator[tuple[str, float, str, str]]:
    events = list(mesh(size))
    gc.collect()
    before = _resident()
    bench = _Bench(events)
    yield "from scratch", round(bench.seconds * 1000, 1), "ms", "<= 10 s" if size == 1000 else ""
    yield "resources", len(bench.snapshot.resources), "", ""
    yield "bytes of them", round(sum(len(one.body) for one in bench.snapshot.resources.values()) / 1e6, 2), "MB", ""
    yield "memory", round(_resident() - before), "MB", ""
    gc.freeze()
    middle = size // 2 // 20 * 20
    changes = {
        "one endpoint change": ([endpoints(middle, unready=1)], [endpoints(middle)]),
        "one TrafficTarget change": ([target(middle, size, match="all")], [target(middle, size)]),
        "one weight change": ([weights(middle, 50)], [weights(middle, 90)]),
        "one pod added": (
            [pod(middle, PODS), endpoints(middle, PODS + 1)],
            [objects.deleted("Pod", names(middle)[0], f"{names(middle)[1]}-{PODS}"), endpoints(middle)],
        ),
    }
    for what, (there, back) in changes.items():
        figure, rendered = bench.there_and_back(there, back)
        yield what, figure, "ms", "<= 1 ms" if (what, size) == ("one endpoint change", 1000) else ""
        yield f"{what}: resources rendered", rendered, "", ""
    yield "into permissive mode", round(bench.apply(objects.mesh_config(permissive=True)) * 1000, 1), "ms", ""
    listener = max(len(one.body) for one in bench.snapshot.resources.values() if one.type_url == LDS)
    held = _held(bench.snapshot)
    yield "permissive: largest listener", round(listener / 1000, 1), "kB", ""
    yield "permissive: one proxy holds", round(held / 1e6, 2), "MB", ""
    yield (
        "permissive: bytes of all resources",
        round(sum(len(one.body) for one in bench.snapshot.resources.values()) / 1e6, 2),
        "MB",
        "",
    )
    figure, _ = bench.there_and_back([endpoints(middle, unready=1)], [endpoints(middle)])
    yield "permissive: one endpoint change", figure, "ms", ""
    yield from _one_service_more(bench, size)
    yield from _envoy(bench.snapshot)
    scoped = objects.namespace("ns0", annotations={"meshlog.io/calls": "ns0"})
    bench.apply(scoped)
    first = bench.snapshot.proxies[f"{objects.CLUSTER}/ns0/s0-0"].workload_class
    yield (
        "permissive: a proxy of a namespace with meshlog.io/calls holds",
        round(_held(bench.snapshot, first) / 1e6, 2),
        "MB",
        "",
    )
    yield "back to SMI mode", round(bench.apply(objects.mesh_config(permissive=False)) * 1000, 1), "ms", ""


def _one_service_more(bench: _Bench, size: int) -> Iterator[tuple[str, float, str, str]]:
    """The cost of a new service that is configured for every class: the listener is sent as a whole."""
    namespace = names(0)[0]
    more = objects.service(namespace, "more", ip=address(size + 9, base=172), selector={"app": names(0)[1]})
    slices = objects.slices(namespace, "more", {f"{names(0)[1]}-0": address(1)})
    before = set(bench.snapshot.resources)
    figure = bench.apply(more, slices)
    sent = sum(len(one.body) for identity, one in bench.snapshot.resources.items() if identity not in before)
    yield "permissive: a service comes", round(figure * 1000, 1), "ms", ""
    yield "permissive: a service comes, sent to a proxy", round(sent / 1000, 1), "kB", ""
    bench.apply(objects.deleted("Service", namespace, "more"), objects.deleted("EndpointSlice", namespace, "more-0"))


def _envoy(snapshot: Snapshot) -> Iterator[tuple[str, float, str, str]]:
    """Memory of a real Envoy that holds all of it, from a static configuration, beside one that holds nothing."""
    program = shutil.which("envoy") or shutil.which("envoy", path=str(Path(sys.executable).parent))
    if program is None:
        return
    empty = Bootstrap()
    full = bootstrap(snapshot, max(snapshot.views), stand_in("cluster.local"))
    for listener in full.static_resources.listeners:  # free ports, on an address without clients
        listener.address.socket_address.address, listener.address.socket_address.port_value = "127.0.0.1", 0
        listener.address.socket_address.ipv4_compat = False
    sizes = [_resident_of(program, config) for config in (empty, full)]
    yield "permissive: memory of an Envoy", round(sizes[1] - sizes[0], 1), "MB", ""


def _resident_of(program: str, config: Bootstrap) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path, log = Path(folder) / "envoy.pb", Path(folder) / "log"
        path.write_bytes(config.SerializeToString())
        command = [program, "-c", str(path), "--use-dynamic-base-id", "--concurrency", "1", "-l", "info"]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            while "starting main dispatch loop" not in log.read_text():
                if process.poll() is not None:
                    raise RuntimeError(log.read_text()[-2000:])
                time.sleep(0.1)
            return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
        finally:
            process.kill()
            process.wait()


def _held(snapshot: Snapshot, workload_class: str = "") -> int:
    """Bytes of all resources of one class."""
    view = snapshot.views[workload_class or max(snapshot.views)]
    return sum(
        len(snapshot.resources[type_url, name, digest].body)
        for type_url, held in view.items()
        for name, digest in held.items()
    )


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
