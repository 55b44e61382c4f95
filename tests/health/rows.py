"""The rows of the matrix: what is provoked, and which checks must find it."""

from __future__ import annotations

import msgspec

from tests.health import provocations
from tests.health.provocations import Provoke


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One row."""

    name: str
    what: str
    provoke: Provoke
    checks: tuple[str, ...]
    """Checks that must find it."""
    others: tuple[str, ...] = ()
    """Services of a check that have nothing to say of it here."""
    readyz: tuple[tuple[str, str], ...] = ()
    """(service, name): what of `/readyz` must say it besides."""
    condition: tuple[str, str, str, str] | None = None
    """Path of an object, and type, status and reason of its condition."""


ROWS: tuple[Row, ...] = (
    Row(
        name="no-compiler",
        what="no compiler runs",
        provoke=provocations.scaled("compiler"),
        checks=("replicas", "leader"),
        others=("ingestor",),
    ),
    Row(
        name="no-ingestor",
        what="no ingestor runs",
        provoke=provocations.scaled("ingestor"),
        checks=("replicas", "leader"),
        others=("compiler",),
    ),
    Row(name="no-ca", what="no CA runs", provoke=provocations.scaled("ca"), checks=("replicas",)),
    Row(name="no-edge", what="0 of 0 edges", provoke=provocations.scaled("xds-edge"), checks=("replicas", "gone")),
    Row(
        name="unwritable",
        what="the leases cannot be renewed",
        provoke=provocations.no_room_for_leases,
        checks=("leader",),
    ),
    Row(name="full", what="the events cannot be written", provoke=provocations.no_room_for_events, checks=("working",)),
    Row(
        name="unpublished",
        what="the commits cannot be written",
        provoke=provocations.no_room_for_commits,
        checks=("published", "working"),
        readyz=(("ingestor", "published"), ("compiler", "commits")),
    ),
    Row(name="frozen-log", what="the log does not answer", provoke=provocations.frozen("nats"), checks=("log",)),
    Row(
        name="pin",
        what="the mesh is pinned",
        provoke=provocations.pinned,
        checks=("pin",),
        condition=(
            "/apis/specs.smi-spec.io/v1alpha4/namespaces/matrix/httproutegroups/all",
            "Pinned",
            "True",
            "HeldBack",
        ),
    ),
    Row(
        name="left-out",
        what="an object is left out",
        provoke=provocations.left_out,
        checks=("left-out",),
        condition=("/apis/split.smi-spec.io/v1alpha2/namespaces/matrix/trafficsplits/canary", "Accepted", "False", ""),
    ),
    Row(
        name="never-connected",
        what="a proxy never connects",
        provoke=provocations.never_connects,
        checks=("never-connected",),
    ),
    Row(name="refusing", what="a proxy refuses what it is sent", provoke=provocations.refusing, checks=("refusing",)),
    Row(name="behind", what="an Envoy does not answer", provoke=provocations.behind, checks=("behind",)),
    Row(name="rotation", what="a rotation waits for a proxy", provoke=provocations.rotating, checks=("rotation",)),
    Row(
        name="broken-root",
        what="a root's provider is away",
        provoke=provocations.broken_root,
        checks=("rotation-stuck",),
        condition=(provocations.ROOTS + "/elsewhere", "Ready", "False", "Broken"),
    ),
    Row(name="bare", what="a pod without a sidecar", provoke=provocations.bare, checks=("sidecars",)),
    Row(
        name="open-probes",
        what="a sidecar of an older build",
        provoke=provocations.open_probes,
        checks=("probe-ports",),
    ),
    Row(name="no-api", what="the Kubernetes API is away", provoke=provocations.api_away, checks=("api",)),
    Row(
        name="no-webhook",
        what="the webhook is deleted",
        provoke=provocations.removed(provocations.WEBHOOK),
        checks=("webhook",),
    ),
    Row(
        name="no-mesh-config",
        what="the MeshConfig is deleted",
        provoke=provocations.removed(provocations.MESH_CONFIG),
        checks=("mesh-config",),
    ),
    Row(
        name="no-bundle",
        what="the CA cannot write the bundle",
        provoke=provocations.no_bundle,
        checks=("trust-bundle",),
    ),
    Row(
        name="unsigned",
        what="a sidecar asks, and no CA runs",
        provoke=provocations.unsigned,
        checks=("signing", "replicas"),
        readyz=(("xds-edge", "signing"),),
    ),
    Row(
        name="unwritable-ca",
        what="the CA's answers are not taken",
        provoke=provocations.no_room_for_answers,
        checks=("signing",),
        readyz=(("xds-edge", "signing"), ("ca", "log")),
    ),
    Row(name="ended", what="a certificate has ended", provoke=provocations.ended, checks=("certificates",)),
)
