"""Builds the root file system of a container: a tmpfs with programs of the machine and volumes mounted into it.

There are no images: files of the machine that programs need (`shown`) are bind-mounted read-only. Everything else is
empty and writable: `/tmp`, `/run`, `/var`, homes and `/` itself. If the target of a volume does not exist below a shown
directory, the directories on its path are *opened*: created on the tmpfs with their children bind-mounted one by one,
so that the missing name can be added. Runs in the spawner's child, hence string paths and few imports.
"""

# A container starts in a few ms, of which pathlib would take a large part.
# ruff: noqa: PTH101, PTH102, PTH103, PTH112, PTH114, PTH115, PTH118, PTH120, PTH208, PTH211, S108

from __future__ import annotations

import errno
import os

from deploy.devcluster.node import kernel_filesystems, syscalls

_OWN = {
    "/etc": 0o755, "/home": 0o755, "/mnt": 0o755, "/opt": 0o755, "/root": 0o700, "/run": 0o755, "/run/lock": 0o1777,
    "/srv": 0o755, "/tmp": 0o1777, "/var": 0o755, "/var/cache": 0o755, "/var/lib": 0o755, "/var/log": 0o755,
    "/var/spool": 0o755, "/var/tmp": 0o1777,
}  # fmt: skip
"""Private directories of each container with their modes, empty at the start."""
_LINKS = {"/var/run": "/run", "/var/lock": "/run/lock"}
_SETTINGS = "/etc/"
_SHOWN_SO = syscalls.ATTR_RDONLY | syscalls.ATTR_NOSUID | syscalls.ATTR_NODEV


def build(staging: str, mounts: list[tuple[str, str, bool]], shown: list[str], hidden: str) -> None:
    """Build the root and enter it. Mounts are (source, target, read only); `staging` is an empty directory.

    `shown` are paths of the machine, parents first. `hidden` is a directory that stays invisible, also inside mounts.
    The caller must be in its own mount namespace. Raises `OSError` that names the failed mount.
    """
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    # Parents before children: a volume may be inside another.
    volumes = sorted(
        ((os.path.realpath(source), _target(target, shown), read_only) for source, target, read_only in mounts),
        key=lambda volume: volume[1].count("/"),
    )
    targets = {target for _, target, _ in volumes}
    syscalls.mount("meshlog", staging, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=755")
    # A bind mount of the directory that contains `staging` must not include the new root.
    syscalls.mount("none", staging, flags=syscalls.MS_UNBINDABLE)
    for path, mode in _OWN.items():
        os.mkdir(staging + path)
        os.chmod(staging + path, mode)
    for path, leads_to in _LINKS.items():
        os.symlink(leads_to, staging + path)
    opened = _opened(targets, shown)
    for path in shown:
        if not targets.intersection([path, *_ancestors(path)]):
            _show(path, staging, opened, targets, hidden)
    kernel_filesystems.make(staging)
    for source, target, read_only in volumes:
        _make_place(staging, target, directory=os.path.isdir(source))
        _bind(source, staging + target, syscalls.ATTR_RDONLY if read_only else 0, hidden)
    for path in shown:
        if not path.startswith(_SETTINGS) and path not in targets and targets.intersection(_ancestors(path)):
            _show_in_volume(path, staging, hidden)
    syscalls.change_root(staging)
    syscalls.mount("none", "/", flags=syscalls.MS_PRIVATE)


def make_read_only() -> None:
    """Make the root read-only (`readOnlyRootFilesystem`). Volumes are separate mounts and stay writable."""
    flags = syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV
    syscalls.mount("none", "/", flags=flags)


def _ancestors(path: str) -> list[str]:
    parts = path.strip("/").split("/")
    return ["/" + "/".join(parts[:count]) for count in range(1, len(parts))]


def _below(path: str, tops: set[str]) -> bool:
    return path in tops or not tops.isdisjoint(_ancestors(path))


def _target(path: str, shown: list[str]) -> str:
    """Resolve symbolic links of the new root in a target path; links in volumes are not followed."""
    tops = set(shown)
    for _ in range(40):
        path = os.path.normpath(path)
        for at in [*_ancestors(path), path]:
            link = _LINKS.get(at) or (os.readlink(at) if _below(at, tops) and os.path.islink(at) else "")
            if link:
                path = os.path.join(os.path.dirname(at), link, path[len(at) + 1 :])
                break
        else:
            return path
    raise OSError(errno.ELOOP, f"mount on {path}: {os.strerror(errno.ELOOP)}")


def _opened(targets: set[str], shown: list[str]) -> set[str]:
    """Shown directories that must be opened to create missing targets in them."""
    opened: set[str] = set()
    tops = set(shown)
    for path in targets:
        ancestors = _ancestors(path)
        if targets.isdisjoint(ancestors) and not tops.isdisjoint(ancestors) and not os.path.lexists(path):
            opened.update(each for each in ancestors if _below(each, tops) and os.path.isdir(each))
    return opened


def _show(path: str, made: str, opened: set[str], targets: set[str], hidden: str) -> None:
    """Bind-mount a path of the machine into the new root, unless a volume has this target."""
    place = made + path
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), place)
    elif path in targets:
        return
    elif path in opened:
        os.mkdir(place)
        for name in os.listdir(path):
            _show(f"{path}/{name}", made, opened, targets, hidden)
    else:
        try:
            if os.path.isdir(path):
                os.mkdir(place)
            else:
                _touch(place)
            _bind(path, place, _SHOWN_SO, hidden)
        except PermissionError:
            return  # the user has no access


def _show_in_volume(path: str, made: str, hidden: str) -> None:
    """Bind-mount the interpreter or the mesh's code into a volume that covers it: a clone may be in `/tmp`.

    If this fails, the volume stays unchanged. Links in it are not followed: they would lead out of the new root.
    """
    place = made + path
    if any(os.path.islink(made + at) for at in [*_ancestors(path), path]):
        return
    try:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if os.path.islink(path):
            if not os.path.lexists(place):
                os.symlink(os.readlink(path), place)
            return
        if os.path.isdir(path):
            os.makedirs(place, exist_ok=True)
        elif not os.path.lexists(place):
            _touch(place)
        _bind(path, place, _SHOWN_SO, hidden)
    except OSError:
        return


def _bind(source: str, place: str, attributes: int, hidden: str) -> None:
    syscalls.bind(source, place, attributes=attributes)
    if hidden == source or hidden.startswith(source.rstrip("/") + "/"):
        covered = place + hidden[len(source.rstrip("/")) :]
        syscalls.mount("meshlog", covered, "tmpfs", syscalls.MS_RDONLY, "mode=000,size=0")


def _make_place(staging: str, target: str, *, directory: bool) -> None:
    place = staging + target
    for at in [*_ancestors(target), target]:
        # The link may come from the content of a volume: followed, it would lead out of the new root.
        if os.path.islink(staging + at):
            raise OSError(errno.ELOOP, f"mount on {target}: {at} is a symbolic link")
    if os.path.lexists(place):
        return
    os.makedirs(place if directory else os.path.dirname(place), exist_ok=True)
    if not directory:
        _touch(place)


def _touch(place: str) -> None:
    os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
