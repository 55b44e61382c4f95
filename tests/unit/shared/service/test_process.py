"""The process shell: how services end, and what they say about themselves meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.ports import free_port
from tests.waiting import eventually

PROGRAM = """
import asyncio, sys
from shared.service import process
from shared.errors import BadInputError, MeshlogError
from shared.service.settings import CommonSettings

class Settings(CommonSettings, frozen=True, kw_only=True):
    how: str = "wait"

async def fails(error):
    raise error

async def stubborn():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue

async def serve(context):
    how = context.settings.how
    context.metrics.counter("meshlog_things_total", "Things.").add(2)
    if how == "return":
        return
    if how == "crash":
        context.spawn(fails(RuntimeError("boom")), "part")
    if how == "expected":
        raise MeshlogError("x/y", "cannot go on", about="thing")
    if how == "input":
        raise BadInputError("x/y", "is no good", about="thing")
    if how == "stubborn":
        context.spawn(stubborn(), "stubborn")
    context.ready("log", how != "unready", "the log cannot be reached")
    if how == "deaf":
        await asyncio.Event().wait()
    await context.stopping.wait()
    if how == "slow":
        await asyncio.Event().wait()

sys.exit(process.main("thing", Settings, serve, sys.argv[1:]))
"""

Service = subprocess.Popen[str]


@pytest.fixture
def started() -> Iterator[list[Service]]:
    running: list[Service] = []
    yield running
    for service in running:
        service.kill()
        service.communicate()


def start(started: list[Service], *argv: str) -> Service:
    service = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), *argv],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    started.append(service)
    return service


def ended(service: Service) -> tuple[int, list[dict[str, Any]]]:
    _, text = service.communicate(timeout=20)
    return service.returncode, [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize(
    ("how", "code", "says"),
    [
        ("return", 0, "stopped"),
        ("crash", 1, "ended: boom"),
        ("expected", 1, "ended: thing: cannot go on"),
        ("input", 2, "ended: thing: is no good"),
    ],
)
def test_the_exit_code_tells_how_a_service_ended(started: list[Service], how: str, code: int, says: str) -> None:
    status, lines = ended(start(started, "--how", how, "--http-port=0"))
    assert status == code
    assert lines[-1]["message"] == says
    assert ("traceback" in lines[-1]) == (how == "crash")


def test_bad_settings_are_one_sentence(started: list[Service]) -> None:
    service = start(started, "--hwo=x")
    _, text = service.communicate(timeout=20)
    assert service.returncode == 2
    assert text == "meshlog run thing: --hwo: is no setting of meshlog run thing; did you mean --how?\n"


def test_a_port_in_use_is_bad_input(started: list[Service]) -> None:
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        status, lines = ended(start(started, f"--http-port={held.getsockname()[1]}"))
    assert status == 2
    assert "--http-port" in lines[-1]["message"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it_gracefully(started: list[Service], number: signal.Signals) -> None:
    port = free_port()
    service = start(started, f"--http-port={port}")
    await eventually(lambda: get(port, "/readyz")[0] == 200, within=15, what="the service is ready")
    assert get(port, "/healthz") == (200, "ok\n")
    assert "meshlog_things_total 2\n" in get(port, "/metrics")[1]
    service.send_signal(number)
    status, lines = ended(service)
    assert (status, [line["message"] for line in lines]) == (0, ["started", "stopping", "stopped"])


async def test_what_it_waits_for_is_named(started: list[Service]) -> None:
    port = free_port()
    start(started, "--how=unready", f"--http-port={port}")
    await eventually(lambda: "log" in get(port, "/readyz")[1], within=15, what="the condition is named")
    status, text = get(port, "/readyz")
    assert (status, json.loads(text)) == (503, {"ready": False, "why_not": {"log": "the log cannot be reached"}})


@pytest.mark.parametrize("how", ["deaf", "slow"])
async def test_a_service_that_does_not_stop_is_let_go_after_its_time(started: list[Service], how: str) -> None:
    port = free_port()
    service = start(started, f"--how={how}", "--stop-within=0.2", f"--http-port={port}")
    await eventually(lambda: get(port, "/readyz")[0] == 200, within=15, what="the service is ready")
    service.terminate()
    status, lines = ended(service)
    assert status == 0
    assert "took longer" in lines[-2]["message"]


async def test_a_stop_that_hangs_is_ended_by_the_watchdog(started: list[Service]) -> None:
    port = free_port()
    service = start(started, "--how=stubborn", "--stop-within=0.1", f"--http-port={port}")
    await eventually(lambda: get(port, "/readyz")[0] == 200, within=15, what="the service is ready")
    service.terminate()
    _, text = service.communicate(timeout=20)
    assert service.returncode == 1
    assert "the stop hangs" in text


async def test_a_second_signal_ends_it_at_once(started: list[Service]) -> None:
    port = free_port()
    service = start(started, "--how=slow", f"--http-port={port}")
    await eventually(lambda: get(port, "/readyz")[0] == 200, within=15, what="the service is ready")
    service.terminate()
    await eventually(lambda: get(port, "/readyz")[0] == 503, within=5, what="the stop has begun")
    service.terminate()
    assert ended(service)[0] == 128 + signal.SIGTERM


async def test_it_ends_with_the_process_that_started_it_if_told_so(started: list[Service]) -> None:
    port = free_port()
    parent = start_parent(started, port)
    await eventually(lambda: get(port, "/readyz")[0] == 200, within=15, what="the service is ready")
    parent.kill()
    await eventually(lambda: refused(port), within=5, what="the service ended with its parent")


def refused(port: int) -> bool:
    try:
        get(port, "/healthz")
    except OSError:
        return True
    return False


def start_parent(started: list[Service], port: int) -> Service:
    """A process that does nothing but run the service."""
    nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
    parent = subprocess.Popen(
        [sys.executable, "-c", nested, textwrap.dedent(PROGRAM), "--die-with-parent", f"--http-port={port}"],
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    started.append(parent)
    return parent
