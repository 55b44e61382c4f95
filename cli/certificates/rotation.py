"""`meshlog certificate rotate`: rotates the root, each step when the CA reports that it is safe.

The CA takes each step itself once it is safe; this module only sets the next desired roles of the MeshRootCertificates,
and waits. Its whole state is in those objects, so it can be interrupted at any point and continued.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from cli.certificates.roots import MeshRoot
from shared.errors import BadInputError
from shared.records.certificate_records import AuditNote, TrustBundle
from shared.records.proxy_status import ProxyStatus
from shared.records.snapshot import SECRET_TRUST_BUNDLE

DEFAULT_ROOT = "default"
_PACE_SECONDS = 0.25
Report = Callable[[str], None]


class RotationMesh(Protocol):
    """The methods of `cli.certificates.roots.CertificateClient` that a rotation needs."""

    async def roots(self) -> dict[str, MeshRoot]:
        """The MeshRootCertificates by name."""
        ...

    async def put(self, root: MeshRoot) -> None:
        """Create or change a MeshRootCertificate."""
        ...

    async def delete(self, root: MeshRoot) -> None:
        """Delete a MeshRootCertificate; its keys are kept."""
        ...

    async def bundle(self) -> TrustBundle:
        """The trust bundle in force."""
        ...

    async def note(self) -> AuditNote | None:
        """The CA's newest audit note on a rotation; None if there is none."""
        ...

    async def proxies(self) -> list[ProxyStatus]:
        """The newest report of every proxy."""
        ...


class RotationGoal(msgspec.Struct, frozen=True):
    """The desired new root; empty fields are taken from the root in force."""

    provider: dict[str, Any] | None = None
    trust_domain: str = ""


class RootRotation:
    """One rotation."""

    def __init__(self, mesh: RotationMesh, report: Report) -> None:
        self._mesh = mesh
        self._report = report
        self._said = ""

    async def forward(self, wish: RotationGoal) -> str:
        """Begin a rotation, or continue the one that is under way; returns the name of the new root at the end.

        Raises `BadInputError` if a rotation to another goal is under way.
        """
        old, new = await self._begin(wish)
        await self._until(lambda bundle: _holds(bundle, new), f"{new}: trusted beside {old}")
        if not _signs(await self._mesh.bundle(), new):
            await self._role(new, "active")
            await self._role(old, "passive")
            await self._until(lambda bundle: _signs(bundle, new), f"{new}: signs")
        await self._role(old, "inactive")
        await self._until(lambda bundle: not _holds(bundle, old), f"{old}: trusted no more")
        await self._acknowledged()
        await self._forget(old, new)
        return new

    async def back(self) -> str:
        """Undo the rotation that is under way; returns the name of the root that signs again."""
        found = await self._under_way()
        if found is None:
            raise BadInputError("rotation/none", "no rotation is under way: there is nothing to take back")
        old, new = found
        if not _holds(await self._mesh.bundle(), old):
            raise BadInputError("rotation/over", f"{old} is trusted no more; rotate to a new root instead")
        await self._role(old, "active")
        await self._role(new, "inactive")
        await self._until(lambda bundle: _signs(bundle, old), f"{old}: signs again")
        await self._until(lambda bundle: not _holds(bundle, new), f"{new}: trusted no more")
        await self._acknowledged()
        return old

    async def _begin(self, wish: RotationGoal) -> tuple[str, str]:
        found = await self._under_way()
        if found is not None:
            old, new = found
            _same(wish, (await self._mesh.roots())[new])
            self._report(f"continuing the rotation from {old} to {new}")
            return found
        bundle = await self._mesh.bundle()
        if len(bundle.members) > 1:
            names = ", ".join(member.name for member in bundle.members)
            raise BadInputError("rotation/unsafe", f"{names} are in use already: make all but one inactive first")
        signer, roots = bundle.members[0], await self._mesh.roots()
        if signer.name not in roots:
            default = MeshRoot(signer.name, "active", signer.trust_domain, {"builtin": {}})
            await self._mesh.put(default)
            roots[signer.name] = default
        new = next(name for n in range(2, 10_000) if (name := f"root-{n}") not in roots)
        self._report(f"rotating from {signer.name} to {new}")
        await self._mesh.put(
            MeshRoot(
                name=new,
                role="passive",
                trust_domain=wish.trust_domain or signer.trust_domain,
                provider=wish.provider or roots[signer.name].provider,
                replaces=signer.name,
            )
        )
        return signer.name, new

    async def _forget(self, old: str, new: str) -> None:
        """Delete the old root's object if the new one has another trust domain: policies accept both until then."""
        roots = await self._mesh.roots()
        if old in roots and roots[old].trust_domain != roots[new].trust_domain:
            await self._mesh.delete(roots[old])
            self._tell(f"done: no identity of {roots[old].trust_domain} is accepted any more")

    async def _under_way(self) -> tuple[str, str] | None:
        """(old, new) of an unfinished rotation; None if there is none."""
        bundle = await self._mesh.bundle()
        for root in (await self._mesh.roots()).values():
            if not root.replaces:
                continue
            finished = _signs(bundle, root.name) and not _holds(bundle, root.replaces)
            taken_back = root.role == "inactive" and not _holds(bundle, root.name)
            left_behind = not _holds(bundle, root.replaces) and not _holds(bundle, root.name)
            if not (finished or taken_back or left_behind):
                return root.replaces, root.name
        return None

    async def _role(self, name: str, role: str) -> None:
        root = (await self._mesh.roots()).get(name)
        if root is not None and root.role != role:
            await self._mesh.put(msgspec.structs.replace(root, role=role))

    async def _until(self, holds: Callable[[TrustBundle], bool], step: str) -> None:
        while not holds(await self._mesh.bundle()):
            note = await self._mesh.note()
            if note is not None and (note.waiting or note.code == "rotation/refused"):
                names = "; ".join(note.waiting[:3])
                more = f" and {note.waiting_count - 3} more" if note.waiting_count > 3 else ""
                self._tell(f"waiting: {note.why}{': ' if note.why and names else ''}{names}{more}")
            await asyncio.sleep(_PACE_SECONDS)
        self._tell(f"done: {step}")

    async def _acknowledged(self) -> None:
        bundle = await self._mesh.bundle()
        since = max(bundle.signing_since, *(member.since for member in bundle.members))
        while late := [one for one in await self._mesh.proxies() if _awaited(one, since)]:
            self._tell(f"waiting: {len(late)} proxies have not acknowledged the last bundle")
            await asyncio.sleep(_PACE_SECONDS)

    def _tell(self, sentence: str) -> None:
        if sentence != self._said:
            self._said = sentence
            self._report(sentence)


def _awaited(proxy: ProxyStatus, since: int) -> bool:
    """Whether a connected proxy last acknowledged a bundle older than `since`, the first with the desired roots."""
    return proxy.connected and proxy.uses(SECRET_TRUST_BUNDLE) and 0 < proxy.bundle < since


def _holds(bundle: TrustBundle, name: str) -> bool:
    return any(member.name == name for member in bundle.members)


def _signs(bundle: TrustBundle, name: str) -> bool:
    return bundle.members[0].name == name


def _same(wish: RotationGoal, root: MeshRoot) -> None:
    domain = wish.trust_domain and wish.trust_domain != root.trust_domain
    provider = wish.provider is not None and wish.provider != root.provider
    if domain or provider:
        what = "another trust domain" if domain else "another provider"
        raise BadInputError(
            "rotation/under-way",
            f"a rotation to {root.name} is under way, with {what}: finish it or take it back first",
        )
