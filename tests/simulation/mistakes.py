"""Compilers with a mistake, to see that the simulation notices: each publishes what no policy in force says."""

from __future__ import annotations

from services.compiler.compiler import Compiler
from shared.events import DELETED, Event

REVOKED = frozenset({"TrafficTarget", "HTTPRouteGroup"})
"""Kinds whose deletion takes rights away."""


class Forgetful(Compiler):
    """Skips the deletions of policy: what was granted once is granted for ever."""

    def fold(self, event: Event, sequence: int, *, epoch: str = "", traceparent: str = "") -> None:
        if event.kind in REVOKED and event.operation == DELETED:
            self.version, self.epoch = sequence, epoch or self.epoch
            return
        super().fold(event, sequence, epoch=epoch, traceparent=traceparent)


class Late(Compiler):
    """Takes a deletion of policy five events late: the right outlives it for a moment, and nothing shows later."""

    _held: tuple[Event, int] | None = None

    def fold(self, event: Event, sequence: int, *, epoch: str = "", traceparent: str = "") -> None:
        if self._held is not None and sequence >= self._held[1] + 5:
            late, self._held = self._held[0], None
            super().fold(late, sequence, epoch=epoch)
        if self._held is None and event.kind in REVOKED and event.operation == DELETED:
            self._held = event, sequence
            self.version, self.epoch = sequence, epoch or self.epoch
            return
        super().fold(event, sequence, epoch=epoch, traceparent=traceparent)


MISTAKES: dict[str, type[Compiler]] = {"forgetful": Forgetful, "late": Late}
