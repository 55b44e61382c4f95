"""Lists the files of the machine that containers see read-only: programs, libraries, and the mesh's own code.

There are no images, so the machine's programs replace them. All other files are invisible: homes, keys, data and
sockets of other programs, state directories of meshes. A pod mounts further files as `hostPath`.
"""

# Links are resolved one by one, and compared as text.
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
"""Entries of /etc that every image has. No keys and no settings of services, which may contain passwords."""
_LANGUAGES = ("java", "perl", "python")
"""Prefixes of versioned names in /etc: settings of language runtimes."""
_OF_A_PREFIX = ("bin", "lib", "lib64", "libexec", "share", "ssl", "pyvenv.cfg")
"""Entries of the interpreter's prefix; the prefix itself may be a home with other files."""


def shown() -> list[str]:
    """Visible paths, parents before children: directories, files, and the symbolic links that lead to them."""
    settings = [f"/etc/{name}" for name in _SETTINGS]
    settings += [str(path) for path in Path("/etc").iterdir() if path.name.startswith(_LANGUAGES)]
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    own = [f"{prefix}/{name}" for prefix in sorted(prefixes) for name in _OF_A_PREFIX]
    return _without_covered(
        each for path in [*_PROGRAMS, *settings, *own, sys.executable, *_packages()] for each in _way_to(path)
    )


def search_path(found: Iterable[str], path: str) -> list[str]:
    """The directories of a `PATH` that containers see."""
    shown_paths = list(found)
    entries = (os.path.realpath(entry) for entry in path.split(":") if entry.startswith("/"))
    return list(dict.fromkeys(entry for entry in entries if _covered(entry, shown_paths)))


def _packages() -> list[str]:
    """The packages of this source tree, without other files beside them."""
    root = Path(__file__).resolve().parents[3]
    if str(root).startswith(tuple(f"{prefix}/lib" for prefix in (sys.prefix, sys.base_prefix))):
        return []  # installed among all others
    return [str(path.parent) for path in sorted(root.glob("*/__init__.py"))]


def _way_to(path: str) -> Iterator[str]:
    """The symbolic links on a path, and its final target; empty if it does not exist."""
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
