"""A mesh around one edge, in one process: the log in memory, a token issuer, a CA, and a compiler that does as told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import time
import uuid
from collections.abc import AsyncGenerator, Coroutine
from pathlib import Path
from typing import Any, Self

import grpc.aio
import jwt
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from services.xds_edge.edge import Edge
from services.xds_edge.settings import EdgeSettings
from shared import blob, events
from shared.certificates import SigningAnswer, TrustBundle, decode_request, encode
from shared.eventlog.memory import MemoryLogs
from shared.eventlog.protocol import Draft, Logs
from shared.model import TokenIssuer
from shared.sealing import Opener, binding, generate_sealing_key
from shared.snapshot import FORMAT, Commit, Proxy, Resource, Snapshot, ViewChange, encode_commit, resource_hash
from shared.spiffe import SpiffeId
from shared.status import ProxyStatus, decode_status
from shared.subjects import Streams
from tests.waiting import eventually

STREAMS = Streams()
CLUSTER = "devcluster"
EDGE_DNS = "meshlog-xds-edge.meshlog-system.svc"


def _b64(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()


class Issuer:
    """Signs service-account tokens as a Kubernetes API server does."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        point = self.key.public_key().public_numbers()
        jwk = {"kty": "EC", "crv": "P-256", "kid": "k1", "alg": "ES256", "x": _b64(point.x), "y": _b64(point.y)}
        self.published = TokenIssuer(issuer="https://issuer.test", jwks={"keys": [jwk]})

    def token(self, namespace: str, account: str, pod: str, uid: str, **claims: object) -> str:
        now = int(time.time())
        return jwt.encode(
            {
                "iss": self.published.issuer,
                "sub": f"system:serviceaccount:{namespace}:{account}",
                "aud": ["meshlog"],
                "iat": now,
                "nbf": now,
                "exp": now + 3600,
                "jti": uuid.uuid4().hex,
                "kubernetes.io": {
                    "namespace": namespace,
                    "serviceaccount": {"name": account, "uid": "sa-uid"},
                    "pod": {"name": pod, "uid": uid},
                },
                **claims,
            },
            self.key,
            algorithm="ES256",
            headers={"kid": "k1"},
        )


class TestCa:
    """Signs whatever its queue holds, believing the token."""

    __test__ = False

    def __init__(self, lifetime: float = 3600.0) -> None:
        self.lifetime = lifetime
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])
        now = dt.datetime.now(dt.UTC)
        self.root = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(sign=True), critical=True)
            .sign(self.key, SHA256())
        )
        self.opener = Opener([generate_sealing_key()])
        self.signed: list[str] = []
        self.tokens: list[str] = []

    @property
    def root_pem(self) -> str:
        return self.root.public_bytes(Encoding.PEM).decode()

    @property
    def bundle(self) -> TrustBundle:
        return TrustBundle(
            trust_domain="cluster.local", serial=1, roots=[self.root_pem], sealing_keys=self.opener.public_keys
        )

    async def run(self, logs: Logs) -> None:
        certs, csrs = await logs.open(STREAMS.certs), await logs.open(STREAMS.csrs)
        await certs.publish(Draft(subject=STREAMS.bundle_subject("cluster.local"), payload=encode(self.bundle)))
        async for job in csrs.take("ca"):
            request = decode_request(job.record.payload)
            self.tokens.append(
                self.opener.open(request.sealing_key, request.sealed_token, binding(request.csr)).decode()
            )
            chain, start, end = self.sign(x509.load_der_x509_csr(request.csr).public_key(), request.spiffe_id)
            self.signed.append(request.spiffe_id)
            answer = SigningAnswer(
                id=request.id,
                spiffe_id=request.spiffe_id,
                chain=[chain],
                serial="01",
                not_before=start,
                not_after=end,
                bundle_serial=1,
            )
            subject = STREAMS.issued_subject(request.requester, request.id)
            await certs.publish(Draft(subject=subject, payload=encode(answer)))
            await job.done()

    def sign(self, public: object, spiffe_id: str) -> tuple[str, int, int]:
        now = int(time.time())
        start, end = now - 120, int(now + self.lifetime)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(spiffe_id)]
        if spiffe_id.endswith("/sa/meshlog-xds-edge"):
            names += [x509.DNSName(EDGE_DNS), x509.DNSName("localhost")]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.root.subject)
            .public_key(public)  # pyright: ignore[reportArgumentType]
            .serial_number(x509.random_serial_number())
            .not_valid_before(dt.datetime.fromtimestamp(start, dt.UTC))
            .not_valid_after(dt.datetime.fromtimestamp(end, dt.UTC))
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .sign(self.key, SHA256())
        )
        return certificate.public_bytes(Encoding.PEM).decode(), start, end

    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=sign,
        encipher_only=False,
        decipher_only=False,
    )


