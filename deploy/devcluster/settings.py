"""Settings of the devcluster from its command line, and constants of every devcluster."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec

from shared.errors import BadInputError

NODE = "devcluster"
DOMAIN = "cluster.local"
SERVICE_NETWORK = "10.96.0.0/16"
API_SERVICE = ("10.96.0.1", 443)
"""The Service `kubernetes`: where pods find the API."""
API_PORT = 6443
"""Port of the API on the node's own address, inside the devcluster."""
KUBECONFIG = "kubeconfig"
"""Name of the administrator's kubeconfig in the state directory."""
KEPT = "kept"
"""Name of the directory in the state directory with the persisted objects."""
CLAIMS = "claims"
"""Name of the directory in the state directory with the files of PersistentVolumeClaims, by namespace and name."""
LOG_DATA = "nats"
"""Name of the directory in the state directory with the files of the mesh's log, where one server keeps it."""
HALT_GRACE = 4.0
"""Seconds that containers have to end when the devcluster ends; the launcher waits longer."""


class PublishedService(msgspec.Struct, frozen=True):
    """A socket of the host whose connections are forwarded to a Service."""

    listener: str
    """Name of the inherited socket."""
    namespace: str
    service: str
    port: int


class KeptObjects(msgspec.Struct, frozen=True):
    """Selects objects to persist."""

    resource: str
    """Plural with its group: `secrets`, `meshrootcertificates.config.openservicemesh.io`."""
    namespace: str
    name: str = ""
    """Empty for all objects of the namespace."""


class Settings(msgspec.Struct, frozen=True):
    """The devcluster's settings."""

    manifests: tuple[Path, ...] = ()
    """YAML files whose objects are applied before the devcluster reports that it is ready."""
    published: tuple[PublishedService, ...] = ()
    kept: tuple[KeptObjects, ...] = ()
    """Objects that are restored at the next start."""
    log_level: str = "info"
    watch_window: int = 1000
    """Changes of each kind that a watch can go back before it receives 410."""


def parse(argv: Sequence[str]) -> Settings:
    """Parse the command line. Raises `BadInputError`."""
    parser = argparse.ArgumentParser(prog="python -m deploy.devcluster", exit_on_error=False)
    parser.add_argument("--manifest", action="append", default=[], metavar="FILE", help="apply the objects of a file")
    parser.add_argument(
        "--publish",
        action="append",
        default=[],
        metavar="LISTENER=NAMESPACE/SERVICE:PORT",
        help="lead connections to an inherited socket to a Service",
    )
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="RESOURCE/NAMESPACE[/NAME]",
        help="keep objects in the state directory, for the next start",
    )
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    parser.add_argument("--watch-window", type=int, default=1000, metavar="CHANGES")
    try:
        given, unknown = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise BadInputError("devcluster/settings", str(error)) from error
    if unknown:
        raise BadInputError("devcluster/settings", f"there is no setting {unknown[0]}")
    return Settings(
        manifests=tuple(map(Path, given.manifest)),
        published=tuple(map(_published, given.publish)),
        kept=tuple(map(_kept, given.keep)),
        log_level=given.log_level,
        watch_window=given.watch_window,
    )


def _kept(text: str) -> KeptObjects:
    resource, namespace, *name = text.split("/")[:3] if text.count("/") in (1, 2) else ("", "")
    if not (resource and namespace):
        raise BadInputError("devcluster/settings", f"--keep wants RESOURCE/NAMESPACE[/NAME], not {text}")
    return KeptObjects(resource, namespace, *name)


def _published(text: str) -> PublishedService:
    listener, _, target = text.partition("=")
    place, _, port = target.rpartition(":")
    namespace, _, service = place.partition("/")
    if not (listener and namespace and service and port.isdecimal()):
        raise BadInputError("devcluster/settings", f"--publish wants LISTENER=NAMESPACE/SERVICE:PORT, not {text}")
    return PublishedService(listener=listener, namespace=namespace, service=service, port=int(port))
