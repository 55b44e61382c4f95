"""Where the CA's keys live: a file of mode 0600, or a Kubernetes Secret. Created once, by whichever replica is first.

Both creations are atomic and refuse to replace: a link to a finished file, a POST. Who loses the race reads the
winner's keys. Neither is ever written again here, so a full disk or a crash cannot damage keys in use.
"""

from __future__ import annotations

import base64
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from services.ca.authority import Authority, AuthorityError, StoredAuthority, decode_authority, encode_authority
from services.ca.kube import KubeApi, KubeError

SECRET_KEY = "authority.json"  # noqa: S105 (the name of a key in a Secret)


class KeyStore(Protocol):
    """Holds the CA's keys."""

    async def load_or_create(self, trust_domain: str, create: Callable[[], StoredAuthority]) -> Authority:
        """The stored keys; `create` is called when there are none, and its result counts if nobody was faster."""
        ...


class FileKeyStore:
    """Keys in a file; the directory is made with mode 0700."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def load_or_create(self, trust_domain: str, create: Callable[[], StoredAuthority]) -> Authority:
        """See `KeyStore`. Raises `AuthorityError` if the file is unreadable, damaged or open to others."""
        try:
            if not self._path.exists():
                _create_once(self._path, encode_authority(create()))
            _check_mode(self._path)
            raw = self._path.read_bytes()
        except OSError as error:
            raise AuthorityError("ca/keys-file", f"cannot be used: {error.strerror}", about=str(self._path)) from error
        return decode_authority(raw, trust_domain=trust_domain, about=str(self._path))


def _create_once(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        # A link never replaces, and appears with all its content: the first replica wins, the others read.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _check_mode(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise AuthorityError("ca/keys-mode", f"has mode {mode:04o}, others can read it: chmod 600", about=str(path))


class _SecretData(msgspec.Struct):
    data: dict[str, str] = {}


class SecretKeyStore:
    """Keys in a Kubernetes Secret of the mesh's namespace."""

    def __init__(self, kube: KubeApi, *, namespace: str, name: str = "meshlog-ca") -> None:
        self._kube = kube
        self._namespace = namespace
        self._name = name

    async def load_or_create(self, trust_domain: str, create: Callable[[], StoredAuthority]) -> Authority:
        """See `KeyStore`. Raises `AuthorityError`, and `KubeError` while the API cannot answer."""
        about = f"Secret {self._namespace}/{self._name}"
        collection = f"/api/v1/namespaces/{self._namespace}/secrets"
        answer = await self._kube.request("GET", f"{collection}/{self._name}")
        if answer.status == 404:
            secret = {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": self._name, "namespace": self._namespace},
                "type": "Opaque",
                "data": {SECRET_KEY: base64.b64encode(encode_authority(create())).decode()},
            }
            created = await self._kube.request("POST", collection, body=secret)
            if created.status not in {200, 201, 409}:
                raise KubeError.of("POST", collection, created)
            answer = await self._kube.request("GET", f"{collection}/{self._name}")
        if answer.status != 200:
            raise KubeError.of("GET", f"{collection}/{self._name}", answer)
        try:
            raw = base64.b64decode(msgspec.json.decode(answer.body, type=_SecretData).data[SECRET_KEY], validate=True)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, ValueError):
            raise AuthorityError(
                "ca/keys", "does not hold the CA's keys; restore it from a backup", about=about
            ) from None
        return decode_authority(raw, trust_domain=trust_domain, about=about)
