"""Key store in a Kubernetes Secret of the control plane's namespace: one entry for each root."""

from __future__ import annotations

import base64
from collections.abc import Callable

import msgspec

from services.ca.core.kube_api import KubeApi, KubeError
from services.ca.keys.authority import Authority, AuthorityError, StoredAuthority, decode_authority, encode_authority
from services.ca.keys.key_store import DAMAGED, load_or_create
from shared.io.decoding import UndecodableError, decode
from shared.names import CA_SECRET

SECRET_KEY = "authority.json"  # noqa: S105 (the name of a key in a Secret)


class _SecretMetadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _KeySecret(msgspec.Struct, frozen=True):
    metadata: _SecretMetadata = _SecretMetadata()
    data: dict[str, str] = {}


class SecretKeyStore:
    """A `KeyStore` in one entry of a Secret. All roots share one Secret: the CA needs the right to read only that."""

    def __init__(
        self, kube: KubeApi, *, namespace: str, name: str = CA_SECRET, entry: str = SECRET_KEY, attempts: int = 5
    ) -> None:
        """`attempts` is the number of writes to try while other replicas write the same Secret."""
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
            raise AuthorityError("ca/keys", DAMAGED, about=about) from None
        return decode_authority(raw, trust_domain=trust_domain, about=about)

    async def create(self, stored: StoredAuthority) -> None:
        """See `KeyStore`."""
        await self._put(stored, over=False)

    async def replace(self, stored: StoredAuthority) -> None:
        """See `KeyStore`."""
        await self._put(stored, over=True)

    async def load_or_create(self, trust_domain: str, create: Callable[[], StoredAuthority]) -> Authority:
        """See `KeyStore`."""
        return await load_or_create(self, trust_domain, create)

    async def _put(self, stored: StoredAuthority, *, over: bool) -> None:
        """Write one entry and keep the others. The resource version detects writes of other replicas."""
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
            raise AuthorityError("ca/keys", DAMAGED, about=f"Secret {self._namespace}/{self._name}") from None
