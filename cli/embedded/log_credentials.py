"""The credentials of an embedded mesh's log: created once, kept beside its data.

The Secrets are those of an installation (`deploy.install.secrets`), in one file for its owner alone that the
devcluster applies. The credentials of users of this machine are files beside it, as settings expect them: the command
connects as `operator`, which may read everything and write pins.
"""

from __future__ import annotations

import shutil
import ssl
from pathlib import Path
from typing import Any

import yaml

from deploy.install.profile import Profile
from shared.errors import BadInputError
from shared.eventlog.jetstream.nats_connection import LogAccess
from shared.io.atomic_file import write_atomically

SECRETS = "log-secrets.yaml"
DIRECTORY = "access"
"""Directory of `NAME.password` of each human user, and `ca.crt`; absent if an older build's log needs no password."""
OPERATOR = "operator"
_CA = "ca.crt"


def prepare(state: Path, profile: Profile) -> Path | None:
    """Write the Secrets and the users' files; returns the path of the Secrets, or None if the log needs none."""
    if not profile.nats_secured:
        # A client that finds them would send a password in the clear to a server that needs none.
        shutil.rmtree(state / DIRECTORY, ignore_errors=True)
        return None
    from deploy.install.secrets import NATS_SECRET, PEOPLE, log_secrets

    path = state / SECRETS
    if not path.exists():
        write_atomically(path, yaml.safe_dump_all(log_secrets(profile), sort_keys=False).encode())
    held = _read(path)
    directory = state / DIRECTORY
    directory.mkdir(mode=0o700, exist_ok=True)
    try:
        for name in PEOPLE:
            data = held[NATS_SECRET.format(name)]
            write_atomically(directory / f"{name}.password", data["password"].encode(), sync="none")
            write_atomically(directory / _CA, data["ca.crt"].encode(), sync="none")
    except KeyError as error:
        raise BadInputError("up/credentials", f"lacks {error}; restore it or remove it", about=str(path)) from error
    return path


def access(state: Path, address: tuple[str, int], *, name: str, user: str = OPERATOR) -> LogAccess:
    """Access to the log of the mesh in `state`, which listens at `address`; `name` is for its monitoring."""
    if not _secured(state):
        return LogAccess(servers=(_url("nats", *address),), name=name)
    return LogAccess(
        servers=(_url("tls", *address),),
        name=name,
        user=user,
        password_file=str(state / DIRECTORY / f"{user}.password"),
        tls=ssl.create_default_context(cafile=str(state / DIRECTORY / _CA)),
        inbox=f"_INBOX_{user}",
        accounts=True,
    )


def settings(state: Path, address: tuple[str, int]) -> list[str]:
    """The same as settings of a service (`shared.service.settings`)."""
    if not _secured(state):
        return ["--nats-url", _url("nats", *address)]
    directory = state / DIRECTORY
    return [
        *("--nats-url", _url("tls", *address)),
        *("--nats-user", OPERATOR),
        *("--nats-password-file", str(directory / f"{OPERATOR}.password")),
        *("--nats-ca-file", str(directory / _CA)),
        "--nats-accounts",
    ]


def _secured(state: Path) -> bool:
    return (state / DIRECTORY).is_dir()


def _url(scheme: str, host: str, port: int) -> str:
    # The servers' certificate is issued for that name.
    return f"{scheme}://{'localhost' if scheme == 'tls' and host == '127.0.0.1' else host}:{port}"


def _read(path: Path) -> dict[str, dict[str, str]]:
    try:
        found: list[Any] = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        return {one["metadata"]["name"]: one["stringData"] for one in found}
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError, RecursionError) as error:
        # Never print its content: it holds passwords.
        raise BadInputError(
            "up/credentials", f"cannot be read ({type(error).__name__}); restore it or remove it", about=str(path)
        ) from error
