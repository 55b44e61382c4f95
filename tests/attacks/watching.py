"""What is measured beside every attack: new streams of a member, admissions, memory and restarts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from deploy.install.profile import PRESETS
from shared.errors import MeshlogError
from tests.attacks.scene import MARK, MEMBER, PROXY, VICTIM, AttackScene
from tests.faults.scene import SYSTEM
from tests.waiting import eventually

SIDECAR_LIMIT = 128
"""MB of resident memory that a sidecar of the bookstore may take; an idle one takes about 50."""
ADMITTED = 5.0
"""Seconds within which a member's pod must be admitted: half of the webhook's own patience."""
_PAUSE = 0.5
_UNITS = {"Mi": 1024**2, "Gi": 1024**3}


def limits() -> dict[str, int]:
    """Memory that one process of each service may take, MB: the limit of its container in the presets."""
    found = {"sidecar": SIDECAR_LIMIT}
    for service, resources in PRESETS["minimal"].resources.items():
        number, unit = resources.limit[:-2], resources.limit[-2:]
        found[service] = int(number) * _UNITS[unit] // 10**6
    return found


class Watch:
    """Looks at a mesh while it is attacked."""

    def __init__(self, scene: AttackScene, *, rolls: str = "") -> None:
        """`rolls`: pods whose names begin so, with their namespace, may be replaced."""
        self._scene = scene
        self._rolls = rolls
        self._streams: list[dict[str, Any]] = []
        self._failed_admissions: list[str] = []
        self.admitted: list[float] = []
        """Seconds of each admission of a pod."""
        self.memory: dict[str, int] = {}
        """Highest resident memory of one process, by service, MB."""
        self.restarts = 0
        self._first: dict[str, int] = {}
        self._restarted: list[str] = []

    async def began(self) -> None:
        """Return when a first stream of a member was served: from then on it counts."""
        await eventually(
            lambda: any(not one["error"] for one in self._streams), within=30, what="a member's stream is served"
        )
        self._streams.clear()

    @contextlib.asynccontextmanager
    async def going(self) -> AsyncGenerator[None]:
        """Watch while it is open."""
        self._first = await self._counts()
        words = (self._scene.edge, "--mark", str(MARK))
        member = await self._scene.start(
            VICTIM, ("python", "-P", "-m", "tests.attacks.member", *words), container=PROXY
        )
        tasks = [asyncio.create_task(one) for one in (self._follow(member.line), self._admissions(), self._memories())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(MeshlogError):
                await member.end_input(within=20)
        await self._see_restarts()

    def served(self) -> tuple[int, float | None, float | None]:
        """How many streams were opened; the median and the longest time until one was served."""
        took = [float(one["seconds"]) for one in self._streams]
        return len(took), round(statistics.median(took), 3) if took else None, round(max(took), 3) if took else None

    def wrong(self) -> list[str]:
        """What should not be."""
        errors = [str(one["error"]) for one in self._streams if one["error"]]
        found = [f"{len(errors)} of {len(self._streams)} new streams of a member failed: {errors[0]}"] if errors else []
        if self._failed_admissions:
            many = len(self._failed_admissions)
            found.append(f"{many} pods of a member were not admitted: {self._failed_admissions[0]}")
        if self.admitted and max(self.admitted) > ADMITTED:
            found.append(f"a member's pod was admitted after {max(self.admitted):.1f} s")
        found += [f"{name} was started again" for name in self._restarted]
        allowed = limits()
        found += [
            f"{service} took {size} MB, {allowed[service]} MB are allowed"
            for service, size in self.memory.items()
            if size > allowed.get(service, size)
        ]
        return found

    # One look after the other, until cancelled

    async def _follow(self, line: Any) -> None:
        while True:
            self._streams.append(json.loads(await line(within=1e6)))

    async def _admissions(self) -> None:
        namespace = VICTIM[0]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"generateName": "admitted-", "namespace": namespace},
            "spec": {"containers": [{"name": "app", "image": "none", "command": ["true"]}]},
        }
        while True:
            began = time.monotonic()
            try:
                status, answer = await self._scene.api.request(
                    "POST", f"/api/v1/namespaces/{namespace}/pods", params={"dryRun": "All"}, body=pod
                )
                sidecar = status == 201 and PROXY in json.dumps(answer)
                if not sidecar:
                    self._failed_admissions.append(f"{status}: {str(answer)[:200]}")
            except (MeshlogError, OSError) as error:
                self._failed_admissions.append(f"{type(error).__name__}: {error}")
            self.admitted.append(round(time.monotonic() - began, 3))
            await asyncio.sleep(_PAUSE)

    async def _memories(self) -> None:
        while True:
            for name, size in self._scene.machine.memory().items():
                # What the attacker's sidecar takes is the attacker's: its policy puts it there.
                own = name == f"sidecar {MEMBER[0]}"
                service = "attacker's sidecar" if own else name.partition(" ")[0]
                self.memory[service] = max(self.memory.get(service, 0), size // 10**6)
            await asyncio.sleep(_PAUSE)

    # Restarts

    async def _counts(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for namespace in (SYSTEM, *{namespace for namespace, _ in (VICTIM,)}):
            listing: Mapping[str, Any] = await self._scene.api.get(f"/api/v1/namespaces/{namespace}/pods")
            for pod in listing["items"]:
                status = pod.get("status", {})
                for one in (*status.get("containerStatuses", ()), *status.get("initContainerStatuses", ())):
                    found[f"{namespace}/{pod['metadata']['name']}/{one['name']}"] = int(one.get("restartCount", 0))
        return found

    async def _see_restarts(self) -> None:
        now = await self._counts()
        self._restarted = [name for name, count in now.items() if count > self._first.get(name, 0)]
        gone = [name for name in self._first if name not in now]
        self._restarted += [name for name in gone if not (self._rolls and name.startswith(self._rolls))]
        self.restarts = len(self._restarted)
