"""Settings of the CA."""

from __future__ import annotations

from typing import Literal

from shared.settings import CommonSettings


class CaSettings(CommonSettings, frozen=True, kw_only=True):
    """The CA: proves who asks, signs X.509-SVIDs, publishes the trust bundle."""

    provider: str = "builtin"
    """Who signs: `builtin`, or the name of an installed provider."""
    key_store: Literal["secret", "file"] = "secret"
    """Where the CA's keys live: the Kubernetes Secret, or the key file."""
    key_secret: str = "meshlog-ca"  # noqa: S105 (the name of a Secret)
    """Name of that Secret in the control plane's namespace; created once, never replaced."""
    key_file: str = ""
    """Path of that file, made with mode 0600; needed with `--key-store file`."""
    kubernetes: bool = True
    """Whether the trust bundle is also written into Kubernetes (ConfigMaps, webhook configurations)."""
    kubeconfig: str = ""
    """Path of a kubeconfig; empty: the pod's own service account."""
    lifetime: float = 86400.0
    """Seconds that certificates live where MeshConfig says nothing; never below 10."""
    serving_accounts: tuple[str, ...] = ("meshlog-xds-edge", "meshlog-injector")
    """Service accounts of the control plane whose certificates also name the Service of the same name."""
    service_domain: str = "cluster.local"
    """DNS domain of Services."""
