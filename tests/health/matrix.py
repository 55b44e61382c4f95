"""Tell a row: provoke it, and see by when each that should name it does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from cli.health.checks import CHECKS
from tests.health.rows import Row
from tests.health.scene import Scene

WITHIN = 5.0
"""Seconds from the provocation until everything names it."""
PATIENCE = 20.0
"""Seconds after which a row is given up."""
_PAUSE = 0.2
_BY_NAME = {check.name: check for check in CHECKS}

Missing = Callable[[Scene, Row], Awaitable[list[str]]]


class Outcome(msgspec.Struct, frozen=True):
    """What came of a row."""

    name: str
    what: str
    seconds: dict[str, float]
    """Who should name it → seconds from the provocation until it did."""
    missing: list[str]
    """What was not named."""

    @property
    def slowest(self) -> float:
        """Seconds until everything named it."""
        return max(self.seconds.values())


async def tell(scene: Scene, row: Row) -> Outcome:
    """Provoke a row and end it again; waits until nothing of it is found any more."""
    await scene.without(row.checks)
    undo = await row.provoke(scene)
    try:
        names = [*_SPEAKERS, *(["condition"] if row.condition else [])]
        told = await asyncio.gather(*(_named(scene, row, _SPEAKERS.get(name, _condition)) for name in names))
    finally:
        await undo()
    await scene.without([*row.checks, "behind", "gone"])
    seconds = {name: took for name, (took, _) in zip(names, told, strict=True)}
    return Outcome(row.name, row.what, seconds, [one for _, missing in told for one in missing])


async def _named(scene: Scene, row: Row, speaker: Missing) -> tuple[float, list[str]]:
    """Ask one until it names all of it; seconds, and what it did not name."""
    began = time.monotonic()
    while True:
        missing = await speaker(scene, row)
        took = round(time.monotonic() - began, 1)
        if not missing or took > PATIENCE:
            return took, missing
        await asyncio.sleep(_PAUSE)


def _verb(*words: str) -> Missing:
    async def missing(scene: Scene, row: Row) -> list[str]:
        code, found = await scene.found(*words)
        lacking = [f"{words[0]}: {name}" for name in row.checks if name not in found]
        return lacking if code == 1 else [*lacking, f"{words[0]}: exit code {code}"]

    return missing


async def _services(scene: Scene, row: Row) -> list[str]:
    """What `/readyz` and metrics do not say."""
    ready, samples = await scene.peek()
    found: list[str] = []
    for name in row.checks:
        check = _BY_NAME[name]
        asks = [place for place in check.readyz if place[0] in ready and place[0] not in row.others]
        if asks and not any(reason in ready[service] for service, reason in asks):
            found.append(f"/readyz: {name}")
        if check.signals and not any(signal.breached(samples) for signal in check.signals):
            found.append(f"metrics: {name}")
    return found + [f"/readyz of {service}: {name}" for service, name in row.readyz if name not in ready[service]]


async def _condition(scene: Scene, row: Row) -> list[str]:
    assert row.condition is not None
    path, kind, status, reason = row.condition
    said = (await scene.conditions(path)).get(kind, ("", ""))
    return [] if said[0] == status and reason in {"", said[1]} else [f"condition {kind}: {said}"]


_SPEAKERS: dict[str, Missing] = {
    "status": _verb("status"),
    "verify": _verb("verify", "control-plane"),
    "services": _services,
}
