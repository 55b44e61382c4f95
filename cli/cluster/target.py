"""The cluster that a verb works on: shared flags, and a session with its API."""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from cli.kubernetes import kubeconfig
from cli.kubernetes.api_client import Api, connect
from shared.names import MESH_NAMESPACE

MESH_NAME = "meshlog"
NAMESPACE = MESH_NAMESPACE


def add_target(parser: argparse.ArgumentParser) -> None:
    """`--kubeconfig`, `--context`, `--mesh-name` and the namespace, with `osm`'s name for it as well."""
    group = parser.add_argument_group("which mesh")
    group.add_argument("--kubeconfig", type=Path, help="default: $KUBECONFIG, the embedded mesh, ~/.kube/config")
    group.add_argument("--context", default="", help="context of the kubeconfig (default: its current one)")
    group.add_argument("--mesh-name", default=MESH_NAME, help=f"name of the mesh (default {MESH_NAME})")
    group.add_argument(
        "--mesh-namespace",
        "--osm-namespace",
        default=os.environ.get("MESHLOG_NAMESPACE", NAMESPACE),
        help=f"namespace of the control plane (default $MESHLOG_NAMESPACE or {NAMESPACE})",
    )


def found(options: argparse.Namespace) -> Path:
    """The kubeconfig that the flags select."""
    if options.kubeconfig is not None:
        return options.kubeconfig
    if paths := os.environ.get("KUBECONFIG"):
        return Path(paths.split(os.pathsep)[0])
    from cli.embedded import lifecycle

    own = lifecycle.state_directory() / lifecycle.KUBECONFIG
    return own if own.exists() else Path.home() / ".kube" / "config"


@asynccontextmanager
async def session(options: argparse.Namespace) -> AsyncGenerator[Api]:
    """A session with the API of the cluster that the flags name."""
    async with connect(kubeconfig.read(found(options), options.context)) as api:
        yield api


def log_of(options: argparse.Namespace) -> str | None:
    """Address of that cluster's log; None if it is not known. The embedded mesh's log is for its own cluster only."""
    from cli.embedded import lifecycle
    from cli.history.log_source import LOG_VARIABLE

    said: str | None = options.log if options.log is not None else os.environ.get(LOG_VARIABLE)
    if said:
        return said
    own = lifecycle.state_directory() / lifecycle.KUBECONFIG
    return "" if own.exists() and found(options).resolve() == own.resolve() else None
