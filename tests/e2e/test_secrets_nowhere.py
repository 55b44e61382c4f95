"""After a rotation, kills and traffic: no private key and no usable token is in anything that the mesh wrote or says.

Looked through: every record of every stream, and the log's files; every file of the state directory, processes' logs
among them; edges' own disks; metrics and health of every service; what each Envoy's administration says; what the
command prints. The one home of the CA's keys (the API's own store of Secrets) and the user's kubeconfig are left out.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cli.embedded import lifecycle
from cli.embedded.pod_commands import PodCommand
from services.ca.keys.authority import StoredAuthority
from shared.eventlog.protocol import Draft
from shared.records.certificate_records import AuditNote, encode
from shared.records.subjects import Streams
from shared.streams.jetstream import JetStreamLogs
from tests.e2e.bookstore import LOAD, PODS, Scene, none_failed
from tests.e2e.command import Command
from tests.e2e.secret_search import SecretSearch

pytestmark = [pytest.mark.long, pytest.mark.devcluster, pytest.mark.envoy, pytest.mark.nats, pytest.mark.timeout(600)]

TOKENS = """
import base64, json, os, pathlib
found = {}
for folder, _, names in os.walk("/var/run/secrets"):
    for name in names:
        path = pathlib.Path(folder, name)
        if name == "token":
            found[str(path)] = path.read_text()
print(json.dumps(found))
"""
DISK = """
import base64, json, pathlib
files = [path for path in pathlib.Path("/var/lib/meshlog").rglob("*") if path.is_file()]
print(json.dumps({str(path): base64.b64encode(path.read_bytes()).decode() for path in files}))
"""
PAGES = """
import json, sys, urllib.request
said = {}
for url in sys.argv[1:]:
    with urllib.request.urlopen(url) as answer:
        said[url] = answer.read().decode("utf-8", "replace")
print(json.dumps(said))
"""
ADMIN = [
    f"http://127.0.0.1:15000/{page}" for page in ("stats", "certs", "clusters", "config_dump?include_eds", "listeners")
]
HTTP = [f"http://127.0.0.1:9091/{page}" for page in ("metrics", "healthz", "readyz")]


async def run_python(scene: Scene, namespace: str, pod: str, script: str, *arguments: str, container: str = "") -> str:
    argv = ["python", "-c", script, *arguments]
    command = await PodCommand.start(scene.state, namespace, pod, argv, container=container)
    return (await command.finish(within=60)).splitlines()[-1]


async def everything_known(scene: Scene) -> SecretSearch:
    """A search for the CA's keys and for every token that a pod holds."""
    search = SecretSearch()
    secret = await scene.mesh.api.get("/api/v1/namespaces/meshlog-system/secrets/meshlog-ca")
    assert set(secret["data"]) == {"authority.json", "root-2.json"}
    for entry, encoded in secret["data"].items():
        stored = json.loads(base64.b64decode(encoded))
        assert stored.keys() <= set(StoredAuthority.__struct_fields__)
        key = load_pem_private_key(stored["key"].encode(), None)
        assert isinstance(key, EllipticCurvePrivateKey)
        search.key(f"the key of {entry}", key.private_numbers().private_value.to_bytes(32, "big"))
        for sealing in stored["sealing_keys"]:
            search.key(f"the sealing key of {entry}", base64.b64decode(sealing))
    found = 0
    for pod in (await scene.mesh.api.get("/api/v1/pods"))["items"]:
        namespace, name, spec = pod["metadata"]["namespace"], pod["metadata"]["name"], pod["spec"]
        containers = [one["name"] for one in [*spec["containers"], *spec.get("initContainers", ())]]
        for container in containers:
            if container in {"envoy", "ca", "ingestor", "xds-edge", "injector"}:
                tokens = json.loads(await run_python(scene, namespace, name, TOKENS, container=container))
                for path, token in tokens.items():
                    search.token(f"the token of {namespace}/{name} {path}", token)
                    found += 1
    # Six sidecars, the CA, the ingestor, two edges, an injector: one token each at least.
    assert found >= 11, found
    return search


