"""The clients that there are, and a mesh around an edge for them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import msgspec

from shared.records.snapshot import CDS
from tests.clients.plan import PODS, Plan, Row, write_messages
from tests.integration.xds_edge.names import EDGE_DNS
from tests.integration.xds_edge.world import World, world
from tests.programs import TOOLS, built

_WITHIN = 180.0
BULK = {f"bulk-{number}": bytes([number]) * 256 * 1024 for number in range(24)}


def commands() -> dict[str, list[str] | None]:
    """Client → the command that a plan is given to; none: it was not built here (`make edge-clients`)."""
    java = built("java")
    node = built("node/node_modules")
    return {
        "grpcio (asyncio)": [sys.executable, "-m", "tests.clients.grpcio_aio"],
        "grpcio (threads)": [sys.executable, "-m", "tests.clients.grpcio_sync"],
        "grpc-go": [str(TOOLS / "go-client")] if built("go-client") else None,
        "grpc-java": ["java", "-cp", f"{java}/classes:{java}/*", "Client"] if java else None,
        "grpc-js": ["node", str(Path(__file__).parent / "node" / "client.js")] if node else None,
    }


@contextlib.asynccontextmanager
async def clients_world(directory: Path) -> AsyncGenerator[tuple[World, Plan]]:
    """A mesh with an edge, and the plan for its clients."""
    async with world(directory) as mesh:
        pods = {f"clients/p{number}": (f"u{number}", "small") for number in range(PODS)}
        small = {CDS: {f"c{number}": os.urandom(512) for number in range(8)}}
        await mesh.compiler.publish(
            {"small": small, "bulky": {CDS: BULK}}, {**pods, "clients/bulky": ("bulky", "bulky")}
        )
        edge = await mesh.edge()
        roots = directory / "roots.pem"
        roots.write_text(mesh.ca.root_pem)
        write_messages(directory / "messages")
        token = mesh.issuer.token
        yield (
            mesh,
            Plan(
                address=f"127.0.0.1:{edge.server.port}",
                authority=EDGE_DNS,
                roots=str(roots),
                tokens=[token("clients", "default", f"p{number}", f"u{number}") for number in range(PODS)],
                bulky=token("clients", "default", "bulky", "bulky"),
                messages=str(directory / "messages"),
            ),
        )


async def run(client: str, command: Sequence[str], plan: Plan, directory: Path) -> list[Row]:
    """Run all cases of a client; a client that ends badly has a row that says so."""
    file = directory / "plan.json"
    file.write_bytes(msgspec.json.encode(plan))
    process = await asyncio.create_subprocess_exec(
        *command, str(file), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), _WITHIN)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    rows = [
        msgspec.structs.replace(msgspec.json.decode(line, type=Row), client=client)
        for line in output.splitlines()
        if line.startswith(b"{")
    ]
    if process.returncode or not rows:
        detail = f"exit code {process.returncode}: {errors.decode('utf-8', 'replace')[-500:]}"
        rows.append(Row("the client's end", passed=False, detail=detail, client=client))
    return rows
