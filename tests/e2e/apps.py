"""Small servers and clients for pods of the tests: the standard library, and grpc only where it is asked for.

python apps.py serve http:8080 https:8443 late:8090 tcp:9000 first:2525 grpc:50051 grpcs:50443 [bind:pod]
python apps.py calls '[["http", "http://host/path", "GET", {}], ["tcp", "host", 9000]]'
python apps.py hold HOST HTTP_PORT TCP_PORT
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

NAME = socket.gethostname()
PATIENCE = 5.0
OWN_NAME = "own.test"
"""What certificates of applications are for."""
_KEPT: list[Any] = []


class Web(BaseHTTPRequestHandler):
    """Answers with the pod's name; an upgrade becomes an echo."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.end_headers()
            _echo(self.connection)
            self.close_connection = True
            return
        body = NAME.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 (the base class names it so)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it so)
        pass


class Late(Web):
    """Answers, but not within a second."""

    def do_GET(self) -> None:
        time.sleep(1.5)
        super().do_GET()


def _echo(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := connection.recv(4096):
            connection.sendall(data)


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        _echo(self.request)


class First(socketserver.BaseRequestHandler):
    """Speaks before it is spoken to."""

    def handle(self) -> None:
        self.request.sendall(b"220 " + NAME.encode() + b"\n")
        _echo(self.request)


class Threaded(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def _grpc_server(port: int, *, secure: bool = False) -> None:
    import grpc

    def answer(request: bytes, context: object) -> bytes:
        return request + b" " + NAME.encode()

    from concurrent.futures import ThreadPoolExecutor

    def serving(request: bytes, context: object) -> bytes:
        return b"\x08\x01"  # HealthCheckResponse{status: SERVING}

    server = grpc.server(ThreadPoolExecutor(2))
    methods = {"test.Echo": {"Say": answer}, "grpc.health.v1.Health": {"Check": serving}}
    server.add_generic_rpc_handlers(
        tuple(
            grpc.method_handlers_generic_handler(
                service, {name: grpc.unary_unary_rpc_method_handler(does) for name, does in some.items()}
            )
            for service, some in methods.items()
        )
    )
    if secure:
        key, certificate = _own_certificate()
        server.add_secure_port(f"0.0.0.0:{port}", grpc.ssl_server_credentials([(key, certificate)]))
    else:
        server.add_insecure_port(f"0.0.0.0:{port}")
    server.start()
    _KEPT.append(server)  # or it would stop when it is forgotten


def _own_certificate() -> tuple[bytes, bytes]:
    """A key and a certificate of the application's own, which name its pod."""
    import datetime as dt

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + dt.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(OWN_NAME)]), critical=False)
    own = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form), own


def _https_server(address: tuple[str, int]) -> ThreadingHTTPServer:
    import ssl
    import tempfile

    key, certificate = _own_certificate()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate + key)
        file.flush()
        context.load_cert_chain(file.name)
    server = ThreadingHTTPServer(address, Web)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


def serve(wanted: list[str]) -> None:
    host = "0.0.0.0"  # noqa: S104
    if "bind:pod" in wanted:
        wanted.remove("bind:pod")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("10.96.0.1", 1))
            host = probe.getsockname()[0]
    for item in wanted:
        kind, port = item.split(":")
        if kind in {"grpc", "grpcs"}:
            _grpc_server(int(port), secure=kind == "grpcs")
            continue
        address = (host, int(port))
        makers: dict[str, Callable[[], Any]] = {
            "http": lambda address=address: ThreadingHTTPServer(address, Web),
            "https": lambda address=address: _https_server(address),
            "late": lambda address=address: ThreadingHTTPServer(address, Late),
            "tcp": lambda address=address: Threaded(address, Echo),
            "first": lambda address=address: Threaded(address, First),
        }
        threading.Thread(target=makers[kind]().serve_forever, daemon=True).start()
    threading.Event().wait()


def _http(url: str, method: str = "GET", headers: dict[str, str] | None = None) -> str:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=PATIENCE)
    try:
        connection.request(
            method, f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}", headers=headers or {}
        )
        answer = connection.getresponse()
        body = answer.read().decode()
        return f"{answer.status} {body}" if answer.status == 200 else str(answer.status)
    finally:
        connection.close()


