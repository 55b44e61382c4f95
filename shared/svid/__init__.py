"""X.509-SVIDs on the requester's side: ask the CA through the log, check what comes back, keep it current.

Edges ask for the workloads that they serve (`CertificateRequester`), control-plane services for themselves
(`ServingCertificate`). Components that need the roots follow them (`BundleFollower`). Both sides check a certificate
by the same rules (`validate_svid`).
"""

from shared.identity.bundle import BundleFollower
from shared.identity.renewal import renewal_delay
from shared.identity.serving_certificate import ServingCertificate
from shared.identity.svid import BACKDATE, IssuedSvid
from shared.identity.svid_requester import CertificateRequester, SigningRefusedError, SvidUnavailableError
from shared.identity.svid_validator import InvalidSvidError, validate_svid

__all__ = [
    "BACKDATE",
    "BundleFollower",
    "CertificateRequester",
    "InvalidSvidError",
    "IssuedSvid",
    "ServingCertificate",
    "SigningRefusedError",
    "SvidUnavailableError",
    "renewal_delay",
    "validate_svid",
]
