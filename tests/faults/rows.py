"""The faults, in the order in which they are injected.

Three ways to fail (killed, frozen, cut off), each process in turn, the log's servers one, two and three at a time, and
everything at once; then what does not fit that scheme.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from cli.kubernetes.api_client import Manifest
from tests.faults.fault import NO_ELECTION, Fault, Inject, Undo
from tests.faults.scene import CERTIFICATES, SYSTEM, Scene
from tests.waiting import eventually

Chooser = Callable[[Scene], Awaitable[Sequence[str]]]
"""Which pods."""

HELD = 8.0
"""Seconds for which a process is frozen or cut off: longer than a lease, an election and a request's patience."""
ALL = ("ingestor", "compiler", "ca", "xds-edge", "injector", "nats")


# Targets


def leader(service: str) -> Chooser:
    """The replica that holds the lease."""

    async def choose(scene: Scene) -> Sequence[str]:
        return [await scene.leader(service)]

    return choose


def standby(service: str) -> Chooser:
    """The replica that does not."""

    async def choose(scene: Scene) -> Sequence[str]:
        leading = await scene.leader(service)
        return [pod for pod in scene.machine.pods(service) if pod != leading]

    return choose


def one(service: str) -> Chooser:
    """The first replica of a service whose replicas are alike."""

    async def choose(scene: Scene) -> Sequence[str]:
        return scene.machine.pods(service)[:1]

    return choose


def every(*services: str) -> Chooser:
    """All replicas of these services."""

    async def choose(scene: Scene) -> Sequence[str]:
        return scene.machine.pods(*services)

    return choose


async def stream_leader(scene: Scene) -> Sequence[str]:
    """The server of the log that leads the stream of events."""
    return [await scene.stream_leader()]


async def stream_follower(scene: Scene) -> Sequence[str]:
    """One that follows."""
    leading = await scene.stream_leader()
    return [pod for pod in scene.machine.pods("nats") if pod != leading][:1]


async def majority(scene: Scene) -> Sequence[str]:
    """Two of the three, the leader among them."""
    leading = await scene.stream_leader()
    return [leading, next(pod for pod in scene.machine.pods("nats") if pod != leading)]


# How


def signalled(choose: Chooser, number: signal.Signals) -> Inject:
    """Ended by a signal; their supervisor starts them again."""

    async def inject(scene: Scene) -> None:
        scene.machine.signal(await choose(scene), number)

    return inject


def frozen(choose: Chooser) -> Inject:
    """SIGSTOP, later SIGCONT: connections stay open, and no process answers."""

    async def inject(scene: Scene) -> Undo:
        pods = await choose(scene)
        scene.machine.signal(pods, signal.SIGSTOP)

        async def undo() -> None:
            scene.machine.signal(pods, signal.SIGCONT)

        return undo

    return inject


def cut(choose: Chooser) -> Inject:
    """Cut off from all peers: packets are dropped."""

    async def inject(scene: Scene) -> Undo:
        pods = await choose(scene)
        await scene.machine.inside(pods, "cut")

        async def undo() -> None:
            await scene.machine.inside(pods, "heal")

        return undo

    return inject


_WHO: tuple[tuple[str, str, Chooser, str, bool, float], ...] = (
    # name, in words, target, service whose takeover is timed, whether it stops all changes, the budget after the end
    ("ingestor-leader", "the leading ingestor", leader("ingestor"), "ingestor", False, 10.0),
    ("ingestor-standby", "the ingestor that stands by", standby("ingestor"), "", False, NO_ELECTION),
    ("compiler-leader", "the leading compiler", leader("compiler"), "compiler", False, 10.0),
    ("compiler-standby", "the compiler that stands by", standby("compiler"), "", False, NO_ELECTION),
    ("edge", "one edge of three", one("xds-edge"), "", False, 10.0),
    ("edges", "all edges", every("xds-edge"), "", True, 10.0),
    ("ca", "one CA of two", one("ca"), "", False, NO_ELECTION),
    ("cas", "both CAs", every("ca"), "", False, NO_ELECTION),
    ("injector", "one injector of two", one("injector"), "", False, NO_ELECTION),
    ("injectors", "both injectors", every("injector"), "", False, NO_ELECTION),
    ("nats-leader", "the NATS server that leads the events", stream_leader, "", False, 10.0),
    ("nats-follower", "a NATS server that follows", stream_follower, "", False, 10.0),
    ("nats-majority", "two NATS servers of three", majority, "", True, 10.0),
    ("nats-all", "all three NATS servers", every("nats"), "", True, 10.0),
    ("everything", "everything at once", every(*ALL), "", True, 10.0),
)


