"""Finds providers: factories that make the `Provider` of one root (a MeshRootCertificate).

Installed providers are entry points of the group `meshlog.ca.providers`: a factory that takes a `ProviderContext`. The
built-in provider signs with a root of its own. With `vault` and `cert-manager` an external CA signs an intermediate of
the mesh, so that an outage of the external CA stops nothing.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import msgspec

from services.ca.core.kube_api import KubeApi
from services.ca.core.provider import Provider
from services.ca.keys.key_store import KeyStore
from shared.meshconfig.root_certificate import ENTRY_POINTS, known_provider
from shared.names import MESH_NAMESPACE

_OURS = {
    "builtin": "services.ca.providers.builtin:builtin",
    "vault": "services.ca.providers.vault:vault",
    "certManager": "services.ca.providers.cert_manager:cert_manager",
    "cert-manager": "services.ca.providers.cert_manager:cert_manager",
}


class ProviderContext(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of a provider's factory."""

    name: str
    """Name of the root."""
    trust_domain: str
    store: KeyStore
    """Where the keys of this root are stored."""
    settings: dict[str, Any] = {}
    """The object under the provider's name in the MeshRootCertificate."""
    kube: KubeApi | None = None
    namespace: str = MESH_NAMESPACE
    """The control plane's namespace."""
    clock: Callable[[], float] = time.time


ProviderFactory = Callable[[ProviderContext], Awaitable[Provider]]


def find_provider(name: str) -> ProviderFactory:
    """Return the factory of that name. Raises `BadInputError` if there is none."""
    if name in _OURS:
        module, _, attribute = _OURS[name].partition(":")
        ours: ProviderFactory = getattr(import_module(module), attribute)
        return ours
    offered = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    factory: ProviderFactory = offered[known_provider(name)].load()
    return factory
