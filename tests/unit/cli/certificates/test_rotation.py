"""The walk of a rotation: what it asks for, what it refuses, and that it continues where it was stopped."""

from __future__ import annotations

import asyncio

import pytest

from cli.certificates.roots import MeshRoot
from cli.certificates.rotation import RootRotation, RotationGoal
from shared.errors import BadInputError
from shared.records.certificate_records import AuditNote, TrustBundle, TrustedRoot
from shared.records.proxy_status import ProxyStatus
from tests.waiting import eventually


class Mesh:
    """A mesh whose CA takes every step at once, unless a test holds it."""

    def __init__(self) -> None:
        self.held: dict[str, MeshRoot] = {}
        self.members = ["default"]
        self.obeys = True
        self.serial = 1
        self.asked: list[tuple[str, str]] = []
        self.reports: list[ProxyStatus] = []

    async def roots(self) -> dict[str, MeshRoot]:
        return dict(self.held)

    async def put(self, root: MeshRoot) -> None:
        self.asked.append((root.name, root.role))
        self.held[root.name] = root
        if not self.obeys:
            return
        used = [name for name, one in self.held.items() if one.role != "inactive"]
        self.members = sorted(used, key=lambda name: (self.held[name].role != "active", name == "default"))

    async def delete(self, root: MeshRoot) -> None:
        del self.held[root.name]

    async def bundle(self) -> TrustBundle:
        members = [TrustedRoot(name, "cluster.local", self.serial) for name in self.members]
        return TrustBundle("cluster.local", self.serial, ["" for _ in members], [], members, self.serial)

    async def note(self) -> AuditNote | None:
        return None

    async def proxies(self) -> list[ProxyStatus]:
        return self.reports


async def test_a_rotation_asks_for_one_step_after_the_other() -> None:
    mesh = Mesh()
    assert await RootRotation(mesh, lambda _: None).forward(RotationGoal()) == "root-2"
    assert mesh.asked == [
        ("default", "active"),
        ("root-2", "passive"),
        ("root-2", "active"),
        ("default", "passive"),
        ("default", "inactive"),
    ]


def report(*secrets: str, bundle: int = 0, connected: bool = True) -> ProxyStatus:
    return ProxyStatus(
        "c", "shop", "web", "uid", "web", "edge", connected=connected, since=0, bundle=bundle, secrets=secrets
    )


async def test_the_last_bundle_is_waited_for_where_it_is_asked_for() -> None:
    mesh, said = Mesh(), list[str]()
    mesh.serial = 7
    mesh.reports = [report("workload", bundle=1), report("trust-bundle", bundle=1, connected=False), report(bundle=1)]
    rotating = asyncio.ensure_future(RootRotation(mesh, said.append).forward(RotationGoal()))
    assert await asyncio.wait_for(rotating, 5) == "root-2"
    assert not any("waiting" in one for one in said)
    mesh, said = Mesh(), []
    mesh.serial = 7
    mesh.reports = [report("trust-bundle", "workload", bundle=1)]
    rotating = asyncio.ensure_future(RootRotation(mesh, said.append).forward(RotationGoal()))
    await eventually(lambda: any("1 proxies" in one for one in said), within=5, what="it waits")
    mesh.reports = [report("trust-bundle", "workload", bundle=7)]
    assert await asyncio.wait_for(rotating, 5) == "root-2"


async def test_a_rotation_that_was_stopped_is_continued_and_no_other_is_begun() -> None:
    mesh = Mesh()
    mesh.held = {
        "default": MeshRoot("default", "active", "cluster.local", {"builtin": {}}),
        "root-2": MeshRoot("root-2", "passive", "cluster.local", {"builtin": {}}, replaces="default"),
    }
    mesh.members = ["default", "root-2"]
    for wish in (RotationGoal(trust_domain="example.org"), RotationGoal(provider={"vault": {"host": "v"}})):
        with pytest.raises(BadInputError, match="under way"):
            await RootRotation(mesh, lambda _: None).forward(wish)
    assert await RootRotation(mesh, lambda _: None).forward(RotationGoal()) == "root-2"
    assert ("root-2", "passive") not in mesh.asked


async def test_roots_in_use_that_nobody_rotates_between_are_unsafe_to_rotate_from() -> None:
    mesh = Mesh()
    mesh.held = {name: MeshRoot(name, "active", "cluster.local", {"builtin": {}}) for name in ("a", "b")}
    mesh.members = ["a", "b"]
    with pytest.raises(BadInputError) as refused:
        await RootRotation(mesh, lambda _: None).forward(RotationGoal())
    assert refused.value.code == "rotation/unsafe"


async def test_nothing_that_is_not_under_way_is_taken_back() -> None:
    with pytest.raises(BadInputError) as refused:
        await RootRotation(Mesh(), lambda _: None).back()
    assert refused.value.code == "rotation/none"
