"""What of a MeshConfig is for new pods: `spec.sidecar`, and the lists of `spec.traffic` that redirect their traffic."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec

from shared.errors import BadInputError
from shared.io.decoding import UndecodableError, convert, decoding

T = TypeVar("T")

MAX_LISTED = 1000
"""Ports, ranges or interfaces in one list: they are one argument of a command in each pod."""
LOG_LEVELS = ("trace", "debug", "info", "warning", "warn", "error", "critical", "off")
_ABOUT = "MeshConfig"
_QUANTITY = re.compile(r"(\d+\.?\d*|\.\d+)(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]|[eE][+-]?\d{1,2})?")
_SCALES = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(1000),
    **{letter: Decimal(1000**power) for power, letter in enumerate("MGTPE", 2)},
    **{f"{letter}i": Decimal(1024**power) for power, letter in enumerate("KMGTPE", 1)},
}
_DIGITS = 40
_RESOURCES = re.compile(r"cpu|memory|ephemeral-storage|hugepages-[0-9]+[KMG]i|[a-z0-9.-]+\.[a-z]+/[A-Za-z0-9._-]+")
"""Names that Kubernetes takes in a container: its own, and extended ones with a domain."""


class Traffic(msgspec.Struct, frozen=True, rename="camel"):
    """`spec.traffic`, as far as new pods are concerned."""

    outbound_ip_range_exclusion_list: list[str] = msgspec.field(name="outboundIPRangeExclusionList", default=[])
    outbound_ip_range_inclusion_list: list[str] = msgspec.field(name="outboundIPRangeInclusionList", default=[])
    outbound_port_exclusion_list: list[int] = []
    inbound_port_exclusion_list: list[int] = []
    network_interface_exclusion_list: list[str] = []


class ContainerResources(msgspec.Struct, frozen=True, omit_defaults=True):
    """`spec.sidecar.resources`: what Kubernetes gives the containers of a sidecar."""

    limits: dict[str, str | int | float] = {}
    requests: dict[str, str | int | float] = {}


class Sidecar(msgspec.Struct, frozen=True, rename="camel"):
    """`spec.sidecar`."""

    enable_privileged_init_container: bool = False
    log_level: str = "error"
    envoy_image: str = ""
    init_container_image: str = ""
    local_proxy_mode: Literal["Localhost", "PodIP", ""] = "Localhost"
    resources: ContainerResources = ContainerResources()
    max_inbound_connections: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000
    """Connections from outside that a sidecar holds at once; more are closed at once. 16 kB each while they send
    nothing after their hello."""


class MeshSpec(msgspec.Struct, frozen=True):
    """`spec` of the MeshConfig; without one, the defaults."""

    sidecar: Sidecar = Sidecar()
    traffic: Traffic = Traffic()


def read_mesh_spec(spec: Mapping[str, Any]) -> MeshSpec:
    """Read a MeshConfig's `spec`; unknown fields belong to others. Raises `BadInputError`."""
    try:
        with decoding():
            whole = _without_nulls(spec)
        mesh = convert(MeshSpec, whole, strict=False)
    except UndecodableError as error:
        raise _bad("inject/mesh-config", f"cannot be used for new pods ({error})") from error
    if mesh.sidecar.log_level not in LOG_LEVELS:
        raise _bad("inject/log-level", f"sidecar.logLevel is none of {', '.join(LOG_LEVELS)}")
    for field, image in (
        ("envoyImage", mesh.sidecar.envoy_image),
        ("initContainerImage", mesh.sidecar.init_container_image),
    ):
        if image and image.split() != [image]:
            raise _bad("inject/image", f"sidecar.{field} is {image[:60]!r}, which is no name of an image")
    _judge_resources(mesh.sidecar.resources)
    traffic = mesh.traffic
    read_all(traffic.outbound_ip_range_exclusion_list, address_range, "traffic.outboundIPRangeExclusionList")
    read_all(traffic.outbound_ip_range_inclusion_list, address_range, "traffic.outboundIPRangeInclusionList")
    read_all(traffic.outbound_port_exclusion_list, port_number, "traffic.outboundPortExclusionList")
    read_all(traffic.inbound_port_exclusion_list, port_number, "traffic.inboundPortExclusionList")
    read_all(traffic.network_interface_exclusion_list, interface_name, "traffic.networkInterfaceExclusionList")
    return mesh


def read_all(values: Iterable[str | int], read: Callable[[str, str], str], field: str) -> list[str]:
    """Every value of a list of the MeshConfig, as it is written into a pod. Raises `BadInputError`."""
    listed = list(values)
    if len(listed) > MAX_LISTED:
        raise _bad("inject/list", f"{field} names more than {MAX_LISTED} values")
    return [read(str(value), f"{_ABOUT} {field}") for value in listed]


def address_range(value: str, about: str) -> str:
    """A range of addresses. Raises `BadInputError`."""
    try:
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError as error:
        raise BadInputError(
            "inject/range", f"{value[:60]!r} is no range of addresses like 10.0.0.0/8", about=about
        ) from error


def port_number(value: str, about: str) -> str:
    """A port. Raises `BadInputError`."""
    if value.isascii() and value.isdigit() and 0 < int(value[:6]) < 65536:
        return str(int(value))
    raise BadInputError("inject/port", f"{value[:60]!r} is no port from 1 to 65535", about=about)


def interface_name(value: str, about: str) -> str:
    """A network interface. Raises `BadInputError`."""
    # What the kernel takes for a name: dev_valid_name() in net/core/dev.c.
    if 0 < len(value.encode()) < 16 and value not in (".", "..") and not set(value) & set("/: \t\n,"):
        return value
    raise BadInputError("inject/interface", f"{value[:60]!r} is no name of a network interface", about=about)


def _judge_resources(resources: ContainerResources) -> None:
    """What Kubernetes checks of each container: quantities, and requests that limits allow. Raises `BadInputError`."""
    amounts = {
        part: {name: _amount(name, value, part) for name, value in values.items()}
        for part, values in (("limits", resources.limits), ("requests", resources.requests))
    }
    for name, wanted in amounts["requests"].items():
        most = amounts["limits"].get(name)
        if most is not None and wanted > most:
            raise _bad("inject/resources", f"sidecar.resources.requests.{name} is more than the limit")


def _amount(name: str, value: str | float, part: str) -> Decimal:
    where = f"sidecar.resources.{part}.{name[:60]}"
    if not _RESOURCES.fullmatch(name):
        raise _bad("inject/resources", f"{where} is no resource of containers such as cpu or memory")
    text = str(value)
    found = _QUANTITY.fullmatch(text) if len(text) <= _DIGITS else None
    if found is None:
        raise _bad("inject/resources", f"{where} is {text[:40]!r}, which is no quantity such as 100m or 64Mi")
    number, unit = Decimal(found[1]), found[2] or ""
    return number * (_SCALES[unit] if unit in _SCALES else Decimal(f"1{unit}"))


def _bad(code: str, sentence: str) -> BadInputError:
    return BadInputError(code, sentence, about=_ABOUT)


def _without_nulls(value: T) -> T:
    if isinstance(value, dict):
        return cast("T", {key: _without_nulls(each) for key, each in value.items() if each is not None})
    return value
