"""The state machine of root rotation takes safe steps only, for any goal and from any bundle."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ca.core.rotation_plan import Candidate, RotationFacts, RotationPlan, first_bundle, plan
from shared.meshconfig.root_certificate import Role
from shared.records.certificate_records import SealingKey, TrustBundle, TrustedRoot


def candidate(name: str, role: Role, domain: str = "cluster.local") -> Candidate:
    keys = (SealingKey(id=name, public=bytes(32)),)
    return Candidate(name=name, role=role, trust_domain=domain, root=f"root-{name}\n", sealing_keys=keys)


def first(*candidates: Candidate) -> TrustBundle:
    made = first_bundle(candidates, trust_domain="cluster.local", serial=100, key_type="P-256")
    assert made is not None
    return made


class World:
    """What proxies trust, and the age of their certificates."""

    def __init__(self) -> None:
        self.trusted = 0
        self.renewed = 0
        self.accepted: set[str] = {"cluster.local", "example.org"}

    def uncompiled(self, root: TrustedRoot) -> list[str]:
        return [] if root.trust_domain in self.accepted else ["a proxy"]

    def untrusting(self, serial: int) -> list[str]:
        return ["a proxy"] if self.trusted < serial else []

    def unrenewed(self, serial: int) -> list[str]:
        return ["a proxy"] if self.renewed < serial else []

    def step(self, held: TrustBundle, wanted: Sequence[Candidate]) -> RotationPlan:
        facts = RotationFacts(untrusting=self.untrusting, uncompiled=self.uncompiled, unrenewed=self.unrenewed)
        return plan(held, wanted, facts, serial=held.serial + 1)


def names(bundle: TrustBundle) -> list[str]:
    return [member.name for member in bundle.members]


def test_a_rotation_goes_step_by_step() -> None:
    world, held = World(), first(candidate("a", "active"))
    wanted = [candidate("a", "active"), candidate("b", "passive")]
    trust = world.step(held, wanted)
    assert (trust.step, names(trust.bundle), trust.bundle.signing_since) == ("trust", ["a", "b"], held.serial)
    assert world.step(trust.bundle, wanted).step == "steady"
    wanted = [candidate("a", "passive"), candidate("b", "active")]
    waiting = world.step(trust.bundle, wanted)
    assert (waiting.step, waiting.waiting, waiting.bundle) == ("distributing", ("a proxy",), trust.bundle)
    world.trusted = trust.bundle.serial
    sign = world.step(trust.bundle, wanted)
    assert (sign.step, names(sign.bundle), sign.bundle.signing_since) == ("sign", ["b", "a"], sign.bundle.serial)
    assert sign.bundle.roots == ["root-b\n", "root-a\n"]
    assert [key.id for key in sign.bundle.sealing_keys] == ["b", "a"]
    wanted = [candidate("a", "inactive"), candidate("b", "active")]
    waiting = world.step(sign.bundle, wanted)
    assert (waiting.step, waiting.waiting, waiting.bundle) == ("renewing", ("a proxy",), sign.bundle)
    world.renewed = sign.bundle.serial
    drop = world.step(sign.bundle, wanted)
    assert (drop.step, names(drop.bundle)) == ("drop", ["b"])
    assert drop.bundle.signing_since == sign.bundle.signing_since
    assert world.step(drop.bundle, wanted).step == "steady"


def test_the_last_active_root_signs_on_when_nobody_is_active() -> None:
    world, held = World(), first(candidate("a", "active"), candidate("b", "passive"))
    world.trusted = world.renewed = 10**9
    for wanted in ([], [candidate("a", "inactive")], [candidate("a", "passive"), candidate("b", "passive")]):
        found = world.step(held, wanted)
        assert found.step == "refused"
        assert names(found.bundle)[0] == "a"


def unusable(name: str, role: Role) -> Candidate:
    return msgspec.structs.replace(candidate(name, role), sealing_keys=(), usable=False)


def test_a_root_that_cannot_be_used_now_takes_no_step_and_loses_no_trust() -> None:
    """A CA that starts while the API is unavailable neither drops a wanted root nor signs with a missing one."""
    world, held = World(), first(candidate("a", "active"), candidate("b", "passive"))
    world.trusted = world.renewed = held.serial
    assert names(held) == ["a", "b"]
    for wanted in (
        [candidate("a", "active"), unusable("b", "passive")],
        [candidate("a", "active"), unusable("b", "active")],
        [unusable("a", "active"), candidate("b", "passive")],
        [unusable("a", "active"), unusable("b", "passive")],
    ):
        found = world.step(held, wanted)
        assert (found.step, found.bundle.members) == ("steady", held.members)
        assert set(found.bundle.sealing_keys) == set(held.sealing_keys)
    assert names(world.step(held, [*held_as_wanted(), unusable("c", "active")]).bundle) == ["a", "b"]


def held_as_wanted() -> list[Candidate]:
    return [candidate("a", "active"), candidate("b", "passive")]


def test_a_signer_whose_keys_are_gone_hands_over_to_a_root_that_works_and_leaves() -> None:
    world, held = World(), first(candidate("a", "active"))
    wanted = [unusable("a", "active"), candidate("b", "passive")]
    trust = world.step(held, wanted)
    assert (trust.step, names(trust.bundle)) == ("trust", ["a", "b"])
    assert [key.id for key in trust.bundle.sealing_keys] == ["b", "a"]
    world.trusted = trust.bundle.serial
    sign = world.step(trust.bundle, [unusable("a", "passive"), candidate("b", "active")])
    assert (sign.step, names(sign.bundle)) == ("sign", ["b", "a"])
    world.renewed = sign.bundle.serial
    assert names(world.step(sign.bundle, [unusable("a", "inactive"), candidate("b", "active")]).bundle) == ["b"]


def test_a_root_that_is_gone_still_signs_until_another_may() -> None:
    world, held = World(), first(candidate("a", "active"))
    trust = world.step(held, [candidate("b", "active")])
    assert (trust.step, names(trust.bundle)) == ("trust", ["a", "b"])
    assert world.step(trust.bundle, [candidate("b", "active")]).step == "distributing"


def test_a_rotation_can_be_taken_back_before_and_after_the_change_of_signer() -> None:
    world, held = World(), first(candidate("a", "active"))
    trust = world.step(held, [candidate("a", "active"), candidate("b", "passive")])
    back = [candidate("a", "active"), candidate("b", "inactive")]
    world.renewed = held.signing_since
    assert names(world.step(trust.bundle, back).bundle) == ["a"]
    world.trusted = 10**9
    sign = world.step(trust.bundle, [candidate("a", "passive"), candidate("b", "active")])
    again = world.step(sign.bundle, back)
    assert (again.step, names(again.bundle)) == ("sign", ["a", "b"])
    assert world.step(again.bundle, back).step == "renewing"


def test_without_a_bundle_the_oldest_root_signs_first() -> None:
    """The log was lost in the middle: the gate to the newer one is passed again, by facts."""
    held = first(candidate("a", "passive"), candidate("b", "active"))
    assert names(held) == ["a", "b"]
    assert World().step(held, [candidate("a", "passive"), candidate("b", "active")]).step == "distributing"


def test_there_is_no_bundle_of_nothing() -> None:
    assert first_bundle([candidate("a", "inactive")], trust_domain="d", serial=1, key_type="P-256") is None


def test_another_key_type_is_published_without_a_step() -> None:
    world, held = World(), first(candidate("a", "active"))
    facts = RotationFacts(untrusting=world.untrusting, uncompiled=world.uncompiled, unrenewed=world.unrenewed)
    found = plan(held, [candidate("a", "active")], facts, serial=101, key_type="RSA-2048")
    assert (found.step, found.bundle.key_type, found.bundle.serial) == ("steady", "RSA-2048", 101)
    assert found.bundle.signing_since == held.signing_since


def test_the_trust_domain_is_the_signers() -> None:
    world, held = World(), first(candidate("a", "active"))
    world.trusted = 10**9
    wanted = [candidate("a", "passive"), candidate("b", "active", "example.org")]
    trust = world.step(held, wanted)
    assert trust.bundle.trust_domain == "cluster.local"
    world.accepted.clear()
    assert world.step(trust.bundle, wanted).step == "distributing"
    world.accepted.add("example.org")
    assert world.step(trust.bundle, wanted).bundle.trust_domain == "example.org"


_ROLES: list[Role] = ["active", "passive", "inactive"]
_WISH = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(_ROLES))


@settings(max_examples=300, deadline=None)
@given(wishes=st.lists(st.tuples(_WISH, st.sampled_from(["trust", "renew", "both", "none"])), max_size=30))
def test_whatever_is_asked_for_nobody_meets_a_root_that_it_does_not_trust(
    wishes: list[tuple[dict[str, Role], str]],
) -> None:
    """A proxy that lags in trust or renewal, at any moment, and wishes that change at any moment."""
    world, held = World(), first(candidate("a", "active"))
    trusts, leaf = set(names(held)), names(held)[0]
    world.trusted = world.renewed = held.serial
    for wish, event in wishes:
        found = world.step(held, [candidate(name, role) for name, role in sorted(wish.items())])
        held = found.bundle
        # What a peer may show it, renewed already or not, leads to a root that it trusts; and so does its own leaf.
        assert names(held)[0] in trusts
        assert leaf in names(held)
        if event in {"trust", "both"}:
            trusts, world.trusted = set(names(held)), held.serial
        if event in {"renew", "both"}:
            leaf, world.renewed = names(held)[0], held.serial


@pytest.mark.parametrize("role", _ROLES)
def test_a_new_root_is_trusted_before_anything_else(role: Role) -> None:
    world, held = World(), first(candidate("a", "active"))
    world.trusted = world.renewed = 10**9
    found = world.step(held, [candidate("a", role), candidate("b", "active")])
    assert (found.step, names(found.bundle)) == ("trust", ["a", "b"])