def files(state: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(state.rglob("*")):
        place = path.relative_to(state)
        if path.is_file() and place.parts[:2] != ("kept", "secrets") and place.name != "kubeconfig":
            yield str(place), path.read_bytes()


async def records(state: Path) -> list[tuple[str, bytes]]:
    streams = Streams()
    logs = JetStreamLogs.connect(lifecycle.log_access(lifecycle.running(), name="search"), streams)
    found: list[tuple[str, bytes]] = []
    try:
        for name in (streams.events, streams.snapshots, streams.keyframes, streams.csrs, streams.certs, streams.status):
            # One by one: the work queue can be read in no other way without taking from it.
            log = await logs.open(name)
            sequence, last = await log.bounds()
            while sequence <= last and (record := await log.at(sequence)) is not None:
                content = record.payload + json.dumps(dict(record.headers)).encode()
                found.append((f"{name} {record.sequence} {record.subject}", content))
                sequence = record.sequence + 1
    finally:
        await logs.close()
    assert {place.split()[0] for place, _ in found} >= {
        streams.events,
        streams.snapshots,
        streams.certs,
        streams.status,
    }
    return found


async def pages(scene: Scene) -> list[tuple[str, bytes]]:
    """What the services and the Envoys say to whoever may ask them, and what is on edges' disks."""
    found: list[tuple[str, bytes]] = []
    listing = await scene.mesh.api.get("/api/v1/namespaces/meshlog-system/pods")
    for pod in listing["items"]:
        name = pod["metadata"]["name"]
        if not name.startswith("meshlog-"):
            continue
        said = json.loads(await run_python(scene, "meshlog-system", name, PAGES, *HTTP))
        found += [(f"{name} {url}", text.encode()) for url, text in said.items()]
        if name.startswith("meshlog-xds-edge"):
            disk = json.loads(await run_python(scene, "meshlog-system", name, DISK))
            assert disk, "an edge keeps its last good snapshot"
            found += [(f"{name} {path}", base64.b64decode(content)) for path, content in disk.items()]
    for namespace, app in PODS:
        name = (await scene.mesh.pod(namespace, app))["metadata"]["name"]
        said = json.loads(await run_python(scene, namespace, name, PAGES, *ADMIN))
        found += [(f"{name} {url}", text.encode()) for url, text in said.items()]
    return found


def prints(state: Path) -> list[tuple[str, bytes]]:
    meshlog = Command(state)
    verbs = (["certificate", "list"], ["certificate", "audit", "-n", "500"], ["status"], ["proxies"], ["log"])
    found: list[tuple[str, bytes]] = []
    for verb in verbs:
        done = meshlog(*verb)
        found.append((" ".join(verb), (done.stdout + done.stderr).encode()))
    return found


async def test_no_private_key_and_no_usable_token_is_anywhere_after_a_rotation(scene: Scene) -> None:
    async with scene.load() as result:
        await scene.rotate()
        for service in ("meshlog-ca", "meshlog-xds-edge", "meshlog-ingestor"):
            await scene.kill(service)
        await asyncio.sleep(50)  # longer than a certificate lives: all are renewed once more, after the kills
    none_failed(result)
    search = await everything_known(scene)
    assert search.look_through(await records(scene.state)) == {}
    assert search.look_through(await pages(scene)) == {}
    assert search.look_through(await asyncio.to_thread(prints, scene.state)) == {}
    assert search.look_through(files(scene.state)) == {}

    # The same search finds what is planted: in a stream and its files, in a process's log.
    buyer = (await scene.mesh.pod("bookbuyer", "bookbuyer"))["metadata"]["name"]
    held = json.loads(await run_python(scene, "bookbuyer", buyer, TOKENS, container="envoy"))
    token = next(iter(held.values()))
    note = AuditNote(what="refused", code="planted", why=token)
    await scene.desk.certs.publish(Draft(scene.desk.streams.audit_subject("refused"), encode(note)))
    said = await scene.run_in("bookbuyer", buyer, [*LOAD, "http://127.0.0.1:15000/ready", "--requests", "1"])
    assert json.loads(said.splitlines()[-1])["ok"] == 1
    (scene.state / "logs" / "planted.log").write_text(f"authorization: Bearer {token}\n")
    in_streams = search.look_through(await records(scene.state))
    assert [place.split()[0] for place in in_streams] == ["MESH_CERTS"]
    in_files = search.look_through(files(scene.state))
    assert "logs/planted.log" in in_files
    assert any("MESH_CERTS" in place for place in in_files)
    assert all(any("token of bookbuyer" in name for name in names) for names in in_files.values())
