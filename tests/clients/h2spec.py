"""h2spec against an edge's server: every case of RFC 9113 and RFC 7541 that it knows, over TLS.

h2spec asks for a page as browsers do. The edge answers no such thing, so here, and here alone, every request counts as
a call, and every call is answered with a few bytes; what is tested is the transport below.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any
from unittest import mock
from xml.etree import ElementTree as ET

import msgspec

from services.xds_edge import app
from services.xds_edge.errors import StreamRefusedError
from services.xds_edge.grpc import server
from services.xds_edge.grpc.server import DiscoveryServer
from services.xds_edge.http2.call import GrpcCall, Handler
from services.xds_edge.http2.connection import Http2Connection
from tests.grpcio_edge.running import grpcio_edges
from tests.grpcio_edge.server import GrpcioServer

CASES = 145
"""Cases of h2spec 2.2.1 without the strict ones."""
_WITHIN = 240.0


class Verdict(msgspec.Struct, frozen=True):
    """What h2spec found."""

    passed: int
    failed: tuple[str, ...]
    """Each with its section, what it does, and what came instead."""
    skipped: tuple[str, ...]


def _any_request(*given: Any, **options: Any) -> Http2Connection:
    """A connection to which every request is a call."""
    return Http2Connection(*given, **options, objection=lambda _: "")


async def _answer(call: GrpcCall) -> None:
    """Answer a call once its client has said what it will."""
    with contextlib.suppress(StreamRefusedError):
        while await call.read() is not None:
            pass
    await call.write(b"answer")


class _Answers(DiscoveryServer):
    def _route(self, call: GrpcCall) -> Handler:
        call.prove(self.usages.of("h2spec", asyncio.get_running_loop().time()))
        return _answer


class _GrpcioAnswers(GrpcioServer):
    def serves(self, path: str) -> bool:  # noqa: ARG002 (whatever it is)
        """Every path."""
        return True

    def _route(self, call: GrpcCall) -> Handler:  # noqa: ARG002 (whatever it asks)
        return _answer


@contextlib.contextmanager
def answering() -> Generator[None]:
    """Every edge that is made within the block answers whatever it is asked."""
    with (
        mock.patch.object(server, "Http2Connection", _any_request),
        mock.patch.object(app, "DiscoveryServer", _Answers),
    ):
        yield


@contextlib.contextmanager
def grpcio_answering() -> Generator[None]:
    """The same on gRPC's server, as far as it lets calls through."""
    with grpcio_edges(_GrpcioAnswers):
        yield


async def run(binary: str, port: int, *, patience: int = 2) -> Verdict:
    """Run all cases; `patience`: seconds that h2spec waits for each answer."""
    with tempfile.TemporaryDirectory(prefix="meshlog-h2spec-") as name:
        report = Path(name) / "report.xml"
        process = await asyncio.create_subprocess_exec(
            binary, "-t", "-k", "-h", "127.0.0.1", "-p", str(port), "-o", str(patience), "-j", str(report),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await asyncio.wait_for(process.wait(), _WITHIN)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return _verdict(report.read_text(encoding="utf-8"))


def _verdict(report: str) -> Verdict:
    passed, failed, skipped = 0, list[str](), list[str]()
    for case in ET.fromstring(report).iter("testcase"):  # noqa: S314 (written by the program that was just run)
        title = f"{case.get('package', '')} {case.get('classname', '')}".strip()
        wrong = case.find("failure")
        wrong = case.find("error") if wrong is None else wrong
        if wrong is not None:
            failed.append(f"{title}: {' '.join((wrong.text or '').split())}")
        elif case.find("skipped") is not None:
            skipped.append(title)
        else:
            passed += 1
    return Verdict(passed, tuple(failed), tuple(skipped))
