"""The state machine of root rotation: computes the next trust bundle from the one in force and the rotation facts.

The bundle in the log *is* the state: its first root signs, all its roots are trusted, and each records since when. The
roles of the MeshRootCertificates are the goal. A step is taken only if it cannot break a connection:

1. a new root is trusted at once, beside the others, which breaks nothing;
2. it signs when every proxy that could meet one of its certificates has acknowledged a bundle that contains it;
3. a root is dropped when no certificate that it signed can be in use.

A CA that was killed, or another replica, reads the bundle and continues. To undo a rotation, make the old root active
again: the same state machine leads back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum

import msgspec

from shared.meshconfig.root_certificate import Role
from shared.records.certificate_records import SealingKey, TrustBundle, TrustedRoot

Obstacles = Callable[[int], Sequence[str]]
"""Returns what a step must wait for, given the serial of a bundle; empty if the step is safe."""


class RotationStep(StrEnum):
    """What a plan does. The values are codes of the audit trail."""

    FIRST = "first"
    """The first bundle is published."""
    TRUST = "trust"
    """New roots are added to the bundle."""
    SIGN = "sign"
    """Another root signs."""
    DROP = "drop"
    """Roots are removed from the bundle."""
    DISTRIBUTING = "distributing"
    """Waits until every proxy trusts the root that shall sign."""
    RENEWING = "renewing"
    """Waits until no certificate of a root that shall be dropped can be in use."""
    STEADY = "steady"
    """The goal is reached."""
    REFUSED = "refused"
    """The goal cannot be reached, or a root cannot be used."""


class Candidate(msgspec.Struct, frozen=True):
    """A root with its role and certificate."""

    name: str
    role: Role
    trust_domain: str
    root: str
    """PEM."""
    sealing_keys: tuple[SealingKey, ...]
    usable: bool = True
    """Whether it can sign now. A root that cannot keeps its place: it is neither newly trusted nor made to sign."""


class RotationFacts(msgspec.Struct, frozen=True):
    """What a step must wait for. Called only where it matters, because some answers are expensive."""

    untrusting: Obstacles
    """Proxies that have not acknowledged this bundle or a later one, and places that do not hold it yet."""
    uncompiled: Callable[[TrustedRoot], Sequence[str]]
    """Proxies whose configuration does not accept the trust domain of this root yet."""
    unrenewed: Obstacles
    """Workloads that may still use a certificate signed under a bundle older than this one."""


class RotationPlan(msgspec.Struct, frozen=True):
    """The bundle that should be in force, and what the next step waits for."""

    bundle: TrustBundle
    """The bundle in force if nothing may change now."""
    step: RotationStep
    why: str = ""
    waiting: tuple[str, ...] = ()


class _Inputs(msgspec.Struct, frozen=True):
    """The bundle in force, the roots oldest first, and what a bundle that differs is stamped with."""

    held: TrustBundle
    candidates: Sequence[Candidate]
    serial: int
    key_type: str

    def bundle(self, members: Sequence[TrustedRoot], *, signing_since: int = 0) -> TrustBundle:
        """Return the bundle of these roots; the first one signs."""
        held = self.held
        by_name = {one.name: one for one in self.candidates}
        before = {member.name: root for member, root in zip(held.members, held.roots, strict=True)}
        roots = [before[one.name] if one.name in before else by_name[one.name].root for one in members]
        present = [by_name[one.name] for one in members if one.name in by_name]
        keys = [key for one in present for key in one.sealing_keys]
        if not all(one.usable for one in present):
            # The keys of an unusable root are unknown. Keep all keys in force: tokens may be sealed to them.
            keys += [key for key in held.sealing_keys if key not in keys]
        return TrustBundle(
            trust_domain=members[0].trust_domain,
            serial=self.serial,
            roots=roots,
            sealing_keys=keys or held.sealing_keys,
            members=list(members),
            signing_since=signing_since or held.signing_since,
            key_type=self.key_type,
        )

    def stay(self, step: RotationStep, *, why: str = "", waiting: tuple[str, ...] = ()) -> RotationPlan:
        """Return a plan without a change of roots. Keys and settings of the present roots may have changed."""
        bundle = self.bundle(self.held.members)
        if msgspec.structs.replace(bundle, serial=self.held.serial) == self.held:
            bundle = self.held
        return RotationPlan(bundle=bundle, step=step, why=why, waiting=waiting)


def first_bundle(
    candidates: Sequence[Candidate], *, trust_domain: str, serial: int, key_type: str
) -> TrustBundle | None:
    """Return the first bundle, or `None` if no root can be used.

    The oldest root in use signs, so that losing the log does not trigger a premature change of the signing root.
    """
    used = [one for one in candidates if one.usable and one.role != "inactive"]
    if not used:
        return None
    members = [TrustedRoot(name=one.name, trust_domain=one.trust_domain, since=serial) for one in used]
    empty = TrustBundle(trust_domain=trust_domain, serial=serial, roots=[], sealing_keys=[], key_type=key_type)
    return _Inputs(empty, candidates, serial, key_type).bundle(members, signing_since=serial)


def plan(
    held: TrustBundle, candidates: Sequence[Candidate], facts: RotationFacts, *, serial: int, key_type: str = "P-256"
) -> RotationPlan:
    """Return the next step from the bundle in force.

    `candidates` are the roots, oldest first; `serial` is for a bundle that differs.
    """
    inputs = _Inputs(held, candidates, serial, key_type)
    return (
        _trust_new(inputs)
        or _change_signer(inputs, facts)
        or _drop_unused(inputs, facts)
        or inputs.stay(RotationStep.STEADY)
    )


def _trust_new(inputs: _Inputs) -> RotationPlan | None:
    known = {member.name for member in inputs.held.members}
    new = [
        TrustedRoot(name=one.name, trust_domain=one.trust_domain, since=inputs.serial)
        for one in inputs.candidates
        if one.usable and one.role != "inactive" and one.name not in known
    ]
    if not new:
        return None
    names = ", ".join(one.name for one in new)
    bundle = inputs.bundle([*inputs.held.members, *new])
    return RotationPlan(bundle=bundle, step=RotationStep.TRUST, why=f"{names}: trusted from now on")


def _change_signer(inputs: _Inputs, facts: RotationFacts) -> RotationPlan | None:
    """Return the plan for another signing root, or `None` if the right one signs."""
    members = inputs.held.members
    signer = members[0]
    successor = _successor(signer, inputs)
    if successor is None:
        why = "no root is active: the last one signs on; make one active"
        return inputs.stay(RotationStep.REFUSED, why=why)
    if successor is signer:
        return None
    waiting = tuple(facts.untrusting(successor.since))
    if successor.trust_domain != signer.trust_domain:
        waiting += tuple(facts.uncompiled(successor))
    if waiting:
        why = f"{successor.name} signs as soon as every proxy trusts it"
        return inputs.stay(RotationStep.DISTRIBUTING, why=why, waiting=waiting)
    order = [successor, *(member for member in members if member is not successor)]
    return RotationPlan(
        bundle=inputs.bundle(order, signing_since=inputs.serial),
        step=RotationStep.SIGN,
        why=f"{successor.name} signs from now on, {signer.name} does not",
    )


def _successor(signer: TrustedRoot, inputs: _Inputs) -> TrustedRoot | None:
    """Return the root that should sign: the newest active one, or `None` if there is no active one.

    A root that cannot sign now is considered only if it is the signer already.
    """
    active = [one for one in inputs.candidates if one.role == "active" and (one.usable or one.name == signer.name)]
    if not active:
        return None
    by_name = {member.name: member for member in inputs.held.members}
    return by_name.get(active[-1].name, signer)


def _drop_unused(inputs: _Inputs, facts: RotationFacts) -> RotationPlan | None:
    """Return the plan that drops inactive or deleted roots, or `None` if there are none. The signer stays."""
    held = inputs.held
    wanted = {one.name for one in inputs.candidates if one.role != "inactive"}
    leaving = [one for one in held.members[1:] if one.name not in wanted]
    if not leaving:
        return None
    names = ", ".join(one.name for one in leaving)
    waiting = tuple(facts.unrenewed(held.signing_since))
    if waiting:
        why = f"{names}: dropped as soon as no certificate of it can be in use"
        return inputs.stay(RotationStep.RENEWING, why=why, waiting=waiting)
    bundle = inputs.bundle([one for one in held.members if one not in leaving])
    return RotationPlan(bundle=bundle, step=RotationStep.DROP, why=f"{names}: trusted no more")
