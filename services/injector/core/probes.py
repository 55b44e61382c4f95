"""Rewrites the probes of a pod so that the proxy answers them.

The kubelet calls a pod from outside the mesh, so the inbound listener would refuse its probes (or, for a TCP probe,
accept the connection whatever the application does). Each HTTP, HTTPS, TCP and gRPC probe becomes an HTTP probe of one
of three listeners of the proxy, which the redirect excludes:

- for HTTP and HTTPS, the proxy sends the probe's own request, with its path, query, headers and timeout (`forward`). It
  forwards nothing of the request that it receives, because any client can send one;
- TCP and gRPC probes are answered by the last result of the proxy's own health check of that port (`check`).

Exec probes and probes that name a host, which concern another pod, are not changed. Thresholds and periods stay the
kubelet's. An annotation stores the originals, so that mutating the pod again starts from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from services.injector.core import probe_request
from shared.errors import BadInputError
from shared.kubernetes.reserved_ports import LIVENESS_PORT, READINESS_PORT, STARTUP_PORT, is_proxys, proxys_own

Phase = Literal["liveness", "readiness", "startup"]

PORTS: dict[Phase, int] = {"liveness": LIVENESS_PORT, "readiness": READINESS_PORT, "startup": STARTUP_PORT}
"""Listener of the proxy for each kind of probe."""


class Probe(msgspec.Struct, frozen=True, omit_defaults=True):
    """One probe that goes through the proxy."""

    phase: Phase
    container: str
    port: int
    how: Literal["forward", "check"]
    scheme: Literal["http", "https", "tcp", "grpc"]
    timeout: float
    """Seconds."""
    period: float
    service: str = ""
    """Service of a gRPC probe."""
    target: str = "/"
    """Path and query of an HTTP probe's request to the application."""
    host: str = ""
    """The `Host` that an HTTP probe declares; empty: the pod's address and port."""
    headers: tuple[tuple[str, str], ...] = ()
    """Other headers that an HTTP probe declares, names in lower case."""

    @property
    def path(self) -> str:
        """Path that the kubelet requests from the proxy. It does not reach the application."""
        return f"/meshlog/{self.phase}/{self.container}"

    @property
    def cluster(self) -> str:
        """Name of the proxy's cluster for this probe."""
        return f"probe|{self.phase}|{self.container}"


def rewrite(container: Mapping[str, Any]) -> tuple[dict[str, Any], list[Probe]]:
    """Return the container with rewritten probes, and the probes that the proxy answers. Raises `BadInputError`."""
    changed = dict(container)
    found: list[Probe] = []
    for phase in PORTS:
        definition: Mapping[str, Any] = container.get(f"{phase}Probe") or {}
        probe = _read(phase, container, definition)
        if probe is not None:
            found.append(probe)
            changed[f"{phase}Probe"] = _redirected(probe, definition)
    return changed, found


def originals(containers: Sequence[Mapping[str, Any]], probes: Sequence[Probe]) -> dict[str, dict[str, Any]]:
    """Return the original definitions of rewritten probes, by container and field."""
    kept: dict[str, dict[str, Any]] = {}
    by_name = {container["name"]: container for container in containers}
    for probe in probes:
        field = f"{probe.phase}Probe"
        kept.setdefault(probe.container, {})[field] = by_name[probe.container][field]
    return kept


