"""The properties of the compiler can fail: they notice every one of the seeded mistakes."""

from __future__ import annotations

import pytest

from tests.oracle.mutants import MUTANTS, Mutant, mutated, source_of, survives


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.name)
def test_a_mistake_still_is_one(mutant: Mutant) -> None:
    """Its text stands exactly once in the module, and the module with the mistake is still Python."""
    compile(mutated(source_of(mutant).read_text(), mutant), mutant.module, "exec")


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.name)
def test_a_mistake_is_noticed(mutant: Mutant) -> None:
    assert not survives(mutant), f"{mutant.by} does not notice: {mutant.name}"
