"""What a caller with a certificate can say to a real sidecar, and what of it reaches the application."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest

from shared.events import Event
from shared.model import ANNOTATION_ESCAPED_SLASHES, ANNOTATION_FORWARDERS
from tests.attacks.sidecar import SPELLINGS, asked, trusting_nobody
from tests.integration.compiler.called import Called, called
from tests.unit.compiler import objects

pytestmark = pytest.mark.envoy

PUBLIC = objects.route_group("store", "routes", {"name": "browse", "pathRegex": "/public/.*"})


def headers(body: str) -> dict[str, str]:
    """The header lines of a request as the application got it."""
    lines = [line.partition(": ") for line in body.split("\r\n")[1:] if line]
    return {name: value for name, _, value in lines}


async def reached(directory: Path, events: Sequence[Event], paths: Sequence[str]) -> dict[str, str]:
    """Paths that a caller sends to a sidecar, and what the application gets (or the status of the answer)."""
    found: dict[str, str] = {}
    async with called(directory, [PUBLIC, *events]) as pod:
        context = trusting_nobody(*pod.caller("buy", "thief"))
        for path in paths:
            status, body = await asked("127.0.0.1", pod.port, context, path)
            found[path] = body.split(" ")[1] if status == "200" else status
    return found


@pytest.mark.parametrize("mode", ["reject", "decode", "keep"])
async def test_no_spelling_of_a_way_around_reaches_what_policy_does_not_open(mode: str, tmp_path: Path) -> None:
    """Whatever the application gets is below /public/, however often it decodes it."""
    store = objects.namespace("store", annotations={ANNOTATION_ESCAPED_SLASHES: mode})
    found = await reached(tmp_path, [store], ["/public/x", "/public/a;v=1/b", *SPELLINGS])
    assert found.pop("/public/x") == "/public/x"
    assert found.pop("/public/a;v=1/b") == "/public/a;v=1/b"
    assert {path: got for path, got in found.items() if got not in {"400", "403"}} == {}


async def test_escaped_slashes_arrive_as_the_setting_says(tmp_path: Path) -> None:
    wanted = {
        "reject": {"/public/a%2Fb": "400", "/public/a%5Cb": "400", "/public/a?x=%2F": "/public/a?x=%2F"},
        "decode": {"/public/a%2Fb": "/public/a/b", "/public/a%5Cb": "/public/a/b", "/public%2Fa": "/public/a"},
        "keep": {"/public/a%2Fb": "/public/a%2Fb", "/public/a%5Cb": "/public/a%5Cb", "/public%2Fa": "403"},
    }
    for mode, paths in wanted.items():
        directory = tmp_path / mode
        directory.mkdir()
        config = objects.mesh_config(escapedSlashes=mode.capitalize())
        assert await reached(directory, [config], list(paths)) == paths


FORGED = (
    *("x-forwarded-for: 1.2.3.4", "x-forwarded-proto: https", "x-forwarded-host: evil", "x-forwarded-port: 1"),
    *("forwarded: for=1.2.3.4", "x-real-ip: 1.2.3.4", "x-original-url: /admin", "x-rewrite-url: /admin"),
    *("x_forwarded_for: 1.2.3.4", "x-envoy-original-path: /admin", "x-envoy-external-address: 1.2.3.4"),
    *("x-envoy-original-dst-host: 1.2.3.4:80", "x-envoy-internal: true", "x-envoy-decorator-operation: a"),
    *("x-forwarded-client-cert: URI=spiffe://cluster.local/ns/store/sa/db", "x_forwarded_client_cert: URI=spiffe://x"),
    *("x-envoy-retry-on: 5xx", "x-envoy-max-retries: 9", "x-forwarded-for: 127.0.0.1"),
)


async def test_what_callers_state_of_a_requests_way_is_replaced_by_what_the_sidecar_knows(tmp_path: Path) -> None:
    kept = ("x-request-id: mine", "traceparent: 00-1", "authorization: Bearer x", "x-http-method-override: PUT")
    async with called(tmp_path, [PUBLIC]) as pod:
        context = trusting_nobody(*pod.caller("buy", "thief"))
        status, body = await asked("127.0.0.1", pod.port, context, "/public/x", (*FORGED, *kept))
    got = headers(body)
    certificate = got.pop("x-forwarded-client-cert")
    assert status == "200"
    assert certificate.endswith(";URI=spiffe://cluster.local/ns/buy/sa/thief")
    assert got == {
        "host": "any",
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "http",
        "x-request-id": "mine",
        "traceparent": "00-1",
        "authorization": "Bearer x",
        "x-http-method-override": "PUT",
    }


async def test_a_trusted_forwarder_is_believed_and_no_other(tmp_path: Path) -> None:
    store = objects.namespace("store", annotations={ANNOTATION_FORWARDERS: "buy/thief"})
    async with called(tmp_path, [PUBLIC, store]) as pod:
        found: dict[str, dict[str, str]] = {}
        for account in ("thief", "buyer"):
            context = trusting_nobody(*pod.caller("buy", account))
            status, body = await asked("127.0.0.1", pod.port, context, "/public/x", FORGED)
            assert status == "200"
            found[account] = headers(body)
    believed = found["thief"]
    assert (believed["x-forwarded-proto"], believed["x-forwarded-host"]) == ("https", "evil")
    assert believed["x-forwarded-for"].startswith("1.2.3.4")
    assert believed["x-forwarded-client-cert"].endswith("/sa/thief"), "its certificate speaks for it all the same"
    assert found["buyer"]["x-forwarded-for"] == "127.0.0.1"
    assert "x-forwarded-host" not in found["buyer"]


async def test_of_a_header_that_rules_name_the_application_gets_the_line_that_they_read(tmp_path: Path) -> None:
    """Envoy lets any line of a header meet a rule, and an application may read the other one."""
    rule = objects.route_group("store", "routes", {"name": "browse", "headers": {"client": "buyer", "x-%odd": ".*"}})
    async with called(tmp_path, [rule]) as pod:
        context = trusting_nobody(*pod.caller("buy", "thief"))
        answers = {
            lines: await asked("127.0.0.1", pod.port, context, "/", (*lines, "x-%odd:"))
            for lines in (
                ("client: buyer",),
                ("client: buyer", "client: admin"),
                ("client: admin", "client: buyer"),
                ("client: buyer,admin",),
            )
        }
    assert [status for status, _ in answers.values()] == ["200", "200", "403", "403"]
    assert answers["client: buyer", "client: admin"][1].count("client:") == 1
    assert headers(answers["client: buyer", "client: admin"][1])["client"] == "buyer"


async def test_as_many_headers_as_applications_take_pass_and_not_without_end(tmp_path: Path) -> None:
    async with called(tmp_path, [PUBLIC]) as pod:
        context = trusting_nobody(*pod.caller("buy", "thief"))
        lines = [f"x-h-{number}: a" for number in range(1100)]
        sent = [lines[:110], lines[:900], lines, *([f"x-large: {'a' * size}"] for size in (66_000, 120_000, 140_000))]
        found = [(await asked("127.0.0.1", pod.port, context, "/public/x", one))[0] for one in sent]
    assert found == ["200", "200", "431", "200", "200", "431"]


async def tunnels(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An application that takes CONNECT, and answers each line in the tunnel; other requests it answers by `no`."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"CONNECT db.other:443 "):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while line := await reader.readline():
                writer.write(b"got " + line)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno")
        await writer.drain()
    writer.close()


async def said(pod: Called, context: ssl.SSLContext, head: str, then: bytes = b"") -> tuple[str, bytes]:
    """Status of the answer to a request, and the line that comes back for `then`, if the answer is 200."""
    reader, writer = await asyncio.open_connection("127.0.0.1", pod.port, ssl=context, server_hostname="any")
    try:
        writer.write(f"{head} HTTP/1.1\r\nhost: any\r\n\r\n".encode())
        status = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).split(b" ")[1].decode()
        if status != "200":
            return status, b""
        writer.write(then)
        return status, await asyncio.wait_for(reader.readline() if then else reader.read(2), 10)
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("match", "opened"),
    [
        ({"methods": ["CONNECT"]}, {"CONNECT"}),
        ({"methods": ["*"]}, {"CONNECT", "GET"}),
        ({"methods": ["GET"]}, {"GET"}),
        # A tunnel has no path, so that no path of a rule is its path.
        ({"pathRegex": ".*", "methods": ["*"]}, {"GET"}),
        ({"headers": {"host": "db.other:443"}}, {"CONNECT"}),
        ({"headers": {"host": "any"}, "methods": ["CONNECT"]}, set()),
    ],
)
async def test_a_tunnel_is_opened_by_policy_alone(match: dict[str, object], opened: set[str], tmp_path: Path) -> None:
    """And then it is the application's: what goes through it is not read."""
    rule = objects.route_group("store", "routes", {"name": "browse", **match})
    async with called(tmp_path, [rule], serve=tunnels) as pod:
        context = trusting_nobody(*pod.caller("buy", "thief"))
        connect = await said(pod, context, "CONNECT db.other:443", b"hello\n")
        get = await said(pod, context, "GET /")
    assert connect == (("200", b"got hello\n") if "CONNECT" in opened else ("403", b""))
    assert get == (("200", b"no") if "GET" in opened else ("403", b""))


async def test_an_upgrade_that_the_sidecar_does_not_know_is_left_out_of_the_request(tmp_path: Path) -> None:
    """A server may ignore it; some client libraries ask for TLS in every request."""
    async with called(tmp_path, [PUBLIC]) as pod:
        context = trusting_nobody(*pod.caller("buy", "thief"))
        for word in ("TLS/1.2", "tcp", "h2c", "SPDY/3.1", "websockets", "web"):
            lines = (f"upgrade: {word}", "connection: Upgrade")
            status, body = await asked("127.0.0.1", pod.port, context, "/public/x", lines)
            assert status == "200", word
            assert "upgrade" not in headers(body), word