class TestCompiler:
    """Publishes whole states as commits: each the difference to the one before."""

    __test__ = False

    def __init__(self, logs: Logs) -> None:
        self._logs = logs
        self.snapshot = Snapshot()
        self.version = 0
        self._alone = False

    async def publish(
        self,
        classes: dict[str, dict[str, dict[str, bytes]]],
        proxies: dict[str, tuple[str, str]],
        *,
        accounts: dict[str, str] | None = None,
    ) -> int:
        """`classes`: class → type → name → body; `proxies`: namespace/pod → (uid, class)."""
        self.version += 1
        resources: dict[tuple[str, str, str], Resource] = {}
        views: dict[str, dict[str, dict[str, str]]] = {}
        for name, types in classes.items():
            views[name] = {}
            for type_url, bodies in types.items():
                views[name][type_url] = {}
                for resource, body in bodies.items():
                    digest = resource_hash(type_url, body)
                    views[name][type_url][resource] = digest
                    resources[type_url, resource, digest] = Resource(
                        type_url=type_url, name=resource, hash=digest, body=body
                    )
        entries = {
            f"{CLUSTER}/{pod}": Proxy(
                cluster=CLUSTER,
                namespace=pod.split("/")[0],
                pod=pod.split("/")[1],
                uid=uid,
                service_account=(accounts or {}).get(pod, "default"),
                workload_class=workload_class,
            )
            for pod, (uid, workload_class) in proxies.items()
        }
        commit = self._difference(resources, views, entries)
        self.snapshot.apply(commit)
        await self._append(commit, epoch="commits-1")
        return self.version

    async def publish_alone(
        self, classes: dict[str, dict[str, dict[str, bytes]]], proxies: dict[str, tuple[str, str]]
    ) -> int:
        """The same as a commit with parent 0 that starts an epoch of commits."""
        self.snapshot = Snapshot()
        self._alone = True
        return await self.publish(classes, proxies)

    async def _append(self, commit: Commit, *, epoch: str) -> None:
        log = await self._logs.open(STREAMS.snapshots)
        tip = await log.tip(STREAMS.snapshot_subject)
        starts = self._alone or not tip.epoch
        self._alone = False
        await log.append(
            blob.split(encode_commit(commit), STREAMS.snapshot_subject, version=self.version),
            scope=STREAMS.snapshot_subject,
            after=tip,
            epoch=f"{epoch}-{self.version}" if starts else "",
        )

    async def keyframe(self) -> None:
        log = await self._logs.open(STREAMS.keyframes)
        tip = await log.tip(STREAMS.keyframe_subject)
        await log.append(
            blob.split(
                encode_commit(self.snapshot.keyframe()), STREAMS.keyframe_subject, version=self.snapshot.version
            ),
            scope=STREAMS.keyframe_subject,
            after=tip,
            epoch="" if tip.epoch else "keyframes-1",
        )

    def _difference(
        self,
        resources: dict[tuple[str, str, str], Resource],
        views: dict[str, dict[str, dict[str, str]]],
        proxies: dict[str, Proxy],
    ) -> Commit:
        held = self.snapshot
        changes: dict[str, ViewChange | None] = {}
        for name in sorted(views.keys() | held.views.keys()):
            if name not in views:
                changes[name] = None
                continue
            before, after = held.views.get(name, {}), views[name]
            put = {
                type_url: {n: d for n, d in names.items() if before.get(type_url, {}).get(n) != d}
                for type_url, names in after.items()
            }
            dropped = {
                type_url: sorted(n for n in names if n not in after.get(type_url, {}))
                for type_url, names in before.items()
            }
            change = ViewChange(
                put={t: n for t, n in put.items() if n}, dropped={t: n for t, n in dropped.items() if n}
            )
            if change.put or change.dropped or name not in held.views:
                changes[name] = change
        entries: dict[str, Proxy | None] = {k: p for k, p in proxies.items() if held.proxies.get(k) != p}
        entries |= dict.fromkeys(held.proxies.keys() - proxies.keys())
        return Commit(
            format=FORMAT,
            version=self.version,
            parent=held.version,
            epoch="events-1",
            build="test",
            resources=[r for key, r in resources.items() if key not in held.resources],
            retired=[key for key in held.resources if key not in resources],
            views=changes,
            proxies=entries,
        )


