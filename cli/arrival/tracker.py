"""Folds commits and proxy statuses: which proxies a version concerns, and which have acknowledged it.

Pure: takes records in any interleaving of the two streams.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from shared.records.proxy_status import ProxyStatus
from shared.records.snapshot import SDS, Commit, Snapshot


class Rollout(msgspec.Struct, frozen=True):
    """The progress of a range of versions."""

    version: int
    concerned: int
    """Proxies whose configuration changed."""
    waiting: tuple[str, ...]
    """Keys of the proxies that have not acknowledged, sorted."""
    refusals: tuple[str, ...]
    """`proxy: type: message` of each refusal."""
    last_ack: int
    """When the last acknowledgement arrived, nanoseconds since 1970; 0 if there is none."""

    @property
    def complete(self) -> bool:
        """Whether every proxy concerned has acknowledged."""
        return not self.waiting


class _TrackedVersion:
    def __init__(self, concerned: list[str], epoch: str) -> None:
        self.concerned = concerned
        self.epoch = epoch
        self.waiting = set(concerned)
        self.last_ack = 0


class Tracker:
    """Follows versions to their acknowledgements."""

    def __init__(self, *, from_nothing: bool = False) -> None:
        """`from_nothing`: the first commit taken is the first ever published, and concerns every proxy in it.

        Otherwise the first is where following begins: which proxies it concerned is not known, so none is awaited.
        """
        self.snapshot = Snapshot()
        self.status: dict[str, ProxyStatus] = {}
        self._from_nothing = from_nothing
        self._versions: dict[int, _TrackedVersion] = {}

    def take_commit(self, commit: Commit) -> None:
        """Fold a commit (or a keyframe) in."""
        version = _TrackedVersion(self._apply(commit), commit.epoch)
        earlier = self._versions.get(commit.version)
        if earlier is not None and earlier.epoch == version.epoch:
            # Published again, as a whole, because a part of the log is damaged: it concerns the same proxies.
            version.concerned = sorted({*earlier.concerned, *version.concerned})
            version.waiting |= earlier.waiting
            version.last_ack = earlier.last_ack
        self._versions[commit.version] = version
        gone = [key for key, proxy in commit.proxies.items() if proxy is None]
        for tracked in self._versions.values():
            tracked.waiting.difference_update(gone)
        for key in sorted(version.waiting):
            if key in self.status:
                self._settle(commit.version, version, key, self.status[key])

    def _apply(self, commit: Commit) -> list[str]:
        """Apply a commit; the keys of the proxies whose configuration it may change, sorted."""
        if commit.parent:
            self.snapshot.apply(commit)
            return self.snapshot.concerned(commit)
        # A whole snapshot names every view: only a view that differs from what a proxy held concerns it.
        begun = self._from_nothing or self.snapshot.version > 0
        had = self._held_by_proxy()
        self.snapshot.apply(commit)
        return sorted(key for key, view in self._held_by_proxy().items() if had.get(key) != view) if begun else []

    def _held_by_proxy(self) -> dict[str, tuple[str, Mapping[str, Mapping[str, str]]]]:
        """The resources that each proxy should hold: its uid, and the names and hashes of its class."""
        views = self.snapshot.views
        return {
            key: (proxy.uid, {kind: dict(names) for kind, names in views[proxy.workload_class].items()})
            for key, proxy in self.snapshot.proxies.items()
            if proxy.workload_class in views
        }

    def take_status(self, status: ProxyStatus) -> None:
        """Fold a proxy's newest status in."""
        key = f"{status.cluster}/{status.namespace}/{status.pod}"
        self.status[key] = status
        for number, version in self._versions.items():
            if key in version.waiting:
                self._settle(number, version, key, status)

    def _settle(self, number: int, version: _TrackedVersion, key: str, status: ProxyStatus) -> None:
        if status.connected and status.acked_in(version.epoch) >= number:
            version.waiting.discard(key)
            # Secrets are acknowledged at each renewal, whatever the version.
            moments = (one.acked_at for type_url, one in status.types.items() if type_url != SDS)
            version.last_ack = max(version.last_ack, *moments, 0)

    def version_of(self, sequence: int) -> int | None:
        """The first version taken that holds the event at `sequence`; None if there is none."""
        return min((number for number in self._versions if number >= sequence), default=None)

    def rollout(self, *, after: int, until: int) -> Rollout:
        """The progress of all versions above `after`, up to and including `until`."""
        chosen = [version for number, version in self._versions.items() if after < number <= until]
        waiting = {key for version in chosen for key in version.waiting}
        return Rollout(
            version=until,
            concerned=len({key for version in chosen for key in version.concerned}),
            waiting=tuple(sorted(waiting)),
            refusals=tuple(
                f"{key}: {type_url.rpartition('.')[2]}: {one.refusal.message}"
                for key in sorted(waiting & self.status.keys())
                for type_url, one in sorted(self.status[key].types.items())
                if one.refusal is not None
            ),
            last_ack=max((version.last_ack for version in chosen), default=0),
        )
