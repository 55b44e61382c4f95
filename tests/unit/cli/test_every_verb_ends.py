"""Every verb that asks a peer ends in time, whatever of it the peer leaves unanswered; those that ask none say why."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from cli.__main__ import main
from cli.catalogue import VERBS
from cli.embedded import lifecycle

_TIMEOUT = 0.1
_MARGIN = 5.0
"""Seconds beyond its timeout that a verb may take here: a machine that does much else is allowed for."""
_INFO = (
    b'INFO {"server_id":"x","version":"2.12.0","proto":1,"headers":true,"max_payload":1048576,'
    b'"jetstream":true,"host":"127.0.0.1","port":4222}\r\n'
)
_BEGINNING = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
ASKING: dict[str, list[list[str]]] = {
    "apply": [["-f", "{manifest}"], ["-f", "{manifest}", "--wait"]],
    "logs": [["shop/web"]],
    "status": [[], ["--log", "{log}"]],
    "proxies": [["--log", "{log}"]],
    "rollout": [["--last", "--log", "{log}"]],
    "log": [["--log", "{log}"], ["-f", "--log", "{log}"]],
    "show": [["HEAD", "--log", "{log}"]],
    "diff": [["HEAD~1", "HEAD", "--log", "{log}"]],
    "why": [["shop/web", "cluster/x", "--log", "{log}"]],
    "why-not": [["shop/web", "svc:shop/cart", "--log", "{log}"]],
    "bisect": [["--good", "1", "--bad", "HEAD", "--log", "{log}", "true"]],
    "plan": [["-f", "{manifest}", "--log", "{log}"]],
    "rollback": [["HEAD~1", "--log", "{log}"]],
    "unpin": [["--log", "{log}"]],
    "export": [["{folder}/exported", "--log", "{log}"]],
    "certificate": [["list"], ["show", "shop/web"], ["audit"], ["rotate"]],
    "install": [["--apply", "--kubeconfig", "{kubeconfig}"]],
    "upgrade": [["--kubeconfig", "{kubeconfig}"]],
    "uninstall": [["mesh", "-f", "--kubeconfig", "{kubeconfig}"]],
    "namespace": [
        ["add", "shop", "--kubeconfig", "{kubeconfig}"],
        ["remove", "shop", "--kubeconfig", "{kubeconfig}"],
        ["ignore", "shop", "--kubeconfig", "{kubeconfig}"],
        ["list", "--kubeconfig", "{kubeconfig}"],
    ],
    "verify": [
        ["control-plane", "--kubeconfig", "{kubeconfig}", "--log", "{log}"],
        ["connectivity", "--from-pod", "a/b", "--to-pod", "c/d", "--kubeconfig", "{kubeconfig}", "--log", "{log}"],
    ],
    "migrate": [["osm", "--kubeconfig", "{kubeconfig}"]],
    "mesh": [["list", "--kubeconfig", "{kubeconfig}"], ["upgrade", "--kubeconfig", "{kubeconfig}"]],
}
"""Of each verb that asks peers: arguments for each way in which it does."""
CALLS = [(verb, arguments) for verb, ways in ASKING.items() for arguments in ways]
_WITH_ACTIONS = {"certificate", "namespace", "verify", "mesh"}
FINDS = {"status", "verify control-plane"}
"""What a silent peer is a finding of: exit code 1, and the rest is told."""


def test_a_new_verb_says_how_long_it_may_take() -> None:
    """A verb has a row above, or the catalogue says why it cannot wait for a peer, or not be bounded."""
    assert set(ASKING) == {name for name, verb in VERBS.items() if not verb.unbounded}


@pytest.mark.parametrize("verb", [name for name in VERBS if name not in {"run", "sidecar-init"}])
def test_help_tells_the_timeout_of_those_that_have_one(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    actions = {arguments[0] for arguments in ASKING[verb]} if verb in _WITH_ACTIONS else {""}
    for action in actions:
        with pytest.raises(SystemExit):
            main([verb, *filter(None, [action]), "--help"])
        assert ("--timeout" in capsys.readouterr().out) == (not VERBS[verb].unbounded)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", "1e9"])
def test_a_timeout_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["proxies", "--timeout", text])
    assert ended.value.code == 2
    assert "is no time: write seconds" in capsys.readouterr().err


@contextlib.contextmanager
def _silent() -> Generator[int]:
    """The port of a peer that takes connections and says nothing: the kernel does, for as long as nobody accepts."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        yield server.getsockname()[1]


@contextlib.contextmanager
def _greeting(hello: bytes, again: dict[bytes, bytes]) -> Generator[int]:
    """The port of a peer that begins well: `hello` to each connection, and what is in `again` to what begins so."""
    held: list[socket.socket] = []

    def converse(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(hello)
            while heard := connection.recv(65536):
                for beginning, answer in again.items():
                    if beginning in heard:
                        connection.sendall(answer)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                held.append(server.accept()[0])
                threads.append(threading.Thread(target=converse, args=(held[-1],)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        threads = [threading.Thread(target=accept)]
        threads[0].start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            threads[0].join()
            for connection in held:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads[1:]:
                thread.join()
            for connection in held:
                connection.close()


@pytest.fixture(params=["silent", "beginning"])
def places(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What stands for a cluster and a log whose every connection is taken, and which never answer."""
    begins = request.param == "beginning"
    log = _greeting(_INFO, {b"PING": b"PONG\r\n"}) if begins else _silent()
    api = _greeting(b"", {b"HTTP/1.1\r\n": _BEGINNING}) if begins else _silent()
    with log as nats, api as server:
        kubeconfig = tmp_path / lifecycle.KUBECONFIG
        scheme = "http" if begins else "https"
        kubeconfig.write_text(
            f"{{contexts: [{{name: c, context: {{cluster: c, user: u}}}}], current-context: c, users: [{{name: u, "
            f"user: {{token: t}}}}], clusters: [{{name: c, cluster: {{server: '{scheme}://127.0.0.1:{server}'}}}}]}}"
        )
        manifest = tmp_path / "policy.yaml"
        manifest.write_text("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n")
        monkeypatch.setenv(lifecycle.STATE_VARIABLE, str(tmp_path))
        monkeypatch.setattr(
            lifecycle, "running", lambda: {"running": True, "listeners": {"nats": ("127.0.0.1", nats), "api": ("", 0)}}
        )
        yield {
            "log": f"nats://127.0.0.1:{nats}",
            "kubeconfig": str(kubeconfig),
            "manifest": str(manifest),
            "folder": str(tmp_path),
        }


def test_with_peers_that_do_not_answer_every_verb_ends_in_time_and_says_so(
    places: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with one sentence and 124; `status` and `verify control-plane` tell what they could see."""
    wrong: list[str] = []
    for verb, arguments in CALLS:
        argv = [verb, *(text.format_map(places) for text in arguments)]
        at = 2 if verb in _WITH_ACTIONS else 1
        argv[at:at] = ["--timeout", f"{_TIMEOUT}"]
        began = time.monotonic()
        code = main(argv)
        took = time.monotonic() - began
        told = capsys.readouterr()
        looks = " ".join(argv[:2] if verb == "verify" else argv[:1]) in FINDS
        said = f"{told.out}{told.err}"
        if took > _TIMEOUT + _MARGIN or code != (1 if looks else 124) or f"{_TIMEOUT:g} s" not in said:
            wrong.append(f"{argv}: {code} after {took:.1f} s: {said[-500:]}")
        if not looks and len(said.splitlines()) > 2:
            wrong.append(f"{argv}: more than its sentence: {said[-500:]}")
    assert not wrong, "\n".join(wrong)
