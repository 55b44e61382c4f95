"""A verb's timeout bounds all of it, and what the log refuses is told without the subject that was asked."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import ModuleType

import pytest

from cli.__main__ import main
from cli.catalogue import VERBS
from cli.terminal import deadline
from shared.errors import MeshlogError
from shared.eventlog.protocol import LogUnavailableError


def test_a_verb_that_waits_for_ever_ends_with_124_and_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    async def work(_: deadline.Deadline) -> int:
        await asyncio.get_running_loop().create_future()
        return 0

    began = time.monotonic()
    assert deadline.run(work, 0.1) == 124
    assert time.monotonic() - began < 5
    assert "not known after 0.1 s: the log is slow, or does not answer" in capsys.readouterr().err


def test_what_does_not_await_is_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    """As a credential plugin of a kubeconfig, or a long compile."""

    async def work(_: deadline.Deadline) -> int:
        subprocess.run(["sleep", "60"], check=True)  # noqa: ASYNC221 (what the deadline has to end)
        return 0

    began = time.monotonic()
    assert deadline.run(work, 0.1) == 124
    assert time.monotonic() - began < 20
    assert "not known after 0.1 s" in capsys.readouterr().err


def test_a_thread_that_does_not_end_is_not_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    """As a name that a silent server is asked for: a look-up cannot be cancelled."""
    answered = threading.Event()

    async def work(_: deadline.Deadline) -> int:
        await asyncio.to_thread(answered.wait)
        return 0

    try:
        began = time.monotonic()
        assert deadline.run(work, 0.1, of="the Kubernetes API") == 124
        assert time.monotonic() - began < 20
    finally:
        answered.set()
    assert "the Kubernetes API is slow, or does not answer" in capsys.readouterr().err


def test_what_is_followed_is_not_bounded() -> None:
    async def work(limit: deadline.Deadline) -> int:
        limit.lift()
        await asyncio.sleep(0.3)
        return 7

    assert deadline.run(work, 0.05) == 7


def test_a_wait_that_gave_up_in_time_names_what_it_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    async def work(_: deadline.Deadline) -> int:
        raise MeshlogError("api/timeout", "meshlog-ca is not ready: not within 3 s")

    assert deadline.run(work, 3) == 124
    assert "meshlog-ca is not ready" in capsys.readouterr().err


def test_a_verb_that_knows_how_far_it_is_when_the_time_is_over_may_say_so() -> None:
    async def work(limit: deadline.Deadline) -> int:
        await asyncio.sleep(limit.left)
        return 1 if limit.left else 7

    assert deadline.run(work, 0.5) == 7


def test_no_subject_of_the_log_reaches_a_person(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Sequence[str]) -> int:
        raise LogUnavailableError("log/timeout", "no answer within 1 s", about="$JS.API.STREAM.INFO.MESH_EVENTS")

    module = ModuleType(VERBS["log"].module)
    module.main = fails  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, VERBS["log"].module, module)
    assert main(["log"]) == 1
    told = capsys.readouterr().err
    assert told == "meshlog: the log: no answer within 1 s; `meshlog status` says what is wrong\n"
