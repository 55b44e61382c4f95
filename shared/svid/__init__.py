"""X.509-SVIDs on the requester's side: ask the CA through the log, check what comes back, keep it current.

Edges ask for the workloads that they serve (`CertificateRequester`), control-plane services for themselves
(`ServingCertificate`). Whoever needs the roots follows them (`BundleFollower`). Both sides judge a certificate by the
same rules (`validate_svid`).
"""

from shared.svid.bundle import BundleFollower
from shared.svid.document import BACKDATE, IssuedSvid
from shared.svid.renewal import renewal_delay
from shared.svid.requester import CertificateRequester, SigningRefusedError, SvidUnavailableError
from shared.svid.serving import ServingCertificate
from shared.svid.validator import InvalidSvidError, validate_svid

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