def _tcp(host: str, port: int, *, first: bool = False) -> str:
    with socket.create_connection((host, port), PATIENCE) as connection:
        connection.settimeout(PATIENCE)
        if not first:
            connection.sendall(b"hello")
        got = connection.recv(100).decode().strip()
        return got or "closed"


def _first(host: str, port: int) -> str:
    return _tcp(host, port, first=True)


def _grpc(host: str, port: int) -> str:
    import grpc

    with grpc.insecure_channel(f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            return channel.unary_unary("/test.Echo/Say")(b"hello", timeout=PATIENCE).decode()
        except grpc.RpcError as error:
            return str(error.code().name)


def _grpcs(host: str, port: int) -> str:
    """The same over TLS of the application's own."""
    import ssl

    import grpc

    options = [("grpc.enable_http_proxy", 0), ("grpc.ssl_target_name_override", OWN_NAME)]
    # Each pod has a certificate of its own, and each connection may reach another one.
    trusted = "".join({ssl.get_server_certificate((host, port), timeout=PATIENCE) for _ in range(12)}).encode()
    with grpc.secure_channel(f"{host}:{port}", grpc.ssl_channel_credentials(trusted), options=options) as channel:
        return channel.unary_unary("/test.Echo/Say")(b"hello", timeout=PATIENCE).decode()


def _https(host: str, port: int) -> str:
    """HTTP over TLS of the application's own: who answers, and whether the certificate is of the same."""
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((host, port), PATIENCE) as raw,
        context.wrap_socket(raw, server_hostname=OWN_NAME) as connection,
    ):
        certificate = connection.getpeercert(binary_form=True) or b""  # while the connection stands
        connection.sendall(b"GET / HTTP/1.1\r\nHost: own.test\r\nConnection: close\r\n\r\n")
        body = b"".join(iter(lambda: connection.recv(4096), b"")).rpartition(b"\r\n")[2]
        own = "its own" if body and body in certificate else "another"
        return f"{body.decode()} by {own} certificate"


def _each(host: str, port: int) -> str:
    """HTTP to every address that a name has."""
    found = sorted({entry[4][0] for entry in socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)})
    return " ".join(_http(f"http://{address}:{port}/").split()[-1] for address in found)


def call(what: list[Any]) -> str:
    kind, *rest = what
    callers: dict[str, Callable[..., str]] = {
        "http": _http,
        "https": _https,
        "each": _each,
        "tcp": _tcp,
        "first": _first,
        "grpc": _grpc,
        "grpcs": _grpcs,
    }
    try:
        return callers[kind](*rest)
    except http.client.RemoteDisconnected:
        return "closed"
    except (ConnectionResetError, BrokenPipeError):
        return "reset"
    except ConnectionRefusedError:
        return "refused"
    except (TimeoutError, OSError) as error:
        return type(error).__name__


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def hold(host: str, http_port: str, tcp_port: str) -> None:
    """Keep a WebSocket and a connection of bytes, and use both until standard input ends."""
    web = socket.create_connection((host, int(http_port)), PATIENCE)
    web.settimeout(PATIENCE)
    web.sendall(f"GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".encode())
    head = web.recv(4096).split(b"\r\n")[0].decode()
    raw = socket.create_connection((host, int(tcp_port)), PATIENCE)
    raw.settimeout(PATIENCE)
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    _say(head)
    rounds, broken = 0, ""
    while not ended.is_set() and not broken:
        for name, connection in (("websocket", web), ("bytes", raw)):
            try:
                connection.sendall(b"ping")
                if connection.recv(100) != b"ping":
                    broken = f"{name} ended after {rounds} rounds"
            except OSError as error:
                broken = f"{name} broke after {rounds} rounds: {error}"
        rounds += 1
        time.sleep(0.02)
    _say(json.dumps({"rounds": rounds, "broken": broken}))


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    if verb == "serve":
        serve(arguments)
    elif verb == "hold":
        hold(*arguments)
    else:
        _say(json.dumps([call(item) for item in json.loads(arguments[0])]))
