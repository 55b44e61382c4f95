"""What edges report about proxies, in `MESH_STATUS`: one watermark per proxy and type, refusals at once.

The newest record of a proxy's subject is its state; the few before it are kept for "what happened last".
"""

from __future__ import annotations

import msgspec

from shared.eventlog.epoch import begins_later
from shared.eventlog.protocol import Record
from shared.io.decoding import UndecodableError, decode
from shared.records.subjects import Streams

_AFTER_ALL = 2**63
"""Above every sequence."""


class NackedResource(msgspec.Struct, frozen=True, omit_defaults=True):
    """A NACK: the proxy kept what it had."""

    version: int
    """Snapshot version that was refused."""
    resources: dict[str, str]
    """Name → hash of what was offered in the refused response."""
    message: str
    """`error_detail.message`, as the proxy wrote it, cut at 4 kB."""


class TypeStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """One type of one proxy."""

    sent: int = 0
    """Newest version whose resources of this type were sent."""
    acked: int = 0
    """Newest version that the proxy holds completely, by its ACKs; also versions that changed nothing for it."""
    acked_at: int = 0
    """When the ACK that moved the watermark arrived, nanoseconds since 1970."""
    refusal: NackedResource | None = None
    """Set while the newest response of this type stands refused."""


class ProxyStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """State of one proxy as its edge sees it."""

    cluster: str
    namespace: str
    pod: str
    uid: str
    service_account: str
    edge: str
    """Instance id of the edge that wrote this."""
    connected: bool
    since: int
    """When the stream opened or ended, nanoseconds since 1970."""
    workload_class: str = ""
    types: dict[str, TypeStatus] = {}
    """By type URL, SDS included."""
    bundle: int = 0
    """Serial of the newest trust bundle that the proxy acknowledged; 0: none yet."""
    certificate_bundle: int = 0
    """Serial of the bundle under which the certificate was signed that the proxy acknowledged; 0: it has none yet."""
    certificate_until: int = 0
    """When that certificate expires, seconds since 1970."""
    secrets: tuple[str, ...] | None = None
    """Of the trust bundle and the certificate those that the proxy asks for now; none: it has not asked for secrets on
    this stream, or an edge of an earlier build wrote this."""
    stuck: str = ""
    """Why its edge can bring it no newer version; empty: it can."""
    epoch: str = ""
    """Epoch of the versions above; empty: an edge of an earlier build wrote this."""

    def uses(self, secret: str) -> bool:
        """Whether it asks for this secret; a proxy of which that is not known may.

        A sidecar whose last policy went gives its secrets up: what it held is of no use to it, and it will acknowledge
        no other.
        """
        return self.secrets is None or secret in self.secrets

    @property
    def acked(self) -> int:
        """Newest version that the proxy holds completely, over all types; 0 before the first."""
        return min((status.acked for status in self.types.values()), default=0)

    def acked_in(self, epoch: str) -> int:
        """`acked`, as far as it applies to versions of this epoch.

        After a loss of the whole log a later epoch begins at small versions again. What was acknowledged of an earlier
        one is none of them then; what was acknowledged of a later one came after all of them.
        """
        if not self.epoch or self.epoch == epoch:
            return self.acked
        return _AFTER_ALL if self.acked and begins_later(self.epoch, epoch) else 0


def state_of(status: ProxyStatus | None, *, behind: bool) -> str:
    """`in sync`, `behind`, `refusing`, `gone` or `never connected`; `behind`: it lacks a version that concerns it."""
    if status is None:
        return "never connected"
    if not status.connected:
        return "gone"
    if any(one.refusal is not None for one in status.types.values()):
        return "refusing"
    return "behind" if behind else "in sync"


STATES = ("in sync", "behind", "refusing", "gone", "never connected")
"""The result of `state_of`."""


def encode_status(status: ProxyStatus) -> bytes:
    """JSON, readable with the plain `nats` tool."""
    return msgspec.json.encode(status, order="deterministic")


def decode_status(payload: bytes) -> ProxyStatus:
    """Raises `UndecodableError` for bytes that are none."""
    return decode(ProxyStatus, payload)


def status_in(record: Record, streams: Streams) -> ProxyStatus | None:
    """The status in a record; none if the bytes are none, or are about another proxy than the subject.

    No edge writes such a record, so a reader passes it over. The content of a status is in part the proxy's
    own word (names and versions of secrets, the text of a refusal): believe it of that proxy alone, and bound it.
    """
    try:
        found = decode_status(record.payload)
    except UndecodableError:
        return None
    mine = streams.status_subject(found.cluster, found.namespace, found.pod)
    return found if record.subject == mine else None
