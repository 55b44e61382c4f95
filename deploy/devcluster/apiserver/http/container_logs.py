"""Options of `kubectl logs`, parsed from the query. The kubelet provides the log (`LogSource`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import datetime

import msgspec
from aiohttp import web

from deploy.devcluster.apiserver.http.request_target import flag, whole
from deploy.devcluster.apiserver.status_errors import StatusCause, bad_request, invalid, wrong
from deploy.devcluster.cluster_api import Obj


class PodLogOptions(msgspec.Struct, frozen=True):
    """The container and the part of its log to return."""

    container: str
    follow: bool = False
    previous: bool = False
    """The run of the container before this one."""
    timestamps: bool = False
    tail_lines: int | None = None
    """Number of lines from the end; None for all."""
    since: float | None = None
    """Earliest time of a line, in seconds since 1970; None for all."""
    limit_bytes: int | None = None


LogSource = Callable[[str, str, PodLogOptions], AsyncGenerator[bytes]]
"""(namespace, pod, options) → pieces of the log; ends when the log does, with `follow` when the container does."""


def options(request: web.Request, pod: Obj, now: float) -> PodLogOptions:
    """Parse the query. The default container is the annotated one, or the only one. Raises 400, 422."""
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
    return PodLogOptions(
        container=container,
        follow=bool(flag(query, "follow")),
        previous=bool(flag(query, "previous")),
        timestamps=bool(flag(query, "timestamps")),
        tail_lines=whole(query, "tailLines"),
        since=_since(query, pod["metadata"]["name"], now),
        limit_bytes=_at_least_one(query, "limitBytes", pod["metadata"]["name"]),
    )


def _since(query: Mapping[str, str], name: str, now: float) -> float | None:
    seconds = _at_least_one(query, "sinceSeconds", name)
    text = query.get("sinceTime")
    if not text:
        return None if seconds is None else now - seconds
    if seconds is not None:
        message = "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"
        raise invalid("PodLogOptions", "", name, [StatusCause("FieldValueForbidden", "", message)])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise bad_request(f'invalid value "{text[:60]}" of sinceTime: a time like 2006-01-02T15:04:05Z is needed')
    return moment.timestamp()


def _at_least_one(query: Mapping[str, str], field: str, name: str) -> int | None:
    value = whole(query, field)
    if value == 0:
        raise invalid("PodLogOptions", "", name, [wrong(field, value, "must be greater than 0")])
    return value
