"""The parts of a sidecar: the init container that sets the redirect, the proxy's container, and one volume.

The projected volume contains what the proxy needs from the cluster: the pod's own token (audience `meshlog`), the trust
bundle of the namespace, and the two documents by which Envoy follows them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from services.injector.core.configuration import Installation
from services.injector.core.probe_listeners import NODE_ADDRESS, POD_ADDRESS, READY_PATH
from services.injector.core.probes import PORTS, Probe
from services.injector.core.proxy_bootstrap import (
    BUNDLE_FILE,
    DIRECTORY,
    TOKEN_FILE,
    TOKEN_SOURCE_FILE,
    TRUST_SOURCE_FILE,
    bootstrap,
    token_source,
    trust_source,
)
from shared.errors import BadInputError
from shared.kubernetes.reserved_ports import INBOUND_PORT
from shared.meshconfig.images import envoy_fails, init_fails, judged
from shared.meshconfig.pods import MAX_LISTED, MeshSpec, Traffic, address_range, interface_name, port_number, read_all
from shared.projected_objects import OSM_PREFIX

INIT_CONTAINER = "meshlog-init"
PROXY_CONTAINER = "envoy"
VOLUME = "meshlog-identity"
ANNOTATION_TOKEN_SOURCE = "sidecar.meshlog.io/token-source"  # noqa: S105 (a name)
ANNOTATION_TRUST_SOURCE = "sidecar.meshlog.io/trust-source"
ANNOTATION_PROBES = "sidecar.meshlog.io/probes"
"""The probes as their author wrote them, as JSON; set only if some were rewritten."""

HOLD = (
    f"ready() ( exec 3<>/dev/tcp/127.0.0.1/{PORTS['readiness']} && "
    # Envoy answers HTTP/1.0 with 426.
    f"printf 'GET {READY_PATH} HTTP/1.1\\r\\nHost: pod\\r\\nConnection: close\\r\\n\\r\\n' >&3 && "
    'read -r -t 2 line <&3 && [[ $line == *" 200 "* ]] ); '
    "for ((turn = 0; turn < 3000; turn++)); do ready 2>/dev/null && exit 0; sleep 0.2; done; exit 1"
)
"""Waits until the proxy has its configuration (ten minutes at most). An image without bash cannot delay the
application: then the proxy refuses what the application sends before."""

MAX_BOOTSTRAP = 120_000
"""Bytes; Linux allows 131,072 for one argument of a command (MAX_ARG_STRLEN)."""

_AUDIENCE = "meshlog"
Json = dict[str, Any]


def volume(installation: Installation) -> Json:
    """Return the projected volume."""
    token = {
        "audience": _AUDIENCE,
        "expirationSeconds": installation.token_seconds,
        "path": TOKEN_FILE,
    }
    files = [
        _annotation_file(ANNOTATION_TOKEN_SOURCE, TOKEN_SOURCE_FILE),
        _annotation_file(ANNOTATION_TRUST_SOURCE, TRUST_SOURCE_FILE),
    ]
    bundle = {"name": installation.trust_bundle, "items": [{"key": BUNDLE_FILE, "path": BUNDLE_FILE}]}
    return {
        "name": VOLUME,
        "projected": {
            "sources": [{"serviceAccountToken": token}, {"configMap": bundle}, {"downwardAPI": {"items": files}}]
        },
    }


def source_annotations() -> dict[str, str]:
    """Return the annotations that become files of the volume."""
    return {ANNOTATION_TOKEN_SOURCE: token_source(), ANNOTATION_TRUST_SOURCE: trust_source()}


def proxy(installation: Installation, mesh: MeshSpec, probes: Sequence[Probe]) -> Json:
    """Return the proxy's container: a native sidecar, unless the cluster is too old for it."""
    config = _as_argument(bootstrap(installation, probes, connections=mesh.sidecar.max_inbound_connections))
    security: Json = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}
    if installation.mode == "uid":
        security |= {"runAsUser": installation.proxy_uid, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}}
    else:
        # Marking its packets requires NET_ADMIN.
        security |= {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}
    container: Json = {
        "name": PROXY_CONTAINER,
        "image": _usable(mesh.sidecar.envoy_image, envoy_fails) or installation.proxy_image,
        "imagePullPolicy": installation.pull_policy,
        "command": ["envoy"],
        "args": [
            "--config-yaml",
            config,
            "--service-node",
            "$(POD_NAMESPACE)/$(POD_NAME)",
            "--service-cluster",
            "$(SERVICE_ACCOUNT).$(POD_NAMESPACE)",
            "--log-level",
            mesh.sidecar.log_level,
            "--concurrency",
            str(installation.concurrency),
            "--drain-time-s",
            "5",
            "--drain-strategy",
            "immediate",
            "--disable-hot-restart",
        ],
        "env": [
            _field("POD_NAME", "metadata.name"),
            _field("POD_NAMESPACE", "metadata.namespace"),
            _field("POD_UID", "metadata.uid"),
            _field("POD_IP", "status.podIP"),
            _field("HOST_IP", "status.hostIP"),
            _field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        ],
        "ports": [
            {"name": "proxy-inbound", "containerPort": INBOUND_PORT},
            {"name": "readiness-port", "containerPort": PORTS["readiness"]},
        ],
        "volumeMounts": [{"name": VOLUME, "mountPath": DIRECTORY, "readOnly": True}],
        "securityContext": security,
    }
    if resources := msgspec.to_builtins(mesh.sidecar.resources):
        container["resources"] = resources
    started = {"httpGet": {"path": READY_PATH, "port": PORTS["readiness"]}, "periodSeconds": 1}
    if installation.native_sidecars:
        # The application starts once the proxy has its configuration, however long that takes (ten minutes).
        container["restartPolicy"] = "Always"
        container["startupProbe"] = started | {"failureThreshold": 600}
    else:
        container["readinessProbe"] = started | {"failureThreshold": 3, "periodSeconds": 5}
        if "distroless" not in container["image"]:
            # The kubelet starts the next container only after this hook, so that the application waits, too.
            container["lifecycle"] = {"postStart": {"exec": {"command": ["bash", "-c", HOLD]}}}
    return container


