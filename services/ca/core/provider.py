"""The interface of a provider: a CA that signs leaf certificates for one root."""

from __future__ import annotations

from typing import Protocol

from cryptography import x509

from services.ca.core.template import LeafTemplate


class Provider(Protocol):
    """A CA that signs leaf certificates for one root."""

    @property
    def roots(self) -> list[x509.Certificate]:
        """The roots that members must trust. The first one is the root of what is signed now."""
        ...

    @property
    def not_after(self) -> float:
        """When its issuing certificate expires, in seconds since 1970. No leaf may outlive it."""
        ...

    @property
    def sealing_keys(self) -> tuple[bytes, ...]:
        """Raw X25519 private keys that tokens are sealed to, newest first. They are stored with the signing key."""
        ...

    async def sign(self, template: LeafTemplate) -> list[x509.Certificate]:
        """Return the leaf and the intermediates above it, without the root.

        Raises `MeshlogError` if it cannot sign now.
        """
        ...

    async def refresh(self) -> None:
        """Do the provider's own maintenance; called once a minute. Raises `MeshlogError` if that failed."""
        ...
