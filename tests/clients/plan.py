"""What a foreign client is told: where the server is, whose tokens it has, and ready-made messages to send.

The messages are files, so that a client in any language sends bytes and looks whether bytes come back. The same cases
have the same names in every client; a client prints one line of JSON for each: `Row` without its `client`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from benchmarks.swarm.wire import CDS, field, write_request

PODS = 32
"""Workloads whose tokens the clients have; the last holds a bulky snapshot."""
WITHIN = 12.0
"""Seconds within which each call must be answered, however many go together."""
DELTA = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
STATUS = "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of it, as JSON."""

    address: str
    """`HOST:PORT`."""
    authority: str
    """Name in the server's certificate."""
    roots: str
    """File of the roots, PEM."""
    tokens: list[str]
    """Of `PODS` workloads."""
    bulky: str
    """Token of a workload whose clusters take 5 MB."""
    delta: str = DELTA
    status: str = STATUS
    messages: str
    """Directory of the messages: `first` (asks for all clusters), `200kB` and `1MB` (the same, naming so many bytes of
    versions that are held), `9MB` (too long), `status` (asks what a proxy holds that is not there)."""
    within: float = WITHIN
    omit: list[str] = []
    """Cases that are left out."""

    def message(self, name: str) -> bytes:
        """One of the messages."""
        return Path(self.messages, name).read_bytes()

    def trusted(self) -> bytes:
        """The roots."""
        return Path(self.roots).read_bytes()


class Row(msgspec.Struct, frozen=True):
    """What came of one case."""

    case: str
    passed: bool
    detail: str = ""
    client: str = ""


def tell(row: Row) -> None:
    """Print a row as a client does."""
    sys.stdout.buffer.write(msgspec.json.encode(row) + b"\n")
    sys.stdout.flush()


def write_messages(directory: Path) -> None:
    """Write the files that `Plan.messages` names."""
    directory.mkdir()
    files = {
        "first": write_request(CDS),
        "200kB": write_request(CDS, initial=_held(200_000)),
        "1MB": write_request(CDS, initial=_held(1_000_000)),
        "9MB": bytes(9 * 1024 * 1024),
        # ClientStatusRequest{node_matchers: [{node_id: {exact: …}}]}
        "status": field(1, field(1, field(1, b"clients/nobody"))),
    }
    for name, content in files.items():
        (directory / name).write_bytes(content)


def _held(size: int) -> Mapping[str, str]:
    """Versions of resources that are nowhere any more; about so many bytes."""
    return {f"outbound|{number:07d}|a-cluster-that-is-gone": f"{number:032x}" for number in range(size // 83)}
