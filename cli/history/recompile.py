"""Compiles past states again with the code that the mesh runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cli.history.archive import About
from cli.history.timeline import LoggedEvent
from services.compiler.core.compiler import Compiler
from services.compiler.mesh_state import MeshSettings
from shared.policy.budgets import budgets_from
from shared.policy.object_name import ObjectName
from shared.records.snapshot import Snapshot


def settings_of(about: About) -> MeshSettings:
    """Return the settings of this mesh's compiler."""
    return MeshSettings(
        cluster=about.cluster,
        mesh_name=about.mesh_name,
        namespace=about.namespace,
        trust_domain=about.trust_domain,
        service_domain=about.service_domain,
        budgets=budgets_from(about.budgets),
    )


def compiler_of(
    about: About, state: Iterable[LoggedEvent], *, serves: Callable[[ObjectName], bool] = lambda _: True
) -> Compiler:
    """Return a compiler that has folded a state, for the proxies of the pods that `serves` accepts."""
    compiler = Compiler(settings_of(about), serves=serves, recording=False)
    for item in state:
        compiler.fold(item.event, item.sequence, epoch="history")
    return compiler


def compiled(compiler: Compiler, before: Snapshot | None = None) -> Snapshot:
    """Return the snapshot of the folded events; continues `before`, which is modified."""
    snapshot = before or Snapshot()
    commit = compiler.commit(snapshot)
    if commit is not None:
        snapshot.apply(commit)
    compiler.accept()
    return snapshot
