"""The interface of a key store: the place where the keys of one root are stored.

The first replica creates the keys. Creation is atomic and never replaces existing keys, so a replica that loses the
race reads the keys of the winner. The keys of a root are never replaced; a renewed intermediate is replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from services.ca.keys.authority import Authority, AuthorityError, StoredAuthority

DAMAGED = "does not hold the CA's keys; restore it from a backup"


class KeysLostError(AuthorityError):
    """The mesh trusts a root whose keys are missing or were replaced. The CA must not create others in their place."""


class KeyStore(Protocol):
    """Stores the keys of one root."""

    async def load(self, trust_domain: str) -> Authority | None:
        """Return the stored keys, or `None` if there are none.

        Raises `AuthorityError` if they cannot be used, and `KubeError` if the Kubernetes API does not answer.
        """
        ...

    async def create(self, stored: StoredAuthority) -> None:
        """Store keys unless some are stored already; `load` returns those that count."""
        ...

    async def replace(self, stored: StoredAuthority) -> None:
        """Replace the stored keys by those of a renewed intermediate. The last write counts."""
        ...

    async def load_or_create(self, trust_domain: str, create: Callable[[], StoredAuthority]) -> Authority:
        """Return the stored keys. If there are none, store those that `create` returns, unless another replica does."""
        ...


async def load_or_create(store: KeyStore, trust_domain: str, create: Callable[[], StoredAuthority]) -> Authority:
    """Implement `KeyStore.load_or_create` by `load` and `create`. Raises `AuthorityError` if the keys vanish again."""
    found = await store.load(trust_domain)
    if found is None:
        await store.create(create())
        found = await store.load(trust_domain)
    if found is None:
        raise AuthorityError("ca/keys", "the keys were deleted as soon as they were there")
    return found


class ExistingKeyStore:
    """A `KeyStore` for a root that the mesh trusts already: it reads and renews keys but never creates the first ones.

    If deleted keys were created anew, no member would trust the certificates signed with them.
    """

    def __init__(self, store: KeyStore, root: str) -> None:
        """`store` holds the keys; `root` is the name of their root, for errors."""
        self._store = store
        self._root = root

    async def load(self, trust_domain: str) -> Authority:
        """See `KeyStore`. Raises `KeysLostError` if there are no keys."""
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
        """Raise `KeysLostError`, always."""
        raise KeysLostError("ca/keys-lost", "keys of a trusted root are never made twice", about=self._root)

    async def replace(self, stored: StoredAuthority) -> None:
        """See `KeyStore`."""
        await self._store.replace(stored)

    async def load_or_create(self, trust_domain: str, create: Callable[[], StoredAuthority]) -> Authority:  # noqa: ARG002
        """Return the stored keys. Raises `KeysLostError` if there are none."""
        return await self.load(trust_domain)
