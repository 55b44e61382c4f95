"""The reading of requests in `cli/calls/request_head.py` is Envoy's own: generated requests are read by both."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import DirectResponseAction, Route, RouteMatch, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from cli.calls.http_routing import RefusedRequest, received
from cli.calls.matching import HttpRequest
from cli.calls.request_head import METHODS
from services.compiler.render.clusters import address
from services.compiler.render.packing import packed
from tests.integration.compiler.envoys import running
from tests.ports import free_port
from tests.unit.compiler import objects
from tests.unit.compiler.test_reading import manager
from tests.unit.compiler.test_views import told

pytestmark = pytest.mark.envoy

MODES = ("Reject", "Decode", "Keep")
PARTS = (
    *("/", "/", "/", "a", "b", ".", "..", "%2e", "%2E", "\\", "%2f", "%2F", "%5C", ";", "x", ";y=1", "%", "%%", "%3"),
    *("%61", "%30", "%36", "36", "30", "%25", "%00", "%3b", "?", "#", "%23", "%c0%ae", "%0a", '"', "|", "[", "~"),
    *("..;", ".;", "//", "/..", "/.", "/%2e%2e", "=", "&", "A", "%41", "%zz", "^", "*", "+", ":", "@", "%ff", "%7f"),
    "%7e",
)
TARGETS = (
    *("*", "a", "?a", "\\a", "/a b", "/a\tb", "/\x7f", "/\xe9", "http://x.y/a/../b", "http://x.y", "https://x/a"),
    *("ftp://x/a", "http:///a", "//x/a", "http://good?x", "http://good#x", "http://u@good/a", "http://good:80/a"),
    *(
        "HTTP://good/a",
        "http://go_od/",
        "http://go%6fd/",
        "ws://good/",
        "good/",
        "http:/good",
        "http://",
        "http://[::1]/a",
    ),
    *("db.other:443", "db", "/", "/a%2Fb", "http://x/a%2fb", "http://x/..;/%2e%2e", ":443", "db:x"),
)
HOSTS = (
    *("good", "good:80", "good.", "GOOD", "a b", "a/b", "a@good", "good,evil", "[::1]", "a%20b", "a_b", "a:99999"),
    *("g\xf6", "http://good", "a?b", "a#b", "a\\b", "*", "a<b", "good:", ":80"),
)


def echo(name: str, found: HttpConnectionManager, port: int) -> Listener:
    """A connection manager as sidecars have it, that answers with the path and the host that it has read."""
    got = [
        HeaderValueOption(header=HeaderValue(key=f"got-{key}", value=f"%REQ({header})%"))
        for key, header in (("path", ":path"), ("host", ":authority"))
    ]
    routes = [
        Route(match=match, direct_response=DirectResponseAction(status=200), response_headers_to_add=got)
        for match in (RouteMatch(prefix="/"), RouteMatch(connect_matcher=RouteMatch.ConnectMatcher()))
    ]
    found.route_config.CopyFrom(
        RouteConfiguration(name=name, virtual_hosts=[VirtualHost(name=name, domains=["*"], routes=routes)])
    )
    http = Filter(name="envoy.filters.network.http_connection_manager", typed_config=packed(found))
    return Listener(name=name, address=address("127.0.0.1", port), filter_chains=[FilterChain(filters=[http])])


@contextlib.asynccontextmanager
async def readers(directory: Path) -> AsyncGenerator[dict[str, tuple[int, HttpConnectionManager]]]:
    """One Envoy that reads in every mode: port and connection manager of each."""
    found: dict[str, tuple[int, HttpConnectionManager]] = {}
    config = Bootstrap()
    for mode in MODES:
        events = objects.mesh_config(escapedSlashes=mode)
        told_of = manager(told("buy/buyer-0", events), "outbound", "outbound|store/store-v1|80")
        found[mode] = free_port(), told_of
        config.static_resources.listeners.append(
            echo(mode, HttpConnectionManager.FromString(told_of.SerializeToString()), found[mode][0])
        )
    async with running(config, directory, "reader"):
        yield found


async def read(port: int, requests: Sequence[HttpRequest]) -> list[str]:
    """What Envoy makes of requests: status, or path and host."""
    answers = [""] * len(requests)
    todo = iter(range(len(requests)))

    async def worker() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for index in todo:
            request = requests[index]
            lines = [
                f"{request.method} {request.path} HTTP/1.1",
                *(f"{key}: {value}" for key, value in request.headers),
            ]
            writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
            async with asyncio.timeout(10):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status = head.split(" ")[1]
            got = {name: value for name, _, value in (line.partition(": ") for line in head.split("\r\n"))}
            answers[index] = f"{got.get('got-path', '')} {got.get('got-host')}" if status == "200" else status
            if status != "200" or request.method == "CONNECT":  # the connection ends with most, and after a while only
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    await asyncio.gather(*(worker() for _ in range(8)))
    return answers


def ours(request: HttpRequest, found: HttpConnectionManager) -> str:
    """What the prediction makes of a request."""
    made = received(request, found, None)
    return made.status if isinstance(made, RefusedRequest) else f"{made.path} {made.values('host')[0]}"


def generated(choice: random.Random, count: int) -> list[HttpRequest]:
    """Requests for paths that are made of what parsers disagree about."""
    paths = ["/" + "".join(choice.choice(PARTS) for _ in range(choice.randrange(1, 14))) for _ in range(count)]
    return [HttpRequest(path=path, headers=(("host", "h"),)) for path in paths]


def heads() -> list[HttpRequest]:
    """Requests with odd methods, targets and hosts."""
    host = (("host", "h"),)
    return [
        *(
            HttpRequest(method=method, path="/", headers=host)
            for method in (*sorted(METHODS), "get", "FOO", "QUERY", "PRI")
        ),
        *(
            HttpRequest(method=method, path=target, headers=host)
            for target in TARGETS
            for method in ("GET", "OPTIONS", "CONNECT")
        ),
        *(HttpRequest(path="/", headers=(("host", value),)) for value in HOSTS),
        *(HttpRequest(path="/", headers=(*host, (name, "a"))) for name in ("x y", "x(y", "x:y", "x%y", "\xe9")),
        *(HttpRequest(path="/", headers=(*host, ("x", value))) for value in ("a\x01", "a\x7f", "a\x00b", "\xe9\xff")),
    ]


async def assert_agrees(directory: Path, choice: random.Random, count: int) -> None:
    async with readers(directory) as found:
        for mode, (port, told_of) in found.items():
            requests = [*generated(choice, count), *heads()]
            theirs = await read(port, requests)
            wrong = [
                f"{mode} {request.method} {request.path!r} {request.headers}: Envoy {got}, ours {wanted}"
                for request, got in zip(requests, theirs, strict=True)
                if got != (wanted := ours(request, told_of))
            ]
            assert not wrong, "\n".join(wrong[:20])
            assert {"400"} < set(theirs), "a sample in which nothing is refused, or all is"


async def test_envoy_and_the_prediction_read_requests_alike(tmp_path: Path) -> None:
    await assert_agrees(tmp_path, random.Random(13), 300)  # noqa: S311 (the same requests each time)


@pytest.mark.long
@pytest.mark.timeout(1200)
async def test_envoy_and_the_prediction_read_many_thousands_of_requests_alike(tmp_path: Path) -> None:
    await assert_agrees(tmp_path, random.Random(), 30_000)  # noqa: S311 (others each time)