class World:
    """Everything around edges."""

    def __init__(self, directory: Path, logs: Logs | None = None, *, lifetime: float = 3600.0) -> None:
        self.directory = directory
        self.logs = logs or MemoryLogs()
        self.issuer = Issuer()
        self.ca = TestCa(lifetime)
        self.compiler = TestCompiler(self.logs)
        self._tasks: set[asyncio.Task[None]] = set()
        self._edges: list[Edge] = []
        self.token_file = directory / "edge-token"
        self.token_file.write_text(self.issuer.token("meshlog-system", "meshlog-xds-edge", "edge-0", "edge-uid"))

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        return task

    async def start(self) -> None:
        """A CA that signs, and an issuer that the log knows."""
        self.spawn(self.ca.run(self.logs), "ca")
        event = events.Event(
            schema=1,
            cluster=CLUSTER,
            kind="TokenIssuer",
            namespace="",
            name="cluster",
            uid="",
            resource_version="1",
            operation=events.APPLIED,
            object=events.encode_object(self.issuer.published),
        )
        log = await self.logs.open(STREAMS.events)
        await log.append(
            [Draft(subject=event.subject(STREAMS), payload=events.encode(event))],
            scope=STREAMS.cluster_scope(CLUSTER),
            after=await log.tip(STREAMS.cluster_scope(CLUSTER)),
            epoch="events-1",
        )

    async def edge(self, name: str = "edge-0", *, logs: Logs | None = None, **settings: object) -> Edge:
        """An edge that serves; with `port=0` by default on a free port."""
        given = {
            "host": "127.0.0.1",
            "port": 0,
            "state_dir": str(self.directory / name),
            "key_dir": str(self.directory / f"{name}-key"),
            "token_file": str(self.token_file),
            "drain": 0.1,
            **settings,
        }
        edge = Edge(msgspec.convert(given, EdgeSettings), instance=name)
        edge.load()
        own: set[asyncio.Task[None]] = set()

        def spawn(work: Coroutine[Any, Any, None], task_name: str) -> asyncio.Task[None]:
            task = self.spawn(work, f"{name}: {task_name}")
            own.add(task)
            return task

        edge.__dict__["tasks"] = own
        spawn(edge.attach(logs or self.logs, spawn), "attach")
        spawn(edge.confirm_or_trust_disk(), "confirm")
        await asyncio.wait_for(edge.listen(), 10)
        self._edges.append(edge)
        return edge

    async def stop_edge(self, edge: Edge) -> None:
        await edge.stop()
        self._edges.remove(edge)
        await _cancel(edge.__dict__["tasks"])

    async def kill_edge(self, edge: Edge) -> None:
        """As kill -9: nothing is said to anybody."""
        self._edges.remove(edge)
        await _cancel(edge.__dict__["tasks"])
        await edge.server.abandon()

    async def close(self) -> None:
        for edge in list(self._edges):
            await self.stop_edge(edge)
        await _cancel(self._tasks)

    async def status(self, pod: str) -> ProxyStatus:
        """The newest report about a proxy; fails with `LookupError` before the first."""
        namespace, name = pod.split("/")
        log = await self.logs.open(STREAMS.status)
        record = await log.last(STREAMS.status_subject(CLUSTER, namespace, name))
        if record is None:
            raise LookupError(pod)
        return decode_status(record.payload)

    async def acked(self, pod: str, version: int, *, within: float = 15.0) -> ProxyStatus:
        """Wait until a proxy has acknowledged a version."""

        async def probe() -> ProxyStatus | None:
            status = await self.status(pod)
            return status if status.connected and status.acked >= version else None

        found = await eventually(probe, within=within, what=f"{pod} acknowledges {version}")
        assert found is not None
        return found

    def client(self, edge: Edge, pod: str, uid: str, *, token: str = "", account: str = "default") -> Client:
        namespace, name = pod.split("/")
        return Client(self, edge.server.port, token or self.issuer.token(namespace, account, name, uid))


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Client:
    """A delta client over real TLS that does what the test says."""

    def __init__(self, world: World, port: int, token: str) -> None:
        credentials = grpc.ssl_channel_credentials(root_certificates=world.ca.root_pem.encode())
        self.channel = grpc.aio.secure_channel(
            f"127.0.0.1:{port}",
            credentials,
            options=[
                ("grpc.ssl_target_name_override", EDGE_DNS),
                ("grpc.max_receive_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
                # Its window stays as it is: what the test does not read stays with the server.
                ("grpc.http2.bdp_probe", 0),
            ],
        )
        method = self.channel.stream_stream(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
        )
        metadata = [("authorization", f"Bearer {token}")] if token != "none" else []
        self.call = method(metadata=metadata)
        self.held: dict[str, dict[str, str]] = {}
        self._reading: asyncio.Future[object] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.call.cancel()
        if self._reading is not None:
            self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await self.call.wait_for_connection()
        await self.channel.close()

    async def send(self, type_url: str, node_id: str = "", **fields: Any) -> None:
        request = DeltaDiscoveryRequest(type_url=type_url, **fields)
        if node_id:
            request.node.id = node_id
        await self.call.write(request.SerializeToString())

    async def receive(self, within: float = 10.0) -> DeltaDiscoveryResponse:
        # A read that is cancelled would end the call: it is kept for the next time instead.
        reading = self._reading or asyncio.ensure_future(self.call.read())
        self._reading = reading
        done, _ = await asyncio.wait([reading], timeout=within)
        if not done:
            raise TimeoutError
        self._reading = None
        payload = reading.result()
        if not isinstance(payload, bytes):
            raise EOFError(await self.call.code())  # noqa: TRY004 (grpc's mark of the end)
        response = DeltaDiscoveryResponse.FromString(payload)
        held = self.held.setdefault(response.type_url, {})
        for resource in response.resources:
            held[resource.name] = resource.version
        for name in response.removed_resources:
            held.pop(name, None)
        return response

    async def ack(self, response: DeltaDiscoveryResponse, error: str = "") -> None:
        request = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        if error:
            request.error_detail.code = 3
            request.error_detail.message = error
        await self.call.write(request.SerializeToString())

    async def code(self) -> grpc.StatusCode:
        """The status that the stream ended with."""
        return await asyncio.wait_for(self.call.code(), 10)


@contextlib.asynccontextmanager
async def world(directory: Path, logs: Logs | None = None, *, lifetime: float = 3600.0) -> AsyncGenerator[World]:
    """A started world."""
    made = World(directory, logs, lifetime=lifetime)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


def spiffe(pod: str, account: str = "default") -> str:
    return str(SpiffeId(trust_domain="cluster.local", namespace=pod.partition("/")[0], service_account=account))
