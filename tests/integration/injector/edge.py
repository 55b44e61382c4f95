"""A tiny edge for the bootstrap's tests: TLS and delta ADS; it records its requests. And an Envoy beside it."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.discovery.v3 import discovery_pb2
from grpc import aio

from services.injector.core.proxy_bootstrap import (
    BUNDLE_FILE,
    TOKEN_FILE,
    TOKEN_SOURCE_FILE,
    TRUST_SOURCE_FILE,
    token_source,
    trust_source,
)
from tests.programs import envoy_binary

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"


class Authority:
    """A throw-away CA."""

    def __init__(self, name: str = "test") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._certificate = self._sign(self._name, self._key.public_key())

    @property
    def pem(self) -> bytes:
        """The root."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, uri: str, *dns: str) -> tuple[bytes, bytes]:
        """Key and certificate for an identity (and names), PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.UniformResourceIdentifier(uri), *map(x509.DNSName, dns)]
        certificate = self._sign(x509.Name([]), key.public_key(), names)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return key.private_bytes(*form), certificate.public_bytes(serialization.Encoding.PEM)

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, names: Sequence[x509.GeneralName] = ()
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
        )
        issuer = self._key.public_key()
        usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment"), False)
        usage |= dict.fromkeys(("key_agreement", "encipher_only", "decipher_only"), False)
        builder = (
            builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
            .add_extension(
                x509.KeyUsage(digital_signature=bool(names), key_cert_sign=not names, crl_sign=not names, **usage),
                critical=True,
            )
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        return builder.sign(self._key, hashes.SHA256())


class Edge:
    """Answers every type with an empty response; `cut` ends all streams."""

    def __init__(self, key: bytes, certificate: bytes) -> None:
        self.tokens: list[str] = []
        self.nodes: list[str] = []
        self.clusters: list[str] = []
        self.port = 0
        self._cut = asyncio.Event()
        self._server = aio.server()
        handler = grpc.stream_stream_rpc_method_handler(self._serve)
        service, method = METHOD.strip("/").split("/")
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        self._credentials = grpc.ssl_server_credentials([(key, certificate)])

    async def __aenter__(self) -> Self:
        self.port = self._server.add_secure_port("127.0.0.1:0", self._credentials)
        await self._server.start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._server.stop(0)

    def cut(self) -> None:
        """End all streams, as an edge does that goes away."""
        self._cut.set()
        self._cut = asyncio.Event()

    async def _serve(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        metadata = dict(context.invocation_metadata())
        self.tokens.append(metadata.get("authorization", ""))
        cut = asyncio.ensure_future(self._cut.wait())
        answered: set[str] = set()
        iterator = aiter(requests)
        while True:
            reading = asyncio.ensure_future(anext(iterator))
            await asyncio.wait({reading, cut}, return_when=asyncio.FIRST_COMPLETED)
            if cut.done():
                reading.cancel()
                await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            request = discovery_pb2.DeltaDiscoveryRequest.FromString(await reading)
            if request.node.id:
                self.nodes.append(request.node.id)
                self.clusters.append(request.node.cluster)
            if request.type_url not in answered:
                answered.add(request.type_url)
                response = discovery_pb2.DeltaDiscoveryResponse(type_url=request.type_url, nonce=str(len(answered)))
                yield response.SerializeToString()


class Volume:
    """The projected volume, written and swapped as the kubelet does it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory
        self._generation = 0
        directory.mkdir()

    def write(self, *, token: str, bundle: bytes) -> None:
        """New contents, all at once: `..data` is a symbolic link that is replaced."""
        self._generation += 1
        generation = self.path / f"..{self._generation}"
        generation.mkdir()
        files: dict[str, bytes] = {
            TOKEN_FILE: token.encode(),
            BUNDLE_FILE: bundle,
            TOKEN_SOURCE_FILE: token_source(directory=str(self.path)).encode(),
            TRUST_SOURCE_FILE: trust_source(directory=str(self.path)).encode(),
        }
        for name, content in files.items():
            (generation / name).write_bytes(content)
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")
        temporary = self.path / "..data_tmp"
        temporary.symlink_to(generation.name)
        temporary.replace(self.path / "..data")


class Envoy:
    """A running Envoy; its log goes to a file."""

    def __init__(self, config: dict[str, Any], arguments: list[str], log: Path) -> None:
        self.log = log
        command = [envoy_binary(), "--config-yaml", json.dumps(config), *arguments]
        with log.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def status_of(url: str) -> int:
    """HTTP status of a GET; 0 without an answer."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 (the test's own)
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return 0


def text_of(url: str) -> str:
    """Body of a GET; empty without an answer."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 (the test's own)
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        error.close()
        return ""
    except OSError:
        return ""
