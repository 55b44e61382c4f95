"""Runs inside a pod without a sidecar: a client of the edges that refuses all that it is sent.

    python -P -m tests.health.refuser HOST:PORT

It asks for a listener with the pod's token, answers each response with an error, and goes on until it is ended.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from pathlib import Path

from benchmarks.swarm.http2 import GrpcStream
from benchmarks.swarm.wire import DELTA_PATH, LDS, field, read_response, write_request
from services.injector.core.proxy_bootstrap import DIRECTORY, TOKEN_FILE

TRUST = "/var/run/secrets/meshlog-trust/bundle.pem"
LISTENER = "web.matrix.svc.cluster.local:80"
WHY = "this listener is refused on purpose"


def refusal(nonce: str) -> bytes:
    """A `DeltaDiscoveryRequest` that refuses a response: `error_detail`, a `google.rpc.Status`."""
    return write_request(LDS, nonce=nonce) + field(7, b"\x08\x0d" + field(2, WHY.encode()))


def say(word: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def _main(edge: str, token: str) -> None:
    host, _, port = edge.rpartition(":")
    context = ssl.create_default_context(cafile=TRUST)
    context.set_alpn_protocols(["h2"])
    ended = asyncio.Event()

    def made() -> GrpcStream:
        metadata = [("authorization", f"Bearer {token}")]
        return GrpcStream(authority=host, path=DELTA_PATH, metadata=metadata, tls=True, message=take, ended=ended.set)

    def take(payload: bytes) -> None:
        stream.send(refusal(read_response(payload).nonce))
        say("refused")

    _, stream = await asyncio.get_running_loop().create_connection(made, host, int(port), ssl=context)
    stream.send(write_request(LDS, node=socket.gethostname(), subscribe=[LISTENER]))
    await ended.wait()
    say("the stream ended")


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], Path(DIRECTORY, TOKEN_FILE).read_text(encoding="ascii").strip()))
