"""Formats the names of objects, resources and persons for output, and parses the names of arguments."""

from __future__ import annotations

from cli.history.timeline import LoggedEvent
from cli.kubernetes.manifest_files import ObjectId
from cli.terminal.times import clock
from shared.errors import BadInputError
from shared.records.events import ObjectKey
from shared.records.snapshot import CDS, EDS, LDS, RDS, Snapshot, proxy_key

TYPES = {"cluster": CDS, "endpoints": EDS, "listener": LDS, "route": RDS}
"""Type name of an argument → type URL."""
_SHORT = {"c": "cluster", "e": "endpoints", "endpoint": "endpoints", "l": "listener", "r": "route", "routes": "route"}
_NAMES = {type_url: name for name, type_url in TYPES.items()}


def type_name(type_url: str) -> str:
    """Return `cluster`, `endpoints`, `listener` or `route`."""
    return _NAMES.get(type_url, type_url.rpartition(".")[2])


def parse_resource(text: str) -> tuple[str, str]:
    """Return the type URL and name of `TYPE/NAME`. Raises `BadInputError`."""
    kind, slash, name = text.partition("/")
    kind = _SHORT.get(kind.lower().removesuffix("s"), kind.lower())
    kind = kind if kind in TYPES else kind.removesuffix("s")
    if not slash or not name or kind not in TYPES:
        raise BadInputError("history/resource", f"is no TYPE/NAME: TYPE is one of {', '.join(TYPES)}", about=repr(text))
    return TYPES[kind], name


def parse_proxy(text: str, cluster: str) -> str:
    """Return the key of the proxy in the pod `NS/POD`. Raises `BadInputError`."""
    namespace, slash, pod = text.partition("/")
    if not slash or not namespace or not pod or "/" in pod:
        raise BadInputError("history/proxy", "is no proxy: write NAMESPACE/POD", about=repr(text))
    return proxy_key(cluster, namespace, pod)


def parse_object(text: str) -> ObjectId:
    """Return kind, namespace and name of `KIND/NS/NAME` (or `KIND/NAME`). Raises `BadInputError`."""
    parts = text.split("/")
    if len(parts) not in {2, 3} or not all(parts):
        raise BadInputError("history/object", "is no object: write KIND/NAMESPACE/NAME", about=repr(text))
    return ObjectId(parts[0], "" if len(parts) == 2 else parts[1], parts[-1])


def class_of(snapshot: Snapshot, key: str) -> str:
    """Return the class of a proxy. Raises `BadInputError` with names of other proxies if there is no such proxy."""
    proxy = snapshot.proxies.get(key)
    if proxy is not None:
        return proxy.workload_class
    namespace = key.split("/")[1]
    near = [other.partition("/")[2] for other in sorted(snapshot.proxies) if other.split("/")[1] == namespace]
    others = f"; there are {', '.join(near[:8])}" if near else ""
    raise BadInputError(
        "history/proxy", f"has no proxy in version {snapshot.version}{others}", about=key.partition("/")[2]
    )


def who(happened: LoggedEvent) -> str:
    """Return the author of a change: a person if the command wrote it, else the field manager in Kubernetes."""
    origin = happened.event.origin
    return origin.manager or {"list": "(found by listing)", "operator": "operator"}.get(origin.source, "-")


def line(happened: LoggedEvent | None, key: ObjectKey, sequence: int) -> str:
    """Format an event as one line: object, change, position in the log, time, author."""
    if happened is None:
        return f"{key}  at {sequence} (no longer in the log)"
    return f"{key}  {happened.event.operation} at {sequence}, {clock(happened.time)} by {who(happened)}"
