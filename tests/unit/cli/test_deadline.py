"""A verb's timeout bounds all of it, and what the log refuses is told without the subject that was asked."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from types import ModuleType

import pytest

from cli import deadline
from cli.__main__ import main
from cli.catalogue import VERBS
from shared.eventlog.protocol import LogUnavailableError


def test_a_verb_that_waits_for_ever_ends_with_124_and_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    async def work(_: deadline.Deadline) -> int:
        await asyncio.get_running_loop().create_future()
        return 0

    began = time.monotonic()
    assert deadline.run(work, 0.1) == 124
    assert time.monotonic() - began < 5
    assert "not known after 0.1 s: the log is slow, or does not answer" in capsys.readouterr().out


def test_a_verb_that_knows_how_far_it_is_when_the_time_is_over_may_say_so() -> None:
    async def work(limit: deadline.Deadline) -> int:
        await asyncio.sleep(limit.left)
        return 1 if limit.left else 7

    assert deadline.run(work, 0.1) == 7


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
