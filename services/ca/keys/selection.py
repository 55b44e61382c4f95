"""Selects the key store of a root by the settings: a Secret or a file."""

from __future__ import annotations

from pathlib import Path

from services.ca.core.kube_api import KubeApi
from services.ca.core.root_certificates import DEFAULT_ROOT, WantedRoot
from services.ca.keys.file_store import FileKeyStore
from services.ca.keys.key_store import KeyStore
from services.ca.keys.secret_store import SECRET_KEY, SecretKeyStore
from services.ca.settings import CaSettings
from shared.meshconfig.root_certificate import key_secret


def key_store(settings: CaSettings, kube: KubeApi | None, wanted: WantedRoot) -> KeyStore:
    """Return the store for a root: an entry of the CA's Secret or of the Secret that the root names, or a file."""
    default = wanted.name == DEFAULT_ROOT
    if kube is not None and settings.key_store == "secret":
        return SecretKeyStore(
            kube,
            namespace=settings.namespace,
            name=key_secret(wanted.settings, about=wanted.name) or settings.key_secret,
            entry=SECRET_KEY if default else f"{wanted.name}.json",
        )
    path = Path(settings.key_file)
    return FileKeyStore(path if default else path.with_name(f"{path.stem}-{wanted.name}{path.suffix}"))