def restore(container: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return the container with its original probes. A probe that was changed since the injection stays."""
    restored = dict(container)
    for phase, port in PORTS.items():
        field = f"{phase}Probe"
        action = (restored.get(field) or {}).get("httpGet") or {}
        ours = action.get("port") == port and str(action.get("path", "")).startswith(f"/meshlog/{phase}/")
        if ours and isinstance(kept.get(field), dict):
            restored[field] = kept[field]
    return restored


def _read(phase: Phase, container: Mapping[str, Any], definition: Mapping[str, Any]) -> Probe | None:
    name = str(container.get("name", ""))
    timeout = _seconds(definition, "timeoutSeconds", 1.0)
    period = _seconds(definition, "periodSeconds", 10.0)
    for field in ("httpGet", "tcpSocket", "grpc"):
        action = definition.get(field)
        if not isinstance(action, dict):
            continue
        if action.get("host"):
            return None
        about = f"{phase}Probe of container {name}"
        probe = Probe(
            phase=phase,
            container=name,
            port=_port(action.get("port"), container, about),
            how="check",
            scheme="tcp" if field == "tcpSocket" else "grpc",
            timeout=timeout,
            period=period,
        )
        if field == "httpGet":
            host, headers = probe_request.headers(action, about=about)
            return msgspec.structs.replace(
                probe,
                how="forward",
                scheme="https" if str(action.get("scheme", "")).upper() == "HTTPS" else "http",
                target=probe_request.target(str(action.get("path") or "/"), about=about),
                host=host,
                headers=headers,
            )
        return msgspec.structs.replace(probe, service=_service(action, about)) if field == "grpc" else probe
    return None


def _seconds(definition: Mapping[str, Any], field: str, default: float) -> float:
    """Return a duration, or the default if it is no number: probes from the annotation are unchecked."""
    value = definition.get(field)
    return float(value) if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default


def warnings(container: Mapping[str, Any], probes: Sequence[Probe]) -> list[str]:
    """Return warnings about probes and hooks of a container that fail or behave differently behind the proxy."""
    name = str(container.get("name", ""))
    found: list[str] = []
    lifecycle = container.get("lifecycle")
    for hook in ("postStart", "preStop"):
        action = lifecycle.get(hook) if isinstance(lifecycle, dict) else None
        if isinstance(action, dict) and ("httpGet" in action or "tcpSocket" in action):
            found.append(
                f"container {name}: lifecycle.{hook} is a call of the kubelet's from outside of the mesh, which is "
                "refused unless its port is excluded; use exec"
            )
    for probe in probes:
        action = container[f"{probe.phase}Probe"].get("httpGet") or {}
        dropped = probe_request.not_sent(action, about=f"{probe.phase}Probe of container {name}")
        if dropped:
            found.append(f"container {name}: {probe.phase}Probe is sent without {', '.join(dropped)}")
    return found


def _service(action: Mapping[str, Any], about: str) -> str:
    name = str(action.get("service") or "")
    if not name.isprintable():
        raise BadInputError("inject/probe-service", "names a service with control characters", about=about)
    return name


def _redirected(probe: Probe, definition: Mapping[str, Any]) -> dict[str, Any]:
    redirected = {key: value for key, value in definition.items() if key not in ("httpGet", "tcpSocket", "grpc")}
    before: Mapping[str, Any] = definition.get("httpGet") or {}
    action: dict[str, Any] = {"path": probe.path, "port": PORTS[probe.phase], "scheme": "HTTP"}
    if before.get("httpHeaders"):
        action["httpHeaders"] = before["httpHeaders"]
    redirected["httpGet"] = action
    return redirected


def _port(value: Any, container: Mapping[str, Any], about: str) -> int:
    """Resolve a port: a number, or the name of one of the container's ports. Raises `BadInputError`."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, str):
        named = [each.get("containerPort") for each in container.get("ports") or [] if each.get("name") == value]
        if not named:
            raise BadInputError(
                "inject/probe-port", f"names port {value!r}, which the container does not have", about=about
            )
        value = named[0]
    if not isinstance(value, int) or not 0 < value < 65536:
        raise BadInputError("inject/probe-port", "has no port from 1 to 65535", about=about)
    if is_proxys(value):
        # The probe would expose the proxy's admin interface, or a listener, to every client.
        raise BadInputError(
            "inject/probe-port",
            f"is on port {value}, but {proxys_own()} are the proxy's own; use another port",
            about=about,
        )
    return value
