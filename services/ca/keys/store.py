"""Where the CA's keys live: a file of mode 0600, or a Kubernetes Secret. Created once, by whichever replica is first.

Both creations are atomic and refuse to replace: a link to a finished file, a POST. Who loses the race reads the
winner's keys. A root's keys are never written again; only an intermediate is replaced when it was renewed, whole.
"""

from __future__ import annotations

import base64
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from services.ca.keys.authority import Authority, AuthorityError, StoredAuthority, decode_authority, encode_authority
from services.ca.kubernetes.client import KubeApi, KubeError
from shared.io.atomic_file import write_atomically
from shared.io.decoding import UndecodableError, decode
from shared.names import CA_SECRET

SECRET_KEY = "authority.json"  # noqa: S105 (the name of a key in a Secret)
_DAMAGED = "does not hold the CA's keys; restore it from a backup"


class KeysLostError(AuthorityError):
    """The mesh trusts a root whose keys are gone, or were replaced by others. Nothing may be made in their place."""


class KeyStore(Protocol):
    """Holds the keys of one root."""

    async def load(self, trust_domain: str) -> Authority | None:
        """The stored keys, if there are any. Raises `AuthorityError`, and `KubeError` while the API cannot answer."""
        ...

    async def create(self, stored: StoredAuthority) -> None:
        """Store keys unless there are some: who was faster wins; `load` tells."""
        ...

    async def replace(self, stored: StoredAuthority) -> None:
        """Store keys over others: a renewed intermediate. The last one written counts."""
        ...

    async def load_or_create(self, trust_domain: str, create: Callable[[], StoredAuthority]) -> Authority:
        """The stored keys; `create` is called when there are none, and its result counts if nobody was faster."""
        ...


async def _load_or_create(store: KeyStore, trust_domain: str, create: Callable[[], StoredAuthority]) -> Authority:
    found = await store.load(trust_domain)
    if found is None:
        await store.create(create())
        found = await store.load(trust_domain)
    if found is None:
        raise AuthorityError("ca/keys", "the keys were deleted as soon as they were there")
    return found


class ExistingKeyStore:
    """Another store, for a root that the mesh trusts already: reads and renews its keys, and never makes first ones.

    Keys that were deleted behind the CA's back would otherwise be made anew in silence, and every certificate signed
    with them would lead to no root that anybody trusts.
    """

    def __init__(self, store: KeyStore, root: str) -> None:
        self._store = store
        self._root = root

    async def load(self, trust_domain: str) -> Authority:
        """See `KeyStore`; raises `KeysLostError` if there are none."""
        found = await self._store.load(trust_domain)
        if found is None:
            raise KeysLostError(
                "ca/keys-lost",
                "the mesh trusts this root, but its keys are gone from the key store: restore them, "
                "or rotate to a new root",
                about=self._root,
            )
        return found

    async def create(self, stored: StoredAuthority) -> None:  # noqa: ARG002 (the protocol's)
        """See `KeyStore`; raises `KeysLostError` if there are none."""
        raise KeysLostError("ca/keys-lost", "keys of a trusted root are never made twice", about=self._root)

    async def replace(self, stored: StoredAuthority) -> None:
        """See `KeyStore`."""
        await self._store.replace(stored)

    async def load_or_create(self, trust_domain: str, create: Callable[[], StoredAuthority]) -> Authority:  # noqa: ARG002
        """See `KeyStore`; raises `KeysLostError` if there are none."""
        return await self.load(trust_domain)


