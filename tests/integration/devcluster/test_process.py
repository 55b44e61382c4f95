"""The devcluster's process as a whole: how it starts, what it refuses, and how it ends."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
import yaml

from shared.errors import BadInputError
from tests.integration.devcluster.cluster import WITHIN, Cluster, pod, processes, service
from tests.waiting import eventually

pytestmark = pytest.mark.devcluster


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "line 2: this is no YAML"),
        ("- 1\n- 2\n", "no Kubernetes object"),
        ("apiVersion: v1\nkind: Nonsense\nmetadata: {name: x}\n", "Nonsense x"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{port: eighty}]}\n", "Service x"),
    ],
)
def test_a_manifest_that_cannot_be_applied_is_one_sentence_and_nothing_stays(
    tmp_path: Path, text: str, sentence: str
) -> None:
    manifest = tmp_path / "bad.yaml"
    manifest.write_text(text)
    with pytest.raises(BadInputError, match=sentence) as refused:
        Cluster.start(tmp_path / "state", "--manifest", str(manifest))
    assert str(manifest) in str(refused.value)
    assert processes(lambda line: str(tmp_path) in line) == []


async def test_it_starts_with_manifests_publishes_a_service_and_ends_gracefully(tmp_path: Path) -> None:
    """A container that is asked to end writes so; nothing of pods stays in the state directory."""
    kept = tmp_path / "kept"
    kept.mkdir()
    program = (
        "import http.server, pathlib, signal, sys\n"
        "def end(*_):\n    pathlib.Path('/kept/ended').touch(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "http.server.HTTPServer(('', 8080), http.server.SimpleHTTPRequestHandler).serve_forever()\n"
    )
    mount = {"volumeMounts": [{"name": "kept", "mountPath": "/kept"}]}
    volumes = [{"name": "kept", "hostPath": {"path": str(kept)}}]
    manifest = tmp_path / "web.yaml"
    server = pod("web", "python", "-c", program, container=mount, volumes=volumes)
    manifest.write_text(yaml.safe_dump_all([server, service("web", 80, 8080)]))
    cluster = Cluster.start(
        tmp_path / "state", "--manifest", str(manifest), "--publish", "web=default/web:80", listeners=["web"]
    )
    try:
        assert stat.S_IMODE(cluster.kubeconfig.stat().st_mode) == 0o600
        await cluster.until_ready("web")

        async def answers() -> bool:
            reader, writer = await asyncio.open_connection(*cluster.mesh.listeners["web"])
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            line = await reader.readline()
            writer.close()
            return b"200" in line

        await eventually(answers, within=WITHIN, what="the published Service answers on the host")
    finally:
        await asyncio.to_thread(cluster.mesh.stop)
    assert (kept / "ended").exists(), "SIGTERM reached the container"
    assert list((tmp_path / "state" / "pods").iterdir()) == []
    assert processes(lambda line: str(tmp_path) in line) == []
