"""Who signs: one small interface, so that a CA outside can stand where the built-in one does.

Providers are found as entry points of the group `meshlog.ca.providers`: a factory that takes a `ProviderContext`. The
built-in one signs with the root of `authority`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import entry_points
from typing import Protocol

import msgspec
from cryptography import x509

from services.ca.authority import Authority
from services.ca.template import LeafTemplate, sign_leaf
from shared.errors import BadInputError

ENTRY_POINTS = "meshlog.ca.providers"


class Provider(Protocol):
    """A CA that signs leaves."""

    @property
    def roots(self) -> list[x509.Certificate]:
        """What members must trust, the root of what is signed now first."""
        ...

    @property
    def not_after(self) -> float:
        """Until when (seconds since 1970) its issuing certificate is valid; no leaf outlives it."""
        ...

    async def sign(self, template: LeafTemplate) -> list[x509.Certificate]:
        """The leaf and the intermediates above it, without the root.

        Raises `MeshlogError` if it cannot sign now.
        """
        ...


class ProviderContext(msgspec.Struct, frozen=True):
    """What a provider's factory is given."""

    authority: Authority
    trust_domain: str


ProviderFactory = Callable[[ProviderContext], Awaitable[Provider]]


class BuiltinProvider:
    """Signs with our own root."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    @property
    def roots(self) -> list[x509.Certificate]:
        """See `Provider`."""
        return [self._authority.certificate]

    @property
    def not_after(self) -> float:
        """See `Provider`."""
        return self._authority.certificate.not_valid_after_utc.timestamp()

    async def sign(self, template: LeafTemplate) -> list[x509.Certificate]:
        """See `Provider`."""
        return [sign_leaf(template, self._authority.certificate, self._authority.key)]


async def builtin(context: ProviderContext) -> Provider:
    """The factory of the built-in provider."""
    return BuiltinProvider(context.authority)


def find_provider(name: str) -> ProviderFactory:
    """The factory of that name; raises `BadInputError` if nobody offers it."""
    if name == "builtin":
        return builtin
    offered = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if name not in offered:
        known = ", ".join(sorted({"builtin", *offered}))
        raise BadInputError("ca/provider", f"is no CA provider; there are: {known}", about=name)
    factory: ProviderFactory = offered[name].load()
    return factory
