"""Who signs: one small interface, so that a CA outside can stand where the built-in one does.

A provider is made for one root (a MeshRootCertificate). Providers of others are found as entry points of the group
`meshlog.ca.providers`: a factory that takes a `ProviderContext`. The built-in one signs with a root of its own; `vault`
and `cert-manager` have an intermediate of ours signed by the CA outside, so that its outage stops nothing.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Protocol

import msgspec
from cryptography import x509

from services.ca.core.template import LeafTemplate, sign_leaf
from services.ca.keys.authority import Authority, generate_authority
from services.ca.keys.store import KeyStore
from services.ca.kubernetes.client import KubeApi
from shared.meshconfig.root_certificate import ENTRY_POINTS, known_provider
from shared.names import MESH_NAMESPACE

_OURS = {
    "builtin": "services.ca.providers.base:builtin",
    "vault": "services.ca.providers.vault:vault",
    "certManager": "services.ca.providers.cert_manager:cert_manager",
    "cert-manager": "services.ca.providers.cert_manager:cert_manager",
}


class Provider(Protocol):
    """A CA that signs leaves for one root."""

    @property
    def roots(self) -> list[x509.Certificate]:
        """What members must trust, the root of what is signed now first."""
        ...

    @property
    def not_after(self) -> float:
        """Until when (seconds since 1970) its issuing certificate is valid; no leaf outlives it."""
        ...

    @property
    def sealing_keys(self) -> tuple[bytes, ...]:
        """Raw X25519 private keys that tokens are sealed to, newest first; they live where the signing key does."""
        ...

    async def sign(self, template: LeafTemplate) -> list[x509.Certificate]:
        """The leaf and the intermediates above it, without the root.

        Raises `MeshlogError` if it cannot sign now.
        """
        ...

    async def refresh(self) -> None:
        """See to what the provider itself needs: called once a minute. Raises `MeshlogError` if that failed."""
        ...


class ProviderContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider's factory is given."""

    name: str
    """Of the root."""
    trust_domain: str
    store: KeyStore
    """Where the keys of this root live."""
    settings: dict[str, Any] = {}
    """What stands under the provider's name in the MeshRootCertificate."""
    kube: KubeApi | None = None
    namespace: str = MESH_NAMESPACE
    """The control plane's."""
    clock: Callable[[], float] = time.time


ProviderFactory = Callable[[ProviderContext], Awaitable[Provider]]


class BuiltinProvider:
    """Signs with the key of an `Authority`."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority

    @property
    def roots(self) -> list[x509.Certificate]:
        """See `Provider`."""
        return [self.authority.anchor]

    @property
    def not_after(self) -> float:
        """See `Provider`: the earliest end of the chain, for some CAs sign intermediates that outlive themselves."""
        authority = self.authority
        chain = (authority.certificate, *authority.above, authority.anchor)
        return min(one.not_valid_after_utc.timestamp() for one in chain)

    @property
    def sealing_keys(self) -> tuple[bytes, ...]:
        """See `Provider`."""
        return self.authority.sealing_keys

    async def sign(self, template: LeafTemplate) -> list[x509.Certificate]:
        """See `Provider`."""
        leaf = sign_leaf(template, self.authority.certificate, self.authority.key)
        return [leaf, *self.authority.intermediates]

    async def refresh(self) -> None:
        """See `Provider`."""


async def builtin(context: ProviderContext) -> Provider:
    """The factory of the built-in provider."""
    create = partial(generate_authority, context.trust_domain, clock=context.clock)
    return BuiltinProvider(await context.store.load_or_create(context.trust_domain, create))


def find_provider(name: str) -> ProviderFactory:
    """The factory of that name; raises `BadInputError` if there is none."""
    if name in _OURS:
        module, _, attribute = _OURS[name].partition(":")
        ours: ProviderFactory = getattr(import_module(module), attribute)
        return ours
    offered = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    factory: ProviderFactory = offered[known_provider(name)].load()
    return factory
