"""Which of the machine's files a container sees, all of them read-only: programs, libraries, and this mesh's own code.

A container has no image, so the machine's programs stand in for one. What is not named here is not there: homes,
keys, other programs' data and sockets, the state directories of meshes. A pod that needs more mounts it (`hostPath`).
"""

# Links are looked at one by one, and compared as text.
# ruff: noqa: PTH114, PTH115, PTH118, PTH120

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store")
_SETTINGS = (
    "alpine-release", "alternatives", "bash.bashrc", "ca-certificates", "ca-certificates.conf", "crypto-policies",
    "debian_version", "fonts", "gai.conf", "group", "host.conf", "inputrc", "ld.so.cache", "ld.so.conf",
    "ld.so.conf.d", "locale.alias", "locale.conf", "localtime", "login.defs", "lsb-release", "magic", "magic.mime",
    "mime.types", "networks", "nsswitch.conf", "os-release", "passwd", "pki/ca-trust/extracted", "pki/tls/cert.pem",
    "pki/tls/certs", "pki/tls/openssl.cnf", "profile", "protocols", "redhat-release", "rpc", "services", "shells",
    "ssl/cert.pem", "ssl/certs", "ssl/openssl.cnf", "terminfo", "timezone",
)  # fmt: skip
"""Of /etc: what any image holds for any program. Never keys, and no settings of services, which may hold passwords."""
_LANGUAGES = ("java", "perl", "python")
"""Beginnings of names in /etc, with a version behind them: settings that a language's own programs want."""
_OF_A_PREFIX = ("bin", "lib", "lib64", "libexec", "share", "ssl", "pyvenv.cfg")
"""Of the interpreter's directories: one may be a home with other things in it."""


def shown() -> list[str]:
    """The paths to show, parents before children: directories and files, and the symbolic links that lead to them."""
    settings = [f"/etc/{name}" for name in _SETTINGS]
    settings += [str(path) for path in Path("/etc").iterdir() if path.name.startswith(_LANGUAGES)]
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    own = [f"{prefix}/{name}" for prefix in sorted(prefixes) for name in _OF_A_PREFIX]
    return _without_covered(
        each for path in [*_PROGRAMS, *settings, *own, sys.executable, *_packages()] for each in _way_to(path)
    )


def search_path(found: Iterable[str], path: str) -> list[str]:
    """Those directories of a `PATH` that a container sees too."""
    shown_paths = list(found)
    entries = (os.path.realpath(entry) for entry in path.split(":") if entry.startswith("/"))
    return list(dict.fromkeys(entry for entry in entries if _covered(entry, shown_paths)))


def _packages() -> list[str]:
    """This source tree's packages; beside them may lie anything."""
    root = Path(__file__).resolve().parents[3]
    if str(root).startswith(tuple(f"{prefix}/lib" for prefix in (sys.prefix, sys.base_prefix))):
        return []  # installed among all others
    return [str(path.parent) for path in sorted(root.glob("*/__init__.py"))]


def _way_to(path: str) -> Iterator[str]:
    """The symbolic links on the way to what a path names, and that itself; nothing if there is nothing."""
    for _ in range(40):
        at = ""
        parts = path.strip("/").split("/")
        for number, part in enumerate(parts):
            at = f"{at}/{part}"
            if os.path.islink(at):
                yield at
                path = os.path.normpath(os.path.join(os.path.dirname(at), os.readlink(at), *parts[number + 1 :]))
                break
        else:
            if os.access(at, os.R_OK):
                yield at
            return


def _without_covered(paths: Iterable[str]) -> list[str]:
    kept: list[str] = []
    for path in sorted(set(paths), key=lambda path: (path.count("/"), path)):
        if not _covered(path, kept):
            kept.append(path)
    return kept


def _covered(path: str, by: Iterable[str]) -> bool:
    return any(path == each or path.startswith(each + "/") for each in by)
