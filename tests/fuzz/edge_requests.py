"""Fuzz what an edge reads from proxies, with coverage as the guide: `make fuzz-edge [SECONDS=60]`.

Needs atheris (`pip install atheris`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest

from tests.fuzz.guided import fuzz


def load() -> tuple[Callable[[bytes], object], Iterable[bytes]]:
    """What answers them, and what to start from."""
    from tests.unit.xds_edge.hostile import converse

    return converse, conversations()


def conversations() -> Iterator[bytes]:
    """What well-behaved proxies say, to start from: random bytes alone are rarely a request."""
    from shared.records.snapshot import SDS, TYPE_URLS

    kinds: list[tuple[bytes, Any]] = [(b"\x00", DeltaDiscoveryRequest), (b"\xff", DiscoveryRequest)]
    for first, make in kinds:
        said: list[Any] = [make(type_url=type_url) for type_url in (*TYPE_URLS, SDS)]
        said += [make(type_url=type_url, response_nonce=str(n)) for n, type_url in enumerate((*TYPE_URLS, SDS), 1)]
        refusal: Any = make(type_url=TYPE_URLS[0], response_nonce="6")
        refusal.error_detail.message = "no"
        names = "resource_names_subscribe" if first == b"\x00" else "resource_names"
        said += [refusal, make(type_url=TYPE_URLS[1], **{names: ["a", "*"]}), make(type_url=TYPE_URLS[1])]
        messages = [message.SerializeToString() for message in said]
        yield first + b"".join(len(message).to_bytes(2, "big") + message for message in messages)


if __name__ == "__main__":
    sys.exit(fuzz("fuzz-edge", ["services.xds_edge", "shared"], load))
