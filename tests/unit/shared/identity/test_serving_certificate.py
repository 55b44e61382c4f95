"""A service's own certificate is there, is renewed, and reaches the handshakes of a running server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from shared.identity.serving_certificate import ServingCertificate
from shared.identity.spiffe import SpiffeId
from shared.records.subjects import Streams
from shared.streams.memory import MemoryLogs
from tests.unit.ca.running import certificate_authority, new_authority, requester, tasks
from tests.unit.identity.cluster import Cluster, write
from tests.waiting import eventually

EDGE = SpiffeId(trust_domain="cluster.local", namespace="meshlog-system", service_account="meshlog-xds-edge")
NAME = "meshlog-xds-edge.meshlog-system.svc"


async def shown(port: int, root: str) -> int:
    """Serial of the certificate that a server shows to a client that checks it by name and root."""
    context = ssl.create_default_context(cadata=root)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=NAME)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    await reader.read()
    writer.close()
    await writer.wait_closed()
    return x509.load_der_x509_certificate(der).serial_number


async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


def soon(_lifetime: float, _chance: Callable[[], float]) -> float:
    return 0.05


class TokenFile:
    """A projected token, as the kubelet writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, token: str) -> None:
        self.path.write_text(token)


@pytest.fixture
def file(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "token")


async def test_a_running_server_shows_the_renewed_certificate(file: TokenFile, monkeypatch: pytest.MonkeyPatch) -> None:
    logs, cluster, authority = MemoryLogs(), Cluster(), new_authority()
    await write(logs.stream(Streams().events), cluster.bookstore())
    file.write(cluster.token("meshlog-system", "meshlog-xds-edge", "meshlog-xds-edge-1") + "\n")
    monkeypatch.setattr("shared.identity.serving_certificate.renewal_delay", soon)
    async with certificate_authority(logs, authority=authority), requester(logs) as asking:
        serving = ServingCertificate(asking, token_path=file.path, spiffe_id=EDGE)
        async with tasks(serving.run()):
            server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=await serving.server_context())
            async with server:
                port = server.sockets[0].getsockname()[1]
                first = await shown(port, authority.certificate_pem)

                async def renewed() -> bool:
                    return await shown(port, authority.certificate_pem) != first

                await eventually(renewed, within=5, what="another certificate is shown")


async def test_a_missing_token_and_a_missing_ca_are_waited_out(file: TokenFile) -> None:
    logs, cluster = MemoryLogs(), Cluster()
    await write(logs.stream(Streams().events), cluster.bookstore())
    async with requester(logs) as asking:
        serving = ServingCertificate(asking, token_path=file.path, spiffe_id=EDGE, chance=lambda: 0.0)
        async with tasks(serving.run()):
            assert serving.current is None
            file.write(cluster.token("meshlog-system", "meshlog-xds-edge", "meshlog-xds-edge-1"))
            async with certificate_authority(logs), asyncio.timeout(10):
                assert (await serving.wait()).spiffe_id == EDGE


async def test_what_is_in_use_stays_in_use_while_the_ca_refuses(
    file: TokenFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logs, cluster = MemoryLogs(), Cluster()
    await write(logs.stream(Streams().events), cluster.bookstore())
    file.write(cluster.token("meshlog-system", "meshlog-xds-edge", "meshlog-xds-edge-1"))
    monkeypatch.setattr("shared.identity.serving_certificate.renewal_delay", soon)
    async with certificate_authority(logs), requester(logs) as asking:
        serving = ServingCertificate(asking, token_path=file.path, spiffe_id=EDGE)
        async with tasks(serving.run()):
            await serving.wait()
            file.write("nonsense")
            await eventually(lambda: "no certificate" in caplog.text, within=5, what="a renewal fails")
            assert serving.current is not None
            assert serving.current.spiffe_id == EDGE
