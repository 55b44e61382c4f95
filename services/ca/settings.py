"""Settings of the CA."""

from __future__ import annotations

from typing import Literal

from shared.names import CA_SECRET, INJECTOR, XDS_EDGE
from shared.service.settings import CommonSettings


class CaSettings(CommonSettings, frozen=True, kw_only=True):
    """The CA: authenticates workloads, signs X.509-SVIDs, publishes the trust bundle."""

    provider: str = "builtin"
    """What signs: `builtin`, or the name of an installed provider."""
    key_store: Literal["secret", "file"] = "secret"
    """Where the CA's keys are stored: in the Kubernetes Secret, or in the key file."""
    key_secret: str = CA_SECRET
    """Name of that Secret in the control plane's namespace; created once, never replaced."""
    key_file: str = ""
    """Path of that file, created with mode 0600; required with `--key-store file`."""
    kubernetes: bool = True
    """Whether the trust bundle is also written into Kubernetes (ConfigMaps, webhook configurations)."""
    kubeconfig: str = ""
    """Path of a kubeconfig; empty: the pod's own service account."""
    distribution_settle: float = 90.0
    """Seconds for which all ConfigMaps must hold a new root before it may sign: kubelets refresh mounted ones within
    90 s."""
    clock_skew: float = 300.0
    """Seconds by which clocks of the mesh may differ: a certificate counts as in use that long after it expired."""
    bundle_port: int = 0
    """Port of the SPIFFE bundle endpoint (HTTPS, `/`, a JSON Web Key Set); 0 for none."""
    bundle_host: str = "0.0.0.0"  # noqa: S104 (its pod's own network; what it serves is public)
    """Address of that endpoint."""
    cluster_trust_bundle: str = ""
    """Name of a ClusterTrustBundle that is kept current if the API has that kind; empty for none."""
    lifetime: float = 86400.0
    """Lifetime of certificates in seconds, unless the MeshConfig sets one; at least 10."""
    serving_accounts: tuple[str, ...] = (XDS_EDGE, INJECTOR)
    """Service accounts of the control plane whose certificates also contain the names of the Service of that name."""
    service_domain: str = "cluster.local"
    """DNS domain of Services."""
