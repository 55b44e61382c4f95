"""Probes through the proxy. Pure.

The kubelet calls a pod from outside of the mesh, so its probes would meet the inbound listener and be refused (or, a
TCP probe, be accepted by the proxy whatever the application does). Each HTTP, HTTPS, TCP and gRPC probe is turned
into an HTTP probe of one of three listeners of the proxy, which the redirect lets pass:

- HTTP and HTTPS make the proxy send the probe's own request, with its path, query, headers and timeout (`forward`):
  nothing of what a caller sends to the listener goes on, for anybody can call it;
- TCP and gRPC are answered from what the proxy's own health check of that port last found (`check`).

Exec probes are left alone. Thresholds and periods stay the kubelet's. A probe that names a host is left alone too: it
is not about this pod. The originals are kept beside the pod, so that mutating it again starts from them.
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
    """Of a gRPC probe."""
    target: str = "/"
    """Of an HTTP probe: what the application is asked for, path and query."""
    host: str = ""
    """The `Host` that an HTTP probe declares; empty: the pod's address and port."""
    headers: tuple[tuple[str, str], ...] = ()
    """What else an HTTP probe declares, names in lower case."""

    @property
    def path(self) -> str:
        """Where the kubelet asks for it: nothing of it reaches the application."""
        return f"/meshlog/{self.phase}/{self.container}"

    @property
    def cluster(self) -> str:
        """Name of the proxy's cluster for it."""
        return f"probe|{self.phase}|{self.container}"


def rewrite(container: Mapping[str, Any]) -> tuple[dict[str, Any], list[Probe]]:
    """The container with its probes redirected, and what the proxy must answer. Raises `BadInputError`."""
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
    """The definitions that were rewritten, by container and field."""
    kept: dict[str, dict[str, Any]] = {}
    by_name = {container["name"]: container for container in containers}
    for probe in probes:
        field = f"{probe.phase}Probe"
        kept.setdefault(probe.container, {})[field] = by_name[probe.container][field]
    return kept


def restore(container: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    """The container with its own probes again; a probe that somebody changed since stays as it is."""
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
    """A probe that an annotation kept was checked by nobody; one without a number has the default."""
    value = definition.get(field)
    return float(value) if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default


def warnings(container: Mapping[str, Any], probes: Sequence[Probe]) -> list[str]:
    """What of a container's probes and hooks does not work, or works otherwise, behind the proxy."""
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
    """A number, or the name of one of the container's ports."""
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
        # It would open the proxy's admin, or a listener, to every caller.
        raise BadInputError(
            "inject/probe-port",
            f"is on port {value}, but {proxys_own()} are the proxy's own; use another port",
            about=about,
        )
    return value
