"""What a caller with a certificate can say to a real sidecar, and what of it reaches the application."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest

from shared.projected_objects import ANNOTATION_ESCAPED_SLASHES, ANNOTATION_FORWARDERS
from shared.records.events import Event
from tests.attacks.sidecar import SPELLINGS, asked, trusting_nobody
from tests.integration.compiler.called import Called, called
from tests.integration.compiler.envoys import Authority
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
    *("x-envoy-upstream-alt-stat-name: a", "x-envoy-upstream-rq-timeout-ms: 1", "x-envoy-force-trace: true"),
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


SMUGGLED = b"GET /admin?00 HTTP/1.1\r\nhost: any\r\n\r\n"
"""A request that policy does not open, hidden behind one that it does."""


def smuggling() -> dict[str, bytes]:
    """Requests whose end two readers see in two places, each with another one behind it."""
    start = b"POST /public/x HTTP/1.1\r\nhost: any\r\n"
    length = b"content-length: %d\r\n" % len(SMUGGLED)
    return {
        "length and chunks": start + length + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        "chunks and no length": start + b"transfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n0\r\n\r\n" + SMUGGLED,
        "two lengths": start + b"content-length: 0\r\n" + length + b"\r\n" + SMUGGLED,
        "a list of lengths": start + b"content-length: 0, %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
        "a signed length": start + b"content-length: +0\r\n\r\n" + SMUGGLED,
        "a length with a space in its name": start + b"content-length : %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
        "an encoding that is none": start + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        "two encodings": start
        + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n"
        + SMUGGLED,
        "an encoding after a tab": start + b"transfer-encoding:\tchunked\r\n" + length + b"\r\n0\r\n\r\n" + SMUGGLED,
        "a folded encoding": start + b"transfer-encoding:\r\n chunked\r\n" + length + b"\r\n0\r\n\r\n" + SMUGGLED,
        "a chunk of no size": start + b"transfer-encoding: chunked\r\n\r\n-1\r\n" + SMUGGLED,
        "a chunk beyond all sizes": start + b"transfer-encoding: chunked\r\n\r\n" + b"f" * 20 + b"\r\n" + SMUGGLED,
        "a line that ends early": b"GET /public/x HTTP/1.1\rhost: any\r\n\r\n" + SMUGGLED,
        "a version that is none": b"GET /public/x HTTP/1.9\r\nhost: any\r\n\r\n" + SMUGGLED,
        "HTTP/0.9": b"GET /admin?00\r\n",
        "an empty line first": b"\r\nGET /admin?00 HTTP/1.1\r\nhost: any\r\n\r\n",
        "a WebSocket where policy opens none": (
            b"GET /admin?00 HTTP/1.1\r\nhost: any\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n" + SMUGGLED
        ),
        "an upgrade to another HTTP": (
            b"GET /public/x HTTP/1.1\r\nhost: any\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n"
            b"http2-settings: AAMAAABkAAQAAP__\r\n\r\n" + SMUGGLED
        ),
    }


async def test_no_request_that_policy_does_not_open_is_smuggled_behind_one_that_it_does(tmp_path: Path) -> None:
    """The application reads a request line by line, so that it would see any."""
    seen: list[bytes] = []

    async def listens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                seen.append(line)
                if line == b"\r\n":
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with called(tmp_path, [PUBLIC], serve=listens) as pod:
        context = trusting_nobody(*pod.caller("buy", "thief"))

        async def send(sent: bytes) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", pod.port, ssl=context, server_hostname="any")
            writer.write(sent)
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(reader.read(), 0.5)
            writer.close()

        names, every = zip(*smuggling().items(), strict=True)
        await asyncio.gather(*(send(sent.replace(b"/admin?00", b"/admin?%02d" % at)) for at, sent in enumerate(every)))
        assert not [names[int(line.split(b"?")[1].split()[0])] for line in seen if b"/admin" in line]
        # As a body that is said in one way only it is the application's business, and would be seen.
        await send(b"POST /public/x HTTP/1.1\r\nhost: any\r\ncontent-length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED)
        assert [line for line in seen if b"/admin" in line]


async def test_without_a_certificate_of_the_mesh_or_by_another_protocol_nothing_is_answered(tmp_path: Path) -> None:
    async with called(tmp_path, [PUBLIC]) as pod:
        stranger = called_by_a_stranger(tmp_path)
        nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE
        nobody.set_alpn_protocols(["meshlog"])
        other = trusting_nobody(*pod.caller("buy", "thief"))
        other.set_alpn_protocols(["h2", "http/1.1"])
        silent = trusting_nobody(*pod.caller("buy", "thief"))
        silent.set_alpn_protocols([])
        for name, context in {"stranger": stranger, "nobody": nobody, "h2": other, "no protocol": silent}.items():
            assert await asked("127.0.0.1", pod.port, context, "/public/x") == ("", ""), name
        assert (await asked("127.0.0.1", pod.port, trusting_nobody(*pod.caller("buy", "thief")), "/public/x"))[
            0
        ] == "200"


def called_by_a_stranger(directory: Path) -> ssl.SSLContext:
    """One with a certificate that says the right name and is of another root."""
    material = Authority().issue("buy", "thief")
    chain, key = directory / "stranger.pem", directory / "stranger.key"
    chain.write_text(material.chain)
    key.write_text(material.key)
    return trusting_nobody(str(chain), str(key))
