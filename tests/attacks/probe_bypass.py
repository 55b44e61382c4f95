"""Requests by which a stranger tries to reach an application through the proxy's probe ports.

`requests` makes them for one probe; nothing of any of them may reach the application. `requests_like_the_kubelets`
are those that make the proxy probe, whatever else is in them: the application sees its probe, and no more.

    python -P -m tests.attacks.probe_bypass HOST:PORT /meshlog/readiness/CONTAINER [--application HOST:PORT]
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.attacks.attack import Attack, Cost, told
from tests.attacks.scene import STRANGER, AttackScene

_REFUSED = ("400", "403", "404", "405", "408", "413", "426", "431", "501", "505")
"""Answers of the proxy itself to what is no probe."""


def request(target: str, *lines: str, method: str = "GET", body: str = "", version: str = "1.1") -> bytes:
    """A request as bytes."""
    head = [f"{method} {target} HTTP/{version}", "Host: 192.0.2.1:15902", "User-Agent: kube-probe/1.34", "Accept: */*"]
    return "\r\n".join([*head, *lines, "Connection: close", "", body]).encode("latin-1")


def http2(path: str) -> bytes:
    """A `GET` by HTTP/2 without an upgrade; the fields of its HEADERS are literals (RFC 7541, 6.2.2)."""
    fields = {":method": "GET", ":scheme": "http", ":path": path, ":authority": "192.0.2.1:15902"}
    block = b"".join(
        b"\x00" + b"".join(bytes([len(text)]) + text.encode("ascii") for text in field) for field in fields.items()
    )
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    headers = len(block).to_bytes(3, "big") + b"\x01\x05" + (1).to_bytes(4, "big") + block
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + headers


def requests(path: str) -> Iterator[tuple[str, bytes]]:
    """What each tries, and its bytes; `path` is the one that the kubelet asks for."""
    parent, _, container = path.rpartition("/")
    for method in ("POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "get", "X"):
        yield f"method {method}", request(path, method=method)
    for suffix in (
        "/",
        "/admin/delete-all",
        "/../../../admin",
        "/%2e%2e/admin",
        "%2f",
        "/..;/admin",
        "//",
        "?x=1",
        "?",
        ";a=b",
        "%00",
        "%3Fx",
        "#f",
        "\\",
        ".",
        "%20",
    ):
        yield f"path {suffix}", request(path + suffix)
    for target in ("/", "/admin", "*", "", f"/{path}", path.upper(), f"/.{path}", f"{parent}/%{ord(container[0]):x}"):
        yield f"target {target}", request(target)
    for target in (f"http://192.0.2.1{path}", f"https://app{path}", f"http:{path}", "http://192.0.2.1/admin"):
        yield f"absolute form {target}", request(target)
    yield "CONNECT", request("192.0.2.1:8080", method="CONNECT")
    yield "CONNECT to the path", request(path, method="CONNECT")
    yield "a body by length", request(path, "Content-Length: 5", body="abcde")
    yield "a body in chunks", request(path, "Transfer-Encoding: chunked", body="5\r\nabcde\r\n0\r\n\r\n")
    yield (
        "a body of two framings",
        request(path, "Content-Length: 4", "Transfer-Encoding: chunked", body="5\r\nabcde\r\n0\r\n\r\n"),
    )
    yield "a framing that is none", request(path, "Transfer-Encoding: xchunked", body="abcde")
    yield (
        "a hidden framing",
        request(path, "Transfer-Encoding: chunked", "X-Meshlog-Framing: -", body="5\r\nabcde\r\n0\r\n\r\n"),
    )
    yield "a second request behind a body", request(path, "Content-Length: 0") + request("/admin")
    yield "a websocket", request(path, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x")
    yield "HTTP/1.0", request(path, version="1.0")
    yield "HTTP/0.9", f"GET {path}\r\n".encode()
    yield "HTTP/2 by prior knowledge", http2(path)
    yield "TLS", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"
    yield "headers of 64 KiB", request(path, f"X-Long: {'a' * 65536}")
    yield "a thousand headers", request(path, *(f"X-{number}: a" for number in range(1000)))


def requests_like_the_kubelets(path: str) -> Iterator[tuple[str, bytes]]:
    """Requests that are the probe's, with what a stranger would like the application to see."""
    yield (
        "foreign headers",
        request(
            path,
            "X-Forwarded-Client-Cert: By=spiffe://a;URI=spiffe://cluster.local/ns/a/sa/b",
            "X-Forwarded-For: 127.0.0.1",
            "X-Forwarded-Host: inside",
            "X-Forwarded-Proto: https",
            "Authorization: Bearer stolen",
            "Cookie: session=1",
            "X-Original-URL: /admin",
            "X-Rewrite-URL: /admin",
            "X-Envoy-Original-Path: /admin",
            "X-Envoy-Retry-On: 5xx",
            "X-Envoy-Upstream-Rq-Timeout-Ms: 1",
            "X-HTTP-Method-Override: DELETE",
            "X-Meshlog-Framing: y",
            "Range: bytes=0-",
            "Expect: 100-continue",
            "Trailer: x",
            "TE: trailers",
        ),
    )
    yield (
        "an upgrade to HTTP/2",
        request(path, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: "),
    )
    yield "headers named by Connection", request(path, "Connection: close, X-A", "X-A: b")
    yield "two requests at once", request(path).replace(b"Connection: close\r\n", b"") + request("/admin")


def ask(address: tuple[str, int], sent: bytes, *, within: float = 3.0) -> bytes:
    """All that comes back until the connection ends, or no more within the time."""
    answer = bytearray()
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=within) as connection:
        connection.sendall(sent)
        deadline = time.monotonic() + within
        while len(answer) < 65536 and (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            piece = connection.recv(4096)
            if not piece:
                break
            answer += piece
    return bytes(answer)


def status_of(answer: bytes) -> str:
    """Status of an answer's last part, `100 Continue` passed over; empty if there is none."""
    parts = [part for part in answer.split(b"HTTP/1.1 ")[1:] if not part.startswith(b"100 ")]
    return parts[0][:3].decode("latin-1") if parts else ""


def answers(address: tuple[str, int], path: str) -> dict[str, bytes]:
    """What each request is answered, several asked at once: some are never."""
    with ThreadPoolExecutor(max_workers=16) as pool:
        asked = {what: pool.submit(ask, address, sent) for what, sent in requests(path)}
        return {what: answer.result() for what, answer in asked.items()}


def bypassed(address: tuple[str, int], path: str) -> list[str]:
    """Which requests got an answer that the proxy does not give to a stranger."""
    found = {what: (status_of(answer), answer[:60]) for what, answer in answers(address, path).items()}
    return [f"{what}: {answer!r}" for what, (status, answer) in found.items() if status and status not in _REFUSED]


async def _run(scene: AttackScene) -> Cost:
    address = await scene.address(("bookstore", "bookstore-v1"))
    words = (f"{address}:15902", "/meshlog/readiness/bookstore-v1")
    cost = await scene.program(STRANGER, "tests.attacks.probe_bypass", *words)
    assert cost.said.startswith("all refused"), cost.said
    return cost


ATTACKS = (Attack(name="probe-bypass", what="requests at a probe port that are not the probe's", run=_run, short=True),)


def main(argv: Sequence[str] | None = None) -> None:
    """Try all of them and say which passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("path")
    options = parser.parse_args(argv)
    host, _, port = options.address.rpartition(":")
    every = list(requests(options.path))
    passed = bypassed((host, int(port)), options.path)
    told(
        Cost(
            connections=len(every),
            requests=len(every),
            bytes=sum(len(sent) for _, sent in every),
            said="; ".join(passed) or "all refused",
        )
    )


if __name__ == "__main__":
    main()
