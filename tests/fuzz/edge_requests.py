"""Fuzz what an edge reads from proxies, with coverage as the guide: `make fuzz-edge [SECONDS=60]`.

Needs atheris (`pip install atheris`), which has wheels for Linux only and is therefore no dependency.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest

from shared.snapshot import SDS, TYPE_URLS
from tests.unit.xds_edge.hostile import converse


def main() -> int:
    """Run until the time is over or something breaks; atheris takes its flags from the command line."""
    try:
        import atheris
    except ImportError:
        print("fuzz-edge needs atheris: .venv/bin/python -m pip install atheris", file=sys.stderr)  # noqa: T201
        return 2
    fuzzer: Any = atheris
    fuzzer.instrument_all()

    def one(content: bytes) -> None:
        converse(content)

    with tempfile.TemporaryDirectory(prefix="meshlog-fuzz-") as corpus:
        for number, content in enumerate(conversations()):
            (Path(corpus) / str(number)).write_bytes(content)
        fuzzer.Setup([*sys.argv, "-max_len=4096", corpus], one)
        fuzzer.Fuzz()
    return 0


def conversations() -> Iterator[bytes]:
    """What well-behaved proxies say, to start from: random bytes alone are rarely a request."""
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
    sys.exit(main())
