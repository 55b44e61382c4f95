"""The webhook's server: what it accepts, what it refuses and with which status, and which clients may connect."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from deploy.devcluster.apiserver import ApiServer
from deploy.devcluster.cluster_api import KubeApiError
from deploy.devcluster.object_fields import API_SERVER
from services.injector.http import connection_gate
from services.injector.http.client_access import ClientAccess, client_access
from services.injector.http.limits import HttpLimits
from services.injector.http.request import HttpRequestRefusedError, read_head
from services.injector.http.server import HttpServer
from services.injector.http.tls_context import ServerContext, require_client
from services.injector.http.webhook import PATH, Webhook
from services.injector.settings import InjectorSettings
from shared.errors import BadInputError
from shared.eventlog.memory import MemoryLog
from tests.attacks.webhook import head, posted
from tests.integration.injector.edge import Authority
from tests.integration.injector.served import served
from tests.unit.injector.http.test_webhook import asked, membership
from tests.unit.injector.pods import INSTALLATION, pod
from tests.waiting import eventually

REVIEW = asked(operation="DELETE")
"""One that is answered at once."""


class ClientAuthority:
    """A CA of client certificates, as a cluster has one."""

    def __init__(self, directory: Path, name: str = "clients") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.pem = self._signed(self._name, self._key.public_key(), ca=True).public_bytes(serialization.Encoding.PEM)

    def load(self, context: ssl.SSLContext, name: str, *, purpose: x509.ObjectIdentifier | None = None) -> None:
        """Give a client's context a certificate with this common name."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = self._signed(subject, key.public_key(), purpose=purpose or ExtendedKeyUsageOID.CLIENT_AUTH)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        file = self._directory / f"{name}.pem"
        file.write_bytes(key.private_bytes(*form) + certificate.public_bytes(serialization.Encoding.PEM))
        context.load_cert_chain(file)

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        *,
        ca: bool = False,
        purpose: x509.ObjectIdentifier | None = None,
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(hours=1))
        builder = builder.not_valid_after(now + dt.timedelta(hours=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        if purpose is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        return builder.sign(self._key, hashes.SHA256())


class Side:
    """A client's TLS, and the server that it talks to."""

    def __init__(self, server: HttpServer, port: int, roots: bytes, counted: list[str]) -> None:
        self.server = server
        self.port = port
        self.counted = counted
        self.context = ssl.create_default_context(cadata=roots.decode())

    async def open(self, source: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("localhost", self.port, ssl=self.context, local_addr=(source, 0))

    async def ask(self, sent: bytes) -> bytes:
        """All that comes back; empty if the connection was cut."""
        reader, writer = await self.open()
        try:
            writer.write(sent)
            async with asyncio.timeout(10):
                return await reader.read()
        finally:
            writer.close()


Start = Callable[..., AbstractAsyncContextManager[Side]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    @asynccontextmanager
    async def started(
        limits: HttpLimits = HttpLimits(),  # noqa: B008 (frozen)
        access: ClientAccess = ClientAccess(),  # noqa: B008 (frozen)
        clients: bytes = b"",
    ) -> AsyncGenerator[Side]:
        authority = Authority()
        key, certificate = authority.issue("spiffe://x/y", "localhost")
        (tmp_path / "serving.pem").write_bytes(key + certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "serving.pem")
        if clients:
            require_client(context, clients.decode(), about="test")
        counted: list[str] = []
        webhook = Webhook(membership(MemoryLog()), INSTALLATION)
        async with served(webhook, context, limits=limits, access=access, refused=counted.append) as (server, port):
            yield Side(server, port, authority.pem, counted)

    return started


async def test_a_connection_carries_one_review_after_the_other(start: Start) -> None:
    """Also two at once, and one whose sender waits for `100 Continue`."""
    async with start() as side:
        reader, writer = await side.open()
        for _ in range(3):
            writer.write(posted(PATH, REVIEW) * 2)
            for _ in range(2):
                assert b'"allowed":true' in await _answer(reader)
        writer.write(head(f"{PATH}?timeout=10s", f"Content-Length: {len(REVIEW)}", "Expect: 100-continue"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(REVIEW)
        assert b'"allowed":true' in await _answer(reader)
        assert side.server.connections == 1
        writer.close()
        await eventually(lambda: side.server.connections == 0, within=5, what="it is forgotten")
    assert side.counted == []


async def _answer(reader: asyncio.StreamReader) -> bytes:
    answer = await reader.readuntil(b"\r\n\r\n")
    length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
    return answer + await reader.readexactly(length)


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (posted("/else", REVIEW), 404, "path"),
        (posted(PATH, REVIEW).replace(b"POST", b"GET", 1), 405, "method"),
        (head(PATH), 411, "length"),
        (head(PATH, "Transfer-Encoding: chunked") + b"5\r\nabcde\r\n0\r\n\r\n", 411, "length"),
        (head(PATH, "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 411, "length"),
        (head(PATH, "Content-Length: 5242881"), 413, "body"),
        (head(PATH, "Content-Length: 5242881") + b"a" * 5242881, 413, "body"),
        (posted(PATH, REVIEW, "Content-Encoding: gzip"), 415, "encoding"),
        (head(PATH, "X-A: " + "a" * 20_000), 431, "head"),
        (b"POST " + b"a" * 200_000, 431, "head"),
        (head(PATH, *(f"X-{n}: a" for n in range(200)), "Content-Length: 1"), 400, "malformed"),
        (head(PATH, "Content-Length: -1"), 400, "malformed"),
        (head(PATH, "Content-Length: 1e3"), 400, "malformed"),
        (head(PATH, "Content-Length: 3", "Content-Length: 4") + b"abc", 400, "malformed"),
        (head(PATH, "Content-Length : 3") + b"abc", 400, "malformed"),
        (head(PATH, " folded: 3") + b"abc", 400, "malformed"),
        (head(PATH, "X: \x00"), 400, "malformed"),
        (b"POST http://x/ HTTP/1.1\r\n\r\n", 400, "malformed"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed"),
        (b"\x00\x01\r\n\r\n", 400, "malformed"),
        (posted(PATH, b"[" * 100_000), 400, ""),
        (posted(PATH, b""), 400, ""),
    ],
)
async def test_what_is_no_review_is_refused_with_a_status_and_a_sentence(
    start: Start, sent: bytes, status: int, reason: str
) -> None:
    async with start(HttpLimits(linger_seconds=0.2)) as side:
        reader, writer = await side.open()
        writer.write(sent)
        answer = await _answer(reader)
        writer.close()
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert answer.endswith(b"\n")
    assert b"Traceback" not in answer
    assert side.counted == ([reason] if reason else [])


async def test_a_connection_that_says_nothing_or_too_slowly_is_ended(start: Start) -> None:
    """Before TLS, before a request, in its head, in its body, and before it takes the answer."""
    limits = HttpLimits(
        hello_seconds=0.2,
        handshake_seconds=0.2,
        first_seconds=0.2,
        idle_seconds=0.2,
        head_seconds=0.2,
        body_seconds=0.2,
        linger_seconds=0.2,
    )
    async with start(limits) as side:
        for first in (b"", b"\x16\x03\x01"):
            reader, writer = await asyncio.open_connection("127.0.0.1", side.port)
            writer.write(first)
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
        assert await side.ask(b"") == b""
        assert (await side.ask(b"POST")).startswith(b"HTTP/1.1 408 ")
        assert (await side.ask(head(PATH, "Content-Length: 9") + b"a")).startswith(b"HTTP/1.1 408 ")
        assert (await side.ask(posted(PATH, REVIEW))).startswith(b"HTTP/1.1 200 ")
        await eventually(lambda: side.server.connections == 0, within=5, what="all are forgotten")
    assert sorted(side.counted) == ["handshake", "handshake", "slow", "slow"]


async def test_idle_connections_of_one_source_give_way_to_anothers(start: Start) -> None:
    """200 of a stranger; the API server is served, and its own connection stays."""
    caps = connection_gate.ConnectionLimits(connections=64, per_source=64)
    async with start(HttpLimits(connections=caps)) as side:
        held = await asyncio.gather(*(side.open("127.0.0.2") for _ in range(64)))
        reader, writer = await side.open()
        for _ in range(2):
            writer.write(posted(PATH, REVIEW))
            assert b'"allowed":true' in await _answer(reader)
            more = await asyncio.gather(*(side.open("127.0.0.2") for _ in range(8)), return_exceptions=True)
            assert side.server.connections == 64
            held += [one for one in more if not isinstance(one, BaseException)]
        assert "displaced" in side.counted or "connections" in side.counted
        for _, each in (*held, (reader, writer)):
            each.close()


async def test_large_bodies_share_a_few_places_and_one_source_takes_only_some(start: Start) -> None:
    """Small reviews pass meanwhile, and a large one of another source too."""
    async with start() as side:
        begun = head(PATH, "Content-Length: 5000000") + b" " * 1000
        held = await asyncio.gather(*(side.open("127.0.0.2") for _ in range(40)))
        for _, writer in held:
            writer.write(begun)
        await eventually(lambda: side.counted.count("busy") >= 20, within=5, what="those without a place are refused")
        assert b'"allowed":true' in await side.ask(posted(PATH, REVIEW, "Connection: close"))
        large = REVIEW + b" " * 200_000
        assert b'"allowed":true' in await side.ask(posted(PATH, large, "Connection: close"))
        for _, writer in held:
            writer.close()


async def test_with_a_ca_only_its_clients_are_answered(start: Start, tmp_path: Path) -> None:
    clients, others = ClientAuthority(tmp_path), ClientAuthority(tmp_path, "others")
    access = ClientAccess(names=("kube-apiserver",))
    review = posted(PATH, REVIEW, "Connection: close")

    async def asked_by(prepare: Callable[[ssl.SSLContext], None]) -> bytes:
        side.context = ssl.create_default_context(cadata=roots)
        prepare(side.context)
        try:
            return await side.ask(review)
        except OSError:
            return b""

    async with start(access=access, clients=clients.pem) as side:
        roots = "".join(ssl.DER_cert_to_PEM_cert(der) for der in side.context.get_ca_certs(binary_form=True))
        assert b'"allowed":true' in await asked_by(lambda context: clients.load(context, "kube-apiserver"))
        assert await asked_by(lambda _: None) == b"", "no certificate"
        assert await asked_by(lambda context: others.load(context, "kube-apiserver")) == b"", "another CA"
        purpose = ExtendedKeyUsageOID.SERVER_AUTH
        assert await asked_by(lambda context: clients.load(context, "kube-apiserver", purpose=purpose)) == b""
        stranger = await asked_by(lambda context: clients.load(context, "kubelet"))
        assert stranger.startswith(b"HTTP/1.1 403 ")
        assert b"kube-apiserver" in stranger
    assert set(side.counted) == {"handshake", "certificate"}


async def test_from_other_networks_nothing_is_taken(start: Start) -> None:
    networks = (ipaddress.ip_network("127.0.0.2/32"), ipaddress.ip_network("::1/128"))
    async with start(access=ClientAccess(networks=networks)) as side:
        with pytest.raises(OSError, match=r".*"):
            await side.ask(posted(PATH, REVIEW))
        reader, writer = await side.open("127.0.0.2")
        writer.write(posted(PATH, REVIEW))
        assert b'"allowed":true' in await _answer(reader)
        writer.close()
    assert side.counted == ["source"]


class _Certificate:
    """Stands for `ServingCertificate`."""

    async def server_context(self) -> ssl.SSLContext:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


async def test_a_new_file_of_cas_is_followed_and_a_bad_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("services.injector.http.tls_context._LOOK", 0.01)
    file = tmp_path / "ca.crt"
    file.write_bytes(ClientAuthority(tmp_path, "first").pem)
    certificate: Any = _Certificate()
    contexts = ServerContext(certificate, str(file))
    await contexts.prepare()
    assert contexts.current().verify_mode is ssl.CERT_REQUIRED

    def trusted() -> str:
        ((subject,),) = [one["subject"] for one in contexts.current().get_ca_certs()]
        return subject[0][1]

    assert trusted() == "first"
    task = asyncio.ensure_future(contexts.run())
    file.write_text("nothing")
    await eventually(lambda: "stay in use" in caplog.text, within=5, what="it is named")
    assert trusted() == "first"
    file.write_bytes(ClientAuthority(tmp_path, "second").pem)
    await eventually(lambda: trusted() == "second", within=5, what="the new CA is used")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("content", [None, b"", b"nothing", b"\xff"])
async def test_without_the_cas_that_it_was_told_of_it_does_not_start(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.crt"
    if content is not None:
        file.write_bytes(content)
    certificate: Any = _Certificate()
    with pytest.raises(BadInputError, match=r"ca\.crt"):
        await ServerContext(certificate, str(file)).prepare()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"client_networks": ("10.0.0.0/33",)}, "client_networks"),
        ({"client_names": ("kube-apiserver",)}, "needs client_ca_file"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_their_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        client_access(InjectorSettings(**settings))


def test_the_head_is_read_to_the_letter() -> None:
    found = read_head(head(f"{PATH}?timeout=10s", "content-length: 7", "Connection: Keep-Alive, Close"))
    assert (found.path, found.length, found.keep, found.expects) == (PATH, 7, False, False)
    with pytest.raises(HttpRequestRefusedError, match="no request"):
        read_head(b"POST /a b HTTP/1.1\r\n\r\n")


async def test_the_devclusters_api_server_proves_itself_and_pods_are_injected(start: Start) -> None:
    api = ApiServer()
    await api.start()
    try:
        await api.cluster.create("namespaces", {"metadata": {"name": "shop"}})
        async with start(access=ClientAccess(names=(API_SERVER,)), clients=api.ca_pem.encode()) as side:
            roots = "".join(ssl.DER_cert_to_PEM_cert(der) for der in side.context.get_ca_certs(binary_form=True))
            url = f"https://localhost:{side.port}{PATH}"
            hook: dict[str, Any] = {
                "name": "inject.meshlog.io",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "clientConfig": {"url": url, "caBundle": base64.b64encode(roots.encode()).decode()},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
            }
            await api.cluster.create(
                "mutatingwebhookconfigurations.admissionregistration.k8s.io",
                {"metadata": {"name": "meshlog"}, "webhooks": [hook]},
            )
            made = pod()
            made["metadata"]["namespace"] = "shop"
            with pytest.raises(KubeApiError, match="the log does not have this namespace yet"):
                await api.cluster.create("pods", made)
            assert side.counted == [], "it was let in"
    finally:
        await api.stop()
