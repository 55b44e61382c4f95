"""Seeded mistakes in the compiler: each changes one line of it, and some property must notice.

    python -m tests.oracle.mutants           # try every mistake; exit code 1 if one survives
    python -m tests.oracle.mutants NAME      # one of them, in this process

No file is changed: the mistake is made while the module is loaded, in a process of its own.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = 800
"""Random meshes, at most, that each property is tried on."""
SEED = 20261121
NOTICED, SURVIVED = "noticed\n", "survived\n"


class Mutant(NamedTuple):
    """One mistake."""

    name: str
    module: str
    before: str
    """Text that the module holds exactly once."""
    after: str
    by: str = "oracle"
    """The property that must notice: `oracle`, `steps`, `incremental`, `newest` `tenants` or `budgets`."""


MUTANTS = tuple(Mutant(**one) for one in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text()))


class _Loader(importlib.machinery.SourceFileLoader):
    mutant: Mutant

    def get_data(self, path: str) -> bytes:
        found = super().get_data(path)
        return mutated(found.decode(), self.mutant).encode() if path.endswith(".py") else found

    def path_stats(self, path: str) -> dict[str, float]:  # noqa: ARG002 (as above)
        raise OSError  # no byte code of the module as it is


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 (the protocol has it)
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.mutant.module:
            return None
        where = str(source_of(self.mutant))
        loader = _Loader(fullname, where)
        loader.mutant = self.mutant
        return importlib.util.spec_from_file_location(fullname, where, loader=loader)


def source_of(mutant: Mutant) -> Path:
    """The file that the mistake is made in."""
    return ROOT / (mutant.module.replace(".", "/") + ".py")


def mutated(source: str, mutant: Mutant) -> str:
    """The module with the mistake. Raises `ValueError` if it would be none."""
    if source.count(mutant.before) != 1 or mutant.before == mutant.after:
        raise ValueError(f"{mutant.name!r} fits {source.count(mutant.before)} places of {mutant.module}")
    return source.replace(mutant.before, mutant.after)


def _properties() -> dict[str, Callable[[], None]]:
    from hypothesis import Phase, given, seed, settings
    from hypothesis import strategies as st

    from shared.policy.budgets import Budgets
    from shared.records.events import Event
    from tests.oracle.meshes import Mesh, meshes
    from tests.property.compiler import test_budgets, test_incremental, test_oracle, test_steps, test_tenants
    from tests.property.compiler.tenants import World
    from tests.property.compiler.tenants import worlds as worlds_of_tenants
    from tests.property.compiler.worlds import histories

    quick = settings(
        test_oracle.SLOW,
        max_examples=EXAMPLES,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )

    @seed(SEED)
    @quick
    @given(meshes(contested=True), st.data())
    def oracle(mesh: Mesh, data: st.DataObject) -> None:
        test_oracle.agrees(mesh, data)

    @seed(SEED)
    @quick
    @given(test_steps.histories(), st.data())
    def steps(history: test_steps.History, data: st.DataObject) -> None:
        test_steps.assert_no_step_grants_more(history, data)

    @seed(SEED)
    @quick
    @given(histories())
    def incremental(batches: list[list[Event]]) -> None:
        test_incremental.assert_incremental_is_from_scratch(batches)

    @seed(SEED)
    @quick
    @given(histories())
    def newest(batches: list[list[Event]]) -> None:
        test_incremental.assert_only_the_newest_event_matters(batches)

    @seed(SEED)
    @quick
    @given(worlds_of_tenants(), test_tenants.CUTS)
    def tenants(world: World, cuts: list[int]) -> None:
        test_tenants.assert_nothing_of_others_changes(world, cuts)

    @seed(SEED)
    @quick
    @given(histories(), test_budgets.budgets)
    def budgets(batches: list[list[Event]], limits: Budgets) -> None:
        test_budgets.assert_within(batches, limits)

    return {
        "oracle": oracle,
        "steps": steps,
        "incremental": incremental,
        "newest": newest,
        "tenants": tenants,
        "budgets": budgets,
    }


def noticed(mutant: Mutant) -> bool:
    """Whether the property notices the mistake, in this process, which is of no use afterwards."""
    loaded = [name for name in sys.modules if name.startswith(("services.", "shared."))]
    assert not loaded, f"{loaded[0]} is loaded without the mistake"
    sys.meta_path.insert(0, _Finder(mutant))
    from cli.calls.matching import UnknownConfigurationError

    try:
        _properties()[mutant.by]()
    except (AssertionError, UnknownConfigurationError):
        # The second: configuration that no compiler of ours makes, and that Envoy might take.
        return True
    return False


def survives(mutant: Mutant) -> bool:
    """Whether nobody notices the mistake, made in a process of its own."""
    command = [sys.executable, "-m", "tests.oracle.mutants", mutant.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.stdout not in {NOTICED, SURVIVED}:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout == SURVIVED


def main() -> int:
    """One mistake in this process, or all of them, each in its own."""
    if len(sys.argv) > 1:
        (mutant,) = [one for one in MUTANTS if one.name == sys.argv[1]]
        sys.stdout.write(NOTICED if noticed(mutant) else SURVIVED)
        return 0
    found = 0
    for mutant in MUTANTS:
        lives = survives(mutant)
        found += lives
        sys.stdout.write(f"{'SURVIVED' if lives else 'noticed '} {mutant.by:<11} {mutant.name}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{len(MUTANTS) - found} of {len(MUTANTS)} mistakes are noticed\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
