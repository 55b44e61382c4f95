"""One attack, what it costs the attacker, and what the members of the mesh notice."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec

from tests.attacks.scene import AttackScene
from tests.attacks.watching import Watch
from tests.faults.scene import Traffic

SERVED = 1.0
"""Seconds within which a member's new stream must be served under any attack."""
CHANGED = 10.0
"""Seconds within which a change must reach every proxy under any attack."""
PATIENCE = 60.0
"""Seconds after which a change is given up."""
PACE = 2.0
"""Seconds between changes that are made during an attack, at least."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What an attack cost the attacker."""

    connections: int = 0
    requests: int = 0
    """Calls, objects, frames, records: what it counts in."""
    bytes: int = 0
    """Sent by the attacker."""
    seconds: float = 0.0
    """How long it went on; 0: as long as `run` took."""
    said: str = ""
    """What became of it, in a few words: "all refused", "closed after 10 s"."""


Run = Callable[[AttackScene], Awaitable[Cost]]
"""Attacks, takes back what it made, and returns the cost. Raises `AssertionError` if the attack got what it wanted."""


class Attack(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table."""

    name: str
    """What selects it: `make attack ROWS=edge-silent`. It begins with the part that is attacked."""
    what: str
    """What a reader of the table understands."""
    run: Run
    within: float = 60.0
    """Seconds after which it is ended, and counts as broken."""
    short: bool = False
    """Whether it is part of `make test` (a few seconds at most)."""
    rolls: str = ""
    """Beginning of the names of pods that the row itself replaces, with their namespace: they are no restarts."""
    served: float = SERVED
    """Budget for a member's new stream, seconds. More than the default needs a comment that says why."""


class Outcome(msgspec.Struct, kw_only=True):
    """What one attack did."""

    name: str
    what: str
    cost: Cost = Cost()
    requests: int = 0
    """Of members, to members, meanwhile."""
    failed: int = 0
    granted: int = 0
    """Calls that passed although no policy allows them."""
    served_p50: float | None = None
    """Seconds until a new stream of a member was served: the median, and the longest."""
    served_max: float | None = None
    streams: int = 0
    """How many of these were opened."""
    admitted_max: float | None = None
    """Seconds until a member's pod was admitted: the longest."""
    changed_max: float | None = None
    """Seconds until a change had reached every proxy: the longest."""
    memory: dict[str, int] = {}
    """Highest resident memory of one process, by service, MB."""
    restarts: int = 0
    wrong: list[str] = []
    """Everything that should not be, however slow the machine."""
    late: list[str] = []
    """Budgets of time that were missed; with nothing `wrong` and nothing late the row holds."""


def told(cost: Cost) -> None:
    """Print what a program inside a pod has to say: the last line of its output."""
    sys.stdout.buffer.write(msgspec.json.encode(cost) + b"\n")
    sys.stdout.flush()


async def tell(scene: AttackScene, attack: Attack) -> Outcome:
    """Attack and measure. What goes wrong is in the outcome, so that the other rows are told all the same."""
    outcome = Outcome(name=attack.name, what=attack.what)
    try:
        await scene.recovered()
        async with scene.traffic() as traffic, _watched(scene, outcome, attack) as watch:
            await watch.began()
            await _attacked(scene, attack, outcome)
            await scene.recovered()
            await _changed(scene, outcome)
        _see(outcome, traffic)
        outcome.wrong += scene.broken()
    except Exception as error:  # noqa: BLE001 - what broke the row is the row's result; the others are told too
        outcome.wrong.append(f"{type(error).__name__}: {error}")
    return outcome


@contextlib.asynccontextmanager
async def _watched(scene: AttackScene, outcome: Outcome, attack: Attack) -> AsyncGenerator[Watch]:
    watch = Watch(scene, rolls=attack.rolls)
    async with watch.going():
        yield watch
    outcome.memory, outcome.restarts = watch.memory, watch.restarts
    outcome.streams, outcome.served_p50, outcome.served_max = watch.served()
    outcome.admitted_max = max(watch.admitted, default=None)
    outcome.wrong += watch.wrong()
    if outcome.served_max is not None and outcome.served_max > attack.served:
        outcome.late.append(f"a member's stream was served after {outcome.served_max:.1f} s")


async def _attacked(scene: AttackScene, attack: Attack, outcome: Outcome) -> None:
    """Attack, with changes all the while."""
    began = time.monotonic()
    running = asyncio.ensure_future(attack.run(scene))
    try:
        async with asyncio.timeout(attack.within):
            while True:
                asked = time.monotonic()
                await _changed(scene, outcome)
                await asyncio.wait({running}, timeout=max(0.0, asked + PACE - time.monotonic()))
                if running.done():
                    break
        cost = await running
    except TimeoutError:
        outcome.wrong.append(f"the attack did not end within {attack.within:g} s")
        return
    except AssertionError as error:
        outcome.wrong.append(f"the attack got what it wanted: {error}")
        return
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    took = round(time.monotonic() - began, 1)
    outcome.cost = cost if cost.seconds else msgspec.structs.replace(cost, seconds=took)


async def _changed(scene: AttackScene, outcome: Outcome) -> None:
    """Make a change that concerns every proxy, and wait for it."""
    change = await scene.change()
    arrival = await scene.arrived(change, within=PATIENCE)
    if arrival is None:
        outcome.wrong.append(f"a change did not arrive within {PATIENCE:g} s: {', '.join(scene.missing(change))}")
        return
    outcome.changed_max = max(outcome.changed_max or 0.0, round(arrival, 3))
    if arrival > CHANGED:
        outcome.late.append(f"a change took {arrival:.1f} s, the budget is {CHANGED:g} s")


def _see(outcome: Outcome, traffic: Traffic) -> None:
    outcome.requests, outcome.failed, outcome.granted = traffic.requests, traffic.failed, traffic.granted
    if traffic.failed:
        outcome.wrong.append(f"{traffic.failed} of {traffic.requests} requests failed: {traffic.failures}")
    if traffic.granted:
        outcome.wrong.append(f"{traffic.granted} calls passed that no policy allows")
