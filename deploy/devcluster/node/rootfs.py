"""What a container sees as `/`: the machine's own files, with the pod's volumes where the pod wants them.

There are no images. An ordinary user cannot make directories in `/`, so the new root is a tmpfs into which the
entries of the real root are bound; on the way to a volume's target that does not exist, directories are *opened*:
made anew in the tmpfs, their children bound one by one, so that the missing name can be added beside them.
`/tmp` and `/run` are the container's own. What must not vanish although it lies below them (the interpreter, the
source tree) is bound again. Runs in the spawner's child, hence plain paths and next to no imports.
"""

# A container starts in 4 ms; pathlib would be a good part of it.
# ruff: noqa: PTH102, PTH103, PTH108, PTH112, PTH115, PTH120, PTH211

from __future__ import annotations

import os

from deploy.devcluster.node import kernel

PRIVATE = ("/tmp", "/run")  # noqa: S108 - these are the targets of mounts, not files we write
"""Directories that each container has for itself, empty at the start."""


def build(staging: str, mounts: list[tuple[str, str, bool]], kept: list[str]) -> None:
    """Build the root and enter it. Mounts are (source, target, read only); `staging` is an empty directory.

    The caller is in its own mount namespace. Raises `OSError` naming the mount that failed.
    """
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    wanted = [(source, os.path.realpath(target), read_only) for source, target, read_only in mounts]
    wanted += [(path, path, False) for path in kept if _private(path)]
    # Parents before children, so that a volume may lie inside another.
    wanted.sort(key=lambda entry: entry[1].count("/"))
    targets = {target for _, target, _ in wanted}
    sources = {target: source for source, target, _ in wanted}
    opened = _opened([target for _, target, _ in wanted], targets)
    kernel.mount("meshlog", staging, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755")
    # Binding the directory that holds `staging` must not bind the new root into itself.
    kernel.mount("none", staging, flags=kernel.MS_UNBINDABLE)
    _fill("/", staging, opened, targets)
    for source, target, read_only in wanted:
        place = staging + target
        _make_place(place, directory=os.path.isdir(sources[target]))
        kernel.bind(source, place, read_only=read_only)
    kernel.change_root(staging)
    kernel.mount("none", "/", flags=kernel.MS_PRIVATE)


def _private(path: str) -> bool:
    return any(path == top or path.startswith(top + "/") for top in PRIVATE)


def _ancestors(path: str) -> list[str]:
    parts = path.strip("/").split("/")
    return ["/" + "/".join(parts[:count]) for count in range(1, len(parts))]


def _opened(paths: list[str], targets: set[str]) -> set[str]:
    """Existing directories that must be opened so that each missing target can be made in them."""
    opened: set[str] = set()
    for path in paths:
        ancestors = _ancestors(path)
        if _private(path) or targets.intersection(ancestors) or os.path.lexists(path):
            continue
        opened.update(ancestor for ancestor in ancestors if os.path.isdir(ancestor))
    return opened


def _fill(real: str, made: str, opened: set[str], targets: set[str]) -> None:
    try:
        entries = list(os.scandir(real))
    except PermissionError:
        return  # what this user cannot list he does not see
    for entry in entries:
        path, place = entry.path, f"{made}/{entry.name}"
        if entry.is_symlink():
            os.symlink(os.readlink(path), place)
        elif entry.is_dir(follow_symlinks=False):
            os.mkdir(place)
            if path in opened and path not in PRIVATE:
                _fill(path, place, opened, targets)
            elif path not in targets:
                _show_directory(path, place)
        elif path not in targets:
            _touch(place)
            try:
                kernel.bind(path, place)
            except PermissionError:
                os.unlink(place)


def _show_directory(path: str, place: str) -> None:
    if path in PRIVATE:
        mode = "mode=1777" if path == "/tmp" else "mode=755"  # noqa: S108
        kernel.mount("meshlog", place, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, mode)
    elif path == "/proc":
        _mount_processes(place)
    else:
        kernel.bind(path, place)


def _mount_processes(place: str) -> None:
    try:
        kernel.mount("proc", place, "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    except PermissionError:
        # Where parts of /proc are masked (in some containers) the kernel grants no fresh one.
        kernel.bind("/proc", place)


def _make_place(place: str, *, directory: bool) -> None:
    if os.path.lexists(place):
        return
    os.makedirs(place if directory else os.path.dirname(place), exist_ok=True)
    if not directory:
        _touch(place)


def _touch(place: str) -> None:
    os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