def init(
    installation: Installation, mesh: MeshSpec, pod_annotations: Mapping[str, str], probes: Sequence[Probe]
) -> Json:
    """Return the init container that redirects the pod's traffic. Raises `BadInputError` for an invalid exclusion."""
    container: Json = {
        "name": INIT_CONTAINER,
        "image": _usable(mesh.sidecar.init_container_image, init_fails) or installation.init_image,
        "imagePullPolicy": installation.pull_policy,
        "command": ["meshlog"],
        "args": _init_arguments(installation, mesh, pod_annotations, probes),
        "env": [_field("POD_IP", "status.podIP")],
        "securityContext": {
            "privileged": mesh.sidecar.enable_privileged_init_container,
            "runAsUser": 0,
            "runAsNonRoot": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
        },
    }
    if resources := msgspec.to_builtins(mesh.sidecar.resources):
        container["resources"] = resources
    return container


class _ListOption(NamedTuple):
    """An option of `meshlog sidecar-init` with a list from the MeshConfig and from an annotation of the pod."""

    flag: str
    annotation: str
    """Name without the prefix; empty for none."""
    configured: Sequence[str | int]
    read: Callable[[str, str], str]
    """Reads one value, given where it stands. Raises `BadInputError`."""


def _init_arguments(
    installation: Installation, mesh: MeshSpec, pod_annotations: Mapping[str, str], probes: Sequence[Probe]
) -> list[str]:
    arguments = ["sidecar-init"]
    if installation.mode == "mark":
        arguments += ["--proxy-mark", str(installation.proxy_mark)]
    else:
        arguments += ["--proxy-uid", str(installation.proxy_uid)]
    # On a port without a listener of the proxy, plain connections would reach the application.
    listening = sorted({PORTS["readiness"], *(PORTS[probe.phase] for probe in probes)})
    arguments += ["--probe-ports", ",".join(map(str, listening))]
    for option in _list_options(mesh.traffic):
        name = f"{OSM_PREFIX}{option.annotation}"
        own = pod_annotations.get(name, "") if option.annotation else ""
        about = f"annotation {name}"
        items = dict.fromkeys(
            [
                *read_all(option.configured, option.read, option.flag),
                *(option.read(one, about) for one in _listed(own, about)),
            ]
        )
        if items:
            arguments += [option.flag, ",".join(items)]
    if mesh.sidecar.local_proxy_mode == "PodIP":
        arguments += ["--local-proxy-ip", "$(POD_IP)"]
    return arguments


def _list_options(traffic: Traffic) -> Sequence[_ListOption]:
    excluded, included = traffic.outbound_ip_range_exclusion_list, traffic.outbound_ip_range_inclusion_list
    outbound, inbound = traffic.outbound_port_exclusion_list, traffic.inbound_port_exclusion_list
    interfaces = traffic.network_interface_exclusion_list
    return (
        _ListOption("--exclude-outbound-cidrs", "outbound-ip-range-exclusion-list", excluded, address_range),
        _ListOption("--include-outbound-cidrs", "outbound-ip-range-inclusion-list", included, address_range),
        _ListOption("--exclude-outbound-ports", "outbound-port-exclusion-list", outbound, port_number),
        _ListOption("--exclude-inbound-ports", "inbound-port-exclusion-list", inbound, port_number),
        _ListOption("--exclude-interfaces", "", interfaces, interface_name),
    )


def _as_argument(config: Json) -> str:
    """Return the bootstrap with the variables that the kubelet expands. Raises `BadInputError` if it is too long."""
    text = json.dumps(config, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    # The kubelet expands `$(` and `$$` anywhere, so dollar signs are written as JSON escapes.
    argument = text.replace("$", "\\u0024").replace(NODE_ADDRESS, "$(HOST_IP)")
    argument = argument.replace(POD_ADDRESS, "$(POD_IP)")
    if len(argument.encode()) > MAX_BOOTSTRAP:
        raise BadInputError(
            "inject/probes",
            f"has HTTP probes that take {len(argument.encode())} bytes of the proxy's configuration; at most "
            f"{MAX_BOOTSTRAP} fit: use fewer probes, or shorter paths and headers",
            about="the pod",
        )
    return argument


def _listed(text: str, about: str) -> list[str]:
    values = text.split(",", MAX_LISTED)
    if len(values) > MAX_LISTED:
        raise BadInputError("inject/list", f"names more than {MAX_LISTED} values", about=about)
    return [value.strip() for value in values if value.strip()]


def unused_images(mesh: MeshSpec) -> list[str]:
    """Return a sentence for each image of the MeshConfig that is not used."""
    spec = {
        "sidecar": {
            "envoyImage": mesh.sidecar.envoy_image,
            "initContainerImage": mesh.sidecar.init_container_image,
        }
    }
    return [
        f"MeshConfig {one.field}: {one.sentence}; the default image is used"
        for one in judged(spec)
        if one.verdict == "fails"
    ]


def _usable(image: str, fails: Callable[[str], bool]) -> str:
    """Return an image of the MeshConfig, or an empty string if pods with it would not start."""
    return "" if fails(image) else image


def _field(name: str, path: str) -> Json:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _annotation_file(annotation: str, path: str) -> Json:
    return {"path": path, "fieldRef": {"fieldPath": f"metadata.annotations['{annotation}']"}}
