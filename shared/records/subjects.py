"""Stream names and subjects of the log: one place that spells them.

Kubernetes names may hold dots, and some kinds (for example ClusterRoles) characters that NATS reserves, so each subject
token is escaped, reversibly: `_` starts an escape, followed by two upper-case hex digits a byte of UTF-8. Letters,
digits and `-` stand for themselves. The empty token (the namespace of a cluster-scoped object) is a lone `_`.
"""

from __future__ import annotations

import functools

import msgspec

from shared.errors import MeshlogError

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")
EMPTY_TOKEN = "_"  # noqa: S105 (a token of a subject, not a secret)


@functools.lru_cache(maxsize=65536)
def escape(text: str) -> str:
    """One subject token that stands for `text`; `unescape` gives it back."""
    if not text:
        return EMPTY_TOKEN
    return "".join(
        char if char in _PLAIN else "".join(f"_{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))
        for char in text
    )


def unescape(token: str) -> str:
    """Undo `escape`; raises `MeshlogError` if no text escapes to this token."""
    if token == EMPTY_TOKEN:
        return ""
    out = bytearray()
    index = 0
    try:
        while index < len(token):
            if token[index] == "_":
                out.append(int(token[index + 1 : index + 3], 16))
                index += 3
            else:
                out += token[index].encode("ascii")
                index += 1
        text = out.decode("utf-8", "surrogatepass")
    except (ValueError, UnicodeEncodeError) as error:
        raise MeshlogError("subject/token", "is not an escaped subject token", about=repr(token)) from error
    if escape(text) != token:
        raise MeshlogError("subject/token", "is not an escaped subject token", about=repr(token))
    return text


class Streams(msgspec.Struct, frozen=True):
    """The streams of one mesh. Several meshes share a NATS cluster by different prefixes."""

    prefix: str = "mesh"

    def _stream(self, noun: str) -> str:
        return f"{self.prefix.upper()}_{noun}"

    @property
    def events(self) -> str:
        """Every input that can change a proxy's configuration; written by ingestors and operators."""
        return self._stream("EVENTS")

    @property
    def snapshots(self) -> str:
        """The commits of the leading compiler."""
        return self._stream("SNAPSHOTS")

    @property
    def keyframes(self) -> str:
        """Whole snapshots, so that no reader replays from the beginning; written by the compiler."""
        return self._stream("KEYFRAMES")

    @property
    def csrs(self) -> str:
        """Work queue of signing requests; written by edges, taken by CAs."""
        return self._stream("CSRS")

    @property
    def certs(self) -> str:
        """Issued certificates and trust bundles, public parts only; written by CAs."""
        return self._stream("CERTS")

    @property
    def status(self) -> str:
        """What each proxy holds and refused; written by edges."""
        return self._stream("STATUS")

    @property
    def leases(self) -> str:
        """The leaders: the newest record of each lease; written by the replicas that campaign."""
        return self._stream("LEASES")

    @property
    def pins(self) -> str:
        """The newest pin of each cluster: a copy for the day on which the events are derived anew."""
        return self._stream("PINS")

    def pin_subject(self, cluster: str) -> str:
        """Copies of the pin of one cluster."""
        return f"{self.prefix}.pins.{escape(cluster)}"

    @property
    def all_pins(self) -> str:
        """Copies of the pins of every cluster."""
        return f"{self.prefix}.pins.>"

    def event_subject(self, cluster: str, kind: str, namespace: str, name: str) -> str:
        """Subject of the events of one object."""
        return ".".join((self.prefix, "events", escape(cluster), escape(kind), escape(namespace), escape(name)))

    def cluster_scope(self, cluster: str) -> str:
        """Every event of one cluster: the scope of one hash chain."""
        return f"{self.prefix}.events.{escape(cluster)}.>"

    def kind_scope(self, cluster: str, kind: str) -> str:
        """Every event of one kind in one cluster."""
        return f"{self.prefix}.events.{escape(cluster)}.{escape(kind)}.>"

    def namespace_scope(self, cluster: str, namespace: str) -> str:
        """Every event of one namespace in one cluster; of objects in none, if it is empty."""
        return f"{self.prefix}.events.{escape(cluster)}.*.{escape(namespace)}.>"

    @property
    def all_events(self) -> str:
        """Every event of every cluster."""
        return f"{self.prefix}.events.>"

    def chain_scope(self, subject: str) -> str:
        """The scope of the hash chain that a record of this subject belongs to, if it is chained.

        The events of one cluster are one chain; every other chain is one subject.
        """
        start = f"{self.prefix}.events."
        if not subject.startswith(start):
            return subject
        return f"{start}{subject[len(start) :].partition('.')[0]}.>"

    @property
    def snapshot_subject(self) -> str:
        """Subject of all commits."""
        return f"{self.prefix}.snapshots"

    @property
    def keyframe_subject(self) -> str:
        """Subject of all keyframes."""
        return f"{self.prefix}.keyframes"

    def lease_subject(self, name: str) -> str:
        """Subject of one lease, for example `compiler`."""
        return f"{self.prefix}.leases.{escape(name)}"

    def csr_subject(self, requester: str) -> str:
        """Signing requests of one requester (an edge's or another service's instance id)."""
        return f"{self.prefix}.csrs.{escape(requester)}"

    def issued_subject(self, requester: str, request: str) -> str:
        """The answer to one signing request."""
        return f"{self.prefix}.certs.issued.{escape(requester)}.{escape(request)}"

    def issued_scope(self, requester: str) -> str:
        """Every answer to one requester."""
        return f"{self.prefix}.certs.issued.{escape(requester)}.>"

    def audit_subject(self, what: str) -> str:
        """Notes of the CA's audit trail: `refused`, `rotation`, `ingress-gateway`, `log`."""
        return f"{self.prefix}.certs.audit.{escape(what)}"

    @property
    def all_issued(self) -> str:
        """Every answer to every requester."""
        return f"{self.prefix}.certs.issued.>"

    def bundle_subject(self, trust_domain: str) -> str:
        """The trust bundle of a trust domain, newest last."""
        return f"{self.prefix}.certs.bundle.{escape(trust_domain)}"

    @property
    def all_bundles(self) -> str:
        """The trust bundles of every trust domain."""
        return f"{self.prefix}.certs.bundle.>"

    def status_subject(self, cluster: str, namespace: str, pod: str) -> str:
        """Status reports about one proxy."""
        return ".".join((self.prefix, "status", escape(cluster), escape(namespace), escape(pod)))

    @property
    def all_status(self) -> str:
        """Status of every proxy."""
        return f"{self.prefix}.status.>"
