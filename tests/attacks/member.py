"""Runs in the proxy's container of a member's pod: opens a stream to an edge again and again, as a new proxy does.

    python -P -m tests.attacks.member HOST:PORT [--mark 1337] [--pause 0.5] [--patience 10]

Until standard input ends it prints a line of JSON for each stream: `at` (steady clock, seconds), `seconds` from the
first packet to the first response that holds a resource, and `error`, empty if there was one. Each stream has a
connection, a handshake and a token of its own, and asks for all clusters and listeners.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.swarm.http2 import GrpcStream
from benchmarks.swarm.wire import CDS, DELTA_PATH, LDS, read_response, write_request
from services.injector.core.proxy_bootstrap import BUNDLE_FILE, DIRECTORY, TOKEN_FILE

_MARK = 36
"""SO_MARK (asm-generic/socket.h)."""


async def connected(host: str, port: int, mark: int) -> socket.socket:
    """A TCP connection that passes the pod's redirect if `mark` is the proxy's; raises `OSError`."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, family=socket.AF_INET, type=socket.SOCK_STREAM)
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        if mark:
            made.setsockopt(socket.SOL_SOCKET, _MARK, mark)
        await loop.sock_connect(made, found[0][4])
    except BaseException:
        made.close()
        raise
    return made


def trusting() -> ssl.SSLContext:
    """TLS as the sidecar speaks it: the trust bundle of the pod, ALPN h2."""
    context = ssl.create_default_context(cafile=f"{DIRECTORY}/{BUNDLE_FILE}")
    context.set_alpn_protocols(["h2"])
    return context


def token() -> str:
    """The token of the pod's workload, as it is now."""
    return Path(DIRECTORY, TOKEN_FILE).read_text(encoding="ascii").strip()


async def served(
    host: str,
    port: int,
    *,
    node: str,
    mark: int,
    trust: Callable[[], ssl.SSLContext] = trusting,
    bearer: Callable[[], str] = token,
) -> None:
    """Return when a new stream was sent a resource; raises `OSError` if it ends before."""
    done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def take(payload: bytes) -> None:
        if read_response(payload).resources and not done.done():
            done.set_result(True)

    def ended() -> None:
        if not done.done():
            done.set_result(False)

    def made() -> GrpcStream:
        metadata = [("authorization", f"Bearer {bearer()}")]
        return GrpcStream(authority=host, path=DELTA_PATH, metadata=metadata, tls=True, message=take, ended=ended)

    line = await connected(host, port, mark)
    try:
        _, stream = await asyncio.get_running_loop().create_connection(
            made, sock=line, ssl=trust(), server_hostname=host
        )
    except BaseException:
        line.close()
        raise
    try:
        stream.send(write_request(CDS, node=node))
        stream.send(write_request(LDS))
        if not await done:
            raise ConnectionError("the stream ended before a resource came")
    finally:
        stream.close()


async def _look(options: argparse.Namespace) -> dict[str, object]:
    host, _, port = str(options.edge).rpartition(":")
    began, error = time.monotonic(), ""
    try:
        async with asyncio.timeout(options.patience):
            await served(host, int(port), node=socket.gethostname(), mark=options.mark)
    except TimeoutError:
        error = f"not served within {options.patience:g} s"
    except OSError as failure:
        error = f"{type(failure).__name__}: {failure}"
    return {"at": began, "seconds": round(time.monotonic() - began, 4), "error": error}


async def _main(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    ended = asyncio.ensure_future(reader.read())
    while not ended.done():
        sys.stdout.write(json.dumps(await _look(options)) + "\n")
        sys.stdout.flush()
        await asyncio.wait({ended}, timeout=options.pause)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("edge")
    parser.add_argument("--mark", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.5)
    parser.add_argument("--patience", type=float, default=10.0)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(parser.parse_args()))