def _scheme() -> list[Fault]:
    found: list[Fault] = []
    for name, what, choose, leads, _, budget in _WHO:
        found.append(
            Fault(
                name=f"kill-{name}",
                what=f"kill -9 of {what}",
                inject=signalled(choose, signal.SIGKILL),
                leads=leads,
                budget=budget,
            )
        )
    for name, what, choose, leads, stops, budget in _WHO:
        found.append(
            Fault(
                name=f"freeze-{name}",
                what=f"SIGSTOP of {what}, {HELD:g} s",
                inject=frozen(choose),
                lasts=HELD,
                stops=stops or name.startswith(("edge", "nats")),
                leads=leads,
                budget=budget,
            )
        )
    for name, what, choose, leads, stops, budget in _WHO:
        found.append(
            Fault(
                name=f"cut-{name}",
                what=f"partition of {what}, {HELD:g} s",
                inject=cut(choose),
                lasts=HELD,
                stops=stops or name.startswith(("edge", "nats")),
                leads=leads,
                budget=budget,
            )
        )
    return found


# What does not fit the scheme


def _deployments() -> list[tuple[str, str]]:
    return [("deployments", f"meshlog-{name}") for name in ALL if name != "nats"] + [("statefulsets", "nats")]


async def restart_all(scene: Scene) -> None:
    """`kubectl rollout restart` of everything, one workload after the other."""
    for plural, name in _deployments():
        await roll(scene, plural, name, {"template": {"metadata": {"annotations": {"restarted": str(time.time())}}}})


async def roll(scene: Scene, plural: str, name: str, spec: Manifest) -> None:
    """Patch a workload and wait until its rollout is complete."""
    path = f"/apis/apps/v1/namespaces/{SYSTEM}/{plural}/{name}"
    status, answer = await scene.api.request(
        "PATCH", path, body={"spec": spec}, content_type="application/strategic-merge-patch+json"
    )
    assert status == 200, answer

    async def complete() -> bool:
        _, found = await scene.api.request("GET", path)
        wanted, now = found["spec"]["replicas"], found.get("status", {})
        return (
            now.get("observedGeneration", 0) >= found["metadata"]["generation"]
            and now.get("updatedReplicas", 0) == now.get("readyReplicas", 0) == now.get("replicas", 0) == wanted
        )

    await eventually(complete, within=120, what=f"{name} is rolled out")


async def api_gone(scene: Scene) -> Undo:
    """No pod reaches the Kubernetes API any more."""
    await scene.machine.on_node("refuse", "6443")

    async def undo() -> None:
        await scene.machine.on_node("heal")

    return undo


def _blocks(scene: Scene, pod: str) -> list[Path]:
    return sorted(path for path in scene.machine.claim(pod).rglob("*EVENTS/msgs/*.blk") if path.stat().st_size)


def flipped(choose: Chooser) -> Inject:
    """One bit in the middle of the stored events, while the server does not run; then it starts again."""

    async def inject(scene: Scene) -> None:
        pods = await choose(scene)
        scene.machine.signal(pods, signal.SIGSTOP)
        for pod in pods:
            file = _blocks(scene, pod)[0]
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 4
            with file.open("r+b") as block:  # in place: a new file would not be the server's
                block.write(content)
        scene.machine.signal(pods, signal.SIGKILL)

    return inject


async def read_anew(scene: Scene) -> None:
    """The ingestors read the log from its beginning: at their start, as they do every ten minutes by themselves.

    What NATS lost without an error is noticed then.
    """
    scene.machine.signal(scene.machine.pods("ingestor"), signal.SIGKILL)


async def small_disks(scene: Scene) -> None:
    """Each server of the log gets a disk of 64 MiB, one server after the other."""
    for pod in scene.machine.pods("nats"):
        await scene.machine.on_node("shrink", str(scene.machine.claim(pod)), "64")
        before = scene.machine.containers()[pod]
        scene.machine.signal([pod], signal.SIGTERM)
        await eventually(
            lambda pod=pod, before=before: scene.machine.containers().get(pod, before) != before,
            within=60,
            what=f"{pod} was started again",
        )
        await scene.recovered()


