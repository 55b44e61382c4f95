"""Names and contents that the tests of the edge share."""

from __future__ import annotations

from shared.identity.spiffe import SpiffeId
from shared.records.snapshot import CDS, EDS, LDS, RDS
from shared.records.subjects import Streams

STREAMS = Streams()
CLUSTER = "devcluster"
EDGE_DNS = "meshlog-xds-edge.meshlog-system.svc"
POD = "shop/web-1"
CLASS = {CDS: {"c": b"cluster"}, EDS: {"c": b"endpoints"}, LDS: {"l": b"listener"}, RDS: {"r": b"routes"}}
"""What a workload class holds that holds one of each."""


def spiffe(pod: str, account: str = "default") -> str:
    return str(SpiffeId(trust_domain="cluster.local", namespace=pod.partition("/")[0], service_account=account))