class FileKeyStore:
    """Keys in a file; the directory is made with mode 0700."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def load(self, trust_domain: str) -> Authority | None:
        """See `KeyStore`. Raises `AuthorityError` if the file is unreadable, damaged or open to others."""
        try:
            if not self._path.exists():
                return None
            _check_mode(self._path)
            raw = self._path.read_bytes()
        except OSError as error:
            raise self._unusable(error) from error
        return decode_authority(raw, trust_domain=trust_domain, about=str(self._path))

    async def create(self, stored: StoredAuthority) -> None:
        """See `KeyStore`."""
        self._write(stored, replace=False)

    async def replace(self, stored: StoredAuthority) -> None:
        """See `KeyStore`."""
        self._write(stored, replace=True)

    async def load_or_create(self, trust_domain: str, create: Callable[[], StoredAuthority]) -> Authority:
        """See `KeyStore`."""
        return await _load_or_create(self, trust_domain, create)

    def _write(self, stored: StoredAuthority, *, replace: bool) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._path, encode_authority(stored), replace=replace)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> AuthorityError:
        return AuthorityError("ca/keys-file", f"cannot be used: {error.strerror}", about=str(self._path))


def _check_mode(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise AuthorityError("ca/keys-mode", f"has mode {mode:04o}, others can read it: chmod 600", about=str(path))


class _SecretMetadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _KeySecret(msgspec.Struct, frozen=True):
    metadata: _SecretMetadata = _SecretMetadata()
    data: dict[str, str] = {}


class SecretKeyStore:
    """Keys under one name in a Kubernetes Secret of the mesh's namespace.

    All roots share one Secret, so that the CA needs the right to read that one and no other.
    """

    def __init__(
        self, kube: KubeApi, *, namespace: str, name: str = CA_SECRET, entry: str = SECRET_KEY, attempts: int = 5
    ) -> None:
        """`attempts`: how often to look again when others write the Secret at the same time."""
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._entry = entry
        self._attempts = attempts
        self._collection = f"/api/v1/namespaces/{namespace}/secrets"
        self._path = f"{self._collection}/{name}"

    async def load(self, trust_domain: str) -> Authority | None:
        """See `KeyStore`."""
        found = await self._read()
        if found is None or self._entry not in found.data:
            return None
        about = f"Secret {self._namespace}/{self._name}, {self._entry}"
        try:
            raw = base64.b64decode(found.data[self._entry], validate=True)
        except ValueError:
            raise AuthorityError("ca/keys", _DAMAGED, about=about) from None
        return decode_authority(raw, trust_domain=trust_domain, about=about)

    async def create(self, stored: StoredAuthority) -> None:
        """See `KeyStore`."""
        await self._put(stored, over=False)

    async def replace(self, stored: StoredAuthority) -> None:
        """See `KeyStore`."""
        await self._put(stored, over=True)

    async def load_or_create(self, trust_domain: str, create: Callable[[], StoredAuthority]) -> Authority:
        """See `KeyStore`."""
        return await _load_or_create(self, trust_domain, create)

    async def _put(self, stored: StoredAuthority, *, over: bool) -> None:
        """Write one entry and leave the others; the resource version says whether somebody else wrote meanwhile."""
        value = base64.b64encode(encode_authority(stored)).decode()
        for _ in range(self._attempts):
            found = await self._read()
            if found is not None and self._entry in found.data and not over:
                return
            method, path = ("POST", self._collection) if found is None else ("PUT", self._path)
            version = {"resourceVersion": found.metadata.resource_version} if found is not None else {}
            secret = {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": self._name, "namespace": self._namespace, **version},
                "type": "Opaque",
                "data": {**(found.data if found is not None else {}), self._entry: value},
            }
            answer = await self._kube.request(method, path, body=secret)
            if answer.status in {200, 201}:
                return
            if answer.status not in {404, 409}:
                raise KubeError.of(method, path, answer)
        raise KubeError("kube/conflict", "others write it all the time; trying again later", about=self._path)

    async def _read(self) -> _KeySecret | None:
        answer = await self._kube.request("GET", self._path)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise KubeError.of("GET", self._path, answer)
        try:
            return decode(_KeySecret, answer.body)
        except UndecodableError:
            raise AuthorityError("ca/keys", _DAMAGED, about=f"Secret {self._namespace}/{self._name}") from None
