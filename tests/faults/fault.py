"""One fault, and its outcome: injected, held, ended; what a change did meanwhile and afterwards; what users saw."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from tests.faults.scene import Change, Scene, Traffic

Undo = Callable[[], Awaitable[None]]
"""Ends the fault; returns when it has ended."""
Inject = Callable[[Scene], Awaitable[Undo | None]]
"""Does it; what it returns ends it again, none: it is over at once."""

PATIENCE = 60.0
"""Seconds after which a change is given up."""
ELECTION = 10.0
"""Budget for a change when something had to be elected or started anew, seconds."""
NO_ELECTION = 1.0
"""Budget for a change when all that it needs was there."""
PACE = 2.0
"""Seconds between changes that are made while a fault is on its way, at least."""

T = TypeVar("T")


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table."""

    name: str
    """What selects it: `make faults ROWS=kill-compiler-leader`."""
    what: str
    """What a reader of the table understands."""
    inject: Inject
    lasts: float = 0.0
    """Seconds that it is held at least; 0: it is over at once."""
    stops: bool = False
    """Whether it stops all changes while it lasts, as it must (a majority of the log is gone)."""
    budget: float = ELECTION
    """Seconds within which a change must be everywhere after the end."""
    leads: str = ""
    """The service whose takeover is timed."""
    epochs: int = 0
    """Epochs that the log must begin because of it, at most."""
    paced: bool = False
    """Whether doing and ending it takes long (a rollout), so that changes are made all the while."""
    then: Callable[[Scene], Awaitable[None]] | None = None
    """What brings to light what it did, once it was measured."""
    prepare: Callable[[Scene], Awaitable[None]] | None = None
    """What must be made ready before anything is measured."""


class Outcome(msgspec.Struct, kw_only=True):
    """What one fault did."""

    name: str
    what: str
    requests: int = 0
    failed: int = 0
    granted: int = 0
    longest_ms: float = 0.0
    takeover: float | None = None
    """Seconds until another replica led."""
    during: float | None = None
    """Seconds from the fault to the arrival, everywhere, of a change made in its first moment; none: not while it
    lasted. Of a paced fault: the slowest of the changes made while it was done and ended."""
    changes: int = 0
    """How many that were."""
    after: float | None = None
    """Seconds from its end to the arrival of that change or, if it had arrived, of a new one."""
    fresh: float | None = None
    """Seconds for one more change, once all is as it was."""
    recovered: float = 0.0
    """Seconds from the end until every process was ready again."""
    events: int = 0
    epochs: int = 0
    wrong: list[str] = []
    """Everything that should not be, however slow the machine."""
    late: list[str] = []
    """Budgets of time that were missed; with nothing `wrong` and nothing late the row holds."""


async def tell(scene: Scene, fault: Fault) -> Outcome:
    """Inject it and measure. Failures are in the outcome, so that the other rows are still measured."""
    outcome = Outcome(name=fault.name, what=fault.what)
    try:
        if fault.prepare is not None:
            await fault.prepare(scene)
        await scene.recovered()
        before = await scene.audit()
        counted = {proxy.name: (len(proxy.backwards), proxy.rejected) for proxy in scene.proxies}
        async with scene.traffic() as traffic:
            await _play(scene, fault, outcome)
            if fault.then is not None:
                await fault.then(scene)
                await scene.recovered()
        _see(outcome, traffic)
        after = await scene.audit()
        outcome.events, outcome.epochs = after.events, after.epochs - before.epochs
        outcome.wrong += [f"lost: {line}" for line in after.lost]
        outcome.wrong += [f"doubled: {line}" for line in after.doubled if line not in before.doubled]
        if outcome.epochs > fault.epochs:
            outcome.wrong.append(f"the log began {outcome.epochs} epochs anew")
        for proxy in scene.proxies:
            backwards, rejected = counted[proxy.name]
            outcome.wrong += [f"went back: {line}" for line in proxy.backwards[backwards:]]
            if proxy.rejected > rejected:
                outcome.wrong.append(f"{proxy.name} refused {proxy.rejected - rejected} updates")
        outcome.wrong += scene.broken()
    except Exception as error:  # noqa: BLE001 - what broke the row is the row's result; the others are measured too
        outcome.wrong.append(f"{type(error).__name__}: {error}")
    return outcome


