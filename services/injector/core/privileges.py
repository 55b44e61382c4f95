"""Checks the users and capabilities of a pod's own containers beside a sidecar.

The redirect excludes the proxy's own connections, by the proxy's user (or by a socket mark, which requires NET_ADMIN
or, since Linux 5.17, NET_RAW). A container that runs as that user would bypass the proxy, so it is refused.
Capabilities are the remaining boundary: NET_ADMIN can remove the redirect, and root with SETUID can become the proxy's
user. They affect the pod's own calls only, which every other member checks by certificate, so they cause a warning, or
a refusal if the settings require it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from services.injector.core.configuration import Installation
from shared.errors import BadInputError

_UNDOING = frozenset({"ALL", "NET_ADMIN", "SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_ADMIN"})
"""Capabilities that can change the pod's network or mark its packets."""
_MARKING = _UNDOING | {"NET_RAW", "CAP_NET_RAW"}
"""The same if the redirect recognises the proxy's packets by a mark."""
_OWN = ("initContainers", "containers", "ephemeralContainers")

Json = Mapping[str, Any]


def check(spec: Json, installation: Installation, *, fields: Sequence[str] = _OWN) -> list[str]:
    """Return warnings about the containers of a pod. Raises `BadInputError` if one is refused."""
    warnings: list[str] = []
    pod = _mapping(spec.get("securityContext"))
    for container in _containers(spec, fields):
        name = f"container {str(container.get('name', ''))[:63]}"
        own = _mapping(container.get("securityContext"))
        user = own.get("runAsUser") if own.get("runAsUser") is not None else pod.get("runAsUser")
        if user == installation.proxy_uid:
            raise BadInputError(
                "inject/proxy-user",
                f"runs as user {user}, which is the proxy's: its calls would pass the proxy by; use another user",
                about=name,
            )
        undoing = _undoing(own, _UNDOING if installation.mode == "uid" else _MARKING)
        if not undoing:
            continue
        if installation.refuse_net_admin:
            raise BadInputError(
                "inject/capabilities", f"has {undoing}, which can undo the redirect to the proxy", about=name
            )
        warnings.append(f"{name} has {undoing}: it can undo the redirect to the proxy, and so leave the mesh")
    return warnings


def _undoing(own: Json, capabilities: frozenset[str]) -> str:
    if own.get("privileged") is True:
        return "all privileges"
    added = _mapping(own.get("capabilities")).get("add")
    names = (
        sorted({str(one).upper() for one in cast("list[Any]", added)} & capabilities) if isinstance(added, list) else []
    )
    return f"the capability {' and '.join(names)}" if names else ""


def _containers(spec: Json, fields: Sequence[str]) -> Iterable[Json]:
    for field in fields:
        listed = spec.get(field)
        for container in cast("list[Any]", listed) if isinstance(listed, list) else []:
            if isinstance(container, dict):
                yield cast("Json", container)


def _mapping(value: Any) -> Json:
    return cast("Json", value) if isinstance(value, dict) else {}
