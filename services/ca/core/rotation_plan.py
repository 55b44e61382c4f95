"""The state machine of root rotation: from the bundle in force to the next one, by facts. Pure.

The bundle in the log *is* the state: its first root signs, all of them are trusted, and each says since when. What is
wanted are the roles of the MeshRootCertificates. A step is taken only when nobody can be hurt by it:

1. a new root is trusted at once, beside the others; that can break nothing;
2. it signs when every proxy that could meet one of its certificates has acknowledged a bundle with it;
3. a root is dropped when no certificate that it signed can be in use any more.

A CA that is killed at any instruction, or another replica, reads the bundle and goes on from there. Undoing is the same
machine: make the old root active again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from shared.meshconfig.root_certificate import Role
from shared.records.certificates import SealingKey, TrustBundle, TrustedRoot

Obstacles = Callable[[int], Sequence[str]]
"""Who is in the way of a step, given the serial of a bundle; none: the step is safe."""


class Candidate(msgspec.Struct, frozen=True):
    """A root that somebody wants, with its certificate."""

    name: str
    role: Role
    trust_domain: str
    root: str
    """PEM."""
    sealing_keys: tuple[SealingKey, ...]
    usable: bool = True
    """Whether it can sign now. One that cannot stays what it is: it is neither trusted anew nor made to sign."""


class RotationFacts(msgspec.Struct, frozen=True):
    """What the step must wait for. Asked only where it matters: some of the answers cost."""

    untrusting: Obstacles
    """Proxies that have not acknowledged this bundle or a later one, and places that do not hold it yet."""
    uncompiled: Callable[[TrustedRoot], Sequence[str]]
    """Proxies whose configuration does not accept the trust domain of this root yet."""
    unrenewed: Obstacles
    """Workloads that may still use a certificate signed under a bundle older than this one."""


class RotationPlan(msgspec.Struct, frozen=True):
    """The bundle that should be in force, and what the next step waits for."""

    bundle: TrustBundle
    """The one held, if nothing may change now."""
    step: str
    """`trust`, `sign`, `drop`: taken now; `distributing`, `renewing`: waited for; `steady`, `refused`: none."""
    why: str = ""
    waiting: tuple[str, ...] = ()


def first_bundle(
    candidates: Sequence[Candidate], *, trust_domain: str, serial: int, key_type: str
) -> TrustBundle | None:
    """The bundle where there is none: the oldest root in use signs, so that a lost log hands over to nobody early."""
    used = [one for one in candidates if one.usable and one.role != "inactive"]
    if not used:
        return None
    members = [TrustedRoot(name=one.name, trust_domain=one.trust_domain, since=serial) for one in used]
    empty = TrustBundle(trust_domain=trust_domain, serial=serial, roots=[], sealing_keys=[], key_type=key_type)
    return _bundle(empty, members, candidates, serial=serial, signing_since=serial, key_type=key_type)


def plan(
    held: TrustBundle, candidates: Sequence[Candidate], facts: RotationFacts, *, serial: int, key_type: str = "P-256"
) -> RotationPlan:
    """The next step from the bundle held; `candidates` oldest first, `serial` for a bundle that differs."""
    wanted = {one.name: one for one in candidates}
    members = list(held.members)
    new = [
        TrustedRoot(name=one.name, trust_domain=one.trust_domain, since=serial)
        for one in candidates
        if one.usable and one.role != "inactive" and all(one.name != member.name for member in members)
    ]
    if new:
        names = ", ".join(one.name for one in new)
        bundle = _bundle(held, members + new, candidates, serial=serial, key_type=key_type)
        return RotationPlan(bundle=bundle, step="trust", why=f"{names}: trusted from now on")
    signer = members[0]
    heir = _heir(signer, members, wanted)
    if heir is None:
        why = "no root is active: the last one signs on; make one active"
        return _stay(held, candidates, serial, key_type, step="refused", why=why)
    if heir is not signer:
        waiting = tuple(facts.untrusting(heir.since))
        if heir.trust_domain != signer.trust_domain:
            waiting += tuple(facts.uncompiled(heir))
        if waiting:
            why = f"{heir.name} signs as soon as every proxy trusts it"
            return _stay(held, candidates, serial, key_type, step="distributing", why=why, waiting=waiting)
        order = [heir, *(member for member in members if member is not heir)]
        bundle = _bundle(held, order, candidates, serial=serial, signing_since=serial, key_type=key_type)
        return RotationPlan(bundle=bundle, step="sign", why=f"{heir.name} signs from now on, {signer.name} does not")
    leaving = [one for one in members[1:] if one.name not in wanted or wanted[one.name].role == "inactive"]
    if leaving:
        names = ", ".join(one.name for one in leaving)
        waiting = tuple(facts.unrenewed(held.signing_since))
        if waiting:
            why = f"{names}: dropped as soon as no certificate of it can be in use"
            return _stay(held, candidates, serial, key_type, step="renewing", why=why, waiting=waiting)
        kept = [one for one in members if one not in leaving]
        bundle = _bundle(held, kept, candidates, serial=serial, key_type=key_type)
        return RotationPlan(bundle=bundle, step="drop", why=f"{names}: trusted no more")
    return _stay(held, candidates, serial, key_type, step="steady")


def _heir(signer: TrustedRoot, members: Sequence[TrustedRoot], wanted: dict[str, Candidate]) -> TrustedRoot | None:
    """Who should sign: the one active root; of several, the newest; none if there is no active one.

    One that cannot sign now comes into question only if it is the signer already.
    """
    active = [one for one in wanted.values() if one.role == "active" and (one.usable or one.name == signer.name)]
    if not active:
        return None
    by_name = {member.name: member for member in members}
    return by_name.get(active[-1].name, signer)


def _stay(
    held: TrustBundle,
    candidates: Sequence[Candidate],
    serial: int,
    key_type: str,
    *,
    step: str,
    why: str = "",
    waiting: tuple[str, ...] = (),
) -> RotationPlan:
    """No step, but keys and settings of the roots that are there may have changed."""
    bundle = _bundle(held, held.members, candidates, serial=serial, key_type=key_type)
    if msgspec.structs.replace(bundle, serial=held.serial) == held:
        bundle = held
    return RotationPlan(bundle=bundle, step=step, why=why, waiting=waiting)


def _bundle(
    held: TrustBundle,
    members: Sequence[TrustedRoot],
    candidates: Sequence[Candidate],
    *,
    serial: int,
    key_type: str,
    signing_since: int = 0,
) -> TrustBundle:
    by_name = {one.name: one for one in candidates}
    before = {member.name: root for member, root in zip(held.members, held.roots, strict=True)}
    roots = [before[one.name] if one.name in before else by_name[one.name].root for one in members]
    present = [by_name[one.name] for one in members if one.name in by_name]
    keys = [key for one in present for key in one.sealing_keys]
    if not all(one.usable for one in present):
        # Which of the keys held are its own is not known; whoever has them may still open what is sealed to them.
        keys += [key for key in held.sealing_keys if key not in keys]
    return TrustBundle(
        trust_domain=members[0].trust_domain,
        serial=serial,
        roots=roots,
        sealing_keys=keys or held.sealing_keys,
        members=list(members),
        signing_since=signing_since or held.signing_since,
        key_type=key_type,
    )
