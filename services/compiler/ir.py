"""Intermediate representation: the types that the steps of the compiler share, and nothing that computes them.

`derive` makes them of the objects of the mesh, `render` makes messages of them, `views` passes them from one to the
other. Both steps import this module and neither imports the other (a `layers` contract in pyproject.toml).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from shared.policy.model import HttpMatch
from shared.policy.object_name import ObjectName

Protocol = Literal["http", "tcp"]
"""How a proxy treats a port: HTTP (also HTTP/2, gRPC and WebSocket), or bytes. Server-first protocols are bytes like
any other: no proxy of ours waits for the client to speak."""


class Endpoint(NamedTuple):
    """Where one pod answers for one port of a service."""

    address: str
    port: int


class OpenPort(NamedTuple):
    """A port of a pod that some service leads to."""

    number: int
    protocol: Protocol


class Grant(NamedTuple):
    """What one traffic target lets through to the pods of its destination."""

    target: ObjectName
    sources: tuple[str, ...]
    """SPIFFE ids, sorted, at least one."""
    ports: tuple[int, ...] | None
    """Ports of the pod; none: all."""
    requests: tuple[HttpMatch, ...] | None
    """Only these HTTP requests, hence nothing on ports that are bytes to us; none: everything."""


class Share(NamedTuple):
    """One backend of a port of a root service."""

    service: ObjectName
    weight: int


class PortSplit(NamedTuple):
    """How calls to one port of a root are spread."""

    shares: tuple[Share, ...]
    """Sorted; backends that lack the port are left out. May be empty, or weigh nothing: then nothing passes."""
    matches: tuple[HttpMatch, ...] | None
    """Only these HTTP requests are spread, all others go to the root itself; none: every call is spread."""


class Route(NamedTuple):
    """Where calls to one port of a service go to: the content of its chain and its route configuration."""

    service: ObjectName
    port: int
    protocol: Protocol
    split: PortSplit | None
    sticky: bool = False
    """Whether it, or a backend of it, wants the calls of a client at one endpoint."""


class Rendered(NamedTuple):
    """One resource in its final bytes."""

    type_url: str
    name: str
    hash: str
    body: bytes
