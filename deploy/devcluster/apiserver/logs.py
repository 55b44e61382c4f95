"""A container's log, as `kubectl logs` asks for it; whoever runs the containers answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import msgspec
from aiohttp import web

from deploy.devcluster.apiserver.refusals import bad_request
from deploy.devcluster.apiserver.targets import flag, whole
from deploy.devcluster.cluster import Obj


class LogOptions(msgspec.Struct, frozen=True):
    """Which part of which log."""

    container: str
    follow: bool = False
    previous: bool = False
    """The run of the container before this one."""
    timestamps: bool = False
    tail_lines: int | None = None
    """Only so many lines from the end."""
    since_seconds: int | None = None
    limit_bytes: int | None = None


LogSource = Callable[[str, str, LogOptions], AsyncIterator[bytes]]
"""(namespace, pod, options) → pieces of the log; ends when the log does, with `follow` when the container does."""


def options(request: web.Request, pod: Obj) -> LogOptions:
    """The query's options; without a container, the pod's only one. Raises 400."""
    query = request.query
    spec = pod["spec"]
    names = [one["name"] for group in ("containers", "initContainers") for one in spec.get(group) or ()]
    container = query.get("container", "")
    if not container:
        main = [one["name"] for one in spec["containers"]]
        annotated = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container", "")
        if len(main) > 1 and annotated not in main:
            raise bad_request(
                f"a container name must be specified for pod {pod['metadata']['name']}, choose one of: {main}"
            )
        container = annotated if annotated in main else main[0]
    elif container not in names:
        raise bad_request(f"container {container} is not valid for pod {pod['metadata']['name']}")
    return LogOptions(
        container=container,
        follow=bool(flag(query, "follow")),
        previous=bool(flag(query, "previous")),
        timestamps=bool(flag(query, "timestamps")),
        tail_lines=whole(query, "tailLines"),
        since_seconds=whole(query, "sinceSeconds"),
        limit_bytes=whole(query, "limitBytes"),
    )