async def _play(scene: Scene, fault: Fault, outcome: Outcome) -> None:
    moment, began = time.time(), time.monotonic()
    if fault.paced:
        ended = await _paced(scene, fault, outcome)
        await _settles(scene, fault, outcome, ended=ended, moment=moment)
        return
    undo = await fault.inject(scene)
    change = await scene.change()
    if undo is None:
        ended = began
        await _arrives(scene, change, outcome, since=began)
        outcome.after = outcome.during
    else:
        arrival = await scene.arrived(change, within=fault.lasts)
        if arrival is not None:
            outcome.during = round(change.at + arrival - began, 3)
        elif not fault.stops:
            outcome.wrong.append(f"a change did not arrive while it lasted: {', '.join(scene.missing(change))}")
        await asyncio.sleep(max(0.0, began + fault.lasts - time.monotonic()))
        ended = time.monotonic()
        await undo()
        ended = time.monotonic()
        if arrival is not None:
            change = await scene.change()
        arrival = await scene.arrived(change, within=PATIENCE)
        if arrival is None:
            outcome.wrong.append(f"not within {PATIENCE:g} s of the end: {', '.join(scene.missing(change))}")
        else:
            outcome.after = round(max(0.0, change.at + arrival - ended), 3)
    await _settles(scene, fault, outcome, ended=ended, moment=moment)


async def _settles(scene: Scene, fault: Fault, outcome: Outcome, *, ended: float, moment: float) -> None:
    if outcome.after is not None and outcome.after > fault.budget:
        outcome.late.append(f"{outcome.after:.1f} s to the arrival of a change, the budget is {fault.budget:g} s")
    await scene.recovered()
    outcome.recovered = round(time.monotonic() - ended, 1)
    if fault.leads:
        found = scene.led_since(fault.leads, moment)
        outcome.takeover = round(found, 3) if found is not None else None
    change = await scene.change()
    arrival = await scene.arrived(change, within=PATIENCE)
    outcome.fresh = round(arrival, 3) if arrival is not None else None
    if arrival is None:
        outcome.wrong.append(f"when all was well again a change did not arrive within {PATIENCE:g} s")
    elif arrival > NO_ELECTION:
        outcome.late.append(f"when all was well again a change took {arrival:.1f} s")


async def _paced(scene: Scene, fault: Fault, outcome: Outcome) -> float:
    """Do it, hold it and end it with changes all the while; when it had ended."""
    slowest: list[float] = []
    undo = await _with_changes(scene, fault.inject(scene), outcome, slowest)
    if undo is not None:
        await _with_changes(scene, asyncio.sleep(fault.lasts), outcome, slowest)
        await _with_changes(scene, undo(), outcome, slowest)
    ended = time.monotonic()
    outcome.during, outcome.changes = round(max(slowest), 3), len(slowest)
    if outcome.during > ELECTION:
        outcome.late.append(f"{outcome.during:.1f} s to the arrival of a change meanwhile, {ELECTION:g} s are allowed")
    change = await scene.change()
    arrival = await scene.arrived(change, within=PATIENCE)
    if arrival is None:
        outcome.wrong.append(f"not within {PATIENCE:g} s of the end: {', '.join(scene.missing(change))}")
    else:
        outcome.after = round(change.at + arrival - ended, 3)
    return ended


async def _with_changes(scene: Scene, work: Awaitable[T], outcome: Outcome, took: list[float]) -> T:
    """What the work gives; how long (seconds) each change took that was made until then, wait for the API included."""

    async def change() -> None:
        while True:
            asked = time.monotonic()
            made = await scene.change()
            arrival = await scene.arrived(made, within=PATIENCE)
            if arrival is None:
                outcome.wrong.append(f"a change did not arrive meanwhile: {', '.join(scene.missing(made))}")
            took.append(made.at + (PATIENCE if arrival is None else arrival) - asked)
            if working.done():
                return
            await asyncio.sleep(max(0.0, asked + PACE - time.monotonic()))

    working = asyncio.ensure_future(work)
    try:
        await change()
        return await working
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def _arrives(scene: Scene, change: Change, outcome: Outcome, *, since: float) -> None:
    arrival = await scene.arrived(change, within=PATIENCE)
    if arrival is None:
        outcome.wrong.append(f"not within {PATIENCE:g} s: {', '.join(scene.missing(change))}")
    else:
        outcome.during = round(change.at + arrival - since, 3)


def _see(outcome: Outcome, traffic: Traffic) -> None:
    outcome.requests, outcome.failed, outcome.granted = traffic.requests, traffic.failed, traffic.granted
    outcome.longest_ms = traffic.longest_ms
    if traffic.failed:
        outcome.wrong.append(f"{traffic.failed} of {traffic.requests} requests failed: {traffic.failures}")
    if traffic.granted:
        outcome.wrong.append(f"{traffic.granted} calls passed that no policy allows")
