"""Derives the conditions of policy objects from the log's state, the compiler's progress and the proxies' statuses."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import msgspec

from services.ingestor.core.object_index import ObjectIndex
from services.ingestor.core.observations import Projected
from services.ingestor.status.ack_progress import AckProgress
from services.ingestor.status.conditions import OURS, Condition, StatusFacts, conditions
from services.ingestor.status.reports import ConditionReport, Key, PinnedForms
from shared import projected_objects
from shared.io.decoding import UndecodableError, decode
from shared.membership import mesh_of
from shared.policy import support_matrix
from shared.records.events import ObjectKey

NOT_SUPPORTED = "mesh/not-supported-yet"


class Pending(msgspec.Struct, frozen=True):
    """The conditions of an object are not known yet."""

    until: float | None
    """When to evaluate it again; None: once the compiler has read its event."""


class StatusEvaluator:
    """Evaluates one object at a time; owned by the reporter."""

    def __init__(
        self,
        progress: AckProgress,
        index: ObjectIndex,
        *,
        cluster: str,
        mesh_namespace: str,
        now: Callable[[], str],
        patience: float,
    ) -> None:
        """`now` returns RFC 3339. `patience`: seconds that a proxy may lag before a condition names it."""
        self.pinned: PinnedForms | None = None
        """The policy that a pin keeps in force; None: there is no pin."""
        self._progress = progress
        self._index = index
        self._cluster = cluster
        self._mesh_namespace = mesh_namespace
        self._now = now
        self._patience = patience
        self._late: dict[Key, float] = {}
        """When proxies that lack the object were first noticed."""
        self._unclaimed: set[str] = set()
        """Namespaces that no mesh claims by their label."""

    def see_namespace(self, namespace: Projected) -> None:
        """Record whether a mesh claims a namespace."""
        labels = msgspec.json.decode(namespace.body, type=projected_objects.Namespace).metadata.labels
        claimed = mesh_of(labels) is not None
        (self._unclaimed.discard if claimed else self._unclaimed.add)(namespace.name.name)

    def forget(self, key: Key) -> None:
        """Forget a deleted object."""
        self._late.pop(key, None)

    def compiled(self, key: Key, item: Projected | None) -> int:
        """Returns the sequence of the event of this form of an object; 0: the compiler has not read it."""
        known = self._index.get(*key)
        if item is None or known is None or (known.uid, known.digest) != (item.uid, item.digest):
            return 0
        return known.sequence if known.sequence <= self._progress.compiled else 0

    def evaluate(self, key: Key, item: Projected, now: float) -> ConditionReport | Pending | None:
        """Returns the report of an object, or None if its conditions need no change."""
        before = conditions_in(item.status)
        namespace = item.name.namespace
        if namespace != self._mesh_namespace and namespace not in self._progress.namespaces:
            if namespace not in self._unclaimed or all(each.get("type") not in OURS for each in before):
                return None
            facts = StatusFacts(version=0, outside=True)
        else:
            facts = self._facts(key, item, now)
        if isinstance(facts, Pending):
            return facts
        after = conditions(facts, generation=item.generation, before=before, now=self._now())
        if comparable(before) == comparable(after):
            return None
        return ConditionReport(object=item, conditions=tuple(after))

    def _facts(self, key: Key, item: Projected, now: float) -> StatusFacts | Pending:
        sequence = self.compiled(key, item)
        if not sequence:
            return Pending(None)
        if self.pinned is not None and self.pinned.forms.get(key) != (item.uid, item.digest):
            return StatusFacts(version=sequence, pinned=self.pinned.version)
        of = ObjectKey(cluster=self._cluster, kind=item.kind, namespace=item.name.namespace, name=item.name.name)
        concerned = self._progress.concerned(of, sequence)
        refused = tuple(
            (_short(proxy), reason) for proxy in concerned.waiting if (reason := self._progress.refusal(proxy))
        )
        if not concerned.waiting:
            self._late.pop(key, None)
        elif not refused and now < (until := self._late.setdefault(key, now) + self._patience):
            return Pending(until)
        whole, missing = _unsupported(item.kind, item.body)
        reasons = [(one.code, one.sentence) for one in self._progress.left_out(of)]
        return StatusFacts(
            version=sequence,
            left_out=((NOT_SUPPORTED, missing),) if whole else tuple(reasons),
            unsupported="" if whole else missing,
            concerned=concerned.count,
            waiting=tuple(map(_short, concerned.waiting)),
            refused=refused,
        )


@functools.lru_cache(maxsize=4096)
def _unsupported(kind: str, body: bytes) -> tuple[bool, str]:
    """Returns whether the whole kind is unsupported, and a sentence about it or about its unsupported fields."""
    found = support_matrix.findings(kind, msgspec.json.decode(body, type=projected_objects.PolicyObject).spec)
    whole = any(not one.path and one.support.state == "not yet" for one in found)
    return whole, support_matrix.sentence(found)


def _short(proxy: str) -> str:
    return proxy.partition("/")[2]


def comparable(held: Sequence[Condition]) -> list[tuple[str, ...]]:
    """Returns the parts of conditions that matter for a comparison, sorted: not the times."""
    parts = ("type", "status", "reason", "message", "observedGeneration")
    return sorted(tuple(str(each.get(part, "")) for part in parts) for each in held)


class _ConditionList(msgspec.Struct):
    conditions: list[Condition] = []


def conditions_in(status: bytes) -> list[Condition]:
    """Returns the conditions of a status; empty if other content cannot be decoded as conditions."""
    try:
        return decode(_ConditionList, status).conditions if status else []
    except UndecodableError:
        return []