def full(choose: Chooser) -> Inject:
    """Their disks have no byte left; later there is space again."""

    async def inject(scene: Scene) -> Undo:
        pods = await choose(scene)
        for pod in pods:
            await scene.machine.on_node("fill", str(scene.machine.claim(pod)))

        async def undo() -> None:
            for pod in pods:
                await scene.machine.on_node("drain", str(scene.machine.claim(pod)))

        return undo

    return inject


CLOCKS = {"ingestor": -300, "compiler": 300, "xds-edge": 300, "injector": -300}
"""Seconds by which each service's clock is wrong; the CA's and the sidecars' are right."""


async def lasting_certificates(scene: Scene) -> None:
    """Certificates that live longer than clocks are apart: others would be over before they began."""
    scene.certificates = "1h"
    change = await scene.change()
    assert await scene.arrived(change, within=30) is not None


async def skewed(scene: Scene) -> Undo:
    """Every service's clock is wrong by 5 minutes, some ahead and some behind."""
    for service, seconds in CLOCKS.items():
        await roll(scene, "deployments", f"meshlog-{service}", _clock(service, str(seconds)))

    async def undo() -> None:
        for service in CLOCKS:
            await roll(scene, "deployments", f"meshlog-{service}", _clock(service, "0"))
        scene.certificates = CERTIFICATES

    return undo


def _clock(service: str, seconds: str) -> Manifest:
    path = str(Path(__file__).with_name("clock"))
    environment = [{"name": "PYTHONPATH", "value": path}, {"name": "FAULTS_CLOCK", "value": seconds}]
    return {"template": {"spec": {"containers": [{"name": service, "env": environment}]}}}


FAULTS: tuple[Fault, ...] = (
    *_scheme(),
    Fault(
        name="stop-ingestor-leader",
        what="graceful stop of the leading ingestor",
        inject=signalled(leader("ingestor"), signal.SIGTERM),
        leads="ingestor",
        budget=NO_ELECTION,
    ),
    Fault(
        name="stop-compiler-leader",
        what="graceful stop of the leading compiler",
        inject=signalled(leader("compiler"), signal.SIGTERM),
        leads="compiler",
        budget=NO_ELECTION,
    ),
    Fault(
        name="stop-nats-leader",
        what="graceful stop of the NATS server that leads the events",
        inject=signalled(stream_leader, signal.SIGTERM),
    ),
    Fault(
        name="rolling-restart",
        what="rolling restart of everything",
        inject=restart_all,
        paced=True,
        # It is complete when the log's servers have leaders and hold everything: nothing is to be elected any more.
        budget=NO_ELECTION,
    ),
    Fault(
        name="flip-one",
        what="one bit flipped in the events of one NATS server",
        inject=flipped(stream_follower),
        then=read_anew,
        epochs=2,
    ),
    Fault(
        name="flip-leader",
        what="one bit flipped in the events of the NATS server that leads",
        inject=flipped(stream_leader),
        then=read_anew,
        epochs=2,
    ),
    Fault(
        name="flip-all",
        what="one bit flipped in the events of all NATS servers",
        inject=flipped(every("nats")),
        then=read_anew,
        epochs=2,
    ),
    Fault(
        name="api-gone",
        what="the Kubernetes API is gone, 120 s",
        inject=api_gone,
        lasts=120.0,
        stops=True,
    ),
    Fault(
        name="disk-full-one",
        what="the disk of one NATS server is full, 10 s",
        prepare=small_disks,
        inject=full(stream_follower),
        lasts=10.0,
    ),
    Fault(
        name="disk-full-all",
        what="the disks of all NATS servers are full, 10 s",
        prepare=small_disks,
        inject=full(every("nats")),
        lasts=10.0,
        stops=True,
    ),
    Fault(
        name="clocks",
        what="clocks 5 minutes ahead or behind",
        prepare=lasting_certificates,
        inject=skewed,
        lasts=5.0,
        paced=True,
        budget=NO_ELECTION,
    ),
)
